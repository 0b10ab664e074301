"""Fit the outline of a flagged region to the edges of the image.

Patches are 8 mm wide or so, and what a threshold outlines is as coarse. The inside of a region is
distinguished from its outside by voxel values, see `refine_region`; where these leave doubt, a
random walker (Grady, IEEE TPAMI 28(11), 2006) decides by the edges.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import random_walker

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.cancellation import check_cancelled
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.review.strokes import Refined, Strokes

__all__ = ["RefineSettings", "RefinedAll", "Unrefined", "refine_all", "refine_region"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Voxels = npt.NDArray[np.int64]
Box = tuple[slice, slice, slice]


# Seeds of the random walker; the last take no part.
_INSIDE, _OUTSIDE, _LEFT_OUT = 1, 2, -1
# Share of the core that a refined region must contain.
_LEAST_CORE = 0.1
# As many regions as a sentence lists.
_NAMED = 5
_NO_EDGE = "the image has no clear edge around the region"
_AS_IT_IS = "Its outline was left as it is; edit it with the brush"


class Unrefined(InputError):
    """A region whose outline cannot be refined, and therefore stays as it is."""


@dataclass(frozen=True)
class RefineSettings:
    """How outlines are fitted; chosen on the validation split of brain FLAIR slices.

    Lengths are in mm, or in pixels for scans without a spacing in mm.

    Parameters
    ----------
    core : float
        Share of a region's voxels, those with the highest scores, whose class is the lesion's.
    margin_mm : float
        How far outside of the region its refined outline may be.
    around_mm : float
        How wide the surroundings are, whose voxel values are compared with those of the core.
    smoothing_mm : float
        Standard deviation of the Gaussian that takes the noise from voxel values.
    outside, inside : float
        Voxel values that settle what a voxel is, from 0 (the surroundings) to 1 (the lesion).
    beta : float
        How strictly the random walker stops at edges.
    contrast : float
        Least difference between core and surroundings, in standard deviations of both.
    most_voxels : int
        A larger box around a region is sampled down in its slices, `coarsest` times at most.
    coarsest : int
        Regions that would have to be sampled down further are too large.
    """

    core: float = 0.3
    margin_mm: float = 2.0
    around_mm: float = 4.0
    smoothing_mm: float = 1.0
    outside: float = 0.25
    inside: float = 0.6
    beta: float = 130.0
    contrast: float = 0.5
    most_voxels: int = 1_000_000
    coarsest: int = 4

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def refine_region(
    voxels: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    mask: npt.NDArray[np.bool_ | np.uint8],
    region: Voxels,
    geometry: Geometry,
    *,
    allowed: Bools | None = None,
    painted: Voxels | None = None,
    erased: Voxels | None = None,
    settings: RefineSettings | None = None,
) -> Refined:
    """Fit a region's outline to the edges of the image, in 3-D, or in 2-D if it is in one slice.

    The core of the scores and the surroundings of the region say what voxel values are like inside
    and outside: Otsu's threshold (IEEE TSMC 9(1), 1979) divides region and margin in two classes,
    and the class of the core is the lesion. Voxels well within a class are the seeds of the random
    walker. Of several parts, the one with most of the core remains, with its holes filled per
    slice.

    Parameters
    ----------
    voxels, scores : (Z, Y, X) floating
        The scan and its scores, in source order; only the box around the region is read.
    mask : (Z, Y, X) bool or uint8
        All regions: others are neither entered nor touched.
    region : (n,) int64
        Flat indices of the region's voxels.
    geometry : Geometry
        The scan's grid.
    allowed : (Z, Y, X) bool, optional
        Where the region may be, such as the body; everywhere by default.
    painted, erased : (n,) int64, optional
        Flat indices of manual edits: those in the region stay inside, and outside.
    settings : RefineSettings, optional
        The defaults are those that were measured.

    Returns
    -------
    Refined

    Raises
    ------
    Unrefined
        If the region is too large, has no edge in the image, or would lose its core.
    Cancelled
        See `napari_spatial_ar.normative.cancellation.cancel_when`.
    """
    settings = RefineSettings() if settings is None else settings
    box, steps = _box(region, geometry, max(settings.margin_mm, settings.around_mm))
    coarse = _sampling(box, geometry, settings)
    inside = _in_box(region, box, geometry.shape)
    others = (np.asarray(mask[box]) != 0) & ~inside
    # Regions that touch by a corner are one.
    free = ~ndimage.binary_dilation(others, np.ones((3, 3, 3), bool))
    if allowed is not None:
        free &= allowed[box]
    if erased is not None:
        free &= ~_in_box(erased, box, geometry.shape)
    sure = np.zeros_like(inside) if painted is None else _in_box(painted, box, geometry.shape)
    sure &= inside
    heights = np.asarray(scores[box], np.float32)
    core = inside & (heights >= np.quantile(heights[inside], 1 - settings.core))
    values = np.nan_to_num(np.asarray(voxels[box], np.float32), posinf=0.0, neginf=0.0)
    values = ndimage.gaussian_filter(values, [settings.smoothing_mm / step for step in steps])
    check_cancelled()
    steps = tuple(step * part.step for step, part in zip(steps, coarse, strict=True))
    chance = _walk(
        values[coarse], inside[coarse], core[coarse], free[coarse], sure[coarse], steps, settings
    )
    check_cancelled()
    if chance.shape != inside.shape:
        shrink = [1 / part.step for part in coarse]
        chance = ndimage.affine_transform(
            chance, shrink, output_shape=inside.shape, order=1, mode="nearest"
        )
    fitted = _main_part((chance > 0.5) & free | sure, core, free, geometry.slice_axis) | sure

    def flat(part: Bools) -> Voxels:
        places = [at + edge.start for at, edge in zip(np.nonzero(part), box, strict=True)]
        return np.asarray(np.ravel_multi_index(places, geometry.shape), np.int64)

    return Refined(flat(fitted & inside), flat(fitted & ~inside), flat(inside & ~fitted))


def _box(
    region: Voxels, geometry: Geometry, margin: float
) -> tuple[Box, tuple[float, float, float]]:
    """Box of a region with a margin, one slice only if the region is in one; the voxels' size."""
    places = np.unravel_index(region, geometry.shape)
    axis = geometry.slice_axis
    steps = list(geometry.spacing)
    if not geometry.spacing_known:
        steps[axis] = max(steps[axis], margin)  # one more slice on either side
    edges = []
    for number, (at, size, step) in enumerate(zip(places, geometry.shape, steps, strict=True)):
        first, last = int(at.min()), int(at.max())
        more = math.ceil(margin / step) + 2 if number != axis or first < last else 0
        edges.append(slice(max(0, first - more), min(size, last + more + 1)))
    return (edges[0], edges[1], edges[2]), (steps[0], steps[1], steps[2])


