"""Planes, display window, irregular and large scans in the Review dock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui.display_windows import opening_window
from napari_spatial_ar.gui.layers import KEY, layer_volume, source_array, volume_layer_kwargs
from napari_spatial_ar.gui.viewer import (
    camera_of,
    go_to_slice,
    show_acquired_plane,
    show_scan,
    slice_in_view,
)
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.preprocessing import Preprocessing
from tests.fake_model import fake_header

LEFT = Qt.MouseButton.LeftButton


def choose(qtbot: Any, made: Any, text: str) -> None:
    """Pick an entry of the display window's list the way the keyboard does."""
    box = made.scan.window_box.box
    index = box.findText(text)
    assert index >= 0
    box.setFocus()
    steps = index - box.currentIndex()
    for _ in range(abs(steps)):
        qtbot.keyClick(box, Qt.Key.Key_Down if steps > 0 else Qt.Key.Key_Up)
    assert box.currentText() == text


def ct(lab: Any, window: tuple[float, float] | None = None) -> Scan:
    volume = lab.make_volume()
    return replace(volume, modality="ct", intensity="hu", unit="HU", window=window)


# ---------------------------------------------------------------------- planes


def test_buttons_turn_the_view_and_show_which_plane_it_is(dock: Any, lab: Any, qtbot: Any) -> None:
    volume = lab.make_volume("PSR")
    made = dock(volume, show=True)
    show_acquired_plane(made.viewer, volume.geometry)
    buttons = made.scan.planes.buttons

    def pressed() -> list[str]:
        return [plane for plane, button in buttons.items() if button.isChecked()]

    qtbot.waitUntil(lambda: buttons["axial"].height() > 0)  # laid out, with the scan's planes
    assert pressed() == ["sagittal"]
    told = " ".join(buttons["axial"].toolTip().split())
    assert "still scores sagittal slices, as acquired" in told
    for plane, order, up in (
        ("axial", (0, 1, 2), "down"),
        ("coronal", (1, 0, 2), "up"),
        ("sagittal", (2, 0, 1), "up"),
    ):
        qtbot.mouseClick(buttons[plane], LEFT)
        assert made.viewer.dims.order == order
        assert str(camera_of(made.viewer).orientation2d[0]) == up
        assert pressed() == [plane]
        qtbot.mouseClick(buttons[plane], LEFT)  # again: it stays
        assert pressed() == [plane]
    made.viewer.dims.ndisplay = 3
    assert pressed() == []
    qtbot.mouseClick(buttons["coronal"], LEFT)
    assert made.viewer.dims.ndisplay == 2
    made.viewer.dims.order = (0, 2, 1)
    assert pressed() == ["axial"]


def test_keys_turn_the_view(dock: Any, lab: Any, qtbot: Any) -> None:
    made = dock(show=True)
    window = made.window()
    window.activateWindow()
    qtbot.waitUntil(lambda: QApplication.activeWindow() is not None, timeout=5000)
    qtbot.keyClick(window, Qt.Key.Key_2, Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: made.viewer.dims.order == (1, 0, 2), timeout=3000)


def test_no_planes_for_pictures(dock: Any, lab: Any) -> None:
    flat = Scan(lab.voxels(), Geometry.without_spacing(lab.shape), "unknown", Series("pictures"))
    made = dock(flat, show=True)
    assert not made.scan.planes.isVisible()
    made.viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    made.scan.list.choose(made.viewer.layers[-1])
    assert made.scan.planes.isVisible()


def test_the_model_runs_on_the_acquired_slices_in_any_view(
    dock: Any, lab: Any, models: Any, finish: Any, qtbot: Any
) -> None:
    volume = lab.make_volume("PSR")
    made = dock(volume)
    qtbot.mouseClick(made.scan.planes.buttons["axial"], LEFT)
    go_to_slice(made.viewer, made.scan.layer, volume.geometry, 7)
    qtbot.mouseClick(made.slice_button, LEFT)
    finish(made)
    assert models["fake"].asked == [7]


# ---------------------------------------------------------------------- display window


