"""Training outliers: the scans of a fit least like the others, to check before relying on a model.

A folder of normal scans may contain some that are not. A model fitted on them has learned them too,
and a memory bank finds nothing unusual in its own slices. So each scan is judged by other patients
only: patients are split in two halves, a `SurroundingsBank` is learned from each, and slices are
scored by that of the other half.

This bank is used whatever the model's own method: it is learned in seconds from the embeddings that
the fit has stored, while training some methods twice more would take hours. Scans are ranked by how
far they are from the others in the embedding of the model's backbone, not by the model's own score.

High scores mean rare, which need not be abnormal; what many patients have in common is in both
halves, and is not found. A scan is ranked by its highest slice. benchmarks/contamination.py
measures how much contamination is found.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from napari_spatial_ar.datasets.slices import SliceRef, iter_slices, split_by_group
from napari_spatial_ar.datasets.survey import Survey, SurveyedSeries, survey
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.calibration.calibrate import slice_keys
from napari_spatial_ar.normative.detectors import (
    Detector,
    FitContext,
    StoredGrids,
    SurroundingsBank,
    score_grid,
)
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.fitting.plan import FitProgress, embedding, learning
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import Example, SliceScore
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.steps import mapped

__all__ = [
    "UNIT",
    "CrossJudge",
    "Outlier",
    "Outliers",
    "find_outliers",
    "series_of_fit",
    "survey_again",
]

#: Unit of the scores.
UNIT = SurroundingsBank.unit


@dataclass(frozen=True)
class Outlier:
    """A scan of a fit, with the slice that is least like those of other patients.

    Parameters
    ----------
    key, label, patient
        As in `SurveyedSeries`; ``exclude`` of a fit accepts the key. None of them names anybody.
    slices : int
        Number of its slices used in the fit.
    place : int
        Index of the slice, from 0: in its volume, or among the scan's images.
    score : float
        Image score of this slice, in `UNIT`.
    example : Example
        The slice, and a map of how far it is from normal, in `UNIT`.
    """

    key: str
    label: str
    patient: str
    slices: int
    place: int
    score: float
    example: Example = field(repr=False)


@dataclass(frozen=True)
class Outliers:
    """The strongest outliers first, and the number of scans."""

    ranked: tuple[Outlier, ...]
    scans: int


class CrossJudge:
    """Scores each slice by a bank learned from the half of the patients without its own.

    Parameters
    ----------
    store : FeatureStore
        Contains the slices' embeddings.
    scoring : Scoring
        Maps patch scores to heatmap and image score.
    method : type of Detector
        The method; one that needs no synthetic anomalies.
    """

    def __init__(
        self, store: FeatureStore, scoring: Scoring, method: type[Detector] = SurroundingsBank
    ) -> None:
        self._store = store
        self._scoring = scoring
        self._method = method
        self._detectors: dict[str, Detector] = {}

    def learn(self, refs: Sequence[SliceRef], seed: int = 0) -> Generator[FitProgress, None, None]:
        """Learn from each half of slices, whose embeddings are stored.

        Raises
        ------
        InputError
            If all are of one patient.
        """
        store, halves = self._store, split_by_group(refs, 0.5, seed)
        for shown, judged in (halves, halves[::-1]):
            setup = FitContext(
                blocks=store.backbone.spec.blocks, seed=seed, device=store.backbone.device
            )
            grids = StoredGrids(store.paths(shown))
            learned = yield from learning(self._method, grids, setup, {}, len(store.tiling))
            detector = learned.detector.to(store.backbone.device)
            self._detectors.update({ref.group: detector for ref in judged})

    def score(self, ref: SliceRef, shape: tuple[int, int]) -> SliceScore:
        """Score one of these slices; the heatmap gets ``shape`` (rows, columns)."""
        detector, store = self._detectors[ref.group], self._store
        grids = load_batch(store.paths([ref])).to(store.backbone.device)
        return score_grid(detector, self._scoring, grids, shape, store.tiling)


def find_outliers(
    model: NormativeModel,
    folders: str | Path | Sequence[str | Path],
    *,
    top: int = 20,
    patient_pattern: str | None = None,
) -> Generator[FitProgress, None, Outliers]:
    """Rank the scans that a model was fitted on by how much they differ from other patients.

    Parameters
    ----------
    model : NormativeModel
        Determines backbone, preprocessing, and which slices were used in the fit, also held-out
        ones.
    folders : path-like or sequence of path-like
        Folders that it was fitted on.
    top : int
        Maximum number of scans to return.
    patient_pattern : str, optional
        As in the fit, see `find_slices`.

    Yields
    ------
    FitProgress
        Stop iterating to cancel.

    Returns
    -------
    Outliers

    Raises
    ------
    InputError
        If ``top`` is less than 1, the folders cannot be read or contain no slice of the fit, or all
        slices are of one patient.
    WeightsError
        If the backbone's weights are missing.
    StorageError
        If embeddings are no longer stored and the disk has no room for them.
    """
    if top < 1:
        raise InputError(f"the number of scans to show must be at least 1, not {top}")
    found = yield from survey_again(model, folders, patient_pattern)
    series = series_of_fit(model, found)
    if not series:
        raise InputError(
            f"none of its slices was used in the fit of '{model.name}'",
            path=folders if isinstance(folders, str | Path) else folders[0],
            fix="Give the folders that the model was fitted on",
        )
    refs = [ref for one in series for ref in one.refs]
    preprocessing = model.header.preprocessing
    store = FeatureStore(model.backbone, preprocessing)
    yield from embedding(store.extract(refs), len(refs), "Embedding slices")
    judge = CrossJudge(store, model.header.scoring)
    yield from judge.learn(refs, int(model.header.training.get("seed", 0)))
    scores: dict[SliceRef, float] = {}
    for ref in refs:
        scores[ref] = judge.score(ref, preprocessing.size).image_score
        yield FitProgress("calibration", len(scores), len(refs), message="Scoring slices")
    highest = {max(one.refs, key=scores.__getitem__): one for one in series}
    ranked = sorted(highest, key=scores.__getitem__, reverse=True)[:top]
    outliers = []
    for ref, image, window in iter_slices(ranked, preprocessing.window):
        one, (rows, columns) = highest[ref], image.shape
        score = judge.score(ref, (rows, columns))
        example = Example(apply_window(image, *window), score.nll, score.image_score)
        place = one.refs.index(ref) if ref.index is None else ref.index
        outliers.append(
            Outlier(
                one.key, one.label, one.patient, len(one.refs), place, score.image_score, example
            )
        )
    outliers.sort(key=lambda outlier: outlier.score, reverse=True)
    return Outliers(tuple(outliers), len(series))


def survey_again(
    model: ScoringModel,
    folders: str | Path | Sequence[str | Path],
    patient_pattern: str | None,
) -> Generator[FitProgress, None, Survey]:
    """Survey the folders of a fit with its settings; see `survey` for errors."""
    steps = survey(
        folders,
        modality=model.modality,  # type: ignore[arg-type]
        window=model.header.preprocessing.window,
        patient_pattern=patient_pattern,
        selection=model.header.selection,
    )
    return (
        yield from mapped(
            steps,
            lambda step: FitProgress(
                "features", step.done, step.total, message="Reading the folder"
            ),
        )
    )


def series_of_fit(model: ScoringModel, found: Survey) -> list[SurveyedSeries]:
    """Series with those of their slices that were used in the fit, according to the model."""
    keys = model.header.training.get("slice_keys")
    series = found.series
    if keys is not None:
        known = {key for part in keys.values() for key in part}
        series = tuple(
            replace(one, refs=tuple(ref for ref in one.refs if slice_keys([ref])[0] in known))
            for one in series
        )
    return [one for one in series if one.refs]
