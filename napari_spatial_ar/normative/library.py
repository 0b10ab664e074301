"""The user's models as a library: rename, duplicate, delete and restore, check.

Every change is one rename on one disk, after whatever takes long was made in a folder whose name
starts with a dot and which nothing lists. So a crash or a second program leaves each model whole,
under its old name or its new one. Models released with the package are never changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from napari_spatial_ar.errors import InputError, ModelFileError, NameTakenError, printable
from napari_spatial_ar.imaging.files import (
    atomic_path,
    claimed,
    remove_partial,
    storage_error,
    work_folder,
)
from napari_spatial_ar.normative import model_file
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
    "CheckedModel",
    "ModelInfo",
    "Trashed",
    "card_files",
    "check_model",
    "check_models",
    "copy_model",
    "delete_model",
    "duplicate_model",
    "find_model",
    "free_folder",
    "is_plain_name",
    "is_released",
    "list_models",
    "missing_backbone",
    "model_files",
    "new_model",
    "rename_model",
    "restore_model",
    "trashed_models",
    "unreadable_models",
]


@dataclass(frozen=True)
class ModelInfo:
    """One line of a list of models."""

    name: str
    path: Path
    modality: str
    backbone: str
    method: str
    summary: str
    header: ModelHeader | None = None


def model_files() -> list[Path]:
    """Model file of every model, whole or not: the user's and then those released.

    What else lies in the user's folder, or cannot be looked into, is passed over.
    """
    found = []
    for root in (user_models_dir(), released_models_dir()):
        try:
            folders = sorted(root.iterdir()) if root and root.is_dir() else []
        except OSError:
            continue
        # Those that begin with a dot are copies that are not finished, or the trash.
        found += [f / MODEL_FILE for f in folders if not f.name.startswith(".") and _holds(f)]
    return found


def _holds(folder: Path) -> bool:
    try:
        return (folder / MODEL_FILE).exists()
    except OSError:  # a folder that may not be looked into
        return False


def list_models() -> list[ModelInfo]:
    """Models in the user's folder and those released with the package; damaged ones left out."""
    found: dict[str, ModelInfo] = {}
    for path in model_files():
        try:
            header, _ = model_file.read_header(path)
        except ModelFileError:
            continue
        training = header.training
        found.setdefault(
            path.parent.name,
            ModelInfo(
                name=path.parent.name,
                path=path,
                modality=header.modality,
                backbone=header.backbone.name,
                method=header.method,
                summary=f"{training.get('images', '?')} slices of "
                f"{training.get('subjects', '?')} patients",
                header=header,
            ),
        )
    return list(found.values())


def unreadable_models() -> list[tuple[Path, str]]:
    """Model files that `list_models` leaves out, and why."""
    found = []
    for path in model_files():
        try:
            model_file.read_header(path)
        except ModelFileError as error:
            found.append((path, str(error)))
    return found


def find_model(path_or_name: str | Path) -> Path:
    """Model file of a path or name, as `load_model` takes it; it may be damaged.

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
    except (OSError, ValueError):  # of names that can be none
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


#: The model card's file; pictures that it shows stand beside it as PNG.
CARD = "README.md"


_TRASH = ".trash"


# Names that Windows keeps for devices.
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{d}{n}" for d in ("COM", "LPT") for n in range(1, 10))}


_STAMP = "%Y%m%dT%H%M%S%fZ"


def is_released(folder: str | Path) -> bool:
    """Whether a model's folder is among those that came with the package."""
    released = released_models_dir()
    return released is not None and Path(folder).resolve().parent == released.resolve()


def card_files(folder: Path) -> list[Path]:
    """Model card of a model's folder, and the pictures beside it that the card shows."""
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
    """Read a model file whole, as scoring would.

    Raises
    ------
    ModelFileError
        If it is missing, damaged, of another version or of a method that is not known.
    """
    model_file.read_detector(file)


def free_folder(name: str) -> Path:
    """Folder that a new model of the user's gets, once its name is seen to be good and free.

    Raises
    ------
    InputError
        If it is no name, or taken (`NameTakenError`).
    """
    if not is_plain_name(name):
        raise InputError(f"'{name}' is no name for a model", fix="Use letters, digits and hyphens")
    check_name_length(name)
    folder = user_models_dir() / name
    if (folder / MODEL_FILE).exists():
        raise _taken(folder)
    return folder


