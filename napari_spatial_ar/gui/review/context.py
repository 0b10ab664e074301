"""The parts of the Review dock that the worklist uses."""

from __future__ import annotations

from typing import Protocol

from napari.viewer import Viewer
from qtpy.QtWidgets import QComboBox

from napari_spatial_ar.gui.review.mask import MaskController
from napari_spatial_ar.gui.review.model_panel import ModelList
from napari_spatial_ar.gui.review.scan_panel import ScanPanel
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.review.scoring import Scorer
from napari_spatial_ar.gui.review.threshold_panel import ThresholdPanel

__all__ = ["ReviewContext"]


class ReviewContext(Protocol):
    """The Review dock, as seen by its worklist."""

    viewer: Viewer
    scan: ScanPanel
    models: ModelList
    plane_box: QComboBox
    scorer: Scorer
    masks: MaskController
    threshold: ThresholdPanel

    @property
    def session(self) -> Session | None:
        """Scores of the chosen scan by the chosen model, if any."""

    @property
    def running(self) -> bool:
        """Whether slices are being scored."""
