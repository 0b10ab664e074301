"""What scores mean: how much normal tissue exceeds them, and how many normal scans reach them.

Pixels of a patient, and slices of a scan, are not independent; only patients are exchangeable. So
any promise about the next patient rests on the number n of patients, however many pixels there
are: no p-value is below 1 / (n + 1).

Shares of tissue state how often a score is exceeded, not by how many patients, and they end where
too little tissue is left to count. A finding is one region of one patient; it is therefore compared
with the highest region of its size in each normal patient.

Sizes are areas within a slice, as a share of the body in the slice: images without a spacing have
no other measure, and models score slice by slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.calibration.regions import NormalRegions

__all__ = ["Calibration", "PatientPeaks", "PeakCounter", "calibrate", "largest_part", "scan_score"]

#: Shares of the body in a slice; 0 means a single voxel.
SIZES = (
    *(0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
)


# Pixels that touch by an edge or a corner belong together, like voxels of findings.
_NEIGHBOURS_8 = np.ones((3, 3), bool)


# Bisection steps by which a level is found, rounded up: to 1 part in 4,096 of the slice's range.
_STEPS = 12


@dataclass(frozen=True)
class PatientPeaks:
    """Highest scores of each calibration patient.

    Parameters
    ----------
    sizes : tuple of float
        Areas within a slice as shares of the body in it, rising; the first is 0, a single voxel.
    scores : tuple of tuple of float
        For each patient and size, the highest score that is reached throughout some connected
        region (8 neighbours) of at least that size, in the model's unit. Patients are not named;
        their order is that of `Calibration.image_patients`.

    Raises
    ------
    ValueError
        If there is not one score per size, or sizes do not begin with 0 and rise.
    """

    sizes: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.sizes) for row in self.scores):
            raise ValueError("not one score a size")
        if not self.sizes or self.sizes[0] != 0 or not np.all(np.diff(self.sizes) > 0):
            raise ValueError("sizes that do not rise from 0")

    def reaching(self, score: float, size: float = 0.0) -> int:
        """Count the patients with a region of at least a size that scores as high throughout.

        Parameters
        ----------
        score : float
            In the model's unit.
        size : float
            Share of the body in a slice. Between two measured sizes the smaller one is used, so
            that the number is never too small.
        """
        column = int(np.searchsorted(self.sizes, size, side="right")) - 1
        return sum(row[column] >= score for row in self.scores)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, stored in the model file."""
        return {"sizes": list(self.sizes), "scores": [list(row) for row in self.scores]}


class PeakCounter:
    """Highest scores by patient, accumulated slice by slice."""

    def __init__(self) -> None:
        self._highest: dict[str, list[float]] = {}

    def add(self, patient: str, nll: npt.NDArray[np.floating], body: int) -> None:
        """Add one slice.

        Parameters
        ----------
        patient : str
            Key of the patient; only the order of keys is kept.
        nll : (rows, columns) floating
            The heatmap, all of which is used: findings are restricted to the body only on request.
        body : int
            Number of pixels of the body, more than 0.
        """
        known = self._highest.setdefault(patient, [-np.inf] * len(SIZES))
        high = float(nll.max())
        for number, share in enumerate(SIZES):
            if number and high > known[number]:
                high = _level(nll, int(np.ceil(share * body)), known[number], high)
            known[number] = max(known[number], high)

    @property
    def peaks(self) -> PatientPeaks | None:
        """The result; None without any slice."""
        rows = tuple(tuple(row) for row in self._highest.values())
        return PatientPeaks(SIZES, rows) if rows else None


def _level(nll: npt.NDArray[np.floating], pixels: int, known: float, high: float) -> float:
    """Highest score that a region of this many pixels reaches throughout, rounded up.

    It is not above ``high``; if it is not above ``known`` either, ``known`` is returned.
    """
    if not _holds(nll > known, pixels):
        return known
    low = max(known, float(nll.min()))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _holds(nll >= middle, pixels) else (low, middle)
    return high


def _holds(mask: npt.NDArray[np.bool_], pixels: int) -> bool:
    """Whether a mask has a connected region of at least this many pixels."""
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


# False-positive shares whose thresholds are stored; the logarithm is interpolated between them.
_LEVELS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


_SAMPLE = 20_000


_SCAN_QUANTILE = 0.95