def test_the_display_window_changes_the_picture_and_nothing_else(
    dock: Any, lab: Any, qtbot: Any
) -> None:
    volume = ct(lab, window=(-30.0, 70.0))
    made = dock(volume, show=True)
    layer = made.scan.layer
    box = made.scan.window_box.box
    assert box.currentText() == "From the scan"
    assert layer.contrast_limits == [-30, 70]
    choose(qtbot, made, "CT lung")
    assert layer.contrast_limits == [-1350, 150]
    choose(qtbot, made, "Percentiles")
    qtbot.waitUntil(lambda: layer.contrast_limits[1] == 100, timeout=5000)
    assert layer_volume(layer) is volume
    layer.contrast_limits = (3, 4)
    assert box.currentText() == "Set by hand"
    layer.contrast_limits = (-1350, 150)
    assert box.currentText() == "CT lung"
    assert box.findText("Set by hand") < 0


def test_the_choice_is_remembered_for_scans_of_its_kind(dock: Any, lab: Any, qtbot: Any) -> None:
    made = dock(ct(lab), show=True)
    assert made.scan.window_box.box.currentText() == "CT soft tissue"
    choose(qtbot, made, "CT bone")
    assert opening_window(ct(lab)).limits == (-450, 1050)
    assert opening_window(lab.make_volume()).choice == "percentiles"
    layer = made.viewer.add_image(**volume_layer_kwargs(ct(lab)))
    made.scan.list.choose(layer)
    assert made.scan.window_box.box.currentText() == "CT bone"


def test_ct_presets_are_for_ct_alone(dock: Any, lab: Any) -> None:
    made = dock(show=True)
    box = made.scan.window_box.box
    assert [box.itemText(i) for i in range(box.count())] == ["Percentiles"]
    made.viewer.add_image(np.random.default_rng(0).random((3, 9, 9)))
    made.scan.list.choose(made.viewer.layers[-1])
    assert not made.scan.window_box.isVisible()


@pytest.mark.parametrize(
    ("modality", "window", "said"),
    [
        ("ct", Window("fixed", -160, 240), "Model window: -160..240 HU."),
        ("mri", Window("percentile", 0.5, 99.5), "Model window: percentiles 0.5..99.5."),
    ],
)
def test_the_dock_says_what_the_model_sees(
    dock: Any, models: Any, modality: str, window: Window, said: str
) -> None:
    models["fake"].modality = modality
    models["fake"].header = fake_header(preprocessing=Preprocessing(window))
    assert said in dock().model_panel.about.text()


# ---------------------------------------------------------------------- irregular scans


def test_nothing_is_measured_in_a_scan_whose_geometry_is_not_regular(
    dock: Any, lab: Any, finish: Any, qtbot: Any
) -> None:
    volume = lab.make_volume()
    volume = replace(volume, geometry=replace(volume.geometry, regular=False))
    made = dock(volume, show=True)
    assert "not regular" in made.scan.warning.text()
    assert made.scan.warning.isVisible()
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    assert made.threshold.min_size.suffix() == " voxels"
    assert made.threshold.findings.text() == "1 flagged region, largest 240 voxels"
    made.viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    made.scan.list.choose(made.viewer.layers[-1])
    assert not made.scan.warning.isVisible()


# ---------------------------------------------------------------------- several scans


def test_choosing_a_hidden_scan_shows_it_and_its_results_in_place_of_the_last(
    dock: Any, lab: Any, finish: Any, qtbot: Any
) -> None:
    made = dock()
    first = made.scan.layer
    qtbot.mouseClick(made.slice_button, LEFT)
    finish(made)
    results = [x for x in made.viewer.layers if x is not first]
    second = made.viewer.add_image(**volume_layer_kwargs(lab.make_volume("PSR")), visible=False)
    made.scan.list.choose(second)
    assert second.visible
    assert made.viewer.dims.order == (2, 0, 1)
    assert len(results) == 2
    assert not any(x.visible for x in [first, *results])
    made.scan.list.choose(first)
    assert all(x.visible for x in [first, *results])
    assert not second.visible
    assert made.viewer.dims.order == (0, 1, 2)


# ---------------------------------------------------------------------- large scans


class Counting:
    """Voxel reader that notes which slices were read."""

    def __init__(self, data: Any, axis: int):
        self.data, self.axis = data, axis
        self.asked: list[int] = []

    def whole(self) -> Any:
        raise AssertionError("a large scan is not read at once")

    def plane(self, index: int) -> Any:
        self.asked.append(index)
        return self.data.take(index, self.axis)


