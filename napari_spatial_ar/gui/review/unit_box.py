"""The unit in which the threshold is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Signal

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.widgets.forms import Combo, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.review.score_counts import ScoreCounts
from napari_spatial_ar.review.threshold_scales import (
    PercentileScale,
    Scale,
    ShareScale,
    UnitScale,
)

__all__ = ["PERCENTILE", "SHARE", "UNIT", "UnitBox"]

SHARE, UNIT, PERCENTILE = "share", "unit", "percentile"


class UnitBox(Combo):
    """Offers the views of a threshold that there are; the one that was chosen is remembered."""

    #: Another unit was chosen.
    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._wanted = settings.recall("threshold_unit", SHARE)
        self.setToolTip(tooltip("threshold.unit"))
        self.setAccessibleName("Unit of the threshold")
        self.activated.connect(self._on_activated)

    def name_unit(self, unit: str) -> None:
        """List the units, with a model's own."""
        self.clear()
        self.addItem("% of normal tissue", SHARE)
        self.addItem(unit, UNIT)
        self.addItem("percentile of this scan", PERCENTILE)

    def scale(
        self,
        model: Any,
        anchors: Mapping[float, float],
        ends: tuple[float, float],
        counts: ScoreCounts | None,
    ) -> tuple[Scale, str]:
        """Scale in the unit that is wanted, or in the first that there is, and its suffix.

        Shares of normal tissue need a calibrated model, percentiles scores of the scan.
        """
        scales: dict[str, tuple[Scale, str]] = {}
        if anchors:
            share = ShareScale(anchors, model.threshold_for_fpr, model.fpr_for_threshold)
            scales[SHARE] = share, " %"
        scales[UNIT] = UnitScale(*ends), ""
        if counts is not None:
            scales[PERCENTILE] = PercentileScale(counts.edges, counts.shares_above()), ""
        unit = self._wanted if self._wanted in scales else next(iter(scales))
        for at in range(self.count()):
            self.model().item(at).setEnabled(self.itemData(at) in scales)
        select_data(self, unit)
        return scales[unit]

    def _on_activated(self) -> None:
        self._wanted = self.currentData()
        settings.remember("threshold_unit", self._wanted)
        self.chosen.emit()
