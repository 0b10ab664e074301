"""What code that scores scans and reports the results needs from a model. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from napari_spatial_ar.imaging.geometry import Plane
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.scores import ScanScores, SliceScore

if TYPE_CHECKING:
    import torch

    from napari_spatial_ar.datasets.selection import SlicePlane
    from napari_spatial_ar.normative.backbones.backbone import Backbone
    from napari_spatial_ar.normative.backbones.fair_lock import FairLock
    from napari_spatial_ar.normative.detectors import Detector
    from napari_spatial_ar.normative.model_file import ModelHeader

__all__ = ["Calibrated", "ScoringModel"]


class Calibrated(Protocol):
    """A model whose thresholds can be stated as a share of normal tissue."""

    @property
    def header(self) -> ModelHeader:
        """Everything in the header of the model file, including its calibration."""

    def threshold_for_fpr(self, fpr: float) -> float:
        """Threshold that flags a share ``fpr`` of normal tissue.

        Raises
        ------
        InputError
            If the model has no calibration, or none for this share.
        """

    def fpr_for_threshold(self, threshold: float) -> float:
        """Share of normal tissue that a threshold flags.

        Raises
        ------
        InputError
            If the model has no calibration.
        """


class ScoringModel(Calibrated, Protocol):
    """A fitted model; `napari_spatial_ar.normative.model.NormativeModel` is one."""

    @property
    def name(self) -> str:
        """Name of its folder, such as ``"brain-flair-focus"``."""

    @property
    def sha256(self) -> str:
        """Of the model file's content; "" for a model never saved."""

    @property
    def modality(self) -> str:
        """Modality it was trained on: ``"mri"``, ``"ct"`` or ``"oct"``."""

    @property
    def unit(self) -> str:
        """Unit of its scores and of thresholds, such as ``"nats per dimension"``."""

    @property
    def plane(self) -> Plane | None:
        """Plane of the training slices; None if they were used as acquired."""

    @property
    def notes(self) -> Sequence[str]:
        """What deviated from the request because memory ran short, as sentences."""

    @property
    def engine(self) -> str:
        """Engine of its backbone; "" before the backbone is loaded."""

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone, loaded on first use.

        Raises
        ------
        WeightsError
            If its weights are missing or are not those the model was trained on.
        """

    @property
    def lock(self) -> FairLock:
        """Lock of its backbone, held by a thread while it computes a slice."""

    @property
    def detector(self) -> Detector:
        """The method that scores and explains embeddings."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def backbone_weights(self) -> Mapping[str, Any]:
        """Which weights its backbone computes with, for the record; empty before it is loaded."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of its method that can score alone; none for most methods."""

    def part(self, name: str) -> ScoringModel:
        """Return a model that scores by one part alone, with its own unit and calibration.

        Raises
        ------
        InputError
            If the method has no such part.
        """

    def scores_of(self, part: str, scores: ScanScores) -> ScanScores:
        """Scores of a scan by one part alone, from the patch scores kept with those of all parts.

        Slices without them count as not visited.
        """

    def cut(self, volume: Scan, plane: SlicePlane | None = None) -> Scan:
        """Return a scan cut into the plane of the model.

        Raises
        ------
        InputError
            If it has no such slices.
        """

    def iter_volume(
        self, volume: Scan, slices: Sequence[int] | None = None
    ) -> Iterator[tuple[int, SliceScore]]:
        """Score slices one by one in the order given; see `NormativeModel.iter_volume`."""
