"""How high each normal patient scores at most: in a single voxel, and in regions by their size.

Shares of tissue say how often a score is exceeded, not by how many patients, and they end where
tissue becomes too little to count. A finding is one region of one patient; what it is compared
with is therefore the highest region of its size in each normal patient.

Sizes are areas within a slice, as a share of the body that the slice shows: pictures without a
spacing have no other, and models score slice by slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["PatientPeaks", "PeakMeter", "largest_part"]

#: Shares of the body in a slice; 0 stands for a single voxel.
SIZES = (
    *(0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
)
# Pixels that touch by an edge or a corner belong together, as voxels of findings do.
_NEIGHBOURS_8 = np.ones((3, 3), bool)
# Halvings of a slice's range by which a level is found, and rounded up: to 1 part in 4,096.
_STEPS = 12


@dataclass(frozen=True)
class PatientPeaks:
    """Highest scores of each calibration patient.

    Parameters
    ----------
    sizes : tuple of float
        Areas within a slice as shares of the body in it, rising; the first is 0, a single voxel.
    scores : tuple of tuple of float
        For each patient and size, the highest score that all of some connected region (8
        neighbours) of at least that size reaches; in the model's unit. Nobody is named, and the
        order is that of `Calibration.image_patients`.

    Raises
    ------
    ValueError
        If there is not one score a size, or sizes do not begin with 0 and rise.
    """

    sizes: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.sizes) for row in self.scores):
            raise ValueError("not one score a size")
        if not self.sizes or self.sizes[0] != 0 or not np.all(np.diff(self.sizes) > 0):
            raise ValueError("sizes that do not rise from 0")

    def reaching(self, score: float, size: float = 0.0) -> int:
        """How many patients have a region of at least a size that scores as high throughout.

        Parameters
        ----------
        score : float
            In the model's unit.
        size : float
            Share of the body in a slice. Between two sizes that were measured the smaller counts,
            so that the number is never too small.
        """
        column = int(np.searchsorted(self.sizes, size, side="right")) - 1
        return sum(row[column] >= score for row in self.scores)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, kept in the model file."""
        return {"sizes": list(self.sizes), "scores": [list(row) for row in self.scores]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PatientPeaks:
        """Inverse of `to_dict`."""
        return cls(
            tuple(float(size) for size in values["sizes"]),
            tuple(tuple(float(score) for score in row) for row in values["scores"]),
        )


class PeakMeter:
    """Highest scores by patient, taken in slice by slice."""

    def __init__(self) -> None:
        self._highest: dict[str, list[float]] = {}

    def add(self, patient: str, nll: npt.NDArray[np.floating], body: int) -> None:
        """Take in one slice.

        Parameters
        ----------
        patient : str
            Key of the patient; only the order of keys is kept.
        nll : (rows, columns) floating
            The heatmap. All of it counts, as findings keep to the body only where that is asked.
        body : int
            Pixels of the body, more than 0.
        """
        known = self._highest.setdefault(patient, [-np.inf] * len(SIZES))
        high = float(nll.max())
        for number, share in enumerate(SIZES):
            if number and high > known[number]:
                high = _level(nll, int(np.ceil(share * body)), known[number], high)
            known[number] = max(known[number], high)

    @property
    def peaks(self) -> PatientPeaks | None:
        """What was taken in; None of no slices."""
        rows = tuple(tuple(row) for row in self._highest.values())
        return PatientPeaks(SIZES, rows) if rows else None


def _level(nll: npt.NDArray[np.floating], pixels: int, known: float, high: float) -> float:
    """Highest score that a region of so many pixels reaches throughout, rounded up.

    It is not above ``high``; where it is not above ``known`` either, that is returned.
    """
    if not _holds(nll > known, pixels):
        return known
    low = max(known, float(nll.min()))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _holds(nll >= middle, pixels) else (low, middle)
    return high


def _holds(mask: npt.NDArray[np.bool_], pixels: int) -> bool:
    """Whether a mask has a connected region of so many pixels."""
    if np.count_nonzero(mask) < pixels:
        return False
    return int(np.count_nonzero(largest_part(mask))) >= pixels


def largest_part(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Largest connected region (8 neighbours) of a mask (rows, columns)."""
    labels, count = ndimage.label(mask, _NEIGHBOURS_8)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
