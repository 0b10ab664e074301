"""The dialog of models, used the way a person uses it."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog, QInputDialog, QMessageBox

from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.gui.library import actions
from napari_spatial_ar.gui.library.actions import CheckpointDialog
from napari_spatial_ar.gui.library.comparison_dialog import ComparisonDialog
from napari_spatial_ar.gui.library.dialog import LibraryDialog
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.training.dock import TrainingDock
from napari_spatial_ar.gui.widgets.forms import select_data
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.normative.model_file import MODEL_FILE, BackboneRef
from napari_spatial_ar.paths import user_models_dir
from tests.normative.test_model import build
from tests.normative.test_reference_checkpoint import save as save_checkpoint
from tests.normative.test_reference_checkpoint import theirs as reference_network
from tests.tiny import TINY

RELEASED = ["brain-flair", "brain-flair-change", "brain-flair-focus", "liver-ct"]

Answer = Callable[[str | None], list[str]]
Click = Callable[[Any], None]


@pytest.fixture
def folder(tiny_backbone: Backbone, tiny_weights: Path) -> Iterator[Path]:
    """The user's models, which can score: one with a card and a picture, one without."""
    root = user_models_dir()
    for name in ("mine", "other"):
        build(tiny_backbone).save(root / name)
    (root / "mine" / "README.md").write_text("# My card\n\n![losses](losses.png)\n")
    Image.new("RGB", (4000, 10), "red").save(root / "mine" / "losses.png")
    yield root
    shutil.rmtree(root)


@pytest.fixture
def wait(qtbot: Any) -> Callable[[LibraryDialog], None]:
    def until_idle(made: LibraryDialog) -> None:
        qtbot.waitUntil(lambda: not made.listing and not made.library.running, timeout=20_000)

    return until_idle


@pytest.fixture
def dialog(
    request: pytest.FixtureRequest, folder: Path, dock: Any, qtbot: Any, wait: Any
) -> LibraryDialog:
    """The dialog, opened from the Review dock of a viewer with a scan."""
    review = dock(window=getattr(request, "param", False))
    qtbot.mouseClick(review.library_button, Qt.MouseButton.LeftButton)
    made = review.window().findChild(LibraryDialog)
    wait(made)
    return made


@pytest.fixture
def click(dialog: LibraryDialog, qtbot: Any, wait: Any) -> Click:
    """Press a button, and wait until what it does is done."""

    def press(button: Any) -> None:
        assert button.isEnabled()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        wait(dialog)

    return press


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Give names to what is asked, in this order; None cancels. Gives back the questions."""

    def prepare(*names: str | None) -> list[str]:
        asked: list[str] = []
        left = iter(names)

        def get_text(parent: Any, title: str, label: str, text: str = "") -> tuple[str, bool]:
            asked.append(f"{label} [{text}]")
            name = next(left)
            return name or "", name is not None

        monkeypatch.setattr(QInputDialog, "getText", get_text)
        return asked

    return prepare


@pytest.fixture
def news(qtbot: Any) -> Iterator[list[int]]:
    """One entry each time that the docks are told."""
    heard: list[int] = []

    def hear() -> None:
        heard.append(1)

    model_access.model_events.changed.connect(hear)
    yield heard
    model_access.model_events.changed.disconnect(hear)


def names(dialog: LibraryDialog) -> list[str]:
    return [entry.name for entry in dialog.table.entries]


def line(dialog: LibraryDialog, name: str) -> list[str]:
    """Texts of a model's line, chosen by it."""
    assert dialog.table.choose(name)
    item = dialog.table.currentItem()
    return [item.text(column) for column in range(dialog.table.columnCount())]


def damage(folder: Path) -> None:
    file = folder / MODEL_FILE
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


# ---------------------------------------------------------------------- what is shown


def test_each_model_says_what_it_is(dialog: LibraryDialog) -> None:
    assert names(dialog) == ["mine", "other", *RELEASED]
    name, state, *facts, added = line(dialog, "mine")
    assert (name, state) == ("mine", "OK")
    assert facts[:2] == ["MRI", "spatial-ar"]
    assert facts[3:] == ["12 / 4", "1 patient"]
    assert added.startswith("20")
    assert "it can score" in dialog.details.state.text()
    assert line(dialog, RELEASED[0])[-1] == "released"
    assert not dialog.rename_button.isEnabled()
    assert not dialog.delete_button.isEnabled()
    assert "duplicate it" in " ".join(dialog.delete_button.toolTip().split())
    assert dialog.duplicate_button.isEnabled()


