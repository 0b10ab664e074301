"""Scores the scans of a worklist in the background: start, pause, resume, cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.errors import (
    Cancelled,
    InUseError,
    ModelFileError,
    StorageError,
    WeightsError,
)
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.jobs import Task, TaskHost, report
from napari_spatial_ar.gui.open_scan import ReadStep, read_steps
from napari_spatial_ar.gui.worklist.listing import record_steps, row_message
from napari_spatial_ar.gui.worklist.table import WorklistModel
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.cancellation import cancel_when
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.report.data import report_message
from napari_spatial_ar.review.worklist.entries import Entry, Summary, order_of_need
from napari_spatial_ar.review.worklist.scoring import MaskRule, score_steps, summarise
from napari_spatial_ar.review.worklist.store import (
    Marks,
    WorklistStore,
    model_key,
)

__all__ = [
    "Plan",
    "Scored",
    "StoredScan",
    "WorklistRunner",
    "open_steps",
    "save_steps",
    "scoring_steps",
]

_LOOK_SECONDS = 0.1


# Interval of checks for a scan that another window has reserved.
_ELSEWHERE_SECONDS = 1.0


# Errors that every scan would meet, so that the first ends the run.
_HOPELESS = (WeightsError, ModelFileError, StorageError)


@dataclass(frozen=True)
class StoredScan:
    """The stored results of a scan: scores, and the reader's verdicts."""

    scores: ScanScores
    marks: Marks


@dataclass(frozen=True)
class Scored:
    """Progress of a scan: started or continued, scored, failed, or set aside."""

    key: str
    done: int = 0
    slices: int = 0
    summary: Summary | None = None
    trouble: str = ""
    reason: str = ""
    ended: bool = False


@dataclass
class Plan:
    """What to score next: set by the window, read by the worker.

    Attributes are only replaced, never modified in place.

    Parameters
    ----------
    queue : tuple of (str, Scan)
        In the order of need.
    held : frozenset of str
        Scans open in the viewer: they are scored there.
    rule : MaskRule
        Defines findings.
    """

    queue: tuple[tuple[str, Scan], ...] = ()
    held: frozenset[str] = frozenset()
    rule: MaskRule = field(default_factory=MaskRule)
    at_work: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def hold(self, key: str) -> None:
        """Keep the worker off a scan; a current one is set aside after the slice."""
        with self._lock:
            self.held = self.held | {key}

    def release(self, key: str) -> None:
        """Release a scan to the worker again."""
        with self._lock:
            self.held = self.held - {key}

    def take(self, but: set[str]) -> tuple[str, Scan] | None:
        """Take the scan that is needed most, except those that were tried."""
        with self._lock:
            left = [pair for pair in self.queue if pair[0] not in self.held | but]
            self.at_work = left[0][0] if left else ""
            return left[0] if left else None

    def set_down(self) -> None:
        """Report that no scan is being scored."""
        self.at_work = ""


def scoring_steps(
    stop: threading.Event,
    go: threading.Event,
    plan: Plan,
    model: ScoringModel,
    store: WorklistStore,
) -> Generator[Scored, None, None]:
    """Score the queue of the plan, one scan in memory at a time, until it is empty.

    A scan that cannot be read or scored is reported and stored as failed, and the others follow; a
    scan reserved by another window is tried last. The fastest engine is used, and measured first
    if that was never done.

    Raises
    ------
    WeightsError, ModelFileError, StorageError
        An error that every other scan would meet too.
    InputError
        If the environment variable names an engine that does not exist.
    """
    if not _wait(stop, go):
        return
    try:
        with cancel_when(stop.is_set):
            model_access.choose_engine(model)
    except Cancelled:
        return
    tried: set[str] = set()
    elsewhere: set[str] = set()
    while _wait(stop, go):
        job = plan.take(tried | elsewhere)
        if job is None:
            if not elsewhere:
                return
            elsewhere.clear()
            stop.wait(_ELSEWHERE_SECONDS)
            continue
        key, scan = job
        try:
            with store.hold(key):
                steps = score_steps(model, scan, key, store, partial(getattr, plan, "rule"))
                if (yield from _one(stop, go, plan, key, steps)):
                    tried.add(key)
        except InUseError:
            elsewhere.add(key)
        except _HOPELESS:
            yield Scored(key, ended=True)
            raise
        except Cancelled:
            tried.add(key)
            yield Scored(key, ended=True)
        except Exception as error:  # noqa: BLE001 - a scan's trouble is its own
            tried.add(key)
            sentences = row_message(error), report_message(error)
            with suppress(StorageError):  # then it is merely tried again
                store.save_failure(key, model_key(model), sentences[1])
            yield Scored(key, trouble=sentences[0], reason=sentences[1], ended=True)
        finally:
            plan.set_down()


