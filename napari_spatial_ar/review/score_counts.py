"""Histogram of a scan's scores that grows slice by slice, and that of normal tissue beside it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["ScoreCounts", "normal_shares"]

_BINS = 2048
_NARROWEST = 1e-6  # of the scores' size: a first slice of one value has to have a width


class ScoreCounts:
    """Counts of scores in equal bins, kept by slice, so that a slice may be scored again.

    The bins widen twofold whenever a score lies outside, so nothing is counted twice or read
    again, and memory and time are those of 2,048 numbers a slice.

    Parameters
    ----------
    slices : int
        Number of slices of the scan.
    """

    def __init__(self, slices: int) -> None:
        self._counts = np.zeros((slices, _BINS), np.int32)
        self._low = self._width = 0.0  # width of all bins together; 0 before the first score

    def put(self, index: int, scores: npt.NDArray[np.floating]) -> None:
        """Count a slice's scores (any shape), in place of those it had; NaN is left out."""
        scores = scores[np.isfinite(scores)]
        self._counts[index] = 0
        if not scores.size:
            return
        low, high = float(scores.min()), float(scores.max())
        if not self._width:
            self._low = low
            self._width = max(high - low, _NARROWEST * max(1.0, abs(low)))
        self._reach(low, high)
        bins = ((scores - self._low) * (_BINS / self._width)).astype(np.intp)
        self._counts[index] = np.bincount(np.minimum(bins, _BINS - 1).ravel(), minlength=_BINS)

    def _reach(self, low: float, high: float) -> None:
        while low < self._low or high > self._low + self._width:
            pairs = self._counts.reshape(len(self._counts), -1, 2).sum(axis=2, dtype=np.int32)
            self._counts[:] = 0
            if low < self._low:
                self._low -= self._width
                self._counts[:, _BINS // 2 :] = pairs
            else:
                self._counts[:, : _BINS // 2] = pairs
            self._width *= 2

    @property
    def total(self) -> int:
        """Number of scores."""
        return int(self._counts.sum(dtype=np.int64))

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """(2049,), rising."""
        return np.linspace(self._low, self._low + self._width, _BINS + 1)

    def shares_above(self) -> npt.NDArray[np.float64]:
        """(2049,), share of the scores above each edge, 1 to 0; of no scores, 0."""
        counts = self._counts.sum(axis=0, dtype=np.int64)
        above = np.append(np.cumsum(counts[::-1])[::-1], 0)
        return np.asarray(above / max(1, above[0]), np.float64)

    def share_above(self, threshold: float) -> float:
        """Share of the scores above a threshold, to the width of a bin; of no scores, 0."""
        if not self._width:
            return 0.0
        return float(np.interp(threshold, self.edges, self.shares_above()))

    def shares(self, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Share of the scores between each two of some rising edges, (n,) for (n + 1,)."""
        if not self._width:
            return np.zeros(len(edges) - 1)
        return -np.diff(np.interp(edges, self.edges, self.shares_above()))


def normal_shares(
    anchors: Mapping[float, float], edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Share of normal tissue between each two edges, as a model's calibration implies it.

    Between calibrated thresholds the logarithm of the share above is interpolated, as
    `Calibration` does. Nothing is known of the rest.

    Parameters
    ----------
    anchors : mapping of float to float
        Thresholds by the share of normal tissue that they flag.
    edges : (n + 1,) float64
        Rising, in the model's unit.

    Returns
    -------
    (n,) float64
        NaN in bins that do not lie between the lowest and the highest calibrated threshold.
    """
    if len(anchors) < 2:
        return np.full(len(edges) - 1, np.nan)
    levels = sorted(anchors, reverse=True)
    thresholds = [anchors[level] for level in levels]
    above = np.exp(np.interp(edges, thresholds, np.log(levels)))
    outside = (edges[:-1] < thresholds[0]) | (edges[1:] > thresholds[-1])
    return np.where(outside, np.nan, -np.diff(above))
