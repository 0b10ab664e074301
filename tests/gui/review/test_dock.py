"""The Review dock, used the way a person uses it: real clicks in a real viewer."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtCore import QMimeData, QPoint, QPointF, QSettings, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QMessageBox,
)

from napari_spatial_ar.errors import MissingWeightsError, WeightsError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.gui.layers import KEY, volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.viewer import camera_of, go_to_slice
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.calibration.calibration import calibrate
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.review.provenance import RESEARCH_USE
from tests.fake_model import FakeModel, fake_header

Make = Callable[..., ReviewDock]
Finish = Callable[[ReviewDock], None]


@pytest.fixture
def click(qtbot: Any) -> Callable[[Any], None]:
    def press(button: Any) -> None:
        assert button.isEnabled()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    return press


def of_kind(dock: ReviewDock, kind: str) -> list[Any]:
    return [x for x in dock.viewer.layers if x.metadata.get(KEY, {}).get("kind") == kind]


def scan_of(dock: ReviewDock) -> Any:
    return of_kind(dock, "scan")[0]


# ---------------------------------------------------------------------- scoring


def test_a_scan_that_is_wholly_scored_says_how_rare_it_is(
    dock: Make, click: Any, finish: Finish, models: Any, qtbot: Any
) -> None:
    tissue = np.linspace(1, 2, 1000, dtype=np.float32)
    models["fake"].header = fake_header(
        calibration=calibrate([tissue, tissue], [1.5, 9.0], ["a", "b"]),
        preprocessing=Preprocessing(Window("fixed", 0, 100)),
    )
    made = dock()
    click(made.slice_button)
    finish(made)
    assert made.p_value_note.text() == ""
    click(made.volume_button)
    finish(made)
    qtbot.waitUntil(lambda: made.p_value_note.text() != "", timeout=10_000)
    said = made.p_value_note.text()
    assert "scores as high in 1 of 2 normal patients" in said
    assert "p = 0.67" in said


def test_score_this_slice_scores_the_slice_in_view(
    dock: Make, click: Any, finish: Finish, models: Any, lab: Any
) -> None:
    made = dock()
    layer = scan_of(made)
    volume = layer.metadata[KEY]["volume"]
    go_to_slice(made.viewer, layer, volume.geometry, 6)
    click(made.slice_button)
    finish(made)
    assert models["fake"].asked == [6]
    (heatmap,) = of_kind(made, "nll")
    (mask,) = of_kind(made, "mask")
    on_grid = volume.geometry.from_display(np.asarray(heatmap.data))
    assert np.allclose(on_grid[6], 1 + volume.data[6] / 100)
    assert not on_grid[[i for i in range(lab.shape[0]) if i != 6]].any()
    expected = np.zeros(lab.shape, bool)
    expected[6] = volume.data[6] == 100
    assert np.array_equal(volume.geometry.from_display(np.asarray(mask.data)) == 1, expected)
    assert (
        made.threshold.findings.text() == "1 flagged region, largest 0.4 ml"
    )  # 80 voxels of 4.5 mm3


def test_a_part_alone_is_shown_without_scoring_again(
    dock: Make, click: Any, finish: Finish, models: Any, qtbot: Any
) -> None:
    whole = models["fake"]
    made = dock()
    assert made.display_panel.part_box.isHidden()
    whole.alone = {
        name: FakeModel(
            name=f"fake+{name}",
            header=fake_header(part=name),
            base=base,
            unit=f"{name}s",
            detector=SimpleNamespace(title=name.capitalize()),
        )
        for name, base in (("change", 5.0), ("nll", 9.0))
    }
    made.models.refresh()
    qtbot.waitUntil(lambda: made.models.model is whole, timeout=5000)
    box = made.display_panel.part_box
    texts = [box.itemText(index) for index in range(box.count())]
    assert texts == ["Whole score", "Change alone", "Nll alone"]
    made.display_panel.fold.expand()
    assert box.isVisibleTo(made.display_panel)
    click(made.slice_button)
    finish(made)
    by_whole = made.session
    index = whole.asked[0]
    box.setCurrentText("Nll alone")
    qtbot.waitUntil(lambda: made.session is not None and made.session.any_scored, timeout=5000)
    assert made.session is not by_whole
    assert made.session.model is whole.alone["nll"]
    assert made.session.score.scored.tolist() == by_whole.score.scored.tolist()
    np.testing.assert_allclose(
        made.session.nll_planes[index], by_whole.nll_planes[index] + 8, rtol=1e-6
    )
    assert made.threshold.unit_box.findText("nlls") >= 0
    assert (len(whole.asked), whole.alone["nll"].asked) == (1, [])
    assert not by_whole.heatmap.visible
    # What is left can be scored by the part itself.
    click(made.volume_button)
    finish(made)
    assert sorted(whole.alone["nll"].asked) == sorted(set(range(12)) - {index})
    # Choosing the other heatmap in napari's own list chooses what made it.
    by_whole.heatmap.visible = True
    assert made.session is by_whole
    assert box.currentText() == "Whole score"


def test_a_part_stays_chosen_from_scan_to_scan(
    dock: Make, click: Any, finish: Finish, models: Any, qtbot: Any
) -> None:
    whole = models["fake"]
    whole.alone = {
        name: FakeModel(
            name=f"fake+{name}",
            header=fake_header(part=name),
            base=base,
            detector=SimpleNamespace(title=name.capitalize()),
        )
        for name, base in (("change", 5.0), ("nll", 9.0))
    }
    made = dock()
    click(made.volume_button)
    finish(made)
    box = made.display_panel.part_box
    # Faster than the first part is filled in.
    for name in ("change", "nll"):
        box.setCurrentIndex(box.findData(name))

    def filled_in() -> bool:
        session = made.session
        return (
            session is not None
            and session.model is whole.alone["nll"]
            and bool(session.score.visited.all())
        )

    qtbot.waitUntil(filled_in, timeout=5000)
    finish(made)
    first, volume = scan_of(made), scan_of(made).metadata[KEY]["volume"]
    second = made.viewer.add_image(**{**volume_layer_kwargs(volume), "name": "second"})
    made.scan.list.choose(second)
    box.setCurrentIndex(box.findData(""))
    click(made.volume_button)
    finish(made)
    made.scan.list.choose(first)
    box.setCurrentIndex(box.findData("nll"))
    assert filled_in()
    made.scan.list.choose(second)
    qtbot.waitUntil(filled_in, timeout=5000)
    assert made.session is not None
    assert made.session.layer is second
    assert whole.alone["nll"].asked == []


def test_another_plane_is_scored_by_itself(
    dock: Make, click: Any, finish: Finish, models: Any
) -> None:
    made = dock()
    volume = scan_of(made).metadata[KEY]["volume"]
    click(made.slice_button)
    finish(made)
    acquired = made.session
    made.plane_box.setCurrentText("Sagittal slices")
    assert made.session is None
    click(made.volume_button)
    finish(made)
    session = made.session
    assert session is not acquired
    assert session.geometry.plane == "sagittal"
    assert len(session.score.visited) == volume.geometry.along("sagittal").slice_count
    assert session.score.nll.shape == volume.data.shape
    assert not acquired.heatmap.visible
    made.plane_box.setCurrentIndex(0)
    assert made.session is acquired


def test_the_whole_volume_is_scored_from_the_slice_in_view_outward(
    dock: Make, click: Any, finish: Finish, models: Any, lab: Any
) -> None:
    made = dock()
    go_to_slice(made.viewer, scan_of(made), scan_of(made).metadata[KEY]["geometry"], 4)
    click(made.volume_button)
    finish(made)
    assert models["fake"].asked == [4, 3, 5, 2, 6, 1, 7, 0, 8, 9, 10, 11]
    assert made.progress.value() == made.progress.maximum() == lab.shape[0]
    assert made.score_note.text() == "12 of 12 slices are scored."
    models["fake"].notes.append("Memory ran short, so slices are scored on the CPU.")
    click(made.slice_button)
    finish(made)
    assert made.score_note.text().endswith(
        "are scored. Memory ran short, so slices are scored on the CPU."
    )
    assert isinstance(of_kind(made, "mask")[0], Labels)


@pytest.mark.parametrize("codes", ["PSR", "LSP", "RAS"])
def test_the_mask_lies_on_the_lesion_in_any_orientation(
    dock: Make, click: Any, finish: Finish, codes: str, lab: Any
) -> None:
    made = dock(lab.make_volume(codes))
    click(made.volume_button)
    finish(made)
    assert np.array_equal(
        np.asarray(of_kind(made, "mask")[0].data) == 1, np.asarray(scan_of(made).data) == 100
    )


def test_heatmap_colours_start_at_normal_and_reach_the_lesion(
    dock: Make, click: Any, finish: Finish, models: Any
) -> None:
    made = dock()
    click(made.volume_button)
    finish(made)
    (heatmap,) = of_kind(made, "nll")
    low, high = heatmap.contrast_limits
    assert low == pytest.approx(models["fake"].threshold_for_fpr(0.5))
    assert high >= 2.0  # the lesion's score
    # Normal tissue shows through; a high score covers.
    assert heatmap.colormap.map(0.0)[0, 3] == pytest.approx(0)
    assert heatmap.colormap.map(1.0)[0, 3] > 0.8


def test_limits_that_the_user_set_are_kept(dock: Make, click: Any, finish: Finish) -> None:
    made = dock()
    click(made.slice_button)
    finish(made)
    (heatmap,) = of_kind(made, "nll")
    heatmap.contrast_limits = (1.2, 1.7)
    click(made.volume_button)
    finish(made)
    assert heatmap.contrast_limits == pytest.approx([1.2, 1.7])


def test_cancel_stops_keeps_what_is_done_and_goes_on_later(
    dock: Make, click: Any, finish: Finish, models: Any, qtbot: Any
) -> None:
    made = dock()
    model = models["fake"]
    model.gate = threading.Semaphore(1)
    click(made.volume_button)
    qtbot.waitUntil(lambda: len(of_kind(made, "nll")) == 1, timeout=5000)
    click(made.cancel_button)
    model.gate.release(50)
    finish(made)
    session = made.session
    done = list(model.asked)
    assert 0 < len(done) <= 2  # that it was at when it was told, and the one before
    assert sorted(np.flatnonzero(session.score.scored)) == sorted(done)
    assert made.score_note.text().startswith("Stopped.")
    click(made.volume_button)
    finish(made)
    assert sorted(model.asked) == list(range(12))  # nothing twice


def test_a_layer_deleted_while_it_is_scored_is_let_go(
    dock: Make, click: Any, finish: Finish, models: Any, qtbot: Any, notes: list[str]
) -> None:
    made = dock()
    model = models["fake"]
    model.gate = threading.Semaphore(1)
    click(made.volume_button)
    qtbot.waitUntil(lambda: len(of_kind(made, "nll")) == 1, timeout=5000)
    made.viewer.layers.remove(scan_of(made))
    model.gate.release(20)
    finish(made)
    # The slice at hand when the layer went, and one more where the worker was quicker.
    assert len(model.asked) <= 3
    assert made.session is None
    assert not made.volume_button.isEnabled()
    assert notes == []


def test_the_heatmap_deleted_while_scoring_comes_back(
    dock: Make, click: Any, finish: Finish, models: Any, qtbot: Any
) -> None:
    made = dock()
    gate = models["fake"].gate = threading.Semaphore(1)
    click(made.volume_button)
    qtbot.waitUntil(lambda: len(of_kind(made, "nll")) == 1, timeout=5000)
    made.viewer.layers.remove(of_kind(made, "nll")[0])
    gate.release(20)
    finish(made)
    assert len(of_kind(made, "nll")) == 1
    assert made.session.score.scored.all()


def test_a_renamed_layer_keeps_its_scores(
    dock: Make, click: Any, finish: Finish, models: Any, qtbot: Any
) -> None:
    made = dock()
    gate = models["fake"].gate = threading.Semaphore(1)
    click(made.volume_button)
    qtbot.waitUntil(lambda: len(of_kind(made, "nll")) == 1, timeout=5000)
    scan_of(made).name = "renamed"
    gate.release(20)
    finish(made)
    assert made.scan.box.currentText() == "renamed"
    assert made.session.score.scored.all()


def test_choosing_another_scan_while_scoring_leaves_the_result_where_it_belongs(
    dock: Make, click: Any, finish: Finish, models: Any, qtbot: Any, lab: Any
) -> None:
    made = dock()
    first = scan_of(made)
    second = made.viewer.add_image(**volume_layer_kwargs(lab.make_volume("RAS")))
    made.scan.list.choose(first)
    gate = models["fake"].gate = threading.Semaphore(1)
    click(made.volume_button)
    qtbot.waitUntil(lambda: len(of_kind(made, "nll")) == 1, timeout=5000)
    made.scan.list.choose(second)
    gate.release(20)
    assert made.session is None
    assert not made.export.all_button.isEnabled()
    finish(made)
    made.scan.list.choose(first)
    assert made.session.layer is first
    assert made.session.score.scored.all()
    assert made.export.all_button.isEnabled()


def test_a_foreign_layer_can_be_scored(
    make_napari_viewer: Any, dock: Make, click: Any, finish: Finish
) -> None:
    made = dock(scan=False)
    data = np.zeros((3, 30, 30), np.float32)
    data += np.arange(30)
    data[1, 5:9, 5:9] = 100
    made.viewer.add_image(data, name="DOE_JANE", scale=(2, 1, 1))
    click(made.volume_button)
    finish(made)
    (mask,) = of_kind(made, "mask")
    assert np.array_equal(np.asarray(mask.data) == 1, data == 100)
    assert "DOE" not in mask.name
    assert made.threshold.min_size.suffix() == " voxels"


def test_a_rotated_layer_is_refused_with_a_sentence(
    dock: Make, click: Any, notes: list[str]
) -> None:
    made = dock(scan=False)
    made.viewer.add_image(np.random.default_rng(0).random((3, 9, 9)), rotate=20)
    click(made.volume_button)
    assert len(notes) == 1
    assert "rotated, sheared or mirrored" in notes[0]
    assert not made.running


# ---------------------------------------------------------------------- threshold


def test_the_threshold_starts_at_one_percent_and_says_what_it_means(
    dock: Make, models: Any
) -> None:
    made = dock()
    assert made.threshold.threshold == pytest.approx(models["fake"].threshold_for_fpr(0.01))
    assert made.threshold.meaning.text() == "Flags about 1 % of normal tissue."
    made.threshold.slider.setValue(made.threshold.slider.maximum())
    assert made.threshold.meaning.text() == "Flags less than 0.1 % of normal tissue."


def test_the_mask_follows_the_slider_at_once_in_the_slice_in_view(
    dock: Make, click: Any, finish: Finish
) -> None:
    made = dock()
    layer = scan_of(made)
    geometry = layer.metadata[KEY]["geometry"]
    go_to_slice(made.viewer, layer, geometry, 6)
    click(made.volume_button)
    finish(made)
    (mask,) = of_kind(made, "mask")
    on_grid = geometry.from_display(np.asarray(mask.data))
    assert on_grid[6].sum() == on_grid[5].sum() == 80
    made.threshold.slider.setValue(2.4)  # above the lesion's score of 2
    assert on_grid[6].sum() == 0
    assert on_grid[5].sum() == 80  # the volume follows when the slider rests
    finish(made)
    assert on_grid.sum() == 0
    assert made.threshold.findings.text() == "Nothing is flagged at this threshold."


def test_small_regions_leave_with_the_smallest_size(
    dock: Make, click: Any, finish: Finish, lab: Any
) -> None:
    volume = lab.make_volume()
    volume.data[0, 0, 0] = 100
    made = dock(volume)
    click(made.volume_button)
    finish(made)
    assert made.threshold.findings.text().startswith("2 flagged regions")
    made.threshold.min_size.setValue(5)  # a voxel has 4.5 mm3
    finish(made)
    assert made.threshold.findings.text().startswith("1 flagged region,")
    assert np.asarray(of_kind(made, "mask")[0].data).sum() == 3 * 8 * 10


def test_a_model_without_calibration_says_so_and_starts_from_the_scan(
    dock: Make, click: Any, finish: Finish, models: Any
) -> None:
    models["fake"].calibrated = False
    made = dock()
    assert not made.threshold.slider.isEnabled()
    click(made.volume_button)
    finish(made)
    assert made.threshold.slider.isEnabled()
    assert "not calibrated" in made.threshold.meaning.text()
    assert 1.0 < made.threshold.threshold <= 2.0


def test_show_highest_goes_to_the_lesion(dock: Make, click: Any, finish: Finish) -> None:
    made = dock()
    layer = scan_of(made)
    go_to_slice(made.viewer, layer, layer.metadata[KEY]["geometry"], 0)
    click(made.volume_button)
    finish(made)
    click(made.threshold.highest)
    shown = layer.data[made.viewer.dims.current_step[0]]
    assert (shown == 100).any()


def test_the_threshold_is_remembered(dock: Make, click: Any, qtbot: Any) -> None:
    made = dock()
    made.threshold.slider.setValue(1.6)
    store = QSettings(
        QSettings.Format.IniFormat,
        QSettings.Scope.UserScope,
        "napari-spatial-ar",
        "napari-spatial-ar",
    )
    qtbot.waitUntil(lambda: store.value("fpr") is not None, timeout=2000)
    again = ReviewDock(made.viewer)
    qtbot.addWidget(again)
    qtbot.waitUntil(lambda: again.models.model is not None)
    assert again.threshold.threshold == pytest.approx(1.6, abs=0.01)


# ---------------------------------------------------------------------- export


def test_export_mask_writes_the_mask_as_painted(
    dock: Make, click: Any, finish: Finish, tmp_path: Path, monkeypatch: Any, qtbot: Any, lab: Any
) -> None:
    volume = lab.make_volume("PSR", degrees=8)
    made = dock(volume)
    click(made.volume_button)
    finish(made)
    (mask,) = of_kind(made, "mask")
    marked = np.zeros(lab.shape, bool)
    marked[1, 2, 3] = True
    at = np.argwhere(volume.geometry.to_display(marked))[0]
    mask.mode = "paint"
    mask.brush_size = 1
    mask.selected_label = 1
    mask.paint(tuple(at), 1)
    target = tmp_path / "m.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    click(made.export.mask_button)
    qtbot.waitUntil(target.exists, timeout=5000)
    written = nib.load(target)
    assert np.array_equal(np.asarray(written.dataobj).T, (volume.data == 100) | marked)
    assert np.allclose(written.affine, volume.geometry.affine, atol=1e-5)


def test_an_export_right_after_a_drag_has_the_new_threshold(
    dock: Make, click: Any, finish: Finish, tmp_path: Path, monkeypatch: Any, qtbot: Any
) -> None:
    made = dock()
    click(made.volume_button)
    finish(made)
    target = tmp_path / "m.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    made.threshold.slider.setValue(2.4)  # above the lesion's score of 2
    click(made.export.mask_button)
    qtbot.waitUntil(target.exists, timeout=5000)
    assert not np.asarray(nib.load(target).dataobj).any()


def test_export_all_writes_five_files_and_asks_before_replacing(
    dock: Make,
    click: Any,
    finish: Finish,
    tmp_path: Path,
    monkeypatch: Any,
    qtbot: Any,
    notes: list[str],
) -> None:
    made = dock()
    click(made.volume_button)
    finish(made)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(tmp_path))
    click(made.export.all_button)
    folder = tmp_path / "mr-series-4"
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=5000)
    assert sorted(p.name for p in folder.iterdir()) == [
        "findings.csv",
        "findings.json",
        "findings.nii.gz",
        "mask.nii.gz",
        "nll.nii.gz",
        "provenance.json",
        "score.nii.gz",
    ]
    record = json.loads((folder / "provenance.json").read_text())
    assert record["threshold"]["share_of_normal_tissue_flagged"] == pytest.approx(0.01)
    assert record["research_use"] == RESEARCH_USE
    assert record["threshold"]["mask_edited_by_hand"] is False
    (folder / "findings.csv").write_text("old")
    of_kind(made, "mask")[0].data[0, 0, 0] = 1  # a stroke of the brush
    asked: list[str] = []

    def answer(reply: Any) -> Any:
        return lambda *a, **k: asked.append(a[2]) or reply

    monkeypatch.setattr(QMessageBox, "question", answer(QMessageBox.StandardButton.No))
    click(made.export.all_button)
    assert (folder / "findings.csv").read_text() == "old"
    monkeypatch.setattr(QMessageBox, "question", answer(QMessageBox.StandardButton.Yes))
    click(made.export.all_button)
    qtbot.waitUntil(lambda: len(notes) == 2, timeout=5000)
    assert (folder / "findings.csv").read_text() != "old"
    assert len(asked) == 2
    record = json.loads((folder / "provenance.json").read_text())
    assert record["threshold"]["mask_edited_by_hand"] is True


def test_an_export_that_fails_is_one_sentence(
    dock: Make,
    click: Any,
    finish: Finish,
    tmp_path: Path,
    monkeypatch: Any,
    qtbot: Any,
    notes: list[str],
) -> None:
    made = dock()
    click(made.slice_button)
    finish(made)
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "m.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    click(made.export.mask_button)
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=5000)
    assert "could not be written" in notes[0]


# ---------------------------------------------------------------------- opening


def drop(dock: ReviewDock, path: Path) -> None:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    left, no_key = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    copy = Qt.DropAction.CopyAction
    enter = QDragEnterEvent(QPoint(10, 10), copy, mime, left, no_key)
    QApplication.sendEvent(dock, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(dock, QDropEvent(QPointF(10, 10), copy, mime, left, no_key))


def test_a_dropped_scan_opens_upright_and_names_no_patient(
    dock: Make, tmp_path: Path, qtbot: Any, lab: Any
) -> None:
    made = dock(scan=False)
    path = tmp_path / "DOE_JANE"
    path.mkdir()
    image = nib.Nifti1Image(lab.voxels().T, lab.affine("PSR", (1, 1, 3)))
    nib.save(image, path / "DOE_JANE.nii.gz")
    drop(made, path)
    qtbot.waitUntil(lambda: made.scan.layer is not None, timeout=5000)
    assert made.viewer.dims.order == (2, 0, 1)
    assert str(camera_of(made.viewer).orientation2d[0]) == "up"
    assert not any("DOE" in layer.name for layer in made.viewer.layers)
    assert made.volume_button.isEnabled()
    made.viewer.dims.order = (0, 1, 2)
    assert str(camera_of(made.viewer).orientation2d[0]) == "down"


def test_what_cannot_be_opened_is_one_sentence(
    dock: Make, tmp_path: Path, qtbot: Any, notes: list[str]
) -> None:
    made = dock(scan=False)
    (tmp_path / "empty").mkdir()
    drop(made, tmp_path / "empty")
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=5000)
    assert "the folder is empty" in notes[0]
    assert made.scan.note.text() == "Nothing was opened."


# ---------------------------------------------------------------------- models and errors


def test_without_a_model_the_dock_says_what_to_do(
    dock: Make, models: Any, qtbot: Any, lab: Any
) -> None:
    models.clear()
    made = dock()
    assert "Fit one in the Training dock" in made.model_note.text()
    assert not made.volume_button.isEnabled()
    models["new"] = lab.Model(name="new")
    model_access.model_events.changed.emit()
    qtbot.waitUntil(lambda: made.models.model is models["new"])
    assert made.model_box.currentText() == "new"
    assert made.volume_button.isEnabled()


def test_missing_weights_are_told_with_the_ways_to_get_them(
    dock: Make, models: Any, monkeypatch: Any, qtbot: Any
) -> None:
    hint = "The weights of fake-backbone are not on this machine."
    monkeypatch.setattr(model_access, "weights_hint", lambda backbone, header=None: hint)
    made = dock()
    assert made.model_note.text() == hint
    weights = made.model_panel.weights
    assert not weights.isHidden()
    monkeypatch.setattr(model_access, "weights_hint", lambda backbone, header=None: "")
    model_access.weights_news.changed.emit("fake-backbone")  # whoever got them
    qtbot.waitUntil(weights.isHidden, timeout=5000)
    assert made.model_note.text() != hint


def test_weights_missed_while_loading_are_told_without_commands(
    dock: Make, models: Any, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    def load(path: Any) -> Any:
        raise MissingWeightsError("no weights of x are on this machine", fix="Run 'weights pull'")

    made = dock()
    monkeypatch.setattr(model_access, "load_model", load)
    made.models.load(made.models.info)
    qtbot.waitUntil(lambda: bool(notes), timeout=5000)
    assert "weights pull" not in made.model_note.text()
    assert "Get weights..." in made.model_note.text()
    assert not made.model_panel.weights.isHidden()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WeightsError("no weights", fix="Pull them"), "no weights. Pull them."),
        (MemoryError(), "Scoring needs more memory"),
        (KeyError("DOE^JANE"), "unexpected problem (KeyError)"),
    ],
)
def test_an_error_while_scoring_is_one_sentence(
    dock: Make,
    click: Any,
    finish: Finish,
    models: Any,
    notes: list[str],
    caplog: Any,
    error: Exception,
    said: str,
) -> None:
    made = dock()
    models["fake"].error = error
    click(made.volume_button)
    finish(made)
    assert len(notes) == 1
    assert said in notes[0]
    assert "Traceback" not in notes[0]
    assert "DOE" not in notes[0] + caplog.text
    assert said in made.score_note.text()
    assert made.volume_button.isEnabled()


def test_a_score_asked_for_while_the_model_loads_starts_when_it_is_there(
    dock: Make, click: Any, finish: Finish, models: Any, monkeypatch: Any, qtbot: Any
) -> None:
    gate = threading.Event()
    model = models["fake"]
    made = dock()
    monkeypatch.setattr(model_access, "load_model", lambda path: gate.wait(5) and model)
    made.models.refresh()
    assert made.models.model is None
    click(made.volume_button)
    assert made.score_note.text() == "Loading the model..."
    gate.set()
    qtbot.waitUntil(lambda: len(model.asked) == 12, timeout=5000)
    finish(made)
    assert made.session.score.scored.all()


# ---------------------------------------------------------------------- the dock itself


def test_the_research_line_and_tooltips_are_there(dock: Make) -> None:
    made = dock()
    assert RESEARCH_USE in [label.text() for label in made.findChildren(QLabel)]
    controls = [made.threshold.slider, made.progress]
    for kind in (QAbstractButton, QComboBox, QAbstractSpinBox):
        controls += [
            c for c in made.findChildren(kind) if not isinstance(c.parent(), QAbstractSpinBox)
        ]
    inside_slider = set(made.threshold.slider.findChildren(QLineEdit))
    bare = [
        c
        for c in controls
        if not c.toolTip() and c not in inside_slider and c.parent() is not made.threshold.slider
    ]
    assert bare == []
    assert len(controls) >= 10


def test_closing_while_scoring_leaves_no_thread(
    dock: Make, click: Any, models: Any, qtbot: Any
) -> None:
    made = dock(window=True)
    gate = models["fake"].gate = threading.Semaphore(1)
    click(made.volume_button)
    qtbot.waitUntil(lambda: len(models["fake"].asked) >= 1, timeout=5000)
    made.viewer.window.remove_dock_widget(made)
    made.deleteLater()
    qtbot.wait(50)
    gate.release(20)
    qtbot.waitUntil(lambda: pool().activeThreadCount() == 0, timeout=3000)
    assert len(models["fake"].asked) < 12
    made.viewer.add_image(np.zeros((4, 5, 6)))  # the viewer no longer calls the dock
    made.viewer.dims.order = (1, 0, 2)


def test_removing_and_adding_layers_keeps_the_list_right(dock: Make, lab: Any) -> None:
    made = dock(scan=False)
    assert made.scan.box.currentText() == "No scan is open"
    layer = made.viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    made.viewer.add_labels(np.zeros((3, 4, 5), int))
    made.viewer.add_image(np.zeros((4, 5, 3), np.uint8), rgb=True)
    assert [made.scan.box.itemText(i) for i in range(made.scan.box.count())] == ["MR series 4"]
    assert isinstance(made.scan.layer, Image)
    made.viewer.layers.remove(layer)
    assert made.scan.layer is None


def test_docks_are_imported_without_torch() -> None:
    """It takes seconds, and is imported when a model is loaded."""
    modules = ("review.dock", "training.dock", "worklist.panel", "library.dialog")
    names = ", ".join(f"napari_spatial_ar.gui.{name}" for name in modules)
    code = f"import sys, {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
