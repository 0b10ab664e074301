"""Stored pixels and voxels as grey float32 numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError

__all__ = ["COLOUR_WARNING", "finite", "grey_of"]

COLOUR_WARNING = "Colour was turned into grey (luminance)."
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def grey_of(pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], bool]:
    """Grey values of pixels with channels, and whether they were coloured.

    Parameters
    ----------
    pixels : (..., channels) of numbers
        The channels are grey, grey and alpha, RGB, or RGB and alpha; alpha is put on black.

    Returns
    -------
    grey : (...) float32
        Luminance (ITU-R BT.601); exact where the three colours are equal.
    coloured : bool
        Whether they are not.
    """
    channels = pixels.shape[-1]
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1.0
    values = pixels.astype(np.float32)
    if channels in (2, 4):
        values = values[..., :-1] * (values[..., -1:] / np.float32(opaque))
    if channels < 3:
        return values[..., 0], False
    if (values[..., :1] == values[..., 1:]).all():
        return np.ascontiguousarray(values[..., 0]), False
    return values @ _LUMINANCE, True


def finite(voxels: npt.NDArray[np.float32], path: Path) -> tuple[str, ...]:
    """Put the lowest finite value where a voxel is no finite number, and say how many there are.

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
