"""From a folder of normal scans to a normative model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from napari_spatial_ar.datasets.folders import SliceRef, find_slices, split_slices
from napari_spatial_ar.errors import InputError, InUseError
from napari_spatial_ar.imaging.acquisition import read_acquired
from napari_spatial_ar.imaging.files import locked
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.weights import default_note
from napari_spatial_ar.normative.calibration.acquired import acquired_of
from napari_spatial_ar.normative.calibration.calibrate import NormalScores, check_stacks, slice_keys
from napari_spatial_ar.normative.calibration.seen_slices import learn_seen_slices
from napari_spatial_ar.normative.detectors import (
    DETECTORS,
    FitContext,
    StoredGrids,
)
from napari_spatial_ar.normative.fitting.config import (
    FitConfig,
    check_loaded,
    read_layers,
    with_settings,
)
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.fitting.folds import deal, measure_folds
from napari_spatial_ar.normative.fitting.plan import (
    FitPlan,
    FitPlanned,
    FitProgress,
    embedding,
    learning,
    with_time_left,
)
from napari_spatial_ar.normative.fitting.synthetic_grids import SyntheticGrids
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.memory import one_sentence, releases_memory
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.model_file import MODEL_FILE, BackboneRef, ModelHeader
from napari_spatial_ar.paths import user_models_dir
from napari_spatial_ar.steps import finish, mapped

__all__ = ["fit", "fit_steps"]

log = logging.getLogger(__name__)
_WORK_FOLDER = ".fit"


@releases_memory
@with_time_left
def fit_steps(
    config: FitConfig,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    backbone: Backbone | None = None,
    extract: Callable[[FeatureStore, Sequence[SliceRef]], Iterator[int]] = FeatureStore.extract,
) -> Generator[FitProgress, None, NormativeModel]:
    """Fit a model step by step; stop iterating to cancel.

    Everything finished is kept: calling again with the same configuration resumes where it stopped
    and ends with the same weights as an uninterrupted fit.

    Parameters
    ----------
    config : FitConfig
        The scans and all settings.
    out : path, optional
        Folder of the model; by default a new one in the user's models, named after the
        modality and the backbone.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    overwrite : bool
        Whether a model in ``out`` may be replaced.
    backbone : Backbone, optional
        The configuration's backbone, if it is already loaded.
    extract : callable
        Embeds the slices, as `FeatureStore.extract` does locally.

    Yields
    ------
    FitProgress

    Returns
    -------
    NormativeModel
        Saved in ``out``.

    Raises
    ------
    InputError
        If the folder cannot be used, or another process writes to ``out`` (`InUseError`).
    MemoryShortage
        If memory does not suffice, even in the smallest portions.
    StorageError
        If the disk is full.
    WeightsError
        If the backbone's weights are missing.
    """
    learns, seed = DETECTORS[config.method], config.seed
    if backbone is not None:
        check_loaded(backbone.spec, config.layers, config.fuse)
    preprocessing = config.preprocessing(backbone or config.backbone)
    yield FitProgress("features", 0, 0, message="Reading the folder")
    # Invalid settings are reported before scans are read.
    if backbone is None:
        blocks = read_layers(config.layers, config.backbone, config.method)
        backbone = load_backbone(
            config.backbone, config.weights, device, layers=blocks, fuse=config.fuse
        )
    store = FeatureStore(backbone, preprocessing)
    learns.check_shape(config.options, *store.shape[:2])
    folds = config.calibration_folds
    with ExitStack() as held:
        if out:
            target = Path(out)
            held.enter_context(locked(target))
        else:
            target = _claim_free_folder(held, f"{config.modality}-{backbone.spec.name}", overwrite)
        if (target / MODEL_FILE).exists() and not overwrite:
            raise InputError(
                "a model already exists",
                path=target,
                fix="Choose another folder, or overwrite it",
            )
        slices = split_slices(
            find_slices(
                config.folders,
                modality=config.modality,
                window=preprocessing.window,
                patient_pattern=config.patient_pattern,
                exclude=config.exclude,
                selection=config.selection,
            ),
            config.valid_fraction,
            config.calibration_fraction,
            seed,
        )
        if folds:
            deal(slices.train, folds, seed)  # raises early if it is impossible
        held_out = slices.calibration or slices.valid
        check_stacks((*held_out, *(slices.train if folds else ())), config.smoothing_z)
        wants_train = learns.needs_normal or folds
        refs = (*(slices.train if wants_train else ()), *slices.valid, *slices.calibration)
        work = target / _WORK_FOLDER
        changed = (
            SyntheticGrids(
                backbone,
                preprocessing,
                slices.train,
                work,
                count=config.options["slices"],
                seed=seed,
            )
            if learns.needs_synthetic
            else None
        )
        message = f"Embedding slices with {backbone.spec.name}"
        counts = len(slices.train), len(slices.valid), folds
        plan = FitPlan(learns, config.options, store, refs, changed, *counts)
        yield FitPlanned("features", 0, len(refs), message=message, plan=plan)
        yield from embedding(extract(store, refs), len(refs), message, backbone.portions)
        normals = StoredGrids(store.paths(slices.train if learns.needs_normal else ()))
        grids: Sequence[Any] = normals
        if changed is not None:
            grids = changed
            yield from embedding(
                changed.embed(), len(changed), "Embedding synthetic anomalies", backbone.portions
            )
        tiles = 1 if learns.needs_synthetic else len(store.tiling)
        setup = FitContext(
            blocks=backbone.spec.blocks,
            seed=seed,
            device=backbone.device,
            valid=StoredGrids(store.paths(slices.valid)),
            normals=normals,
            checkpoint=work / "checkpoint.safetensors",
        )
        learned = yield from learning(learns, grids, setup, config.options, tiles)
        detector, summary = learned.detector, dict(learned.summary)
        training: dict[str, Any] = {
            "images": len(slices.train),
            "subjects": _patients(slices.train),
            "valid_images": len(slices.valid),
            "valid_subjects": _patients(slices.valid),
            "seed": seed,
            "versions": _versions(),
            "backbone_weights": backbone.weights_record,
            "warnings": [
                *slices.warnings,
                *backbone.portions.warnings,
                *summary.pop("warnings", []),
            ],
            "excluded": list(config.exclude),
            "options": config.chosen_options,
            "slice_keys": {
                "train": slice_keys(slices.train),
                "valid": slice_keys(slices.valid),
            },
            **summary,
        }
        if slices.calibration:
            training["slice_keys"]["calibration"] = slice_keys(slices.calibration)
            training["calibration_images"] = len(slices.calibration)
            training["calibration_subjects"] = _patients(slices.calibration)
        header = ModelHeader(
            method=config.method,
            parameters=detector.parameters(),
            modality=config.modality,
            backbone=BackboneRef.of(backbone),
            preprocessing=preprocessing,
            scoring=Scoring(config.smoothing, config.top_share, config.smoothing_z),
            training=training,
            selection=config.selection,
            acquired=acquired_of(slices.train, *read_acquired(config.acquired)),
        )
        model = NormativeModel(target.name, header, detector, backbone=backbone, device=device)
        normal = NormalScores(model, store)
        with one_sentence("Scoring normal slices", backbone.device):
            for done in normal.measure(held_out):
                yield FitProgress(
                    "calibration", done, len(held_out), message="Measuring scores of normal tissue"
                )
            if folds:
                yield from measure_folds(
                    normal, learns, slices.train, changed, setup, config.options, store, folds
                )
        separate = bool(slices.calibration)
        scored = len(held_out) + (len(slices.train) if folds else 0)
        calibrated = yield from mapped(
            normal.calibrated(header, separate=separate, folds=folds),
            lambda done: FitProgress(
                "calibration", done, scored, message="Counting regions in normal scans"
            ),
        )
        seen = yield from mapped(
            learn_seen_slices(store, [*slices.train, *held_out]),
            lambda step: FitProgress(
                "calibration", *step, message="Learning what whole slices look like"
            ),
        )
        looks = normal.looks and replace(normal.looks, seen=seen)
        model.header = replace(calibrated, looks=looks)
        model.examples = normal.examples
        yield FitProgress("saving", 0, 1, message="Saving the model")
        model.save(target)
        shutil.rmtree(work, ignore_errors=True)
        yield FitProgress("saving", 1, 1, message=f"Saved as {target.name}")
        return model


@with_settings
def fit(
    folder: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    backbone: str | Backbone | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[FitProgress], None] | None = None,
    extract: Callable[[FeatureStore, Sequence[SliceRef]], Iterator[int]] = FeatureStore.extract,
    **settings: object,
) -> NormativeModel:
    """Fit a model on a folder of normal scans.

    Parameters
    ----------
    folder : path or sequence of paths
        Normal scans.
    out, device, overwrite, extract
        As for `fit_steps`.
    backbone : str or Backbone, optional
        A key of `known_backbones`, or one already loaded; by default `default_backbone`, DINOv3
        if its weights are installed.
    progress : callable, optional
        Called with a `FitProgress` at each step; an exception that it raises stops the fit, which
        resumed by calling again with the same settings.
    **settings
        As for `FitConfig.of`, with the same errors.

    Returns
    -------
    NormativeModel
        Saved in ``out``.

    Raises
    ------
    InputError, MemoryShortage, StorageError, WeightsError
        As for `FitConfig.of` and `fit_steps`.
    """
    loaded = None if backbone is None or isinstance(backbone, str) else backbone
    name = backbone if loaded is None else loaded.spec.name
    config = FitConfig.of(folder, backbone=name, **settings)
    if backbone is None:
        log.info(default_note(config.backbone))
    steps = fit_steps(
        config, out=out, device=device, overwrite=overwrite, backbone=loaded, extract=extract
    )
    return finish(steps, progress)


def _claim_free_folder(held: ExitStack, name: str, overwrite: bool) -> Path:
    """Create a new folder in the user's models, numbered if the name exists."""
    folder, number = user_models_dir() / name, 1
    while True:
        if overwrite or not (folder / MODEL_FILE).exists():
            try:
                held.enter_context(locked(folder))
            except InUseError:
                pass  # by another fit that chooses its own folder
            else:
                return folder
        number += 1
        folder = user_models_dir() / f"{name}-{number}"


def _patients(refs: Sequence[SliceRef]) -> int:
    return len({ref.group for ref in refs})


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("napari-spatial-ar", "torch", "transformers")}
