"""Watch an archive: score what is new once, and send the results, once.

A ledger holds one small file for each series, named by a hash of its UIDs. A series is retrieved
whole, scored, and noted as scored; its results are sent, and it is noted as sent. A watch that was
stopped in between, at any moment, goes on there. Only files that the archive does not have are
sent, so an answer that was lost leads to no second copy.

No protocol states that a series is complete. It is taken to be once its number of instances has not
changed for a while; if more arrive later all the same, it is scored again in the same way, and
the new results supersede those that were sent.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from napari_spatial_ar.archive.entries import SeriesEntry, StudyQuery
from napari_spatial_ar.archive.incoming import HIDDEN, short_hash
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
_MOST_STUDIES = 10_000
_SERIES, _RESULTS, _LEDGER = "series", "results", "ledger"


@dataclass(frozen=True, slots=True)
class Entry:
    """A series in the ledger.

    Parameters
    ----------
    key : str
        Hash of the UIDs of study and series.
    state : {"scored", "sent", "failed", "left out"}
        How far it is. Failed ones are not tried again unless they grow; those left out are
        localizers, computed images or other objects, or scans whose results are not to be sent.
    reason : str
        Why it failed or was left out, or what was refused.
    instances : int
        How many it had.
    sent : dict of str to str
        The archive's answer on each object of its results, by SOP Instance UID; also on those
        that later ones supersede.
    finished : str
        When, ISO 8601 in UTC.
    """

    key: str
    state: State
    reason: str = ""
    instances: int = 0
    sent: dict[str, str] = field(default_factory=dict)
    finished: str = ""

    @property
    def reached(self) -> bool:
        """Whether the archive has any of the results."""
        return any(state != "refused" for state in self.sent.values())


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
        paths = sorted((self.folder / _LEDGER).glob("[0-9a-f]*.json"))
        found = (self.entry(path.stem) for path in paths)
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
        Why the archive could not be asked, or a series not be retrieved; the watch goes on.
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
    query: Callable[[], StudyQuery]
    ledger: Ledger
    score: Score
    admits: Callable[[SeriesEntry], bool]
    settle: float
    polls: int = 0
    #: Series that may be growing: how many instances they had, and since when.
    waiting: dict[str, tuple[int, float]] = field(default_factory=dict)

    def poll(self) -> Generator[Watched, None, None]:
        """Do all that can be done now."""
        self.polls += 1
        trouble = ""
        before, self.waiting = self.waiting, {}
        try:
            found = self.source.find_studies(self.query(), limit=_MOST_STUDIES)
            if found.more:
                raise InputError(
                    f"more than {_MOST_STUDIES} studies match the query",
                    fix="Ask for fewer, such as those of some days",
                )
            for study in found.studies:
                for series in self.source.find_series(study.study_uid):
                    check_cancelled()
                    yield Watched(self.polls)
                    if self.admits(series):
                        yield from self._series(series, before)
        except ArchiveUnreachable as error:
            trouble = str(error)
            self.waiting = before | self.waiting
        yield Watched(self.polls, trouble=trouble)

    def _series(
        self, series: SeriesEntry, before: dict[str, tuple[int, float]]
    ) -> Generator[Watched, None, None]:
        key = short_hash(series.study_uid, series.series_uid)
        entry = self.ledger.entry(key)
        if entry is not None and entry.state == "scored":
            # Some of it may have been sent when this was stopped: what supersedes it comes later.
            entry = yield from self._sent(entry)
            yield Watched(self.polls, entry)
        count = self._count(series)
        if entry is not None and count <= entry.instances:
            return
        now = time.monotonic()
        counted, since = before.get(key, (count, now))
        if counted != count:
            since = now
        if now - since < self.settle:
            self.waiting[key] = (count, since)
            return
        entry = yield from self._scored(key, series, count, entry)
        if entry is None:
            return
        yield Watched(self.polls, entry)
        if entry.state == "scored":
            yield Watched(self.polls, (yield from self._sent(entry)))

    def _count(self, series: SeriesEntry) -> int:
        """Count the instances of a series, if the archive has not."""
        if series.instances is not None:
            return series.instances
        return len(self.source.find_instances(series))

    def _scored(
        self, key: str, series: SeriesEntry, instances: int, earlier: Entry | None
    ) -> Generator[Watched, None, Entry | None]:
        """Score a series; None if it has been deleted meanwhile."""
        sent = {} if earlier is None else earlier.sent
        folder = self.ledger.folder / _SERIES
        state: State = "scored"
        reason = ""
        if earlier is not None and not earlier.reached:
            # Nobody has seen these results: the new ones are the first reading.
            shutil.rmtree(self.ledger.results(key), ignore_errors=True)
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
            if isinstance(error, ArchiveError) and self._is_gone(series):
                shutil.rmtree(folder / f"{HIDDEN}{key}", ignore_errors=True)
                yield Watched(self.polls, trouble=str(error))
                return None
            state, reason = "failed", error.what
        entry = self.ledger.add(Entry(key, state, reason, instances, sent))
        shutil.rmtree(folder / key, ignore_errors=True)
        return entry

    def _is_gone(self, series: SeriesEntry) -> bool:
        return not self.source.find_series(series.study_uid, series.series_uid)

    def _sent(self, entry: Entry) -> Generator[Watched, None, Entry]:
        """Send the results of a series; entry stays scored if the archive cannot be reached."""
        try:
            files = result_files(self.ledger.results(entry.key))
        except InputError as error:
            failed = replace(entry, state="failed", reason=error.what)
            return self.ledger.add(failed)
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
                entry.sent | {answer.file.sop_uid: answer.state for answer in answers},
            )
        )


def watch(
    source: Archive,
    target: Archive,
    query: Callable[[], StudyQuery],
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
    query : callable
        Returns the studies to look at, at each poll: "today" is another day after midnight.
    folder : Path
        Ledger, results, and series on their way. It belongs to one watch at a time.
    score : callable
        See `Score`. What it writes as DICOM is sent, unless it returns why not. It is called again,
        with the same folder for results, for a series that has grown.
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
    InputError
        If the query matches more studies than can be watched.
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
                if not work.waiting:
                    return
            pause = min(interval, settle) if work.waiting else interval
            end = time.monotonic() + pause
            while time.monotonic() < end:
                check_cancelled()
                time.sleep(_POLL_SECONDS)
                yield Watched(work.polls)
