"""What every detector does: score a grid of embeddings, and be written to a model file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from napari_spatial_ar.errors import ModelFileError

__all__ = ["DETECTORS", "Detector", "detector_from_tensors"]

DETECTORS: dict[str, type[Detector]] = {}


class Detector(ABC):
    """A method that says how unusual each patch of an embedding grid is.

    Subclasses register themselves under `name` and are rebuilt from `parameters` and
    `tensors` alone, which is all that a model file holds of them.
    """

    name: ClassVar[str]
    # Unit of the heatmap, as shown beside thresholds.
    unit: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        DETECTORS[cls.name] = cls

    @property
    @abstractmethod
    def heatmap_divisor(self) -> float:
        """Number the patch scores are divided by to make the heatmap (D for nats per dimension)."""

    @abstractmethod
    def score(self, grid: Tensor) -> Tensor:
        """Score patches.

        Parameters
        ----------
        grid : (B, D, Hp, Wp) float
            Embeddings.

        Returns
        -------
        (B, Hp, Wp) float32
            Larger is more unusual.
        """

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Give the settings, as plain JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Give the learned tensors by name, on the CPU."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
        """Inverse of `parameters` and `tensors`.

        Raises
        ------
        ModelFileError
            If they do not fit each other.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Detector:
        """Move to a device, in place."""


def detector_from_tensors(
    name: str, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
) -> Detector:
    """Rebuild a detector from a model file's content.

    Raises
    ------
    ModelFileError
        If this version knows no such method.
    """
    if name not in DETECTORS:
        raise ModelFileError(
            f"its method '{name}' is not known to this version (known: {', '.join(DETECTORS)})",
            fix="Update napari-spatial-ar",
        )
    return DETECTORS[name].from_tensors(parameters, tensors)
