"""Which way the patient lies on the screen: letters for the four edges of a 2-D view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.imaging.geometry import Geometry, orientation

__all__ = ["Edges", "axis_directions", "edge_letters"]

# Letters for the way against and along each RAS axis.
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
# RAS axis and sign in which each axis of (S, P, L) grows.
_GROWS = ((2, 1.0), (1, -1.0), (0, -1.0))
# A second letter tells that slices are tilted by more than about 20 degrees.
_TILT = 0.35


@dataclass(frozen=True)
class Edges:
    """Letters (R, L, A, P, S, I, or two of them in oblique slices) of the four edges."""

    left: str
    right: str
    top: str
    bottom: str


def axis_directions(geometry: Geometry) -> npt.NDArray[np.float64]:
    """Where the axes of a scan's layer grow to in the patient.

    Parameters
    ----------
    geometry : Geometry
        The scan's grid.

    Returns
    -------
    (3, 3) float64
        Row a is the RAS unit vector along which display axis a (of S, P, L) grows.
    """
    closest = orientation(geometry.affine)
    steps = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    rows = []
    for world, wanted in _GROWS:
        voxel = int(np.flatnonzero(closest[:, 0] == world)[0])
        rows.append(steps[:, voxel] * closest[voxel, 1] * wanted)
    return np.array(rows)


def _letters(direction: npt.NDArray[np.float64]) -> str:
    """Letters of a RAS unit vector, the closest axis first."""
    strongest = [int(axis) for axis in np.argsort(-np.abs(direction), kind="stable")]
    return "".join(
        _LETTERS[axis][int(direction[axis] > 0)]
        for place, axis in enumerate(strongest)
        if place == 0 or abs(direction[axis]) > _TILT
    )


def edge_letters(
    directions: npt.NDArray[np.float64],
    displayed: Sequence[int],
    orientation2d: tuple[str, str] = ("down", "right"),
) -> Edges:
    """Letters for the edges of a 2-D view.

    Parameters
    ----------
    directions : (3, 3) float64
        From `axis_directions`.
    displayed : (int, int)
        Axis of (S, P, L) drawn along the screen's vertical, and along its horizontal.
    orientation2d : (str, str)
        Where the two axes grow to on the screen: "down" or "up", "right" or "left", as the
        camera has it.

    Returns
    -------
    Edges
        An axial slice drawn the usual way has R on the left and A at the top.
    """
    vertical, horizontal = (directions[axis] for axis in displayed)
    down, right = _letters(vertical), _letters(horizontal)
    up, left = _letters(-vertical), _letters(-horizontal)
    if orientation2d[0] == "up":
        up, down = down, up
    if orientation2d[1] == "left":
        left, right = right, left
    return Edges(left=left, right=right, top=up, bottom=down)
