"""The project's own method behind the detector interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from napari_spatial_ar.errors import ModelFileError, SpatialARError
from napari_spatial_ar.normative.autoregressive import SpatialAR
from napari_spatial_ar.normative.methods.base import Detector

__all__ = ["SpatialARDetector"]


class SpatialARDetector(Detector):
    """Conditional NLL of each embedding under `SpatialAR` (Erdil et al.)."""

    name: ClassVar[str] = "spatial-ar"
    unit: ClassVar[str] = "nats per dimension"

    def __init__(self, network: SpatialAR) -> None:
        self.network = network.eval().requires_grad_(False)

    @property
    def heatmap_divisor(self) -> float:
        """D: the heatmap is in nats per dimension."""
        return float(self.network.channels)

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """A_ij in nats; see `Detector.score`."""
        return self.network.nll(grid.contiguous(memory_format=torch.channels_last))

    def parameters(self) -> dict[str, Any]:
        """Give the arguments of `SpatialAR`."""
        return dict(self.network.settings)

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights of the network."""
        return {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> SpatialARDetector:
        """See `Detector.from_tensors`."""
        try:
            network = SpatialAR(**parameters)
            network.load_state_dict(dict(tensors))
        except (TypeError, RuntimeError, SpatialARError) as error:
            raise ModelFileError(
                "the network's weights do not fit the network it describes"
            ) from error
        return cls(network)

    def to(self, device: torch.device) -> SpatialARDetector:
        """See `Detector.to`."""
        self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self
