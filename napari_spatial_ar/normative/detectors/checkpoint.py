"""Checkpoints of training: named tensors, an optimizer's moments, and a record as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from napari_spatial_ar.imaging.files import atomic_path
from napari_spatial_ar.imaging.json_text import parse_json

__all__ = ["Checkpoint", "Record", "read_checkpoint", "write_checkpoint"]

_METADATA_KEY = "napari-spatial-ar-checkpoint"
_OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class Record:
    """What a checkpoint says of itself; methods add fields.

    Parameters
    ----------
    key : str
        Digest of everything that the training depends on.
    """

    key: str


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Checkpoint(Generic[R]):
    """A checkpoint that was read: its record, and its tensors by name."""

    record: R
    tensors: Mapping[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """Tensors that were written as this group."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Restore the moments of an optimizer of the same parameters."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self.group(_OPTIMIZER).items():
            index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})


def write_checkpoint(
    path: Path,
    record: Record,
    optimizer: torch.optim.Optimizer,
    **groups: Mapping[str, Tensor],
) -> None:
    """Write a safetensors file; one that was there is replaced as a whole.

    Parameters
    ----------
    path : Path
        The file.
    record : Record
        A dataclass of JSON values.
    optimizer : torch.optim.Optimizer
        Its moments are written.
    **groups : mapping of str to Tensor
        Tensors, in groups by name.
    """
    for index, moments in optimizer.state_dict()["state"].items():
        named = {f"{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        groups[_OPTIMIZER] = {**groups.get(_OPTIMIZER, {}), **named}
    tensors = {
        f"{group}.{key}": tensor.detach().cpu().contiguous()
        for group, named in groups.items()
        for key, tensor in named.items()
    }
    data = save(tensors, metadata={_METADATA_KEY: json.dumps(asdict(record))})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_checkpoint(path: Path | None, kind: type[R], key: str) -> Checkpoint[R] | None:
    """Read a checkpoint of this key; None if there is none, or only another or a damaged one."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            record = parse_json((file.metadata() or {}).get(_METADATA_KEY, "{}"), kind)
        return Checkpoint(record, load_file(path)) if record.key == key else None
    except (SafetensorError, OSError, ValueError):
        return None