def _sampling(box: Box, geometry: Geometry, settings: RefineSettings) -> Box:
    """Every how many voxels of a box are computed with, so that they are not too many."""
    count = math.prod(part.stop - part.start for part in box)
    step = max(1, math.ceil(math.sqrt(count / settings.most_voxels)))
    if step > settings.coarsest:
        raise Unrefined(
            f"the region is too large to refine: {count / 1e6:.0f} million voxels around it",
            fix="Raise the threshold until it falls apart, or edit it with the brush",
        )
    z, y, x = (slice(None, None, 1 if a == geometry.slice_axis else step) for a in range(3))
    return z, y, x


def _in_box(flat: Voxels, box: Box, shape: tuple[int, int, int]) -> Bools:
    """Which voxels of a box are among these of the grid."""
    here = np.zeros([part.stop - part.start for part in box], bool)
    places = [at - part.start for at, part in zip(np.unravel_index(flat, shape), box, strict=True)]
    known = np.ones(len(flat), bool)
    for at, size in zip(places, here.shape, strict=True):
        known &= (at >= 0) & (at < size)
    here[tuple(at[known] for at in places)] = True
    return here


def _walk(
    values: npt.NDArray[np.float32],
    inside: Bools,
    core: Bools,
    free: Bools,
    sure: Bools,
    steps: tuple[float, ...],
    settings: RefineSettings,
) -> Floats:
    """Chance of each voxel to belong to the lesion."""
    distance = ndimage.distance_transform_edt(~inside, sampling=steps)
    near = distance <= settings.margin_mm
    around = ~inside & (distance <= settings.around_mm)
    if (around & free).any():
        around &= free  # else it is surrounded by what it cannot enter, such as air
    likeness = _likeness(values, core, around, around | inside, settings)
    seeds = np.zeros(values.shape, np.int8)
    seeds[inside & (likeness > settings.inside) | core & (likeness > settings.outside)] = _INSIDE
    seeds[~near | ~free | (likeness < settings.outside)] = _OUTSIDE
    seeds[sure] = _INSIDE
    if not (seeds == _INSIDE).any():
        raise Unrefined(_NO_EDGE, fix=_AS_IT_IS)
    if (seeds != 0).all():
        return np.asarray(seeds == _INSIDE, np.float64)
    # Of what is surely outside, what touches the rest is enough.
    seeds[~ndimage.binary_dilation(seeds != _OUTSIDE, np.ones((3, 3, 3), bool))] = _LEFT_OUT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # parts without a seed are outside
        labels = random_walker(
            np.clip(likeness, -0.5, 1.5),
            seeds,
            beta=settings.beta,
            mode="cg_j",
            tol=1e-3,
            return_full_prob=True,
            spacing=steps,
        )
    return np.asarray(labels[0])


