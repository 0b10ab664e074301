"""Score held-out normal slices to calibrate a model, at the end of a fit or later."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.datasets.folders import SliceRef, content_key, find_slices, iter_slices
from napari_spatial_ar.datasets.slices import geometry_of
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.acquisition import read_acquired
from napari_spatial_ar.imaging.files import locked
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.calibration.acquired import acquired_of
from napari_spatial_ar.normative.calibration.appearance import measure_appearance
from napari_spatial_ar.normative.calibration.calibration import Calibration, PeakCounter, calibrate
from napari_spatial_ar.normative.calibration.domain_shift import (
    Appearance,
    NormalAppearance,
    sum_up,
)
from napari_spatial_ar.normative.calibration.regions import RegionCounter
from napari_spatial_ar.normative.calibration.seen_slices import learn_seen_slices
from napari_spatial_ar.normative.detectors import Detector, score_grid
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.library import find_model, is_released
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.normative.model_file import MODEL_FILE, ModelHeader
from napari_spatial_ar.normative.scores import Example, SliceScore
from napari_spatial_ar.normative.slice_smoothing import measured_stack, slice_weights
from napari_spatial_ar.steps import finish, mapped

__all__ = ["NormalScores", "check_stacks", "recalibrate", "recalibrate_steps", "slice_keys"]

# Hex digits of a slice's content key that a model file stores: the chance that any two of a million
# slices share them is one in 30 million.
_KEY_DIGITS = 16
_PATIENTS_SHOWN = 3


def slice_keys(refs: Iterable[SliceRef]) -> list[str]:
    """Short hashes of the content of slices, to recognise them without naming anybody."""
    return sorted(content_key(ref)[:_KEY_DIGITS] for ref in refs)


def check_stacks(refs: Sequence[SliceRef], smoothing_z: float) -> None:
    """Refuse to average over slices if a slice to calibrate on is in no stack with a spacing.

    Thresholds would not apply to scans, whose slices are averaged.

    Raises
    ------
    InputError
        If there is such a slice.
    """
    if not smoothing_z:
        return
    alone = sum(not measured_stack(geometry_of(ref)) for ref in refs)
    if alone:
        raise InputError(
            f"{alone} of the {len(refs)} normal slices to calibrate on are in no volume with a "
            "known spacing, so their scores cannot be averaged over slices",
            fix="Set smoothing_z to 0, or exclude them",
        )


class _Scores:
    """Scores of normal slices by one detector, accumulated slice by slice."""

    def __init__(self, scoring: Scoring, divisor: float) -> None:
        self._scoring = scoring
        self._divisor = divisor
        self._tissue: list[npt.NDArray[np.float32]] = []
        self._image_scores: list[float] = []
        self._groups: list[str] = []
        self._peaks = PeakCounter()
        self._regions = RegionCounter()

    def add(
        self,
        ref: SliceRef,
        score: SliceScore,
        body: npt.NDArray[np.bool_],
        geometry: Geometry | None,
    ) -> None:
        """Add a slice, with its body as (rows, columns)."""
        self._tissue.append(score.nll[body])
        if body.any():
            self._peaks.add(ref.group, score.nll, int(np.count_nonzero(body)))
        self._image_scores.append(score.image_score)
        self._groups.append(ref.group)
        if score.grid is not None:
            self._regions.add(_stack_of(ref), ref.index or 0, geometry, score.grid, score.nll)

    def calibration(self, separate: bool, folds: int) -> Generator[int, None, Calibration]:
        """See `calibrate`; yields as `NormalScores.calibrated`."""
        found = calibrate(self._tissue, self._image_scores, self._groups, separate=separate)
        regions = yield from self._regions.count(self._heatmap, found.thresholds)
        return replace(found, folds=folds, peaks=self._peaks.peaks, regions=regions)

    def _heatmap(
        self, grid: npt.NDArray[np.float32], shape: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        return self._scoring(torch.from_numpy(grid), shape, self._divisor).nll


class NormalScores:
    """Scores of normal slices, from their stored embeddings.

    Parameters
    ----------
    model : NormativeModel
        The model to score with.
    store : FeatureStore
        Contains the slices' embeddings.
    """

    def __init__(self, model: NormativeModel, store: FeatureStore) -> None:
        self._model = model
        self._store = store
        scoring, detector = model.header.scoring, model.detector
        self._scores = _Scores(scoring, detector.heatmap_divisor)
        self._of_parts = {
            name: _Scores(scoring, part.heatmap_divisor) for name, part in detector.parts.items()
        }
        self._looks: list[tuple[str, Appearance]] = []
        self._highest: Example | None = None
        self._middle: list[Example] = []

    def measure(self, refs: Sequence[SliceRef], detector: Detector | None = None) -> Iterator[int]:
        """Score slices; yields the number done after each.

        With a ``detector`` in place of the model's own, no slice is used as an example. If the
        model averages over slices, those of a volume are expected in one call.
        """
        middle = _middle_slices(refs) if detector is None else set()
        scoring = self._model.header.scoring
        slices = iter_slices(refs, self._store.preprocessing.window)
        stacks: dict[object, dict[int, SliceRef]] = {}
        for ref in refs:
            stacks.setdefault(_stack_of(ref), {})[ref.index or 0] = ref
        current, known = None, dict[int, SliceScore]()
        for done, (ref, image, window) in enumerate(slices, start=1):
            grids = self._grids(ref)
            rows, columns = image.shape
            geometry, stack, index = geometry_of(ref), _stack_of(ref), ref.index or 0
            if stack != current:
                current, known = stack, {}
                weights = slice_weights(geometry, scoring.smoothing_z)
            near = weights[index] if weights else {index: 1.0}
            for other in near.keys() & stacks[stack].keys() - known.keys():
                known[other] = score_grid(
                    detector or self._model.detector,
                    scoring,
                    grids if other == index else self._grids(stacks[stack][other]),
                    (rows, columns),
                    self._store.tiling,
                )
            score = self._model.smoothed(index, known, near)
            unit = apply_window(image, *window)
            body = tissue_mask(unit)
            self._scores.add(ref, score, body, geometry)
            for name, part in (detector or self._model.detector).parts.items():
                patches = torch.from_numpy(score.parts[name])
                alone = scoring(patches, (rows, columns), part.heatmap_divisor)
                self._of_parts[name].add(ref, alone, body, geometry)
            look = measure_appearance(unit, grids, self._store.tiling, geometry)
            if look is not None:
                self._looks.append((ref.group, look))
            example = Example(unit, score.nll, score.image_score)
            if ref in middle:
                self._middle.append(example)
            highest = -np.inf if self._highest is None else self._highest.image_score
            if detector is None and score.image_score > highest:
                self._highest = example
            yield done

    def _grids(self, ref: SliceRef) -> Tensor:
        return load_batch(self._store.paths([ref])).to(self._model.device)

    def calibrated(
        self, header: ModelHeader, *, separate: bool = False, folds: int = 0
    ) -> Generator[int, None, ModelHeader]:
        """Header with the calibration by the slices measured so far; see `calibrate`.

        Those of the parts of the method are included. Yields the number of slices in which regions
        are counted, after each.
        """
        parts = {}
        calibration = yield from self._scores.calibration(separate, folds)
        for name, scores in self._of_parts.items():
            parts[name] = yield from scores.calibration(separate, folds)
        return replace(header, calibration=calibration, part_calibrations=parts)

    @property
    def looks(self) -> NormalAppearance | None:
        """Appearance of the slices measured so far; see `sum_up`."""
        return sum_up([look for _, look in self._looks], [group for group, _ in self._looks])

    @property
    def examples(self) -> tuple[Example, ...]:
        """The middle slice of up to three patients, and the slice with the highest score."""
        return (*self._middle, *([self._highest] if self._highest else []))


def _stack_of(ref: SliceRef) -> object:
    """Key of the volume of a slice; of an image alone, itself."""
    return ref if ref.index is None else (ref.source, ref.volume, ref.plane)


def _middle_slices(refs: Sequence[SliceRef]) -> set[SliceRef]:
    patients: dict[str, list[SliceRef]] = {}
    for ref in refs:
        patients.setdefault(ref.group, []).append(ref)
    first = list(patients.values())[:_PATIENTS_SHOWN]
    return {slices[len(slices) // 2] for slices in first}


def recalibrate_steps(
    model: str | Path,
    folder: str | Path,
    *,
    out: str | Path | None = None,
    patient_pattern: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    looks_only: bool = False,
    acquired: str = "",
    smoothing_z: float | None = None,
) -> Generator[tuple[str, int, int], None, NormativeModel]:
    """Calibrate a model on normal scans that it was not trained on; stop iterating to cancel.

    Parameters
    ----------
    model : path or str
        See `load_model`.
    folder : path
        Normal scans, as for `fit`; for a dataset in the BMAD layout its ``valid/good``.
    out : path, optional
        Folder for the calibrated model; by default the model's own, whose previous calibration is
        replaced once the new one is complete.
    patient_pattern : str, optional
        See `find_slices`.
    weights, device
        See `load_model`.
    overwrite : bool
        Whether another model in ``out`` may be replaced.
    looks_only : bool
        Measure only the appearance of normal scans and leave the calibration unchanged, for models
        from versions that did not measure it.
    acquired : str
        As for `fit`. How these scans were acquired is stored only if the model does not state it
        for its training scans.
    smoothing_z : float, optional
        As for `fit`; by default the model's own.

    Yields
    ------
    (str, int, int)
        What is being done, slices done, slices in all.

    Returns
    -------
    NormativeModel
        Saved.

    Raises
    ------
    InputError
        If slices of the folder were used to train the model, the folder cannot be used, there is a
        model in ``out``, the model is a released one and there is no ``out``, slices are to be
        averaged that are in no volume with a known spacing, or another process writes to the model
        (`InUseError`).
    ModelFileError, WeightsError
        As for `load_model` and `NormativeModel.backbone`.
    """
    file = find_model(model)
    source = file.parent
    target = source if out is None else Path(out)
    if is_released(target):
        raise InputError(
            f"the model '{target.name}' came with the package and cannot be changed",
            fix="Give a folder for the calibrated copy (--out)",
        )
    stated = read_acquired(acquired)
    with locked(target):
        if target != source and (target / MODEL_FILE).exists() and not overwrite:
            raise InputError(
                "a model already exists",
                path=target,
                fix="Choose another folder, or overwrite it",
            )
        loaded = load_model(file, weights=weights, device=device)
        if smoothing_z is not None and not looks_only:
            scoring = replace(loaded.header.scoring, smoothing_z=smoothing_z)
            loaded.header = replace(loaded.header, scoring=scoring)
        header = loaded.header
        window = header.preprocessing.window
        found = find_slices(
            folder,
            modality=loaded.modality,  # type: ignore[arg-type]
            window=window,
            patient_pattern=patient_pattern,
            selection=header.selection,
        )
        refs = found.valid or found.train
        if not looks_only:
            check_stacks(refs, header.scoring.smoothing_z)
        separate = _check_unseen(loaded, refs, folder)
        store = FeatureStore(loaded.backbone, header.preprocessing)
        scores = NormalScores(loaded, store)
        for message, steps in (
            ("Embedding normal slices", store.extract(refs)),
            ("Scoring normal slices", scores.measure(refs)),
        ):
            for done in steps:
                yield message, done, len(refs)
        # Of the training scans, if known.
        known = header.acquired or acquired_of(refs, *stated)
        seen = yield from mapped(
            learn_seen_slices(store, refs),
            lambda step: ("Learning what whole slices look like", *step),
        )
        looks = scores.looks and replace(scores.looks, seen=seen)
        loaded.header = replace(header, looks=looks, acquired=known)
        if not looks_only:
            loaded.header = yield from mapped(
                scores.calibrated(loaded.header, separate=separate),
                lambda done: ("Counting regions in normal slices", done, len(refs)),
            )
            loaded.examples = scores.examples
        loaded.warnings = tuple(found.warnings)
        loaded.name = target.name
        loaded.save(target)
        return loaded


def recalibrate(
    model: str | Path,
    folder: str | Path,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Any,
) -> NormativeModel:
    """Calibrate a model on normal scans that it was not trained on; see `recalibrate_steps`.

    ``progress`` is called with what that yields; an exception that it raises stops the work.
    """
    steps = recalibrate_steps(model, folder, **settings)
    return finish(steps, progress and (lambda step: progress(*step)))


def _check_unseen(model: NormativeModel, refs: Sequence[SliceRef], folder: str | Path) -> bool:
    """Refuse slices that trained the model; return whether they had no part in its fit at all."""
    known = model.header.training.get("slice_keys")
    if known is None:
        return False
    keys = set(slice_keys(refs))
    trained = len(keys.intersection(known["train"]))
    if trained:
        raise InputError(
            f"{trained} of its {len(refs)} slices were used to train this model, which therefore "
            "finds them more normal than others",
            path=folder,
            fix="Calibrate on normal scans of other patients",
        )
    return keys.isdisjoint(known["valid"])
