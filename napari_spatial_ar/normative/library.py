"""The available models: list and check them; rename, duplicate, delete, restore the user's own.

Every change is a single rename on one disk; anything slow is prepared in a folder whose name starts
with a dot, which is not listed. So a crash or a second program leaves each model intact, under its
old name or its new one. Models released with the package are never changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from napari_spatial_ar.errors import (
    InputError,
    ModelFileError,
    ModelVersionError,
    NameTakenError,
    SpatialARError,
    WeightsError,
    printable,
)
from napari_spatial_ar.imaging.files import (
    atomic_path,
    locked,
    remove_partial,
    storage_error,
    work_folder,
)
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import find_spec
from napari_spatial_ar.normative.backbones.weights import (
    at_hand,
    how_to_get,
    missing_weights_message,
)
from napari_spatial_ar.normative.model_file import MODEL_FILE, ModelHeader
from napari_spatial_ar.paths import (
    check_name_length,
    released_models_dir,
    user_models_dir,
)

__all__ = [
    "CARD",
    "ModelEntry",
    "State",
    "Trashed",
    "card_files",
    "check_entry",
    "check_model",
    "check_models",
    "copy_model",
    "delete_model",
    "duplicate_model",
    "find_model",
    "free_folder",
    "is_plain_name",
    "is_released",
    "list_entries",
    "list_models",
    "missing_backbone",
    "model_files",
    "new_model",
    "read_entry",
    "rename_model",
    "restore_model",
    "trained_backbone",
    "trained_on",
    "trashed_models",
]


State = Literal["unchecked", "ok", "weights", "version", "damaged"]

_OK = "Its content matches its sha256 and its backbone is on this machine: it can score."
_UNCHECKED = "Its content has not been compared with its sha256 yet: check it."


@dataclass(frozen=True)
class ModelEntry:
    """One model of the library, intact or not.

    Parameters
    ----------
    folder : Path
        Its folder, whose name is the model's.
    header : ModelHeader or None
        The header of its file; None if it cannot be read.
    state : {"unchecked", "ok", "weights", "version", "damaged"}
        ``"weights"``: its backbone's weights are missing or different. ``"version"``: it needs
        another version of this program.
    advice : str
        The state in a sentence or two, with what to do.
    written : datetime or None
        When its file was written here (UTC); None for a released one.
    sha256 : str
        Hash of its content; "" until it was read completely.
    damage : str or None
        Why its file cannot be used, with its path; None if no damage was found so far.
    needs : str or None
        See `missing_backbone`.
    """

    folder: Path
    header: ModelHeader | None = field(repr=False)
    state: State
    advice: str = field(repr=False)
    written: datetime | None = field(default=None, repr=False)
    sha256: str = field(default="", repr=False)
    damage: str | None = field(default=None, repr=False)
    needs: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.folder.name

    @property
    def file(self) -> Path:
        """The model file."""
        return self.folder / MODEL_FILE

    @property
    def released(self) -> bool:
        """Whether it came with the package."""
        return is_released(self.folder)

    @property
    def modality(self) -> str:
        """Modality it was trained on; "" if its header cannot be read."""
        return self.header.modality if self.header else ""

    @property
    def backbone(self) -> str:
        """Name of its backbone; "" if its header cannot be read."""
        return self.header.backbone.name if self.header else ""

    @property
    def method(self) -> str:
        """Its method; "" if its header cannot be read."""
        return self.header.method if self.header else ""

    @property
    def summary(self) -> str:
        """Size of its training set, in words."""
        return trained_on(self.header.training if self.header else {})


def trained_on(training: Mapping[str, Any]) -> str:
    """Say in words how much a model was trained on, from `ModelHeader.training`."""
    return f"{training.get('images', '?')} slices of {training.get('subjects', '?')} patients"


def model_files() -> list[Path]:
    """Model file of every model, intact or not: the user's, then the released ones.

    Anything else in the user's folder, and folders that cannot be read, are skipped.
    """
    found = []
    for root in (user_models_dir(), released_models_dir()):
        try:
            folders = sorted(root.iterdir()) if root and root.is_dir() else []
        except OSError:
            continue
        # Names that begin with a dot are unfinished copies, or the trash.
        found += [f / MODEL_FILE for f in folders if not f.name.startswith(".") and _holds(f)]
    return found


def _holds(folder: Path) -> bool:
    try:
        return (folder / MODEL_FILE).exists()
    except OSError:  # a folder without permission to read it
        return False


def list_entries() -> list[ModelEntry]:
    """All models, the user's and then the released ones, read by their headers only."""
    return [read_entry(file.parent) for file in model_files()]


