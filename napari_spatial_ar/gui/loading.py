"""Finding and reading scans step by step, for workers: nothing here touches a layer."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui.display_windows import Drawn, opening_window
from napari_spatial_ar.imaging.gather import left_out
from napari_spatial_ar.imaging.reading import Found, find_scans
from napari_spatial_ar.imaging.scan import Scan, is_large
from napari_spatial_ar.imaging.volume import Volume

__all__ = ["LOOKING", "Loaded", "Warned", "find_steps", "read_steps"]

#: What is said meanwhile.
LOOKING = "Looking for scans..."


@dataclass(frozen=True)
class Loaded:
    """A scan that can be shown.

    Parameters
    ----------
    volume : Volume
        The scan; a large one has read only what the display window needed.
    drawn : Drawn
        Its display window.
    """

    volume: Volume
    drawn: Drawn


@dataclass(frozen=True)
class Warned:
    """A sentence that the user should see."""

    text: str


def find_steps(stop: threading.Event, paths: Sequence[str]) -> Generator[str, None, Found]:
    """Look for scans by their headers.

    Raises
    ------
    InputError
        As for `find_scans`.
    """
    yield LOOKING
    return find_scans(list(paths))


def read_steps(
    stop: threading.Event, scans: Sequence[Scan], errors: Sequence[InputError] = ()
) -> Generator[Any, None, None]:
    """Read scans: before each a line for the user is yielded, after it `Loaded`.

    What cannot be read is left out, and a `Warned` says so at the end; ``errors`` are those met
    earlier.

    Raises
    ------
    InputError
        The first error, if no scan could be read.
    """
    lazy = True if is_large(sum(scan.size for scan in scans)) else None
    failed: list[InputError] = []
    for number, scan in enumerate(scans, start=1):
        if stop.is_set():
            return
        yield f"Reading {number} of {len(scans)}..." if len(scans) > 1 else "Reading..."
        try:
            volume = scan.read(lazy=lazy)
            drawn = opening_window(volume)
        except InputError as error:
            failed.append(error)
            continue
        if not stop.is_set():
            yield Loaded(volume, drawn)
    if failed and len(failed) == len(scans):
        raise failed[0]
    for sentence in left_out([*errors, *failed]):
        yield Warned(sentence)