def test_the_card_is_shown_with_its_pictures(dialog: LibraryDialog) -> None:
    dialog.table.choose("mine")
    card = dialog.details.card
    assert "My card" in card.toPlainText()
    drawn = card.grab().toImage()
    red = [
        drawn.pixelColor(x, y).getRgb()[:3] == (255, 0, 0)
        for x in range(0, drawn.width(), 20)
        for y in range(drawn.height())
    ]
    assert any(red)
    dialog.table.choose("other")
    assert "no card" in card.toPlainText()
    assert "12 / 4" in card.toPlainText()


@pytest.mark.parametrize("dialog", [True], indirect=True, ids=["in a window"])
def test_a_dock_opens_one_dialog(dialog: LibraryDialog, qtbot: Any) -> None:
    window = dialog.parentWidget()
    review = window.findChild(ReviewDock)
    training = TrainingDock(review.viewer)
    review.viewer.window.add_dock_widget(training, name="Training")
    for button in (review.library_button, training.library_button):
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert window.findChildren(LibraryDialog) == [dialog]


def test_a_damaged_model_is_found(
    dialog: LibraryDialog, folder: Path, click: Click, wait: Any
) -> None:
    dialog.table.choose("mine")
    damage(folder / "mine")
    click(dialog.check_button)
    assert line(dialog, "mine")[:2] == ["mine", "Damaged"]
    said = dialog.details.state.text()
    assert "does not match its sha256" in said
    assert "Delete it, and import it again" in said
    assert not dialog.export_button.isEnabled()
    (folder / "other" / MODEL_FILE).write_text("no model")
    dialog.refresh()
    wait(dialog)
    assert line(dialog, "mine")[1] == "Damaged"
    assert line(dialog, "other") == ["other", "Damaged", *[""] * 5, line(dialog, "other")[-1]]
    click(dialog.delete_button)
    assert "other" not in names(dialog)


def test_what_another_backbone_or_version_needs(
    dialog: LibraryDialog, folder: Path, tiny_backbone: Backbone, wait: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        model_access, "weights_hint", lambda name, header: model_access.weights_missing(name)
    )
    sha256 = tiny_backbone.sha256
    build(tiny_backbone, backbone=BackboneRef("dinov3_vitl16", (), sha256)).save(folder / "large")
    build(tiny_backbone, format_version=99).save(folder / "newer")
    dialog.refresh()
    wait(dialog)
    assert line(dialog, "large")[1] == "Needs weights"
    # How is a matter of the buttons, not of commands.
    said = "Needs weights. The weights of dinov3_vitl16 are not on this machine."
    assert dialog.details.state.text() == said
    assert not dialog.details.weights.isHidden()
    assert line(dialog, "newer")[1] == "Other version"
    assert dialog.details.weights.isHidden()
    assert "Update napari-spatial-ar" in dialog.details.state.text()


# ---------------------------------------------------------------------- what is done


def test_rename(
    dialog: LibraryDialog, folder: Path, click: Click, answer: Answer, news: list[int]
) -> None:
    dialog.table.choose("other")
    asked = answer("other-brains")
    click(dialog.rename_button)
    assert asked == ["New name of other: [other]"]
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "other-brains"]
    assert dialog.table.entry.name == "other-brains"
    assert dialog.note.text() == "other is now named other-brains."
    assert len(news) == 1


def test_a_name_that_is_taken_is_asked_again(
    dialog: LibraryDialog, folder: Path, click: Click, answer: Answer, news: list[int], qtbot: Any
) -> None:
    dialog.table.choose("other")
    asked = answer("mine", "second")
    click(dialog.rename_button)
    assert asked[1] == "A model named mine already exists. Another name: [mine-2]"
    assert names(dialog) == ["mine", "second", *RELEASED]
    answer("mine", None)
    click(dialog.rename_button)
    assert names(dialog) == ["mine", "second", *RELEASED]
    assert len(news) == 1


def review_of(dialog: LibraryDialog) -> ReviewDock:
    """The dock that opened it."""
    review = dialog.parentWidget()
    assert isinstance(review, ReviewDock)
    return review


def test_the_review_dock_follows_a_new_name(
    dialog: LibraryDialog, click: Click, answer: Answer, models: dict[str, Any], qtbot: Any
) -> None:
    review = review_of(dialog)
    models["other"] = models["fake"]
    model_access.model_events.changed.emit()
    review.models.choose("other")
    models["new"] = models.pop("other")
    dialog.table.choose("other")
    answer("new")
    click(dialog.rename_button)
    assert review.models.info.name == "new"


