"""Nearest-neighbour memory bank over patch embeddings.

After AnomalyDINO (Damm et al., WACV 2025), without its masking and rotations: every patch of
every normal slice is kept, and a patch is as unusual as it is far, in cosine distance, from the
nearest of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.methods.base import Detector

__all__ = ["MemoryBank"]

# Rows of the bank compared at a time: bounds the distance matrix to some 100 MB.
_CHUNK = 32_768


class MemoryBank(Detector):
    """Cosine distance to the nearest normal patch.

    Parameters
    ----------
    bank : (N, D) float16
        Unit-length patch embeddings of normal slices.
    """

    name: ClassVar[str] = "memory-bank"
    unit: ClassVar[str] = "cosine distance"

    def __init__(self, bank: Tensor) -> None:
        self.bank = bank

    @classmethod
    def fit(cls, grids: Iterable[Tensor]) -> MemoryBank:
        """Keep every patch.

        Parameters
        ----------
        grids : iterable of (B, D, Hp, Wp) float
            Embeddings of normal slices.

        Raises
        ------
        InputError
            If there are none.
        """
        rows = [
            functional.normalize(grid.float().permute(0, 2, 3, 1).flatten(0, 2)).half()
            for grid in grids
        ]
        if not rows:
            raise InputError("a memory bank needs at least one normal slice")
        return cls(torch.cat(rows))

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the distance itself."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """1 - cosine similarity to the nearest row; see `Detector.score`."""
        batch, _, rows, columns = grid.shape
        queries = functional.normalize(grid.float().permute(0, 2, 3, 1).flatten(0, 2))
        # bfloat16 products hit the CPU's matrix units; the winner is measured again in float32.
        fast = queries.to(torch.bfloat16)
        best = torch.full((len(queries),), -2.0, dtype=torch.bfloat16, device=queries.device)
        nearest = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
        for start in range(0, len(self.bank), _CHUNK):
            similarity = fast @ self.bank[start : start + _CHUNK].to(torch.bfloat16).T
            value, index = similarity.max(dim=1)
            better = value > best
            best[better] = value[better]
            nearest[better] = index[better] + start
        exact = (queries * self.bank[nearest].float()).sum(dim=1)
        return (1 - exact).clamp_min(0).reshape(batch, rows, columns)

    def parameters(self) -> dict[str, Any]:
        """Give no settings: it has none."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Give the bank."""
        return {"bank": self.bank.cpu().contiguous()}

    @classmethod
    def from_tensors(cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]) -> MemoryBank:
        """See `Detector.from_tensors`."""
        del parameters
        if "bank" not in tensors or tensors["bank"].ndim != 2:
            raise ModelFileError("it holds no memory bank")
        return cls(tensors["bank"])

    def to(self, device: torch.device) -> MemoryBank:
        """See `Detector.to`."""
        self.bank = self.bank.to(device)
        return self
