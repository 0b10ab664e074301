"""How well models find the labelled abnormalities in a dataset of the BMAD layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.folders import BmadItem, bmad_items
from napari_spatial_ar.evaluation.bootstrap import (
    ImageSample,
    PixelSample,
    draw_weights,
    interval,
    resample_images,
    resample_pixels,
    resample_shares,
)
from napari_spatial_ar.evaluation.candidates import Candidate, Scored, label_of, score_items
from napari_spatial_ar.evaluation.costs import Times, model_bytes, peak_gpu_mb, peak_rss_mb
from napari_spatial_ar.evaluation.froc import (
    FALSE_POSITIVES,
    Froc,
    Heatmaps,
    SizeClass,
    free_response,
    resample_froc,
)
from napari_spatial_ar.evaluation.metrics import (
    Curve,
    PixelScores,
    average_precision,
    dice,
    pixel_figures,
    roc_auc,
)
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import SliceScore

__all__ = [
    "DRAWS",
    "Evaluation",
    "Measured",
    "Split",
    "evaluate",
    "measure",
]

Split = Literal["valid", "test"]
#: Number of resampled sets for an interval.
DRAWS = 1000
_RATES = [f"{rate:g}" for rate in FALSE_POSITIVES]


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on one split; None if a figure needs labels that do not exist.

    Parameters
    ----------
    pixel_auroc, pixel_aupr, pixel_aupro : float or None
        Over all pixels of all images at their own resolution; AUPRO up to an FPR of 0.3.
    best_dice_oracle : float or None
        Pooled Dice at the threshold that is best for these very labels.
    lesions : int or None
        Number of lesions: 8-connected parts of the labels.
    lesion_sensitivity : float or None
        Mean share of them found at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false-positive regions per
        patient; `evaluation.froc` states what a hit is.
    lesion_sensitivity_at : dict of str to float
        The share at each of these; empty without lesions.
    lesion_sizes : tuple of SizeClass
        The share found of the smallest, middle and largest third of the lesions.
    image_auroc, image_ap : float or None
        Over image scores.
    dice_at_fpr : float or None
        Pooled Dice of the mask at the threshold calibrated for ``fpr``.
    realised_fpr : float or None
        Share of body pixels in the normal images above that threshold.
    fpr, threshold : float or None
        The nominal share and its threshold; None for a model without calibration.
    unit : str
        Unit of the threshold.
    base_rate : float or None
        Share of abnormal pixels: the AUPR of a random heatmap.
    images, abnormal_images, patients : int
        Numbers scored.
    intervals : dict of str to (float, float)
        95 % intervals of the figures, from patients drawn with replacement; empty for one patient.
    smoothing : int
        Side of the mean filter over patch scores.
    ms_per_slice, ms_per_slice_p95 : float
        Median and 95th percentile of the time of a slice, from pixels in memory to heatmap.
    ms_beyond_backbone : float or None
        Median of this time excluding the backbone; None if the backbone's time is unknown.
    model_bytes : int
        Size of what the method learned, without the backbone.
    fit_seconds : float or None
        Time for learning after embedding, if it was measured.
    peak_rss_mb, peak_gpu_mb : float or None
        Largest resident memory of this process, and of torch on the GPU, so far, in MiB.
    """

    split: str
    images: int
    abnormal_images: int
    patients: int
    pixel_auroc: float | None
    pixel_aupr: float | None
    pixel_aupro: float | None
    best_dice_oracle: float | None
    lesions: int | None
    lesion_sensitivity: float | None
    lesion_sensitivity_at: dict[str, float]
    lesion_sizes: tuple[SizeClass, ...]
    image_auroc: float | None
    image_ap: float | None
    dice_at_fpr: float | None
    realised_fpr: float | None
    fpr: float | None
    threshold: float | None
    unit: str
    base_rate: float | None
    intervals: dict[str, tuple[float, float]]
    smoothing: int
    ms_per_slice: float
    ms_per_slice_p95: float
    ms_beyond_backbone: float | None
    model_bytes: int
    fit_seconds: float | None
    peak_rss_mb: float | None
    peak_gpu_mb: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """An evaluation with the data that it is based on.

    Parameters
    ----------
    evaluation : Evaluation
        The figures.
    draws : dict of str to (draws,) float64
        Each figure in each resampled set; draw n has the same patients for every model.
    curve : Curve or None
        None without pixel labels.
    froc : Froc or None
        None without lesions.
    patients : tuple of str
        Groups, in the order of ``patient_aupr``.
    patient_aupr : (patients,) float64
        Pixel AUPR (approximate) within each patient; without pixel labels the highest image
        score; NaN without anything abnormal.
    """

    evaluation: Evaluation
    draws: dict[str, npt.NDArray[np.float64]] = field(repr=False)
    curve: Curve | None = field(repr=False)
    froc: Froc | None = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    patient_aupr: npt.NDArray[np.float64] = field(repr=False)


