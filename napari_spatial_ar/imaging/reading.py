"""Opening scans: a file, several files or a folder, each told by its content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom import group_series, is_dicom, read_series
from napari_spatial_ar.imaging.gather import gather
from napari_spatial_ar.imaging.nifti import is_nifti, read_nifti
from napari_spatial_ar.imaging.raster import RASTER_SUFFIXES, is_raster, natural_key, read_stack
from napari_spatial_ar.imaging.volume import Volume

__all__ = ["Source", "find_sources", "read", "read_source"]

Format = Literal["nifti", "dicom", "raster"]


@dataclass(frozen=True)
class Source:
    """Files that are read together: a NIfTI file, a DICOM series, the pictures of a folder."""

    format: Format
    files: tuple[Path, ...] = field(repr=False)


def _format_of(path: Path) -> Format | None:
    """Format by content; by name only for a file too damaged to show one."""
    name = path.name.lower()
    if is_nifti(path):
        return "nifti"
    if is_dicom(path):
        return "dicom"
    if is_raster(path):
        return "raster"
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    if name.endswith((".dcm", ".ima")):
        return "dicom"
    return "raster" if name.endswith(RASTER_SUFFIXES) else None


def _files_under(path: Path) -> list[Path]:
    """List the file itself, or all files of a folder and its sub-folders but hidden ones."""
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise InputError("there is no such file or folder", path=path)
    except OSError as error:
        raise InputError("may not be opened", path=path, fix="Check its permissions") from error
    found: list[Path] = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = [n for n in subfolders if not n.startswith((".", "__MACOSX"))]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found, key=natural_key)


def find_sources(path: str | Path | Sequence[str | Path]) -> list[Source]:
    """Find what there is to read, without reading voxels.

    Parameters
    ----------
    path : path-like or sequence of path-like
        Files and folders; folders are searched to the bottom, hidden files left out.

    Returns
    -------
    list of Source
        Ordered by name: NIfTI files, then DICOM series, then folders of pictures.

    Raises
    ------
    InputError
        If a path does not exist, a folder is empty, or there is no image.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise InputError("no file was given")
    files = [file for p in paths for file in _files_under(p)]
    if not files:
        raise InputError("the folder is empty", path=paths[0], fix="Choose a folder of scans")
    by_format: dict[Format | None, list[Path]] = {}
    for file in dict.fromkeys(files):
        by_format.setdefault(_format_of(file), []).append(file)
    sources = [Source("nifti", (file,)) for file in by_format.get("nifti", [])]
    sources += [Source("dicom", group) for group in group_series(by_format.get("dicom", []))]
    sources += [Source("raster", group) for group in _by_folder(by_format.get("raster", []))]
    if not sources:
        what = "is not an image" if files == paths else "there is no image in it"
        raise InputError(
            what, path=paths[0], fix="NIfTI, DICOM, PNG, JPEG, TIFF and BMP can be read"
        )
    return sources


def _by_folder(files: Iterable[Path]) -> list[tuple[Path, ...]]:
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    return [tuple(group) for group in folders.values()]


def read_source(source: Source) -> list[Volume]:
    """Read the files of one source.

    Raises
    ------
    InputError
        If nothing in it can be read.
    """
    if source.format == "nifti":
        return [read_nifti(source.files[0])]
    return read_series(source.files) if source.format == "dicom" else read_stack(source.files)


def read(path: str | Path | Sequence[str | Path]) -> list[Volume]:
    """Read every scan in a file, several files or a folder.

    Parameters
    ----------
    path : path-like or sequence of path-like
        NIfTI, DICOM, PNG, JPEG, TIFF or BMP files, or folders of them; told by content.

    Returns
    -------
    list of Volume
        Each NIfTI file, each DICOM series and each folder of equal pictures is one volume.
        If some could not be read, the first volume's ``warnings`` say so.

    Raises
    ------
    InputError
        If the path does not exist, a folder is empty or holds no image, or nothing in it can
        be read (then the first error met).
    """
    return gather(partial(read_source, source) for source in find_sources(path))
