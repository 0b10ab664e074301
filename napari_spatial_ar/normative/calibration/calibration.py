"""What scores mean: how much normal tissue lies above them, how many normal scans reach them.

Pixels of a patient, and slices of one, are alike; only patients may be exchanged for each other.
So whatever is promised of the next patient rests on the number n of patients, however many pixels
there are: no p-value lies below 1 / (n + 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.calibration.peaks import PatientPeaks

__all__ = ["Calibration", "calibrate", "scan_score"]

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
