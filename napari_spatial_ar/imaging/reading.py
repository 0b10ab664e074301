"""Open scans: a file, several files or a folder, each format detected by content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.dicomdir import (
    check_dicomdir,
    dicomdir_files,
    is_dicomdir,
    lacks_files,
)
from napari_spatial_ar.imaging.dicom.series import (
    find_series,
    group_series,
    is_unread,
    warn_of_unread,
)
from napari_spatial_ar.imaging.gather import attempt, gather, left_out
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.images import image_infos
from napari_spatial_ar.imaging.itk_formats import ITK_SUFFIXES, find_itk
from napari_spatial_ar.imaging.nifti import find_nifti
from napari_spatial_ar.imaging.nifti_header import pair_header
from napari_spatial_ar.imaging.oct import OCT_SUFFIXES, find_oct
from napari_spatial_ar.imaging.raster import RASTER_SUFFIXES, find_stacks, natural_key
from napari_spatial_ar.imaging.scan import Scan, is_large
from napari_spatial_ar.imaging.signatures import kind_of

__all__ = ["Found", "Source", "find_scans", "find_sources", "read", "read_source", "scans_in"]

Format = Literal["nifti", "dicom", "raster", "itk", "oct", "packed", "dicomdir", "closed"]

_READABLE = "NIfTI, DICOM, PNG, JPEG, TIFF, BMP, NRRD, MetaImage and OCT (see docs) can be read"


@dataclass(frozen=True)
class Source:
    """Files that are read together: a NIfTI file, a DICOM series, the images of a folder.

    Or an item that is reported rather than skipped: a folder without permission ("closed"), a
    supported format compressed by gzip ("packed"), a DICOMDIR with missing files ("dicomdir").
    """

    format: Format
    files: tuple[Path, ...] = field(repr=False)


def _format_of(path: Path) -> Format | None:
    """Format by content, read once; by name only for a file too damaged to show one."""
    with suppress(OSError):
        if not path.is_file():  # a pipe or a device would never end
            return None
    kind = kind_of(path)
    if kind is None:
        return _FORMAT_OF_SUFFIX.get(_suffix(path))
    return kind


_FORMAT_OF_SUFFIX: dict[str, Format] = {
    **dict.fromkeys((".nii", ".nii.gz", ".hdr"), "nifti"),
    **dict.fromkeys((".dcm", ".ima"), "dicom"),
    **dict.fromkeys(RASTER_SUFFIXES, "raster"),
    **dict.fromkeys(ITK_SUFFIXES, "itk"),
    **dict.fromkeys(OCT_SUFFIXES, "oct"),
}


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _files_of(path: Path, closed: list[Path]) -> list[Path]:
    """Files behind a path: a DICOMDIR with its own, the file itself, or all in a folder.

    If a scan has two files (.hdr and .img), the one with the header is returned.
    """
    files = [*dicomdir_files(path), path] if is_dicomdir(path) else _files_under(path, closed)
    return [pair_header(file) or file for file in files]


def _files_under(path: Path, closed: list[Path]) -> list[Path]:
    """List the file itself, or all files of a folder and its sub-folders except hidden ones.

    Links to folders are not followed: they may be circular. Folders that cannot be opened are
    added to ``closed``.
    """
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise InputError("there is no such file or folder", path=path)
    except OSError as error:
        raise _closed(path) from error
    found: list[Path] = []

    def note(error: OSError) -> None:
        closed.append(Path(error.filename))

    for folder, subfolders, names in os.walk(path, onerror=note):
        subfolders[:] = [n for n in subfolders if not n.startswith((".", "__MACOSX"))]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found, key=natural_key)


def _closed(path: Path) -> InputError:
    return InputError("may not be opened", path=path, fix="Check its permissions")


def find_sources(path: str | Path | Sequence[str | Path]) -> list[Source]:
    """Find readable sources, without reading voxels.

    Parameters
    ----------
    path : path-like or sequence of path-like
        Files and folders; folders are searched recursively, without hidden files.

    Returns
    -------
    list of Source
        Ordered by name: NIfTI files, then DICOM series, folders of images, NRRD and MetaImage
        files, files of OCT scanners, and anything that cannot be read as it is. Other files are
        skipped.

    Raises
    ------
    InputError
        If a path does not exist, a folder is empty, or there is no image.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise InputError("no file was given")
    closed: list[Path] = []
    files = [file for p in paths for file in _files_of(p, closed)]
    if not files and not closed:
        raise InputError("the folder is empty", path=paths[0], fix="Choose a folder of scans")
    by_format: dict[Format | None, list[Path]] = {}
    for file in dict.fromkeys(files):
        by_format.setdefault(_format_of(file), []).append(file)
    sources = [Source("nifti", (file,)) for file in by_format.get("nifti", [])]
    sources += [Source("dicom", group) for group in group_series(by_format.get("dicom", []))]
    sources += [Source("raster", group) for group in _by_folder(by_format.get("raster", []))]
    sources += [Source("itk", (file,)) for file in by_format.get("itk", [])]
    sources += [Source("oct", (file,)) for file in by_format.get("oct", [])]
    sources += [Source("packed", (file,)) for file in by_format.get("packed", [])]
    sources += [Source("dicomdir", (f,)) for f in by_format.get("dicomdir", []) if lacks_files(f)]
    if closed and not sources:
        raise _closed(closed[0])
    if not sources:
        what = "is not an image" if files == paths else "there is no image in it"
        raise InputError(what, path=paths[0], fix=_READABLE)
    return sources + [Source("closed", (folder,)) for folder in closed]


