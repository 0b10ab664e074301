"""Which patches of an embedding grid count as changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CHANGED", "IGNORED", "UNCHANGED", "patch_labels"]

CHANGED, UNCHANGED, IGNORED = 1, 0, -1

# Minimum change of a changed pixel, as a share of the window.
_VISIBLE = 0.04
# A patch is changed if more than this share of its area is, and unchanged if no pixel is and the
# mean change stays below `_SILENT`.
_CHANGED_SHARE = 0.35
_SILENT = 0.004


def patch_labels(magnitude: npt.NDArray[np.float32], grid: tuple[int, int]) -> npt.NDArray[np.int8]:
    """Label the patches of an embedding grid as changed or unchanged.

    Parameters
    ----------
    magnitude : (rows, columns) float32
        Absolute change of each pixel, as from
        `napari_spatial_ar.normative.fitting.synthetic_anomalies.change`.
    grid : (int, int)
        Hp, Wp.

    Returns
    -------
    (Hp, Wp) int8
        `CHANGED` if more than 35 % of the patch's area visibly is, `UNCHANGED` if nothing is,
        `IGNORED` between the two.
    """
    down, across = (_areas(n, cells) for n, cells in zip(magnitude.shape, grid, strict=True))
    share = down @ (magnitude > _VISIBLE) @ across.T
    mean = down @ magnitude @ across.T
    labels = np.full(grid, IGNORED, np.int8)
    labels[(share == 0) & (mean < _SILENT)] = UNCHANGED
    labels[share > _CHANGED_SHARE] = CHANGED
    return labels


def _areas(pixels: int, cells: int) -> npt.NDArray[np.float64]:
    """(cells, pixels) float64: the weight of each pixel in each cell."""
    edges, start = np.arange(cells + 1) * (pixels / cells), np.arange(pixels)
    overlap = np.minimum(edges[1:, None], start + 1) - np.maximum(edges[:-1, None], start)
    shares: npt.NDArray[np.float64] = np.maximum(overlap, 0) * (cells / pixels)
    return shares
