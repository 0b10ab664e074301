"""Calibrate on the training patients as well, each scored by a model trained on the others.

A model was trained on its training slices, and finds them more normal than any other. If few
patients are held out, their scores alone say little about the next one. So the patients of the
training slices are divided into folds; the method is trained again without each fold and scores it.
Every patient then counts as one that the model was not trained on (cross-fitting; Barber et al.,
2021, "Predictive inference with the jackknife+", and Vovk, 2015, "Cross-conformal predictors").

The scores come from models trained on fewer patients than the final one, so they tend to be a
little higher, and promises err on the safe side. This is not a proof, unlike that of split
conformal prediction. Pieces of other slices that synthetic anomalies insert into a slice may come
from the fold's own patients.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from napari_spatial_ar.datasets.slices import SliceRef
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.calibration.calibrate import NormalScores
from napari_spatial_ar.normative.detectors import Detector, FitContext, StoredGrids
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.fitting.plan import FitProgress, learning
from napari_spatial_ar.normative.fitting.synthetic_grids import SyntheticGrids
from napari_spatial_ar.steps import mapped

__all__ = ["deal", "measure_folds"]


def deal(refs: Sequence[SliceRef], folds: int, seed: int) -> list[list[SliceRef]]:
    """Divide slices into folds by patient.

    Raises
    ------
    InputError
        If there are fewer patients than folds.
    """
    groups = list(dict.fromkeys(ref.group for ref in refs))
    if len(groups) < folds:
        raise InputError(
            f"{len(groups)} training patients cannot be divided into {folds} folds",
            fix="Choose fewer folds, or 0 for none",
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    fold_of = {groups[index]: place % folds for place, index in enumerate(order)}
    return [[ref for ref in refs if fold_of[ref.group] == fold] for fold in range(folds)]


def measure_folds(
    scores: NormalScores,
    method: type[Detector],
    refs: Sequence[SliceRef],
    changed: SyntheticGrids | None,
    setup: FitContext,
    options: Mapping[str, Any],
    store: FeatureStore,
    folds: int,
) -> Generator[FitProgress, None, None]:
    """Score each training slice with the method trained on the other folds' patients.

    Parameters
    ----------
    scores : NormalScores
        Receives the scores.
    method, options
        The method and its options.
    refs : sequence of SliceRef
        The training slices, with stored embeddings.
    changed : SyntheticGrids, optional
        Synthetic anomalies, for a method that needs them.
    setup : FitContext
        That of the fit.
    store : FeatureStore
        Contains the embeddings.
    folds : int
        Number of folds.

    Yields
    ------
    FitProgress
        Progress of each fold in turn.
    """
    tiles = 1 if changed is not None else len(store.tiling)
    for number, judged in enumerate(deal(refs, folds, setup.seed), start=1):
        out = {ref.group for ref in judged}
        normals = StoredGrids(store.paths([ref for ref in refs if ref.group not in out]))
        grids: Sequence[Any] = normals if changed is None else changed.without(out)
        checkpoint = setup.checkpoint and setup.checkpoint.with_stem(f"fold-{number}")
        part = replace(setup, normals=normals, checkpoint=checkpoint)
        message = f"Calibrating, fold {number} of {folds}"
        learned = yield from mapped(
            learning(method, grids, part, options, tiles),
            lambda step, message=message: FitProgress(  # type: ignore[misc]
                "calibration", step.done, step.total, message=f"{message}: learning"
            ),
        )
        detector = learned.detector.to(setup.device)
        for done in scores.measure(judged, detector):
            yield FitProgress("calibration", done, len(judged), message=f"{message}: scoring")
