"""Smoothing of patch scores across the slices of a volume.

Slices are scored one by one; a lesion is in several, and the error of a score in one. So scores of
neighbouring slices may be averaged, weighted by a Gaussian of their distance in mm, before they
are smoothed within the slice.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.normative.scores import SliceScore

__all__ = ["averaged", "measured_stack", "slice_weights", "smoothed_slices"]

Floats = npt.NDArray[np.float32]

# Slices farther away than this many standard deviations have a weight below 0.14, and none here:
# each one used has to be scored even if only a part of the scan is asked for.
_REACH = 2.0
# A step this many times as long as both steps beside it is a gap: slices are missing there.
_GAP = 1.5
# Slices that are sheared more than this (mm across per mm along, some 27 degrees) do not show the
# same place at the same patch.
_SHEAR = 0.5


def slice_weights(geometry: Geometry | None, sigma: float) -> list[dict[int, float]]:
    """Weights of the slices that each slice of a volume is averaged with.

    Parameters
    ----------
    geometry : Geometry or None
        Grid of the volume; None for an image.
    sigma : float
        Standard deviation of the Gaussian in mm; 0 for no smoothing.

    Returns
    -------
    list of dict of int to float
        For each slice the weights by index, its own being 1. Other slices have none if the scan
        has no known spacing in mm, beyond a gap in the stack, and where slices are shifted
        sideways against each other. An empty list if no slice has a neighbour.
    """
    if geometry is None or not sigma or not measured_stack(geometry):
        return []
    along, across = _positions(geometry)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    # The longer of the steps before and after each, or the only one.
    padded = np.concatenate([[-np.inf], steps, [-np.inf]])
    beside = np.maximum(padded[:-2], padded[2:])
    gap = (steps > _GAP * beside) & np.isfinite(beside)
    run = np.empty(len(order), int)
    run[order] = np.concatenate([[0], np.cumsum(gap)])
    weights = []
    for index, here in enumerate(along):
        distance = np.abs(along - here)
        sideways = np.linalg.norm(across - across[index], axis=1)
        near = (distance <= _REACH * sigma) & (run == run[index])
        # Another slice at the same place is another acquisition of it.
        near &= (distance > 0) & (sideways <= _SHEAR * distance + 1e-3)
        near[index] = True
        weights.append(
            {int(i): math.exp(-((distance[i] / sigma) ** 2) / 2) for i in np.flatnonzero(near)}
        )
    return weights if any(len(some) > 1 for some in weights) else []


def measured_stack(geometry: Geometry | None) -> bool:
    """Whether distances between the slices of a volume are known in mm; not for an image."""
    if geometry is None or not geometry.spacing_known or geometry.slice_count < 2:
        return False
    return geometry.exact or geometry.slice_positions is not None


def _positions(
    geometry: Geometry,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Positions of slices along their normal (N,), and in their plane (N, 3), in mm."""
    axes = [2 - axis for axis in range(3) if axis != geometry.slice_axis]
    normal = np.cross(geometry.affine[:3, axes[0]], geometry.affine[:3, axes[1]])
    normal /= np.linalg.norm(normal)
    if geometry.slice_positions is not None:
        positions = np.asarray(geometry.slice_positions)
    else:
        step = geometry.affine[:3, 2 - geometry.slice_axis]
        positions = np.arange(geometry.slice_count)[:, None] * step
    along = np.round(positions @ normal, 4)
    return along, positions - np.outer(positions @ normal, normal)


def averaged(
    index: int, scores: Mapping[int, SliceScore], weights: Mapping[int, float]
) -> SliceScore:
    """Weighted means of a slice's scores and those of its neighbours.

    Parameters
    ----------
    index : int
        The slice.
    scores : mapping of int to SliceScore
        By index, each scored by itself; neighbours that are missing or empty have no part, and none
        that the model does not know in a slice that it knows.
    weights : mapping of int to float
        By index, see `slice_weights`.

    Returns
    -------
    SliceScore
        With the mean of image scores and of patch scores, those of parts of the method too, but
        the heatmap as it was. A patch skipped in the slice stays skipped; one skipped in a
        neighbour has no part there. The same object if it is empty or has no neighbour.
    """
    here = scores[index]
    near = [
        (weight, scores[other])
        for other, weight in weights.items()
        if other in scores
        and scores[other].grid is not None
        and not scores[other].without_body
        and not scores[other].unfamiliarity > 1 >= here.unfamiliarity
    ]
    if here.grid is None or here.without_body or len(near) < 2:
        return here
    image = sum(w * one.image_score for w, one in near) / sum(w for w, _ in near)
    parts = {
        name: _mean(own, [(w, one.parts[name]) for w, one in near])
        for name, own in here.parts.items()
    }
    grid = _mean(here.grid, [(w, one.grid) for w, one in near if one.grid is not None])
    return replace(here, grid=grid, image_score=image, parts=parts)


def _mean(own: Floats, near: Sequence[tuple[float, Floats]]) -> Floats:
    """Weighted mean of what is not NaN; NaN where a slice's own (Hp, Wp) is."""
    total, share = np.zeros(own.shape), np.zeros(own.shape)
    for weight, grid in near:
        present = ~np.isnan(grid)
        total += weight * np.where(present, grid, 0.0)
        share += weight * present
    mean = total / np.where(share, share, 1.0)
    return np.where(np.isnan(own), np.nan, mean).astype(np.float32)


def smoothed_slices(
    order: Sequence[int],
    weights: Sequence[Mapping[int, float]],
    score: Callable[[Sequence[int]], Iterable[tuple[int, SliceScore]]],
    smoothed: Callable[[int, Mapping[int, SliceScore], Mapping[int, float]], SliceScore],
) -> Iterator[tuple[int, SliceScore]]:
    """Score slices together with their neighbours.

    A slice is yielded as soon as its neighbours are scored, each of which is scored once.

    Parameters
    ----------
    order : sequence of int
        Slices to yield, in this order.
    weights : sequence of mapping
        See `slice_weights`.
    score : callable
        Scores slices one by one, in the given order.
    smoothed : callable
        Returns a slice's scores for the arguments of `averaged`.

    Yields
    ------
    (int, SliceScore)
        What ``smoothed`` returns.
    """
    # By how many of the slices to yield each is needed still.
    uses = Counter(index for wanted in order for index in sorted(weights[wanted]))
    left = deque(order)
    known: dict[int, SliceScore] = {}
    for index, found in score(list(uses)):
        known[index] = found
        while left and all(other in known for other in weights[left[0]]):
            first = left.popleft()
            done = smoothed(first, known, weights[first])
            for other in weights[first]:
                uses[other] -= 1
                if not uses[other]:
                    del known[other]
            yield first, done
