"""How many regions a threshold flags in a normal scan: false positives as a reader meets them.

Regions are counted as findings are (`napari_spatial_ar.review.findings`): 26 neighbours over the
slices of a scan. Images are no stack, so their regions, with 8 neighbours, are counted by slice.
Only slices that the calibration scored take part.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["NormalRegions", "RegionCounter"]

#: Smallest regions counted, in mm3 or voxels; 0 counts all.
SIZES = (0.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0)

_NEIGHBOURS_8 = np.ones((3, 3), bool)
# Thresholds above the highest calibrated one, the last being the highest score of all. There too
# little tissue is left to state its share, but regions can still be counted.
_ABOVE = 8


@dataclass(frozen=True)
class NormalRegions:
    """Mean number of regions above each threshold in held-out normal scans.

    Parameters
    ----------
    per : {"scan", "slice"}
        What the mean is over: volumes, or single images if there was no volume.
    scans : int
        Number of scans, or of single images.
    thresholds : tuple of float
        Rising, in the model's unit.
    unit : {"mm3", "voxels"}
        Unit of sizes: voxels if the size of a voxel was not known for every scan.
    sizes : tuple of float
        Smallest sizes, rising from 0.
    counts : tuple of tuple of float
        For each smallest size and threshold, the mean number of regions at least as large.

    Raises
    ------
    ValueError
        If thresholds or sizes do not rise, or counts do not have their shape.
    """

    per: Literal["scan", "slice"]
    scans: int
    thresholds: tuple[float, ...]
    unit: Literal["mm3", "voxels"]
    sizes: tuple[float, ...]
    counts: tuple[tuple[float, ...], ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.thresholds or np.any(np.diff(self.thresholds) < 0):
            raise ValueError("thresholds of regions that do not rise")
        if not self.sizes or self.sizes[0] != 0 or not np.all(np.diff(self.sizes) > 0):
            raise ValueError("sizes of regions that do not rise from 0")
        if [len(row) for row in self.counts] != [len(self.thresholds)] * len(self.sizes):
            raise ValueError("not one number of regions for each size and threshold")

    def count(self, threshold: float, size: float = 0.0) -> float | None:
        """Mean number of regions above a threshold, interpolated linearly.

        0 above the highest score of all normal scans, None below the lowest threshold.

        Parameters
        ----------
        threshold : float
            In the model's unit.
        size : float
            Smallest size counted, in ``unit``. Beyond the largest measured one that is used, so
            that the number is never too small.
        """
        if threshold < self.thresholds[0]:
            return None
        of_sizes = [np.interp(threshold, self.thresholds, row, right=0.0) for row in self.counts]
        return float(np.interp(size, self.sizes, of_sizes))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, stored in the model file."""
        return {
            "per": self.per,
            "scans": self.scans,
            "thresholds": list(self.thresholds),
            "unit": self.unit,
            "sizes": list(self.sizes),
            "counts": [list(row) for row in self.counts],
        }


