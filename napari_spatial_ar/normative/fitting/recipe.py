"""A fit's configuration as a file that a person can read, store, edit and run again.

A recipe is the user's own file: it contains the paths of the folders of normal scans. It is never
written into a model's folder, which may be shared.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.normative.detectors import DETECTORS
from napari_spatial_ar.normative.fitting.config import DEFAULT_METHOD, FitConfig

__all__ = ["SCHEMA", "read_recipe", "write_recipe"]

SCHEMA = 1
_GIVE = "Give a file written by 'Save recipe' of the Training dock"
_HEAD = "# Settings of a fit: napari-spatial-ar fit --recipe THIS_FILE\n\n"


def write_recipe(path: str | Path, config: FitConfig) -> None:
    """Write a configuration as TOML, with absolute paths.

    Raises
    ------
    InputError
        If a path cannot be written as text.
    StorageError
        If the file cannot be written.
    """
    values = {
        "folders": [str(Path(folder).absolute()) for folder in config.folders],
        **config.settings(),
        "window": asdict(config.window),
    }
    if config.weights is not None:
        values["weights"] = str(Path(config.weights).absolute())
    content = {name: value for name, value in values.items() if value is not None}
    try:
        data = (_HEAD + tomli_w.dumps({"schema": SCHEMA, **content})).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "a folder's name contains characters that cannot be written as text", fix="Rename it"
        ) from error
    atomic_write_bytes(path, data)


def read_recipe(path: str | Path) -> FitConfig:
    """Read a recipe; paths in it that are not absolute are relative to its own folder.

    Raises
    ------
    InputError
        If there is no such file, it is not TOML or of another schema, or a key is unknown, of
        another type or out of range.
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
            f"'schema' is {schema!r}, but this version reads recipes of schema {SCHEMA}"
            if schema is not None
            else "it has no 'schema', so it is no recipe",
            path=path,
            fix="Update napari-spatial-ar, or save the recipe again" if schema else None,
        )
    try:
        return FitConfig(**_placed(_as_written(content), path.absolute().parent))
    except InputError as error:
        raise InputError(error.what, path=path, fix=error.fix) from error


def _as_written(content: dict[str, Any]) -> dict[str, Any]:
    """Add an earlier version's behaviour to recipes that contain all options of their method."""
    method = DETECTORS.get(content.get("method", DEFAULT_METHOD))
    options = content.get("options")
    if method is None or not isinstance(options, dict):
        return content
    later = {k: v for k, v in method.later_options.items() if k not in options}
    if not later or set(options) | set(later) != set(method.options()):
        return content
    return {**content, "options": {**later, **options}}


def _placed(content: dict[str, Any], root: Path) -> dict[str, Any]:
    """Paths relative to a folder."""

    def placed(value: object) -> Any:
        if isinstance(value, list):
            return [placed(part) for part in value]
        return str(root / os.path.expanduser(value)) if isinstance(value, str) else value

    return {
        name: placed(value) if name in ("folders", "weights") else value
        for name, value in content.items()
    }
