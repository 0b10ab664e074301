"""Read many items of which some may be bad."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.guard import one_source
from napari_spatial_ar.imaging.scan import Scan

__all__ = ["attempt", "gather", "left_out", "note_errors", "safe_name"]

logger = logging.getLogger(__name__)
# Words in file names given by scanners and archives.
_SAFE_WORDS = {
    *("im", "img", "image", "i", "slice", "mr", "ct", "pt", "oct", "frame", "series", "page"),
    *("dcm", "dicom", "ima", "nii", "gz", "png", "jpg", "jpeg", "tif", "tiff", "bmp", "nrrd"),
    *("mha", "mhd", "hdr", "vol", "fda", "fds"),
}
T = TypeVar("T")


def attempt(calls: Iterable[Callable[[], T]]) -> tuple[list[T], list[InputError]]:
    """Make all calls; return the results of the good ones, in order, and the others' errors.

    Any exception of a call counts as an error of that call only (see `one_source`).

    Raises
    ------
    InputError
        The first error, if no call succeeded.
    """
    results: list[T] = []
    errors: list[InputError] = []
    for call in calls:
        try:
            with one_source(None):
                results.append(call())
        except InputError as error:
            errors.append(error)
    if errors and not results:
        raise errors[0]
    if errors:
        logger.info("left out %d inputs that could not be read", len(errors))
    return results, errors


def left_out(errors: Sequence[InputError]) -> tuple[str, ...]:
    """Sentence on how many inputs were excluded and why the first was; none if none were.

    The first is named if its name is safe (see `safe_name`); no folder is mentioned.
    """
    if not errors:
        return ()
    count = "1 input is" if len(errors) == 1 else f"{len(errors)} inputs are"
    name = "" if errors[0].path is None else safe_name(errors[0].path)
    first = f"of the first, {name}" if name else "of the first"
    return (f"{count} left out; the reason ({first}): {errors[0].what}.",)


def safe_name(path: Path) -> str:
    """Name of a file that merely numbers it, such as IM-0001.dcm; "" for any other.

    Warnings are written into reports, and other names may contain a patient's name or ID.
    """
    parts = re.findall(r"[^\W\d_]+|[0-9]+", path.name)
    numbers = [part.lstrip("0") for part in parts if part.isdecimal()]
    words = {part.lower() for part in parts if not part.isdecimal()}
    plain = len(path.name) <= 32 and path.name.isascii() and path.name.isprintable()
    safe = plain and words <= _SAFE_WORDS and all(len(number) <= 4 for number in numbers)
    return path.name if safe and numbers else ""


def note_errors(volumes: list[Scan], errors: Sequence[InputError]) -> list[Scan]:
    """Add `left_out` to the warnings of the first volume."""
    first, *others = volumes
    return [replace(first, warnings=(*first.warnings, *left_out(errors))), *others]


def gather(readers: Iterable[Callable[[], Sequence[Scan]]]) -> list[Scan]:
    """Volumes of all readers that succeed, in order, the first one noting those that did not.

    Raises
    ------
    InputError
        The first error, if no reader succeeded.
    """
    groups, errors = attempt(readers)
    return note_errors([volume for group in groups for volume in group], errors)
