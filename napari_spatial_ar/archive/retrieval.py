"""Retrieve series: each whole or not at all, and only what is not on the disk yet."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from napari_spatial_ar.archive.entries import InstanceEntry, SeriesEntry, check_uid
from napari_spatial_ar.archive.incoming import Incoming
from napari_spatial_ar.archive.interface import Archive, Transfer
from napari_spatial_ar.archive.jobs import back_off
from napari_spatial_ar.errors import ArchiveError, ArchiveUnreachable

__all__ = ["Retrieved", "get_series", "the_series"]

_RESUME = "What arrived is kept: run the same again to resume"


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A series that is on the disk, whole.

    Parameters
    ----------
    series : SeriesEntry
        The series.
    folder : Path
        Its files, and nothing else.
    instances : int
        How many there are.
    fetched : int
        How many of them were sent this time.
    """

    series: SeriesEntry
    folder: Path
    instances: int
    fetched: int


def the_series(archive: Archive, series_uid: str, study_uid: str = "") -> SeriesEntry:
    """Find the one series of a UID.

    Raises
    ------
    ArchiveError
        If there is none, or several in different studies.
    InputError
        If a UID is not valid.
    """
    series_uid = check_uid(series_uid, "series' UID")
    study_uid = check_uid(study_uid, "study's UID") if study_uid else ""
    found = {
        entry.study_uid: entry
        for entry in archive.find_series(study_uid, series_uid)
        if entry.series_uid == series_uid and study_uid in ("", entry.study_uid)
    }
    if not found:
        raise ArchiveError(
            f"{archive.url} has no such series", fix="Look it up again: it may have been deleted"
        )
    if len(found) > 1:
        raise ArchiveError(
            f"{archive.url} has {len(found)} series of this UID, in different studies",
            fix="Choose one with the UID of its study (--study)",
        )
    return next(iter(found.values()))


def get_series(
    archive: Archive, series: SeriesEntry, out: Path
) -> Generator[Transfer, None, Retrieved]:
    """Retrieve a series into a folder of its own.

    What fails for a passing reason is tried again, with growing pauses. Called again after it
    failed or was stopped, it retrieves the rest.

    Parameters
    ----------
    archive : Archive
        Where it is.
    series : SeriesEntry
        As found there.
    out : Path
        Gets the folder, named after a hash of UIDs, once all instances are there.

    Returns
    -------
    Retrieved

    Raises
    ------
    ArchiveError
        If the archive cannot deliver all that it lists, or delivers what does not belong to the
        series.
    InUseError
        If another process retrieves the series into the same folder.
    StorageError
        If it cannot be written.
    """
    incoming = Incoming(out, series.study_uid, series.series_uid)
    with incoming.reserved():
        attempt = 0
        error: ArchiveError | None = None
        listed: tuple[InstanceEntry, ...] = ()
        while True:
            before = incoming.received
            try:
                # Asked again once all have arrived: the archive may have got more meanwhile.
                before_that, listed = listed, _listed(archive, series, listed, incoming)
                missing = incoming.missing(listed)
                if not missing and _uids(listed) == _uids(before_that):
                    break
                if not missing:
                    continue
                yield Transfer(len(listed) - len(missing), len(listed), incoming.bytes)
                whole = len(missing) == len(listed)
                for _ in archive.fetch(series, missing, incoming.receive, whole=whole):
                    done = len(listed) - len(missing) + incoming.received - before
                    yield Transfer(min(done, len(listed)), len(listed), incoming.bytes)
                error = _unsent(archive, incoming, listed)
            except ArchiveUnreachable as failed:
                error = failed
            if error is None:
                continue
            # As long as something arrives, it is worth going on.
            attempt = 0 if incoming.received > before else attempt + 1
            if attempt > archive.retries:
                raise _resumable(error, incoming)
            yield from (
                Transfer(incoming.count, len(listed), incoming.bytes) for _ in back_off(attempt)
            )
        yield Transfer(len(listed), len(listed), incoming.bytes)
        folder = incoming.finish()
    return Retrieved(series, folder, len(listed), incoming.received)


def _listed(
    archive: Archive, series: SeriesEntry, before: tuple[InstanceEntry, ...], incoming: Incoming
) -> tuple[InstanceEntry, ...]:
    """List the instances of a series, or find that those listed before are still all.

    Raises
    ------
    ArchiveError
        If it is gone, or the archive counts more than it lists.
    """
    counted = None
    if before:
        if incoming.missing(before):
            return before
        current = archive.find_series(series.study_uid, series.series_uid)
        counted = current[0].instances if current else None
        if not current or counted == len(before):
            return before
    listed = archive.find_instances(series)
    if not listed:
        raise ArchiveError(
            f"{archive.url} no longer has this series", fix="Look it up again: it may be deleted"
        )
    if len(_uids(listed)) < len(listed):
        raise ArchiveError(
            f"{archive.url} lists two instances of the same UID in this series",
            fix="Ask its administrator to correct it",
        )
    if counted is not None and counted > len(listed) and not incoming.missing(listed):
        raise ArchiveError(
            f"{archive.url} counts {counted} images in the series, but lists {len(listed)} of them",
            fix="Wait until it has received the series, and look it up again",
        )
    return listed


def _uids(listed: tuple[InstanceEntry, ...]) -> set[str]:
    return {entry.sop_uid for entry in listed}


def _unsent(
    archive: Archive, incoming: Incoming, listed: tuple[InstanceEntry, ...]
) -> ArchiveError | None:
    left = len(incoming.missing(listed))
    if not left:
        return None
    return ArchiveError(f"{archive.url} did not send {left} of the {len(listed)} images it lists")


def _resumable(error: ArchiveError, incoming: Incoming) -> ArchiveError:
    """Return the error, with the advice to resume if anything was received."""
    if incoming.count == 0 or error.fix:
        return error
    return type(error)(error.what, fix=_RESUME)