def scan_score(image_scores: Sequence[float] | npt.NDArray[np.floating]) -> float:
    """One number for a scan: the 95th percentile of its slices' image scores.

    The maximum would grow with the number of slices. NaN (a slice not scored) is ignored.
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
        Number of slices and of patients calibrated on.
    image_patients : tuple of int
        Number of the patient of each image score; empty in older models, which have no p-values.
    patient_fpr : tuple of tuple of float
        For each patient the share of tissue above each threshold; empty in older models.
    separate : bool
        Whether the slices are known to have had no part in the fit. Slices held out for validation
        by a fit choose its best epoch, so that other normal scans score a little higher.
    folds : int
        0, or the number of folds if the training patients were used too, each scored by a model
        trained without them; see `napari_spatial_ar.normative.fitting.folds`.
    peaks : PatientPeaks or None
        Highest scores of each patient; None in older models.
    regions : NormalRegions or None
        Regions above each threshold in a normal scan; None in older models.
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
    peaks: Annotated[PatientPeaks | None, Field(validation_alias="patient_peaks")] = None
    regions: Annotated[NormalRegions | None, Field(validation_alias="normal_regions")] = None

    def threshold_for_fpr(self, fpr: float) -> float:
        """Heatmap value that a share ``fpr`` of normal tissue exceeds.

        Raises
        ------
        InputError
            If the share is outside the calibrated range.
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
        """Share of normal tissue above a heatmap value, clamped to the calibrated range."""
        return float(np.exp(np.interp(threshold, self.thresholds, np.log(self.fpr))))

    def unit_heat(self, heat: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Heatmap for display: 0 where half of normal tissue is higher .. 1 at the rarest share.

        The scale is logarithmic in the share, so that models with different units look alike.
        """
        logarithms = np.log(self.fpr)
        unit = (logarithms - logarithms[0]) / (logarithms[-1] - logarithms[0] or 1)
        return np.asarray(np.interp(heat, self.thresholds, unit), dtype=np.float32)

    def fpr_of_patients(self, threshold: float) -> tuple[float, ...]:
        """Share of each patient's tissue above a heatmap value; empty if unknown.

        Never below the truth: constant above the highest threshold, and 1 below the lowest.
        """
        return tuple(
            float(np.interp(threshold, self.thresholds, shares, left=1.0))
            for shares in self.patient_fpr
        )

    def fpr_bound(self, threshold: float) -> float | None:
        """Share of tissue above a heatmap value that can be promised for the next normal patient.

        Over draws of the calibration patients and the next one, its expectation is at least the
        share of the latter; with n patients that have nothing above the value it is 1 / (n + 1).
        None if the shares of patients are unknown.
        """
        shares = self.fpr_of_patients(threshold)
        return (1 + sum(shares)) / (1 + len(shares)) if shares else None

    @property
    def smallest_p(self) -> float | None:
        """The smallest possible p-value, 1 / (n + 1); None if there are no p-values."""
        return 1 / (1 + self.patients) if self.image_patients else None

    def slice_p(self, image_score: float) -> float:
        """Conformal p-value of one slice of a new patient.

        (1 + the sum over patients of the share of the patient's slices that score as high) /
        (n + 1): a slice drawn at random from the next normal patient has p <= a with probability
        at most a (Lee, Barber and Willett, 2023, conformal inference with hierarchical data).

        Raises
        ------
        InputError
            If the model has no scores by patient.
        """
        return self._p([float(np.mean(scores >= image_score)) for scores in self._by_patient()])

    def scan_p(self, image_scores: Sequence[float] | npt.NDArray[np.floating]) -> float:
        """Conformal p-value of a whole scan, from the image scores of its slices.

        (1 + the number of patients whose `scan_score` is as high) / (n + 1): the next normal
        patient has p <= a with probability at most a.

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
            If ``alpha`` is not a share, is below 1 / (n + 1), or there are no p-values.
        """
        self._by_patient()
        if not 0 < alpha < 1:
            raise InputError(f"{alpha:g} is no level for p-values", fix="Choose one in 0..1")
        needed = int(np.ceil(1 / alpha - 1e-9)) - 1
        if self.patients < needed:
            raise InputError(
                f"with {self.patients} normal patients the finest level is "
                f"1/{self.patients + 1} = {1 / (self.patients + 1):.2g}, not {alpha:g}",
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
        """JSON form, stored in the model file."""
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
            **({"normal_regions": self.regions.to_dict()} if self.regions else {}),
        }


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
        Heatmap values inside the body, one array per slice. At most 20,000 of a slice are used.
    image_scores : sequence of float
        One per slice.
    groups : sequence of str
        Patient key of each slice; only their order is stored.
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
    """Share of a patient's tissue above each threshold; empty if there is no tissue."""
    rising = np.sort(np.concatenate(scores))
    above = len(rising) - np.searchsorted(rising, thresholds, side="right")
    return tuple(float(share) for share in np.round(above / max(1, len(rising)), 6))
