"""DICOMDIR: the table of contents of DICOM media (PS3.3 annex F, PS3.10)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.header import (
    is_deflated_head,
    is_dicomdir_head,
    read_whole_header,
)
from napari_spatial_ar.imaging.guard import guard

__all__ = ["check_dicomdir", "dicomdir_files", "is_dicomdir", "lacks_files"]

_WHOLE = "Copy the whole disc or folder, with every file that the DICOMDIR names"


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
    """Existing files listed in a DICOMDIR, in its order.

    Raises
    ------
    InputError
        If it cannot be read, or none of its files exists.
    """
    found = _named(path)
    files = [file for file in found if file is not None]
    if not files:
        raise InputError(
            f"this table of contents lists {len(found)} files, none of which exists",
            path=path,
            fix=_WHOLE,
        )
    return files


def check_dicomdir(path: Path) -> None:
    """Check that all files of a DICOMDIR exist: a partly copied series would look complete.

    Raises
    ------
    InputError
        If it cannot be read, or some of its files are missing.
    """
    found = _named(path)
    if missing := found.count(None):
        raise InputError(
            f"this table of contents lists {len(found)} files, and {missing} of them "
            f"{'is' if missing == 1 else 'are'} missing",
            path=path,
            fix=_WHOLE,
        )


def lacks_files(path: Path) -> bool:
    """Whether a DICOMDIR lists files that do not exist; one that cannot be read lists none."""
    try:
        return None in _named(path)
    except InputError:
        return False


def _named(path: Path) -> list[Path | None]:
    """Each file listed in a table; None if it does not exist."""
    with guard(path, "is not a DICOMDIR that can be read: it is cut short or damaged"):
        if is_deflated_head(_head(path)):
            # No DICOMDIR is deflated (PS3.10 8.6), and a few bytes could claim any number of
            # records.
            raise InputError("is a deflated DICOMDIR, which is not supported", path=path)
        records = read_whole_header(path).get("DirectoryRecordSequence") or []
        root = path.resolve().parent
        return [_beside(root, parts) for r in records if (parts := r.get("ReferencedFileID"))]


def _beside(root: Path, parts: str | Sequence[str]) -> Path | None:
    """File named by a record, if it exists; never a file outside the folder of the table."""
    steps = [parts] if isinstance(parts, str) else list(parts)
    with suppress(OSError, ValueError, RuntimeError):  # an invalid name, circular links
        file = root.joinpath(*map(str, steps)).resolve()
        if file.is_relative_to(root) and file.is_file():
            return file
    return None