def _wait(stop: threading.Event, go: threading.Event) -> bool:
    """Wait while paused; False if it should stop."""
    while not stop.is_set() and not go.wait(_LOOK_SECONDS):
        pass
    return not stop.is_set()


def _one(
    stop: threading.Event,
    go: threading.Event,
    plan: Plan,
    key: str,
    steps: Generator[tuple[int, int], None, Summary],
) -> Generator[Scored, None, bool]:
    """Score the slices of a scan; returns whether it is scored completely."""
    while not stop.is_set() and key not in plan.held:
        if not go.wait(_LOOK_SECONDS):
            continue
        try:
            done, slices = next(steps)
        except StopIteration as end:
            yield Scored(key, summary=end.value, ended=True)
            return True
        yield Scored(key, done, slices)
    steps.close()
    yield Scored(key, ended=True)
    return False


def open_steps(
    stop: threading.Event,
    plan: Plan,
    key: str,
    scan: Scan,
    store: WorklistStore,
    model: ScoringModel | None,
    hold: ExitStack,
    read: bool = True,
) -> Generator[ReadStep, None, StoredScan | None]:
    """Read a scan (yields like `read_steps`), then its stored results by a model.

    On reading, ``hold`` reserves it for this window from then on.

    Returns
    -------
    StoredScan or None
        None without a model.

    Raises
    ------
    InputError
        If it cannot be read, has no slices of the model's plane, or another window has it
        (`InUseError`).
    """
    # Its scores so far are on disk, and it is not reserved any more, once the worker has set it
    # aside.
    while plan.at_work == key and not stop.is_set():
        time.sleep(_LOOK_SECONDS)
    if stop.is_set():
        return None
    if read:
        hold.enter_context(store.hold(key))
        if stop.is_set():  # just now: it would never be released
            hold.close()
            return None
        yield from read_steps(stop, [scan])
    if model is None:
        return None
    plane = model.plane
    geometry = scan.geometry
    if plane is not None and plane != geometry.plane:
        geometry = geometry.along(plane)
    by = model_key(model)
    scores = store.load_scores(key, by, geometry) or ScanScores.empty(geometry)
    return StoredScan(scores, store.load_marks(key, by, geometry.shape))


def save_steps(
    stop: threading.Event,
    key: str,
    store: WorklistStore,
    model: ScoringModel,
    volume: Scan,
    scores: ScanScores,
    rule: MaskRule,
) -> Generator[None, None, Summary | None]:
    """Store the scores computed in the viewer.

    Returns
    -------
    Summary or None
        None if slices remain.
    """
    yield
    summary = None if scores.left else summarise(model, volume, scores, rule)
    store.save_scores(key, model_key(model), scores, summary)
    return summary


_OPEN = ("waiting", "scoring")