class RegionCounter:
    """Keeps the patch scores of normal slices until thresholds are known, then counts regions.

    Patch scores of a slice take a few KB, its heatmap hundreds.
    """

    def __init__(self) -> None:
        self._stacks: dict[object, _Stack] = {}
        self._highest = -np.inf

    def add(
        self,
        stack: object,
        index: int,
        geometry: Geometry | None,
        grid: npt.NDArray[np.float32],
        heat: npt.NDArray[np.float32],
    ) -> None:
        """Add one slice.

        Parameters
        ----------
        stack : hashable
            Its volume; distinct for each image.
        index : int
            Its index in the volume.
        geometry : Geometry or None
            Grid of the volume; None for an image.
        grid : (Hp, Wp) float32
            Its patch scores.
        heat : (rows, columns) float32
            Its heatmap, not kept: ``heatmap`` in `count` computes it again.
        """
        rows, columns = heat.shape
        self._stacks.setdefault(stack, _Stack(geometry)).slices[index] = grid, (rows, columns)
        self._highest = max(self._highest, float(heat.max()))

    def count(
        self,
        heatmap: Callable[[npt.NDArray[np.float32], tuple[int, int]], npt.NDArray[np.float32]],
        thresholds: Sequence[float],
    ) -> Generator[int, None, NormalRegions | None]:
        """Count regions above thresholds, and above higher ones up to the highest score.

        Parameters
        ----------
        heatmap : callable
            Returns a slice's heatmap for its patch scores and shape.
        thresholds : sequence of float
            Rising.

        Yields
        ------
        int
            Slices done.

        Returns
        -------
        NormalRegions or None
            None without any slice.
        """
        volumes = [stack for stack in self._stacks.values() if stack.slice_count > 1]
        used = volumes or list(self._stacks.values())
        if not used:
            return None
        done, top = 0, thresholds[-1]
        more = np.linspace(top, max(top, self._highest), _ABOVE + 1)[1:]
        cuts = [*thresholds, *(float(cut) for cut in more if cut > top)]
        in_mm3 = all(stack.voxel_mm3 is not None for stack in used)
        totals = np.zeros((len(SIZES), len(cuts)))
        for stack in used:
            levels = [_Regions(cut) for cut in cuts]
            for index, (grid, shape) in sorted(stack.slices.items()):
                heat = heatmap(grid, shape)
                for level in levels:
                    level.add(index, heat)
                done += 1
                yield done
            voxel = (stack.voxel_mm3 or 1.0) if in_mm3 else 1.0
            for column, level in enumerate(levels):
                # A region of exactly the smallest size counts, as in `MaskSettings`.
                sizes = level.sizes() * voxel * (1 + 1e-6)
                totals[:, column] += (sizes >= np.array(SIZES)[:, None]).sum(axis=1)
        means = totals / len(used)
        return NormalRegions(
            per="scan" if volumes else "slice",
            scans=len(used),
            thresholds=tuple(cuts),
            unit="mm3" if in_mm3 else "voxels",
            sizes=SIZES,
            counts=tuple(tuple(float(f"{mean:.4g}") for mean in row) for row in means),
        )


class _Stack:
    """Slices of a volume, by index, or an image."""

    def __init__(self, geometry: Geometry | None) -> None:
        self.slice_count = 1 if geometry is None else geometry.slice_count
        known = geometry is not None and geometry.exact
        self.voxel_mm3 = geometry.voxel_volume if geometry is not None and known else None
        self.slices: dict[int, tuple[npt.NDArray[np.float32], tuple[int, int]]] = {}


class _Regions:
    """Regions above a threshold, slice by slice: a scan's mask need not fit into memory."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        # Parts of regions within slices are numbered from 1 throughout the stack.
        self._voxels = [np.zeros(1, np.int64)]
        self._count = 0
        self._touching = [np.zeros((2, 0), np.int64)]
        # Index of the slice added last, and its numbers with a border of 0.
        self._last = -2
        self._below: npt.NDArray[np.int64] | None = None

    def add(self, index: int, heat: npt.NDArray[np.float32]) -> None:
        """Add the heatmap of the next slice."""
        labels, found = ndimage.label(heat > self._threshold, _NEIGHBOURS_8)
        below = self._below if index == self._last + 1 else None
        self._last, self._below = index, None
        if not found:
            return
        self._voxels.append(np.bincount(labels.ravel())[1:])
        rows, columns = np.nonzero(labels)
        own = labels[rows, columns].astype(np.int64) + self._count
        self._count += found
        if below is not None:
            for down in range(3):
                for right in range(3):
                    other = below[rows + down, columns + right]
                    pairs = np.stack([own[other > 0], other[other > 0]])
                    self._touching.append(np.unique(pairs, axis=1))
        self._below = np.zeros((heat.shape[0] + 2, heat.shape[1] + 2), np.int64)
        self._below[rows + 1, columns + 1] = own

    def sizes(self) -> npt.NDArray[np.float64]:
        """Voxels of each region."""
        pairs = np.concatenate(self._touching, axis=1)
        shape = (self._count + 1, self._count + 1)
        graph = sparse.coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), shape=shape)
        _, region = connected_components(graph, directed=False)
        voxels = np.bincount(region, weights=np.concatenate(self._voxels))
        return np.asarray(voxels[voxels > 0], np.float64)
