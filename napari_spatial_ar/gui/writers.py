"""npe2 writers: masks and heatmaps as NIfTI on the scan's own grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_spatial_ar.gui.layers import KEY, source_array
from napari_spatial_ar.imaging.nifti import Content, write_nifti
from napari_spatial_ar.review.contents import mask_content, scores_content

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
    facts = attributes.get("metadata", {}).get(KEY, {})
    content = Content("labels", "Labels drawn in napari", "label")
    if facts.get("kind") == "mask":
        array = (array != 0) & ~np.isin(array, facts.get("rejected", ()))
        content = mask_content(facts["model"])
    wide = array.size and (array.max() > np.iinfo(np.uint8).max or array.min() < 0)
    array = array.astype(np.int32 if wide else np.uint8)
    write_nifti(path, array, geometry, like=like, content=content)
    return [path]


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an Image layer, such as a heatmap, as float32.

    Raises
    ------
    InputError, StorageError
        If the layer fits no scan, or the file cannot be written.
    """
    array, geometry, like = source_array(data, attributes)
    facts = attributes.get("metadata", {}).get(KEY, {})
    content = Content("image", "Image from napari")
    if facts.get("kind") == "nll":
        content = scores_content(facts["unit"], facts["model"])
    elif facts.get("kind") == "scan":
        content = Content.scan(facts["volume"])
    write_nifti(path, array.astype(np.float32), geometry, like=like, content=content)
    return [path]
