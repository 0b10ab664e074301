"""Stored pixels and voxels as float32 intensities."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError

__all__ = ["COLOUR_WARNING", "WIDE_WARNING", "Narrowing", "finite", "grey_of", "is_wide", "span"]

COLOUR_WARNING = "Colour was converted to grey (luminance)."
#: For scans that are read slice by slice, for which it is not known in advance.
WIDE_WARNING = (
    "Values that float32 cannot represent are rounded, or stored relative to the lowest if they "
    "are close together."
)
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

_WHOLE_NUMBERS = 2**24  # float32 represents all integers up to this
_FEWEST_LEVELS = 4096  # between the lowest and the highest value
_LARGEST = float(np.finfo(np.float32).max)


def is_wide(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of a type may exceed the precision of float32."""
    return dtype.itemsize > (2 if dtype.kind in "iu" else 4)


def span(parts: Iterable[npt.NDArray[np.generic]]) -> tuple[float, float] | None:
    """Lowest and highest finite number, exact (int where they are); None if none is finite."""
    ends: list[float] = []
    for part in parts:
        values = part if part.dtype.kind in "iu" else part[np.isfinite(part)]
        if values.size:
            ends += values.min().item(), values.max().item()
    return (min(ends), max(ends)) if ends else None


@dataclass(frozen=True, slots=True)
class Narrowing:
    """How numbers become float32, the type of all voxels, and what is lost.

    Parameters
    ----------
    base : int or float
        Subtracted from all first.
    warnings : tuple of str
        What the user should know about it.
    """

    base: float = 0
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, ends: tuple[float, float] | None, *, whole: bool) -> Narrowing:
        """Narrowing of numbers between two ends (`span`).

        Parameters
        ----------
        ends : (number, number) or None
            Lowest and highest of them.
        whole : bool
            Whether they are whole numbers, of which none should change. Others are rounded to
            24 bits in any case; that matters only if they are close together, far from 0.
        """
        largest = 0.0 if ends is None else max(map(abs, ends))
        if ends is None or (whole and largest <= _WHOLE_NUMBERS) or largest > _LARGEST:
            return cls()
        low, high = ends
        step = float(np.spacing(np.float32(largest)))
        if step * _FEWEST_LEVELS > high - low:
            if low == high:
                return cls()
            return cls(
                low,
                (
                    f"Its values are between {low} and {high}, where float32 numbers are "
                    f"{step:g} apart: {low} was subtracted from all.",
                ),
            )
        if not whole:
            return cls()
        return cls(
            0,
            (
                f"Its values reach {largest:.0f}, where float32 numbers are {step:g} apart: large "
                "ones are not exact.",
            ),
        )

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Convert numbers to float32; those that are too large become infinite."""
        if self.base:
            values = values - values.dtype.type(self.base)
        with np.errstate(all="ignore"):
            return values.astype(np.float32)


def grey_of(pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], bool]:
    """Intensities of pixels with channels, and whether they were coloured.

    Parameters
    ----------
    pixels : (..., channels) of numbers
        The channels are grey, grey and alpha, RGB, or RGB and alpha; alpha is blended with black.

    Returns
    -------
    grey : (...) array
        Grey alone as it is; else float32, of colours the luminance (ITU-R BT.601), exact where
        the three are equal.
    coloured : bool
        Whether they are not.
    """
    channels = pixels.shape[-1]
    if channels == 1:
        return pixels[..., 0], False
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1.0
    values = pixels.astype(np.float32)
    if channels in (2, 4):
        values = values[..., :-1] * (values[..., -1:] / np.float32(opaque))
    if channels == 2:
        return values[..., 0], False
    if (values[..., :1] == values[..., 1:]).all():
        return np.ascontiguousarray(values[..., 0]), False
    return values @ _LUMINANCE, True


def finite(voxels: npt.NDArray[np.float32], path: Path) -> tuple[str, ...]:
    """Replace non-finite voxels by the lowest finite value, and report how many there are.

    Parameters
    ----------
    voxels : (Z, Y, X) float32
        Changed in place.
    path : Path
        The file that an error names.

    Returns
    -------
    tuple of str
        One sentence where voxels were replaced, else empty.

    Raises
    ------
    InputError
        If no voxel is a finite number.
    """
    if np.isfinite(voxels.min(initial=0)) and np.isfinite(voxels.max(initial=0)):
        return ()
    good = np.isfinite(voxels)
    count = voxels.size - int(np.count_nonzero(good))
    if count == voxels.size:
        raise InputError("none of its voxels is a finite number", path=path)
    lowest = float(voxels.min(where=good, initial=np.inf))
    voxels[~good] = lowest
    are = "voxel is" if count == 1 else "voxels are"
    return (
        f"{count} of {voxels.size} {are} not finite (NaN, infinite or too large) and shown as the "
        f"lowest finite value, {lowest:g}.",
    )
