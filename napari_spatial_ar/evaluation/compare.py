"""Several methods on one dataset, under the same rules, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.folders import BmadItem, bmad_items
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation.baselines import ComparedMethod
from napari_spatial_ar.evaluation.bootstrap import interval
from napari_spatial_ar.evaluation.candidates import Candidate, label_of, score_items
from napari_spatial_ar.evaluation.evaluate import DRAWS, Measured, Split, measure
from napari_spatial_ar.evaluation.metrics import PixelScores, pixel_figures
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.calibration.calibration import Calibration, calibrate

__all__ = ["FIGURES", "RATIOS", "SMOOTHINGS", "Comparison", "Ratio", "Result", "compare"]

#: Sides of the mean filter over patch scores that are tried on the validation split.
SMOOTHINGS = (1, 3, 5, 7)
#: Figures for which a mean over seeds and an interval are reported.
FIGURES = (
    *("pixel_auroc", "pixel_aupr", "pixel_aupro", "best_dice_oracle", "dice_at_fpr"),
    *("realised_fpr", "lesion_sensitivity", "image_auroc", "image_ap"),
)
#: Figures for which the ratio to the first method is reported.
RATIOS = ("pixel_aupr", "image_auroc")
# Number of heatmap values of normal tissue used per slice, and for all slices together.
_SAMPLE, _ALL_SAMPLES = 20_000, 4_000_000


@dataclass(frozen=True)
class Result:
    """Results of one method.

    Parameters
    ----------
    method : ComparedMethod
        The method.
    smoothing : int
        Side of the mean filter, the same for all its seeds.
    valid_aupr : dict of int to float
        Mean pixel AUPR over seeds on the validation split for each smoothing tried; empty if
        none was chosen there.
    measured : tuple of Measured
        Results of each seed.
    """

    method: ComparedMethod
    smoothing: int
    valid_aupr: dict[int, float]
    measured: tuple[Measured, ...]

    def mean(self, figure: str) -> float | None:
        """Mean of a figure over seeds; None if it is unknown."""
        values = [getattr(measured.evaluation, figure) for measured in self.measured]
        return None if None in values else float(np.mean(values))

    def seed_range(self, figure: str) -> tuple[float, float] | None:
        """Lowest and highest of the seeds; None for one seed or if it is unknown."""
        values = [getattr(measured.evaluation, figure) for measured in self.measured]
        if len(values) < 2 or None in values:
            return None
        return min(values), max(values)

    def draws(self, figure: str) -> npt.NDArray[np.float64] | None:
        """Mean over seeds in each resampled set; None if the figure is unknown."""
        values = [m.draws[figure] for m in self.measured if figure in m.draws]
        return np.mean(values, axis=0) if len(values) == len(self.measured) else None

    def interval(self, figure: str) -> tuple[float, float] | None:
        """95 % interval of the mean, over patients."""
        draws = self.draws(figure)
        if draws is None or len(self.measured[0].patients) < 2:
            return None
        return interval(draws)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        first = self.method.models[0].header
        return {
            "name": self.method.name,
            "method": first.method,
            "backbone": first.backbone.name,
            "smoothing": self.smoothing,
            "valid_aupr": {str(side): value for side, value in self.valid_aupr.items()},
            "mean": {figure: self.mean(figure) for figure in FIGURES},
            "intervals": {figure: self.interval(figure) for figure in FIGURES},
            "seed_range": {figure: self.seed_range(figure) for figure in FIGURES},
            "seeds": [
                {
                    "model": model.name,
                    "model_sha256": model.sha256,
                    "seed": model.header.training.get("seed"),
                    **measured.evaluation.to_dict(),
                }
                for model, measured in zip(self.method.models, self.measured, strict=True)
            ],
        }


@dataclass(frozen=True)
class Ratio:
    """Ratio of a figure of the first method to another's, over the same resampled patients."""

    figure: str
    first: str
    other: str
    ratio: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """Contents of a report.

    Parameters
    ----------
    dataset : str
        Name of the dataset's folder.
    split : {"test", "valid"}
        The split that was scored.
    items : list of BmadItem
        Its images. Their names may contain patients': do not show them.
    results : tuple of Result
        Results of each method, in the given order.
    notes : tuple of str
        What a reader has to know, a sentence each.
    settings : dict
        The requested settings.
    """

    dataset: str
    split: Split
    items: list[BmadItem] = field(repr=False)
    results: tuple[Result, ...]
    notes: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def ratios(self) -> list[Ratio]:
        """Ratios of the first method to each other."""
        first, *others = self.results
        return [ratio for other in others for f in RATIOS if (ratio := _ratio(first, other, f))]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without anything that names a patient."""
        evaluation = self.results[0].measured[0].evaluation
        return {
            "dataset": self.dataset,
            "split": self.split,
            "images": evaluation.images,
            "abnormal_images": evaluation.abnormal_images,
            "patients": evaluation.patients,
            "base_rate": evaluation.base_rate,
            "settings": self.settings,
            "methods": [result.to_dict() for result in self.results],
            "ratios": [vars(ratio) for ratio in self.ratios],
            "notes": list(self.notes),
            "versions": {
                name: metadata.version(name) for name in ("napari-spatial-ar", "torch", "numpy")
            },
        }


def _ratio(first: Result, other: Result, figure: str) -> Ratio | None:
    one, two = first.mean(figure), other.mean(figure)
    draws, other_draws = first.draws(figure), other.draws(figure)
    if one is None or not two or draws is None or other_draws is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        paired = draws / other_draws
    ends = interval(paired) if len(first.measured[0].patients) > 1 else None
    return Ratio(figure, first.method.name, other.method.name, one / two, ends)


def compare(
    root: str | Path,
    methods: Sequence[ComparedMethod],
    *,
    split: Split = "test",
    smoothing: int | None = None,
    fpr: float = 0.01,
    patient_pattern: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Score a dataset with several methods under the same rules.

    Each method has the smoothing with the best mean pixel AUPR on the validation split, and a
    threshold calibrated at that smoothing on the normal images of that split.

    Parameters
    ----------
    root : path
        Dataset in the BMAD layout.
    methods : sequence of ComparedMethod
        The methods; ratios are relative to the first.
    split : {"test", "valid"}
        The split to score.
    smoothing : int, optional
        Smoothing for all methods, instead of the best of each.
    fpr, patient_pattern, draws, seed
        As for `evaluate`.
    progress : callable, optional
        Called with (what is being done, images done, images in all).

    Raises
    ------
    InputError
        If the dataset or a setting cannot be used.
    StorageError
        See `evaluate`.
    """
    if not methods:
        raise InputError("there is nothing to compare", fix="Give --model or --method")
    if smoothing is not None and (smoothing < 1 or smoothing % 2 == 0):
        raise InputError(f"smoothing must be an odd number of patches, not {smoothing}")
    items = bmad_items(root, split, patient_pattern=patient_pattern)
    report = progress or (lambda what, done, total: None)
    chosen, notes = _choose(root, methods, smoothing, fpr, patient_pattern, report)
    notes += [note for method in methods for note in method.notes]
    candidates = [candidate for choice in chosen for candidate in choice.candidates]
    measured = iter(
        measure(
            items,
            candidates,
            split=split,
            fpr=fpr,
            draws=draws,
            seed=seed,
            progress=lambda done, total: report(f"Scoring {split}", done, total),
        )
    )
    results = tuple(
        Result(
            method,
            choice.smoothing,
            choice.valid_aupr,
            tuple(next(measured) for _ in choice.candidates),
        )
        for method, choice in zip(methods, chosen, strict=True)
    )
    settings = {"smoothing": smoothing, "fpr": fpr, "draws": draws, "bootstrap_seed": seed}
    return Comparison(Path(root).resolve().name, split, items, results, tuple(notes), settings)