def evaluate(
    root: str | Path,
    model: NormativeModel,
    *,
    split: Split = "test",
    fpr: float = 0.01,
    patient_pattern: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every image of a split and compare with its labels.

    Parameters
    ----------
    root : path
        Dataset in the BMAD layout.
    model : NormativeModel
        The model.
    split : {"test", "valid"}
        The split to score.
    fpr : float
        Share of normal tissue for the calibrated threshold.
    patient_pattern : str, optional
        See `find_slices`.
    draws, seed : int
        Number and seed of the resampled sets of patients for intervals.
    progress : callable, optional
        Called with (images done, images in all).

    Raises
    ------
    InputError
        If the folder is not in the BMAD layout, or an image or label cannot be used.
    StorageError
        If the disk has no room for the scores of all pixels (8 to 12 bytes each), which are stored
        temporarily in the system's folder.
    """
    items = bmad_items(root, split, patient_pattern=patient_pattern)
    calibrated = model.header.calibration is not None
    candidate = Candidate(
        model,
        threshold=model.threshold_for_fpr(fpr) if calibrated else None,
        fit_seconds=model.header.training.get("seconds"),
    )
    (measured,) = measure(
        items, [candidate], split=split, fpr=fpr, draws=draws, seed=seed, progress=progress
    )
    return measured.evaluation


def measure(
    items: Sequence[BmadItem],
    candidates: Sequence[Candidate],
    *,
    split: Split = "test",
    fpr: float = 0.01,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Score images with several models and compare with the labels.

    Parameters
    ----------
    items : sequence of BmadItem
        The images.
    candidates : sequence of Candidate
        The models; those with the same backbone and preprocessing embed each image once.
    split, fpr, draws, seed, progress
        As for `evaluate`.

    Returns
    -------
    list of Measured
        Results of each candidate, over the same resampled sets of patients.
    """
    items = sorted(items, key=lambda item: item.group)
    patients = tuple(dict.fromkeys(item.group for item in items))
    labelled = all(item.label is not None or not item.abnormal for item in items)
    weights = draw_weights(len(patients), draws, seed)
    times = [Times() for _ in candidates]
    with ExitStack() as stack:
        tallies = []
        for candidate in candidates:
            pixels = stack.enter_context(PixelScores()) if labelled else None
            heatmaps = stack.enter_context(closing(Heatmaps())) if labelled else None
            tallies.append(_Tally(candidate, pixels, heatmaps, patients))
        for done, scored in enumerate(score_items(items, candidates, times), start=1):
            label = label_of(scored.item, scored.image.shape) if labelled else None
            body = _body(scored) if any(c.threshold is not None for c in candidates) else None
            for tally, score in zip(tallies, scored.scores, strict=True):
                tally.add(scored.item, score, label, body)
            if progress is not None:
                progress(done, len(items))
        return [
            tally.measured(split, fpr, weights, taken)
            for tally, taken in zip(tallies, times, strict=True)
        ]


def _body(scored: Scored) -> npt.NDArray[np.bool_] | None:
    """Body pixels of a normal image; None for an abnormal one."""
    if scored.item.abnormal:
        return None
    return tissue_mask(apply_window(scored.image, *scored.window))


class _Tally:
    """Data for the figures of one candidate, accumulated image by image."""

    def __init__(
        self,
        candidate: Candidate,
        pixels: PixelScores | None,
        heatmaps: Heatmaps | None,
        patients: tuple[str, ...],
    ) -> None:
        self.candidate = candidate
        self.pixels = pixels
        self.heatmaps = heatmaps
        self.patients = patients
        self.row = {patient: number for number, patient in enumerate(patients)}
        names = ("found", "false", "abnormal", "flagged", "tissue")
        self.counts = {name: np.zeros(len(patients)) for name in names}
        self.images: list[tuple[float, bool, int]] = []

    def add(
        self,
        item: BmadItem,
        score: SliceScore,
        label: npt.NDArray[np.bool_] | None,
        body: npt.NDArray[np.bool_] | None,
    ) -> None:
        row = self.row[item.group]
        self.images.append((score.image_score, item.abnormal, row))
        if label is not None and self.pixels is not None:
            self.pixels.add(score.nll, label, item.group)
        if label is not None and self.heatmaps is not None:
            self.heatmaps.add(score.nll, label, item.group)
        if self.candidate.threshold is None:
            return
        mask = score.nll > self.candidate.threshold
        if label is not None:
            self.counts["found"][row] += int((mask & label).sum())
            self.counts["false"][row] += int((mask & ~label).sum())
            self.counts["abnormal"][row] += int(label.sum())
        if body is not None:
            self.counts["flagged"][row] += int(mask[body].sum())
            self.counts["tissue"][row] += int(body.sum())

    def measured(
        self, split: Split, fpr: float, weights: npt.NDArray[np.float64], times: Times
    ) -> Measured:
        candidate, model = self.candidate, self.candidate.model
        scores, abnormal, rows = map(np.array, zip(*self.images, strict=True))
        draws = resample_images(ImageSample(scores, abnormal, rows), weights)
        of_patient = np.full(len(self.patients), -np.inf)
        np.maximum.at(of_patient, rows[abnormal], scores[abnormal])
        of_patient[np.isinf(of_patient)] = np.nan
        figures = None if self.pixels is None else pixel_figures(self.pixels)
        if figures is not None and self.pixels is not None:
            sample = PixelSample.of(self.pixels, figures.curve.threshold).ordered(self.patients)
            draws |= resample_pixels(sample, weights)
            of_patient = resample_pixels(sample, np.eye(len(self.patients)))["pixel_aupr"]
        froc = None
        if self.heatmaps is not None and figures is not None:
            froc = free_response(self.heatmaps)
            draws["lesion_sensitivity"] = resample_froc(froc, weights)
        found_at = (froc.sensitivities() if froc else None) or []
        totals = None if self.pixels is None else self.pixels.totals
        share: dict[str, float | None] = {}
        if candidate.threshold is not None:
            used = ["flagged", "tissue"] if self.counts["tissue"].any() else []
            used += ["found", "false", "abnormal"] if totals is not None else []
            counts = {name: self.counts[name] for name in used}
            draws |= resample_shares(counts, weights)
            share = _at_threshold({name: float(values.sum()) for name, values in counts.items()})
        smoothing = candidate.smoothing
        found = {name: interval(values) for name, values in draws.items()}
        evaluation = Evaluation(
            split=split,
            images=len(self.images),
            abnormal_images=int(abnormal.sum()),
            patients=len(self.patients),
            pixel_auroc=figures.auroc if figures else None,
            pixel_aupr=figures.aupr if figures else None,
            pixel_aupro=figures.aupro if figures else None,
            best_dice_oracle=figures.best_dice if figures else None,
            lesions=froc.lesions if froc else None,
            lesion_sensitivity=float(np.mean(found_at)) if found_at else None,
            lesion_sensitivity_at=dict(zip(_RATES, found_at, strict=False)),
            lesion_sizes=froc.by_size() if froc else (),
            image_auroc=roc_auc(abnormal, scores),
            image_ap=average_precision(abnormal, scores),
            dice_at_fpr=share.get("dice_at_fpr"),
            realised_fpr=share.get("realised_fpr"),
            fpr=None if candidate.threshold is None else fpr,
            threshold=candidate.threshold,
            unit=model.unit,
            base_rate=totals.abnormal / (totals.abnormal + totals.normal) if totals else None,
            intervals={name: ends for name, ends in found.items() if ends is not None}
            if len(self.patients) > 1
            else {},
            smoothing=model.header.scoring.smoothing if smoothing is None else smoothing,
            **times.summary(),
            model_bytes=model_bytes(model),
            fit_seconds=candidate.fit_seconds,
            peak_rss_mb=peak_rss_mb(),
            peak_gpu_mb=peak_gpu_mb(model.device),
        )
        return Measured(
            evaluation, draws, figures.curve if figures else None, froc, self.patients, of_patient
        )


def _at_threshold(sums: dict[str, float]) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    if "found" in sums:
        figures["dice_at_fpr"] = dice(sums["found"], sums["false"], sums["abnormal"])
    if "tissue" in sums:
        figures["realised_fpr"] = sums["flagged"] / sums["tissue"]
    return figures
