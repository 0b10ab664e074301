"""Scores the scans of a worklist in the background: started, paused, cancelled, gone on with."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.errors import StorageError
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.worklist.listing import record_steps
from napari_spatial_ar.gui.worklist.model import WorklistModel
from napari_spatial_ar.gui.worklist.work import Plan, Scored, scoring_steps
from napari_spatial_ar.review.worklist.entries import Entry, order_of_need
from napari_spatial_ar.review.worklist.scoring import MaskRule
from napari_spatial_ar.review.worklist.store import WorklistStore, model_key

__all__ = ["WorklistRunner"]

_OPEN = ("waiting", "scoring")


class WorklistRunner(QObject):
    """Keeps the rows in step with what is on disk and what the worker does.

    Parameters
    ----------
    rows : WorklistModel
        The scans.
    tasks : TaskHost
        Where they are scored.
    store : WorklistStore
        Where results are kept.
    """

    #: What can be started or stopped changed.
    changed = Signal()
    #: An error that ended the scoring, as a sentence; "" when it goes on.
    stopped = Signal(str)

    def __init__(self, rows: WorklistModel, tasks: TaskHost, store: WorklistStore, parent: QObject):
        super().__init__(parent)
        self._rows = rows
        self._tasks = tasks
        self._store = store
        self.plan = Plan()
        self.model: Any = None
        self.looking_at = ""
        #: Whether the user wants scans to be scored.
        self.wanted = False
        self._go = threading.Event()
        self._task: Task | None = None
        self._lookup: Task | None = None
        self._ready = self._again = self._busy = False
        self._began = 0.0
        self._slices = 0

    @property
    def running(self) -> bool:
        """Whether a worker is there, at work or paused."""
        return self._task is not None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at the speed so far; None while that is not known."""
        if not self._slices or not self._go.is_set():
            return None
        left = sum(e.slices - e.done for e in self._rows.entries if e.state in _OPEN)
        return (time.monotonic() - self._began) / self._slices * left

    # ------------------------------------------------------------------ what the user does

    def start(self) -> None:
        """Score what is left, or go on after a pause."""
        self.wanted = True
        self.stopped.emit("")
        self.refresh()

    def pause(self) -> None:
        """Rest after the slice at hand."""
        self.wanted = False
        self.refresh()

    def cancel(self) -> None:
        """Stop after the slice at hand; what is scored is kept."""
        self.wanted = False
        if self._task is not None:
            self._task.stop()
        self.refresh()

    def try_again(self) -> None:
        """Score what failed anew; a worker that has tried it already makes room for another."""
        failed = [
            e for e in self._rows.entries if e.state == "failed" and e.key in self._rows.scans
        ]
        try:
            for entry in failed if self.model is not None else ():
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

    def set_model(self, model: Any) -> None:
        """Score by another model from now on; what it scored before is there at once."""
        if model is self.model:
            return
        self.model = model
        self._rows.set_model(model)
        self.look_up()

    def set_busy(self, busy: bool) -> None:
        """Rest while the viewer scores a scan itself."""
        if busy != self._busy:
            self._busy = busy
            self.refresh()

    def set_rule(self, rule: MaskRule) -> None:
        """Count findings by another rule in scans that are scored from now on."""
        self.plan.rule = rule

    def look_up(self) -> None:
        """Take the state of every scan from disk, then go on."""
        self._ready = False
        if self._lookup is not None:
            self._lookup.stop()
        if self._task is not None:
            # What it has at hand is on disk when it ends.
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
        """Tell the worker what is needed now, and start one where there is none."""
        needed = order_of_need(self._rows.entries, self.looking_at)
        scans = self._rows.scans
        self.plan.queue = tuple((key, scans[key]) for key in needed if key in scans)
        if self.wanted and not self._busy:
            if not self._go.is_set():
                self._began, self._slices = time.monotonic(), 0
            self._go.set()
        else:
            self._go.clear()
        free = [key for key, _ in self.plan.queue if key not in self.plan.held]
        able = self._ready and self.model is not None and self._task is None
        if self._go.is_set() and able and free:
            self._start()
        self.changed.emit()

    # ------------------------------------------------------------------ the worker

    def _start(self) -> None:
        work = partial(
            scoring_steps, go=self._go, plan=self.plan, model=self.model, store=self._store
        )
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
            self.look_up()
        else:
            self.refresh()
