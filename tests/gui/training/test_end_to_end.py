"""From a dropped folder to a scored scan, with real clicks: on made-up slices, and on real ones.

The real ones are skipped where the data or the offline backbone's weights are not at hand.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image as Picture
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QFileDialog
from typer.testing import CliRunner

from napari_spatial_ar.cli import app
from napari_spatial_ar.gui.library.dialog import LibraryDialog
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.training.dock import TrainingDock
from napari_spatial_ar.gui.widgets.forms import select_data
from napari_spatial_ar.normative.backbones.registry import OFFLINE_BACKBONE
from napari_spatial_ar.normative.detectors import SpatialARChange
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.paths import user_models_dir

SLICES = 40


class Data(NamedTuple):
    """Normal slices to learn from, others to calibrate on, one to score, and the backbone."""

    train: Path
    others: Path
    scan: Path
    backbone: str
    size: int


@pytest.fixture(params=["tiny", "brain_flair"])
def data(request: Any, tmp_path: Path) -> Data:
    if request.param == "tiny":
        request.getfixturevalue("tiny_weights")
        train = request.getfixturevalue("normal_slices")
        others = shutil.copytree(train, tmp_path / "others")
        for picture in others.iterdir():  # other content, other patients
            image = np.asarray(Picture.open(picture))
            Picture.fromarray(image[:, ::-1] // 2).save(picture.with_stem(f"x{picture.stem}"))
            picture.unlink()
        scan = next(iter(sorted(others.iterdir())))
        return Data(train, others, scan, request.getfixturevalue("tiny_name"), 12)
    brain = request.getfixturevalue("shared_data") / "bench" / "brain_flair"
    folders = []
    for name, source in (("train", "train/good"), ("others", "valid/good/img")):
        folder = tmp_path / name
        folder.mkdir()
        pictures = sorted((brain / source).iterdir())
        for picture in pictures[:: len(pictures) // SLICES][:SLICES]:
            shutil.copy(picture, folder)
        folders.append(folder)
    scan = next((brain / "test/Ungood/img").iterdir())
    return Data(*folders, scan, OFFLINE_BACKBONE, SLICES)


@pytest.fixture
def click(qtbot: Any) -> Callable[[Any], None]:
    def press(button: Any) -> None:
        assert button.isEnabled()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    return press


def drop(dock: TrainingDock, folder: Path) -> None:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(folder))])
    dock.dropEvent(
        QDropEvent(
            QPointF(5, 5),
            Qt.DropAction.CopyAction,
            mime,
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
        )
    )


def test_from_a_folder_to_a_scored_scan(
    data: Data,
    make_napari_viewer: Any,
    click: Callable[[Any], None],
    qtbot: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With few slices, as many steps as usual would be a hundred epochs.
    monkeypatch.setitem(SpatialARChange.learn.__kwdefaults__, "steps", 6)
    viewer = make_napari_viewer()
    dock = TrainingDock(viewer)
    viewer.window.add_dock_widget(dock, name="Training")
    name = f"end-to-end-{data.backbone}"

    # What there is.
    drop(dock, data.train)
    qtbot.waitUntil(lambda: dock.form.normals.summary is not None, timeout=60_000)
    assert f"{data.size} slices" in dock.form.normals.note.text()
    select_data(dock.form.backbone, data.backbone)
    dock.form.name.clear()
    qtbot.keyClicks(dock.form.name, name)

    # Start, cancel, go on, finish.
    click(dock.start_button)
    qtbot.waitUntil(lambda: dock.progress.value() >= 3, timeout=120_000)
    click(dock.cancel_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=60_000)
    assert dock.note.text().startswith("Stopped.")
    assert not (user_models_dir() / name / "model.safetensors").exists()
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=600_000)
    assert dock.note.text() == f"The model {name} is ready in the Review dock."
    model = load_model(user_models_dir() / name, device="cpu")
    training = model.header.training
    assert training["images"] + training["valid_images"] == data.size

    # Its recipe makes the same model on the command line.
    recipe, twin = tmp_path / "recipe.toml", tmp_path / "twin"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(recipe), ""))
    click(dock.form.recipes.save_button)
    result = CliRunner().invoke(
        app,
        ["fit", "--recipe", str(recipe), "--out", str(twin), "--json", str(tmp_path / "fit.json")],
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "fit.json").read_text())["sha256"] == model.sha256

    # Calibrated on other patients.
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(data.others))
    click(dock.library_button)
    dialog = dock.window().findChild(LibraryDialog)
    qtbot.waitUntil(lambda: not dialog.listing, timeout=60_000)
    assert dialog.table.choose(name)
    click(dialog.calibrate_button)
    qtbot.waitUntil(lambda: not dialog.library.running, timeout=600_000)
    assert dialog.note.text() == f"{name} is calibrated on these scans."
    dialog.close()
    calibrated = load_model(user_models_dir() / name, device="cpu")
    assert calibrated.header.calibration is not None
    assert calibrated.header.calibration.separate
    assert calibrated.header.calibration.slices == data.size

    # And it scores a scan.
    review = ReviewDock(viewer)
    viewer.window.add_dock_widget(review, name="Review")
    assert review.models.choose(name)
    qtbot.waitUntil(lambda: review.models.model is not None, timeout=60_000)
    review.scan.opener.open([str(data.scan)])
    qtbot.waitUntil(lambda: review.scan.layer is not None, timeout=60_000)
    click(review.slice_button)
    qtbot.waitUntil(lambda: not review.running and review.masks.settled, timeout=120_000)
    assert review.session is not None
    expected = calibrated.score_slice(np.asarray(Picture.open(data.scan)))
    np.testing.assert_allclose(review.session.score.nll[0], expected.nll, rtol=1e-4, atol=1e-4)
    shutil.rmtree(user_models_dir() / name)
