"""The list of findings: real clicks, keys and strokes of the brush."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog, QLineEdit

from napari_spatial_ar.gui.mask_labels import (
    IN_MASK,
    NUMBERED,
    label_colormap,
    label_features,
    label_values,
)
from napari_spatial_ar.gui.napari_plugin import write_labels
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.review.findings_panel import COLUMNS, COMMENT
from napari_spatial_ar.gui.viewer import camera_of
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.segments import colour_of
from napari_spatial_ar.review.findings import list_findings

LEFT = Qt.MouseButton.LeftButton
BIG, SMALL, TINY = 240, 12, 2


@pytest.fixture
def scored(
    request: pytest.FixtureRequest, dock: Any, finish: Any, qtbot: Any, lab: Any
) -> ReviewDock:
    """A dock with findings of 240, 12 and 2 voxels, of which the smallest scores highest."""
    volume = lab.make_volume("PSR")
    volume.data[1, 30:33, 2:6] = 90
    volume.data[9, 30, 30:32] = 120
    made = dock(volume, show=getattr(request, "param", False))
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    return made


#: Colours of a finding that is chosen, and of one that is rejected, chosen or not.
CHOSEN, REJECTED = (1, 0.9, 0.1, 1), ((0.6, 0.6, 0.6, 0.6), (0.8, 0.75, 0.4, 0.8))
#: The same in a window on the screen.
on_screen = pytest.mark.parametrize("scored", [True], indirect=True, ids=["on screen"])


def column(made: ReviewDock, title: str) -> list[str]:
    """Texts of a column as they stand, from top to bottom."""
    at = [c.title for c in COLUMNS].index(title)
    table = made.findings.sorted
    return [table.index(row, at).data() for row in range(table.rowCount())]


def source(made: ReviewDock) -> Any:
    session = made.session
    return session.geometry.from_display(np.asarray(session.mask.data))


def click_row(made: ReviewDock, qtbot: Any, row: int, times: int = 1, at: int = 0) -> None:
    table = made.findings.table
    spot = table.visualRect(made.findings.sorted.index(row, at)).center()
    (qtbot.mouseClick if times == 1 else qtbot.mouseDClick)(table.viewport(), LEFT, pos=spot)


def press(made: ReviewDock, qtbot: Any, key: Any) -> None:
    # A window manager would make the window active; the tests' display has none.
    made.window().activateWindow()
    made.findings.table.setFocus()
    qtbot.waitUntil(made.findings.table.hasFocus)
    qtbot.keyClick(made.findings.table, key)


def title_click(made: ReviewDock, qtbot: Any, title: str) -> None:
    header = made.findings.table.horizontalHeader()
    at = [c.title for c in COLUMNS].index(title)
    spot = header.viewport().rect().center()
    spot.setX(header.sectionViewportPosition(at) + 5)
    qtbot.mouseClick(header.viewport(), LEFT, pos=spot)


def test_rows_sort_by_numbers(scored: ReviewDock, qtbot: Any) -> None:
    assert column(scored, "#") == ["1", "2", "3"]
    title_click(scored, qtbot, "Volume")
    assert column(scored, "Volume") == ["9 µl", "54 µl", "1.1 ml"]
    assert column(scored, "#") == ["1", "3", "2"]
    title_click(scored, qtbot, "Volume")
    assert column(scored, "#") == ["2", "3", "1"]
    title_click(scored, qtbot, "Slices")
    # As words, "10" would stand before "2"; ranges start where they start.
    assert column(scored, "Slices") == ["2", "6-8", "10"]


@on_screen
def test_a_click_shows_the_finding_in_the_middle_and_outlines_it(
    scored: ReviewDock, qtbot: Any
) -> None:
    click_row(scored, qtbot, 0)
    session, viewer = scored.session, scored.viewer
    mask = source(scored)
    assert set(np.unique(mask[9, 30, 30:32])) == {1}
    assert [(mask == number).sum() for number in (1, 2, 3)] == [TINY, BIG, SMALL]
    colours = session.mask.colormap.color_dict
    assert np.allclose(colours[1], CHOSEN)
    for number in (2, 3):
        assert np.allclose(colours[number][:3] * 255, colour_of(number), atol=0.5)
    z, y, x = session.geometry.display_index((9, 30, 30))
    world = session.mask.data_to_world((z, y, x))
    hidden = viewer.dims.not_displayed[0]
    assert viewer.dims.point[hidden] == pytest.approx(world[hidden])
    shown = [world[axis] for axis in viewer.dims.displayed]
    steps = [session.mask.scale[axis] for axis in viewer.dims.displayed]
    assert np.abs(np.subtract(camera_of(viewer).center[-2:], shown) / steps).max() <= 1
    assert "Centre " in scored.findings.detail.text()


@on_screen
def test_keys_go_through_the_list_and_decide(scored: ReviewDock, qtbot: Any) -> None:
    press(scored, qtbot, Qt.Key.Key_N)
    press(scored, qtbot, Qt.Key.Key_N)
    assert scored.findings.current.finding.rank == 2
    press(scored, qtbot, Qt.Key.Key_R)
    press(scored, qtbot, Qt.Key.Key_N)
    press(scored, qtbot, Qt.Key.Key_U)
    press(scored, qtbot, Qt.Key.Key_N)  # the last stays
    assert scored.findings.current.finding.rank == 3
    press(scored, qtbot, Qt.Key.Key_P)
    press(scored, qtbot, Qt.Key.Key_P)
    press(scored, qtbot, Qt.Key.Key_K)
    assert column(scored, "Status") == ["keep", "reject", "unsure"]
    assert scored.threshold.findings.text().startswith("2 flagged regions")
    press(scored, qtbot, Qt.Key.Key_K)
    assert column(scored, "Status")[0] == ""


@on_screen
def test_keys_work_on_the_canvas_and_leave_text_fields_alone(
    scored: ReviewDock, qtbot: Any
) -> None:
    canvas = scored.viewer.window._qt_viewer.canvas.native
    qtbot.keyClick(canvas, Qt.Key.Key_N)
    assert scored.findings.current.finding.rank == 1
    click_row(scored, qtbot, 0)
    scored.findings.table.edit(scored.findings.sorted.index(0, COMMENT))
    (editor,) = scored.findings.table.viewport().findChildren(QLineEdit)
    qtbot.keyClicks(editor, "knurp")
    assert editor.text() == "knurp"
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    QApplication.processEvents()
    assert column(scored, "Comment") == ["knurp", "", ""]
    assert column(scored, "Status") == ["", "", ""]
    assert scored.findings.current.finding.rank == 1


def write(made: ReviewDock, qtbot: Any, row: int, text: str) -> QLineEdit:
    click_row(made, qtbot, row)
    made.findings.table.edit(made.findings.sorted.index(row, COMMENT))
    field = made.findings.comments.field
    qtbot.keyClicks(field, text)
    return field


@on_screen
def test_a_comment_being_typed_moves_on_with_its_finding(
    scored: ReviewDock, finish: Any, qtbot: Any
) -> None:
    write(scored, qtbot, 1, "old inf")
    # Leaves the largest, which is second to the smallest by its peak.
    scored.threshold.min_size.setValue(100)
    finish(scored)
    assert len(column(scored, "#")) == 1
    field = scored.findings.comments.field
    assert field is not None
    assert field.text() == "old inf"
    qtbot.keyClicks(field, "arct")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    QApplication.processEvents()
    assert column(scored, "Comment") == ["old infarct"]
    scored.threshold.min_size.setValue(0)
    finish(scored)
    assert column(scored, "Comment") == ["", "old infarct", ""]


@on_screen
def test_a_comment_being_typed_comes_back_with_its_finding(
    scored: ReviewDock, finish: Any, qtbot: Any
) -> None:
    write(scored, qtbot, 0, "tiny")
    scored.threshold.min_size.setValue(100)
    finish(scored)
    assert scored.findings.comments.field is None
    assert column(scored, "Comment") == [""]
    scored.threshold.min_size.setValue(0)
    finish(scored)
    assert column(scored, "Comment") == ["tiny", "", ""]


@on_screen
def test_no_column_is_cut(scored: ReviewDock, qtbot: Any) -> None:
    table, header = scored.findings.table, scored.findings.table.horizontalHeader()
    titles = header.fontMetrics()
    for at, made in enumerate(COLUMNS):
        assert header.sectionSize(at) >= titles.horizontalAdvance(made.title), made.title
        if at != COMMENT:
            assert header.sectionSize(at) >= table.sizeHintForColumn(at), made.title


def test_a_decision_outlives_the_threshold(scored: ReviewDock, finish: Any, qtbot: Any) -> None:
    click_row(scored, qtbot, 1)
    qtbot.mouseClick(scored.findings.buttons["reject"], LEFT)
    scored.threshold.slider.setValue(2.15)
    finish(scored)
    assert column(scored, "Status") == [""]
    scored.threshold.slider.setValue(1.6)
    finish(scored)
    assert column(scored, "Status") == ["", "reject", ""]
    mask = source(scored)
    assert [(mask == number).sum() for number in (1, 2, 3)] == [TINY, BIG, SMALL]
    colours = scored.session.mask.colormap.color_dict
    assert any(np.allclose(colours[2], grey) for grey in REJECTED)


def test_marks_stay_in_slices_that_are_not_drawn_again(scored: ReviewDock, qtbot: Any) -> None:
    click_row(scored, qtbot, 1)
    qtbot.mouseClick(scored.findings.buttons["reject"], LEFT)
    before = source(scored).copy()
    assert set(np.unique(before)) == {0, 1, 2, 3}
    for threshold in (1.61, 1.62, 1.63):
        scored.threshold.slider.setValue(threshold)  # the slice in view alone, until it rests
        assert np.array_equal(source(scored), before)
    scored.masks.slices_scored([0, 5, 6])
    assert np.array_equal(source(scored), before)


def test_the_layer_names_the_finding_of_each_voxel(
    scored: ReviewDock, qtbot: Any, tmp_path: Path, monkeypatch: Any, notes: list[str]
) -> None:
    """The same number, name and colour as in the table and in what is exported."""
    click_row(scored, qtbot, 1)
    qtbot.mouseClick(scored.findings.buttons["reject"], LEFT)
    qtbot.mouseClick(scored.findings.buttons["next"], LEFT)
    qtbot.mouseClick(scored.findings.buttons["keep"], LEFT)
    layer, table = scored.session.mask, scored.findings.sorted
    features = layer.features
    assert list(features["index"]) == [1, 2, 3]
    assert list(features["name"]) == ["Flagged region 1", "Flagged region 2", "Finding 3"]
    assert list(features["status"]) == ["unread", "reject", "keep"]
    click_row(scored, qtbot, 0)  # napari's status bar tells of the slice in view
    at = scored.session.geometry.display_index((9, 30, 30))
    assert layer.get_status(at)["value"].startswith("1; name: Flagged region 1")
    for row, colour in enumerate(features["colour"]):
        brush = table.index(row, 0).data(Qt.ItemDataRole.BackgroundRole)
        assert (None if brush is None else brush.color().name()) == (None if row == 1 else colour)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(tmp_path))
    qtbot.mouseClick(scored.export.all_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=10_000)
    folder = tmp_path / "mr-series-4"
    numbers = np.asarray(nib.load(folder / "findings.nii.gz").dataobj).T
    assert np.array_equal(numbers, np.where(source(scored) == 2, 0, source(scored)))
    with (folder / "findings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("name", "colour", "status"):
        assert [row[name] for row in rows] == list(features[name])


def test_findings_of_high_numbers_share_values_by_what_is_said_of_them() -> None:
    nll = np.zeros((2, 40, 60), np.float32)
    nll[0, ::2, ::2] = np.arange(20 * 30).reshape(20, 30) + 1
    listed = list_findings(nll > 0, nll, Geometry(nll.shape, np.eye(4)))
    items = listed.items
    assert len(items) == 600
    last, before = items[-1].finding, items[-2].finding
    listed = listed.decide(before.label, status="reject")
    values = label_values(listed.items, last)
    assert [values[i.finding.label] for i in items[:NUMBERED]] == list(range(1, NUMBERED + 1))
    assert values[items[NUMBERED].finding.label] == IN_MASK
    assert len({IN_MASK, values[last.label], values[before.label]}) == 3
    colours = label_colormap(listed.items, last).color_dict
    assert np.allclose(colours[values[last.label]], CHOSEN)
    assert np.allclose(colours[values[before.label]], REJECTED[0])
    assert len(label_features(listed.items)["index"]) == NUMBERED


@on_screen
def test_the_rejected_leave_every_export(
    scored: ReviewDock, qtbot: Any, tmp_path: Path, monkeypatch: Any, notes: list[str]
) -> None:
    click_row(scored, qtbot, 1)
    press(scored, qtbot, Qt.Key.Key_R)
    expected = np.isin(source(scored), (1, 3))
    assert expected.sum() == SMALL + TINY
    target = tmp_path / "m.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=10_000)
    assert np.array_equal(np.asarray(nib.load(target).dataobj).T, expected)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(tmp_path))
    qtbot.mouseClick(scored.export.all_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) == 2, timeout=10_000)
    folder = tmp_path / "mr-series-4"
    assert np.array_equal(np.asarray(nib.load(folder / "mask.nii.gz").dataobj).T, expected)
    with (folder / "findings.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["unread", "reject", "unread"]
    layer = scored.session.mask
    write_labels(str(tmp_path / "saved.nii.gz"), layer.data, {"metadata": layer.metadata})
    saved = nib.load(tmp_path / "saved.nii.gz")
    assert np.array_equal(np.asarray(saved.dataobj).T, expected)


# ---------------------------------------------------------------------- strokes


@pytest.fixture
def paint(scored: ReviewDock) -> Callable[[tuple[int, int, int], int], None]:
    """One dab of the brush, one voxel wide, at a voxel of the scan's grid."""

    def dab(at: tuple[int, int, int], label: int) -> None:
        layer = scored.session.mask
        layer.brush_size = 1
        layer.paint(scored.session.geometry.display_index(at), label)

    return dab


