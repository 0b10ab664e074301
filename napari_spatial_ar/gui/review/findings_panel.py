"""The table of flagged regions, with a reader's decisions and comments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import (
    QModelIndex,
    QObject,
    QSize,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from qtpy.QtGui import QBrush, QColor
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QLineEdit,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.gui.mask_labels import finding_colour
from napari_spatial_ar.gui.review.mask import MaskController
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.shortcuts import bind
from napari_spatial_ar.gui.viewer import go_to_voxel
from napari_spatial_ar.gui.widgets.colours import QUIET
from napari_spatial_ar.gui.widgets.column_model import ColumnModel
from napari_spatial_ar.gui.widgets.forms import Note, WarningNote, button, folding, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import slice_range
from napari_spatial_ar.review.findings import FindingsList, ReviewedFinding, Status

if TYPE_CHECKING:
    from napari.components import ViewerModel


__all__ = [
    "COLUMNS",
    "COMMENT",
    "KEYS",
    "SORT_ROLE",
    "CommentEditor",
    "FindingsModel",
    "FindingsPanel",
    "FindingsTable",
]


class CommentEditor(QStyledItemDelegate):
    """Creates the editor of one cell at a time, and reopens it on the finding's new row.

    Parameters
    ----------
    table : QTableView
        The table with the comments.
    """

    def __init__(self, table: QTableView):
        super().__init__(table)
        self._table = table
        self._field: QLineEdit | None = None

    def createEditor(
        self, parent: QWidget, option: QStyleOptionViewItem, index: QModelIndex
    ) -> QWidget:
        """Create the editor of a comment."""
        self._field = QLineEdit(parent)
        self._field.setFrame(False)
        return self._field

    def destroyEditor(self, editor: QWidget, index: QModelIndex) -> None:
        """Forget the editor when Qt destroys it."""
        if editor is self._field:
            self._field = None
        super().destroyEditor(editor, index)

    @property
    def field(self) -> QLineEdit | None:
        """The open editor."""
        return self._field

    def close(self) -> tuple[str, int] | None:
        """Close the editor and return its text and the cursor position; None without one."""
        field = self._field
        if field is None:
            return None
        typed = field.text(), field.cursorPosition()
        self.closeEditor.emit(field, QStyledItemDelegate.EndEditHint.RevertModelCache)
        return typed

    def reopen(self, index: QModelIndex, typed: tuple[str, int]) -> None:
        """Reopen the editor in a cell."""
        self._table.edit(index)
        if self._field is not None:
            self._field.setText(typed[0])
            self._field.setCursorPosition(typed[1])


SORT_ROLE = Qt.ItemDataRole.UserRole


_STATUS_ORDER = ("unread", "unsure", "keep", "reject")


_SIDES = {"left": "L", "right": "R", "midline": "mid", "unknown": "?"}


@dataclass(frozen=True)
class _Column:
    title: str
    tooltip: str
    width: int
    text: Callable[[ReviewedFinding], str]
    order: Callable[[ReviewedFinding], float | str]


def _number(value: float | None, form: str = ".1f") -> str:
    return "" if value is None else format(value, form)


def _slices(item: ReviewedFinding) -> str:
    return slice_range(item.finding.first_slice, item.finding.last_slice, "-")


def _size(item: ReviewedFinding) -> str:
    ml = item.finding.volume_ml
    if ml is None:
        return f"{item.finding.voxels} vx"
    if ml < 1:
        # Two digits, as in ml: 0.0063 ml would need more space than there is.
        return f"{float(f'{1000 * ml:.2g}'):g} µl"
    return f"{ml:.0f} ml" if ml >= 10 else f"{ml:.1f} ml"


def _status(item: ReviewedFinding) -> str:
    known = "" if item.status == "unread" else item.status
    return ", ".join(filter(None, (known, "refined" if item.refined else "")))


def _diameter(item: ReviewedFinding) -> str:
    mm = item.finding.longest_diameter_mm
    return f"{item.finding.longest_diameter_px:.0f} px" if mm is None else f"{mm:.0f}"


def _normals(item: ReviewedFinding) -> str:
    return item.normal_rank.count.replace("at most ", "\u2264").replace("unknown", "?")


COLUMNS = (
    _Column(
        "#",
        tooltip("findings.columns.rank"),
        18,
        lambda item: str(item.finding.rank),
        lambda item: item.finding.rank,
    ),
    _Column(
        "Status",
        tooltip("findings.columns.status"),
        42,
        _status,
        lambda item: _STATUS_ORDER.index(item.status),
    ),
    _Column(
        "Side",
        tooltip("findings.columns.side"),
        28,
        lambda item: _SIDES[item.finding.side],
        lambda item: item.finding.side,
    ),
    _Column(
        "Slices",
        tooltip("findings.columns.slices"),
        52,
        _slices,
        lambda item: item.finding.first_slice,
    ),
    _Column(
        "Volume", tooltip("findings.columns.volume"), 48, _size, lambda item: item.finding.voxels
    ),
    _Column(
        "⌀ mm",
        tooltip("findings.columns.diameter"),
        36,
        _diameter,
        lambda item: (
            item.finding.longest_diameter_px
            if item.finding.longest_diameter_mm is None
            else item.finding.longest_diameter_mm
        ),
    ),
    _Column(
        "Peak",
        tooltip("findings.columns.peak"),
        32,
        lambda item: _number(item.finding.peak_score, ".3g"),
        lambda item: item.finding.peak_score,
    ),
    _Column(
        "Mean",
        tooltip("findings.columns.mean"),
        34,
        lambda item: _number(item.finding.mean_score, ".3g"),
        lambda item: item.finding.mean_score,
    ),
    _Column(
        "Normals",
        tooltip("findings.columns.normals"),
        52,
        _normals,
        lambda item: item.normal_rank.share if item.normal_rank.share is not None else 2.0,
    ),
    _Column(
        "Comment",
        tooltip("findings.columns.comment"),
        60,
        lambda item: item.comment,
        lambda item: item.comment.lower(),
    ),
)


NUMBER, COMMENT = 0, len(COLUMNS) - 1


class FindingsModel(ColumnModel):
    """Rows of a `FindingsList`; only comments can be edited."""

    #: Label of a finding, and its new comment.
    commented = Signal(int, str)

    def __init__(self, parent: QObject | None = None):
        super().__init__(COLUMNS, parent)
        self.items: tuple[ReviewedFinding, ...] = ()

    def show(self, listed: FindingsList) -> None:
        """Set the findings of another mask, or another status of the same ones."""
        if len(listed.items) == len(self.items):
            # Preserves the selection and an open editor.
            self.items = listed.items
            self.emit_all_changed()
            return
        self.beginResetModel()
        self.items = listed.items
        self.endResetModel()

    @property
    def row_items(self) -> Sequence[object]:
        """The findings, one per row."""
        return self.items

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Text, sorting value and appearance of a cell."""
        item, column = self.items[index.row()], COLUMNS[index.column()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return column.text(item)
        if role == SORT_ROLE:
            return column.order(item)
        if role == Qt.ItemDataRole.ToolTipRole:
            return column.text(item) if index.column() == COMMENT else column.tooltip
        if role == Qt.ItemDataRole.TextAlignmentRole and isinstance(
            column.order(item), int | float
        ):
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        colour = finding_colour(item) if index.column() == NUMBER else None
        if role == Qt.ItemDataRole.BackgroundRole and colour is not None:
            return QBrush(QColor(*colour))
        if role == Qt.ItemDataRole.ForegroundRole and colour is not None:
            return QBrush(QColor("black"))  # all of these colours are bright
        if role == Qt.ItemDataRole.ForegroundRole and item.status == "reject":
            return QBrush(QUIET.on(self.parent()))
        return None

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        """Make comments editable."""
        flags = super().flags(index)
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == COMMENT else flags

    def setData(
        self, index: QModelIndex, value: object, role: int = Qt.ItemDataRole.EditRole
    ) -> bool:
        """Emit an edited comment."""
        if role != Qt.ItemDataRole.EditRole or index.column() != COMMENT:
            return False
        self.commented.emit(self.items[index.row()].finding.label, str(value).strip())
        return True


# The rows that are in view however low the window is.
_ROW_HEIGHT, _ROWS = 20, 5


_STYLE = """
QTableView { font-size: 11px; }
QHeaderView::section { font-size: 11px; font-weight: normal; padding: 1px; }
"""


class FindingsTable(QTableView):
    """Sorts by any column; a comment is edited with a double click."""

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
        # No column has to be scrolled to.
        self.setMinimumWidth(sum(column.width for column in COLUMNS) + 4 * self.frameWidth() + 8)
        self.setAccessibleName("Flagged regions")
        for widget in (self, *self.findChildren(QAbstractButton)):
            widget.setToolTip(tooltip("findings.table"))

    def sizeHint(self) -> QSize:
        """Prefer the minimum height: the table grows into what other widgets leave."""
        return QSize(super().sizeHint().width(), self.minimumHeight())

    def widen(self) -> None:
        """Give columns the width that their texts need; the last takes the rest."""
        for index, column in enumerate(COLUMNS[:COMMENT]):
            self.setColumnWidth(index, max(column.width, self.sizeHintForColumn(index)))

    @property
    def label_written(self) -> int | None:
        """Label of the finding whose comment is being edited."""
        index = self.currentIndex()
        if self.comments.field is None or not index.isValid():
            return None
        item: ReviewedFinding = self.findings.items[self.sorted.mapToSource(index).row()]
        return item.finding.label


#: Key: what it does. P paints where the mask layer is selected; Shift+N goes back there too.
KEYS = {
    "N": "next",
    "P": "previous",
    "Shift+N": "previous",
    "K": "keep",
    "R": "reject",
    "U": "unsure",
    "F": "refine",
    "Shift+F": "refine_all",
    "Ctrl+Z": "undo",
    "Ctrl+Shift+Z": "redo",
}


class FindingsPanel(QWidget):
    """Table of findings, and a reader's decisions about them.

    Parameters
    ----------
    viewer : napari.Viewer
        Where findings are shown.
    scope : QWidget
        The dock: keys work anywhere in it except in text fields, and on the viewer's canvas.
    """

    def __init__(self, viewer: ViewerModel, scope: QWidget):
        super().__init__()
        self._viewer = viewer
        self._masks: MaskController | None = None
        self._session: Session | None = None
        self._showing = False
        self._headline = ""
        self._listed = FindingsList()
        self.table = FindingsTable()
        self.model, self.sorted = self.table.findings, self.table.sorted
        self.comments = self.table.comments
        self.shift_note = WarningNote(tooltip("model.why"))
        self.detail = Note()
        self.buttons = {
            "previous": button(
                "◀", tooltip("findings.previous"), "Previous flagged region", narrow=True
            ),
            "next": button("▶", tooltip("findings.next"), "Next flagged region", narrow=True),
            "keep": button("Keep", tooltip("findings.keep"), narrow=True),
            "unsure": button("Unsure", tooltip("findings.unsure"), narrow=True),
            "reject": button("Reject", tooltip("findings.reject"), narrow=True),
        }
        self.refine_note = Note()
        self.refine_button = button("Refine", tooltip("findings.refine"), narrow=True)
        self.refine_all_button = button("Refine all", tooltip("findings.refine_all"), narrow=True)
        self.strokes = Note()
        self.forget = button("Remove brush edits", tooltip("findings.remove_brush_edits"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            self.shift_note,
            self.table,
            row(*self.buttons.values(), self.refine_button, self.refine_all_button),
            self.detail,
            self.refine_note,
            row(self.strokes, self.forget),
        ]
        self.fold = folding("Flagged regions", parts, key="findings")
        layout.addWidget(self.fold)
        for name, made in self.buttons.items():
            made.clicked.connect(getattr(self, name))
        for key, name in KEYS.items():
            bind(viewer, [scope], key, getattr(self, name), while_visible=self)
        self.table.selectionModel().selectionChanged.connect(self._on_selected)
        self.model.commented.connect(self._on_comment)
        self.refine_button.clicked.connect(self.refine)
        self.refine_all_button.clicked.connect(self.refine_all)
        self.forget.clicked.connect(self._on_forget)
        self._show(None)

    def connect_masks(self, masks: MaskController) -> None:
        """Follow the findings of a controller."""
        self._masks = masks
        masks.listed_changed.connect(self._show)
        masks.refining.connect(self._on_refining)

    # ------------------------------------------------------------------ what is shown

    def warn(self, headline: str) -> None:
        """Show above the list how the scan differs from the training data; "" for nothing."""
        self._headline = headline
        self.shift_note.set_text(headline if self.model.items else "", "")

    @property
    def current(self) -> ReviewedFinding | None:
        """The chosen finding."""
        rows = self.table.selectionModel().selectedRows()
        return self.model.items[self.sorted.mapToSource(rows[0]).row()] if rows else None

    def _show(self, session: Session | None) -> None:
        written = self._written(session)
        if session is not self._session:
            self.refine_note.set_text("")
        self._session = session
        self._showing = True
        self._listed = FindingsList() if session is None else session.listed
        self.model.show(self._listed)
        self.table.widen()
        self._select_chosen()
        self._showing = False
        if written is not None:
            at = self.model.index(*written[0])
            self.comments.reopen(self.sorted.mapFromSource(at), written[1])
        self._update_text()

    def _written(self, session: Session | None) -> tuple[tuple[int, int], tuple[str, int]] | None:
        """Close an open comment editor before the list is replaced.

        Returns
        -------
        ((row, column), (text, cursor)) or None
            Row and column of the same finding in the new list, with its text; None if nothing is
            being edited, or the finding is gone: then its comment comes back with it.
        """
        listed = FindingsList() if session is None else session.listed
        label = None if listed is self._listed else self.table.label_written
        typed = None if label is None else self.comments.close()
        if label is None or typed is None:
            return None
        mine = self._session
        heir = listed.heir(self._listed, label) if session is mine else None
        if session is not None and heir is not None:
            rows = [item.finding.label for item in listed.items]
            return (rows.index(heir), COMMENT), typed
        if mine is not None:
            mine.keep_comment(self._listed, label, typed[0].strip())
        return None

    def _select_chosen(self) -> None:
        """Select the row of the outlined finding, which may have moved."""
        chosen = None if self._session is None else self._session.chosen
        labels = [item.finding.label for item in self.model.items]
        if chosen is None or chosen.label not in labels:
            self.table.clearSelection()
            return
        at = self.sorted.mapFromSource(self.model.index(labels.index(chosen.label), 0))
        if at.row() not in [index.row() for index in self.table.selectionModel().selectedRows()]:
            self.table.selectRow(at.row())

    def _update_text(self) -> None:
        item, strokes = self.current, self._session and self._session.strokes
        for name in ("keep", "unsure", "reject"):
            self.buttons[name].setEnabled(item is not None)
        for name in ("previous", "next"):
            self.buttons[name].setEnabled(bool(self.model.items))
        busy = self._masks is not None and self._masks.is_refining
        self.refine_button.setEnabled(item is not None and not busy)
        self.refine_all_button.setEnabled(bool(self.model.items))
        self.refine_all_button.setText("Cancel" if busy else "Refine all")
        self.warn(self._headline)
        self.detail.set_text("" if item is None else _detail(item))
        self.strokes.set_text(strokes.sentence if strokes else "")
        self.forget.setVisible(bool(strokes))

    def _on_selected(self, *_: object) -> None:
        if self._showing or self._masks is None or self._session is None:
            return
        item = self.current
        self._masks.choose(None if item is None else item.finding.label)
        self._update_text()
        if item is not None:
            self._go_to(self._session, item)

    def _go_to(self, session: Session, item: ReviewedFinding) -> None:
        """Show the finding's voxel nearest to its centre in the slice with the highest score."""
        geometry = session.geometry
        region = session.listed.region(item.finding.label)
        voxels = np.stack(np.unravel_index(region, geometry.shape), axis=1)
        voxels = voxels[voxels[:, geometry.slice_axis] == item.finding.peak_slice]
        nearest = np.abs(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
        z, y, x = (int(value) for value in voxels[nearest])
        go_to_voxel(self._viewer, session.ensure_mask(), geometry.display_index((z, y, x)))

    # ------------------------------------------------------------------ a reader's decisions

    def next(self) -> None:
        """Go to the next row; to the first if none is chosen."""
        self._step(1)

    def previous(self) -> None:
        """Go to the previous row; to the first if none is chosen."""
        self._step(-1)

    def _step(self, by: int) -> None:
        rows, count = self.table.selectionModel().selectedRows(), self.sorted.rowCount()
        if count:
            row_index = min(max(rows[0].row() + by, 0), count - 1) if rows else 0
            self.table.setCurrentIndex(self.sorted.index(row_index, 0))

    def keep(self) -> None:
        """Keep the chosen finding."""
        self._decide("keep")

    def unsure(self) -> None:
        """Mark the chosen finding as unsure."""
        self._decide("unsure")

    def reject(self) -> None:
        """Exclude the chosen finding from exports."""
        self._decide("reject")

    def _decide(self, status: Status) -> None:
        item = self.current
        if item is not None and self._masks is not None:
            # Pressing again undoes it.
            new: Status = "unread" if item.status == status else status
            self._masks.decide(item.finding.label, status=new)

    def refine(self) -> None:
        """Fit the outline of the chosen finding to the image, or undo that."""
        item = self.current
        if item is not None and self._masks is not None:
            self._masks.refine(item.finding.label)

    def refine_all(self) -> None:
        """Fit the outlines of all findings to the image, or cancel that."""
        if self._masks is not None and self._masks.is_refining:
            self._masks.cancel_refining()
        elif self._masks is not None:
            self._masks.refine(None)

    def _on_refining(self, line: str) -> None:
        self.refine_note.set_text(line)
        self._update_text()

    def undo(self) -> None:
        """Undo the latest edit of the mask."""
        if self._masks is not None:
            self._masks.undo()

    def redo(self) -> None:
        """Redo the edit of the mask undone last."""
        if self._masks is not None:
            self._masks.undo(again=True)

    def _on_comment(self, label: int, text: str) -> None:
        if self._masks is not None:
            self._masks.decide(label, comment=text)

    def _on_forget(self) -> None:
        if self._masks is not None:
            self._masks.forget_strokes()


def _detail(item: ReviewedFinding) -> str:
    """Details without a column."""
    place = ""
    if item.finding.centroid_ras_mm is not None:
        x, y, z = item.finding.centroid_ras_mm
        letters = ("R" if x >= 0 else "L", "A" if y >= 0 else "P", "S" if z >= 0 else "I")
        parts = zip(letters, (x, y, z), strict=True)
        place = f"Centre {', '.join(f'{a} {abs(v):.0f}' for a, v in parts)} mm. "
    refined = "Outline fitted to the edges of the image." if item.refined else ""
    return f"{place}{item.normal_rank.sentence} {item.note} {refined}".strip()
