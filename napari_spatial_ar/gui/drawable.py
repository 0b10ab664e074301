"""What a layer draws of a scan whose voxels are read when they are needed."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.imaging.volume import Volume

__all__ = ["drawable"]


def drawable(volume: Volume) -> Any:
    """Voxels of a scan for drawing alone: what can no longer be read is not a number.

    napari reads them while it draws, where an error would come again with every slice; it is
    told once, and again only after a slice could be read.

    Parameters
    ----------
    volume : Volume
        Scan.

    Returns
    -------
    (Z, Y, X) float32 array
        ``volume.data`` itself, or, where that is lazy, one with a name that tells whose it is.
    """
    if not volume.lazy:
        return volume.data
    data: Any = volume.data
    told = False

    def block(block_info: Any = None) -> npt.NDArray[np.float32]:
        nonlocal told
        part = data.blocks[tuple(block_info[None]["chunk-location"])]
        try:
            # This runs in one of dask's threads already.
            voxels: npt.NDArray[np.float32] = part.compute(scheduler="synchronous")
        except SpatialARError as error:
            if not told:
                told = True
                report(error, "Drawing a slice")
            return np.full(part.shape, np.nan, np.float32)
        told = False
        return voxels

    return da.map_blocks(block, chunks=data.chunks, dtype=np.float32, name=f"drawn-{data.name}")