def _by_folder(files: Iterable[Path]) -> list[tuple[Path, ...]]:
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    return [tuple(group) for group in folders.values()]


@dataclass(frozen=True)
class Found:
    """Contents of files and folders: scans, and why some have none."""

    scans: tuple[Scan, ...]
    errors: tuple[InputError, ...] = ()


def scans_in(source: Source) -> list[Scan]:
    """Find the scans of one source by their headers.

    Raises
    ------
    InputError
        If there is no readable scan.
    """
    with guard(source.files[0]):
        return _find(source)


def _find(source: Source) -> list[Scan]:
    if source.format == "dicom":
        return find_series(source.files)
    if source.format == "closed":
        raise _closed(source.files[0])
    if source.format == "dicomdir":
        check_dicomdir(source.files[0])
    if source.format == "packed":
        raise InputError(
            "is compressed with gzip, which is supported only for NIfTI",
            path=source.files[0],
            fix="Unpack it",
        )
    if source.format == "raster":
        return find_stacks(source.files)
    find_in_file = {"nifti": find_nifti, "itk": find_itk, "oct": find_oct}[source.format]
    return find_in_file(source.files[0])


def find_scans(path: str | Path | Sequence[str | Path]) -> Found:
    """Find every scan in a file, several files or a folder, without reading voxels.

    Parameters
    ----------
    path : path-like or sequence of path-like
        As for `read`.

    Returns
    -------
    Found
        At least one scan.

    Raises
    ------
    InputError
        As for `read`.
    """
    scans, errors, left_out_of_stacks = _find_all(path)
    return Found(tuple(scans), (*errors, *left_out_of_stacks))


def _find_all(
    path: str | Path | Sequence[str | Path],
) -> tuple[list[Scan], list[InputError], list[InputError]]:
    """Return scans, why sources have none, and why images beside others cannot be read.

    The first scan's warnings already report the latter, without their names.
    """
    sources = find_sources(path)
    groups, errors = attempt(partial(scans_in, source) for source in sources)
    scans = [scan for group in groups for scan in group]
    dicom = {s.files[0] for s in sources if s.format == "dicom" and len(s.files) == 1}
    unread = [e.path for e in errors if e.path in dicom and is_unread(e.path)]
    held = {file for scan in scans for file in scan.series.files}
    stacks = [s for s in sources if s.format == "raster" and not held.isdisjoint(s.files)]
    pictures = [file for stack in stacks for file in stack.files if file not in held]
    return warn_of_unread(scans, unread), errors, [e for e in map(_why_unread, pictures) if e]


def _why_unread(picture: Path) -> InputError | None:
    """Error of an image that is in no stack; None if it can be read after all."""
    try:
        with guard(picture):
            image_infos(picture)
    except InputError as error:
        return error
    return None


def read_source(source: Source) -> list[Scan]:
    """Read the files of one source.

    Raises
    ------
    InputError
        If nothing in it can be read.
    """
    return _read_all(scans_in(source))


def _read_all(scans: Sequence[Scan]) -> list[Scan]:
    """Read scans, slice by slice on demand if together they are large."""
    lazy = True if is_large(sum(scan.size for scan in scans)) else None

    def one(scan: Scan) -> list[Scan]:
        return [scan.read(lazy=lazy)]

    return gather(partial(one, scan) for scan in scans)


def read(path: str | Path | Sequence[str | Path]) -> list[Scan]:
    """Read every scan in a file, several files or a folder.

    Parameters
    ----------
    path : path-like or sequence of path-like
        NIfTI, DICOM, PNG, JPEG, TIFF, BMP, NRRD, MetaImage or OCT files, or folders of them;
        detected by content.

    Returns
    -------
    list of Scan
        Each 3-D scan of a NIfTI file or a DICOM series and each folder of equal images is one
        volume. If some could not be read, the first volume's ``warnings`` report it. If they are
        large (see `napari_spatial_ar.imaging.scan.is_large`), slices are read on demand.

    Raises
    ------
    InputError
        If the path does not exist, a folder is empty or has no image, or nothing in it can
        be read (then the first error).
    """
    (first, *others), errors, _ = _find_all(path)
    return _read_all([first.warn(*left_out(errors)), *others])
