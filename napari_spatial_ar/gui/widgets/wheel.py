"""The mouse wheel scrolls, and changes no value."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QAbstractSpinBox, QComboBox, QDial, QSlider, QTabBar, QWidget

__all__ = ["WheelGuard"]

#: What Qt would change by the wheel: a value, a choice, or which page is shown.
_CHANGED_BY_WHEEL = (QComboBox, QAbstractSpinBox, QSlider, QDial, QTabBar)
_NEW = (QEvent.Type.ChildAdded, QEvent.Type.ChildPolished)


class WheelGuard(QObject):
    """Hands the wheel over a combo box, spin box or slider on to what scrolls behind it.

    A reader who scrolls a dock would otherwise change the model, the plane or the threshold under
    the cursor without noticing. Keys and the mouse button change them as ever; the list of an open
    combo box scrolls. Widgets that come later, those of another library included, are guarded too.

    Parameters
    ----------
    root : QWidget
        The dock or dialog whose widgets are guarded; the guard lives as long as it does.
    """

    def __init__(self, root: QWidget):
        super().__init__(root)
        self._root = root
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self.look)
        self.look()

    def look(self) -> None:
        """Guard the widgets that there are now."""
        for widget in (self._root, *self._root.findChildren(QWidget)):
            # Installed once, however often it is asked for.
            widget.installEventFilter(self)
            takes = widget.focusPolicy() == Qt.FocusPolicy.WheelFocus
            if takes and isinstance(widget, _CHANGED_BY_WHEEL):
                widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Ignore the wheel where it would change something, so that it goes on to the parent."""
        kind = event.type()
        if kind == QEvent.Type.Wheel and isinstance(watched, _CHANGED_BY_WHEEL):
            event.ignore()
            return True
        if kind in _NEW:
            # Not now: a child that is being added is not a whole widget yet.
            self._later.start()
        elif kind == QEvent.Type.Show and watched is self._root:
            self.look()
        return False
