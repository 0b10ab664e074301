"""Positions of images along their normal: which coincide, and whether they are even."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["places_of", "same_place_mm", "seem_missing", "uneven"]

Floats = npt.NDArray[np.float64]

# Images are at one position if they are closer than this fraction of the slice distance.
_SAME_SHARE = 0.05
# Writers round coordinates to 0.1 mm: of the ends of a stack, and of a slice between them.
_UNEVEN_MM = 0.1 * 3**0.5 + 1e-6
# However thin they are, slices may not be further from their position than this fraction of a step.
_UNEVEN_SHARE = 0.25
_WHOLE_GAPS = 0.1


def same_place_mm(heights: Floats, thickness: float) -> float:
    """Maximum distance of two images that count as being at one position.

    Parameters
    ----------
    heights : (N,) float64
        Along the normal, mm, in any order.
    thickness : float
        Of a slice, mm: roughly the distance between two of them.
    """
    gaps = np.sort(np.diff(np.sort(heights)))[::-1]
    extent = float(np.ptp(heights))
    if extent <= _SAME_SHARE * thickness:
        return extent
    # Steps of at least this size cover half of the way from the first image to the last: those
    # between images at one position are many, but short.
    usual = float(gaps[int(np.searchsorted(np.cumsum(gaps), extent / 2))])
    return _SAME_SHARE * min(usual, thickness)


def places_of(heights: Floats, same: float) -> npt.NDArray[np.intp]:
    """Return the index of the position of each image, from 0; heights are sorted."""
    return np.concatenate([[0], np.cumsum(np.diff(heights) > same)]).astype(np.intp)


def seem_missing(positions: Floats, normal: Floats, same: float) -> int:
    """Count the slices missing from a stack that would be even with them; 0 for any other."""
    along = positions @ normal
    gaps = np.diff(along)
    gaps = gaps[gaps > same]
    if not len(gaps):
        return 0
    share = (along - along[0]) / (along[-1] - along[0])
    line = positions[0] + share[:, None] * (positions[-1] - positions[0])
    if np.linalg.norm(positions - line, axis=1).max() > _UNEVEN_MM:
        return 0
    steps = gaps / np.median(gaps)
    whole = np.round(steps)
    if whole.min() < 1 or np.abs(steps - whole).max() >= _WHOLE_GAPS:
        return 0
    return int((whole - 1).sum())


def uneven(positions: Floats, normal: Floats, same: float) -> str:
    """Describe how the slices of a stack deviate from even steps on one line; "" if they do not.

    Parameters
    ----------
    positions : (N, 3) float64
        Sorted along the normal, mm.
    normal : (3,) float64
        Unit vector.
    same : float
        See `same_place_mm`.
    """
    count = len(positions)
    along = positions @ normal
    gaps = np.diff(along)
    steps = gaps[gaps > same]
    if not len(steps):
        return ""
    usual = float(np.median(steps))
    allowed = min(_UNEVEN_MM, _UNEVEN_SHARE * usual)
    even = np.linspace(positions[0], positions[-1], count)
    if np.abs(along - even @ normal).max() > allowed:
        worst = int(np.abs(gaps - usual).argmax())
        sentence = (
            f"The slices are unevenly spaced: {gaps[worst]:.2f} mm between slices {worst + 1} and "
            f"{worst + 2}, where {usual:.2f} mm is usual"
        )
        missing = seem_missing(positions, normal, same)
        if missing:
            seem = "1 slice seems" if missing == 1 else f"{missing} slices seem"
            sentence += f"; {seem} to be missing"
        elif steps.min() < (1 - _UNEVEN_SHARE) * usual:
            sentence += "; runs of slices may overlap"
        return sentence + "."
    aside = np.linalg.norm(positions - even, axis=1)
    if aside.max() > max(_UNEVEN_MM, allowed):
        worst = int(aside.argmax())
        return f"Slice {worst + 1} is shifted sideways by {aside[worst]:.2f} mm."
    return ""
