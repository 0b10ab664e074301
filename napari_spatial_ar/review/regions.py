"""Converts drawn outlines to voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon2mask

from napari_spatial_ar.errors import InputError

__all__ = ["ellipse_outline", "outlined_voxels"]


def ellipse_outline(corners: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(64, D) points of the ellipse inscribed in a box with four corners (4, D)."""
    centre = corners.mean(axis=0)
    first, second = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(turn) * first + np.sin(turn) * second, np.float64)


def outlined_voxels(
    shape: tuple[int, int, int], outlines: Sequence[npt.NDArray[np.floating]]
) -> npt.NDArray[np.bool_]:
    """Voxels whose centres are inside any of several polygons.

    Parameters
    ----------
    shape : (int, int, int)
        Shape of the grid.
    outlines : sequence of (n, 3) or (n, 2) floating
        Corners in voxels of the grid. A polygon with three coordinates applies to the slice in
        which it was drawn, whatever its axis; one with the last two applies to all slices.

    Returns
    -------
    (shape) bool

    Raises
    ------
    InputError
        If a polygon is not within one slice, or there is none.
    """
    if not outlines:
        raise InputError("the layer has no closed outline", fix="Draw a polygon in it")
    inside = np.zeros(shape, bool)
    for outline in outlines:
        if outline.shape[1] == 2:
            inside |= _filled(shape[1:], outline)
            continue
        spread = np.ptp(outline, axis=0)
        across = int(np.argmin(spread))
        if spread[across] > 0.5:
            raise InputError("an outline extends across slices", fix="Draw it in a slice, in 2-D")
        index = round(float(outline[:, across].mean()))
        if 0 <= index < shape[across]:
            planes = np.moveaxis(inside, across, 0)
            planes[index] |= _filled(planes.shape[1:], np.delete(outline, across, axis=1))
    return inside


def _filled(shape: tuple[int, ...], corners: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    filled: npt.NDArray[np.bool_] = polygon2mask(shape, corners)  # type: ignore[no-untyped-call]
    return filled
