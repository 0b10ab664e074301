"""The table of findings: ten columns in the width of a dock."""

from __future__ import annotations

from qtpy.QtCore import QSortFilterProxyModel, Qt
from qtpy.QtWidgets import QAbstractButton, QAbstractItemView, QTableView

from napari_spatial_ar.gui.review.comment_editor import CommentEditor
from napari_spatial_ar.gui.review.findings_model import COLUMNS, COMMENT, SORT_ROLE, FindingsModel
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["FindingsTable"]

_ROW_HEIGHT, _ROWS = 20, 6
_STYLE = """
QTableView { font-size: 11px; }
QHeaderView::section { font-size: 11px; font-weight: normal; padding: 1px; }
"""


class FindingsTable(QTableView):
    """Sorts by any column; a comment is written with a double click."""

    def __init__(self) -> None:
        super().__init__()
        self.findings = FindingsModel(self)
        self.sorted = QSortFilterProxyModel(self)
        self.sorted.setSourceModel(self.findings)
        self.sorted.setSortRole(SORT_ROLE)
        self.setModel(self.sorted)
        self.comments = CommentEditor(self)
        self.setItemDelegateForColumn(COMMENT, self.comments)
        self.setSortingEnabled(True)
        self.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked
            | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.setWordWrap(False)
        self.setStyleSheet(_STYLE)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(_ROW_HEIGHT)
        header = self.horizontalHeader()
        header.setMinimumSectionSize(18)
        header.setStretchLastSection(True)
        for index, column in enumerate(COLUMNS):
            header.resizeSection(index, column.width)
        self.setMinimumHeight((_ROWS + 1) * _ROW_HEIGHT + 8)
        self.setAccessibleName("Flagged regions")
        for widget in (self, *self.findChildren(QAbstractButton)):
            widget.setToolTip(tooltip("findings.table"))

    def widen(self) -> None:
        """Give columns the room that their texts need; the last takes what is left."""
        for index, column in enumerate(COLUMNS[:COMMENT]):
            self.setColumnWidth(index, max(column.width, self.sizeHintForColumn(index)))

    @property
    def label_written(self) -> int | None:
        """Label of the finding whose comment is being typed."""
        index = self.currentIndex()
        if self.comments.field is None or not index.isValid():
            return None
        return self.findings.items[self.sorted.mapToSource(index).row()].finding.label
