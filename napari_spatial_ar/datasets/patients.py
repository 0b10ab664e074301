"""The patient that a file belongs to, according to its name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.reading import Source

__all__ = ["check_pattern", "groups_by_name"]

# Both eyes belong to one patient (1221_OD_o_2 -> 1221); else the last number is the slice's
# (vol000_0064 -> vol000).
_EYE = re.compile(r"[_\-. ](?:OD|OS|OI|OU)(?![A-Za-z0-9]).*$", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"[_\-. ]*[0-9]+$")


def groups_by_name(
    folder: Path, sources: Sequence[Source], patient_pattern: str | None
) -> dict[Path, str]:
    """Patient of each file that begins a volume or is an image, according to its name.

    For DICOM files it is read from the file (`patient_key`), unless there is a pattern.
    """
    check_pattern(patient_pattern)
    sources = [source for source in sources if source.format != "closed"]
    files = [f for s in sources for f in (s.files if s.format == "raster" else s.files[:1])]
    if patient_pattern is not None:
        return {file: _match(patient_pattern, file, folder) for file in files}
    formats = {file: source.format for source in sources for file in source.files}
    common = Path(os.path.commonpath([file.parent for file in files]))
    groups = {}
    for file in files:
        *subfolders, name = file.relative_to(common).parts
        if formats[file] == "dicom":
            continue
        if subfolders:
            groups[file] = subfolders[0]
        elif formats[file] == "nifti":
            groups[file] = name
        else:
            stem = Path(name).stem
            pattern = _EYE if _EYE.search(stem) else _LAST_NUMBER
            groups[file] = pattern.sub("", stem) or stem
    return groups


def check_pattern(pattern: str | None) -> None:
    """Check that a patient pattern is a regular expression (`InputError`), before reading files."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression ({error})") from error


def _match(pattern: str, file: Path, folder: Path) -> str:
    match = re.search(pattern, file.relative_to(folder).as_posix())
    if match is None:
        raise InputError(f"the patient pattern {pattern!r} does not match this file", path=file)
    return str(match.group(1) if match.re.groups else match.group(0))
