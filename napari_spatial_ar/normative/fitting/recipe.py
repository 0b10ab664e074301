"""A fit's settings as a file that a person can read, keep, edit and run again.

A recipe is the user's own file: the folders of normal scans stand in it by their paths. It is
never written into a model's folder, which may be handed on.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from napari_spatial_ar.datasets.selection import AS_ACQUIRED, Selection, SlicePlane
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.acquisition import read_acquired
from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.imaging.windows import Window, default_window
from napari_spatial_ar.normative.backbones.registry import Fuse
from napari_spatial_ar.normative.backbones.weights import default_backbone
from napari_spatial_ar.normative.detectors import DETECTORS, SpatialARDetector, check_options
from napari_spatial_ar.normative.detectors.base import of_kind
from napari_spatial_ar.normative.fitting.settings import (
    DEFAULT_METHOD,
    NETWORK_SETTINGS,
    check_settings,
    preprocessing_for,
    read_layers,
    read_size,
)

__all__ = ["SCHEMA", "Recipe", "read_recipe", "write_recipe"]

SCHEMA = 1
_GIVE = "Give a file that 'Save recipe' of the Training dock wrote"
_HEAD = "# Settings of a fit: napari-spatial-ar fit --recipe THIS_FILE\n\n"
# A value of the kind that each key takes; None where another function says what it may be.
_EXAMPLES: dict[str, Any] = {
    "folders": [""],
    "exclude": [""],
    "modality": "",
    "plane": "",
    "slice_range": None,
    "min_body": 0.0,
    "window": {"kind": "", "low": 0.0, "high": 0.0},
    "size": None,
    "tile": 0,
    "clahe": 0.0,
    "backbone": "",
    "layers": None,
    "fuse": "",
    "weights": "",
    "method": "",
    "options": {},
    "seed": 0,
    "smoothing": 0,
    "top_share": 0.0,
    "valid_fraction": 0.0,
    "calibration_folds": 0,
    "calibration_fraction": 0.0,
    "patient_pattern": "",
    "acquired": "",
}
_KINDS = {
    str: "a text in quotes",
    int: "a whole number",
    float: "a number",
    list: "a list of texts in quotes",
    dict: "a table",
}


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights of a fit; see `fit_steps` for what each setting means.

    What is left out is filled in: the backbone, see `default_backbone`, the modality's window, the
    defaults of the method's options. So
    a recipe that is kept says the same to a later version whose defaults are others.

    Parameters
    ----------
    folders : tuple of str
        Normal scans.
    exclude, modality, plane, slice_range, min_body, window, size, tile, clahe, backbone, layers, \
    fuse, weights, method, seed, smoothing, top_share, valid_fraction, calibration_fraction, \
    calibration_folds, patient_pattern, acquired
        As for `fit_steps`.
    options : mapping
        All of the method's own options.

    Raises
    ------
    InputError
        If a setting is out of range.
    """

    folders: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    modality: str = "mri"
    plane: SlicePlane = AS_ACQUIRED
    slice_range: Any = (0.0, 1.0)
    min_body: float = 0.10
    window: Window | None = None
    size: Any = (448, 448)
    tile: int = 0
    clahe: float = 0.0
    backbone: str = ""
    layers: Any = None
    fuse: Fuse = "concat"
    weights: str | None = None
    method: str = DEFAULT_METHOD
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    smoothing: int = 3
    top_share: float = 0.01
    valid_fraction: float = 0.2
    calibration_folds: int = 0
    calibration_fraction: float = 0.0
    patient_pattern: str | None = None
    acquired: str = ""

    def __post_init__(self) -> None:
        check_settings(
            self.method,
            self.modality,
            seed=self.seed,
            smoothing=self.smoothing,
            top_share=self.top_share,
            valid_fraction=self.valid_fraction,
            calibration_folds=self.calibration_folds,
            calibration_fraction=self.calibration_fraction,
        )
        method = DETECTORS[self.method]
        check_options(method, self.options)
        backbone = self.backbone or default_backbone(self.weights)
        read_layers(self.layers, backbone, self.method)
        read_acquired(self.acquired)
        window = self.window or default_window(self.modality)  # type: ignore[arg-type]
        size = read_size(self.size)
        preprocessing_for(backbone, window, size, clahe=self.clahe, tile=self.tile)
        options = {**method.options(), **self.options}
        for name, value in {
            "folders": tuple(map(str, self.folders)),
            "exclude": tuple(sorted(self.exclude)),
            "backbone": backbone,
            "window": window,
            "size": size,
            "slice_range": Selection(self.plane, self.slice_range, self.min_body).slice_range,
            "layers": tuple(self.layers) if isinstance(self.layers, list) else self.layers,
            # A whole number is welcome where a fraction may stand, and means the same.
            "options": {k: type(v)(options[k]) for k, v in method.options().items()},
        }.items():
            object.__setattr__(self, name, value)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `fit_steps`: all but the folders, its first argument."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "folders"}

    def changed(self, given: Mapping[str, Any]) -> Recipe:
        """Put settings of `fit_steps` in place of its own; of the same method, options one by one.

        Raises
        ------
        InputError
            If a setting is out of range.
        """
        network = {name: given[name] for name in NETWORK_SETTINGS if name in given}
        rest = {name: value for name, value in given.items() if name not in network}
        method = rest.get("method", self.method)
        kept = self.options if method == self.method else {}
        if method != SpatialARDetector.name:
            network = {}
        options = {**kept, **network, **rest.get("options", {})}
        return replace(self, **{**rest, "options": options})

    def differs(self, other: Recipe) -> list[str]:
        """Names of the settings in which another recipe is not the same."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


def write_recipe(path: str | Path, recipe: Recipe) -> None:
    """Write a recipe as TOML, with absolute paths.

    Raises
    ------
    InputError
        If a path cannot be written as text.
    StorageError
        If the file cannot be written.
    """
    values = {key: value for key, value in recipe.settings().items() if value not in (None, "")}
    values["folders"] = [str(Path(folder).absolute()) for folder in recipe.folders]
    values["window"] = asdict(values["window"])
    if recipe.weights is not None:
        values["weights"] = str(Path(recipe.weights).absolute())
    content = {"schema": SCHEMA, **{key: values[key] for key in _EXAMPLES if key in values}}
    try:
        data = (_HEAD + tomli_w.dumps(content)).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "a folder's name holds characters that cannot be written as text", fix="Rename it"
        ) from error
    atomic_write_bytes(path, data)


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe; paths in it that are not absolute start at its own folder.

    Raises
    ------
    InputError
        If there is no such file, it is not TOML or of another schema, or a key is unknown, of
        another kind or out of range.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"the recipe cannot be read ({error.strerror})", path=path, fix=_GIVE
        ) from error
    except RecursionError as error:
        raise InputError("it is no recipe: it is nested too deeply", path=path) from error
    except UnicodeDecodeError as error:
        raise InputError("it is no recipe: it is not text", path=path, fix=_GIVE) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"it is no recipe: {error}", path=path, fix=_GIVE) from error
    schema = content.pop("schema", None)
    if schema != SCHEMA or isinstance(schema, bool):
        raise InputError(
            f"'schema' is {schema!r}, and this version reads recipes of schema {SCHEMA}"
            if schema is not None
            else "it has no 'schema', so it is no recipe",
            path=path,
            fix="Update napari-spatial-ar, or save the recipe anew" if schema else None,
        )
    _check(path, content, _EXAMPLES)
    content = _as_written(content)
    for key in ("folders", "weights"):
        if key in content:
            content[key] = _placed(content[key], path.absolute().parent)
    try:
        if "window" in content:
            content["window"] = Window.from_dict(content["window"])
        return Recipe(**content)
    except InputError as error:
        raise InputError(error.what, path=path, fix=error.fix) from error


def _as_written(content: dict[str, Any]) -> dict[str, Any]:
    """Add what an earlier version did, where one wrote all the options that its method had."""
    method = DETECTORS.get(content.get("method", DEFAULT_METHOD))
    options = content.get("options")
    if method is None or options is None:
        return content
    later = {k: v for k, v in method.later_options.items() if k not in options}
    if not later or set(options) | set(later) != set(method.options()):
        return content
    return {**content, "options": {**later, **options}}


def _placed(value: Any, root: Path) -> Any:
    """Paths as seen from a folder."""
    if isinstance(value, list):
        return [_placed(part, root) for part in value]
    return str(root / os.path.expanduser(value))


def _check(path: Path, values: Mapping[str, Any], examples: Mapping[str, Any]) -> None:
    """See that all keys are known and of the kind of their examples."""
    for key, value in values.items():
        if key not in examples:
            raise InputError(
                f"the recipe's key '{key}' is not known",
                path=path,
                fix=f"Keys: {', '.join(examples)}",
            )
        example = examples[key]
        if example is None:
            continue
        fits = of_kind(value, example)
        if isinstance(example, list):
            fits = fits and all(isinstance(part, str) for part in value)
        if not fits:
            kind = _KINDS[type(example)]
            raise InputError(f"the recipe's key '{key}' must be {kind}, not {value!r}", path=path)
        if isinstance(example, dict) and example:
            _check(path, value, example)
