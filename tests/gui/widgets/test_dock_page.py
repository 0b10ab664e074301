"""One dock of a kind a viewer, however it is opened."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from npe2 import PluginManager
from qtpy.QtWidgets import QApplication, QDockWidget

from napari_spatial_ar.gui.demo import open_review
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.training.dock import TrainingDock
from napari_spatial_ar.gui.widgets.dock_page import DockPage

PLUGIN = "napari-spatial-ar"


def by_command_line(viewer: Any, name: str) -> None:
    """What ``napari -w napari-spatial-ar NAME`` does."""
    viewer.window.add_plugin_dock_widget(PLUGIN, name, tabify=True)


def by_menu(viewer: Any, name: str) -> None:
    """Press the entry of napari's Plugins menu."""
    viewer.window.activate()
    menu = viewer.window.plugins_menu
    menu.aboutToShow.emit()
    entries = [action for each in menu.actions() if each.menu() for action in each.menu().actions()]
    (entry,) = [action for action in entries if action.text() == name]
    entry.trigger()


def by_npe2(viewer: Any, name: str) -> None:
    """Run the command of the manifest, as other programs do."""
    PluginManager.instance().commands.execute(f"{PLUGIN}.{name.lower()}", (viewer,))


def pages_of(viewer: Any) -> list[Any]:
    """What napari's dock widgets hold of this plugin; fails where one that is empty is seen."""
    frames = viewer.window._qt_window.findChildren(QDockWidget)
    assert not any(frame.isVisible() for frame in frames if frame.widget() is None)
    return [page for page in viewer.window.dock_widgets.values() if isinstance(page, DockPage)]


@pytest.mark.parametrize(("name", "kind"), [("Review", ReviewDock), ("Training", TrainingDock)])
def test_a_viewer_has_one_dock_of_a_kind_however_it_is_opened(
    make_napari_viewer: Any, models: Any, qtbot: Any, name: str, kind: type
) -> None:
    viewer = make_napari_viewer(show=True)
    window = viewer.window._qt_window
    by_command_line(viewer, name)
    (dock,) = window.findChildren(kind)
    other = TrainingDock if kind is ReviewDock else ReviewDock
    by_menu(viewer, "Training" if kind is ReviewDock else "Review")
    qtbot.waitUntil(lambda: not dock.isVisible(), timeout=5000)  # a tab behind the other
    for opened in (by_menu, by_command_line, by_npe2, by_npe2):
        opened(viewer, name)
        qtbot.waitUntil(dock.isVisible, timeout=5000)
        assert window.findChildren(kind) == [dock]
        assert len(window.findChildren(other)) == 1
        assert len(pages_of(viewer)) == 2
        assert dock in pages_of(viewer)
    assert kind(viewer) is dock


def test_a_dock_that_was_closed_comes_back_with_all_it_knew(
    dock: Any, models: Any, finish: Any, qtbot: Any, lab: Any
) -> None:
    made = dock(window=True)
    viewer = made.viewer
    made.score("volume")
    finish(made)
    session = made.session
    gate = models["fake"].gate = threading.Semaphore(0)
    made.score("volume")
    qtbot.waitUntil(lambda: made.running)
    made.frame().destroyOnClose()  # the cross in the title bar
    qtbot.wait(1)
    gate.release(20)
    qtbot.waitUntil(lambda: not made.running, timeout=5000)
    assert pages_of(viewer) == []
    assert open_review(viewer) is made
    QApplication.processEvents()
    assert made.frame() is not None
    assert made.session is session
    assert session.score.scored.all()
    assert made.isVisibleTo(made.frame())
