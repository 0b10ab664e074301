"""A frame around the widget that keys go to: napari's themes draw none."""

from __future__ import annotations

from contextlib import suppress

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QApplication, QFrame, QLineEdit, QWidget

__all__ = ["FocusRing"]

# Read on napari's dark and light backgrounds alike.
_STYLE = "border: 2px solid #2f8fe0; border-radius: 3px; background: transparent;"
_MOVED = (QEvent.Type.Move, QEvent.Type.Resize, QEvent.Type.Show, QEvent.Type.Hide)


class FocusRing(QObject):
    """Frames the widget of a window or dock that was reached with the keyboard.

    Of what was clicked no frame is drawn, nor of text fields, which have a cursor.

    Parameters
    ----------
    scope : QWidget
        The dock, panel or dialog; also the owner.
    """

    def __init__(self, scope: QWidget):
        super().__init__(scope)
        self._scope = scope
        self._focused: QWidget | None = None
        self._frame: QFrame | None = None
        QApplication.instance().focusChanged.connect(self._on_focus)

    @property
    def framed(self) -> QWidget | None:
        """The widget that has a frame now."""
        return self._focused

    def _on_focus(self, old: QWidget | None, new: QWidget | None) -> None:
        # A widget may be gone before its Python half is.
        with suppress(RuntimeError):
            self._leave()
            by_mouse = QApplication.mouseButtons() != Qt.MouseButton.NoButton
            if new is None or by_mouse or isinstance(new, QLineEdit):
                return
            if self._scope.isAncestorOf(new) and new.window() is self._scope.window():
                self._enter(new)

    def _enter(self, widget: QWidget) -> None:
        self._focused = widget
        widget.installEventFilter(self)
        # Of the same parent, with which it scrolls.
        self._frame = QFrame(widget.parentWidget())
        self._frame.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._frame.setStyleSheet(_STYLE)
        self._place()

    def _leave(self) -> None:
        widget, frame = self._focused, self._frame
        self._focused = self._frame = None
        for made in (widget, frame):
            with suppress(RuntimeError):
                if made is widget and widget is not None:
                    widget.removeEventFilter(self)
                elif frame is not None:
                    frame.hide()
                    frame.deleteLater()

    def _place(self) -> None:
        if self._focused is not None and self._frame is not None:
            self._frame.setGeometry(self._focused.geometry().adjusted(-1, -1, 1, 1))
            self._frame.setVisible(self._focused.isVisible())
            self._frame.raise_()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the widget."""
        if event.type() in _MOVED and watched is self._focused:
            self._place()
        return False
