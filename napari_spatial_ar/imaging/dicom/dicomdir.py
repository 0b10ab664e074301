"""DICOMDIR: the table of contents of DICOM media (PS3.3 annex F, PS3.10)."""

from __future__ import annotations

import os
from pathlib import Path

import pydicom

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.guard import guard

__all__ = ["dicomdir_files", "is_dicomdir"]

_CLASS = b"1.2.840.10008.1.3.10"


def is_dicomdir(path: Path) -> bool:
    """Whether a file is a DICOMDIR, whatever its name."""
    if not os.path.isfile(path):  # a pipe would never end
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    at = head.find(_CLASS)
    follows = head[at + len(_CLASS) : at + len(_CLASS) + 1]
    return head[128:132] == b"DICM" and at >= 0 and follows not in b".0123456789"


def dicomdir_files(path: Path) -> list[Path]:
    """Files that a DICOMDIR names and that are there, in its order.

    Raises
    ------
    InputError
        If it cannot be read, or none of its files is there.
    """
    with guard(path, "is not a DICOMDIR that can be read: it is cut short or damaged"):
        records = pydicom.dcmread(path).get("DirectoryRecordSequence") or []
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
