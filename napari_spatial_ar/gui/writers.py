"""npe2 writers: masks and heatmaps as NIfTI on the scan's own grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_spatial_ar.gui.layers import KEY, source_array
from napari_spatial_ar.imaging.nifti import write_nifti

__all__ = ["write_image", "write_labels"]


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a Labels layer: uint8, or int32 where labels above 255 are used.

    Of the Review dock's mask, 1 in the mask and 0 elsewhere, in rejected findings too.

    Raises
    ------
    InputError, StorageError
        If the layer fits no scan, or the file cannot be written.
    """
    array, geometry, like = source_array(data, attributes)
    if attributes.get("metadata", {}).get(KEY, {}).get("kind") == "mask":
        array = array & 1  # `MASK_COLORS`
    wide = array.size and (array.max() > np.iinfo(np.uint8).max or array.min() < 0)
    write_nifti(path, array.astype(np.int32 if wide else np.uint8), geometry, like=like)
    return [path]


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an Image layer, such as a heatmap, as float32.

    Raises
    ------
    InputError, StorageError
        If the layer fits no scan, or the file cannot be written.
    """
    array, geometry, like = source_array(data, attributes)
    write_nifti(path, array.astype(np.float32), geometry, like=like)
    return [path]