def test_strokes_reach_the_list_and_outlive_the_threshold(
    scored: ReviewDock, finish: Any, paint: Any, qtbot: Any
) -> None:
    paint((3, 5, 5), 1)
    paint((6, 10, 25), 0)
    assert not scored.masks.settled
    finish(scored)
    assert len(column(scored, "#")) == 4
    assert scored.findings.strokes.text() == "By hand: 1 voxels painted, 1 erased."
    for threshold in (1.1, 2.6, 1.6):
        scored.threshold.slider.setValue(threshold)
        finish(scored)
        assert source(scored)[3, 5, 5] != 0
        assert source(scored)[6, 10, 25] == 0
    assert (source(scored) != 0).sum() == BIG + SMALL + TINY
    qtbot.mouseClick(scored.findings.forget, LEFT)
    finish(scored)
    assert source(scored)[6, 10, 25] == source(scored)[6, 10, 26] != 0
    assert source(scored)[3, 5, 5] == 0
    assert not scored.findings.forget.isVisible()


@on_screen
def test_undo_takes_a_stroke_back_from_the_list_too(
    scored: ReviewDock, finish: Any, paint: Any, qtbot: Any
) -> None:
    paint((3, 5, 5), 1)
    finish(scored)
    assert len(column(scored, "#")) == 4
    layer = scored.session.mask
    scored.viewer.layers.selection = {layer}
    canvas = scored.viewer.window._qt_viewer.canvas.native
    qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not scored.masks.settled
    finish(scored)
    assert len(column(scored, "#")) == 3
    assert not scored.session.strokes
    layer.redo()
    finish(scored)
    assert len(column(scored, "#")) == 4


def dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@on_screen
def test_refine_fits_the_outline_and_is_undone(
    scored: ReviewDock, finish: Any, qtbot: Any, lab: Any
) -> None:
    panel, masks = scored.findings, scored.masks

    def click_refine(which: Any) -> None:
        qtbot.mouseClick(which, LEFT)
        qtbot.waitUntil(lambda: not masks.is_refining, timeout=20_000)
        finish(scored)

    session, lesion = scored.session, np.zeros(lab.shape, bool)
    lesion[lab.lesion] = True
    # As coarse as patches: the threshold outlines more than there is.
    around = np.zeros(lab.shape, bool)
    around[5:8, 5:19, 17:33] = True
    session.score.nll[around & ~lesion] = 1.8
    masks.finish()
    finish(scored)
    marked = max(session.listed.items, key=lambda item: item.finding.voxels)
    row = column(scored, "#").index(str(marked.finding.rank))
    click_row(scored, qtbot, row)
    generous = source(scored) != 0
    assert generous[around].all()
    panel.keep()
    click_refine(panel.refine_button)
    fitted = source(scored) != 0
    assert dice(generous & around, lesion) < 0.6
    assert panel.refine_note.text() == "Outline refined."
    assert dice(fitted & around, lesion) > 0.9
    assert np.array_equal(fitted & ~around, generous & ~around)
    assert column(scored, "Status")[row] == "keep, refined"
    assert session.chosen is not None
    assert session.chosen.rank == marked.finding.rank
    assert panel.refine_note.text() == "Outline refined."
    scored.threshold.slider.setValue(2.6)
    finish(scored)
    assert (source(scored) != 0)[fitted & around].all()
    scored.threshold.slider.setValue(1.6)
    finish(scored)
    # Ctrl+Z in the dock, whichever layer is selected; redo; and the button again.
    keys = Qt.KeyboardModifier
    for modifier, wanted in (
        (keys.ControlModifier, generous),
        (keys.ControlModifier | keys.ShiftModifier, fitted),
    ):
        panel.table.setFocus()
        qtbot.keyClick(panel.table, Qt.Key.Key_Z, modifier)
        finish(scored)
        assert np.array_equal(source(scored) != 0, wanted)
        assert bool(session.strokes.refined) == (wanted is fitted)
        assert not len(session.strokes.painted) + len(session.strokes.erased)
    click_refine(panel.refine_button)
    assert np.array_equal(source(scored) != 0, generous)
    assert column(scored, "Status")[row] == "keep"
    click_refine(panel.refine_all_button)
    assert np.array_equal((source(scored) != 0) & around, fitted & around)
    assert "outlines refined." in panel.refine_note.text()


def test_looking_at_other_slices_is_no_stroke(scored: ReviewDock, finish: Any) -> None:
    for step in (1, 2, 3):
        scored.viewer.dims.set_current_step(scored.viewer.dims.order[0], step)
    assert scored.masks.settled
    assert not scored.session.strokes


def test_a_stroke_just_made_is_exported(
    scored: ReviewDock, paint: Any, qtbot: Any, tmp_path: Path, monkeypatch: Any, notes: list[str]
) -> None:
    target = tmp_path / "m.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    paint((3, 5, 5), 1)
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=10_000)
    written = np.asarray(nib.load(target).dataobj).T
    assert written[3, 5, 5] == 1
    assert written.sum() == BIG + SMALL + TINY + 1


@pytest.mark.parametrize("codes", ["RAS", "PSR", "LSP"])
def test_a_voxel_is_found_where_it_is_drawn(codes: str, lab: Any) -> None:
    geometry = Geometry(lab.shape, lab.affine(codes, (1, 2, 3)))
    array = np.zeros(lab.shape)
    array[2, 30, 7] = 1
    assert geometry.to_display(array)[geometry.display_index((2, 30, 7))] == 1
