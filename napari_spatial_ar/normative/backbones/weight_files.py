"""Reading weights from files, whoever wrote them: told by content, and never unpickled."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from napari_spatial_ar.errors import WeightsError
from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.normative.backbones.weight_layouts import Rounding

__all__ = [
    "check_kind",
    "read_json",
    "read_metadata",
    "read_rounding",
    "read_weights",
    "write_rounded",
]

# Key of the JSON of a `Rounding` in the metadata of a safetensors file.
_ROUNDING = "napari-spatial-ar-rounding"
_META_HASH = re.compile(r"-([0-9a-f]{8})\.pth$")
# What a .pth begins with: a zip archive, or the pickle that torch wrote before 1.6.
_PTH = (b"PK\x03\x04", b"\x80\x02")
# Where training code puts the tensors: the teacher is what DINO's authors publish.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "teacher")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors from a file without unpickling objects.

    Parameters
    ----------
    path : Path
        Safetensors, a PyTorch file (``.pth``, ``.pt``, ``.bin``) of tensors, or the
        ``.index.json`` of one that was saved in several parts. Where a ``.pth`` is named as Meta
        names it (``...-xxxxxxxx.pth``), those 8 digits must begin its SHA-256.

    Raises
    ------
    WeightsError
        If the file is damaged, holds more than tensors, its hash is not that of its name, or a
        part is missing.
    """
    kind = check_kind(path)
    if kind == "parts":
        return _read_parts(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    named = _META_HASH.search(path.name)
    if named:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if not actual.startswith(named.group(1)):
            raise WeightsError(
                f"its sha256 begins with {actual[:8]}, its name says {named.group(1)}",
                path=path,
                fix="The file is damaged or was changed: download it again",
            )
    return _read_pth(path)


def check_kind(path: Path) -> Literal["parts", "safetensors", "pth"]:
    """Tell which kind of weights a file holds, by its first bytes.

    Raises
    ------
    WeightsError
        If it holds none, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise WeightsError(f"it cannot be read ({error.strerror})", path=path) from error
    if path.name.endswith(".index.json"):
        return "parts"
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            "it is a Git LFS pointer, which stands for the weights", path=path, fix=_DOWNLOAD
        )
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    if not start.startswith(_PTH):
        raise WeightsError(
            "it holds no weights: neither safetensors nor a PyTorch file", path=path, fix=_DOWNLOAD
        )
    return "pth"


_DOWNLOAD = "Download the file of weights itself"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # of kinds of numbers that torch does not have, among others
        raise WeightsError(
            f"not a whole safetensors file ({error})", path=path, fix="Download it again"
        ) from error


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Read weights that were saved in several parts, which lie beside their index."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise WeightsError("it is no index of weights", path=index)
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(part) for part in places.values()}):
        part = index.parent / name
        if Path(name).name != name or not part.is_file():
            raise WeightsError(
                f"its part {name} is not there",
                path=index,
                fix="Download all parts into one folder",
            )
        tensors |= read_weights(part)
    missing = sorted(set(places) - tensors.keys())
    if missing:
        raise WeightsError(f"its parts lack {missing[0]}", path=index, fix="Download them again")
    return tensors


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in every way
        raise WeightsError(
            "not a whole file of plain tensors", path=path, fix="Download it again"
        ) from error
    if isinstance(loaded, dict):
        for wrapper in _WRAPPERS:
            inner = loaded.get(wrapper)
            if isinstance(inner, dict):
                loaded = inner
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise WeightsError("it holds no tensors", path=path, fix="Check that it is a weights file")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object (`WeightsError` if it is none)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError("it is not readable JSON", path=path, fix="Download it again") from error
    if not isinstance(content, dict):
        raise WeightsError("it is not a JSON object", path=path, fix="Download it again")
    return content


def read_metadata(path: Path, key: str) -> dict[str, Any] | None:
    """Read a JSON object from the metadata of a safetensors file; None where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {}).get(key, "null"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None  # another kind of file, or a damaged one, of which reading it tells
    return content if isinstance(content, dict) else None


def read_rounding(path: Path) -> Rounding | None:
    """Read what a weights file is a rounded copy of; None where it does not say that it is one."""
    try:
        return Rounding(**(read_metadata(path, _ROUNDING) or {}))
    except TypeError:
        return None


def write_rounded(path: Path, state: dict[str, Tensor], rounding: Rounding) -> None:
    """Write rounded weights with what `read_rounding` reads."""
    from safetensors.torch import save

    metadata = {_ROUNDING: json.dumps(asdict(rounding), sort_keys=True)}
    atomic_write_bytes(path, save(state, metadata=metadata))