def _likeness(
    values: npt.NDArray[np.float32],
    core: Bools,
    outside: Bools,
    either: Bools,
    settings: RefineSettings,
) -> Floats:
    """Voxel values from 0 for the median of the surroundings' class to 1 for that of the lesion."""
    if not (core.any() and outside.any()):
        raise Unrefined(_NO_EDGE, fix=_AS_IT_IS)
    of_core, of_others = values[core], values[outside]
    spread = math.sqrt((float(of_core.var()) + float(of_others.var())) / 2)
    middle = float(np.median(of_core))
    if not abs(middle - float(np.median(of_others))) > settings.contrast * spread:
        raise Unrefined(_NO_EDGE, fix=_AS_IT_IS)
    shown = values[either]
    if shown.min() == shown.max():
        raise Unrefined(_NO_EDGE, fix=_AS_IT_IS)
    cut = float(threshold_otsu(shown))  # type: ignore[no-untyped-call]
    high, low = float(np.median(shown[shown > cut])), float(np.median(shown[shown <= cut]))
    if middle <= cut:
        high, low = low, high
    return np.asarray((values.astype(np.float64) - low) / (high - low))


def _main_part(fitted: Bools, core: Bools, free: Bools, axis: int) -> Bools:
    """Fill the holes in each slice, and keep the connected part with most of the core."""
    planes, open_planes = np.moveaxis(fitted, axis, 0), np.moveaxis(free, axis, 0)
    for plane, open_plane in zip(planes, open_planes, strict=True):
        plane |= ndimage.binary_fill_holes(plane) & open_plane
    labels, _ = ndimage.label(fitted, np.ones((3, 3, 3), bool))
    shares = np.bincount(labels[core & fitted])
    if len(shares) == 0 or shares.max() < _LEAST_CORE * np.count_nonzero(core):
        raise Unrefined(_NO_EDGE, fix=_AS_IT_IS)
    return np.asarray(labels == shares.argmax())


@dataclass(frozen=True)
class RefinedAll:
    """Outcome for several regions.

    Parameters
    ----------
    refined : tuple of Refined
        Those whose outline was fitted.
    left : tuple of (int, str)
        Number of each other region, and why it was left as it is: a sentence.
    """

    refined: tuple[Refined, ...] = ()
    left: tuple[tuple[int, str], ...] = ()

    @property
    def sentence(self) -> str:
        """What was done."""
        if len(self.refined) + len(self.left) == 1:
            return "Outline refined." if self.refined else self.left[0][1]
        text = f"{len(self.refined)} outlines refined."
        if self.left:
            numbers = ", ".join(str(number) for number, _ in self.left[:_NAMED])
            numbers += ", ..." if len(self.left) > _NAMED else ""
            text += f" {len(self.left)} left as they were (region {numbers}): {self.left[0][1]}"
        return text


def refine_all(
    scan: Scan,
    score: ScanScores,
    mask: Voxels,
    regions: Sequence[tuple[int, Voxels]],
    *,
    body: Bools,
    region: Bools | None = None,
    strokes: Strokes | None = None,
) -> Generator[str, None, RefinedAll]:
    """Fit the outlines of regions one by one; none enters the body's outside or another region.

    Parameters
    ----------
    scan, score : Scan, ScanScores
        The scan and its scores.
    mask : (n,) int64
        Flat indices of all voxels of the mask.
    regions : sequence of (int, (n,) int64)
        The number of each region to refine, and its voxels.
    body : (Z, Y, X) bool
        The body, at least in slices that are scored.
    region : (Z, Y, X) bool, optional
        A drawn region to which the mask is restricted.
    strokes : Strokes, optional
        Manual edits, which are kept.

    Yields
    ------
    str
        Progress, a line for the user.

    Raises
    ------
    Cancelled
        See `napari_spatial_ar.normative.cancellation.cancel_when`.
    """
    geometry, strokes = scan.geometry, Strokes() if strokes is None else strokes
    allowed = body.copy() if region is None else body & region
    np.moveaxis(allowed, geometry.slice_axis, 0)[~score.scored] = False
    inside = np.zeros(geometry.shape, bool)
    inside.flat[mask] = True
    refined: list[Refined] = []
    left: list[tuple[int, str]] = []
    for done, (number, voxels) in enumerate(regions):
        if len(regions) > 1:
            yield f"Refining outline {done + 1} of {len(regions)}..."
        check_cancelled()
        try:
            found = refine_region(
                scan.data,
                score.nll,
                inside,
                voxels,
                geometry,
                allowed=allowed,
                painted=strokes.painted,
                erased=strokes.erased,
            )
        except Unrefined as error:
            left.append((number, str(error)))
            continue
        inside.flat[found.removed] = False
        inside.flat[found.added] = True
        refined.append(found)
    return RefinedAll(tuple(refined), tuple(left))
