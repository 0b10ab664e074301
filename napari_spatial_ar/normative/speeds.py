"""How long things took on this machine, kept to tell how long they will take, and what is fastest.

One small JSON file beside the stored embeddings. Losing it costs a few seconds of measuring, so a
file that cannot be read or written is none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from napari_spatial_ar.errors import StorageError
from napari_spatial_ar.imaging.files import atomic_write_json
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.paths import speeds_file

__all__ = ["machine", "recall", "recall_choice", "remember", "remember_choice"]


def machine(device: torch.device) -> str:
    """Name what computes: the card's name, or the number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {torch.get_num_threads()} threads"


def recall(key: Sequence[Any]) -> float | None:
    """Seconds kept under a key of plain JSON values; None where there are none."""
    seconds = _all().get(_name(key))
    known = isinstance(seconds, float) and math.isfinite(seconds) and seconds > 0
    return seconds if known else None


def remember(key: Sequence[Any], seconds: float) -> None:
    """Keep seconds, in place of those kept before."""
    _keep(key, float(seconds))


def recall_choice(key: Sequence[Any]) -> str:
    """Name of what was chosen under a key of plain JSON values; "" where nothing was."""
    chosen = _all().get(_name(key))
    return chosen if isinstance(chosen, str) else ""


def remember_choice(key: Sequence[Any], chosen: str) -> None:
    """Keep what was chosen, in place of what was before."""
    _keep(key, chosen)


def _keep(key: Sequence[Any], value: float | str) -> None:
    with suppress(StorageError):
        atomic_write_json(speeds_file(), {**_all(), _name(key): value})


def _name(key: Sequence[Any]) -> str:
    return json.dumps(list(key), sort_keys=True)


def _all() -> dict[str, Any]:
    try:
        found = parse_json(speeds_file().read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
