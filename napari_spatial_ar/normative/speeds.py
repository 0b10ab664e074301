"""How long things took on this machine, stored to estimate durations and to choose engines.

One small JSON file beside the stored embeddings. Losing it costs a few seconds of measuring, so a
file that cannot be read or written is ignored.
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
    """Name of the processor: the GPU's name, or the number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {torch.get_num_threads()} threads"


def recall(key: Sequence[object]) -> float | None:
    """Seconds stored under a key of plain JSON values; None if there are none."""
    seconds = _all().get(_name(key))
    known = isinstance(seconds, float) and math.isfinite(seconds) and seconds > 0
    return seconds if known else None


def remember(key: Sequence[object], seconds: float) -> None:
    """Store seconds, replacing those stored before."""
    _keep(key, float(seconds))


def recall_choice(key: Sequence[object]) -> str:
    """Choice stored under a key of plain JSON values; "" if there is none."""
    chosen = _all().get(_name(key))
    return chosen if isinstance(chosen, str) else ""


def remember_choice(key: Sequence[object], chosen: str) -> None:
    """Store a choice, replacing the one stored before."""
    _keep(key, chosen)


def _keep(key: Sequence[object], value: float | str) -> None:
    with suppress(StorageError):
        atomic_write_json(speeds_file(), {**_all(), _name(key): value})


def _name(key: Sequence[object]) -> str:
    return json.dumps(list(key), sort_keys=True)


def _all() -> dict[str, Any]:
    try:
        return parse_json(speeds_file().read_bytes(), dict[str, Any])
    except (OSError, ValueError):
        return {}
