"""One threshold, three views of it: share of normal tissue, the model's unit, percentile.

The threshold itself is always a number in the model's unit; a scale turns it into what is shown
and typed, and into a place on a slider, where more to the right always flags less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError

__all__ = ["PercentileScale", "Scale", "ShareScale", "UnitScale"]

# Of a scan's tissue: the finest share above the threshold that the slider reaches.
_FINEST_SHARE = 1e-4


class Scale(Protocol):
    """A view of thresholds."""

    def shown(self, threshold: float) -> tuple[str, float]:
        """Give a threshold's number, with "<" or ">" where it lies beyond what is known."""

    def threshold(self, number: float) -> float:
        """Threshold of a number as it is shown; what there is none for is an `InputError`."""

    def place(self, threshold: float) -> float:
        """Place on the slider, 0 to 1; held at the ends."""

    def at(self, place: float) -> float:
        """Threshold of a place on the slider."""


@dataclass(frozen=True)
class UnitScale:
    """The model's own unit, evenly spread.

    Parameters
    ----------
    low, high : float
        Ends of the slider.
    """

    low: float
    high: float

    def shown(self, threshold: float) -> tuple[str, float]:
        """See `Scale`."""
        return "", threshold

    def threshold(self, number: float) -> float:
        """See `Scale`."""
        return number

    def place(self, threshold: float) -> float:
        """See `Scale`."""
        return float(np.clip((threshold - self.low) / ((self.high - self.low) or 1), 0, 1))

    def at(self, place: float) -> float:
        """See `Scale`."""
        return self.low + place * (self.high - self.low)


@dataclass(frozen=True)
class ShareScale:
    """Percent of normal tissue flagged, by a model's calibration; logarithmic.

    Parameters
    ----------
    anchors : mapping of float to float
        Thresholds by the share that they flag, at least one.
    threshold_for_fpr, fpr_for_threshold : callable
        The model's, see `Calibration`. The first refuses shares that were not calibrated.
    """

    anchors: Mapping[float, float]
    threshold_for_fpr: Callable[[float], float] = field(repr=False)
    fpr_for_threshold: Callable[[float], float] = field(repr=False)

    def shown(self, threshold: float) -> tuple[str, float]:
        """See `Scale`."""
        few, many = min(self.anchors), max(self.anchors)
        if threshold > self.anchors[few]:
            return "<", 100 * few
        if threshold < self.anchors[many]:
            return ">", 100 * many
        return "", 100 * self.fpr_for_threshold(threshold)

    def threshold(self, number: float) -> float:
        """See `Scale`."""
        return float(self.threshold_for_fpr(number / 100))

    def place(self, threshold: float) -> float:
        """See `Scale`."""
        few, many = min(self.anchors), max(self.anchors)
        share = float(np.clip(self.fpr_for_threshold(threshold), few, many))
        return math.log(many / share) / (math.log(many / few) or 1)

    def at(self, place: float) -> float:
        """See `Scale`."""
        few, many = min(self.anchors), max(self.anchors)
        share = many * (few / many) ** place
        return float(self.threshold_for_fpr(float(np.clip(share, few, many))))


@dataclass(frozen=True)
class PercentileScale:
    """Percentile of the scores in this scan's tissue; the slider goes by the share above.

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
        """See `Scale`."""
        return "", 100 * (1 - self._share(threshold))

    def threshold(self, number: float) -> float:
        """See `Scale`."""
        if not 0 <= number <= 100:
            raise InputError(f"{number:g} is no percentile", fix="Give one from 0 to 100")
        return float(np.interp(1 - number / 100, self.above[::-1], self.edges[::-1]))

    def _share(self, threshold: float) -> float:
        return float(np.interp(threshold, self.edges, self.above))

    def place(self, threshold: float) -> float:
        """See `Scale`."""
        share = max(self._share(threshold), _FINEST_SHARE)
        return math.log(share) / math.log(_FINEST_SHARE)

    def at(self, place: float) -> float:
        """See `Scale`."""
        return self.threshold(100 * (1 - _FINEST_SHARE**place))
