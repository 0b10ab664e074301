"""Import models from elsewhere: another machine's model folder, or the authors' checkpoint."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.imaging.series import Modality
from napari_spatial_ar.imaging.windows import default_window
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.archive import unpack_model
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors import SpatialARDetector
from napari_spatial_ar.normative.detectors.ar_network import Context
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.library import check_model, copy_model, new_model
from napari_spatial_ar.normative.model_file import MODEL_FILE, BackboneRef, ModelHeader
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.reference_checkpoint import read_reference_checkpoint
from napari_spatial_ar.paths import user_models_dir

__all__ = ["import_model", "import_reference", "is_reference_checkpoint"]


def import_model(source: str | Path, name: str | None = None) -> Path:
    """Copy a model from elsewhere into the user's models, unchanged, with its card.

    Parameters
    ----------
    source : path
        ``model.safetensors``, its folder, or an archive of `export_model`.
    name : str, optional
        The model's new name; the folder's by default.

    Returns
    -------
    Path
        The new model file.

    Raises
    ------
    InputError
        If the name is in use or invalid.
    ModelFileError
        If the source is no complete model of this version, or an archive contains anything else.
    """
    path = Path(source).expanduser()
    if zipfile.is_zipfile(path):
        return unpack_model(path, name)
    path = path / MODEL_FILE if path.is_dir() else path
    name = name or path.absolute().parent.name
    check_model(path)
    with new_model(name) as folder:
        copy_model(path, folder)
        os.replace(folder / path.name, folder / MODEL_FILE)
    return user_models_dir() / name / MODEL_FILE


def is_reference_checkpoint(path: Path) -> bool:
    """Whether a file is a torch checkpoint, according to its name, or else its content."""
    if path.suffix in (".pth", ".pt", ".ckpt"):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(n).name == "data.pkl" for n in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def import_reference(
    checkpoint: str | Path,
    name: str,
    *,
    modality: Modality,
    backbone: str,
    weights: str | Path | None = None,
    dilation: int | Sequence[int] | None = None,
    context: Context | None = None,
    size: int | None = None,
) -> Path:
    """Turn a checkpoint of the paper's authors into a model.

    What the file states is used; nothing is assumed about the rest.

    Parameters
    ----------
    checkpoint : path
        See `read_reference_checkpoint`.
    name : str
        The model's name.
    modality : {"mri", "ct", "oct"}
        Modality of the training data, which the checkpoint does not contain.
    backbone : str
        Backbone of the training; its weights must be installed, since a model names them by hash.
    weights : path, optional
        The backbone's weights.
    dilation : int or sequence of int
        4 for the paper's dilated model, 1 for its standard one, or a schedule: see
        `layer_dilations`.
    context : {"causal", "bidirectional"}, optional
        Expected context; the file contains the actual one.
    size : int, optional
        Side in pixels that images were resized to, if the file does not state it.

    Returns
    -------
    Path
        The new model file. It has no calibration: thresholds are in nats per dimension only.

    Raises
    ------
    InputError
        If the name is in use or invalid, or something that the file does not state is missing or
        does not match the file.
    ModelFileError
        If the file is not a checkpoint, or does not match the backbone.
    WeightsError
        If the backbone's weights are missing.
    """
    found = read_reference_checkpoint(checkpoint)
    network = found.network(dilation, context)
    if size is not None and found.size not in (None, size):
        raise InputError(f"it was trained at {found.size} pixels, not {size}", path=checkpoint)
    side = found.size or size
    if side is None:
        raise InputError(
            "the checkpoint does not state the size that images were resized to", path=checkpoint
        )
    frozen = load_backbone(backbone, weights, "cpu")
    if network.channels != frozen.channels:
        raise ModelFileError(
            f"it predicts {network.channels} channels, but {backbone} has {frozen.channels}",
            path=checkpoint,
            fix="Name the backbone it was trained on",
        )
    if side % frozen.patch:
        raise ModelFileError(
            f"it was trained at {side} pixels, which is no multiple of the patch size "
            f"{frozen.patch} of {backbone}",
            path=checkpoint,
            fix="Name the backbone it was trained on",
        )
    detector = SpatialARDetector(network)
    origin = {"epoch": found.epoch, "val_loss": found.val_loss, "sha256": found.sha256}
    header = ModelHeader(
        method=detector.name,
        parameters=detector.parameters(),
        modality=modality,
        backbone=BackboneRef.of(frozen),
        preprocessing=Preprocessing(window=default_window(modality), size=(side, side)),
        scoring=Scoring(),
        training={
            "imported_from": "a checkpoint of the reference code",
            "checkpoint": {key: value for key, value in origin.items() if value is not None},
        },
    )
    with new_model(name) as folder:
        model_file.write(folder / MODEL_FILE, header, detector.tensors())
    return user_models_dir() / name / MODEL_FILE
