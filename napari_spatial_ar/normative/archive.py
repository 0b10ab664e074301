"""A model as one file, for sharing: a zip of the model file, its card and the card's figures."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.imaging.files import atomic_path, check_room
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.library import (
    CARD,
    card_files,
    check_model,
    find_model,
    is_plain_name,
    new_model,
)
from napari_spatial_ar.normative.model_file import MODEL_FILE
from napari_spatial_ar.paths import user_models_dir

__all__ = ["export_model", "unpack_model"]

_MB = 1 << 20
# Limits on what an archive may unpack to: a full memory bank of a large dataset has some GB.
_LARGEST_MODEL = 64 * 1024 * _MB
_LARGEST_BESIDE = 32 * _MB
_MOST_FILES = 64
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def export_model(
    model: str | Path, target: str | Path, *, pictures: bool = True, overwrite: bool = False
) -> Path:
    """Write a model with its card and figures into one file.

    Parameters
    ----------
    model : str or path
        See `load_model`.
    target : path
        The archive; ``.zip`` is added if it has no suffix.
    pictures : bool
        Whether to include the figures of the card: they show slices of normal scans.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path
        The archive.

    Raises
    ------
    InputError
        If the file exists already.
    ModelFileError
        If there is no such model, or it is damaged.
    StorageError
        If it cannot be written.
    """
    source = find_model(model)
    model_file.read(source)
    target = Path(target)
    target = target if target.suffix else target.with_suffix(".zip")
    if target.exists() and not overwrite:
        raise InputError("this file already exists", path=target, fix="Choose another name")
    beside = [f for f in card_files(source.parent) if pictures or f.suffix != ".png"]
    called = source.parent.name if is_plain_name(source.parent.name) else "model"
    # Tensors do not compress; storing them uncompressed is faster.
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in (source, *beside):
            archive.write(file, f"{called}/{file.name}")
    return target


def unpack_model(path: Path, name: str | None = None) -> Path:
    """Import a model from an archive into the user's models.

    Parameters
    ----------
    path : Path
        An archive written by `export_model`.
    name : str, optional
        The model's new name; by default that in the archive.

    Returns
    -------
    Path
        The new model file.

    Raises
    ------
    InputError
        If the name is in use or invalid.
    ModelFileError
        If the archive is damaged, contains unexpected or too large files, or its model is damaged,
        of another version or of a method unknown to this version.
    StorageError
        If the disk has no room for its contents.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members, called = _members(archive, path)
            name = name or called
            check_room(
                sum(member.file_size for member in members),
                user_models_dir(),
                "the files in the archive",
            )
            with new_model(name) as folder:
                for member in members:
                    _extract(archive, member, folder / PurePosixPath(member.filename).name)
                check_model(folder / MODEL_FILE)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ModelFileError(
            "the archive is damaged", path=path, fix="Copy it again from where it came from"
        ) from error
    except ModelFileError as error:
        # The unpacked copy has been deleted; the user knows only the archive.
        raise ModelFileError(error.what, path=path, fix=error.fix) from error
    return user_models_dir() / name / MODEL_FILE


def _members(archive: zipfile.ZipFile, path: Path) -> tuple[list[zipfile.ZipInfo], str]:
    """List the files to unpack, and the model's name, which is that of the only folder."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    folders = {PurePosixPath(member.filename).parent.as_posix() for member in members}
    names = [PurePosixPath(member.filename).name for member in members]
    (folder,) = folders if len(folders) == 1 else ("",)
    # A single plain folder name: nothing can be written outside the new model's folder.
    plain = all(map(is_plain_name, (folder, *names)))
    # Some file systems are not case-sensitive.
    plain &= len({n.casefold() for n in names}) == len(names)
    plain &= all(member.compress_type in _PACKED for member in members)
    known = all(n in (MODEL_FILE, CARD) or Path(n).suffix == ".png" for n in names)
    if not (plain and known and MODEL_FILE in names and len(names) <= _MOST_FILES):
        raise ModelFileError(
            "it is no exported model, which is one folder with the model, its card and figures",
            path=path,
            fix="Export the model again with 'models export'",
        )
    for member in members:
        if member.file_size > _limit(member.filename):
            raise ModelFileError(f"a file in it is too large ({member.file_size} bytes)", path=path)
    return members, folder


def _limit(name: str) -> int:
    return _LARGEST_MODEL if PurePosixPath(name).name == MODEL_FILE else _LARGEST_BESIDE


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write one file, checking that it has exactly the size listed in the directory."""
    with (
        atomic_path(target) as temporary,
        archive.open(member) as source,
        temporary.open("wb") as file,
    ):
        while True:
            try:
                data = source.read(_MB)
            except OSError as error:  # from reading the archive, not from writing the file
                raise zipfile.BadZipFile(str(error)) from error
            file.write(data)
            if not data:
                break
        if file.tell() != member.file_size:
            raise zipfile.BadZipFile("the size of a file differs from the directory")
