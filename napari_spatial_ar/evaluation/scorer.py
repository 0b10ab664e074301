"""What a comparison asks of a model, ours or another library's."""

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
        """Number that the scores in `SliceScore.grid` are divided by to make the heatmap."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Give the learned tensors by name, those of a frozen backbone left out."""


class Scorer(Protocol):
    """A model that takes part; `NormativeModel` is one.

    ``header.scoring`` makes the heatmap from `SliceScore.grid`, so that other smoothings can be
    tried on a slice that was scored once.
    """

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def sha256(self) -> str:
        """Digest of its file; "" where it has none."""

    @property
    def unit(self) -> str:
        """Of its heatmaps."""

    @property
    def header(self) -> ModelHeader:
        """Method, window, scoring, calibration."""

    @property
    def detector(self) -> Fitted:
        """What was learned."""

    @property
    def device(self) -> torch.device:
        """Where it scores."""

    def score_slice(
        self, image: npt.NDArray[Any], *, window: tuple[float, float] | None = None
    ) -> SliceScore:
        """Score a slice (Y, X), see `NormativeModel.score_slice`."""
