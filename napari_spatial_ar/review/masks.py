"""From scores to a mask: threshold, hysteresis, smoothing, holes, minimum sizes, limits.

"Per slice" means per acquired slice; connected regions have 8 neighbours there and 26 in 3-D.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["MaskSettings", "make_mask", "make_slice_mask", "voxel_volume_mm3"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskSettings:
    """How the voxels above a threshold become the mask, in the order of the parameters.

    Sizes are in mm, or in pixels and voxels for scans without a spacing in mm.

    Parameters
    ----------
    body_only : bool
        Exclude everything outside the body.
    hysteresis : float, optional
        A second, higher threshold in the model's unit: a region is kept only if it has a voxel
        with a higher score.
    smoothing_mm, smoothing_pixels : float
        Radius of a disc; parts of a region narrower than it are removed, per slice (an opening).
    fill_holes : bool
        Add areas enclosed by a region, per slice.
    min_area_mm2, min_pixels : float, int
        Remove smaller regions, per slice.
    min_size_mm3, min_voxels : float, int
        Remove smaller regions, in 3-D.
    unseen_slices : bool
        Count slices unlike those the model was trained on (`ScanScores.unseen`) like all others.

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
    unseen_slices: bool = False

    def __post_init__(self) -> None:
        sizes = (*self._in_mm, self.smoothing_pixels, self.min_pixels, self.min_voxels)
        for size in sizes:
            if not (np.isfinite(size) and size >= 0):
                raise InputError(f"{size:g} is not a valid size", fix="Give 0 or more")
        if self.hysteresis is not None and not np.isfinite(self.hysteresis):
            raise InputError(f"the higher threshold {self.hysteresis} is not a number")

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with ``unseen_slices`` only if it is set.

        Results finished before it existed therefore keep their hashes.
        """
        later = ("unseen_slices",)
        return {name: value for name, value in asdict(self).items() if value or name not in later}

    @property
    def _in_mm(self) -> tuple[float, ...]:
        return self.smoothing_mm, self.min_area_mm2, self.min_size_mm3

    def check_fits(self, geometry: Geometry) -> None:
        """Refuse sizes in mm for a grid without a spacing in mm (`InputError`)."""
        if any(self._in_mm) and not geometry.exact:
            raise InputError(
                "minimum sizes and smoothing in mm need a scan with a known spacing",
                fix="Give them in pixels and voxels instead",
            )


def voxel_volume_mm3(geometry: Geometry) -> float | None:
    """Volume of one voxel in mm3, or None if it is unknown."""
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
    """Voxels with scores above a threshold, processed according to the settings.

    Parameters
    ----------
    nll : (Z, Y, X) floating
        Scores in source order, in the model's unit.
    threshold : float
        In the model's unit; a voxel is in the mask if its score is greater.
    settings : MaskSettings, optional
        By default only the threshold is applied.
    geometry : Geometry
        The scan's grid.
    scored : (N,) bool, optional
        Which acquired slices have been scored; others are never masked. All by default.
    body : (Z, Y, X) bool, optional
        The body; needed if the mask is restricted to it.
    region : (Z, Y, X) bool, optional
        Region to which the mask is restricted.

    Returns
    -------
    (Z, Y, X) uint8
        1 in the mask, 0 elsewhere.

    Raises
    ------
    InputError
        If an array is not on the grid, the threshold is not a number, the body is needed but
        missing, or a size in mm is given for a scan without a known spacing.
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
    """Mask of a single acquired slice, fast enough to follow a drag.

    Like `make_mask` for a scan with this slice only, but without the minimum volume, which a slice
    cannot determine. Hysteresis keeps less than in 3-D if regions extend to other slices.

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
        raise InputError("the mask is restricted to the body, but the body was not given")
    return body if region is None else body & region


def _label(mask: Bools) -> npt.NDArray[np.int32]:
    """Regions that touch by a face, an edge or a corner."""
    labels: npt.NDArray[np.int32]
    labels, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, bool))
    return labels


def _holding(mask: Bools, core: Bools) -> Bools:
    """Regions of a mask that contain a voxel of the core."""
    labels = _label(mask)
    keep = np.zeros(int(labels.max()) + 1, bool)
    keep[labels[core]] = True
    keep[0] = False
    return np.asarray(keep[labels])


def _large(mask: Bools, smallest: float) -> Bools:
    """Regions of a mask with at least this many voxels."""
    if smallest <= 1:
        return mask
    labels = _label(mask)
    # A little tolerance, so that a region of exactly the given size survives rounding.
    keep = np.bincount(labels.ravel()) >= smallest * (1 - 1e-6)
    keep[0] = False
    return np.asarray(keep[labels])


def _opened(plane: Bools, radius: float, spacing: list[float]) -> Bools:
    """Open with a disc, by exact distances; the area outside the slice does not count."""
    # A distance transform needs background to measure to (scikit-image's openings do not check).
    if plane.all():
        return plane
    eroded = ndimage.distance_transform_edt(plane, sampling=spacing) > radius
    if not eroded.any():
        return np.zeros_like(plane)
    return np.asarray(ndimage.distance_transform_edt(~eroded, sampling=spacing) <= radius)


def _tidy(plane: Bools, settings: MaskSettings, geometry: Geometry, allowed: Bools | None) -> Bools:
    """Apply what is done per slice: smoothing, holes, minimum area."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not len(rows):
        return plane
    # Crop to the mask: a slice is mostly air. One pixel of background is enough.
    box = tuple(slice(max(0, int(s[0]) - 1), int(s[-1]) + 2) for s in (rows, columns))
    part = plane[box]
    spacing = [s for a, s in enumerate(geometry.spacing) if a != geometry.slice_axis]
    if not geometry.exact:
        spacing = [1.0, 1.0]
    radius = settings.smoothing_mm or settings.smoothing_pixels
    if radius > 0:
        # Opening rather than closing or averaging scores: it only removes voxels, so the share of
        # normal tissue flagged stays at most the calibrated one. Averaged scores would differ from
        # those that were calibrated.
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