def test_duplicate(dialog: LibraryDialog, folder: Path, click: Click, answer: Answer) -> None:
    dialog.table.choose("mine")
    asked = answer("copy")
    click(dialog.duplicate_button)
    assert asked == ["Name of the copy of mine: [mine-copy]"]
    assert names(dialog) == ["copy", "mine", "other", *RELEASED]
    assert {path.name for path in (folder / "copy").iterdir()} == {
        MODEL_FILE,
        "README.md",
        "losses.png",
    }
    dialog.table.choose(RELEASED[1])
    answer("brains")
    click(dialog.duplicate_button)
    assert dialog.table.entry.name == "brains"
    assert dialog.delete_button.isEnabled()


def test_delete_and_undo(
    dialog: LibraryDialog, folder: Path, click: Click, news: list[int], qtbot: Any, wait: Any
) -> None:
    assert dialog.undo_button.isHidden()
    dialog.table.choose("mine")
    qtbot.keyClick(dialog.table, Qt.Key.Key_Delete)
    wait(dialog)
    assert names(dialog) == ["other", *RELEASED]
    assert not (folder / "mine").exists()
    assert dialog.table.entry.name == "other"
    click(dialog.undo_button)
    assert names(dialog) == ["mine", "other", *RELEASED]
    assert (folder / "mine" / "losses.png").exists()
    assert dialog.undo_button.isHidden()
    assert len(news) == 2


def test_deleted_models_are_listed_and_come_back(
    dialog: LibraryDialog, folder: Path, click: Click, answer: Answer, wait: Any
) -> None:
    menu = dialog.trash_button.menu()
    menu.aboutToShow.emit()
    assert [(a.text(), a.isEnabled()) for a in menu.actions()] == [("The trash is empty", False)]
    for name in ("mine", "other"):
        dialog.table.choose(name)
        click(dialog.delete_button)
    menu.aboutToShow.emit()
    assert [action.text() for action in menu.actions()] == ["other", "mine"]
    menu.actions()[1].trigger()
    wait(dialog)
    assert dialog.table.entry.name == "mine"
    assert not dialog.undo_button.isHidden()
    shutil.copytree(folder / "mine", folder / "other")
    answer("other-again")
    click(dialog.undo_button)
    assert names(dialog) == ["mine", "other", "other-again", *RELEASED]


@pytest.mark.parametrize("pictures", ["Yes", "No", "Cancel"])
def test_out_and_in_again(
    pictures: str,
    dialog: LibraryDialog,
    folder: Path,
    click: Click,
    answer: Answer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "handed-on.zip"
    pressed = getattr(QMessageBox.StandardButton, pictures)
    monkeypatch.setattr(QMessageBox, "question", lambda *a: pressed)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(path), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a: (str(path), ""))
    dialog.table.choose("mine")
    before = (folder / "mine" / MODEL_FILE).read_bytes()
    click(dialog.export_button)
    assert path.exists() == (pictures != "Cancel")
    if pictures == "Cancel":
        return
    assert dialog.note.text() == f"Exported as {path}."
    answer("back")
    click(dialog.import_button)
    assert dialog.table.entry.name == "back"
    assert (folder / "back" / MODEL_FILE).read_bytes() == before
    assert (folder / "back" / "losses.png").exists() == (pictures == "Yes")
    assert dialog.details.card.toPlainText().startswith("My card")


def test_what_is_no_model_does_not_come_in(
    dialog: LibraryDialog,
    click: Click,
    tmp_path: Path,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a: (str(path), ""))
    click(dialog.import_button)
    assert names(dialog) == ["mine", "other", *RELEASED]
    assert "Give the folder that 'fit' wrote" in dialog.note.text()
    assert notes == [dialog.note.text()]
    checkpoint = tmp_path / "theirs.pth"
    checkpoint.write_bytes(path.read_bytes())
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a: (str(checkpoint), ""))
    click(dialog.import_button)
    assert "not a complete checkpoint of plain tensors" in dialog.note.text()


@pytest.fixture
def ask(
    dialog: LibraryDialog, click: Click, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> Callable[[Path], CheckpointDialog]:
    """Choose a checkpoint, and give the dialog that asks about it."""

    def choose(path: Path) -> CheckpointDialog:
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a: (str(path), ""))
        click(dialog.import_button)
        (made,) = dialog.findChildren(CheckpointDialog)
        qtbot.waitUntil(made.isVisible)
        return made

    return choose


