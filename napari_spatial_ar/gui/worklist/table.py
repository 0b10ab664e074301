"""The table of a worklist: sorted by any column, opened by a double click or Enter."""

from __future__ import annotations

from qtpy.QtCore import QModelIndex, QSize, Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.gui.worklist.model import COLUMNS, SCORE, WorklistModel, WorklistOrder
from napari_spatial_ar.review.worklist.entries import Entry

__all__ = ["WorklistTable"]

# No taller: beside napari's own docks there is little room below the canvas of a small screen.
_PICTURE = 34


class WorklistTable(QTableView):
    """Shows scans, those with the highest score first.

    Parameters
    ----------
    rows : WorklistModel
        The scans.
    """

    #: Key of the row that is chosen now; "" for none.
    chosen = Signal(str)
    #: Key of the scan that is to be opened.
    opened = Signal(str)

    def __init__(self, rows: WorklistModel):
        super().__init__()
        self._rows = rows
        self.order = WorklistOrder(self)
        self.order.setSourceModel(rows)
        self.setModel(self.order)
        self.setSortingEnabled(True)
        self.sortByColumn(SCORE, Qt.SortOrder.DescendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setIconSize(QSize(_PICTURE, _PICTURE))
        self.setWordWrap(False)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setAccessibleName("Worklist")
        self.setToolTip(tooltip("worklist.table"))
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(_PICTURE + 2)
        header = self.horizontalHeader()
        for index, column in enumerate(COLUMNS):
            header.resizeSection(index, column.width)
            if column.name == "state":
                header.setSectionResizeMode(index, QHeaderView.ResizeMode.Stretch)
        self.doubleClicked.connect(self._open)
        self.selectionModel().currentRowChanged.connect(self._on_current)

    @property
    def shown(self) -> list[Entry]:
        """Entries in the order on the screen."""
        return self.order.shown

    @property
    def current(self) -> str:
        """Key of the chosen row; "" where there is none."""
        index = self.currentIndex()
        if not index.isValid():
            return ""
        return self._rows.entries[self.order.mapToSource(index).row()].key

    def choose(self, key: str) -> None:
        """Choose a row and scroll to it."""
        index = self.order.mapFromSource(self._rows.row_of(key))
        if index.isValid():
            self.setCurrentIndex(index)
            self.scrollTo(index)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Open the chosen scan with Enter."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._open()
        else:
            super().keyPressEvent(event)

    def _open(self, *_: object) -> None:
        if self.current:
            self.opened.emit(self.current)

    def _on_current(self, current: QModelIndex, previous: QModelIndex) -> None:
        self.chosen.emit(self.current)
