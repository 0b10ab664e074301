"""DICOMDIR: the table of contents of DICOM media (PS3.3 annex F, PS3.10)."""

from __future__ import annotations

import os
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.header import (
    is_deflated_head,
    is_dicomdir_head,
    read_whole_header,
)
from napari_spatial_ar.imaging.guard import guard

__all__ = ["dicomdir_files", "is_dicomdir"]


def is_dicomdir(path: Path) -> bool:
    """Whether a file is a DICOMDIR, whatever its name."""
    try:
        # A pipe would never end.
        return os.path.isfile(path) and is_dicomdir_head(_head(path))
    except OSError:
        return False


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(1024)


def dicomdir_files(path: Path) -> list[Path]:
    """Files that a DICOMDIR names and that are there, in its order.

    Raises
    ------
    InputError
        If it cannot be read, or none of its files is there.
    """
    with guard(path, "is not a DICOMDIR that can be read: it is cut short or damaged"):
        if is_deflated_head(_head(path)):
            # None is (PS3.10 8.6), and a few bytes can claim any number of records.
            raise InputError("is a DICOMDIR that is deflated, which is not read", path=path)
        records = read_whole_header(path).get("DirectoryRecordSequence") or []
        named = [record.get("ReferencedFileID") for record in records]
    root = path.resolve().parent
    files = []
    for parts in named:
        if not parts:
            continue
        steps = [parts] if isinstance(parts, str) else list(parts)
        file = root.joinpath(*map(str, steps)).resolve()
        # A table of contents names what lies beside it, and nothing else on this machine.
        if file.is_relative_to(root) and file.is_file():
            files.append(file)
    if not files:
        count = sum(1 for parts in named if parts)
        raise InputError(
            f"this table of contents names {count} files, and none of them is there",
            path=path,
            fix="Copy the whole disc or folder, not the DICOMDIR alone",
        )
    return files
