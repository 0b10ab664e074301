"""Intervals by resampling patients.

Images of a patient are not independent, so patients and not pixels or images are drawn with
replacement. Nothing is sorted again for a draw: each patient's pixels are counted once at some
2,500 shared thresholds, those of the exact curves, and the counts are added up with the weights of
the draw. Image scores, Dice at a threshold and the realised share are exact in every draw; areas
over pixels use these thresholds only, which is within about 0.001 of the exact figure and suffices
for intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.evaluation.metrics import PRO_MAX_FPR, Floats, PixelScores

__all__ = [
    "ImageSample",
    "PixelSample",
    "draw_weights",
    "interval",
    "resample_images",
    "resample_pixels",
    "resample_shares",
]

# Draws processed at a time: limits the memory.
_CHUNK = 50


def draw_weights(patients: int, draws: int, seed: int) -> npt.NDArray[np.float64]:
    """How often each patient occurs in each resampled set of the same size: (draws, patients)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(patients, np.full(patients, 1 / patients), draws).astype(np.float64)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Return the percentile interval of a figure's draws; None if too few draws have one.

    Parameters
    ----------
    values : (draws,) float64
        NaN if a draw had no abnormal or no normal part.
    level : float
        Share of the draws inside.
    """
    known = values[np.isfinite(values)]
    if len(known) < 0.5 * len(values) or not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PixelSample:
    """Number of pixels of each patient at or above shared falling thresholds, by `per_patient`.

    The last threshold is the lowest score, so the last column counts all pixels.
    """

    patients: tuple[str, ...]
    normal: Floats
    abnormal: Floats
    share: Floats

    @classmethod
    def of(cls, scores: PixelScores, thresholds: npt.NDArray[np.float32]) -> PixelSample:
        """Count the pixels of each patient at the thresholds of a `Curve`."""
        patients, normal, abnormal, share = scores.per_patient(thresholds)
        return cls(tuple(patients), normal, abnormal, share)

    def ordered(self, patients: tuple[str, ...]) -> PixelSample:
        """Return the same with the patients in another order."""
        row = {patient: number for number, patient in enumerate(self.patients)}
        index = [row[patient] for patient in patients]
        return PixelSample(patients, self.normal[index], self.abnormal[index], self.share[index])


def resample_pixels(
    sample: PixelSample, weights: Floats, *, max_fpr: float = PRO_MAX_FPR
) -> dict[str, Floats]:
    """Figures over pixels in each draw.

    Parameters
    ----------
    sample : PixelSample
        Counts of each patient.
    weights : (draws, patients) float64
        From `draw_weights`; a row of ones gives the figures of the complete set.
    max_fpr : float
        Upper limit of the area under the PRO curve.

    Returns
    -------
    dict of str to (draws,) float64
        ``pixel_auroc``, ``pixel_aupr``, ``pixel_aupro`` and ``best_dice_oracle``; NaN where a
        draw lacks normal or abnormal pixels.
    """
    parts = [
        _areas(part @ sample.normal, part @ sample.abnormal, part @ sample.share, max_fpr)
        for part in _chunks(weights)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _chunks(weights: Floats) -> Iterator[Floats]:
    for first in range(0, len(weights), _CHUNK):
        yield weights[first : first + _CHUNK]


def _areas(normal: Floats, abnormal: Floats, share: Floats, max_fpr: float) -> dict[str, Floats]:
    """Areas under the curves of (draws, n) counts at falling thresholds."""
    zero = np.zeros((len(normal), 1))
    normal, abnormal, share = (np.hstack([zero, part]) for part in (normal, abnormal, share))
    with np.errstate(divide="ignore", invalid="ignore"):
        fpr = normal / normal[:, -1:]
        recall = abnormal / abnormal[:, -1:]
        # At the lowest score everything is found, so the last sum of shares counts the regions.
        overlap = share / share[:, -1:]
        precision = abnormal / (normal + abnormal)
        dice = 2 * abnormal / (normal + abnormal + abnormal[:, -1:])
    # If the patient with the highest scores is not drawn, nothing is found at first.
    aupr = np.sum(np.diff(recall, axis=1) * np.nan_to_num(precision[:, 1:]), axis=1)
    # The part of each step in the false-positive rate that is below the limit.
    width = np.diff(fpr, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.nan_to_num(np.clip((max_fpr - fpr[:, :-1]) / width, 0, 1))
    rise = np.diff(overlap, axis=1)
    aupro = np.sum(width * part * (overlap[:, :-1] + rise * part / 2), axis=1) / max_fpr
    known = (normal[:, -1] > 0) & (abnormal[:, -1] > 0)
    figures = {
        "pixel_auroc": np.trapezoid(recall, fpr, axis=1),
        "pixel_aupr": aupr,
        "pixel_aupro": aupro,
        "best_dice_oracle": np.max(np.nan_to_num(dice), axis=1),
    }
    return {name: np.where(known, values, np.nan) for name, values in figures.items()}


@dataclass(frozen=True)
class ImageSample:
    """Image scores with their labels and the index of each image's patient: (images,) each."""

    scores: Floats
    abnormal: npt.NDArray[np.bool_]
    patient: npt.NDArray[np.intp]


def resample_images(sample: ImageSample, weights: Floats) -> dict[str, Floats]:
    """Image AUROC and AP in each draw, exactly; see `resample_pixels`."""
    order = np.argsort(-sample.scores, kind="stable")
    falling = sample.scores[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    auroc, precision = [], []
    for part in _chunks(weights):
        weight = part[:, sample.patient[order]]
        false = np.cumsum(weight * ~sample.abnormal[order], axis=1)[:, last]
        found = np.cumsum(weight * sample.abnormal[order], axis=1)[:, last]
        zero = np.zeros((len(part), 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            fpr = np.hstack([zero, false / false[:, -1:]])
            recall = np.hstack([zero, found / found[:, -1:]])
            share = np.nan_to_num(found / (false + found))
        both = (false[:, -1] > 0) & (found[:, -1] > 0)
        auroc.append(np.where(both, np.trapezoid(recall, fpr, axis=1), np.nan))
        area = np.sum(np.diff(recall, axis=1) * share, axis=1)
        precision.append(np.where(found[:, -1] > 0, area, np.nan))
    return {"image_auroc": np.concatenate(auroc), "image_ap": np.concatenate(precision)}


def resample_shares(counts: Mapping[str, Floats], weights: Floats) -> dict[str, Floats]:
    """Figures at one threshold in each draw, exactly.

    Parameters
    ----------
    counts : mapping of str to (patients,) float64
        ``found``, ``false`` and ``abnormal`` pixels for Dice; ``flagged`` and ``tissue`` pixels
        of the normal images for the realised share. Either group may be omitted.
    weights : (draws, patients) float64
        From `draw_weights`.
    """
    sums = {name: weights @ values for name, values in counts.items()}
    figures = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        if "found" in sums:
            total = sums["found"] + sums["false"] + sums["abnormal"]
            figures["dice_at_fpr"] = 2 * sums["found"] / total
        if "tissue" in sums:
            figures["realised_fpr"] = sums["flagged"] / sums["tissue"]
    return figures
