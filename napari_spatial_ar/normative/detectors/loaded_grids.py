"""Stored grids as a training takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from napari_spatial_ar.normative.detectors.whitening import EqualVariance
from napari_spatial_ar.normative.fitting.feature_store import load_batch

__all__ = ["LoadedGrids", "turn"]

# Of a card's free memory, that stored grids may fill.
_SHARE = 0.5


class LoadedGrids:
    """Stored grids as a training takes them, kept on a graphics card where there is room.

    Read from the disk again and again they would starve it: a step takes it milliseconds.

    Parameters
    ----------
    paths : sequence of Path
        Stored grids of one shape.
    device : torch.device
        Where the training is.
    turned : bool
        Whether to give them turned by 180 degrees.
    change : EqualVariance, optional
        What to make of them; they are kept as they are stored, in half the memory.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        device: torch.device,
        *,
        turned: bool,
        change: EqualVariance | None = None,
    ) -> None:
        self._paths = paths
        self._turned = turned
        self._kept: Tensor | None = None
        if device.type == "cuda" and paths and self._bytes() < _SHARE * _free_bytes(device):
            first = torch.from_numpy(np.load(paths[0]))
            kept = torch.empty((len(paths), *first.shape), dtype=first.dtype, device=device)
            for place, path in zip(kept, paths, strict=True):
                place.copy_(torch.from_numpy(np.load(path)))
            self._kept = kept.movedim(3, 1)  # channels first to the eye, last in memory
        self._change = None if change is None else change.to(self.device)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def device(self) -> torch.device:
        """Where `batch` gives them."""
        return torch.device("cpu") if self._kept is None else self._kept.device

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Give some of them, (B, D, Hp, Wp) float32."""
        if self._kept is None:
            grid = load_batch([self._paths[i] for i in indices])
        else:
            grid = self._kept[torch.tensor(list(indices), device=self._kept.device)].float()
        if self._change is not None:
            grid = self._change(grid)
        return turn(grid) if self._turned else grid

    def _bytes(self) -> int:
        return sum(path.stat().st_size for path in self._paths)


def _free_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def turn(grid: Tensor) -> Tensor:
    """Turn (..., Hp, Wp) by 180 degrees, which is undone by turning once more."""
    return grid.flip(-2, -1)
