"""Getting weights without a terminal, with a stand-in for the hub's client and real files."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from qtpy.QtCore import QMimeData, QPointF, QSettings, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QLineEdit, QMessageBox, QWidget

from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.gui.library.add_weights_dialog import AddWeightsDialog
from napari_spatial_ar.gui.library.weights_dialog import WeightsDialog
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.normative.backbones import weights
from napari_spatial_ar.normative.backbones.registry import BACKBONES, DEFAULT_BACKBONE, own_file
from napari_spatial_ar.paths import weights_dir
from tests.normative.backbones.test_own_backbones import NAME, random_model, save
from tests.tiny import TINY, random_state

TOKEN = "hf_secretofatest"
GATED, OPEN = BACKBONES[DEFAULT_BACKBONE].hub


class Hub:
    """Stands for the hub's client."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[tuple[str, Any]] = []
        self.kept: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.stored: set[str] = set()

    def snapshot_download(self, repository: str, **said: Any) -> str:
        if said.get("local_files_only"):
            if repository in self.stored:
                return str(self.folder)
            raise LocalEntryNotFoundError("nothing is cached")
        self.asked.append((repository, said["token"]))
        if repository in self.errors:
            raise self.errors[repository]
        with said["tqdm_class"](total=90_000_000, unit="B", unit_scale=True) as bar:
            bar.update(30_000_000)
            self.gate.wait(10)
            bar.update(60_000_000)
        (self.folder / "model.safetensors").touch()
        self.stored.add(repository)
        return str(self.folder)

    def login(self, *, token: str, skip_if_logged_in: bool) -> None:
        assert not skip_if_logged_in
        self.kept.append(token)


