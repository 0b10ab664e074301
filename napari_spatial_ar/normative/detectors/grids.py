"""Embedding grids as sequences for detectors: read repeatedly, never all in memory.

If patches of air are skipped (`Preprocessing.skip_air`), the grid is NaN in all of their channels.
Detectors learn nothing from such a patch, exclude it from the context of others, and score it NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.fitting.feature_store import load_batch

__all__ = [
    "Draw",
    "StoredGrids",
    "check_grid",
    "count_present",
    "present_in",
    "present_rows",
    "rows_of",
    "sample_rows",
    "score_rows",
    "walk",
    "without_air",
    "without_missing",
]


class StoredGrids(Sequence[Tensor]):
    """Grids in a `FeatureStore`, read from disk whenever they are accessed.

    Parameters
    ----------
    paths : sequence of Path
        As returned by `FeatureStore.paths`, after extraction.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> StoredGrids: ...
    def __getitem__(self, index: int | slice) -> Tensor | StoredGrids:
        """One grid, (1, D, Hp, Wp) float32, or a sub-sequence that is not read yet."""
        if isinstance(index, slice):
            return StoredGrids(self.paths[index])
        return load_batch([self.paths[index]])


def check_grid(grid: Tensor, channels: int | None = None) -> Tensor:
    """Return a grid after checking its shape.

    Parameters
    ----------
    grid : (B, D, Hp, Wp) float
        Embeddings.
    channels : int, optional
        The D it must have.

    Raises
    ------
    InputError
        If it has other axes or another D.
    """
    if grid.ndim != 4 or 0 in grid.shape:
        raise InputError(f"embeddings must be (B, D, Hp, Wp), not {tuple(grid.shape)}")
    if channels is not None and grid.shape[1] != channels:
        raise InputError(
            f"the embeddings have {grid.shape[1]} channels, the model was fitted on {channels}",
            fix="Use the backbone, and the blocks of it, that the model was fitted with",
        )
    return grid


def rows_of(grid: Tensor) -> Tensor:
    """(B, D, Hp, Wp) -> (B * Hp * Wp, D) float32, in raster order."""
    return grid.float().permute(0, 2, 3, 1).flatten(0, 2)


def present_in(grid: Tensor) -> Tensor:
    """(B, D, Hp, Wp) -> (B, Hp, Wp) bool: patches that were not skipped as air."""
    return ~grid[:, 0].isnan()


def count_present(grid: Tensor) -> int:
    """Count the patches of a grid that were not skipped."""
    return int(present_in(grid).sum())


def present_rows(grid: Tensor) -> Tensor:
    """Give the patches to learn from, (B, D, Hp, Wp) -> (N, D) float32, in raster order."""
    return without_missing(rows_of(grid))


def without_missing(rows: Tensor) -> Tensor:
    """Drop descriptions of patches that were skipped as air (NaN), (N, k) -> (n, k)."""
    present = ~rows[:, 0].isnan()
    return rows if bool(present.all()) else rows[present]


def score_rows(rows: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Score descriptions of patches, those of skipped ones (NaN) with NaN.

    Parameters
    ----------
    rows : (N, k) float32
        Descriptions.
    score : callable
        Scores (n, k) float32, giving (..., n).

    Returns
    -------
    (..., N) float32
    """
    missing = rows[:, 0].isnan()
    if rows.device.type != "cpu":
        # Where a CUDA graph may replay it, no value may decide on what is computed.
        return score(rows).masked_fill(missing, torch.nan)
    if not missing.any():
        return score(rows)
    found = score(rows[~missing])
    scores = found.new_full((*found.shape[:-1], len(rows)), torch.nan)
    scores[..., ~missing] = found
    return scores


def without_air(grid: Tensor) -> Tensor:
    """Give the same grid with zeros where patches were skipped, as beyond the edge of a slice."""
    return grid.masked_fill(grid[:, :1].isnan(), 0.0)


def walk(grids: Iterable[Tensor]) -> Iterator[Tensor]:
    """Iterate over grids, checking that each is one and that all have the same channels.

    Raises
    ------
    InputError
        If there are none, they can be iterated only once, or one does not match.
    """
    if iter(grids) is grids:
        raise InputError("the embeddings are read more than once: give a sequence")
    channels = None
    for grid in grids:
        channels = check_grid(grid, channels).shape[1]
        yield grid
    if channels is None:
        raise InputError("a detector needs at least one normal slice")


class Draw:
    """Draw rows of a stream without replacement, in order, the same ones for the same seed.

    Parameters
    ----------
    total : int
        Number of rows that will be added.
    count : int
        Number of rows to draw, at most.
    seed : int or sequence of int
        Seed of the draw.
    """

    def __init__(self, total: int, count: int, seed: int | Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        self._wanted = np.sort(rng.choice(total, min(count, total), replace=False))
        self._seen = 0
        self._parts: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Add the next rows of the stream, (N, D)."""
        low, high = np.searchsorted(self._wanted, [self._seen, self._seen + len(rows)])
        chosen = torch.from_numpy(self._wanted[low:high] - self._seen)
        self._parts.append(rows[chosen.to(rows.device)].half().cpu())
        self._seen += len(rows)

    def rows(self) -> Tensor:
        """(min(count, total), D) float16, on the CPU."""
        return torch.cat(self._parts)


def sample_rows(
    grids: Iterable[Tensor], count: int, seed: int, *, unit_length: bool = False
) -> Tensor:
    """Draw patches without replacement, in order, the same ones for the same seed.

    Parameters
    ----------
    grids : iterable of (B, D, Hp, Wp) float
        Embeddings, iterated twice.
    count : int
        Number of patches, at most.
    seed : int
        Seed of the draw.
    unit_length : bool
        Whether to scale each to unit length.

    Returns
    -------
    (min(count, patches), D) float16
        On the CPU.
    """
    drawn = Draw(sum(count_present(grid) for grid in walk(grids)), count, seed)
    for grid in walk(grids):
        rows = present_rows(grid)
        drawn.add(functional.normalize(rows) if unit_length else rows)
    return drawn.rows()
