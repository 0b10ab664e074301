"""Thumbnails of scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.scan import Sample, Scan
from napari_spatial_ar.imaging.windows import apply_window, default_window, resolve

__all__ = ["THUMBNAIL_SIZE", "downscale", "thumbnail"]

#: Longest side in pixels.
THUMBNAIL_SIZE = 72


def thumbnail(scan: Scan) -> npt.NDArray[np.uint8]:
    """Draw the middle slice upright and in proportion; nothing else of the scan is read.

    Parameters
    ----------
    scan : Scan
        The scan.

    Returns
    -------
    (rows, columns) uint8
        Intensities, the longer side `THUMBNAIL_SIZE`.

    Raises
    ------
    InputError
        If the slice's file is damaged or missing.
    """
    geometry = scan.geometry
    slice_ = scan.slice(geometry.slice_count // 2)
    across = geometry.display_slice_axis
    steps = [s for axis, s in enumerate(geometry.display_spacing) if axis != across]
    return downscale(apply_window(slice_, *_limits(scan, slice_)), steps)


def downscale(
    unit: npt.NDArray[np.float32], spacing: Sequence[float] = (1.0, 1.0)
) -> npt.NDArray[np.uint8]:
    """Reduce a slice in size, in proportion.

    Parameters
    ----------
    unit : (rows, columns) float32
        Slice in [0, 1].
    spacing : (float, float)
        Of rows and of columns.

    Returns
    -------
    (rows, columns) uint8
        Intensities, the longer side `THUMBNAIL_SIZE`.
    """
    grey = (255 * unit).astype(np.uint8)
    lengths = np.array(grey.shape) * spacing
    rows, columns = np.maximum(1, np.round(THUMBNAIL_SIZE * lengths / lengths.max())).astype(int)
    small = Image.fromarray(grey).resize((int(columns), int(rows)), Image.Resampling.BOX)
    return np.asarray(small)


def _limits(scan: Scan, slice_: npt.NDArray[np.float32]) -> tuple[float, float]:
    if scan.window is not None:
        return scan.window
    window = default_window("ct" if scan.intensity == "hu" else "unknown")
    try:
        return resolve(window, Sample.of(slice_, background=scan.background))
    except InputError:
        # An empty slice is drawn too, black.
        low = float(slice_.min())
        return low, low + 1.0
