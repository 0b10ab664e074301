"""What scores mean: how much normal tissue lies above them, how many normal scans reach them.

Pixels of a patient, and slices of one, are alike; only patients may be exchanged for each other.
So whatever is promised of the next patient rests on the number n of patients, however many pixels
there are: no p-value lies below 1 / (n + 1).

Shares of tissue say how often a score is exceeded, not by how many patients, and they end where
tissue becomes too little to count. A finding is one region of one patient; what it is compared
with is therefore the highest region of its size in each normal patient.

Sizes are areas within a slice, as a share of the body that the slice shows: pictures without a
spacing have no other, and models score slice by slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_spatial_ar.errors import InputError

__all__ = ["Calibration", "PatientPeaks", "PeakCounter", "calibrate", "largest_part", "scan_score"]

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


class PeakCounter:
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


# False-positive shares whose thresholds are kept; between them the logarithm is interpolated.
_LEVELS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


_SAMPLE = 20_000


_SCAN_QUANTILE = 0.95


def scan_score(image_scores: Sequence[float] | npt.NDArray[np.floating]) -> float:
    """One number for a scan: the 95th percentile of its slices' image scores.

    The highest would grow with the number of slices. NaN (a slice not scored) is left out.
    """
    return float(np.nanquantile(np.asarray(image_scores, float), _SCAN_QUANTILE))


@dataclass(frozen=True)
class Calibration:
    """Scores of tissue, slices and patients in held-out normal scans.

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
    image_patients : tuple of int
        Number of the patient of each image score; empty in older models, which give no p-values.
    patient_fpr : tuple of tuple of float
        For each patient the share of the tissue above each threshold; may be empty likewise.
    separate : bool
        Whether the slices are known to have had no part in the fit. Those that a fit keeps for
        validation choose its best epoch, so that other normal scans score a little higher.
    folds : int
        0, or the number of folds by which the training patients had a part too, each scored by
        a model that had not learned from it; see `napari_spatial_ar.normative.fitting.folds`.
    peaks : PatientPeaks or None
        Highest scores of each patient; None in older models.
    """

    fpr: tuple[float, ...]
    thresholds: tuple[float, ...]
    image_scores: tuple[float, ...]
    slices: int
    patients: int
    image_patients: tuple[int, ...] = ()
    patient_fpr: tuple[tuple[float, ...], ...] = ()
    separate: bool = False
    folds: int = 0
    peaks: PatientPeaks | None = None

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
                f"a false-positive share of {fpr:g} was not calibrated for this model "
                f"({self.slices} slices of {self.patients} patients)",
                fix=f"Choose one between {low:g} and {high:g}",
            )
        return float(np.interp(-np.log(fpr), -np.log(self.fpr), self.thresholds))

    def fpr_for_threshold(self, threshold: float) -> float:
        """Share of normal tissue above a heatmap value, held at the ends of what was measured."""
        return float(np.exp(np.interp(threshold, self.thresholds, np.log(self.fpr))))

    def unit_heat(self, heat: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Heatmap for display: 0 where half of normal tissue lies above .. 1 at the rarest share.

        The logarithm of the share counts, so that models with other units look alike.
        """
        logarithms = np.log(self.fpr)
        unit = (logarithms - logarithms[0]) / (logarithms[-1] - logarithms[0] or 1)
        return np.asarray(np.interp(heat, self.thresholds, unit), dtype=np.float32)

    def fpr_of_patients(self, threshold: float) -> tuple[float, ...]:
        """Share of each patient's tissue above a heatmap value; empty where it is not known.

        Never below the truth: it is held above the highest threshold, and 1 below the lowest.
        """
        return tuple(
            float(np.interp(threshold, self.thresholds, shares, left=1.0))
            for shares in self.patient_fpr
        )

    def fpr_bound(self, threshold: float) -> float | None:
        """Share of tissue above a heatmap value that can be promised of the next normal patient.

        Over draws of the calibration patients and the next one its expectation is at least the
        latter's; n patients that have nothing above it promise 1 / (n + 1). None where the
        shares of patients are not known.
        """
        shares = self.fpr_of_patients(threshold)
        return (1 + sum(shares)) / (1 + len(shares)) if shares else None

    @property
    def smallest_p(self) -> float | None:
        """The smallest p-value that there can be, 1 / (n + 1); None where there are none."""
        return 1 / (1 + self.patients) if self.image_patients else None

    def slice_p(self, image_score: float) -> float:
        """Conformal p-value of one slice of a new patient.

        (1 + the sum over patients of the share of the patient's slices that score as high) /
        (n + 1): a slice taken at random from the next normal patient has p <= a with probability
        a at most (Lee, Barber and Willett, 2023, conformal inference with hierarchical data).

        Raises
        ------
        InputError
            If the model has no scores by patient.
        """
        return self._p([float(np.mean(scores >= image_score)) for scores in self._by_patient()])

    def scan_p(self, image_scores: Sequence[float] | npt.NDArray[np.floating]) -> float:
        """Conformal p-value of a whole scan, from the image scores of its slices.

        (1 + the number of patients whose `scan_score` is as high) / (n + 1): the next normal
        patient has p <= a with probability a at most.

        Raises
        ------
        InputError
            If the model has no scores by patient.
        """
        score = scan_score(image_scores)
        return self._p([float(scan_score(scores) >= score) for scores in self._by_patient()])

    def check_alpha(self, alpha: float) -> None:
        """Refuse a level that p-values cannot reach.

        Raises
        ------
        InputError
            If ``alpha`` is no share, lies below 1 / (n + 1), or there are no p-values.
        """
        self._by_patient()
        if not 0 < alpha < 1:
            raise InputError(f"{alpha:g} is no level for p-values", fix="Choose one in 0..1")
        needed = int(np.ceil(1 / alpha - 1e-9)) - 1
        if self.patients < needed:
            raise InputError(
                f"{self.patients} normal patients promise no level finer than "
                f"1/{self.patients + 1} = {1 / (self.patients + 1):.2g}, and {alpha:g} was asked",
                fix=f"Calibrate the model on {needed} or more, or choose a higher level",
            )

    def _p(self, as_high: list[float]) -> float:
        return (1 + sum(as_high)) / (1 + len(as_high))

    def _by_patient(self) -> list[npt.NDArray[np.float64]]:
        if not self.image_patients:
            raise InputError(
                "this model was calibrated without p-values",
                fix="Run 'napari-spatial-ar calibrate' with normal scans that it was not trained "
                "on",
            )
        scores, patients = np.array(self.image_scores), np.array(self.image_patients)
        return [scores[patients == number] for number in np.unique(patients)]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, kept in the model file."""
        return {
            "fpr": list(self.fpr),
            "thresholds": list(self.thresholds),
            "image_scores": list(self.image_scores),
            "slices": self.slices,
            "patients": self.patients,
            "image_patients": list(self.image_patients),
            "patient_fpr": [list(shares) for shares in self.patient_fpr],
            "separate": self.separate,
            **({"folds": self.folds} if self.folds else {}),
            **({"patient_peaks": self.peaks.to_dict()} if self.peaks else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        """Inverse of `to_dict`."""
        peaks = values.get("patient_peaks")
        return cls(
            fpr=tuple(values["fpr"]),
            thresholds=tuple(values["thresholds"]),
            image_scores=tuple(values["image_scores"]),
            slices=int(values["slices"]),
            patients=int(values["patients"]),
            image_patients=tuple(values.get("image_patients", ())),
            patient_fpr=tuple(tuple(shares) for shares in values.get("patient_fpr", ())),
            separate=bool(values.get("separate", False)),
            folds=int(values.get("folds", 0)),
            peaks=PatientPeaks.from_dict(peaks) if peaks else None,
        )


def calibrate(
    tissue_scores: Iterable[npt.NDArray[np.float32]],
    image_scores: Sequence[float],
    groups: Sequence[str],
    *,
    separate: bool = False,
) -> Calibration:
    """Measure score quantiles on held-out normal slices.

    Parameters
    ----------
    tissue_scores : iterable of (n,) float32
        Heatmap values inside the body, one array a slice. At most 20,000 of a slice are used.
    image_scores : sequence of float
        One a slice.
    groups : sequence of str
        Patient key of each slice; only their order is kept.
    separate : bool
        See `Calibration`.

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
    thresholds = np.quantile(pooled, 1 - np.array(levels))
    names = list(dict.fromkeys(groups))
    rising = np.argsort(image_scores, kind="stable")
    return Calibration(
        fpr=tuple(levels),
        thresholds=tuple(float(q) for q in thresholds),
        image_scores=tuple(float(image_scores[i]) for i in rising),
        slices=len(image_scores),
        patients=len(names),
        image_patients=tuple(names.index(groups[i]) for i in rising),
        patient_fpr=tuple(
            _shares([s for s, g in zip(sample, groups, strict=True) if g == name], thresholds)
            for name in names
        ),
        separate=separate,
    )


def _shares(
    scores: Sequence[npt.NDArray[np.float32]], thresholds: npt.NDArray[np.float64]
) -> tuple[float, ...]:
    """Share of a patient's tissue above each threshold; none where there is no tissue."""
    rising = np.sort(np.concatenate(scores))
    above = len(rising) - np.searchsorted(rising, thresholds, side="right")
    return tuple(float(share) for share in np.round(above / max(1, len(rising)), 6))
