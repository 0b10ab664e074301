"""Settings that the docks store between sessions."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from qtpy.QtCore import QSettings

__all__ = [
    "folders_in",
    "joined_folders",
    "last_folder",
    "recall",
    "remember",
    "remember_folder",
]

Value = TypeVar("Value", bound=str | int | float)

_NAME = "napari-spatial-ar"
# Between folders that are written in one line.
_BETWEEN = "; "


def _store() -> QSettings:
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, _NAME, _NAME)


def recall(key: str, default: Value) -> Value:
    """Return a stored value of the default's type; the default if there is no valid one."""
    try:
        value = _store().value(key)
        if value is None:
            return default
        if isinstance(default, bool):
            value = str(value).lower() == "true"
        found = type(default)(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return default if isinstance(found, float) and not math.isfinite(found) else found


def remember(key: str, value: str | float | None) -> None:
    """Store a text, number or truth value."""
    _store().setValue(key, value)


def last_folder(kind: str) -> str:
    """Folder used last for "open", "export" or "training"; initially the home folder."""
    folder = recall(f"folder/{kind}", "")
    return folder if folder and os.path.isdir(folder) else str(Path.home())


def folders_in(text: str) -> list[str]:
    """Folders written one after the other, with "; " between them; see `joined_folders`.

    A folder that is there is taken whole, also where its own name has a "; " in it.
    """
    parts = text.split(_BETWEEN)
    found = []
    while parts:
        ends = range(len(parts), 0, -1)
        count = next((n for n in ends if os.path.isdir(_BETWEEN.join(parts[:n]).strip())), 1)
        found.append(_BETWEEN.join(parts[:count]).strip())
        parts = parts[count:]
    return [folder for folder in found if folder]


def joined_folders(folders: Sequence[str]) -> str:
    """Write folders one after the other."""
    return _BETWEEN.join(folders)


def remember_folder(kind: str, folder: str | Path) -> None:
    """Store a folder for `last_folder`."""
    remember(f"folder/{kind}", str(folder))