def refused(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response = SimpleNamespace(status_code=status, headers={}, text="", request=None)
    return kind("no", response=response)  # type: ignore[arg-type]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "login", made.login)
    return made


@pytest.fixture
def window(qtbot: Any) -> Iterator[QWidget]:
    made = QWidget()
    qtbot.addWidget(made)
    made.show()
    yield made
    pool().waitForDone(10_000)
    QApplication.processEvents()


@pytest.fixture
def news() -> Iterator[list[str]]:
    heard: list[str] = []
    model_access.weights_news.changed.connect(heard.append)
    yield heard
    model_access.weights_news.changed.disconnect(heard.append)


Click = Callable[[Any], None]


@pytest.fixture
def click(qtbot: Any) -> Click:
    return lambda made: qtbot.mouseClick(made, Qt.MouseButton.LeftButton)


def opened(window: QWidget, kind: type) -> Any:
    (made,) = window.findChildren(kind)
    return made


@pytest.fixture
def getting(window: QWidget, hub: Hub, qtbot: Any, click: Click) -> WeightsDialog:
    row = WeightsRow()
    row.setParent(window)
    row.mean(DEFAULT_BACKBONE)
    click(row.get_button)
    made: WeightsDialog = opened(window, WeightsDialog)
    qtbot.waitUntil(lambda: "MB" in made.size.text(), timeout=30_000)
    return made


def idle(made: Any) -> bool:
    return made._task is None


def test_licence_and_size_stand_there_before_anything_is_asked(
    getting: WeightsDialog, hub: Hub
) -> None:
    assert getting.backbone.currentText() == DEFAULT_BACKBONE
    assert "DINOv3 License" in getting.about.text()
    for repository in (GATED, OPEN):
        assert f'href="https://huggingface.co/{repository}"' in getting.about.text()
    assert getting.about.openExternalLinks()
    assert getting.size.text() == "about 86 MB"
    assert getting.token.echoMode() == QLineEdit.EchoMode.Password
    assert not getting._gated.isHidden()
    assert not getting.stop_button.isVisible()
    assert hub.asked == []
    getting.backbone.setCurrentText("dinov2_vits14")  # of which no token is asked
    assert getting._gated.isHidden()
    assert "Apache-2.0" in getting.about.text()


def test_what_arrives_is_told_and_every_dock_hears_of_it(
    getting: WeightsDialog, hub: Hub, qtbot: Any, click: Click, news: list[str], notes: list[str]
) -> None:
    hub.gate.clear()
    got: list[str] = []
    getting.got.connect(got.append)
    click(getting.get_button)
    qtbot.waitUntil(lambda: "30 MB of 90 MB" in getting.note.text(), timeout=10_000)
    assert (getting.progress.value(), getting.progress.maximum()) == (30_000, 90_000)
    assert not getting.get_button.isEnabled()
    with qtbot.waitSignal(getting.finished, timeout=10_000):
        hub.gate.set()
    assert news == got == [DEFAULT_BACKBONE]
    assert notes == [f"The weights of {DEFAULT_BACKBONE} are installed."]
    assert dict(model_access.backbone_names())[DEFAULT_BACKBONE]


@pytest.mark.parametrize("keep", [False, True])
def test_a_token_is_used_once_or_kept_by_the_hubs_own_client(
    getting: WeightsDialog,
    hub: Hub,
    qtbot: Any,
    click: Click,
    caplog: Any,
    keep: bool,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.errors[GATED] = refused(GatedRepoError, 403)
    getting.token.setText(TOKEN)
    getting.keep.setChecked(keep)
    with qtbot.waitSignal(getting.finished, timeout=10_000):
        click(getting.get_button)
    # What needs no token is not given one, nor one that the client has kept.
    assert hub.asked == [(GATED, TOKEN), (OPEN, False)]
    assert hub.kept == ([TOKEN] if keep else [])
    assert getting.token.text() == ""
    assert TOKEN not in caplog.text
    store = QSettings(
        QSettings.Format.IniFormat,
        QSettings.Scope.UserScope,
        "napari-spatial-ar",
        "napari-spatial-ar",
    )
    store.sync()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ((LocalEntryNotFoundError("offline"), None), "the hub cannot be reached"),
        (
            (refused(GatedRepoError, 403), LocalEntryNotFoundError("offline")),
            "its licence is not accepted yet, or there is no token",
        ),
        ((refused(HfHubHTTPError, 401), refused(HfHubHTTPError, 500)), "the token is not valid"),
        ((refused(HfHubHTTPError, 403), refused(HfHubHTTPError, 429)), "too many requests"),
        ((OSError(errno.ENOSPC, "No space left on device"), None), "the disk is full"),
        ((RuntimeError(TOKEN), RuntimeError(TOKEN)), "the hub's client failed with RuntimeError"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    getting: WeightsDialog,
    hub: Hub,
    qtbot: Any,
    click: Click,
    news: list[str],
    caplog: Any,
    errors: tuple[Exception, Exception | None],
    said: str,
) -> None:
    hub.errors = {name: e for name, e in zip((GATED, OPEN), errors, strict=True) if e is not None}
    click(getting.get_button)
    qtbot.waitUntil(lambda: idle(getting), timeout=10_000)
    text = getting.note.text()
    assert said in text
    assert "napari-spatial-ar weights" not in text  # no command
    assert "\n" not in text
    assert TOKEN not in text + caplog.text
    assert news == []
    assert getting.isVisible()
    assert getting.get_button.isEnabled()


@pytest.mark.parametrize("close", [False, True])
def test_it_can_be_stopped_and_closing_stops_it(
    getting: WeightsDialog, hub: Hub, qtbot: Any, click: Click, news: list[str], close: bool
) -> None:
    hub.gate.clear()
    click(getting.get_button)
    qtbot.waitUntil(lambda: "30 MB" in getting.note.text(), timeout=10_000)
    if close:
        getting.reject()
    else:
        click(getting.stop_button)
    hub.gate.set()
    if not close:
        qtbot.waitUntil(lambda: idle(getting), timeout=10_000)
        assert getting.note.text().startswith("Stopped.")
    assert pool().waitForDone(10_000)
    QApplication.processEvents()
    assert (news, hub.stored) == ([], set())
    assert hub.asked == [(GATED, None)]  # the next one is not tried


# ---------------------------------------------------------------------- files that are here


@pytest.fixture
def adding(window: QWidget, click: Click) -> Iterator[AddWeightsDialog]:
    row = WeightsRow()
    row.setParent(window)
    row.mean("")
    click(row.add_button)
    yield opened(window, AddWeightsDialog)
    for name in (NAME, TINY):
        own_file(name).unlink(missing_ok=True)


def test_a_folder_becomes_a_backbone_of_ones_own(
    adding: AddWeightsDialog, tmp_path: Path, qtbot: Any, click: Click, news: list[str]
) -> None:
    folder = save(random_model("dinov2"), tmp_path / NAME)
    assert not adding.add_button.isEnabled()
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(folder / "config.json"))])
    drop = (Qt.DropAction.CopyAction, mime, Qt.MouseButton.LeftButton)
    adding.dropEvent(QDropEvent(QPointF(), *drop, Qt.KeyboardModifier.NoModifier))
    assert (adding.backbone.currentData(), adding.name.text()) == ("", NAME)
    adding.licence.setText("MIT")
    with qtbot.waitSignal(adding.finished, timeout=20_000):
        click(adding.add_button)
    assert news == [NAME]
    spec = weights.spec_of(NAME)
    assert (spec.own, spec.licence) == (True, "MIT")
    assert dict(model_access.backbone_names())[NAME]


