"""From scores to a mask: threshold, hysteresis, smoothing, holes, smallest sizes, limits.

"Per slice" means per acquired slice; connected regions have 8 neighbours there and 26 in 3-D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["MaskSettings", "make_mask", "make_slice_mask", "voxel_volume_mm3"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskSettings:
    """What becomes of the voxels above a threshold, in the order of the parameters.

    Sizes are in mm, or in pixels and voxels for scans in which nothing is measured in mm.

    Parameters
    ----------
    body_only : bool
        Leave out what lies outside the body.
    hysteresis : float, optional
        A second, higher threshold in the model's unit: a region is kept only if it holds a voxel
        whose score is greater.
    smoothing_mm, smoothing_pixels : float
        Radius of the disc that parts of a region must have room for, per slice (an opening).
    fill_holes : bool
        Add what a region encloses, per slice.
    min_area_mm2, min_pixels : float, int
        Leave out smaller regions, per slice.
    min_size_mm3, min_voxels : float, int
        Leave out smaller regions, in 3-D.

    Raises
    ------
    InputError
        If a size is negative or the higher threshold is not a number.
    """

    body_only: bool = False
    hysteresis: float | None = None
    smoothing_mm: float = 0.0
    smoothing_pixels: float = 0.0
    fill_holes: bool = False
    min_area_mm2: float = 0.0
    min_pixels: int = 0
    min_size_mm3: float = 0.0
    min_voxels: int = 0

    def __post_init__(self) -> None:
        sizes = (*self._in_mm, self.smoothing_pixels, self.min_pixels, self.min_voxels)
        for size in sizes:
            if not (np.isfinite(size) and size >= 0):
                raise InputError(f"{size:g} is no size", fix="Give 0 or more")
        if self.hysteresis is not None and not np.isfinite(self.hysteresis):
            raise InputError(f"the higher threshold {self.hysteresis} is not a number")

    @property
    def _in_mm(self) -> tuple[float, ...]:
        return self.smoothing_mm, self.min_area_mm2, self.min_size_mm3

    def check_fits(self, geometry: Geometry) -> None:
        """Refuse sizes in mm for a grid in which nothing is measured in mm (`InputError`)."""
        if any(self._in_mm) and not geometry.exact:
            raise InputError(
                "smallest sizes and smoothing in mm need a scan whose spacing is known",
                fix="Give them in pixels and voxels instead",
            )


def voxel_volume_mm3(geometry: Geometry) -> float | None:
    """Volume of one voxel in mm3, or None where it is not known."""
    return geometry.voxel_volume if geometry.exact else None


def make_mask(
    nll: npt.NDArray[np.floating],
    threshold: float,
    settings: MaskSettings | None = None,
    *,
    geometry: Geometry,
    scored: Bools | None = None,
    body: Bools | None = None,
    region: Bools | None = None,
) -> npt.NDArray[np.uint8]:
    """Voxels whose score lies above a threshold, treated as the settings say.

    Parameters
    ----------
    nll : (Z, Y, X) floating
        Scores in source order, in the model's unit.
    threshold : float
        In the model's unit; a voxel is in the mask where its score is greater.
    settings : MaskSettings, optional
        By default only the threshold counts.
    geometry : Geometry
        The scan's grid.
    scored : (N,) bool, optional
        Which acquired slices have been scored; the others are never masked. All by default.
    body : (Z, Y, X) bool, optional
        Where the body is; needed where the mask keeps to it.
    region : (Z, Y, X) bool, optional
        Nothing outside is in the mask.

    Returns
    -------
    (Z, Y, X) uint8
        1 in the mask, 0 elsewhere.

    Raises
    ------
    InputError
        If an array is not on the grid, the threshold is not a number, the body is needed and not
        given, or a size in mm is asked of a scan without a known spacing.
    """
    settings = MaskSettings() if settings is None else settings
    settings.check_fits(geometry)
    for what, array in (("scores", nll), ("a body", body), ("a region", region)):
        if array is not None and array.shape != geometry.shape:
            raise InputError(f"{what} of shape {array.shape} are not on the grid {geometry.shape}")
    if not np.isfinite(threshold):
        raise InputError(f"the threshold {threshold} is not a number")
    allowed = _allowed(settings, body, region)
    above = nll > threshold
    if scored is not None:
        if scored.shape != (geometry.slice_count,):
            raise InputError(f"{scored.shape} flags do not fit {geometry.slice_count} slices")
        np.moveaxis(above, geometry.slice_axis, 0)[~scored.astype(bool)] = False
    if allowed is not None:
        above &= allowed
    if settings.hysteresis is not None:
        above = _holding(above, nll > settings.hysteresis)
    planes = np.moveaxis(above, geometry.slice_axis, 0)
    allowed_planes = None if allowed is None else np.moveaxis(allowed, geometry.slice_axis, 0)
    for index in np.flatnonzero(planes.any(axis=(1, 2))):
        inside = None if allowed_planes is None else allowed_planes[index]
        planes[index] = _tidy(planes[index], settings, geometry, inside)
    voxel = voxel_volume_mm3(geometry) or 1.0
    return _large(above, max(settings.min_voxels, settings.min_size_mm3 / voxel)).astype(np.uint8)


def make_slice_mask(
    nll: npt.NDArray[np.floating],
    threshold: float,
    settings: MaskSettings,
    *,
    geometry: Geometry,
    body: Bools | None = None,
    region: Bools | None = None,
) -> Bools:
    """Mask of one acquired slice by itself, fast enough to follow a drag.

    As `make_mask` for a scan of this slice alone, but for the smallest volume, which a slice
    cannot tell: where regions reach into other slices, hysteresis keeps less than in 3-D.

    Parameters
    ----------
    nll, body, region : (rows, columns)
        The two axes of (Z, Y, X) that are not ``geometry.slice_axis``, in this order.
    threshold, settings, geometry
        As for `make_mask`.

    Returns
    -------
    (rows, columns) bool
    """
    allowed = _allowed(settings, body, region)
    above = np.greater(nll, threshold)
    if allowed is not None:
        above &= allowed
    if settings.hysteresis is not None:
        above = _holding(above, np.greater(nll, settings.hysteresis))
    return _tidy(above, settings, geometry, allowed)


def _allowed(settings: MaskSettings, body: Bools | None, region: Bools | None) -> Bools | None:
    if not settings.body_only:
        return region
    if body is None:
        raise InputError("the mask keeps to the body, and where that is was not given")
    return body if region is None else body & region


def _label(mask: Bools) -> npt.NDArray[np.int32]:
    """Regions that touch by a face, an edge or a corner."""
    labels: npt.NDArray[np.int32]
    labels, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, bool))
    return labels


def _holding(mask: Bools, core: Bools) -> Bools:
    """Regions of a mask that hold a voxel of the core."""
    labels = _label(mask)
    keep = np.zeros(int(labels.max()) + 1, bool)
    keep[labels[core]] = True
    keep[0] = False
    return np.asarray(keep[labels])


def _large(mask: Bools, smallest: float) -> Bools:
    """Regions of a mask with at least so many voxels."""
    if smallest <= 1:
        return mask
    labels = _label(mask)
    # A hair of slack, so that a region of exactly the asked size survives rounding.
    keep = np.bincount(labels.ravel()) >= smallest * (1 - 1e-6)
    keep[0] = False
    return np.asarray(keep[labels])


def _opened(plane: Bools, radius: float, spacing: list[float]) -> Bools:
    """Open with a disc, by exact distances; what lies outside the slice does not count."""
    # A distance transform needs somewhere to measure to (scikit-image's openings do not check).
    if plane.all():
        return plane
    eroded = ndimage.distance_transform_edt(plane, sampling=spacing) > radius
    if not eroded.any():
        return np.zeros_like(plane)
    return np.asarray(ndimage.distance_transform_edt(~eroded, sampling=spacing) <= radius)


def _tidy(plane: Bools, settings: MaskSettings, geometry: Geometry, allowed: Bools | None) -> Bools:
    """Do what is done per slice: smoothing, holes, smallest area."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not len(rows):
        return plane
    # Only what is around the mask: a slice is mostly air. One pixel of background is enough.
    box = tuple(slice(max(0, int(s[0]) - 1), int(s[-1]) + 2) for s in (rows, columns))
    part = plane[box]
    spacing = [s for a, s in enumerate(geometry.spacing) if a != geometry.slice_axis]
    if not geometry.exact:
        spacing = [1.0, 1.0]
    radius = settings.smoothing_mm or settings.smoothing_pixels
    if radius > 0:
        # Opening rather than closing or a mean of the scores: it only takes away, so the share of
        # normal tissue flagged stays at most the calibrated one. Averaged scores would be others
        # than those that were calibrated.
        steps = spacing if settings.smoothing_mm else [1.0, 1.0]
        part = _opened(part, radius, steps)
    if settings.fill_holes:
        part = ndimage.binary_fill_holes(part)
        if allowed is not None:
            part &= allowed[box]
    part = _large(part, max(settings.min_pixels, settings.min_area_mm2 / float(np.prod(spacing))))
    tidy = np.zeros_like(plane)
    tidy[box] = part
    return tidy
