"""Nothing is cut in a window of 1366 x 768, the smallest that is common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qtpy.QtCore import QEvent, QPoint
from qtpy.QtGui import QHelpEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QLabel,
    QPushButton,
    QScrollArea,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.demo import open_review
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.library.actions import CheckpointDialog
from napari_spatial_ar.gui.library.add_weights_dialog import AddWeightsDialog
from napari_spatial_ar.gui.library.comparison_dialog import ComparisonDialog
from napari_spatial_ar.gui.library.dialog import LibraryDialog
from napari_spatial_ar.gui.library.weights_dialog import WeightsDialog
from napari_spatial_ar.gui.open_scan import SeriesChooser
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.shortcuts import ShortcutsDialog
from napari_spatial_ar.gui.training.dock import TrainingDock
from napari_spatial_ar.gui.training.outliers_dialog import OutliersDialog
from napari_spatial_ar.gui.widgets.dock_page import DockPage
from napari_spatial_ar.gui.widgets.forms import Combo, Fold, select_data
from napari_spatial_ar.gui.worklist import panel as worklist_panel
from napari_spatial_ar.imaging.reading import Found
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative.detectors import DETECTORS
from tests.gui.training.test_outliers_dialog import suspects
from tests.gui.widgets.test_dock_page import by_command_line, by_menu
from tests.gui.window_size import misfits

WIDTH, HEIGHT = 1366, 768


def settle(root: QWidget) -> list[str]:
    """Let layouts come to rest, and give what still does not fit: each asks the one around it."""
    for _ in range(100):
        QApplication.processEvents()
        if not misfits(root):
            break
        QTest.qWait(20)
    return misfits(root)


@pytest.fixture
def viewer(make_napari_viewer: Any, models: Any) -> Any:
    made = make_napari_viewer(show=True)
    made.window._qt_window.setGeometry(0, 0, WIDTH, HEIGHT)
    return made


def check(page: DockPage) -> None:
    """The window kept its size, and all of the page is seen or scrolled to."""
    assert settle(page) == []
    window = page.window()
    assert (window.width(), window.height()) == (WIDTH, HEIGHT)


def unfold(page: QWidget) -> None:
    for fold in page.findChildren(Fold):
        fold.expand()


OPENED: dict[str, Callable[[Any, str], Any]] = {
    "menu": by_menu,
    "-w": by_command_line,
    "demo": lambda viewer, name: open_review(viewer),
}


@pytest.mark.parametrize("way", OPENED)
def test_the_review_dock_fits_however_it_is_opened(
    viewer: Any, lab: Any, models: Any, finish: Any, qtbot: Any, monkeypatch: Any, way: str
) -> None:
    OPENED[way](viewer, "Review")
    (dock,) = viewer.window._qt_window.findChildren(ReviewDock)
    qtbot.waitUntil(lambda: dock.models.model is not None, timeout=20_000)
    check(dock)
    volume = lab.make_volume()
    for label in ("MR series 4", "NIfTI scan 256 x 256 x 25", "CT, series 12, time point 3"):
        series = replace(volume.series, label=label)
        viewer.add_image(**volume_layer_kwargs(replace(volume, series=series)))
    check(dock)
    dock.score("volume")
    finish(dock)
    dock.shift_note.set_text("Outside the training domain: T1 instead of FLAIR.", "It is so.")
    check(dock)
    dock.findings.next()
    finish(dock)
    unfold(dock)
    check(dock)
    dock.model_panel.weights.mean("dinov3_vits16")
    dock.model_note.set_text(model_access.weights_missing("dinov3_vits16"))
    check(dock)


def out_of_view(dock: ReviewDock) -> list[str]:
    """Widgets of a first reading that cannot be seen whole without scrolling."""
    settle(dock)
    threshold, findings, export = dock.threshold, dock.findings, dock.export
    first = [dock.scan.open_button, dock.scan.worklist_button, dock.scan.box, dock.model_box]
    first += [dock.slice_button, dock.volume_button, dock.score_note]
    first += [threshold.slider, threshold.meaning, threshold.findings, threshold.highest]
    first += [findings.table, *findings.buttons.values()]
    first += [export.mask_button, export.all_button, export.report_button, export.send_button]
    first += [dock.progress, dock.cancel_button] if dock.running else []
    first += [dock.p_value_note] if dock.p_value_note.text() else []
    return [
        widget.toolTip() or widget.text()
        for widget in first
        if widget.visibleRegion().boundingRect() != widget.rect()
    ]


def test_a_first_reading_needs_no_scrolling(viewer: Any, lab: Any, finish: Any, qtbot: Any) -> None:
    dock = open_review(viewer)
    qtbot.waitUntil(lambda: dock.models.model is not None, timeout=20_000)
    viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    dock.shift_note.set_text("Outside the training domain: T1 instead of FLAIR.", "It is so.")
    dock.unseen_note.set_text("The model knows slices 5 to 29 of this scan.")
    dock.volume_button.click()
    dock.scoring.show_progress(1, 12)
    assert dock.running
    assert out_of_view(dock) == []
    finish(dock)
    dock.findings.next()
    finish(dock)
    dock.unseen_note.set_text("The model knows slices 5 to 29 of this scan.")
    dock.shift_note.set_text("Outside the training domain: T1 instead of FLAIR.", "It is so.")
    assert dock.findings.current is not None
    assert dock.scroll.verticalScrollBar().value() == 0
    assert out_of_view(dock) == []
    dock.threshold.more.expand()
    dock.threshold.form.fold.expand()
    assert dock.findings.buttons["reject"].toolTip() in out_of_view(dock)  # the check works
    assert not {dock.export.mask_button.toolTip(), dock.scan.box.toolTip()} & set(out_of_view(dock))


def test_the_training_dock_fits_with_every_method(viewer: Any, qtbot: Any) -> None:
    by_command_line(viewer, "Training")
    (dock,) = viewer.window._qt_window.findChildren(TrainingDock)
    box = dock.form.method.box
    for index in range(box.count()):
        box.setCurrentIndex(index)
        check(dock)
        dock.form.method.pages[box.currentData()].more.expand(animate=False)
        check(dock)
    for modality in ("ct", "oct"):
        select_data(dock.form.modality, modality)
        dock.form.window.box.setCurrentIndex(dock.form.window.box.count() - 1)
        check(dock)
    assert box.count() == len(DETECTORS)


def test_a_name_that_is_longer_than_a_dock_is_shortened_and_its_tooltip_is_not(
    viewer: Any, lab: Any, qtbot: Any
) -> None:
    dock = open_review(viewer)
    before = dock.width()
    volume = lab.make_volume()
    label = "t2_space_dark-fluid_sag_p2_iso_1.0_with_a_name_that_nobody_would_type " * 3
    layer = viewer.add_image(
        **volume_layer_kwargs(replace(volume, series=replace(volume.series, label=label)))
    )
    settle(dock)
    assert dock.width() == before
    assert dock.scan.box.currentData() is layer
    assert dock.scan.box.shortened
    QApplication.sendEvent(dock.scan.box, QHelpEvent(QEvent.Type.ToolTip, QPoint(), QPoint()))
    assert label.strip() in QToolTip.text()


def library(window: QWidget, lab: Any) -> QDialog:
    return LibraryDialog(window)


def comparison(window: QWidget, lab: Any) -> QDialog:
    return ComparisonDialog([], None, window)


def weights(window: QWidget, lab: Any) -> QDialog:
    made = WeightsDialog("dinov3_vits16", window)
    made.progress.show()
    made.note.set_text("86 MB of 86 MB downloaded. " * 3)
    return made


def adding(window: QWidget, lab: Any) -> QDialog:
    made = AddWeightsDialog("", window)
    for field in made._asked.values():
        field.show()
    return made


def keys(window: QWidget, lab: Any) -> QDialog:
    return ShortcutsDialog(window)


def checkpoint(window: QWidget, lab: Any) -> QDialog:
    said = {"folder_backbone": "dinov3_vits16", "folder_dilations": (4,), "size": None}
    network = {"channels": 384, "layers": 5, "kernel": 3, "context": "causal"}
    return CheckpointDialog(SimpleNamespace(path=Path("mine.pth"), **said, **network), window)


def chooser(window: QWidget, lab: Any) -> QDialog:
    scan = lab.make_volume()
    labels = "MR series 4", "NIfTI scan 256 x 256 x 25, time point 12"
    series = [Series(label, uid=label, description="FLAIR tra p2 iso") for label in labels]
    found = [replace(scan, series=one, warnings=("One slice is missing.",)) for one in series]
    return SeriesChooser(Found(tuple(found)), window, worklist=True)


def surprising(window: QWidget, lab: Any) -> QDialog:
    return OutliersDialog(suspects(), window)


DIALOGS = (library, comparison, weights, adding, keys, checkpoint, chooser, surprising)


@pytest.mark.parametrize("build", DIALOGS)
def test_dialogs_fit(
    viewer: Any, lab: Any, qtbot: Any, build: Callable[..., QDialog], monkeypatch: Any
) -> None:
    monkeypatch.setattr(model_access, "weights_hint", lambda name, header=None: f"No {name}. " * 5)
    made = build(viewer.window._qt_window, lab)
    made.show()
    QTest.qWait(300)
    assert settle(made) == []
    assert made.width() <= WIDTH
    assert made.height() <= HEIGHT - 40  # the title bar
    made.close()
    qtbot.waitUntil(lambda: pool().waitForDone(0), timeout=60_000)


def test_the_worklist_fits(
    viewer: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worklist_panel, "worklist_dir", lambda: tmp_path / "kept")
    dock = open_review(viewer)
    qtbot.waitUntil(lambda: dock.models.model is not None, timeout=20_000)
    dock.show_worklist()
    assert dock.worklist is not None
    settle(dock)
    assert settle(dock.worklist) == []
    assert settle(dock) == []
    window = viewer.window._qt_window
    assert (window.width(), window.height()) == (WIDTH, HEIGHT)


# ---------------------------------------------------------------------- the check itself


def test_what_is_cut_is_found(qtbot: Any) -> None:
    root = QWidget()
    qtbot.addWidget(root)
    root.resize(200, 100)
    fits, cut = QPushButton("fits", root), QPushButton("a text with no room", root)
    fits.setGeometry(0, 0, 150, 30)
    cut.setGeometry(0, 40, 30, 30)
    outside = QLabel("outside", root)
    outside.setGeometry(180, 70, 100, 20)
    box = Combo()
    box.setParent(root)
    box.addItem("many more letters than fit in here")
    box.setGeometry(0, 70, 60, 20)
    root.show()
    first, second, third = misfits(root)
    assert "a text with no room" in first
    assert "outside" in second
    assert "many more letters" in third


def test_what_can_be_scrolled_to_is_not_cut(qtbot: Any) -> None:
    scroll = QScrollArea()
    qtbot.addWidget(scroll)
    content = QWidget()
    layout = QVBoxLayout(content)
    for number in range(40):
        layout.addWidget(QPushButton(f"{number}"))
    scroll.setWidget(content)
    scroll.resize(300, 200)
    scroll.show()
    assert settle(scroll) == []