class WorklistRunner(QObject):
    """Keeps the rows in step with the stored results and the worker.

    Parameters
    ----------
    rows : WorklistModel
        The scans.
    tasks : TaskHost
        Runs the scoring.
    store : WorklistStore
        Stores the results.
    """

    #: The available actions changed.
    changed = Signal()
    #: An error that ended the scoring, as a sentence; "" when it resumes.
    stopped = Signal(str)

    def __init__(self, rows: WorklistModel, tasks: TaskHost, store: WorklistStore, parent: QObject):
        super().__init__(parent)
        self._rows = rows
        self._tasks = tasks
        self._store = store
        self.plan = Plan()
        self.model: ScoringModel | None = None
        self.open_key = ""
        #: Whether the user has started the scoring.
        self.wanted = False
        self._go = threading.Event()
        self._task: Task | None = None
        self._lookup: Task | None = None
        self._ready = self._again = self._busy = False
        self._began = 0.0
        self._slices = 0

    @property
    def running(self) -> bool:
        """Whether a worker exists, running or paused."""
        return self._task is not None

    @property
    def seconds_left(self) -> float | None:
        """Remaining time at the speed so far; None while unknown."""
        if not self._slices or not self._go.is_set():
            return None
        left = sum(e.slices - e.done for e in self._rows.entries if e.state in _OPEN)
        return (time.monotonic() - self._began) / self._slices * left

    # ------------------------------------------------------------------ actions of the user

    def start(self) -> None:
        """Score the remaining scans, or resume after a pause."""
        self.wanted = True
        self.stopped.emit("")
        self.refresh()

    def pause(self) -> None:
        """Pause after the current slice."""
        self.wanted = False
        self.refresh()

    def cancel(self) -> None:
        """Stop after the current slice; scores so far are kept."""
        self.wanted = False
        if self._task is not None:
            self._task.stop()
        self.refresh()

    def try_again(self) -> None:
        """Score failed scans again; a worker that has tried them already is replaced."""
        failed = [
            e for e in self._rows.entries if e.state == "failed" and e.key in self._rows.scans
        ]
        try:
            if self.model is not None:
                for entry in failed:
                    self._store.forget_failure(entry.key, model_key(self.model))
        except StorageError as error:
            self.stopped.emit(report(error, "Trying again"))
            return
        for entry in failed:
            self._rows.put(entry.again())
        if self._task is not None:
            self._task.stop()
        self.start()

    # ------------------------------------------------------------------ what it follows

    def set_model(self, model: ScoringModel | None) -> None:
        """Score with another model from now on; its earlier results are available immediately."""
        if model is self.model:
            return
        self.model = model
        self._rows.set_model(model)
        self.load_states()

    def set_busy(self, busy: bool) -> None:
        """Pause while the viewer scores a scan itself."""
        if busy != self._busy:
            self._busy = busy
            self.refresh()

    def set_rule(self, rule: MaskRule) -> None:
        """Count findings by another rule in scans scored from now on."""
        self.plan.rule = rule

    def load_states(self) -> None:
        """Read the state of every scan from disk, then continue."""
        self._ready = False
        if self._lookup is not None:
            self._lookup.stop()
        if self._task is not None:
            # Results of the current scan are on disk when it ends.
            self._again = True
            self._task.stop()
            return
        entries = [entry for entry in self._rows.entries if entry.key in self._rows.scans]
        work = partial(record_steps, entries=entries, store=self._store, model=self.model)
        task = self._tasks.start(work)
        before = {entry.key: entry for entry in entries}
        task.progressed.connect(partial(self._take_record, task, before))
        task.finished.connect(partial(self._on_looked_up, task))
        self._lookup = task

    def _take_record(self, task: Task, before: dict[str, Entry], found: Entry) -> None:
        now = self._rows.entry(found.key)
        if task is not self._lookup or now is None:
            return
        if now.reading != before[found.key].reading:
            # Changed meanwhile.
            found = Entry(**{**vars(found), "reading": now.reading})
        self._rows.put(found)

    def _on_looked_up(self, task: Task) -> None:
        if task is self._lookup:
            self._lookup = None
            self._ready = True
            self.refresh()

    def refresh(self) -> None:
        """Update the worker's plan, and start one if there is none."""
        needed = order_of_need(self._rows.entries, self.open_key)
        scans = self._rows.scans
        self.plan.queue = tuple((key, scans[key]) for key in needed if key in scans)
        if self.wanted and not self._busy:
            if not self._go.is_set():
                self._began, self._slices = time.monotonic(), 0
            self._go.set()
        else:
            self._go.clear()
        free = [key for key, _ in self.plan.queue if key not in self.plan.held]
        able = self._ready and self._task is None
        if self._go.is_set() and able and free and self.model is not None:
            self._start(self.model)
        self.changed.emit()

    # ------------------------------------------------------------------ the worker

    def _start(self, model: ScoringModel) -> None:
        work = partial(scoring_steps, go=self._go, plan=self.plan, model=model, store=self._store)
        task = self._tasks.start(work)
        task.progressed.connect(self._take)
        task.failed.connect(self._on_failed)
        task.finished.connect(self._on_finished)
        self._task = task

    def _take(self, news: Scored) -> None:
        entry = self._rows.entry(news.key)
        if entry is None:
            return
        if news.summary is not None:
            entry = entry.scored(news.summary)
        elif news.trouble:
            entry = entry.failed(news.trouble, news.reason)
        elif news.ended:
            entry = entry.set_down()
        else:
            self._slices += news.done > entry.done
            entry = entry.at(news.done, news.slices)
        self._rows.put(entry)
        if news.ended:
            self.refresh()

    def _on_failed(self, error: Exception) -> None:
        self.wanted = False
        self.stopped.emit(report(error, "Scoring"))

    def _on_finished(self) -> None:
        self._task = None
        for entry in self._rows.entries:
            self._rows.put(entry.set_down())
        if self._again:
            self._again = False
            self.load_states()
        else:
            self.refresh()