@pytest.fixture
def large(lab: Any) -> Any:
    volume = lab.make_volume("PSR")
    reader = Counting(volume.data, volume.geometry.slice_axis)
    scan = replace(volume, voxels=reader, window=(0.0, 120.0))
    return SimpleNamespace(scan=scan, reader=reader, volume=scan.read(lazy=True))


def test_a_large_scan_reads_the_slice_in_view_alone(
    dock: Any, large: Any, models: Any, finish: Any, qtbot: Any
) -> None:
    models["fake"].header = fake_header(preprocessing=Preprocessing(Window("fixed", 0, 120)))
    made = dock(scan=False)
    layer = made.viewer.add_image(**volume_layer_kwargs(large.volume), visible=False)
    show_scan(made.viewer, layer)
    assert 1 <= len(set(large.reader.asked)) < 4
    assert layer_volume(layer) is large.volume
    go_to_slice(made.viewer, layer, large.volume.geometry, 6)
    large.reader.asked.clear()
    qtbot.mouseClick(made.slice_button, LEFT)
    finish(made)
    assert models["fake"].asked == [6]
    assert set(large.reader.asked) == {6}
    drawn = next(x for x in made.viewer.layers if x.metadata[KEY]["kind"] == "nll")
    on_grid = large.volume.geometry.to_slices(
        large.volume.geometry.from_display(np.asarray(drawn.data))
    )
    assert np.allclose(on_grid[6], 1 + large.volume.slice(6) / 100)


def test_a_changed_large_layer_stays_large(large: Any) -> None:
    layer = Image(**volume_layer_kwargs(large.volume))
    layer.data = layer.data * 2
    changed = layer_volume(layer)
    assert changed.lazy
    assert np.array_equal(changed.slice(3), 2 * large.volume.slice(3))


def test_large_files_open_without_being_read(
    dock: Any, lab: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, finish: Any
) -> None:
    monkeypatch.setenv("NAPARI_SPATIAL_AR_LAZY_MB", "0")
    nib.save(nib.Nifti1Image(lab.voxels().T, lab.affine("PSR", (1, 1, 3))), tmp_path / "a.nii")
    made = dock(scan=False)
    made.scan.opener.open([str(tmp_path / "a.nii")])
    qtbot.waitUntil(lambda: made.scan.layer is not None, timeout=10_000)
    assert made.scan.layer.metadata[KEY]["volume"].lazy
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    (mask,) = [x for x in made.viewer.layers if x.metadata[KEY]["kind"] == "mask"]
    assert np.array_equal(np.asarray(mask.data) == 1, np.asarray(made.scan.layer.data) == 100)


def test_a_large_scan_that_is_deleted_while_it_is_open_goes_blank_and_is_told_once(
    dock: Any, lab: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    monkeypatch.setenv("NAPARI_SPATIAL_AR_LAZY_MB", "0")
    path, away = tmp_path / "a.nii", tmp_path / "away.nii"
    nib.save(nib.Nifti1Image(lab.voxels().T, lab.affine("PSR", (1, 1, 3))), path)
    made = dock(scan=False)
    made.scan.opener.open([str(path)])
    qtbot.waitUntil(lambda: made.scan.layer is not None, timeout=10_000)
    layer = made.scan.layer
    volume = layer.metadata[KEY]["volume"]
    first = slice_in_view(made.viewer, layer, volume.geometry)
    notes.clear()
    path.rename(away)
    others = [index for index in range(volume.geometry.slice_count) if index != first]
    for index in others[:3]:
        go_to_slice(made.viewer, layer, volume.geometry, index)
    (note,) = notes
    assert note.startswith(f"{path}: ")
    assert np.isnan(np.asarray(layer.data)).all()
    assert notes == [note]
    assert layer_volume(layer) is volume
    with pytest.raises(InputError, match="there is no such file"):
        source_array(layer.data, layer.as_layer_data_tuple()[1])
    away.rename(path)
    go_to_slice(made.viewer, layer, volume.geometry, others[4])
    assert np.isfinite(np.asarray(layer.data)).all()
    back, geometry, _ = source_array(layer.data, layer.as_layer_data_tuple()[1])
    assert np.array_equal(back, np.asarray(volume.data))
    assert geometry == volume.geometry
