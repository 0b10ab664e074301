"""The model file: one safetensors file with all metadata of the model in its header.

The JSON under ``napari-spatial-ar`` in the safetensors metadata has ``header`` (the fields of
`ModelHeader`) and ``sha256``, over the header's canonical JSON and all tensors. ``seconds``, which
is ``training["seconds"]``, is stored beside them, so that fits that took a different time but gave
the same model have the same sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.errors import ModelFileError, ModelVersionError, SpatialARError
from napari_spatial_ar.imaging.files import atomic_path
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import Fuse
from napari_spatial_ar.normative.backbones.weight_files import content_sha256
from napari_spatial_ar.normative.calibration.acquired import Acquired
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.normative.calibration.domain_shift import NormalAppearance
from napari_spatial_ar.normative.detectors import DETECTORS, Detector, detector_from_tensors
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model_schema import StoredModel, describe_error, parsed
from napari_spatial_ar.normative.preprocessing import Preprocessing

__all__ = [
    "FORMAT_VERSION",
    "MODEL_FILE",
    "BackboneRef",
    "ModelHeader",
    "read",
    "read_detector",
    "read_header",
    "write",
]

# The newest version. A model is written in the oldest version that can represent it, so that older
# programs read what they can and refuse the rest: 2 adds `BackboneRef.fuse`,
# `Preprocessing.clahe` and `Preprocessing.tile`; 3 adds `ModelHeader.selection`; 4 adds
# `Preprocessing.skip_air`, `Scoring.smoothing_z` and the likelihood of Spatial AR. Fields that do
# not change scores need no new version: `ModelHeader.looks`, `acquired` and `part_calibrations`,
# and `Calibration.folds`, `peaks` and `regions`, are ignored by programs that do not know them.
FORMAT_VERSION = 4
MODEL_FILE = "model.safetensors"
_KEY = "napari-spatial-ar"
_SECONDS = "seconds"
_WHAT_A_MODEL_IS = (
    f"Give the folder that 'fit' wrote, the {MODEL_FILE} in it, or a .zip of 'models export'"
)


@dataclass(frozen=True)
class BackboneRef:
    """The backbone that a model was trained on: it cannot score with any other.

    Parameters
    ----------
    name : str
        Key of `napari_spatial_ar.normative.backbones.registry.BACKBONES`.
    layers : tuple of int
        Blocks read (empty: the last, through the final norm).
    sha256 : str
        `Backbone.sha256`.
    fuse : {"concat", "mean"}
        How several blocks form one embedding.
    """

    name: str
    layers: tuple[int, ...]
    sha256: str
    fuse: Fuse = "concat"

    @classmethod
    def of(cls, backbone: Backbone) -> BackboneRef:
        """Return the reference to a loaded backbone."""
        spec = backbone.spec
        return cls(spec.name, spec.layers, backbone.sha256, spec.fuse)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``fuse`` only if blocks are not concatenated, which was the only way once."""
        values = {"name": self.name, "layers": list(self.layers), "sha256": self.sha256}
        return values if self.fuse == "concat" else {**values, "fuse": self.fuse}


