"""The body in a slice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["has_tissue", "tissue_mask"]

_THRESHOLD = 0.05
_SPECK = 1e-3  # share of the slice below which a bright spot in the air is not body


def has_tissue(unit_image: npt.NDArray[Any]) -> bool:
    """Whether a slice shows any body: whether `tissue_mask` would find some, computed faster.

    Parameters
    ----------
    unit_image : (rows, columns) float
        As for `tissue_mask`.
    """
    bright = unit_image > _THRESHOLD
    least = _SPECK * bright.size
    if np.count_nonzero(bright) < least:
        return False
    # A bright square is a connected spot. If one is large enough, no labelling is needed.
    side = math.ceil(math.sqrt(least))
    rows, columns = (n // side for n in bright.shape)
    # One axis after the other: numpy takes four times as long over both at once.
    strips = np.logical_and.reduce(bright[: rows * side].reshape(rows, side, -1), axis=1)
    if strips[:, : columns * side].reshape(rows, columns, side).all(axis=2).any():
        return True
    # Noise breaks squares, not spots: of these, one in the brightest rows is enough.
    brightest = int(np.count_nonzero(bright, axis=1).argmax())
    some = bright[max(0, brightest - 2 * side) : brightest + 2 * side]
    spots, _ = ndimage.label(some)
    if np.bincount(spots[some]).max() >= least:
        return True
    return bool(tissue_mask(unit_image).any())


def tissue_mask(unit_image: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Body pixels of a slice: brighter than 5 % of the window, without specks and holes.

    Parameters
    ----------
    unit_image : (rows, columns) float
        Slice in [0, 1], as from `napari_spatial_ar.imaging.windows.apply_window`.

    Returns
    -------
    (rows, columns) bool
        True in the body. Connected spots smaller than 0.1 % of the slice are excluded; dark
        regions that do not reach the edge of the slice (air in the bowel, ventricles) are
        included.
    """
    spots, _ = ndimage.label(unit_image > _THRESHOLD)
    is_body = np.bincount(spots.ravel()) >= _SPECK * spots.size
    is_body[0] = False
    body = is_body[spots]
    dark, count = ndimage.label(~body)
    is_outside = np.zeros(count + 1, dtype=bool)
    for edge in (dark[0], dark[-1], dark[:, 0], dark[:, -1]):
        is_outside[edge] = True
    is_outside[0] = False
    outside: npt.NDArray[np.bool_] = is_outside[dark]
    return ~outside
