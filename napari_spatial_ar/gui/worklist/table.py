"""The table of a worklist, sorted by any column, and the rows behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import (
    QModelIndex,
    QObject,
    QSize,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from qtpy.QtGui import QBrush, QFont, QIcon, QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_spatial_ar.gui.widgets.colours import QUIET, TROUBLE
from napari_spatial_ar.gui.widgets.column_model import ColumnModel
from napari_spatial_ar.gui.widgets.forms import icon, square
from napari_spatial_ar.gui.widgets.tooltips import as_tooltip, tooltip
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.acquired import header_shift_of
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.domain_shift import shift_headline
from napari_spatial_ar.review.p_values import PValues, p_note
from napari_spatial_ar.review.worklist.entries import Column, Entry, sort_value

__all__ = ["COLUMNS", "SCORE", "WorklistModel", "WorklistOrder", "WorklistTable"]


@dataclass(frozen=True)
class _Column:
    name: Column
    title: str
    tooltip: str
    width: int
    text: Callable[[Entry], str]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _state(entry: Entry) -> str:
    if entry.state == "failed":
        return entry.trouble
    if entry.state == "scored" or not entry.done:
        return entry.state
    return f"{entry.state}, {entry.done} of {entry.slices}"


COLUMNS = (
    _Column("scan", "Scan", tooltip("worklist.columns.scan"), 250, lambda e: e.label),
    _Column(
        "description",
        "Description",
        tooltip("worklist.columns.description"),
        250,
        lambda e: e.description,
    ),
    _Column(
        "slices", "Slices", tooltip("worklist.columns.slices"), 52, lambda e: str(e.slices or "")
    ),
    _Column(
        "score",
        "Score",
        tooltip("worklist.columns.score"),
        60,
        lambda e: _number(e.summary.score, ".3g"),
    ),
    _Column(
        "p",
        "p",
        tooltip("worklist.columns.p"),
        56,
        lambda e: _number(e.summary.p_value, ".2g"),
    ),
    _Column(
        "findings",
        "Flagged",
        tooltip("worklist.columns.findings"),
        70,
        lambda e: _number(e.summary.findings, "d"),
    ),
    _Column("state", "Status", tooltip("worklist.columns.status"), 150, _state),
    _Column("reading", "Read", tooltip("worklist.columns.read"), 78, lambda e: e.reading),
)


SCORE = next(at for at, column in enumerate(COLUMNS) if column.name == "score")


_NUMBERS = ("slices", "score", "p", "findings")


class WorklistModel(ColumnModel):
    """Entries by key, in the order in which they were found."""

    #: Entries were added, removed or changed.
    changed = Signal()

    def __init__(self, parent: QObject | None = None):
        super().__init__(COLUMNS, parent)
        self.entries: list[Entry] = []
        self.scans: dict[str, Scan] = {}
        self._rows: dict[str, int] = {}
        self._icons: dict[str, QIcon] = {}
        self._blank = icon(square())
        self._model: ScoringModel | None = None
        self._shifts: dict[str, str] = {}

    def set_model(self, model: ScoringModel | None) -> None:
        """Mark scans whose headers differ from those of a model's scans."""
        self._model, self._shifts = model, {}
        self.emit_all_changed()

    def shift_warning(self, key: str) -> str:
        """Describe how a scan's header differs from the training scans; "" if it does not."""
        if key not in self._shifts:
            found = header_shift_of(self._model, self.scans.get(key))
            self._shifts[key] = shift_headline(found, "")
        return self._shifts[key]

    def clear(self) -> None:
        """Remove all scans."""
        self.beginResetModel()
        self.entries, self.scans, self._rows, self._icons = [], {}, {}, {}
        self._shifts = {}
        self.endResetModel()
        self.changed.emit()

    def add(self, entry: Entry, scan: Scan | None) -> None:
        """Append a scan; None for a file without one."""
        row = len(self.entries)
        self.beginInsertRows(QModelIndex(), row, row)
        self.entries.append(entry)
        self._rows[entry.key] = row
        if scan is not None:
            self.scans[entry.key] = scan
        self.endInsertRows()
        self.changed.emit()

    def entry(self, key: str) -> Entry | None:
        """Entry of a key, if it is listed."""
        row = self._rows.get(key)
        return None if row is None else self.entries[row]

    def put(self, entry: Entry) -> None:
        """Update a scan's entry, if it is listed."""
        row = self._rows.get(entry.key)
        if row is not None and entry != self.entries[row]:
            self.entries[row] = entry
            self.dataChanged.emit(self.index(row, 0), self.index(row, len(COLUMNS) - 1))
            self.changed.emit()

    def put_picture(self, key: str, picture: npt.NDArray[np.uint8]) -> None:
        """Set a scan's thumbnail, (rows, columns) uint8."""
        row = self._rows.get(key)
        if row is not None:
            self._icons[key] = icon(square(picture))
            self.dataChanged.emit(self.index(row, 0), self.index(row, 0))

    def has_picture(self, key: str) -> bool:
        """Whether a scan has a thumbnail."""
        return key in self._icons

    def row_of(self, key: str) -> QModelIndex:
        """Return the first cell of a scan; an invalid index if it is not listed."""
        row = self._rows.get(key)
        return QModelIndex() if row is None else self.index(row, 0)

    @property
    def row_items(self) -> Sequence[object]:
        """The entries, one per row."""
        return self.entries

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Text, thumbnail and appearance of a cell."""
        entry, column = self.entries[index.row()], COLUMNS[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            marked = (
                column.name == "findings" and column.text(entry) and self.shift_warning(entry.key)
            )
            return f"\u26a0 {column.text(entry)}" if marked else column.text(entry)
        if role == Qt.ItemDataRole.DecorationRole:
            return self._icons.get(entry.key, self._blank) if index.column() == 0 else None
        if role == Qt.ItemDataRole.ToolTipRole:
            shift = self.shift_warning(entry.key) if column.name == "findings" else ""
            return f"{shift} {_tip(entry, column)}".strip()
        if role == Qt.ItemDataRole.TextAlignmentRole and column.name in _NUMBERS:
            return Qt.AlignmentFlag.AlignCenter
        if role == Qt.ItemDataRole.ForegroundRole:
            if entry.state == "failed":
                return QBrush(TROUBLE.on(self.parent()))
            return QBrush(QUIET.on(self.parent())) if entry.reading == "done" else None
        if role == Qt.ItemDataRole.FontRole and entry.reading == "unread":
            font = QFont()
            font.setBold(True)
            return font if column.name in ("scan", "reading") else None
        return None


def _tip(entry: Entry, column: _Column) -> str:
    summary = entry.summary
    if column.name == "state" and entry.trouble:
        return as_tooltip(entry.trouble)
    if column.name == "p" and summary.p_value is not None:
        patients = summary.patients
        return p_note(PValues(summary.p_value, (), patients, 1 / (patients + 1)))
    if column.name == "findings" and summary.threshold is not None:
        return f"{column.tooltip}: {summary.threshold:.3g}"
    if column.name in ("scan", "description"):
        return as_tooltip(column.text(entry))
    return column.tooltip


class WorklistOrder(QSortFilterProxyModel):
    """Sorts numbers as numbers; rows without a value are last in either direction."""

    def lessThan(self, left: QModelIndex, right: QModelIndex) -> bool:
        """Compare two rows by a column."""
        model, column = self.sourceModel(), COLUMNS[left.column()].name
        a, b = (sort_value(model.entries[at.row()], column) for at in (left, right))
        if a is None or b is None:
            # Qt swaps the arguments in descending order.
            last = self.sortOrder() == Qt.SortOrder.DescendingOrder
            return (a is None) == last and (a is None) != (b is None)
        return bool(a < b)

    @property
    def shown(self) -> list[Entry]:
        """Entries in the order on the screen."""
        entries = self.sourceModel().entries
        rows = (self.mapToSource(self.index(row, 0)).row() for row in range(self.rowCount()))
        return [entries[row] for row in rows]


# No taller: beside napari's own docks there is little space below the canvas of a small screen.
_PICTURE = 34


class WorklistTable(QTableView):
    """Shows scans, those with the highest score first.

    Parameters
    ----------
    rows : WorklistModel
        The scans.
    """

    #: Key of the chosen row; "" for none.
    chosen = Signal(str)
    #: Key of the scan to open.
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
        """Key of the chosen row; "" if there is none."""
        index = self.currentIndex()
        if not index.isValid():
            return ""
        entry: Entry = self._rows.entries[self.order.mapToSource(index).row()]
        return entry.key

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
