"""Keyboard shortcuts of the Review dock: a table of them, and how they are bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakMethod, ref

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialogButtonBox,
    QHeaderView,
    QShortcut,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.gui.widgets.forms import Dialog
from napari_spatial_ar.gui.widgets.tooltips import tooltip

if TYPE_CHECKING:
    from napari.components import ViewerModel


__all__ = ["EXPLAIN_KEY", "MODE_KEY", "SHORTCUTS", "SIDE_KEY", "ShortcutsDialog", "bind"]

#: Keys that napari gives to no layer and to no menu.
MODE_KEY, SIDE_KEY, EXPLAIN_KEY = "H", "G", "Q"
#: Key and its action, as shown to users.
SHORTCUTS: tuple[tuple[str, str], ...] = (
    (MODE_KEY, "Results: heatmap and outline, outline, filled, heatmap, off"),
    (SIDE_KEY, "Scan and results side by side, and back"),
    (EXPLAIN_KEY, "Explain the patch under the cursor: freeze it, or follow the mouse again"),
    ("N", "Next flagged region"),
    ("P or Shift+N", "Previous flagged region"),
    ("K", "Keep the region as a finding"),
    ("U", "Mark the region as unsure"),
    ("R", "Reject the region; press again to undo"),
    ("F", "Fit the outline of the region to the edges of the image; press again to undo"),
    ("Shift+F", "Fit the outlines of all regions; press again to cancel"),
    ("Ctrl+Z, Ctrl+Shift+Z", "Undo an edit of the mask, redo it"),
    ("W", "Open the next unread scan of the worklist"),
    ("D", "Mark the chosen scan of the worklist as done; press again to undo"),
    ("Alt+1, 2, 3", "Axial, coronal, sagittal slices"),
    ("Left, Right", "Previous slice, next slice (napari)"),
    ("Ctrl+R", "Fit the view to the window (napari)"),
)


def bind(
    viewer: ViewerModel,
    scopes: Sequence[QWidget],
    key: str,
    slot: Callable[[], None],
    *,
    while_visible: QWidget | None = None,
) -> None:
    """Bind a key to a method, in docks and from the viewer's canvas.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose canvas receives the key.
    scopes : sequence of QWidget
        The docks: the key works in them but in text fields.
    key : str
        Such as ``"H"`` or ``"Shift+N"``.
    slot : bound method
        Held by weak reference.
    while_visible : QWidget, optional
        On the canvas the key works only while this can be seen.
    """
    for scope in scopes:
        shortcut = QShortcut(QKeySequence(key), scope)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(slot)
    held, seen = WeakMethod(slot), None if while_visible is None else ref(while_visible)

    def press(viewer: ViewerModel) -> None:
        found, widget = held(), None if seen is None else seen()
        if found is not None and (seen is None or (widget is not None and widget.isVisible())):
            found()

    viewer.bind_key(key.replace("+", "-"), press, overwrite=True)


class ShortcutsDialog(Dialog):
    """Shows `SHORTCUTS`."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setWindowTitle("Keys of the Review dock")
        self.table = QTableWidget(len(SHORTCUTS), 2)
        self.table.setHorizontalHeaderLabels(["Key", "Action"])
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.setAccessibleName("Keys")
        self.table.setToolTip(tooltip("keys.table"))
        for row, words in enumerate(SHORTCUTS):
            for column, text in enumerate(words):
                self.table.setItem(row, column, QTableWidgetItem(text))
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(True)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(self.table)
        layout.addWidget(buttons)
        rows = self.table.verticalHeader().length() + header.sizeHint().height()
        self.resize(620, rows + 90)
