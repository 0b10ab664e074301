"""Reorder voxels: a mask made in one file's axes is converted to another's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry, Voxel

__all__ = ["SAME_GRID_MM", "distance_between", "onto_grid"]

#: Two grids are the same if their corners are this close to each other.
SAME_GRID_MM = 1e-2


def _corners(affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """RAS mm of the 8 corner voxels of a (Z, Y, X) grid: (2, 2, 2, 3), by z, y, x."""
    ends = [np.array([0, n - 1]) for n in shape]
    z, y, x = np.meshgrid(*ends, indexing="ij")
    places: npt.NDArray[np.float64] = (
        np.stack((x, y, z), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    )
    return places


def _order(
    affine_from: npt.NDArray[np.float64], geometry_to: Geometry
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For each axis (Z, Y, X) of the target: the axis along it, and whether it is reversed."""
    steps: npt.NDArray[np.float64] = (
        np.linalg.inv(geometry_to.affine[:3, :3]) @ affine_from[:3, :3]
    )[::-1, ::-1]
    axes = tuple(int(a) for a in np.abs(steps).argmax(axis=1))
    if len(set(axes)) < 3:
        axes = (0, 1, 2)
    return axes, tuple(bool(steps[to, axis] < 0) for to, axis in enumerate(axes))


def _turned(
    array: npt.NDArray[Voxel], axes: tuple[int, ...], flips: tuple[bool, ...]
) -> npt.NDArray[Any]:
    view = array.transpose(*axes, *range(3, array.ndim))
    return view[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def distance_between(
    shape: tuple[int, ...], affine_from: npt.NDArray[np.float64], geometry_to: Geometry
) -> float:
    """Largest distance of a corner of one grid from the same corner of another, mm.

    Axis order and direction do not matter; infinite if the numbers of voxels differ.

    Parameters
    ----------
    shape : (int, int, int)
        Size along (Z, Y, X).
    affine_from : (4, 4) float64
        Voxel (i, j, k) = (x, y, z) to RAS mm.
    geometry_to : Geometry
        The other grid.
    """
    axes, flips = _order(affine_from, geometry_to)
    if tuple(shape[axis] for axis in axes) != geometry_to.shape:
        return float("inf")
    theirs = _corners(geometry_to.affine, geometry_to.shape)
    ours = _turned(_corners(affine_from, shape), axes, flips)
    return float(np.linalg.norm(ours - theirs, axis=-1).max())


def onto_grid(
    array: npt.NDArray[Voxel], affine_from: npt.NDArray[np.float64], geometry_to: Geometry
) -> npt.NDArray[Voxel]:
    """Convert an array to another grid's axis order, without changing the position of a voxel.

    Parameters
    ----------
    array : (Z, Y, X, ...) of any type
        Voxels in source order (see `napari_spatial_ar.imaging.geometry`).
    affine_from : (4, 4) float64
        Their positions: voxel (i, j, k) = (x, y, z) to RAS mm.
    geometry_to : Geometry
        The target grid, which must be the same except for order and direction of its axes.

    Returns
    -------
    (Z, Y, X, ...) view
        In source order of ``geometry_to``.

    Raises
    ------
    InputError
        If the grids differ in size, or a corner is more than `SAME_GRID_MM` off: nothing is ever
        resampled.
    """
    shape = array.shape[:3]
    apart = distance_between(shape, affine_from, geometry_to)
    if np.isinf(apart):
        raise InputError(
            f"the mask has {_size(shape)} voxels (Z, Y, X) and the scan "
            f"{_size(geometry_to.shape)}: they are not on the same grid",
            fix="Make the mask on this scan, or resample it to the scan",
        )
    if apart > SAME_GRID_MM:
        raise InputError(
            f"the mask is up to {apart:.3g} mm off the scan's voxels",
            fix="Make the mask on this scan, or resample it to the scan",
        )
    return _turned(array, *_order(affine_from, geometry_to))


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