def test_a_checkpoint_of_the_authors_is_asked_about(
    dialog: LibraryDialog, ask: Any, wait: Any, qtbot: Any, tmp_path: Path
) -> None:
    path = save_checkpoint(
        tmp_path / "model_best.pth", reference_network("bidirectional", [1, 2, 4, 8]), img_size=160
    )
    made = ask(path)
    # What the file says is there, and cannot be changed.
    assert (made.size.value(), made.size.isEnabled()) == (160, False)
    assert (made.context.currentText(), made.context.isEnabled()) == ("Bidirectional", False)
    assert [made.backbone.itemData(n) for n in range(made.backbone.count())] == ["", TINY]
    # What it does not say is not assumed.
    said = []
    for box, value in ((made.modality, "ct"), (made.backbone, TINY)):
        said.append(made.note.text())
        assert not made.import_button.isEnabled()
        assert select_data(box, value)
    for text in ("", "1-2", "1-2-4-8"):
        assert not made.import_button.isEnabled()
        made.dilations.setText(text)
        said.append(made.note.text())
    assert "modality" in said[0]
    assert "backbone" in said[1]
    assert "are no dilations" in said[2]
    assert "2 dilations (1-2) do not fit 5 convolutions" in said[3]
    assert said[4] == ""
    qtbot.mouseClick(made.import_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "model_best" in names(dialog), timeout=20_000)
    wait(dialog)
    header = load_model("model_best", device="cpu").header
    assert (header.modality, header.parameters["dilation"]) == ("ct", [1, 2, 4, 8, 8])


def test_a_name_that_a_checkpoint_cannot_have_is_asked_again(
    dialog: LibraryDialog, ask: Any, answer: Answer, wait: Any, qtbot: Any, tmp_path: Path
) -> None:
    name = f"{TINY}_brats_causal_ks3_dil4x4x4x4_seed42_ep40_img448_20260101-120000"
    path = save_checkpoint(tmp_path / name / "ckpt" / "mine.pth", reference_network(), img_size=...)
    asked = answer("theirs")
    settings.remember("checkpoint/modality", "mri")
    settings.remember("checkpoint/backbone", TINY)
    made = ask(path)
    assert (made.name.text(), made.modality.currentData()) == ("mine", "mri")
    assert (made.backbone.currentData(), made.dilations.text()) == (TINY, "4-4-4-4")
    assert "size that images were resized to" in made.note.text()
    made.size.setValue(100)
    assert "100 pixels is no multiple of the patch size" in made.note.text()
    made.size.setValue(64)
    qtbot.mouseClick(made.import_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "theirs" in names(dialog), timeout=20_000)
    wait(dialog)
    assert asked == ["A model named mine already exists. Another name: [mine-2]"]
    assert line(dialog, "theirs")[0] == "theirs"
    header = load_model("theirs", device="cpu").header
    assert (header.modality, header.preprocessing.size) == ("mri", (64, 64))
    assert header.parameters["dilation"] == 4
    # It is remembered, also the size, for a file that does not say it.
    assert settings.recall("checkpoint/dilations", "") == "4-4-4-4"
    assert settings.recall("checkpoint/size", 0) == 64


def test_a_checkpoint_that_is_not_taken_in_leaves_nothing(
    dialog: LibraryDialog, ask: Any, tmp_path: Path
) -> None:
    made = ask(save_checkpoint(tmp_path / "best.pth", reference_network()))
    made.reject()
    assert not dialog.library.running
    assert names(dialog) == ["mine", "other", *RELEASED]


# ---------------------------------------------------------------------- comparison


@pytest.fixture
def comparison(dialog: LibraryDialog, click: Click) -> ComparisonDialog:
    dialog.table.choose("other")
    click(dialog.compare_button)
    return dialog.findChild(ComparisonDialog)


def test_two_models_are_compared_on_the_open_scan(
    comparison: ComparisonDialog, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (comparison.first.currentText(), comparison.second.currentText()) == ("other", "mine")
    assert "MR series 4" in comparison.scan_note.text()
    assert not comparison.save_button.isEnabled()
    qtbot.mouseClick(comparison.compare_button, Qt.MouseButton.LeftButton)
    assert not comparison.compare_button.isEnabled()
    qtbot.waitUntil(lambda: not comparison.running, timeout=20_000)
    # The two models are the same.
    assert ": 1.00." in comparison.note.text()
    shown = comparison.picture.pixmap()
    path = tmp_path / "picture"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(path), ""))
    qtbot.mouseClick(comparison.save_button, Qt.MouseButton.LeftButton)
    saved = Image.open(io.BytesIO(path.with_suffix(".png").read_bytes()))
    assert saved.size == (shown.width(), shown.height())
    assert np.asarray(saved).std() > 10


