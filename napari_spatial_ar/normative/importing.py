"""Taking models in from elsewhere: another machine's model folder, or the authors' checkpoint."""

from __future__ import annotations

from pathlib import Path

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.imaging.volume import Modality
from napari_spatial_ar.imaging.windows import default_window
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.autoregressive import load_reference_checkpoint
from napari_spatial_ar.normative.backbone import DEFAULT_BACKBONE, load_backbone
from napari_spatial_ar.normative.methods import SpatialARDetector
from napari_spatial_ar.normative.model_file import MODEL_FILE, BackboneRef, ModelHeader
from napari_spatial_ar.normative.paths import user_models_dir
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.scoring import Scoring

__all__ = ["import_model", "import_reference"]


def _target(name: str) -> Path:
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"'{name}' is no name for a model", fix="Use letters, digits and hyphens")
    folder = user_models_dir() / name
    if (folder / MODEL_FILE).exists():
        raise InputError("a model of this name is there already", path=folder, fix="Say --name")
    return folder / MODEL_FILE


def import_model(source: str | Path, name: str | None = None) -> Path:
    """Copy a model file, or a folder with one, into the user's models.

    Parameters
    ----------
    source : path
        ``model.safetensors`` or its folder.
    name : str, optional
        The model's new name; the folder's by default.

    Returns
    -------
    Path
        The new model file.

    Raises
    ------
    InputError
        If the name is taken or is no name.
    ModelFileError
        If the source is no whole model of this version.
    """
    path = Path(source).expanduser()
    path = path / MODEL_FILE if path.is_dir() else path
    target = _target(name or path.absolute().parent.name)
    header, tensors, _ = model_file.read(path)
    model_file.write(target, header, tensors)
    return target


def import_reference(
    checkpoint: str | Path,
    name: str,
    *,
    modality: Modality,
    backbone: str = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    dilation: int = 4,
) -> Path:
    """Turn a checkpoint of the paper's authors into a model.

    Parameters
    ----------
    checkpoint : path
        See `load_reference_checkpoint`.
    name : str
        The model's name.
    modality : {"mri", "ct", "oct"}
        What it was trained on, which the checkpoint does not say.
    backbone : str
        What it was trained on; its weights must be at hand, since a model names them by hash.
    weights : path, optional
        The backbone's weights.
    dilation : int
        4 for the paper's dilated model, 1 for its standard one.

    Returns
    -------
    Path
        The new model file. It has no calibration: thresholds are in nats per dimension only.

    Raises
    ------
    InputError
        If the name is taken or is no name.
    ModelFileError
        If the checkpoint is not one, or does not fit the backbone.
    WeightsError
        If the backbone's weights are missing.
    """
    target = _target(name)
    network = load_reference_checkpoint(checkpoint, dilation=dilation)
    frozen = load_backbone(backbone, weights, "cpu")
    if network.channels != frozen.channels:
        raise ModelFileError(
            f"it predicts {network.channels} channels and {backbone} gives {frozen.channels}",
            path=checkpoint,
            fix="Name the backbone it was trained on",
        )
    detector = SpatialARDetector(network)
    header = ModelHeader(
        method=detector.name,
        parameters=detector.parameters(),
        modality=modality,
        backbone=BackboneRef.of(frozen),
        preprocessing=Preprocessing(window=default_window(modality)),
        scoring=Scoring(),
        training={"imported_from": "a checkpoint of the reference code"},
    )
    model_file.write(target, header, detector.tensors())
    return target