def is_plain_name(name: str) -> bool:
    """Whether a name can be a folder's on every system, and be printed."""
    return (
        bool(name)
        and name == name.strip(" .") == printable(name) == Path(name).name
        and not set(name) & set('<>:"/\\|?*')
        and name.partition(".")[0].upper() not in _DEVICES
    )


def _taken(folder: Path) -> NameTakenError:
    return NameTakenError(
        "a model of this name is there already", path=folder, fix="Choose another name"
    )


def _move(source: Path, target: Path) -> None:
    """Rename a folder; an existing one that holds anything is never replaced."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
    except OSError as error:
        if target.exists():
            raise _taken(target) from error
        raise storage_error(error, target) from error


@contextmanager
def new_model(name: str) -> Iterator[Path]:
    """Give a folder to make a model in, which becomes the user's model when the block ends well.

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
        If the name is taken or is no name.
    StorageError
        If the disk is full or may not be written to.
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


def _see_unclaimed(folder: Path) -> None:
    """Refuse a model that another process is fitting or calibrating (`InUseError`)."""
    with claimed(folder):
        pass


def rename_model(name: str, new_name: str) -> Path:
    """Rename one of the user's models; gives its new folder.

    Raises
    ------
    InputError
        If the new name is taken or is no name, the model is a released one, or another process
        writes to it.
    ModelFileError
        If the user has no such model.
    """
    source, target = _own(name, "renamed"), free_folder(new_name)
    _see_unclaimed(source)
    _move(source, target)
    return target


def duplicate_model(model: str | Path, new_name: str) -> Path:
    """Copy a model, released or not, with its card; gives the copy's folder.

    Raises
    ------
    InputError
        If the new name is taken or is no name.
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
        Where it lies now.
    """

    name: str
    deleted: datetime
    folder: Path


def trashed_models() -> list[Trashed]:
    """List deleted models, the last one first."""
    found = []
    for folder in (user_models_dir() / _TRASH).glob("*"):
        stamp, _, name = folder.name.partition("-")
        try:
            deleted = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
        except ValueError:
            continue  # not put there by this program
        found.append(Trashed(name, deleted, folder))
    return sorted(found, key=lambda trashed: trashed.deleted, reverse=True)


def delete_model(name: str) -> Path:
    """Move one of the user's models to the trash; gives its folder there.

    Raises
    ------
    InputError
        If the model is a released one, or another process writes to it.
    ModelFileError
        If the user has no such model.
    """
    source = _own(name, "deleted")
    _see_unclaimed(source)
    stamp = datetime.now(UTC).strftime(_STAMP)
    target = user_models_dir() / _TRASH / f"{stamp}-{name}"
    _move(source, target)
    return target


def restore_model(name: str, new_name: str | None = None) -> Path:
    """Take the last deleted model of a name back out of the trash; gives its folder.

    Raises
    ------
    InputError
        If the trash holds no such model, or the name is taken meanwhile.
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
    """Say what a model needs before it can score; None where its backbone is at hand."""
    name = header.backbone.name
    spec = find_spec(name)
    if spec is None:
        return (
            f"It needs the backbone {name}, which this version does not know. Update "
            "napari-spatial-ar; or, if it is one that somebody brought, add it by "
            f"'napari-spatial-ar weights add PATH --name {name}'."
        )
    spec = replace(spec, layers=header.backbone.layers)
    if at_hand(spec):
        return None
    return f"It cannot score: {missing_weights_message(spec)}. {how_to_get(spec)}."


@dataclass(frozen=True)
class CheckedModel:
    """What was found of one model.

    Parameters
    ----------
    name : str
        Its name.
    sha256 : str
        As its file says; "" where that cannot be read.
    damage : str or None
        What is wrong with its file.
    needs : str or None
        See `missing_backbone`.
    """

    name: str
    sha256: str
    damage: str | None
    needs: str | None


def check_models(name: str | Path | None = None) -> list[CheckedModel]:
    """Read models whole and compare their content with their sha256.

    Parameters
    ----------
    name : str or path, optional
        One model; by default all of the user's and all released ones, damaged ones too.

    Raises
    ------
    ModelFileError
        If there is no model of this name.
    """
    if name is not None:
        own = user_models_dir() / str(name) / MODEL_FILE
        return [_check(own if own.is_file() else find_model(name))]
    return [_check(file) for file in model_files()]


def _check(file: Path) -> CheckedModel:
    try:
        header, _, sha256 = model_file.read_detector(file)
    except ModelFileError as error:
        return CheckedModel(file.parent.name, "", str(error), None)
    return CheckedModel(file.parent.name, sha256, None, missing_backbone(header))