def list_models() -> list[ModelEntry]:
    """Models that can be chosen by name: the first of each name, without damaged ones."""
    found: dict[str, ModelEntry] = {}
    for entry in list_entries():
        if entry.header is not None:
            found.setdefault(entry.name, entry)
    return list(found.values())


def read_entry(folder: Path) -> ModelEntry:
    """Read a model's header only: fast, but at best ``"unchecked"``."""
    return _entry(folder, lambda header: None)


def check_entry(folder: Path, *, weights: bool = False) -> ModelEntry:
    """Read a model completely and compare it with its sha256.

    Parameters
    ----------
    folder : Path
        The model's folder.
    weights : bool
        Whether to load its backbone too, if it is installed, and compare the weights' sha256.
    """

    def judge(header: ModelHeader) -> str:
        _, _, sha256 = model_file.read_detector(folder / MODEL_FILE)
        if weights and missing_backbone(header) is None:
            trained_backbone(header, folder.name, device="cpu")
        return sha256

    return _entry(folder, judge)


def check_models(name: str | Path | None = None) -> list[ModelEntry]:
    """Read models completely and compare their content with their sha256.

    Parameters
    ----------
    name : str or path, optional
        One model; by default all of the user's and all released ones, including damaged ones.

    Raises
    ------
    ModelFileError
        If there is no model of this name.
    """
    if name is None:
        return [check_entry(file.parent) for file in model_files()]
    own = user_models_dir() / str(name) / MODEL_FILE
    return [check_entry((own if own.is_file() else find_model(name)).parent)]


def _entry(folder: Path, judge: Callable[[ModelHeader], str | None]) -> ModelEntry:
    """Describe a model; ``judge`` returns its sha256 if it was read completely, or raises."""
    released = is_released(folder)
    written = header = damage = needs = sha256 = None
    if not released:
        with suppress(OSError):  # deleted in the meantime
            written = datetime.fromtimestamp((folder / MODEL_FILE).stat().st_mtime, UTC)
    state: State
    try:
        header, _ = model_file.read_header(folder / MODEL_FILE)
        sha256 = judge(header)
        needs = missing_backbone(header)
        state, advice = ("unchecked", _UNCHECKED) if sha256 is None else ("ok", _OK)
        if needs is not None:
            state = "weights" if find_spec(header.backbone.name) else "version"
            advice = needs
    except WeightsError as error:
        state, advice = "weights", _without_path(error)
    except ModelVersionError as error:
        state, advice, damage = "version", _without_path(error), str(error)
    except ModelFileError as error:
        repair = (
            "Install napari-spatial-ar again."
            if released
            else "Delete it, and import it again from where it came from, or fit it again."
        )
        state, advice, damage = "damaged", f"{_capital(error.what)}. {repair}", str(error)
    return ModelEntry(folder, header, state, advice, written, sha256 or "", damage, needs)


