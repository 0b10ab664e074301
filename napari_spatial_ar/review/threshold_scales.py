"""One threshold, three views of it: share of normal tissue, the model's unit, percentile.

The threshold itself is always a number in the model's unit; a scale converts it to the number shown
and typed, and to a slider position, where moving right always flags less.

The histogram beside it grows slice by slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError

__all__ = ["PercentileScale", "Scale", "ScoreCounts", "ShareScale", "UnitScale", "normal_shares"]

_BINS = 2048


_NARROWEST = 1e-6  # relative to the scores: a first slice with a single value needs a width


class ScoreCounts:
    """Counts of scores in equal bins, by slice, so that a slice may be scored again.

    The bins double in width whenever a score is outside, so nothing is counted twice or read again,
    and memory and time are those of 2,048 numbers per slice.

    Parameters
    ----------
    slices : int
        Number of slices of the scan.
    """

    def __init__(self, slices: int) -> None:
        self._counts = np.zeros((slices, _BINS), np.int32)
        self._low = self._width = 0.0  # width of all bins together; 0 before the first score

    def put(self, index: int, scores: npt.NDArray[np.floating]) -> None:
        """Count a slice's scores (any shape), replacing its previous ones; NaN is ignored."""
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
        """(2049,), share of the scores above each edge, 1 to 0; 0 without scores."""
        counts = self._counts.sum(axis=0, dtype=np.int64)
        above = np.append(np.cumsum(counts[::-1])[::-1], 0)
        return np.asarray(above / max(1, above[0]), np.float64)

    def share_above(self, threshold: float) -> float:
        """Share of the scores above a threshold, to within a bin; 0 without scores."""
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
    """Share of normal tissue between successive edges, according to a model's calibration.

    Between calibrated thresholds the logarithm of the share above is interpolated, as in
    `Calibration`. Nothing is known elsewhere.

    Parameters
    ----------
    anchors : mapping of float to float
        Thresholds by the share of normal tissue that they flag.
    edges : (n + 1,) float64
        Rising, in the model's unit.

    Returns
    -------
    (n,) float64
        NaN in bins that are not between the lowest and the highest calibrated threshold.
    """
    if len(anchors) < 2:
        return np.full(len(edges) - 1, np.nan)
    levels = sorted(anchors, reverse=True)
    thresholds = [anchors[level] for level in levels]
    above = np.exp(np.interp(edges, thresholds, np.log(levels)))
    outside = (edges[:-1] < thresholds[0]) | (edges[1:] > thresholds[-1])
    return np.where(outside, np.nan, -np.diff(above))


# For percentiles of a scan: the smallest share above the threshold that the slider reaches.
_FINEST_SHARE = 1e-4


class Scale(Protocol):
    """A view of thresholds."""

    def shown(self, threshold: float) -> tuple[str, float]:
        """Return a threshold's number, with "<" or ">" if it is beyond the known range."""

    def threshold(self, number: float) -> float:
        """Threshold of a displayed number; `InputError` if there is none for it."""

    def place(self, threshold: float) -> float:
        """Position on the slider, 0 to 1; clamped at the ends."""

    def at(self, place: float) -> float:
        """Threshold of a position on the slider."""


@dataclass(frozen=True)
class UnitScale:
    """The model's own unit, on a linear scale.

    Parameters
    ----------
    low, high : float
        Ends of the slider.
    """

    low: float
    high: float

    def shown(self, threshold: float) -> tuple[str, float]:
        """Return a threshold's number, with "<" or ">" if it is beyond the known range."""
        return "", threshold

    def threshold(self, number: float) -> float:
        """Threshold of a displayed number; `InputError` if there is none for it."""
        return number

    def place(self, threshold: float) -> float:
        """Position on the slider, 0 to 1; clamped at the ends."""
        return float(np.clip((threshold - self.low) / ((self.high - self.low) or 1), 0, 1))

    def at(self, place: float) -> float:
        """Threshold of a position on the slider."""
        return self.low + place * (self.high - self.low)


@dataclass(frozen=True)
class ShareScale:
    """Percent of normal tissue flagged, by a model's calibration; logarithmic.

    Parameters
    ----------
    anchors : mapping of float to float
        Thresholds by the share that they flag, at least one.
    threshold_for_fpr, fpr_for_threshold : callable
        Those of the model, see `Calibration`. The first refuses shares that were not calibrated.
    """

    anchors: Mapping[float, float]
    threshold_for_fpr: Callable[[float], float] = field(repr=False)
    fpr_for_threshold: Callable[[float], float] = field(repr=False)

    def shown(self, threshold: float) -> tuple[str, float]:
        """Return a threshold's number, with "<" or ">" if it is beyond the known range."""
        few, many = min(self.anchors), max(self.anchors)
        if threshold > self.anchors[few]:
            return "<", 100 * few
        if threshold < self.anchors[many]:
            return ">", 100 * many
        return "", 100 * self.fpr_for_threshold(threshold)

    def threshold(self, number: float) -> float:
        """Threshold of a displayed number; `InputError` if there is none for it."""
        return float(self.threshold_for_fpr(number / 100))

    def place(self, threshold: float) -> float:
        """Position on the slider, 0 to 1; clamped at the ends."""
        few, many = min(self.anchors), max(self.anchors)
        share = float(np.clip(self.fpr_for_threshold(threshold), few, many))
        return math.log(many / share) / (math.log(many / few) or 1)

    def at(self, place: float) -> float:
        """Threshold of a position on the slider."""
        few, many = min(self.anchors), max(self.anchors)
        share = many * (few / many) ** place
        return float(self.threshold_for_fpr(float(np.clip(share, few, many))))


@dataclass(frozen=True)
class PercentileScale:
    """Percentile of the scores in this scan's tissue; the slider uses the share above.

    Parameters
    ----------
    edges : (n,) float64
        Scores, rising.
    above : (n,) float64
        Share of the scan's scores above each, falling from 1 to 0.
    """

    edges: npt.NDArray[np.float64] = field(repr=False)
    above: npt.NDArray[np.float64] = field(repr=False)

    def shown(self, threshold: float) -> tuple[str, float]:
        """Return a threshold's number, with "<" or ">" if it is beyond the known range."""
        return "", 100 * (1 - self._share(threshold))

    def threshold(self, number: float) -> float:
        """Threshold of a displayed number; `InputError` if there is none for it."""
        if not 0 <= number <= 100:
            raise InputError(f"{number:g} is not a percentile", fix="Give one from 0 to 100")
        return float(np.interp(1 - number / 100, self.above[::-1], self.edges[::-1]))

    def _share(self, threshold: float) -> float:
        return float(np.interp(threshold, self.edges, self.above))

    def place(self, threshold: float) -> float:
        """Position on the slider, 0 to 1; clamped at the ends."""
        share = max(self._share(threshold), _FINEST_SHARE)
        return math.log(share) / math.log(_FINEST_SHARE)

    def at(self, place: float) -> float:
        """Threshold of a position on the slider."""
        return self.threshold(100 * (1 - _FINEST_SHARE**place))
