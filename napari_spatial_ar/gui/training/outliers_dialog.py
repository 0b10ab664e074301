"""Training outliers of a fit, and which of them to exclude."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE
from napari_spatial_ar.gui.widgets.forms import Dialog, Note, coloured, icon, research_line
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import slice_number
from napari_spatial_ar.normative.fitting.outliers import UNIT, Outliers
from napari_spatial_ar.review.outliers import heat_range, slice_and_heat

__all__ = ["OutliersDialog"]

_HEADINGS = ("Scan", "Score", "Patient", "Slice", "Slices")
_LARGE = 300


class OutliersDialog(Dialog):
    """Lists scans with images, the strongest outlier first; `excluded` returns the ticked ones.

    Parameters
    ----------
    outliers : Outliers
        At least one.
    parent : QWidget, optional
        The parent window.
    """

    def __init__(self, outliers: Outliers, parent: QWidget | None = None):
        super().__init__(parent)
        self.setWindowTitle("Training outliers")
        self.resize(1180, 560)
        self._outliers = outliers
        self._limits = heat_range([one.example for one in outliers.ranked])
        self.about = Note(
            f"Check these before relying on the model: of {outliers.scans} scans they are least "
            f"like those of the other patients ({UNIT}). Rare is not always abnormal. Tick those "
            "to exclude from training."
        )
        self.picture = QLabel()
        self.picture.setMinimumWidth(2 * _LARGE + 2)
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.picture.setToolTip(tooltip("outliers.picture"))
        self.table = self._table()
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        self.again_button = self.buttons.addButton(
            "Fit again without these", QDialogButtonBox.ButtonRole.AcceptRole
        )
        self.again_button.setToolTip(tooltip("outliers.fit_again_without_these"))
        layout = QVBoxLayout(self)
        layout.addWidget(self.about)
        middle = QHBoxLayout()
        middle.addWidget(self.table, 1)
        middle.addWidget(self.picture)
        layout.addLayout(middle, 1)
        layout.addWidget(self.buttons)
        layout.addWidget(research_line())
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.table.itemChanged.connect(self._on_ticked)
        self.table.currentItemChanged.connect(self._on_current)
        self.table.setCurrentItem(self.table.topLevelItem(0))
        self._on_ticked()

    def _table(self) -> QTreeWidget:
        table = QTreeWidget()
        table.setHeaderLabels(list(_HEADINGS))
        table.setRootIsDecorated(False)
        table.setUniformRowHeights(True)
        table.setIconSize(QSize(2 * THUMBNAIL_SIZE + 2, THUMBNAIL_SIZE))
        table.setAccessibleName("Scans")
        table.setToolTip(tooltip("outliers.table"))
        for one in self._outliers.ranked:
            place = str(slice_number(one.place))
            numbers = (f"{one.score:.3g}", one.patient, place, str(one.slices))
            item = QTreeWidgetItem(table, [one.label, *numbers])
            picture = slice_and_heat(one.example, self._limits, THUMBNAIL_SIZE)
            item.setIcon(0, icon(coloured(picture)))
            item.setCheckState(0, Qt.CheckState.Unchecked)
        table.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        return table

    @property
    def excluded(self) -> frozenset[str]:
        """Keys of the scans that are ticked."""
        return frozenset(
            one.key
            for number, one in enumerate(self._outliers.ranked)
            if self.table.topLevelItem(number).checkState(0) == Qt.CheckState.Checked
        )

    def _on_ticked(self, *_: object) -> None:
        self.again_button.setEnabled(bool(self.excluded))

    def _on_current(self, item: QTreeWidgetItem, *_: object) -> None:
        example = self._outliers.ranked[self.table.indexOfTopLevelItem(item)].example
        self.picture.setPixmap(coloured(slice_and_heat(example, self._limits, _LARGE)))