@dataclass(frozen=True)
class _Choice:
    smoothing: int
    valid_aupr: dict[int, float]
    candidates: list[Candidate]


def _choose(
    root: str | Path,
    methods: Sequence[ComparedMethod],
    smoothing: int | None,
    fpr: float,
    patient_pattern: str | None,
    report: Callable[[str, int, int], None],
) -> tuple[list[_Choice], list[str]]:
    """Choose a smoothing and calibrate a threshold for every model on the validation split."""
    notes = []
    try:
        items = bmad_items(root, "valid", patient_pattern=patient_pattern)
    except InputError:
        items = []
        notes.append("There is no validation split: thresholds are those saved with the models.")
    labelled = any(i.abnormal for i in items) and all(i.label or not i.abnormal for i in items)
    if smoothing is None and not labelled:
        notes.append(
            "The validation split has no labelled abnormal images: each method uses the "
            "smoothing saved with its model."
        )
    trials: list[list[Candidate]] = []
    for method in methods:
        own = method.models[0].header.scoring.smoothing
        sides = (smoothing,) if smoothing is not None else SMOOTHINGS if labelled else (own,)
        trials.append(
            [
                Candidate(model, side, fit_seconds=seconds)
                for side in sides
                for model, seconds in zip(method.models, method.fit_seconds, strict=True)
            ]
        )
    flat = [candidate for trial in trials for candidate in trial]
    found = iter(_trial(items, flat, labelled, report) if items else [(None, None)] * len(flat))
    choices = []
    for trial in trials:
        seen = [(candidate, *next(found)) for candidate in trial]
        aupr: dict[int, list[float]] = {}
        for candidate, value, _ in seen:
            if value is not None and candidate.smoothing is not None:
                aupr.setdefault(candidate.smoothing, []).append(value)
        means = {side: float(np.mean(values)) for side, values in aupr.items()}
        best = max(means, key=lambda side: means[side]) if means else trial[0].smoothing
        assert best is not None  # every trial specifies its smoothing
        candidates = [
            Candidate(c.model, best, _threshold(c, calibration, fpr, notes), c.fit_seconds)
            for c, _, calibration in seen
            if c.smoothing == best
        ]
        choices.append(_Choice(best, means, candidates))
    return choices, list(dict.fromkeys(notes))


