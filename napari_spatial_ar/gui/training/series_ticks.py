"""Which series of a folder a model learns from."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QHeaderView,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.datasets.summary import DataSummary, kind_of
from napari_spatial_ar.datasets.surveyed import REASONS
from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE
from napari_spatial_ar.gui.widgets.forms import Dialog, Note, button, row
from napari_spatial_ar.gui.widgets.icons import icon, square
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["SeriesTicks"]

_HEADINGS = ("Series", "Patient", "Kind", "Slices", "Left out")


class SeriesTicks(Dialog):
    """Lists what was found with a picture of each; what is not ticked is taken out.

    Parameters
    ----------
    summary : DataSummary
        What was found, and what is taken out already.
    parent : QWidget, optional
        The window it belongs to.
    """

    def __init__(self, summary: DataSummary, parent: QWidget | None = None):
        super().__init__(parent)
        self.setWindowTitle("Choose series to learn from")
        self.resize(1000, 560)
        self._summary = summary
        self._items: dict[str, QTreeWidgetItem] = {}
        self.table = self._table()
        self.all_button = button("All", tooltip("series.all"))
        self.none_button = button("None", tooltip("series.none"))
        usual = summary.usual_plane
        self.plane_button = button(f"Only {usual}", tooltip("series.only_one_plane", plane=usual))
        planes = {one.plane for one in summary.survey.series if one.refs and one.plane}
        self.plane_button.setVisible(len(planes) > 1)
        self.count = Note(strong=True)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        layout = QVBoxLayout(self)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.count)
        below = row(self.all_button, self.none_button, self.plane_button)
        below.addStretch(1)
        below.addWidget(self.buttons)
        layout.addLayout(below)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.all_button.clicked.connect(lambda: self._tick(Qt.CheckState.Checked))
        self.none_button.clicked.connect(lambda: self._tick(Qt.CheckState.Unchecked))
        self.plane_button.clicked.connect(self._untick_other_planes)
        self.table.itemChanged.connect(self._on_changed)
        self._on_changed()

    def _table(self) -> QTreeWidget:
        table = QTreeWidget()
        table.setHeaderLabels(list(_HEADINGS))
        table.setRootIsDecorated(False)
        table.setUniformRowHeights(True)
        table.setIconSize(QSize(THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        table.setAccessibleName("Series")
        table.setToolTip(tooltip("series.table"))
        for series in self._summary.survey.series:
            reasons = [f"{count}: {REASONS[reason]}" for reason, count in series.left_out.items()]
            texts = (series.label, series.patient, kind_of(series), str(len(series.refs)))
            item = QTreeWidgetItem(table, [*texts, "; ".join(reasons)])
            item.setToolTip(len(texts), "\n".join(reasons))
            item.setIcon(0, icon(square(series.picture)))
            item.setDisabled(not series.refs)
            if series.refs:
                ticked = series.key not in self._summary.excluded
                item.setCheckState(0, Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
                self._items[series.key] = item
        table.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        return table

    @property
    def excluded(self) -> frozenset[str]:
        """Keys of the series that are not ticked."""
        return frozenset(
            key
            for key, item in self._items.items()
            if item.checkState(0) == Qt.CheckState.Unchecked
        )

    def _tick(self, state: Qt.CheckState) -> None:
        self.table.blockSignals(True)
        for item in self._items.values():
            item.setCheckState(0, state)
        self.table.blockSignals(False)
        self.table.viewport().update()
        self._on_changed()

    def _untick_other_planes(self) -> None:
        usual = self._summary.usual_plane
        for one in self._summary.survey.series:
            if one.key in self._items and one.plane not in ("", usual):
                self._items[one.key].setCheckState(0, Qt.CheckState.Unchecked)

    def _on_changed(self, *_: object) -> None:
        left = self._summary.without(self.excluded)
        self.count.say(" ".join([left.lines()[0], left.promise()]).strip())
        self.buttons.button(QDialogButtonBox.StandardButton.Ok).setEnabled(bool(left.used))
