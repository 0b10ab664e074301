"""Tables whose columns are the same whatever their rows hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt

__all__ = ["Column", "ColumnModel"]


class Column(Protocol):
    """What a heading shows."""

    @property
    def title(self) -> str:
        """The heading."""

    @property
    def tooltip(self) -> str:
        """What it means."""


class ColumnModel(QAbstractTableModel):
    """Rows under headings with tooltips; a subclass fills the cells.

    Parameters
    ----------
    columns : sequence of Column
        The headings.
    parent : QObject, optional
        The owner.
    """

    def __init__(self, columns: Sequence[Column], parent: QObject | None = None):
        super().__init__(parent)
        self._columns = columns

    @property
    def row_items(self) -> Sequence[object]:
        """What the rows show."""
        raise NotImplementedError

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Count rows; there are none below a row."""
        return 0 if parent is not None and parent.isValid() else len(self.row_items)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Count columns; there are none below a row."""
        return 0 if parent is not None and parent.isValid() else len(self._columns)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> str | None:
        """Title and tooltip of a column."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self._columns[section].title
        return self._columns[section].tooltip if role == Qt.ItemDataRole.ToolTipRole else None

    def emit_all_changed(self) -> None:
        """Redraw every cell."""
        if self.row_items:
            last = self.index(len(self.row_items) - 1, len(self._columns) - 1)
            self.dataChanged.emit(self.index(0, 0), last)