def test_what_cannot_be_compared_cannot_be_pressed(comparison: ComparisonDialog) -> None:
    assert comparison.compare_button.isEnabled()
    comparison.second.setCurrentText("other")
    assert not comparison.compare_button.isEnabled()
    comparison.second.setCurrentText("mine")
    viewer = review_of(comparison.parentWidget()).viewer
    viewer.layers.clear()
    assert not comparison.compare_button.isEnabled()
    assert "open one in the Review dock" in comparison.scan_note.text()


def test_a_model_that_broke_meanwhile_is_told(
    comparison: ComparisonDialog, folder: Path, qtbot: Any, notes: list[str]
) -> None:
    damage(folder / "mine")
    qtbot.mouseClick(comparison.compare_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not comparison.running, timeout=20_000)
    assert "does not match its sha256" in comparison.note.text()
    assert len(notes) == 1
    assert comparison.compare_button.isEnabled()


@pytest.fixture
def slow_scoring(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Scoring takes some seconds; the event is set once it has begun."""
    begun = threading.Event()
    original = NormativeModel.iter_volume

    def slow(self: Any, volume: Any, slices: Any = None) -> Iterator[Any]:
        for _ in range(200):
            for found in original(self, volume, [6]):
                begun.set()
                time.sleep(0.02)
                yield found

    monkeypatch.setattr(NormativeModel, "iter_volume", slow)
    return begun


def test_a_comparison_is_cancelled(
    comparison: ComparisonDialog, slow_scoring: threading.Event, qtbot: Any
) -> None:
    qtbot.mouseClick(comparison.compare_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "Scoring with other" in comparison.note.text(), timeout=20_000)
    qtbot.mouseClick(comparison.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not comparison.running, timeout=5000)
    assert comparison.note.text() == "Stopped."
    assert comparison.compare_button.isEnabled()


@pytest.mark.parametrize("closed", ["comparison", "models"])
def test_closing_a_dialog_ends_its_comparison(
    closed: str,
    dialog: LibraryDialog,
    comparison: ComparisonDialog,
    slow_scoring: threading.Event,
    qtbot: Any,
) -> None:
    window = dialog.parentWidget()
    qtbot.mouseClick(comparison.compare_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(slow_scoring.is_set, timeout=20_000)
    (comparison if closed == "comparison" else dialog).close()
    qtbot.waitUntil(lambda: window.findChild(ComparisonDialog) is None, timeout=3000)
    qtbot.waitUntil(lambda: pool().activeThreadCount() == 0, timeout=3000)
    assert (window.findChild(LibraryDialog) is None) == (closed == "models")


def test_a_model_is_calibrated_on_a_folder(
    dialog: LibraryDialog,
    folder: Path,
    click: Click,
    news: list[int],
    normal_slices: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(normal_slices))
    dialog.table.choose("mine")
    assert not dialog.stop_button.isVisible()
    click(dialog.calibrate_button)
    calibration = load_model(folder / "mine", device="cpu").header.calibration
    assert calibration is not None
    assert (calibration.slices, calibration.patients) == (12, 4)
    assert dialog.note.text() == "mine is calibrated on these scans."
    assert news == [1]


def test_calibrating_is_stopped_and_changes_nothing(
    dialog: LibraryDialog,
    folder: Path,
    wait: Any,
    normal_slices: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = (folder / "mine" / MODEL_FILE).read_bytes()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(normal_slices))
    dialog.table.choose("mine")
    qtbot.mouseClick(dialog.calibrate_button, Qt.MouseButton.LeftButton)
    assert dialog.stop_button.isVisible()
    qtbot.mouseClick(dialog.stop_button, Qt.MouseButton.LeftButton)
    wait(dialog)
    assert dialog.note.text() == "Stopped; nothing was changed."
    assert (folder / "mine" / MODEL_FILE).read_bytes() == before


def test_a_released_model_asks_for_the_name_of_a_copy(
    dialog: LibraryDialog,
    click: Click,
    answer: Answer,
    normal_slices: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(normal_slices))
    asked = answer(None)
    dialog.table.choose(RELEASED[0])
    click(dialog.calibrate_button)
    assert asked == [f"Name of the copy that is calibrated: [{RELEASED[0]}-here]"]
    assert not dialog.library.running


def test_the_dialog_stays_open_while_a_model_is_changed(
    dialog: LibraryDialog, wait: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> Any:
        raise ModelFileError("no good")

    monkeypatch.setattr(actions, "recheck", fail)
    dialog.table.choose("mine")
    qtbot.mouseClick(dialog.check_button, Qt.MouseButton.LeftButton)
    assert not dialog.import_button.isEnabled()
    dialog.close()
    QApplication.processEvents()
    wait(dialog)
    assert dialog.isVisible()
    assert dialog.note.text() == "no good."
    dialog.close()
