"""From a folder of normal scans to a normative model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from napari_spatial_ar.datasets.folders import SliceRef, find_slices, split_slices
from napari_spatial_ar.datasets.selection import AS_ACQUIRED, Selection, SlicePlane, read_range
from napari_spatial_ar.errors import InputError, InUseError
from napari_spatial_ar.imaging.acquisition import read_acquired
from napari_spatial_ar.imaging.files import claimed
from napari_spatial_ar.imaging.windows import Window, default_window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import Fuse
from napari_spatial_ar.normative.backbones.weights import default_backbone, default_note
from napari_spatial_ar.normative.calibration.acquired import acquired_of
from napari_spatial_ar.normative.calibration.calibrate import NormalScores, slice_keys
from napari_spatial_ar.normative.detectors import (
    DETECTORS,
    FitSetup,
    SpatialARDetector,
    StoredGrids,
    check_options,
)
from napari_spatial_ar.normative.detectors.ar_network import Context
from napari_spatial_ar.normative.fitting.changed_grids import ChangedGrids
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.fitting.folds import deal, measure_folds
from napari_spatial_ar.normative.fitting.plan import FitPlan, FitPlanned, tells_time_left
from napari_spatial_ar.normative.fitting.progress import FitProgress, embedding, learning
from napari_spatial_ar.normative.fitting.settings import (
    DEFAULT_METHOD,
    check_loaded,
    check_settings,
    preprocessing_for,
    read_layers,
    read_size,
)
from napari_spatial_ar.normative.memory import one_sentence, releases_memory
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.model_file import MODEL_FILE, BackboneRef, ModelHeader
from napari_spatial_ar.normative.scores import Scoring
from napari_spatial_ar.paths import user_models_dir

__all__ = ["DEFAULT_METHOD", "METHODS", "FitProgress", "fit", "fit_steps"]

METHODS = tuple(DETECTORS)
log = logging.getLogger(__name__)
_WORK_FOLDER = ".fit"


@releases_memory
@tells_time_left
def fit_steps(
    folder: str | Path | Sequence[str | Path],
    *,
    exclude: Collection[str] = (),
    out: str | Path | None = None,
    modality: Literal["mri", "ct", "oct"] = "mri",
    plane: SlicePlane = AS_ACQUIRED,
    slice_range: str | Sequence[float] = (0.0, 1.0),
    min_body: float = 0.10,
    backbone: str | Backbone | None = None,
    layers: str | int | Sequence[int] | None = None,
    fuse: Fuse = "concat",
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    dilation: int | None = None,
    context: Context | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    window: Window | None = None,
    size: str | int | Sequence[int] = (448, 448),
    tile: int = 0,
    clahe: float = 0.0,
    smoothing: int = 3,
    top_share: float = 0.01,
    valid_fraction: float = 0.2,
    calibration_folds: int = 0,
    calibration_fraction: float = 0.0,
    patient_pattern: str | None = None,
    acquired: str = "",
    weights: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    extract: Callable[[FeatureStore, Sequence[SliceRef]], Iterator[int]] = FeatureStore.extract,
) -> Generator[FitProgress, None, NormativeModel]:
    """Fit a model step by step; stop iterating to cancel.

    Everything finished is kept: calling again with the same settings goes on where it stopped
    and ends with the same weights as an uninterrupted fit.

    Parameters
    ----------
    folder : path or sequence of paths
        Normal scans: pictures, NIfTI, DICOM, or the root of a BMAD-layout data set, whose
        ``valid/good`` are then the validation slices.
    exclude : collection of str
        Keys of series to leave out, see `find_slices`.
    out : path, optional
        Folder of the model; by default a new one in the user's models, named after the
        modality and the backbone.
    modality : {"mri", "ct", "oct"}
        Chooses the default window.
    plane, slice_range, min_body
        What of the volumes is used, see `Selection`; saved with the model, which scores scans in
        this plane.
    backbone : str or Backbone, optional
        A key of `BACKBONES`, or one already loaded; by default `default_backbone`, DINOv3 where
        its weights are at hand.
    layers : sequence of int or str, optional
        Blocks of the backbone to read, counted from 1, also as text: ``"5,7,9"``, or
        ``"last4"`` for its last four; by default those that the method asks for, else the
        backbone's own.
    fuse : {"concat", "mean"}
        How several blocks make one embedding: one after the other, or their mean, which is no
        wider than one of them.
    method : str, optional
        What learns: a key of `DETECTORS`. By default `DEFAULT_METHOD`, or ``"spatial-ar"`` where
        one of its settings below is given.
    options : mapping, optional
        The method's own options, see `Detector.options`.
    dilation, context, epochs, patience, batch_size, learning_rate : optional
        Of the AR network and its training, see `SpatialARDetector.learn`, which has the
        defaults; other methods do not look at them.
    seed : int
        Of everything drawn at random.
    window : Window, optional
        How voxels become grey values; by default the modality's.
    size : (int, int), int or str
        Rows and columns that slices are resized to, also as text: ``"896"``, ``"896x448"``.
    tile : int
        Side of the tiles that the resized slice is cut into, half of each over the next; each is
        a slice to the method. 0 for none.
    clahe : float
        Clip limit of contrast-limited adaptive histogram equalisation, see `Preprocessing`.
    smoothing, top_share
        From patch scores to heatmap and image score, saved with the model: see `Scoring`.
    valid_fraction : float
        Share of slices kept for validation, by whole patients, where the folder does not say
        which.
    calibration_fraction : float
        Share of slices kept for calibration alone, by whole patients. With 0, the slices for
        validation serve, which may have chosen the best epoch.
    calibration_folds : int
        At least 2: the training patients have a part in the calibration too, dealt into so many
        folds, each scored by what is learned from the others, which takes as many fits more; see
        `napari_spatial_ar.normative.fitting.folds`. 0: only the held-out patients have.
    patient_pattern : str, optional
        See `find_slices`.
    acquired : str
        What is to be kept of scans whose headers and names do not say how they were acquired,
        such as ``"axial FLAIR"``; see `read_acquired`.
    weights : path, optional
        Backbone weights to use.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    overwrite : bool
        Whether a model that is already in ``out`` may be replaced.
    extract : callable
        What embeds the slices, as `FeatureStore.extract` does here.

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
        If a setting or the folder cannot be used, or another process writes to ``out``
        (`InUseError`).
    MemoryShortage
        If there is not enough memory, however little is computed at once.
    StorageError
        If the disk is full.
    WeightsError
        If the backbone's weights are missing.
    """
    chosen = dict(options or {})
    of_network = {
        "dilation": dilation,
        "context": context,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    of_network = {name: value for name, value in of_network.items() if value is not None}
    method = method or (SpatialARDetector.name if of_network else DEFAULT_METHOD)
    check_settings(
        method,
        modality,
        seed=seed,
        smoothing=smoothing,
        top_share=top_share,
        valid_fraction=valid_fraction,
        calibration_folds=calibration_folds,
        calibration_fraction=calibration_fraction,
        epochs=epochs,
        batch_size=batch_size,
    )
    if method == SpatialARDetector.name:
        chosen = {**of_network, **chosen}
    learns = DETECTORS[method]
    check_options(learns, chosen)
    if backbone is None:
        backbone = default_backbone(weights)
        log.info(default_note(backbone))
    preprocessing = preprocessing_for(
        backbone, window or default_window(modality), read_size(size), clahe=clahe, tile=tile
    )
    selection = Selection(plane, read_range(slice_range), min_body)
    stated = read_acquired(acquired)
    yield FitProgress("features", 0, 0, message="Looking through the folder")
    # All that can be wrong with a setting is said before scans are read.
    if isinstance(backbone, str):
        blocks = read_layers(layers, backbone, method)
        backbone = load_backbone(backbone, weights, device, layers=blocks, fuse=fuse)
    else:
        check_loaded(backbone.spec, layers, fuse)
    store = FeatureStore(backbone, preprocessing)
    used = {**learns.options(), **chosen}
    learns.check_shape(used, *store.shape[:2])
    with ExitStack() as held:
        if out:
            target = Path(out)
            held.enter_context(claimed(target))
        else:
            target = _claim_free_folder(held, f"{modality}-{backbone.spec.name}", overwrite)
        if (target / MODEL_FILE).exists() and not overwrite:
            raise InputError(
                "a model is there already",
                path=target,
                fix="Choose another folder, or overwrite it",
            )
        slices = split_slices(
            find_slices(
                folder,
                modality=modality,
                window=preprocessing.window,
                patient_pattern=patient_pattern,
                exclude=exclude,
                selection=selection,
            ),
            valid_fraction,
            calibration_fraction,
            seed,
        )
        if calibration_folds:
            deal(slices.train, calibration_folds, seed)  # which says early that it cannot be done
        wants_train = learns.wants_normals or calibration_folds
        refs = (*(slices.train if wants_train else ()), *slices.valid, *slices.calibration)
        work = target / _WORK_FOLDER
        changed = (
            ChangedGrids(
                backbone, preprocessing, slices.train, work, count=used["slices"], seed=seed
            )
            if learns.wants_changes
            else None
        )
        message = f"Embedding slices with {backbone.spec.name}"
        counts = len(slices.train), len(slices.valid), calibration_folds
        plan = FitPlan(learns, used, store, refs, changed, *counts)
        yield FitPlanned("features", 0, len(refs), message=message, plan=plan)
        yield from embedding(extract(store, refs), len(refs), message, backbone.portions)
        normals = StoredGrids(store.paths(slices.train if learns.wants_normals else ()))
        grids: Sequence[Any] = normals
        if changed is not None:
            grids = changed
            yield from embedding(
                changed.embed(), len(changed), "Embedding changed slices", backbone.portions
            )
        tiles = 1 if learns.wants_changes else len(store.tiling)
        setup = FitSetup(
            blocks=backbone.spec.blocks,
            seed=seed,
            device=backbone.device,
            valid=StoredGrids(store.paths(slices.valid)),
            normals=normals,
            checkpoint=work / "checkpoint.safetensors",
        )
        learned = yield from learning(learns, grids, setup, chosen, tiles)
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
            "excluded": sorted(exclude),
            # The same whether a default was written out or left out.
            "options": {k: v for k, v in chosen.items() if v != learns.options()[k]},
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
            method=method,
            parameters=detector.parameters(),
            modality=modality,
            backbone=BackboneRef.of(backbone),
            preprocessing=preprocessing,
            scoring=Scoring(smoothing=smoothing, top_share=top_share),
            training=training,
            selection=selection,
            acquired=acquired_of(slices.train, *stated),
        )
        model = NormativeModel(target.name, header, detector, backbone=backbone, device=device)
        normal = NormalScores(model, store)
        held_out = slices.calibration or slices.valid
        with one_sentence("Scoring normal slices", backbone.device):
            for done in normal.measure(held_out):
                yield FitProgress(
                    "calibration", done, len(held_out), message="Measuring scores of normal tissue"
                )
            if calibration_folds:
                yield from measure_folds(
                    normal, learns, slices.train, changed, setup, chosen, store, calibration_folds
                )
        separate = bool(slices.calibration)
        calibration = normal.calibration(separate=separate, folds=calibration_folds)
        model.header = replace(header, calibration=calibration, looks=normal.looks)
        model.examples = normal.examples
        yield FitProgress("saving", 0, 1, message="Saving the model")
        model.save(target)
        shutil.rmtree(work, ignore_errors=True)
        yield FitProgress("saving", 1, 1, message=f"Saved as {target.name}")
        return model


def fit(
    folder: str | Path | Sequence[str | Path],
    *,
    progress: Callable[[FitProgress], None] | None = None,
    **settings: Any,
) -> NormativeModel:
    """Fit a model on a folder of normal scans.

    Parameters
    ----------
    folder : path or sequence of paths
        Normal scans.
    progress : callable, optional
        Called with a `FitProgress` at each step; what it raises stops the fit, which can be
        resumed by calling again with the same settings.
    **settings
        As for `fit_steps`, with the same defaults and errors.

    Returns
    -------
    NormativeModel
        Saved in ``out``.
    """
    steps = fit_steps(folder, **settings)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            model: NormativeModel = end.value
            return model
        if progress is not None:
            progress(step)


def _claim_free_folder(held: ExitStack, name: str, overwrite: bool) -> Path:
    """Claim a folder in the user's models that holds no model yet, numbered where need be."""
    folder, number = user_models_dir() / name, 1
    while True:
        if overwrite or not (folder / MODEL_FILE).exists():
            try:
                held.enter_context(claimed(folder))
            except InUseError:
                pass  # by another fit that was not told where to either
            else:
                return folder
        number += 1
        folder = user_models_dir() / f"{name}-{number}"


def _patients(refs: Sequence[SliceRef]) -> int:
    return len({ref.group for ref in refs})


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("napari-spatial-ar", "torch", "transformers")}
