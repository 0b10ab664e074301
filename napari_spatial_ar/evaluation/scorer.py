"""The interface of models in a comparison, ours or another library's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.normative.model_file import ModelHeader
from napari_spatial_ar.normative.scores import SliceScore

__all__ = ["Fitted", "Scorer"]


class Fitted(Protocol):
    """What a method learned."""

    @property
    def heatmap_divisor(self) -> float:
        """Divisor of the scores in `SliceScore.grid` that gives the heatmap."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the learned tensors by name, without those of a frozen backbone."""


class Scorer(Protocol):
    """A model in a comparison; `NormativeModel` is one.

    ``header.scoring`` computes the heatmap from `SliceScore.grid`, so that other smoothings can be
    tried on a slice that was scored once.
    """

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def sha256(self) -> str:
        """Hash of its file; "" if it has none."""

    @property
    def unit(self) -> str:
        """Unit of its heatmaps."""

    @property
    def header(self) -> ModelHeader:
        """Method, window, scoring, calibration."""

    @property
    def detector(self) -> Fitted:
        """The trained method."""

    @property
    def device(self) -> torch.device:
        """Where it scores."""

    def score_slice(
        self, image: npt.NDArray[Any], *, window: tuple[float, float] | None = None
    ) -> SliceScore:
        """Score a slice (Y, X), see `NormativeModel.score_slice`."""
