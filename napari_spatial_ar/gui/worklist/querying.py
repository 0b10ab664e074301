"""Lists the scans that a query finds in an archive, each as soon as it was retrieved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import replace

from napari_spatial_ar.archive.entries import series_for
from napari_spatial_ar.archive.watching import holds_originals
from napari_spatial_ar.errors import (
    ArchiveDenied,
    ArchiveError,
    ArchiveUnreachable,
    InputError,
    StorageError,
)
from napari_spatial_ar.gui.archive.asking import ArchiveQuery, opened, retrieval
from napari_spatial_ar.gui.worklist.listing import Listed, list_steps, record_steps, row_message
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.report.data import report_message
from napari_spatial_ar.review.worklist.entries import Entry
from napari_spatial_ar.review.worklist.store import WorklistStore

__all__ = ["query_steps"]


def query_steps(
    stop: threading.Event,
    query: ArchiveQuery,
    modality: str,
    store: WorklistStore,
    model: Callable[[], ScoringModel | None],
) -> Generator[Listed | str, None, int]:
    """Retrieve the series of a query one after the other: yields as `list_steps` does.

    Entries come with their stored results. A series that cannot be retrieved is an entry that
    says why, and the others follow.

    Parameters
    ----------
    query : ArchiveQuery
        What to find.
    modality : str
        Modality of the model; series of others are not retrieved. "" for any.
    store : WorklistStore
        Stored results.
    model : callable
        Returns the model whose results are wanted at the moment.

    Returns
    -------
    int
        Number of series that are no acquired ones.

    Raises
    ------
    InputError
        If the query is not valid, or more studies match than an archive lists at once.
    ArchiveError
        If the archive cannot be reached.
    """
    yield f"Asking {query.archive}..."
    asked, admits, excluded = query.asked(), series_for(modality), 0
    taken: dict[str, int] = {}
    with opened(stop, query.archive) as archive:
        found = archive.find_studies(asked)
        if found.more:
            raise InputError(
                f"more than {len(found.studies)} studies match the query", fix="Ask for fewer"
            )
        wanted = [
            series
            for study in found.studies
            if not stop.is_set()
            for series in archive.find_series(study.study_uid)
            if admits(series)
        ]
        for number, series in enumerate(wanted, 1):
            what = f"series {number} of {len(wanted)}"
            try:
                folder = yield from retrieval(stop, archive, series, what)
                if folder is None:
                    return excluded
                if not holds_originals(folder):
                    excluded += 1
                    continue
                listed = [
                    step for step in list_steps(stop, [str(folder)]) if not isinstance(step, str)
                ]
            except (ArchiveUnreachable, ArchiveDenied):
                raise
            except (ArchiveError, InputError, StorageError) as error:
                entry = Entry(f"!{number}", "Not retrieved", series.description)
                yield Listed(entry.failed(row_message(error), report_message(error)), None)
                continue
            for at, one in enumerate(listed):
                yield _known(stop, one, f"!{number}.{at}", taken, store, model())
        yield "" if wanted else f"No series of the query in {query.archive} suits the model."
    return excluded


def _known(
    stop: threading.Event,
    one: Listed,
    trouble: str,
    taken: dict[str, int],
    store: WorklistStore,
    model: ScoringModel | None,
) -> Listed:
    """Give an entry a key of its own, and its stored results."""
    if one.scan is None:
        return replace(one, entry=replace(one.entry, key=trouble))
    key = one.entry.key
    taken[key] = taken.get(key, 0) + 1
    entry = replace(one.entry, key=f"{key}-{taken[key]}" if taken[key] > 1 else key)
    return Listed(next(record_steps(stop, [entry], store, model), entry), one.scan)