def _threshold(
    candidate: Candidate, calibration: Calibration | None, fpr: float, notes: list[str]
) -> float | None:
    if calibration is None and candidate.smoothing == candidate.model.header.scoring.smoothing:
        calibration = candidate.model.header.calibration
    if calibration is None:
        return None
    try:
        return calibration.threshold_for_fpr(fpr)
    except InputError as error:
        notes.append(f"No threshold: {error}")
        return None


def _trial(
    items: Sequence[BmadItem],
    candidates: Sequence[Candidate],
    labelled: bool,
    report: Callable[[str, int, int], None],
) -> list[tuple[float | None, Calibration | None]]:
    """Pixel AUPR and calibration of each candidate on the validation split."""
    items = sorted(items, key=lambda item: item.group)
    normal = sum(not item.abnormal for item in items)
    keep = min(_SAMPLE, max(100, _ALL_SAMPLES // max(1, normal)))
    tissue: list[list[npt.NDArray[np.float32]]] = [[] for _ in candidates]
    scores: list[list[float]] = [[] for _ in candidates]
    groups = [item.group for item in items if not item.abnormal]
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        pixels = [stack.enter_context(PixelScores()) for _ in candidates] if labelled else []
        for done, scored in enumerate(score_items(items, candidates), start=1):
            for tally, score in zip(pixels, scored.scores, strict=labelled):
                tally.add(score.nll, label_of(scored.item, scored.image.shape))
            if not scored.item.abnormal:
                body = tissue_mask(apply_window(scored.image, *scored.window))
                inside = np.flatnonzero(body)
                if len(inside) > keep:
                    inside = rng.choice(inside, keep, replace=False)
                for number, score in enumerate(scored.scores):
                    tissue[number].append(score.nll.ravel()[inside])
                    scores[number].append(score.image_score)
            report("Choosing the smoothing on valid", done, len(items))
        auprs = [None if (f := pixel_figures(tally)) is None else f.aupr for tally in pixels]
    return [
        (
            auprs[number] if auprs else None,
            calibrate(tissue[number], scores[number], groups) if groups else None,
        )
        for number in range(len(candidates))
    ]
