"""Lists a folder's scans for a worklist in a worker, with their stored results."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.thumbnails import thumbnail
from napari_spatial_ar.errors import InputError, SpatialARError
from napari_spatial_ar.gui.jobs import sentence
from napari_spatial_ar.gui.open_scan import columns
from napari_spatial_ar.imaging.reading import Found, find_sources, scans_in
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.report.data import report_message
from napari_spatial_ar.review.worklist.entries import Entry, Summary
from napari_spatial_ar.review.worklist.store import WorklistStore, model_key, scan_key

__all__ = ["Listed", "list_steps", "record_steps", "row_message", "thumbnail_steps"]


#: Key of a scan and its picture, (rows, columns) uint8.
Thumbnail = tuple[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Listed:
    """A scan that was found, or a file without one."""

    entry: Entry
    scan: Scan | None


def row_message(error: Exception) -> str:
    """One sentence for the row of a scan: like `sentence`, without folders."""
    if not isinstance(error, SpatialARError) or error.path is None:
        return sentence(error, "Scoring")
    return str(SpatialARError(error.what, path=error.path.name, fix=error.fix))


def list_steps(
    stop: threading.Event, paths: Sequence[str], found: Found | None = None
) -> Generator[Listed | str, None, int]:
    """Find scans by their headers: yields `Listed`, and lines for the user.

    Localizers and derived series are skipped if there is any other scan.

    Returns
    -------
    int
        Number of skipped series.

    Raises
    ------
    InputError
        As for `find_sources`.
    """
    yield "Searching for scans..."
    scans, errors = (list(found.scans), list(found.errors)) if found else ([], [])
    for source in find_sources(list(paths)) if found is None else ():
        if stop.is_set():
            return 0
        try:
            scans += scans_in(source)
        except InputError as error:
            errors.append(error)
        yield f"Searching for scans: {len(scans)} so far..."
    wanted = [scan for scan in scans if scan.role == "original"] or scans
    taken: dict[str, int] = {}
    for scan in wanted:
        if stop.is_set():
            return 0
        try:
            key = scan_key(scan)
        except InputError as error:
            errors.append(error)
            continue
        taken[key] = taken.get(key, 0) + 1
        if taken[key] > 1:  # the same scan twice
            key = f"{key}-{taken[key]}"
        label, description, *_ = columns(scan)
        yield Listed(Entry(key, label, description, scan.geometry.slice_count), scan)
    for number, trouble in enumerate(errors, start=1):
        name = trouble.path.name if trouble.path is not None else ""
        entry = Entry(f"!{number}", "Not read", name)
        yield Listed(entry.failed(row_message(trouble), report_message(trouble)), None)
    return len(scans) - len(wanted)


def record_steps(
    stop: threading.Event,
    entries: Sequence[Entry],
    store: WorklistStore,
    model: ScoringModel | None,
) -> Generator[Entry, None, None]:
    """Load the stored results of scans, for a model or (None) for none."""
    for entry in entries:
        if stop.is_set():
            return
        known = store.record(entry.key, "" if model is None else model_key(model))
        found = replace(
            entry,
            reading=known.reading,
            done=known.done,
            state="waiting",
            summary=Summary(),
            trouble="",
            reason="",
        )
        if known.summary is not None:
            found = found.scored(known.summary)
        elif known.failure:
            found = found.failed(known.failure, known.failure)
        yield found


def thumbnail_steps(
    stop: threading.Event, scans: Sequence[tuple[str, Scan]]
) -> Generator[Thumbnail, None, None]:
    """Draw thumbnails: yields key and (rows, columns) uint8. Unreadable scans are skipped."""
    for key, scan in scans:
        if stop.is_set():
            return
        try:
            yield key, thumbnail(scan)
        except InputError:
            continue
