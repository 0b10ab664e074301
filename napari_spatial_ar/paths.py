"""Locations of the user's weights, models and feature stores."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from napari_spatial_ar.errors import InputError

__all__ = [
    "LONGEST_NAME",
    "archives_file",
    "check_name_length",
    "embedded_weights",
    "feature_store_dir",
    "quantized_dir",
    "released_models_dir",
    "sent_readings_dir",
    "speeds_file",
    "studies_dir",
    "unfinished_dir",
    "user_models_dir",
    "weights_dir",
    "worklist_dir",
]

_APP = "napari-spatial-ar"
# Stored among the released models, which use it.
_EMBEDDED = Path("dinov2_vits14_focus", "backbone.safetensors")
#: Maximum length of a model's name: files that belong to it have longer ones.
LONGEST_NAME = 100


def check_name_length(name: str) -> None:
    """Refuse a model's name that is too long (`InputError`)."""
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"the model's name has {len(name)} characters", fix=f"Use at most {LONGEST_NAME}"
        )


def _home(kind: str) -> Path:
    """Root folder: ``NAPARI_SPATIAL_AR_HOME`` if set, else the platform's default."""
    override = os.environ.get("NAPARI_SPATIAL_AR_HOME")
    if override:
        return Path(override).expanduser() / kind
    if kind in ("features", "quantized", "studies"):
        return Path(platformdirs.user_cache_dir(_APP, appauthor=False)) / kind
    return Path(platformdirs.user_data_dir(_APP, appauthor=False)) / kind


def weights_dir() -> Path:
    """Folder of backbone weights that the user pulled or added."""
    return _home("weights")


def user_models_dir() -> Path:
    """Folder of normative models that the user fitted or imported."""
    return _home("models")


def feature_store_dir() -> Path:
    """Folder of embedding grids stored between fits; may be deleted at any time."""
    return _home("features")


def quantized_dir() -> Path:
    """Folder of backbones quantized to 8 bits for this machine; may be deleted at any time."""
    return _home("quantized")


def unfinished_dir() -> Path:
    """Folder of the recipe of the latest fit that was started and not finished."""
    return _home("unfinished")


def worklist_dir() -> Path:
    """Folder of worklists: scores and edits of the scans of a folder, one folder per scan."""
    return _home("worklist")


def archives_file() -> Path:
    """File of the archives (PACS) that the user saved by name; without passwords or tokens."""
    return _home("archives") / "archives.json"


def sent_readings_dir() -> Path:
    """Folder of notes on the results last sent for each scan, by hashes of UIDs."""
    return _home("archives") / "sent"


def studies_dir() -> Path:
    """Folder of series retrieved from archives; may be deleted at any time."""
    return _home("studies")


def speeds_file() -> Path:
    """File of measured durations on this machine; may be deleted at any time."""
    return feature_store_dir().with_name("speeds.json")


def embedded_weights() -> Path | None:
    """File of the backbone that comes with the package, in a wheel or in a checkout."""
    released = released_models_dir()
    file = released / _EMBEDDED if released else None
    return file if file and file.is_file() else None


def released_models_dir() -> Path | None:
    """Folder of the models released with the package, in a wheel or in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "models", package.parent / "models"):
        if candidate.is_dir() and any(candidate.glob("*/model.safetensors")):
            return candidate
    return None
