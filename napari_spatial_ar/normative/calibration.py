"""What a threshold means: how much normal tissue it flags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError

__all__ = ["Calibration", "calibrate"]

# False-positive shares whose thresholds are kept; between them the logarithm is interpolated.
_LEVELS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_SAMPLE = 20_000


@dataclass(frozen=True)
class Calibration:
    """Scores of tissue in held-out normal slices.

    Parameters
    ----------
    fpr : tuple of float
        Shares of normal tissue flagged, falling.
    thresholds : tuple of float
        Heatmap values that flag these shares, rising; nats per dimension for the AR network.
    image_scores : tuple of float
        Image scores of the held-out normal slices, rising.
    slices, patients : int
        How many slices, of how many patients, this rests on.
    """

    fpr: tuple[float, ...]
    thresholds: tuple[float, ...]
    image_scores: tuple[float, ...]
    slices: int
    patients: int

    def threshold_for_fpr(self, fpr: float) -> float:
        """Heatmap value above which a share ``fpr`` of normal tissue lies.

        Raises
        ------
        InputError
            If the share lies outside what was measured.
        """
        low, high = self.fpr[-1], self.fpr[0]
        if not low <= fpr <= high:
            raise InputError(
                f"a false-positive share of {fpr:g} was not calibrated for this model",
                fix=f"Choose one between {low:g} and {high:g}",
            )
        return float(np.interp(-np.log(fpr), -np.log(self.fpr), self.thresholds))

    def fpr_for_threshold(self, threshold: float) -> float:
        """Share of normal tissue above a heatmap value, held at the ends of what was measured."""
        return float(np.exp(np.interp(threshold, self.thresholds, np.log(self.fpr))))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, kept in the model file."""
        return {
            "fpr": list(self.fpr),
            "thresholds": list(self.thresholds),
            "image_scores": list(self.image_scores),
            "slices": self.slices,
            "patients": self.patients,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        """Inverse of `to_dict`."""
        return cls(
            fpr=tuple(values["fpr"]),
            thresholds=tuple(values["thresholds"]),
            image_scores=tuple(values["image_scores"]),
            slices=int(values["slices"]),
            patients=int(values["patients"]),
        )


def calibrate(
    tissue_scores: Iterable[npt.NDArray[np.float32]],
    image_scores: Sequence[float],
    groups: Sequence[str],
) -> Calibration:
    """Measure score quantiles on held-out normal slices.

    Parameters
    ----------
    tissue_scores : iterable of (n,) float32
        Heatmap values inside the body, one array a slice. At most 20,000 of a slice are used.
    image_scores : sequence of float
        One a slice.
    groups : sequence of str
        Patient key of each slice.

    Raises
    ------
    InputError
        If no slice has tissue.
    """
    rng = np.random.default_rng(0)
    sample = [
        scores if len(scores) <= _SAMPLE else rng.choice(scores, _SAMPLE, replace=False)
        for scores in tissue_scores
    ]
    pooled = np.concatenate(sample) if sample else np.empty(0, np.float32)
    if not len(pooled):
        raise InputError("no tissue was found in the held-out normal slices")
    levels = [level for level in _LEVELS if level * len(pooled) >= 10]
    return Calibration(
        fpr=tuple(levels),
        thresholds=tuple(float(q) for q in np.quantile(pooled, 1 - np.array(levels))),
        image_scores=tuple(sorted(float(s) for s in image_scores)),
        slices=len(image_scores),
        patients=len(set(groups)),
    )
