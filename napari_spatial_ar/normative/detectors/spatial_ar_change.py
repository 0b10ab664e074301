"""Spatial AR and synthetic changes in one score: the default method.

The two parts of `TwoParts` are `ChangeDetector` and `SpatialARDetector`. The AR network is that of
the paper, trained otherwise: on whitened embeddings, with mixed dilations, in one cycle of the
learning rate, and scored by direction and distance (``likelihood=both``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch

from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector, StoredChange
from napari_spatial_ar.normative.detectors.grids import StoredGrids
from napari_spatial_ar.normative.detectors.spatial_ar import SpatialARDetector, StoredAR
from napari_spatial_ar.normative.detectors.two_parts import TwoParts, Weight
from napari_spatial_ar.normative.model_schema import Part

__all__ = ["SpatialARChange"]

# Of the convolutions of the AR network: close, wide, close.
_DILATIONS = "1-2-4-2-1"


class _Stored(Part):
    weight: Weight
    change: StoredChange
    nll: StoredAR


class SpatialARChange(TwoParts):
    """Log odds of a synthetic change, and the NLL of Spatial AR; see `TwoParts`."""

    name: ClassVar[str] = "spatial-ar-change"
    stored: ClassVar[type[Part]] = _Stored
    title: ClassVar[str] = "Spatial AR and change"
    second: ClassVar[type[Detector]] = SpatialARDetector
    second_name: ClassVar[str] = "nll"
    second_measures: ClassVar[tuple[str, str]] = (
        "being badly predicted",
        "Negative log-likelihood given the patches before it",
    )
    summary: ClassVar[str] = (
        "how badly a patch is predicted from those around it, and similarity to synthetic anomalies"
    )
    meaning: ClassVar[str] = (
        "How badly the patch is predicted from those before it (negative log-likelihood), plus how "
        "much it looks like a synthetic anomaly, both in standard deviations of normal tissue."
    )
    reference: ClassVar[str] = f"{SpatialARDetector.reference}; {ChangeDetector.reference}"
    cost: ClassVar[str] = (
        "fits in minutes (changed slices are embedded too), scores in milliseconds, a file of 12 MB"
    )
    reports_losses: ClassVar[bool] = True
    skips_air: ClassVar[bool] = True
    other: SpatialARDetector

    @classmethod
    def learn(
        cls,
        grids: Iterable[Any],
        setup: FitContext,
        *,
        weight: float = 0.5,
        slices: int = 600,
        likelihood: str = "both",
        hidden: int = 256,
        steps: int = 240,
        batch_size: int = 8,
        learning_rate: float = 2e-3,
    ) -> Learning[SpatialARChange]:
        """Learn both parts, then measure their usual range; see `Detector.learn`.

        Parameters
        ----------
        grids : iterable of ((B, D, Hp, Wp) float, (B, Hp, Wp) integer)
            Changed slices, as for `ChangeDetector.learn`.
        setup
            As for every detector; ``normals`` and ``valid`` are needed, as `StoredGrids`.
        weight : float, at least 0
            Weight of the NLL in the heatmap.
        slices : int, at least 1
            Changed slices, at most.
        likelihood : {"gaussian", "von-mises-fisher", "both"}
            Conditional of an embedding, as for Spatial AR.
        hidden : int, at least 1
            Channels between the layers of the AR network.
        steps : int, at least 1
            Training steps of the AR network, rounded up to whole epochs.
        batch_size : int, at least 1
            Slices per training step of the AR network.
        learning_rate : float, above 0
            Highest learning rate of the AR network.
        """
        given = {
            "likelihood": likelihood,
            "hidden": hidden,
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
        }
        normals = cast(StoredGrids, setup.normals)
        change = yield from ChangeDetector.learn(grids, setup, slices=slices)
        ar = yield from SpatialARDetector.learn(normals, setup, **_of_ar(given, len(normals)))
        found = cls(change.detector, ar.detector, torch.ones(3, 2), weight).to(setup.device)
        yield from found.measure_usual(setup)
        return Learned(found.to(torch.device("cpu")), {**change.summary, **ar.summary})

    @classmethod
    def stages(
        cls, options: Mapping[str, Any], train: int
    ) -> Sequence[tuple[type[Detector], Mapping[str, Any]]]:
        """See `Detector.stages`."""
        return [
            (ChangeDetector, {**ChangeDetector.options(), "slices": options["slices"]}),
            (SpatialARDetector, {**SpatialARDetector.options(), **_of_ar(options, train)}),
        ]

    @property
    def loss_unit(self) -> str:
        """Unit of the AR network's losses."""
        return self.other.unit

    @staticmethod
    def channels_of(other: SpatialARDetector) -> int:
        """D of the embeddings that the network was trained on."""
        return other.network.channels


def _of_ar(options: Mapping[str, Any], slices: int) -> dict[str, Any]:
    """Options of `SpatialARDetector.learn`, for this number of training slices."""
    kept = ("likelihood", "hidden", "batch_size", "learning_rate")
    steps_of_epoch = math.ceil(max(1, slices) / options["batch_size"])
    return {
        **{name: options[name] for name in kept},
        "dilations": _DILATIONS,
        "epochs": math.ceil(options["steps"] / steps_of_epoch),
        "optimizer": "adamw-cycle",
        "whiten": True,
    }
