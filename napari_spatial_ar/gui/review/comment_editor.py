"""The field in which a comment is written, and what becomes of it when the findings change."""

from __future__ import annotations

from qtpy.QtCore import QModelIndex
from qtpy.QtWidgets import QLineEdit, QStyledItemDelegate, QStyleOptionViewItem, QTableView, QWidget

__all__ = ["CommentEditor"]


class CommentEditor(QStyledItemDelegate):
    """Makes the field of one cell at a time, and opens it again on the row that its finding got.

    Parameters
    ----------
    table : QTableView
        Where comments are written.
    """

    def __init__(self, table: QTableView):
        super().__init__(table)
        self._table = table
        self._field: QLineEdit | None = None

    def createEditor(
        self, parent: QWidget, option: QStyleOptionViewItem, index: QModelIndex
    ) -> QWidget:
        """See Qt."""
        self._field = QLineEdit(parent)
        self._field.setFrame(False)
        return self._field

    def destroyEditor(self, editor: QWidget, index: QModelIndex) -> None:
        """See Qt."""
        if editor is self._field:
            self._field = None
        super().destroyEditor(editor, index)

    @property
    def field(self) -> QLineEdit | None:
        """The field that is open."""
        return self._field

    def close(self) -> tuple[str, int] | None:
        """Close the field and give what was typed and where the cursor was; None without one."""
        field = self._field
        if field is None:
            return None
        typed = field.text(), field.cursorPosition()
        self.closeEditor.emit(field, QStyledItemDelegate.EndEditHint.RevertModelCache)
        return typed

    def reopen(self, index: QModelIndex, typed: tuple[str, int]) -> None:
        """Go on writing in a cell."""
        self._table.edit(index)
        if self._field is not None:
            self._field.setText(typed[0])
            self._field.setCursorPosition(typed[1])
