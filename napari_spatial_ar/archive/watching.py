"""Watch an archive: score what is new once, and send the results, once.

A ledger holds one small file for each series, named by a hash of its UIDs. A series is retrieved
whole, scored, and noted as scored; its results are sent, and it is noted as sent. A watch that was
stopped in between, at any moment, goes on there. Only files that the archive does not have are
sent, so an answer that was lost leads to no second copy.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from napari_spatial_ar.archive.entries import SeriesEntry, StudyQuery
from napari_spatial_ar.archive.incoming import short_hash
from napari_spatial_ar.archive.interface import Archive
from napari_spatial_ar.archive.results import result_files
from napari_spatial_ar.archive.retrieval import get_series
from napari_spatial_ar.archive.sending import send
from napari_spatial_ar.errors import (
    ArchiveDenied,
    ArchiveError,
    ArchiveUnreachable,
    InputError,
    MemoryShortage,
)
from napari_spatial_ar.imaging.files import atomic_write_json, locked
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.json_schemas import WatchLedgerEntry, stamped
from napari_spatial_ar.normative.cancellation import check_cancelled

__all__ = ["Entry", "Ledger", "Score", "Watched", "holds_originals", "watch"]

State = Literal["scored", "sent", "failed", "left out"]
#: Scores the series in a folder into another folder, and returns why its results are not to be
#: sent, as a clause ("": they are); may raise `InputError`.
Score = Callable[[Path, Path], str]

_POLL_SECONDS = 0.2
_SERIES, _RESULTS, _LEDGER = "series", "results", "ledger"


@dataclass(frozen=True, slots=True)
class Entry:
    """A series in the ledger.

    Parameters
    ----------
    key : str
        Hash of the UIDs of study and series.
    state : {"scored", "sent", "failed", "left out"}
        How far it is. Failed ones are not tried again; those left out are localizers, computed
        images or other objects, or scans whose results are not to be sent.
    reason : str
        Why it failed or was left out, or what was refused.
    instances : int
        How many it had.
    sent : dict of str to str
        The archive's answer on each object of its results, by SOP Instance UID.
    finished : str
        When, ISO 8601 in UTC.
    """

    key: str
    state: State
    reason: str = ""
    instances: int = 0
    sent: dict[str, str] = field(default_factory=dict)
    finished: str = ""


class Ledger:
    """What is known of the series of an archive, in a folder.

    Parameters
    ----------
    folder : Path
        The folder, which also gets series on their way and results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entry(self, key: str) -> Entry | None:
        """Entry of a series; None without one, or if it is damaged."""
        try:
            return parse_json((self.folder / _LEDGER / f"{key}.json").read_bytes(), Entry)
        except (OSError, ValueError):
            return None

    def entries(self) -> list[Entry]:
        """All entries."""
        found = (self.entry(path.stem) for path in sorted((self.folder / _LEDGER).glob("*.json")))
        return [entry for entry in found if entry is not None]

    def add(self, entry: Entry) -> Entry:
        """Write an entry (`StorageError` if that is not possible)."""
        values: dict[str, Any] = {
            "key": entry.key,
            "state": entry.state,
            "reason": entry.reason,
            "instances": entry.instances,
            "sent": dict(entry.sent),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path = self.folder / _LEDGER / f"{entry.key}.json"
        atomic_write_json(path, stamped(WatchLedgerEntry, values))
        return Entry(**values)

    def results(self, key: str) -> Path:
        """Folder of the results of a series."""
        return self.folder / _RESULTS / key


@dataclass(frozen=True, slots=True)
class Watched:
    """News of a watch.

    Parameters
    ----------
    polls : int
        How often the archive was asked.
    entry : Entry or None
        A series that got further.
    doing : str
        What is being done: one word.
    done, total : int
        How far it is.
    trouble : str
        Why the archive could not be asked, or a series has to wait; the watch goes on.
    """

    polls: int
    entry: Entry | None = None
    doing: str = ""
    done: int = 0
    total: int = 0
    trouble: str = ""


def holds_originals(folder: Path) -> bool:
    """Whether a folder has at least one acquired image series: no localizer, map or capture.

    Raises
    ------
    InputError
        If nothing in it can be read.
    """
    return any(scan.role == "original" for scan in find_scans(folder).scans)


@dataclass
class _Watch:
    source: Archive
    target: Archive
    query: StudyQuery
    ledger: Ledger
    score: Score
    admits: Callable[[SeriesEntry], bool]
    settle: float
    polls: int = 0
    #: Series that are growing: how many instances they had, and since when.
    seen: dict[str, tuple[int | None, float]] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether a series has to stop growing before it is scored."""
        return any(self.ledger.entry(key) is None for key in self.seen)

    def poll(self) -> Generator[Watched, None, None]:
        """Do all that can be done now."""
        self.polls += 1
        trouble = ""
        try:
            studies = self.source.find_studies(self.query, limit=10_000).studies
            for study in studies:
                for series in self.source.find_series(study.study_uid):
                    check_cancelled()
                    yield Watched(self.polls)
                    if self.admits(series):
                        yield from self._series(series)
        except ArchiveUnreachable as error:
            trouble = str(error)
        yield Watched(self.polls, trouble=trouble)

    def _series(self, series: SeriesEntry) -> Generator[Watched, None, None]:
        key = short_hash(series.study_uid, series.series_uid)
        entry = self.ledger.entry(key)
        if entry is None and not self._settled(key, series):
            return
        if entry is None:
            entry = yield from self._scored(key, series)
            yield Watched(self.polls, entry)
        if entry.state == "scored":
            yield Watched(self.polls, (yield from self._sent(entry)))

    def _settled(self, key: str, series: SeriesEntry) -> bool:
        """Whether a series has not grown for a while."""
        now = time.monotonic()
        count, since = self.seen.get(key, (None, now))
        if count != series.instances or key not in self.seen:
            count, since = series.instances, now
        self.seen[key] = (count, since)
        return now - since >= self.settle

    def _scored(self, key: str, series: SeriesEntry) -> Generator[Watched, None, Entry]:
        folder = self.ledger.folder / _SERIES
        state: State = "scored"
        reason, instances = "", series.instances or 0
        try:
            steps = get_series(self.source, series, folder)
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    got = end.value
                    break
                yield Watched(self.polls, None, "retrieving", step.done, step.total)
            instances = got.instances
            if holds_originals(got.folder):
                yield Watched(self.polls, None, "scoring")
                reason = self.score(got.folder, self.ledger.results(key))
                state = "left out" if reason else "scored"
            else:
                state, reason = "left out", "it is no acquired image series"
        except (ArchiveUnreachable, ArchiveDenied):
            raise
        except (ArchiveError, InputError, MemoryShortage) as error:
            state, reason = "failed", error.what
        entry = self.ledger.add(Entry(key, state, reason, instances))
        shutil.rmtree(folder / key, ignore_errors=True)
        return entry

    def _sent(self, entry: Entry) -> Generator[Watched, None, Entry]:
        """Send the results of a series; entry stays scored if the archive cannot be reached."""
        try:
            files = result_files(self.ledger.results(entry.key))
        except InputError as error:
            return self.ledger.add(Entry(entry.key, "failed", error.what, entry.instances))
        steps = send(self.target, files)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                answers = end.value
                break
            yield Watched(self.polls, None, "sending", step.done, step.total)
        refused = [answer.reason for answer in answers if answer.state == "refused"]
        return self.ledger.add(
            Entry(
                entry.key,
                "failed" if refused else "sent",
                f"refused: {refused[0]}" if refused else "",
                entry.instances,
                {answer.file.sop_uid: answer.state for answer in answers},
            )
        )


def watch(
    source: Archive,
    target: Archive,
    query: StudyQuery,
    folder: Path,
    score: Score,
    *,
    admits: Callable[[SeriesEntry], bool],
    interval: float = 60.0,
    settle: float = 30.0,
    once: bool = False,
) -> Generator[Watched, None, None]:
    """Watch an archive until the generator is closed.

    Parameters
    ----------
    source, target : Archive
        Where scans come from, and where results go.
    query : StudyQuery
        Studies to look at, at each poll.
    folder : Path
        Ledger, results, and series on their way. It belongs to one watch at a time.
    score : callable
        See `Score`. What it writes as DICOM is sent, unless it returns why not.
    admits : callable
        Which of the series of these studies to score.
    interval : float
        Seconds from one poll to the next.
    settle : float
        Seconds for which a series must not have grown before it is scored.
    once : bool
        Stop after a poll that left nothing to wait for.

    Raises
    ------
    InUseError
        If another watch has this folder.
    ArchiveError
        If an archive refuses us; not if it cannot be reached, for which the watch waits.
    StorageError
        If the ledger or a series cannot be written.
    """
    work = _Watch(source, target, query, Ledger(folder), score, admits, settle)
    with locked(folder):
        while True:
            trouble = ""
            for news in work.poll():
                trouble = news.trouble
                yield news
            if once:
                if trouble:
                    raise ArchiveUnreachable(trouble)
                if not work.waits:
                    return
            pause = min(interval, settle) if work.waits else interval
            end = time.monotonic() + pause
            while time.monotonic() < end:
                check_cancelled()
                time.sleep(_POLL_SECONDS)
                yield Watched(work.polls)