def test_what_files_do_not_say_is_asked(
    adding: AddWeightsDialog, tmp_path: Path, qtbot: Any, click: Click, notes: list[str]
) -> None:
    model = random_model("clip")
    folder = save(model, tmp_path / NAME)
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).unlink()
    adding.path.setText(str(folder / "model.safetensors"))
    asked = adding._asked
    assert all(field.isHidden() for field in asked.values())
    click(adding.add_button)
    qtbot.waitUntil(lambda: idle(adding), timeout=20_000)
    assert "do not state" in adding.note.text()
    assert not any(field.isHidden() for field in asked.values())
    adding.heads.setValue(2)
    adding.activation.setCurrentText("gelu")
    adding.mean.setText("half")
    adding.std.setText("0.5")
    click(adding.add_button)
    assert "'half' is not one number" in adding.note.text()
    adding.mean.setText("0.4, 0.5, 0.6")
    with qtbot.waitSignal(adding.finished, timeout=20_000):
        click(adding.add_button)
    spec = weights.spec_of(NAME)
    assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (0.5, 0.5, 0.5))
    assert (spec.config["num_attention_heads"], spec.config["hidden_act"]) == (2, "gelu")
    assert notes == [f"The backbone {NAME} is ready."]


def test_a_file_of_a_known_backbone_and_one_that_is_not(
    tiny_spec: Any,
    window: QWidget,
    tmp_path: Path,
    monkeypatch: Any,
    qtbot: Any,
    click: Click,
    news: list[str],
) -> None:
    from safetensors.torch import save_file

    made = AddWeightsDialog(TINY, window)
    made.open()
    path = tmp_path / "downloaded.safetensors"
    path.write_bytes(b"no weights")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a: (str(path), ""))
    click(made.file_button)
    assert made.backbone.currentData() == TINY  # as whoever opened it says
    assert made._own.isHidden()
    click(made.add_button)
    qtbot.waitUntil(lambda: idle(made), timeout=20_000)
    assert str(path) in made.note.text()
    assert news == []
    save_file(random_state(tiny_spec), path)
    with qtbot.waitSignal(made.finished, timeout=20_000):
        click(made.add_button)
    assert news == [TINY]
    assert (weights_dir() / f"{TINY}.safetensors").is_file()
    (weights_dir() / f"{TINY}.safetensors").unlink()


def test_a_name_that_is_taken_is_replaced_only_if_one_says_so(
    adding: AddWeightsDialog, tmp_path: Path, monkeypatch: Any, qtbot: Any, click: Click
) -> None:
    weights.add(save(random_model("vit"), tmp_path / "vit"), NAME)
    before = weights.spec_of(NAME).pinned_sha256
    adding.path.setText(str(save(random_model("dinov2"), tmp_path / NAME)))
    buttons = QMessageBox.StandardButton
    replies = [buttons.No, buttons.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *a: replies.pop(0))
    click(adding.add_button)
    qtbot.waitUntil(lambda: len(replies) == 1 and idle(adding), timeout=20_000)
    assert weights.spec_of(NAME).pinned_sha256 == before
    with qtbot.waitSignal(adding.finished, timeout=20_000):
        click(adding.add_button)
    assert weights.spec_of(NAME).pinned_sha256 != before


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/w/RAD DINO/model.safetensors", "rad-dino"),
        ("/w/models--microsoft--rad-dino/snapshots/0a/model.safetensors", "rad-dino"),
        ("/w/medvit.pth", "medvit"),
        ("/w/some_folder", "some_folder"),
    ],
)
def test_a_name_is_proposed(adding: AddWeightsDialog, path: str, name: str) -> None:
    adding.path.setText(path)
    assert adding.name.text() == name


def test_a_file_named_after_a_backbone_is_taken_for_it(adding: AddWeightsDialog) -> None:
    adding.path.setText(f"/w/{DEFAULT_BACKBONE}_pretrain_lvd1689m-08c60483.pth")
    assert adding.backbone.currentData() == DEFAULT_BACKBONE
