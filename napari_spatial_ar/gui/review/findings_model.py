"""Findings as rows of a table that sorts by numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QBrush, QColor

from napari_spatial_ar.gui.mask_labels import finding_colour
from napari_spatial_ar.gui.widgets.colours import QUIET
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import slice_range
from napari_spatial_ar.review.findings_list import FindingsList, ReviewedFinding

__all__ = ["COLUMNS", "COMMENT", "SORT_ROLE", "FindingsModel"]

SORT_ROLE = Qt.ItemDataRole.UserRole
_STATUS_ORDER = ("unread", "unsure", "keep", "reject")
_SIDES = {"left": "L", "right": "R", "midline": "mid", "unknown": "?"}


@dataclass(frozen=True)
class _Column:
    title: str
    tooltip: str
    width: int
    text: Callable[[ReviewedFinding], str]
    order: Callable[[ReviewedFinding], Any]


def _number(value: float | None, form: str = ".1f") -> str:
    return "" if value is None else format(value, form)


def _slices(item: ReviewedFinding) -> str:
    return slice_range(item.finding.first_slice, item.finding.last_slice, "-")


def _size(item: ReviewedFinding) -> str:
    ml = item.finding.volume_ml
    if ml is None:
        return f"{item.finding.voxels} vx"
    if ml < 1:
        # Two figures, as in ml: 0.0063 ml would need more room than there is.
        return f"{float(f'{1000 * ml:.2g}'):g} µl"
    return f"{ml:.0f} ml" if ml >= 10 else f"{ml:.1f} ml"


def _diameter(item: ReviewedFinding) -> str:
    mm = item.finding.longest_diameter_mm
    return f"{item.finding.longest_diameter_px:.0f} px" if mm is None else f"{mm:.0f}"


def _rarity(item: ReviewedFinding) -> str:
    return item.rarity.count.replace("at most ", "\u2264").replace("unknown", "?")


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
        lambda item: "" if item.status == "unread" else item.status,
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
        _rarity,
        lambda item: item.rarity.share if item.rarity.share is not None else 2.0,
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


class FindingsModel(QAbstractTableModel):
    """Rows of a `FindingsList`; only comments can be edited."""

    #: Label of a finding, and what was written.
    commented = Signal(int, str)

    def __init__(self, parent: Any = None):
        super().__init__(parent)
        self.items: tuple[ReviewedFinding, ...] = ()

    def show(self, listed: FindingsList) -> None:
        """Take the findings of another mask, or another status of the same."""
        if len(listed.items) == len(self.items):
            # Keeps what is selected or being written.
            self.items = listed.items
            if self.items:
                last = self.index(len(self.items) - 1, COMMENT)
                self.dataChanged.emit(self.index(0, 0), last)
            return
        self.beginResetModel()
        self.items = listed.items
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Count findings."""
        return 0 if parent is not None and parent.isValid() else len(self.items)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Count columns."""
        return 0 if parent is not None and parent.isValid() else len(COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Title and tooltip of a column."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section].title
        return COLUMNS[section].tooltip if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text, sorting value and looks of a cell."""
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
        """Let comments be edited."""
        flags = super().flags(index)
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == COMMENT else flags

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Hand on what was written."""
        if role != Qt.ItemDataRole.EditRole or index.column() != COMMENT:
            return False
        self.commented.emit(self.items[index.row()].finding.label, str(value).strip())
        return True
