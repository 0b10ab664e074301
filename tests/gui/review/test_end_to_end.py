"""From a dropped scan to files read back by other programs' libraries, with mouse and keys alone.

On the scan that comes with the package: with a tiny network, and with the released model where the
weights of its backbone are at hand.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture
from qtpy.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QMouseEvent, QWheelEvent
from qtpy.QtWidgets import QApplication, QFileDialog
from scipy import ndimage

from napari_spatial_ar.gui.open_scan import become_default_reader
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.viewer import camera_of
from napari_spatial_ar.imaging.samples import sample_path
from napari_spatial_ar.normative.fitting.fit import fit
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.paths import user_models_dir
from tests.gui.one_patient import assert_nothing_left, assert_one_patient

LEFT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
RELEASED = "brain-flair-change"
# Slices of the scan that are kept, in the file's own order: the tumour and what is below it.
KEPT = {"tiny": slice(None), RELEASED: slice(4, 28, 4)}


class Pace:
    """How long a model rests after each slice."""

    seconds = 0.0


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    made, iter_volume = Pace(), NormativeModel.iter_volume

    def paced(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for scored in iter_volume(*args, **kwargs):
            time.sleep(made.seconds)
            yield scored

    monkeypatch.setattr(NormativeModel, "iter_volume", paced)
    return made


@pytest.fixture(params=["tiny", RELEASED])
def model(request: Any, tmp_path: Path, pace: Pace) -> Iterator[str]:
    """Name of a model that the dock lists."""
    if request.param == RELEASED:
        yield RELEASED
        return
    request.getfixturevalue("tiny_weights")
    folder = tmp_path / "normal"
    folder.mkdir()
    data = np.asarray(nib.load(sample_path()).dataobj, np.float32)
    greys = np.clip(data * (255 / np.percentile(data, 99.5)), 0, 255).astype(np.uint8)
    for index in range(4, 12):
        picture = Picture.fromarray(greys[:, :, index].T)
        picture.save(folder / f"patient{(index - 4) // 2}_{index:02}.png")
    name = "review-end-to-end"
    fit(
        folder,
        backbone=request.getfixturevalue("tiny_name"),
        method="memory-bank",
        size=(160, 160),
        out=user_models_dir() / name,
    )
    pace.seconds = 0.3  # there must be something to cancel
    yield name
    shutil.rmtree(user_models_dir() / name)


@pytest.fixture
def scan(tmp_path: Path, model: str) -> Path:
    """The scan as a file of its own, whose grid the export must keep."""
    whole = nib.load(sample_path())
    path = tmp_path / "scan.nii.gz"
    nib.save(whole.slicer[:, :, KEPT.get(model, slice(None))], path)
    return path


def drag(widget: Any, spots: Sequence[QPoint]) -> None:
    """Move the mouse to the first spot, press, move to the others, and let go."""

    def send(kind: QEvent.Type, at: QPoint, button: Any, down: Any) -> None:
        place, there = QPointF(at), QPointF(widget.mapToGlobal(at))
        event = QMouseEvent(kind, place, there, button, down, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(widget, event)
        QApplication.processEvents()

    send(QEvent.Type.MouseMove, spots[0], NONE, NONE)
    send(QEvent.Type.MouseButtonPress, spots[0], LEFT, LEFT)
    for spot in spots[1:]:
        send(QEvent.Type.MouseMove, spot, NONE, LEFT)
    send(QEvent.Type.MouseButtonRelease, spots[-1], LEFT, NONE)


class Reader:
    """Somebody at the screen."""

    def __init__(self, dock: ReviewDock, qtbot: Any):
        self.dock, self.qtbot = dock, qtbot
        self.viewer = dock.viewer
        self.canvas = self.viewer.window._qt_viewer.canvas.native

    def drop(self, path: Path) -> None:
        """Drop a file on the dock."""
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(path))])
        copy, none = Qt.DropAction.CopyAction, Qt.KeyboardModifier.NoModifier
        self.dock.dropEvent(QDropEvent(QPointF(5, 5), copy, mime, LEFT, none))

    def drop_on_canvas(self, path: Path) -> None:
        """Drop a file on napari's canvas."""
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(path))])
        held = (Qt.DropAction.CopyAction, mime, LEFT, Qt.KeyboardModifier.NoModifier)
        target = self.viewer.window._qt_viewer
        QApplication.sendEvent(target, QDragEnterEvent(QPoint(50, 50), *held))
        QApplication.sendEvent(target, QDropEvent(QPointF(50, 50), *held))

    def pick(self, box: Any, index: int) -> None:
        """Open a list and press an item."""
        self.dock.scroll.ensureWidgetVisible(box)
        box.showPopup()
        item = box.view().visualRect(box.model().index(index, 0)).center()
        self.qtbot.mouseClick(box.view().viewport(), LEFT, pos=item)
        box.hidePopup()
        assert box.currentIndex() == index

    def turn_wheel(self, widget: Any) -> None:
        """Turn the wheel with the mouse on a widget, as the window is told of it."""
        self.dock.scroll.ensureWidgetVisible(widget)
        window, there = widget.window(), widget.mapToGlobal(widget.rect().center())
        here = QPointF(window.mapFromGlobal(there))
        turn = (QPoint(), QPoint(0, -120), NONE, Qt.KeyboardModifier.NoModifier)
        phase = Qt.ScrollPhase.NoScrollPhase
        event = QWheelEvent(here, QPointF(there), *turn, phase, False)
        QApplication.sendEvent(window.windowHandle(), event)
        QApplication.processEvents()

    def press_eye(self, layer: Any) -> None:
        """Press a layer's eye in napari's list."""
        model = self.viewer.window._qt_viewer.layers.model()
        rows = [model.index(row, 0) for row in range(model.rowCount())]
        (row,) = [row for row in rows if row.data() == layer.name]
        model.setData(row, Qt.CheckState.Checked, Qt.ItemDataRole.CheckStateRole)

    def click(self, widget: Any, at: QPoint | None = None) -> None:
        """Press a button that can be pressed."""
        assert widget.isEnabled()
        assert widget.isVisible()
        self.qtbot.mouseClick(widget, LEFT, pos=at or QPoint())

    def press(self, key: Any, *held: Any) -> None:
        """Press a key with the mouse on the canvas."""
        self.qtbot.keyClick(self.canvas, key, *held)
        QApplication.processEvents()

    def settle(self) -> None:
        """Wait until the mask of the whole volume is up to date."""
        self.qtbot.waitUntil(lambda: self.dock.masks.settled, timeout=30_000)

    @property
    def mask(self) -> Any:
        """Labels as they are drawn, on the source's own grid (Z, Y, X)."""
        session = self.dock.session
        return session.geometry.from_display(np.asarray(session.mask.data)).copy()

    @property
    def count(self) -> int:
        """Rows of the table."""
        return self.dock.findings.sorted.rowCount()

    def move_threshold(self, score: float) -> None:
        """Drag the line of the histogram to a score."""
        histogram = self.dock.threshold.histogram
        row = histogram.height() // 2
        start = histogram.x_of(self.dock.threshold.threshold)
        end = histogram.x_of(score)
        drag(histogram, [QPoint(round(x), row) for x in np.linspace(start, end, 5)])

    def click_row(self, row: int) -> None:
        """Click on a finding."""
        table = self.dock.findings.table
        self.dock.scroll.ensureWidgetVisible(table)
        spot = table.visualRect(self.dock.findings.sorted.index(row, 0)).center()
        self.click(table.viewport(), spot)

    def spot(self, row: int, column: int) -> QPoint:
        """Where the canvas shows a pixel of the slice in view."""
        layer, camera = self.dock.scan.layer, camera_of(self.viewer)
        shown = self.viewer.dims.displayed
        at = np.zeros(3)
        at[list(shown)] = row, column
        world = np.asarray(layer.data_to_world(at))[list(shown)]
        zoom = camera.zoom / self.canvas.devicePixelRatioF()
        down, right = (world - np.asarray(camera.center[-2:])) * zoom
        middle = QPointF(self.canvas.width() / 2, self.canvas.height() / 2)
        return QPoint(round(middle.x() + right), round(middle.y() + down))

    def in_view(self, pixels: Any) -> tuple[int, int]:
        """First of some (row, column) that the canvas shows, well within its rim."""
        rim = self.canvas.rect().adjusted(30, 30, -30, -30)
        return next((int(r), int(c)) for r, c in pixels if rim.contains(self.spot(r, c)))