@dataclass(frozen=True)
class ModelHeader:
    """All of a model except its tensors.

    ``selection`` is the rule by which slices were selected, ``looks`` the appearance of normal
    slices, and ``acquired`` how the training scans were acquired (None in files written before
    these were recorded). ``part_calibrations`` are those of each part of the method alone;
    ``part`` is that by which a model scores alone, in no file.
    """

    method: str
    parameters: dict[str, Any]
    modality: str
    backbone: BackboneRef
    preprocessing: Preprocessing
    scoring: Scoring
    training: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    format_version: int = 1
    selection: Selection = field(default_factory=Selection)
    looks: NormalAppearance | None = None
    acquired: Acquired | None = None
    part_calibrations: dict[str, Calibration] = field(default_factory=dict)
    part: str = ""

    def __post_init__(self) -> None:
        shown = self.preprocessing
        new = self.backbone.fuse != "concat" or shown.clahe or shown.tile
        least = 3 if self.selection != Selection() else 2 if new else 1
        if shown.skip_air or "likelihood" in self.parameters or self.scoring.smoothing_z:
            least = 4
        object.__setattr__(self, "format_version", max(least, self.format_version))

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``selection`` only if it is not the original rule.

        ``looks`` and ``acquired`` only if they are known.
        """
        parts = {name: found.to_dict() for name, found in self.part_calibrations.items()}
        selection = {} if self.selection == Selection() else {"selection": self.selection.to_dict()}
        return {
            "format_version": self.format_version,
            "method": self.method,
            "parameters": self.parameters,
            "modality": self.modality,
            "backbone": self.backbone.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            **selection,
            "scoring": self.scoring.to_dict(),
            "training": self.training,
            "calibration": self.calibration.to_dict() if self.calibration else None,
            **({"part_calibrations": parts} if parts else {}),
            **({"part": self.part} if self.part else {}),
            **({"looks": self.looks.to_dict()} if self.looks else {}),
            **({"acquired": self.acquired.to_dict()} if self.acquired else {}),
        }


def _without_seconds(header: dict[str, Any]) -> dict[str, Any]:
    training = {key: value for key, value in header["training"].items() if key != _SECONDS}
    return {**header, "training": training}


def _sha256(header: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
    canonical = json.dumps(_without_seconds(header), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((canonical + content_sha256(tensors)).encode()).hexdigest()


def write(path: Path, header: ModelHeader, tensors: dict[str, Tensor]) -> str:
    """Write a model file, completely or not at all.

    Returns
    -------
    str
        The model's sha256, which depends only on its content, not on the time of the fit.
    """
    from safetensors.torch import save

    content = header.to_dict()
    digest = _sha256(content, tensors)
    outer = {"header": _without_seconds(content), "sha256": digest}
    if _SECONDS in header.training:
        outer[_SECONDS] = header.training[_SECONDS]
    data = save(tensors, metadata={_KEY: json.dumps(outer)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return digest


def read_header(path: Path) -> tuple[ModelHeader, str]:
    """Header and sha256 of a model file, without its tensors.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, no model, or of another version.
    """
    content, digest = _content(path)
    return _header(content, path), digest


def read(path: Path) -> tuple[ModelHeader, dict[str, Tensor], str]:
    """Header, tensors and sha256 of a model file, after verifying the sha256.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, no model, or of another version.
    """
    from safetensors.torch import load_file

    content, digest = _content(path)
    header = _header(content, path)
    try:
        tensors = load_file(path)
        found = _sha256(content, tensors)
    except Exception as error:  # number types that torch does not support, among others
        raise _damaged(path, "its tensors cannot be read") from error
    if found != digest:
        raise _damaged(path, "its content does not match its sha256")
    return header, tensors, digest


def read_detector(path: Path) -> tuple[ModelHeader, Detector, str]:
    """Header, detector and sha256 of a model file: all that scoring needs.

    Raises
    ------
    ModelFileError
        As for `read`, and if the method is unknown or its tensors do not match it.
    """
    header, tensors, digest = read(path)
    try:
        return header, detector_from_tensors(header.method, header.parameters, tensors), digest
    except ModelVersionError as error:
        raise ModelVersionError(error.what, path=path, fix=error.fix) from error
    except ModelFileError as error:
        raise _damaged(path, error.what) from error


def _damaged(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        f"the model file is damaged: {why}",
        path=path,
        fix="Copy it again from where it came from",
    )


def _content(path: Path) -> tuple[dict[str, Any], str]:
    """Return the validated header, and its sha256."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise ModelFileError("there is no such model file", path=path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(
            f"the model file is damaged or not a model: it is not a valid safetensors file, as the "
            f"{MODEL_FILE} of a model is",
            path=path,
            fix=f"If it was a model, copy it again from where it came from. {_WHAT_A_MODEL_IS}",
        ) from error
    if _KEY not in metadata:
        raise ModelFileError(
            "it is a safetensors file, but no napari-spatial-ar model",
            path=path,
            fix=f"{_WHAT_A_MODEL_IS}. To add weights of a backbone, use 'weights add'",
        )
    try:
        outer = parsed(metadata[_KEY])
        _check_version(outer, path)
        StoredModel.model_validate(outer)
        content = outer["header"]
        method = DETECTORS.get(content["method"])
        if method is not None:
            method.stored.model_validate(content["parameters"])
    except ValueError as error:
        raise _damaged(path, describe_error(error)) from error
    if _SECONDS in outer:
        content["training"][_SECONDS] = float(outer[_SECONDS])
    return content, outer["sha256"]


def _check_version(outer: object, path: Path) -> None:
    header = outer.get("header") if isinstance(outer, dict) else None
    version = header.get("format_version") if isinstance(header, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelVersionError(
            f"its format version is {version}, but this program reads up to {FORMAT_VERSION}",
            path=path,
            fix="Update napari-spatial-ar, or fit the model again",
        )


def _header(content: dict[str, Any], path: Path) -> ModelHeader:
    try:
        return from_plain(content, ModelHeader)
    except (ValueError, SpatialARError) as error:
        raise _damaged(path, f"its header is not valid: {error}") from error
