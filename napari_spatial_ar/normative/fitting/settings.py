"""What a fit is told, read and checked before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from napari_spatial_ar.datasets.slices import check_fractions
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BackboneSpec, Fuse, find_spec
from napari_spatial_ar.normative.detectors import DETECTORS, ChangeNovelty
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.tiling import Tiling

__all__ = [
    "DEFAULT_METHOD",
    "NETWORK_SETTINGS",
    "check_loaded",
    "check_settings",
    "preprocessing_for",
    "read_layers",
    "read_size",
]

DEFAULT_METHOD = ChangeNovelty.name
#: Settings of a fit that are options of the AR network, and choose it where no method is named.
NETWORK_SETTINGS = ("dilation", "context", "epochs", "patience", "batch_size", "learning_rate")
_LARGEST_SEED = 2**63 - 1  # torch takes no larger one
Layers = str | int | Sequence[int] | None


def check_settings(
    method: str,
    modality: str,
    *,
    seed: int,
    smoothing: int,
    top_share: float,
    valid_fraction: float,
    calibration_folds: int = 0,
    calibration_fraction: float = 0.0,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> None:
    """See that settings are within range.

    Raises
    ------
    InputError
        If one is not.
    """
    if method not in DETECTORS:
        raise InputError(
            f"there is no method '{method}'", fix=f"Choose from {', '.join(DETECTORS)}"
        )
    if modality not in ("mri", "ct", "oct"):
        raise InputError(f"modality must be mri, ct or oct, not '{modality}'")
    for name, value in {"epochs": epochs, "batch size": batch_size}.items():
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if smoothing < 1 or smoothing % 2 == 0:
        raise InputError(f"smoothing must be an odd number of patches, not {smoothing}")
    if seed < 0:
        raise InputError(f"a seed is a whole number from 0, not {seed}")
    if seed > _LARGEST_SEED:
        raise InputError(f"a seed is at most {_LARGEST_SEED}, not {seed}")
    if not 0 <= top_share <= 1:
        raise InputError(f"top_share must be a share from 0 to 1, not {top_share}")
    check_fractions(valid_fraction, calibration_fraction)
    if calibration_folds < 0 or calibration_folds == 1:
        raise InputError(f"calibration_folds must be 0 or at least 2, not {calibration_folds}")
    if calibration_folds and calibration_fraction:
        raise InputError(
            "calibration_folds and calibration_fraction are two answers to one question",
            fix="Choose folds of the training patients, or patients for calibration alone",
        )


def preprocessing_for(
    backbone: str | Backbone,
    window: Window,
    size: tuple[int, int],
    *,
    clahe: float = 0.0,
    tile: int = 0,
) -> Preprocessing:
    """Put together how slices are shown to a backbone, normalised as it was trained.

    Parameters
    ----------
    backbone : str or Backbone
        Its name, or itself. Of a name that is not known nothing is checked here.
    window, size, clahe, tile
        See `Preprocessing`.

    Raises
    ------
    InputError
        If the sizes do not fit the backbone, see `Tiling.of`.
    """
    spec = find_spec(backbone) if isinstance(backbone, str) else backbone.spec
    if spec is None:
        return Preprocessing(window, size, clahe=clahe, tile=tile)
    shown = Preprocessing(window, size, spec.mean, spec.std, clahe, tile)
    Tiling.of(shown, spec.patch)
    return shown


def read_size(size: str | int | Sequence[int]) -> tuple[int, int]:
    """Rows and columns, from ``"896"``, ``"896x448"``, 896 or (896, 448).

    Raises
    ------
    InputError
        If it is none of these.
    """
    text = _joined("x", size)
    found = re.fullmatch(r"(\d+)(?: ?x ?(\d+))?", text.strip().lower())
    if not found:
        raise InputError(
            f"'{text}' is no size", fix="Write one number for a square, or ROWSxCOLUMNS: 448x896"
        )
    return int(found.group(1)), int(found.group(2) or found.group(1))


def read_layers(layers: Layers, backbone: str, method: str) -> tuple[int, ...] | None:
    """Blocks to read of a backbone; None for its own choice.

    Parameters
    ----------
    layers : str, int or sequence of int, optional
        ``"5,7,9"``, ``"last4"`` or numbers; None for those that the method asks for.
    backbone : str
        Its name.
    method : str
        A key of `DETECTORS`.

    Raises
    ------
    InputError
        If the text says no blocks.
    """
    spec = find_spec(backbone)
    depth = int(spec.config.get("num_hidden_layers", 0)) if spec else 0
    if layers is None:
        return DETECTORS[method].default_layers(depth) if depth else None
    return _numbers(layers, depth)


def check_loaded(spec: BackboneSpec, layers: Layers, fuse: Fuse) -> None:
    """See that a backbone that is loaded already reads what is asked for, where anything is.

    Raises
    ------
    InputError
        If it does not.
    """
    blocks = None if layers is None else _numbers(layers, spec.config.get("num_hidden_layers", 0))
    if blocks not in (None, spec.layers) or fuse not in ("concat", spec.fuse):
        raise InputError("the backbone is loaded already, with other blocks to read")


def _numbers(layers: str | int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Read blocks; which of them there are is for the backbone to say."""
    layers = _joined(",", layers)
    last = re.fullmatch(r"last([1-9]\d*)", layers.strip())
    if last:
        count = int(last.group(1))
        if count > depth:
            raise InputError(f"the backbone has {depth or 'no'} blocks to choose from, not {count}")
        return tuple(range(depth - count + 1, depth + 1))
    if not re.fullmatch(r"(\s*\d+\s*(,\s*\d+\s*)*)?", layers):
        raise InputError(
            f"'{layers}' does not say which blocks to read",
            fix="Write their numbers with commas, such as 5,7,9, or last4 for the last four",
        )
    return tuple(int(number) for number in layers.split(",") if number)


def _joined(between: str, value: object) -> str:
    """Write a value as text, a list with something between its parts."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return between.join(map(str, value))
    return str(value)