@pytest.fixture
def reader(model: str, make_napari_viewer: Any, qtbot: Any) -> Reader:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 740)
    dock = ReviewDock(viewer)
    viewer.window.add_dock_widget(dock, name="Review")
    assert dock.models.choose(model)
    qtbot.waitUntil(lambda: dock.models.model is not None, timeout=60_000)
    return Reader(dock, qtbot)


def test_from_a_dropped_scan_to_files_that_others_read(
    pace: Pace,
    scan: Path,
    reader: Reader,
    qtbot: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock, viewer = reader.dock, reader.viewer
    source = nib.load(scan)

    # Open, score, cancel: it ends, and what is done stays.
    reader.drop(scan)
    qtbot.waitUntil(lambda: dock.slice_button.isEnabled(), timeout=30_000)
    reader.click(dock.volume_button)
    qtbot.waitUntil(lambda: dock.progress.value() >= 1, timeout=60_000)
    qtbot.waitUntil(lambda: dock.session.mask in viewer.layers, timeout=10_000)
    reader.click(dock.cancel_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=20_000)
    pace.seconds = 0.0
    done = dock.session.score.scored.copy()
    assert 0 < done.sum() < done.size
    before = dock.session.nll_planes[done].copy()
    assert dock.score_note.text().startswith("Stopped.")

    # On to the end: nothing that was done is done again.
    reader.click(dock.volume_button)
    qtbot.waitUntil(lambda: not dock.running and dock.masks.settled, timeout=240_000)
    assert dock.session.score.scored.all()
    assert np.array_equal(dock.session.nll_planes[done], before)
    nll = dock.session.score.nll.copy()

    # The threshold with the mouse: line and slider; the mask follows.
    reader.click(dock.threshold.highest)
    highest = float(nll.max())
    reader.move_threshold(highest + 1)
    reader.settle()
    assert reader.count == 0
    assert not reader.mask.any()
    for score in np.linspace(highest, np.median(nll), 25):
        reader.move_threshold(float(score))
        reader.settle()
        assert np.array_equal(reader.mask != 0, nll > dock.threshold.threshold)
        if reader.count >= 2:
            break
    assert reader.count >= 2
    bar, moved = dock.threshold.slider.bar, dock.threshold.threshold
    handle = 16  # pixels, in napari's themes
    place = handle / 2 + (bar.width() - handle) * bar.value() / bar.maximum()
    drag(bar, [QPoint(round(place - step), bar.height() // 2) for step in (0, 2, 5)])
    reader.settle()
    threshold = dock.threshold.threshold
    assert threshold < moved
    assert np.array_equal(reader.mask != 0, nll > threshold)
    if reader.count < 2:  # regions have grown into one
        reader.move_threshold(moved)
        reader.settle()
        threshold = dock.threshold.threshold

    # Findings: a click shows one, N the next, R rejects it.
    assert reader.count >= 2
    reader.click_row(0)
    first = dock.findings.current.finding
    reader.press(Qt.Key.Key_N)
    second = dock.findings.current.finding
    assert second.rank == first.rank + 1
    axis = dock.session.geometry.display_slice_axis
    shown = dock.session.geometry.slice_position(second.peak_slice)
    assert viewer.dims.current_step[axis] == shown
    reader.press(Qt.Key.Key_R)
    reader.settle()
    components, _ = ndimage.label(nll > threshold, np.ones((3, 3, 3)))
    peaks = np.flatnonzero((nll == np.float32(second.peak_score)) & (components > 0))
    rejected = components == components.flat[peaks[0]]
    assert 0 < rejected.sum() < (nll > threshold).sum()

    # A stroke of napari's brush where nothing is flagged; undone; painted again.
    free = np.asarray(dock.session.mask.data)[viewer.dims.current_step[axis]] == 0
    room = ndimage.minimum_filter(free, 41, mode="constant")
    row, column = reader.in_view(np.argwhere(room))
    viewer.layers.selection = {dock.session.mask}
    reader.press(Qt.Key.Key_P)  # the brush, as the mask layer is selected
    assert dock.session.mask.mode == "paint"
    stroke = [reader.spot(row, column + step) for step in range(0, 9, 2)]
    plain = reader.mask
    drag(reader.canvas, stroke)
    reader.settle()
    assert ((reader.mask != 0) & (plain == 0)).sum() >= 20
    reader.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    reader.settle()
    assert np.array_equal(reader.mask != 0, plain != 0)
    drag(reader.canvas, stroke)
    reader.settle()
    painted = (reader.mask != 0) & (plain == 0)
    assert painted.sum() >= 20
    # Where the mouse was, told from the file's own grid.
    at = np.zeros(3, int)
    at[axis] = shown
    at[list(viewer.dims.displayed)] = row, column + 4
    there = np.zeros(dock.session.geometry.display_shape, bool)
    there[tuple(at)] = True
    assert painted[dock.session.geometry.from_display(there)].all()

    # Everything into a folder, and read back by others.
    target = tmp_path / "exported"
    target.mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(target))
    dock.scroll.ensureWidgetVisible(dock.export)
    reader.click(dock.export.all_button)
    qtbot.waitUntil(lambda: any(target.glob("*/provenance.json")), timeout=60_000)
    (folder,) = target.iterdir()
    mask, scores = nib.load(folder / "mask.nii.gz"), nib.load(folder / "nll.nii.gz")
    for image in (mask, scores):
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    written = np.asarray(scores.dataobj, np.float32).T
    np.testing.assert_array_equal(written, nll)
    record = json.loads((folder / "provenance.json").read_text())
    assert record["threshold"]["mask_edited_by_hand"] is True
    assert record["threshold"]["score"] == pytest.approx(threshold)
    expected = ((written > record["threshold"]["score"]) & ~rejected) | painted
    np.testing.assert_array_equal(np.asarray(mask.dataobj).T != 0, expected)
    with (folder / "findings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (out,) = (r for r in rows if r["status"] == "reject")
    assert float(out["peak_score"]) == pytest.approx(second.peak_score, abs=1e-3)
    assert int(out["voxels"]) == rejected.sum()
    kept = sum(int(r["voxels"]) for r in rows if r["status"] != "reject")
    assert kept == expected.sum()
    listed = json.loads((folder / "findings.json").read_text())["findings"]
    assert len(listed) == len(rows)

    one_patient_at_a_time(reader, source, tmp_path)


def one_patient_at_a_time(reader: Reader, source: Any, folder: Path) -> None:
    """Open a second patient, who lies far from the first, and go from one to the other."""
    dock, viewer, qtbot = reader.dock, reader.viewer, reader.qtbot
    first, session = dock.scan.layer, dock.session
    assert_one_patient(dock)
    part = source.slicer[:, :, :3]
    affine = part.affine.copy()
    affine[:3, 3] += 700, -500, 300
    nib.save(nib.Nifti1Image(np.asarray(part.dataobj), affine), folder / "second.nii.gz")
    become_default_reader()
    reader.drop_on_canvas(folder / "second.nii.gz")
    qtbot.waitUntil(lambda: dock.scan.layer is not first, timeout=30_000)
    second = dock.scan.layer
    assert_one_patient(dock)
    assert dock.score_note.text() == ""
    reader.click(dock.slice_button)
    qtbot.waitUntil(lambda: not dock.running and dock.masks.settled, timeout=60_000)
    assert_one_patient(dock)
    reader.pick(dock.scan.box, dock.scan.box.findData(first))
    assert dock.session is session
    assert_one_patient(dock)
    reader.settle()

    # The wheel over what it could change.
    for box in (dock.scan.box, dock.model_box, dock.plane_box, dock.threshold.unit_box):
        before = box.currentIndex()
        reader.turn_wheel(box)
        assert box.currentIndex() == before
    threshold = dock.threshold.threshold
    for widget in (dock.threshold.slider.bar, dock.threshold.slider.field):
        reader.turn_wheel(widget)
    assert dock.threshold.threshold == threshold

    # Another plane, and back.
    reader.pick(dock.plane_box, 2)
    assert not session.heatmap.visible
    assert not dock.threshold.highest.isEnabled()
    assert_one_patient(dock)
    reader.pick(dock.plane_box, 0)
    assert session.heatmap.visible
    reader.settle()
    reader.press_eye(second)
    assert dock.scan.layer is second
    assert_one_patient(dock)
    reader.pick(dock.scan.box, dock.scan.box.findData(first))
    reader.settle()
    dock.scroll.ensureWidgetVisible(dock.threshold.highest)
    reader.click(dock.threshold.highest)
    axis, highest = session.geometry.display_slice_axis, session.highest_slice
    assert viewer.dims.current_step[axis] == session.geometry.slice_position(highest)

    # A warning that comes late moves no button.
    spots = [button.mapToGlobal(QPoint()) for button in (dock.slice_button, dock.volume_button)]
    before = dock.shift_note.text()
    dock.shift_note.set_text("Unlike in every way, as comes out late" if not before else "", "So.")
    QApplication.processEvents()
    assert dock.shift_note.isVisible() == (not before)
    buttons = (dock.slice_button, dock.volume_button)
    assert [button.mapToGlobal(QPoint()) for button in buttons] == spots

    # Opened once more, it is the same dock; deleted, a scan takes all along.
    _, again = viewer.window.add_plugin_dock_widget("napari-spatial-ar", "Review")
    assert again is dock
    assert viewer.window._qt_window.findChildren(ReviewDock) == [dock]
    viewer.layers.selection = {first, session.mask}
    viewer.layers.remove_selected()
    QApplication.processEvents()
    assert dock.scan.layer is second
    assert_one_patient(dock)
    assert_nothing_left(dock)