def _without_path(error: SpatialARError) -> str:
    """Return an error's sentence without its path, which readers of a list do not need."""
    return _capital(str(type(error)(error.what, fix=error.fix)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def find_model(path_or_name: str | Path) -> Path:
    """Model file for a path or name, as accepted by `load_model`; it may be damaged.

    Raises
    ------
    ModelFileError
        If there is no such model.
    """
    path = Path(path_or_name).expanduser()
    try:
        if path.is_dir():
            path = path / MODEL_FILE
        if path.is_file():
            return path
    except (OSError, ValueError):  # names that are invalid as paths
        pass
    named: dict[str, Path] = {}
    for file in model_files():
        named.setdefault(file.parent.name, file)
    if str(path_or_name) not in named:
        whole = ", ".join(info.name for info in list_models())
        raise ModelFileError(
            f"there is no model '{path_or_name}'",
            fix=f"Give a model's folder, or one of: {whole or 'none is installed'}",
        )
    return named[str(path_or_name)]


#: The model card's file; figures that it shows are PNG files beside it.
CARD = "README.md"


_TRASH = ".trash"


# Names that Windows reserves for devices.
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{d}{n}" for d in ("COM", "LPT") for n in range(1, 10))}


_STAMP = "%Y%m%dT%H%M%S%fZ"


def is_released(folder: str | Path) -> bool:
    """Whether a model's folder is one of those released with the package."""
    released = released_models_dir()
    return released is not None and Path(folder).resolve().parent == released.resolve()


def card_files(folder: Path) -> list[Path]:
    """Model card of a model's folder, and the figures beside it that the card shows."""
    card = folder / CARD
    if not card.is_file():
        return []
    text = card.read_text(encoding="utf-8", errors="replace")
    return [card, *(file for file in sorted(folder.glob("*.png")) if f"({file.name})" in text)]


def copy_model(source: Path, folder: Path) -> None:
    """Copy a model file with its card into a folder."""
    for file in (source, *card_files(source.parent)):
        with atomic_path(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)


def check_model(file: Path) -> None:
    """Read a model file completely, as for scoring.

    Raises
    ------
    ModelFileError
        If it is missing, damaged, of another version or of an unknown method.
    """
    model_file.read_detector(file)


def free_folder(name: str) -> Path:
    """Folder for a new model of the user's, after checking that its name is valid and free.

    Raises
    ------
    InputError
        If the name is invalid, or in use (`NameTakenError`).
    """
    if not is_plain_name(name):
        raise InputError(f"'{name}' is not a valid name", fix="Use letters, digits and hyphens")
    check_name_length(name)
    folder = user_models_dir() / name
    if (folder / MODEL_FILE).exists():
        raise _taken(folder)
    return folder


def is_plain_name(name: str) -> bool:
    """Whether a name is a valid folder name on every system, and printable."""
    return (
        bool(name)
        and name == name.strip(" .") == printable(name) == Path(name).name
        and not set(name) & set('<>:"/\\|?*')
        and name.partition(".")[0].upper() not in _DEVICES
    )


def _taken(folder: Path) -> NameTakenError:
    return NameTakenError(
        "a model of this name already exists", path=folder, fix="Choose another name"
    )


def _move(source: Path, target: Path) -> None:
    """Rename a folder; an existing folder is replaced only if it is empty."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
    except OSError as error:
        if target.exists():
            raise _taken(target) from error
        raise storage_error(error, target) from error


@contextmanager
def new_model(name: str) -> Iterator[Path]:
    """Provide a folder to build a model in, which becomes the user's model if the block succeeds.

    Parameters
    ----------
    name : str
        The model's name.

    Yields
    ------
    Path
        An empty folder that nothing lists; removed if the block raises.

    Raises
    ------
    InputError
        If the name is in use or invalid.
    StorageError
        If the disk is full or write-protected.
    """
    remove_partial(user_models_dir())
    target = free_folder(name)
    with work_folder(target.parent) as work:
        try:
            made = work / name
            made.mkdir()
            yield made
            _move(made, target)
        except OSError as error:
            raise storage_error(error, target) from error


def _own(name: str, verb: str) -> Path:
    """Folder of one of the user's models, which may be damaged."""
    plain = bool(name) and Path(name).name == name
    folder = user_models_dir() / name
    if plain and (folder / MODEL_FILE).is_file():
        return folder
    released = released_models_dir()
    if plain and released is not None and (released / name / MODEL_FILE).is_file():
        raise InputError(
            f"the model '{name}' came with the package and cannot be {verb}",
            fix="Duplicate it, and change the copy",
        )
    raise ModelFileError(
        f"there is no model '{name}' in your models", path=user_models_dir(), fix="See models list"
    )


def _check_unlocked(folder: Path) -> None:
    """Refuse a model that another process is fitting or calibrating (`InUseError`)."""
    with locked(folder):
        pass


def rename_model(name: str, new_name: str) -> Path:
    """Rename one of the user's models; returns its new folder.

    Raises
    ------
    InputError
        If the new name is in use or invalid, the model is a released one, or another process
        writes to it.
    ModelFileError
        If the user has no such model.
    """
    source, target = _own(name, "renamed"), free_folder(new_name)
    _check_unlocked(source)
    _move(source, target)
    return target


def duplicate_model(model: str | Path, new_name: str) -> Path:
    """Copy a model, released or not, with its card; returns the copy's folder.

    Raises
    ------
    InputError
        If the new name is in use or invalid.
    ModelFileError
        If there is no such model, or it is damaged.
    """
    source = find_model(model)
    check_model(source)
    with new_model(new_name) as folder:
        copy_model(source, folder)
    return user_models_dir() / new_name


@dataclass(frozen=True)
class Trashed:
    """A deleted model.

    Parameters
    ----------
    name : str
        Its name.
    deleted : datetime
        When it was deleted (UTC).
    folder : Path
        Its folder in the trash.
    """

    name: str
    deleted: datetime
    folder: Path


def trashed_models() -> list[Trashed]:
    """List deleted models, the latest first."""
    found = []
    for folder in (user_models_dir() / _TRASH).glob("*"):
        stamp, _, name = folder.name.partition("-")
        try:
            deleted = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
        except ValueError:
            continue  # not created by this program
        found.append(Trashed(name, deleted, folder))
    return sorted(found, key=lambda trashed: trashed.deleted, reverse=True)


def delete_model(name: str) -> Path:
    """Move one of the user's models to the trash; returns its folder there.

    Raises
    ------
    InputError
        If the model is a released one, or another process writes to it.
    ModelFileError
        If the user has no such model.
    """
    source = _own(name, "deleted")
    _check_unlocked(source)
    stamp = datetime.now(UTC).strftime(_STAMP)
    target = user_models_dir() / _TRASH / f"{stamp}-{name}"
    _move(source, target)
    return target


def restore_model(name: str, new_name: str | None = None) -> Path:
    """Restore the last deleted model of a name from the trash; returns its folder.

    Raises
    ------
    InputError
        If the trash has no such model, or the name is in use.
    """
    found = [trashed for trashed in trashed_models() if trashed.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(trashed.name for trashed in trashed_models()))
        raise InputError(
            f"there is no model '{name}' in the trash", fix=f"It holds: {names or 'nothing'}"
        )
    target = free_folder(new_name or name)
    _move(found[0].folder, target)
    return target


def missing_backbone(header: ModelHeader) -> str | None:
    """State what a model needs before it can score; None if its backbone is installed."""
    name = header.backbone.name
    spec = find_spec(name)
    if spec is None:
        return (
            f"It needs the backbone {name}, which is unknown here. Update napari-spatial-ar; or, "
            "if it is somebody's own backbone, add it with "
            f"'napari-spatial-ar weights add PATH --name {name}'."
        )
    spec = replace(spec, layers=header.backbone.layers)
    if at_hand(spec):
        return None
    return f"It cannot score: {missing_weights_message(spec)}. {how_to_get(spec)}."


def trained_backbone(
    header: ModelHeader,
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
) -> Backbone:
    """Load the backbone that a model was trained on.

    Parameters
    ----------
    header : ModelHeader
        Header of the model.
    name : str
        Name of the model, for errors.
    weights, device
        See `load_backbone`.

    Raises
    ------
    WeightsError
        If its weights are missing or are not those the model was trained on.
    """
    wanted = header.backbone
    backbone = load_backbone(wanted.name, weights, device, layers=wanted.layers, fuse=wanted.fuse)
    if backbone.sha256 != wanted.sha256:
        raise WeightsError(
            f"the model '{name}' was trained on other weights of {wanted.name} "
            f"(sha256 {wanted.sha256[:12]}..., these are {backbone.sha256[:12]}...)",
            path=backbone.source,
            fix="Get the weights it was trained on, or fit the model again",
        )
    return backbone
