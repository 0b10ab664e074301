"""A dock of this plugin: one of each kind per viewer, one look, and one place as tabs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from napari import Viewer
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QDockWidget, QFrame, QMainWindow, QScrollArea, QVBoxLayout, QWidget

from napari_spatial_ar.gui.viewer import viewer_itself
from napari_spatial_ar.gui.widgets.forms import NoWheel, research_line

if TYPE_CHECKING:
    from napari.components import ViewerModel


__all__ = ["DockPage"]

# A frame around the widget with keyboard focus, which napari's themes do not draw. It is visible
# on their dark and light backgrounds.
_FOCUS_STYLE = "".join(
    f"{kind}:focus {{ border: 2px solid #2f8fe0; }}"
    for kind in ("QPushButton", "QToolButton", "QComboBox", "QCheckBox", "QSlider", "QTableView")
)

_pages: WeakKeyDictionary[ViewerModel, dict[type[DockPage], ref[DockPage]]] = WeakKeyDictionary()


def _forget(viewer: ref[ViewerModel], kind: type[DockPage], *_: object) -> None:
    found = viewer()
    if found is not None:
        _pages.get(found, {}).pop(kind, None)


class _OneAViewer(type(QWidget)):  # type: ignore[misc]
    """Returns a viewer's existing dock of a kind, in place of a second one.

    napari identifies a dock by its name, which differs between its menu and ``napari -w``, so that
    it may ask for a new one although there is one. Two would both draw on the same layers. A viewer
    without a window, as in scripts and tests, is not restricted.
    """

    def __call__(cls, napari_viewer: ViewerModel) -> DockPage:
        made: DockPage
        viewer = viewer_itself(napari_viewer)
        if not hasattr(viewer, "window"):
            made = super().__call__(napari_viewer)
            return made
        known = _pages.setdefault(viewer, {})
        page = known[cls]() if cls in known else None
        if page is not None:
            page.bring_to_front()
            return page
        made = super().__call__(napari_viewer)
        known[cls] = ref(made)
        made.destroyed.connect(partial(_forget, ref(viewer), cls))
        return made


class DockPage(QWidget, metaclass=_OneAViewer):
    """Common parts of this plugin's docks. A viewer has one of each kind, however it was opened.

    If napari puts it into a second dock widget, the first one is removed. A closed dock is
    suspended with its state, and is unchanged when it is opened again.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer the dock belongs to.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        super().__init__()
        self.viewer = viewer_itself(napari_viewer)
        self._frame: QDockWidget | None = None
        self._window: QMainWindow | None = None
        self._placed = False
        self._suspended = False
        self._closing = QTimer(self)
        self._closing.setSingleShot(True)
        self._closing.timeout.connect(self._on_closed)
        self.setStyleSheet(_FOCUS_STYLE)
        self._guard = NoWheel(self)

    def lay_out(
        self,
        sections: Sequence[QWidget],
        *,
        stretch: int | None = None,
        head: QWidget | None = None,
        foot: QWidget | None = None,
    ) -> None:
        """Stack sections vertically, which scroll if the window is too low for them.

        The head above them, and the foot and the research-use line below, are always in view.
        """
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        if head is not None:
            head.layout().setContentsMargins(8, 6, 8, 4)
            outer.addWidget(head)
        self.scroll = _scrolling(sections, stretch)
        outer.addWidget(self.scroll, 1)
        if foot is not None:
            foot.layout().setContentsMargins(8, 6, 8, 4)
            outer.addWidget(foot)
        outer.addWidget(research_line())
        self._guard.look()
        self.scroll.widget().installEventFilter(self)
        self._widen()

    def _widen(self) -> None:
        """Give the sections their full width, beside a scroll bar: nothing scrolls sideways."""
        # napari's themes draw a border of a pixel, of which Qt's frame width knows nothing.
        bar = self.scroll.verticalScrollBar().sizeHint().width() + 2
        self.scroll.setMinimumWidth(self.scroll.widget().minimumSizeHint().width() + bar)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the sections, and the scroll bar once its style is known, as they get wider."""
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Resize):
            self._widen()
        return bool(super().eventFilter(watched, event))

    # ------------------------------------------------------------------ in napari's window

    def set_suspended(self, suspended: bool) -> None:
        """Leave the viewer alone while the dock is closed (True), and resume (False)."""

    def frame(self) -> QDockWidget | None:
        """Return the dock widget that contains this page."""
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QDockWidget):
            parent = parent.parentWidget()
        return parent

    def bring_to_front(self) -> None:
        """Show the dock, in front of its tabs."""
        frame = self.frame()
        if frame is not None:
            frame.show()
            frame.raise_()

    def event(self, event: QEvent) -> bool:
        """Follow napari as it adds the page to a dock widget, or removes it."""
        if event.type() == QEvent.Type.ParentChange:
            self._on_parent()
        return bool(super().event(event))

    def _on_parent(self) -> None:
        frame, before = self.frame(), self._frame
        if frame is before:
            return
        self._frame = frame
        if before is not None and frame is None:
            self._window = before.parentWidget()
            self._closing.start(0)  # unless it is being moved into another
        if frame is None:
            return
        self._placed = False
        self.show()  # Qt hides a widget whose parent changes
        if before is not None and isinstance(self.viewer, Viewer):
            self.viewer.window.remove_dock_widget(before)
        if self._suspended:
            self._suspended = False
            self.set_suspended(False)

    def _on_closed(self) -> None:
        if self._frame is None and not self._suspended:
            self._suspended = True
            self.set_suspended(True)
            # Owned by the window, so that it lasts as long.
            window, self._window = self._window, None
            self.setParent(window)

    def showEvent(self, event: QShowEvent) -> None:
        """Join the plugin's other dock when shown for the first time."""
        super().showEvent(event)
        if not self._placed:
            self._placed = True
            # Only after the dock has been added to the window.
            QTimer.singleShot(0, self._join)

    def _join(self) -> None:
        """Become a tab beside the plugin's other dock: below it, neither would have room."""
        window = self.window()
        if not isinstance(window, QMainWindow):
            return
        docks = {page: page.frame() for page in window.findChildren(DockPage)}
        mine = docks.pop(self, None)
        for other in docks.values():
            if mine is None or other is None or mine.isFloating() or other.isFloating():
                continue
            if window.dockWidgetArea(mine) == window.dockWidgetArea(other):
                window.tabifyDockWidget(other, mine)
                mine.raise_()


def _scrolling(sections: Sequence[QWidget], stretch: int | None) -> QScrollArea:
    content = QWidget()
    layout = QVBoxLayout(content)
    layout.setContentsMargins(8, 6, 8, 4)
    layout.setSpacing(9)
    for index, part in enumerate(sections):
        layout.addWidget(part, 1 if index == stretch else 0)
    # Takes the remaining space if no other widget stretches.
    layout.addStretch(0)
    scroll = QScrollArea()
    scroll.setFrameShape(QFrame.Shape.NoFrame)
    # Tab goes to what is in it; Page Up and Page Down reach it from there.
    scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    scroll.setWidgetResizable(True)
    scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    scroll.setWidget(content)
    return scroll
