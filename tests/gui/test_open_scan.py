"""Choosing among the scans of a folder, with real clicks and keys."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import napari
import nibabel as nib
import numpy as np
import pydicom
import pytest
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QDialogButtonBox,
    QProgressDialog,
    QPushButton,
    QStyle,
    QStyleOptionViewItem,
)

from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE, thumbnail
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import open_scan
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.napari_plugin import read_layers
from napari_spatial_ar.gui.open_scan import SeriesChooser, columns, ticked_at_first
from napari_spatial_ar.imaging.reading import Found
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from tests.scans import AXIAL, build_image

LEFT = Qt.MouseButton.LeftButton


def series(folder: Path, number: int, slices: int = 4, **tags: Any) -> None:
    """Write an axial series whose patient's left-front corner is bright."""
    folder.mkdir(parents=True, exist_ok=True)
    for z in range(slices):
        pixels = np.full((16, 20), 100, np.uint16)
        pixels[:5, 12:] = 900 + z  # up and right on the screen: anterior, left
        image = build_image(
            pixels,
            ImageOrientationPatient=list(AXIAL),
            ImagePositionPatient=[-10, -8, 5.0 * z],
            PixelSpacing=[1.5, 1.0],
            SliceThickness=5,
            InstanceNumber=z + 1,
            SeriesInstanceUID=f"1.2.3.{number}",
            **{"SeriesNumber": number, "SeriesDescription": f"T{number} tra"} | tags,
        )
        pydicom.dcmwrite(folder / f"{number}_{z}", image, enforce_file_format=True)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two originals and a localizer."""
    folder = tmp_path / "DOE_JANE"
    series(folder, 1, slices=3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(folder, 2)
    series(folder, 3, slices=5)
    return folder


@pytest.fixture
def scans(lab: Any) -> list[Scan]:
    scan = lab.make_volume()
    return [
        replace(scan, role="localizer", series=Series("MR series 1")),
        replace(scan, series=Series("MR series 2", uid="2", description="FLAIR tra")),
        replace(scan, role="derived", series=Series("MR series 3")),
    ]


def show(qtbot: Any, found: Found) -> SeriesChooser:
    dialog = SeriesChooser(found)
    qtbot.addWidget(dialog)
    with qtbot.waitExposed(dialog):
        dialog.open()
    return dialog


def click_box(qtbot: Any, dialog: SeriesChooser, index: int) -> None:
    """Click the tick box of a row."""
    table = dialog.table
    option = QStyleOptionViewItem()
    option.initFrom(table)
    option.rect = table.visualItemRect(table.topLevelItem(index))
    option.features = QStyleOptionViewItem.ViewItemFeature.HasCheckIndicator
    option.viewItemPosition = QStyleOptionViewItem.ViewItemPosition.OnlyOne
    box = table.style().subElementRect(
        QStyle.SubElement.SE_ItemViewItemCheckIndicator, option, table
    )
    qtbot.mouseClick(table.viewport(), LEFT, pos=box.center())


def press(qtbot: Any, dialog: SeriesChooser, which: QDialogButtonBox.StandardButton) -> None:
    qtbot.mouseClick(dialog.buttons.button(which), LEFT)


# ---------------------------------------------------------------------- what it says


def test_a_row_says_all_there_is_to_say(qtbot: Any, scans: list[Scan]) -> None:
    warned = replace(
        scans[1],
        warnings=("One slice is missing.",),
        geometry=replace(scans[1].geometry, regular=False),
    )
    dialog = show(qtbot, Found((warned, scans[0]), (InputError("it is damaged", path="a.dcm"),)))
    row = dialog.table.topLevelItem(0)
    assert [row.text(column) for column in range(7)] == [
        "MR series 2",
        "FLAIR tra",
        "MRI",
        "axial",
        "36 x 40 x 12",
        "1 x 1.5 mm in plane",
        "geometry not regular, 1 warning",
    ]
    assert row.toolTip(0).startswith("One slice is missing.")
    assert dialog.table.topLevelItem(1).text(6) == "localizer"
    assert "1 input cannot be opened" in dialog.errors.text()
    assert "it is damaged" in dialog.errors.text()
    assert columns(scans[0])[5] == "1 x 1.5 x 3 mm"


def test_files_without_a_description_are_told_by_their_names(scans: list[Scan]) -> None:
    def named(*files: str) -> str:
        series = Series("NIfTI scan", tuple(map(Path, files)))
        return columns(replace(scans[0], series=series))[1]

    assert named("scans/head.nii.gz") == "head.nii.gz"
    assert named("eye/a.png", "eye/b.png") == "eye"
    assert named() == ""


def test_originals_are_ticked_and_of_long_runs_the_first(scans: list[Scan]) -> None:
    assert ticked_at_first(scans) == [False, True, False]
    assert ticked_at_first([scans[0], scans[2]]) == [True, False]
    times = [replace(scans[1], series=Series(f"time {n}", uid="9")) for n in range(6)]
    assert ticked_at_first([*scans, *times]) == [False, True, False, True] + 5 * [False]
    many = [replace(scans[1], series=Series(f"series {n}", uid=str(n))) for n in range(9)]
    assert sum(ticked_at_first(many)) == 1


def test_pictures_come_one_by_one_upright_and_in_proportion(
    qtbot: Any, scans: list[Scan], monkeypatch: Any
) -> None:
    gate = threading.Semaphore(0)
    monkeypatch.setattr(
        open_scan, "thumbnail", lambda scan: gate.acquire(timeout=5) and thumbnail(scan)
    )
    dialog = show(qtbot, Found(tuple(scans)))

    def drawn() -> list[bool]:
        items = [dialog.table.topLevelItem(i) for i in range(3)]
        return [bool(item.data(0, Qt.ItemDataRole.UserRole)) for item in items]

    assert drawn() == [False, False, False]
    gate.release()
    qtbot.waitUntil(lambda: drawn() == [True, False, False], timeout=5000)
    icon = dialog.table.topLevelItem(0).icon(0).pixmap(THUMBNAIL_SIZE, THUMBNAIL_SIZE).toImage()
    # The lesion of the test scan: middle slice, near the top and right of the middle.
    picture = thumbnail(scans[0])
    rows, width = picture.shape
    assert (rows, width) == (THUMBNAIL_SIZE, round(THUMBNAIL_SIZE * 36 / 60))
    y, x = np.argwhere(picture > 200).mean(axis=0)
    assert y < rows / 2
    assert x > width / 2
    at = QPoint(round(x) + (THUMBNAIL_SIZE - width) // 2, round(y))
    assert icon.pixelColor(at).lightness() > 200
    dialog.reject()
    gate.release(5)


def test_a_scan_whose_slice_is_damaged_keeps_the_placeholder(
    qtbot: Any, scans: list[Scan], monkeypatch: Any
) -> None:
    def fail(scan: Scan) -> Any:
        raise InputError("damaged")

    monkeypatch.setattr(open_scan, "thumbnail", fail)
    dialog = show(qtbot, Found(tuple(scans)))
    item = dialog.table.topLevelItem(2)
    qtbot.waitUntil(lambda: "cannot be read" in item.toolTip(0), timeout=5000)
    assert item.data(0, Qt.ItemDataRole.UserRole) is None


# ---------------------------------------------------------------------- choosing


def test_ticks_by_mouse_and_keyboard(qtbot: Any, scans: list[Scan]) -> None:
    dialog = show(qtbot, Found(tuple(scans)))
    assert [s.series.label for s in dialog.chosen] == ["MR series 2"]
    click_box(qtbot, dialog, 2)
    click_box(qtbot, dialog, 1)
    assert [s.series.label for s in dialog.chosen] == ["MR series 3"]
    qtbot.mouseClick(dialog.none_button, LEFT)
    assert dialog.chosen == []
    assert not dialog.open_button.isEnabled()
    dialog.table.setFocus()
    dialog.table.setCurrentItem(dialog.table.topLevelItem(0))
    qtbot.keyClick(dialog.table, Qt.Key.Key_Down)
    qtbot.keyClick(dialog.table, Qt.Key.Key_Space)
    assert [s.series.label for s in dialog.chosen] == ["MR series 2"]
    qtbot.mouseClick(dialog.all_button, LEFT)
    assert len(dialog.chosen) == 3
    with qtbot.waitSignal(dialog.accepted):
        qtbot.keyClick(dialog.table, Qt.Key.Key_Return)


def test_a_double_click_opens_that_one_alone(qtbot: Any, scans: list[Scan]) -> None:
    dialog = show(qtbot, Found(tuple(scans)))
    at = dialog.table.visualItemRect(dialog.table.topLevelItem(2)).center()
    with qtbot.waitSignal(dialog.accepted):
        qtbot.mouseClick(dialog.table.viewport(), LEFT, pos=at)
        qtbot.mouseDClick(dialog.table.viewport(), LEFT, pos=at)
    assert [s.series.label for s in dialog.chosen] == ["MR series 3"]


def test_escape_cancels_and_the_size_is_remembered(qtbot: Any, scans: list[Scan]) -> None:
    dialog = show(qtbot, Found(tuple(scans)))
    dialog.resize(700, 333)
    with qtbot.waitSignal(dialog.rejected):
        qtbot.keyClick(dialog.table, Qt.Key.Key_Escape)
    again = SeriesChooser(Found(tuple(scans)))
    qtbot.addWidget(again)
    assert (again.width(), again.height()) == (700, 333)


# ---------------------------------------------------------------------- in the dock


def test_a_folder_of_three_series_asks_and_opens_what_is_ticked(
    dock: Any, study: Path, qtbot: Any, notes: list[str]
) -> None:
    made = dock(scan=False, show=True)
    made.scan.opener.open([str(study)])
    assert made.scan.note.text() == "Searching for scans..."
    assert made.scan.cancel_button.isVisible()
    qtbot.waitUntil(lambda: made.scan.opener.chooser is not None, timeout=10_000)
    dialog = made.scan.opener.chooser
    labels = [dialog.table.topLevelItem(i).text(0) for i in range(3)]
    assert len(set(labels)) == 3
    assert [s.geometry.slice_count for s in dialog.chosen] == [4, 5]
    assert dialog.table.topLevelItem(1).text(1) == "T2 tra"
    click_box(qtbot, dialog, 1)
    press(qtbot, dialog, QDialogButtonBox.StandardButton.Open)
    qtbot.waitUntil(lambda: made.scan.layer is not None, timeout=10_000)
    assert made.scan.layer.data.shape == (5, 16, 20)
    assert len(made.viewer.layers) == 1
    assert not any("T3" in layer.name or "DOE" in layer.name for layer in made.viewer.layers)
    qtbot.waitUntil(lambda: not made.scan.cancel_button.isVisible())
    assert notes == []


def test_what_several_series_warn_of_is_said_once(
    dock: Any, study: Path, qtbot: Any, monkeypatch: Any, notes: list[str]
) -> None:
    find = open_scan.find_scans

    def find_and_warn(paths: Any) -> Any:
        found = find(paths)
        scans = [
            s.warn("It is cut.", f"It has {s.geometry.slice_count} slices.") for s in found.scans
        ]
        return replace(found, scans=scans)

    monkeypatch.setattr(open_scan, "find_scans", find_and_warn)
    made = dock(scan=False)
    for _ in range(2):
        made.scan.opener.open([str(study)])
        qtbot.waitUntil(lambda: made.scan.opener.chooser is not None, timeout=10_000)
        with qtbot.waitSignal(made.scan.opener.opened, timeout=10_000):
            press(qtbot, made.scan.opener.chooser, QDialogButtonBox.StandardButton.Open)
    assert notes == 2 * ["It is cut.", "It has 4 slices.", "It has 5 slices."]


def test_cancel_in_the_chooser_opens_nothing(dock: Any, study: Path, qtbot: Any) -> None:
    made = dock(scan=False, show=True)
    made.scan.opener.open([str(study)])
    qtbot.waitUntil(lambda: made.scan.opener.chooser is not None, timeout=10_000)
    press(qtbot, made.scan.opener.chooser, QDialogButtonBox.StandardButton.Cancel)
    assert made.scan.note.text() == "Nothing was opened."
    assert len(made.viewer.layers) == 0
    assert made.scan.open_button.isEnabled()


def test_looking_can_be_cancelled(
    dock: Any, study: Path, qtbot: Any, monkeypatch: Any, notes: list[str]
) -> None:
    gate = threading.Event()
    find = open_scan.find_scans
    monkeypatch.setattr(open_scan, "find_scans", lambda paths: gate.wait(5) and find(paths))
    made = dock(scan=False, show=True)
    made.scan.opener.open([str(study)])
    qtbot.mouseClick(made.scan.cancel_button, LEFT)
    assert made.scan.note.text() == "Cancelled."
    gate.set()
    qtbot.wait(300)
    assert made.scan.opener.chooser is None
    assert len(made.viewer.layers) == 0
    assert notes == []


def test_one_scan_opens_without_a_question(dock: Any, tmp_path: Path, qtbot: Any) -> None:
    series(tmp_path / "one", 7)
    made = dock(scan=False)
    made.scan.opener.open([str(tmp_path / "one")])
    qtbot.waitUntil(lambda: made.scan.layer is not None, timeout=10_000)
    assert made.scan.opener.chooser is None
    assert made.scan.layer.metadata[KEY]["volume"].geometry.spacing == (5, 1.5, 1)


# ---------------------------------------------------------------------- on the canvas


def answer(what: Any) -> None:
    """Once the modal dialog is there, do something with it."""

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        if isinstance(dialog, SeriesChooser):
            what(dialog)
        else:
            QTimer.singleShot(50, look)

    QTimer.singleShot(50, look)


def test_a_drop_on_the_canvas_asks_too(make_napari_viewer: Any, study: Path, qtbot: Any) -> None:
    viewer = make_napari_viewer(show=True)

    def take_localizer(dialog: SeriesChooser) -> None:
        qtbot.mouseClick(dialog.none_button, LEFT)
        click_box(qtbot, dialog, 0)
        press(qtbot, dialog, QDialogButtonBox.StandardButton.Open)

    answer(take_localizer)
    (layer,) = viewer.open(str(study), plugin="napari-spatial-ar")
    assert layer.data.shape == (3, 16, 20)
    assert [o.text for k, o in viewer.canvas.overlays.items() if k.startswith("patient_")] == [
        "R",
        "L",
        "A",
        "P",
        "Slice 2 of 3",
    ]


def test_cancel_on_the_canvas_adds_no_layer(make_napari_viewer: Any, study: Path) -> None:
    viewer = make_napari_viewer(show=True)
    answer(lambda dialog: dialog.reject())
    assert viewer.open(str(study), plugin="napari-spatial-ar") == []
    assert len(viewer.layers) == 0


def test_looking_on_the_canvas_can_be_cancelled(
    make_napari_viewer: Any, study: Path, qtbot: Any, monkeypatch: Any, notes: list[str]
) -> None:
    gate = threading.Event()
    find = open_scan.find_scans
    monkeypatch.setattr(open_scan, "find_scans", lambda paths: gate.wait(10) and find(paths))
    viewer = make_napari_viewer(show=True)

    def press_cancel() -> None:
        dialog = QApplication.activeModalWidget()
        if not isinstance(dialog, QProgressDialog):
            QTimer.singleShot(50, press_cancel)
            return
        assert dialog.labelText() == "Searching for scans..."
        qtbot.mouseClick(dialog.findChild(QPushButton), LEFT)

    QTimer.singleShot(50, press_cancel)
    assert viewer.open(str(study), plugin="napari-spatial-ar") == []
    gate.set()
    qtbot.waitUntil(lambda: pool().activeThreadCount() == 0, timeout=5000)
    qtbot.wait(50)
    assert len(viewer.layers) == 0
    assert notes == []


def test_an_error_on_the_canvas_is_one_sentence(
    lab: Any, make_napari_viewer: Any, tmp_path: Path, notes: list[str]
) -> None:
    viewer = make_napari_viewer(show=True)
    image = nib.Nifti1Image(lab.voxels().T, lab.affine("LPS", (1, 1, 3)))
    (tmp_path / "a.nii").write_bytes(image.to_bytes()[:9000])
    viewer.open(str(tmp_path / "a.nii"), plugin="napari-spatial-ar")
    assert len(notes) == 1
    assert "a.nii" in notes[0]
    assert "Traceback" not in notes[0]


def test_without_a_window_every_scan_is_returned(study: Path) -> None:
    assert napari.current_viewer() is None
    assert len(read_layers(str(study))) == 3
