"""Opens a worklist's scans in the viewer, and stores the work on them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ParamSpec, TypeVar

from napari.layers import Image
from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.errors import InUseError, SpatialARError
from napari_spatial_ar.gui.jobs import Task, TaskHost, report, warn
from napari_spatial_ar.gui.layers import add_scan
from napari_spatial_ar.gui.open_scan import Loaded, Warned
from napari_spatial_ar.gui.review.context import ReviewContext
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.widgets.forms import select_data
from napari_spatial_ar.gui.worklist.listing import row_message
from napari_spatial_ar.gui.worklist.runner import StoredScan, WorklistRunner, open_steps, save_steps
from napari_spatial_ar.gui.worklist.table import WorklistModel
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.findings import Finding, Mark
from napari_spatial_ar.review.report.data import report_message
from napari_spatial_ar.review.strokes import Strokes
from napari_spatial_ar.review.worklist.entries import Reading, Summary, toggled
from napari_spatial_ar.review.worklist.store import Marks, WorklistStore, model_key

__all__ = ["Opened", "WorklistController"]

P = ParamSpec("P")
R = TypeVar("R")

# Interval for storing scores of a scan that the viewer is scoring.
_SAVE_SECONDS = 60.0


@dataclass(eq=False)
class Opened:
    """A scan of the list that is open in the viewer.

    Parameters
    ----------
    key, layer : str, napari.layers.Image
        Its key and layer.
    ready : bool
        Whether the stored results of the current model have been loaded: nothing is written before.
    session : Session or None
        Its scores by the current model.
    saved : int
        Number of slices of the session that are stored.
    marks, strokes
        The stored ones of the session.
    hold : ExitStack
        Reserves the scan for this window.
    """

    key: str
    layer: Image
    ready: bool = False
    session: Session | None = None
    saved: int = 0
    saved_at: float = 0.0
    saving: bool = False
    marks: tuple[Mark, ...] | None = None
    strokes: Strokes | None = None
    hold: ExitStack = field(default_factory=ExitStack, repr=False)


def _release_all(opened: list[Opened]) -> None:
    """Release the scans for other windows."""
    for one in opened:
        one.hold.close()


class WorklistController(QObject):
    """Between the worklist and the viewer: one scan of the list is open at a time.

    The next scan replaces the previous one. Scores, findings and brush edits are written to disk as
    they arrive, and restored when the scan is opened again.

    Parameters
    ----------
    dock : ReviewContext
        Where scans are reviewed.
    rows : WorklistModel
        The list.
    runner : WorklistRunner
        Scores the list in the background.
    tasks : TaskHost
        Reads scans and writes results.
    store : WorklistStore
        Stores the results.
    """

    #: A line for the user.
    message = Signal(str)
    #: Key of the open scan.
    shown = Signal(str)

    def __init__(
        self,
        dock: ReviewContext,
        rows: WorklistModel,
        runner: WorklistRunner,
        tasks: TaskHost,
        store: WorklistStore,
        parent: QObject,
    ):
        super().__init__(parent)
        self._dock = dock
        self._rows = rows
        self._runner = runner
        self._tasks = tasks
        self._store = store
        #: Open scans, the latest last.
        self.opened: list[Opened] = []
        self._task: Task | None = None
        self._wanted = ""
        self._hold = ExitStack()
        self._next: tuple[Opened, StoredScan] | None = None
        # Not by `destroyed`: PyQt may have let go of the slot by then, and calls it all the same.
        weakref.finalize(self, _release_all, self.opened)
        dock.scorer.scored.connect(self._on_scored)
        dock.scorer.finished.connect(self._on_finished)
        dock.masks.findings_changed.connect(self._on_findings)
        dock.models.loaded.connect(self._on_model)
        dock.scan.list.removed.connect(self._on_removed)

    def find(self, key: str) -> Opened | None:
        """Return an open scan."""
        layers = self._dock.viewer.layers
        return next((o for o in self.opened if o.key == key and o.layer in layers), None)

    def _of(self, session: Session | None) -> Opened | None:
        """Return the scan of a session that is stored: by the current model, in its own plane."""
        if session is None or session.plane != session.model.plane:
            return None
        for opened in self.opened:
            if opened.layer is session.layer and session.model is self._dock.models.whole:
                opened.session = session
                session.keep_on_disk()
                return opened
        return None

    # ------------------------------------------------------------------ the reader

    def set_reading(self, key: str, reading: Reading) -> None:
        """Set the reader's progress with a scan."""
        entry = self._rows.entry(key)
        if entry is not None and key in self._rows.scans:
            self._rows.put(replace(entry, reading=reading))
            self._try(self._store.save_reading, key, reading)

    def see(self, key: str) -> None:
        """Mark a scan as seen, unless it is done, in any window."""
        entry = self._rows.entry(key)
        if entry is not None and entry.reading == "unread":
            reading: Reading = self._try(self._store.see, key) or "seen"
            self._rows.put(replace(entry, reading=reading))

    def keep_failure(self, key: str, reason: str) -> None:
        """Store why a scan cannot be read: a sentence that names no file."""
        if self._runner.model is not None:
            self._try(self._store.save_failure, key, model_key(self._runner.model), reason)

    def toggle_done(self, key: str) -> None:
        """Mark a scan as done, or undo it."""
        entry = self._rows.entry(key)
        if entry is not None:
            self.set_reading(key, toggled(entry.reading))

    def keep_marks(self, opened: Opened) -> None:
        """Store new verdicts and manual edits."""
        session = opened.session
        if session is None or not opened.ready:
            return
        marks, strokes = session.listed.marks, session.strokes
        if marks is not opened.marks or strokes is not opened.strokes:
            opened.marks, opened.strokes = marks, strokes
            by = model_key(session.model)
            self._try(self._store.save_marks, opened.key, by, Marks(marks, strokes))

    def keep_all_marks(self) -> None:
        """Store the verdicts and manual edits of every open scan."""
        for opened in self.opened:
            self.keep_marks(opened)

    def _on_findings(self, findings: list[Finding]) -> None:
        """Update a scan's stored findings and verdicts from the view."""
        opened = self._of(self._dock.session)
        if opened is None:
            return
        self.keep_marks(opened)
        entry = self._rows.entry(opened.key)
        model = self._dock.models.whole
        if entry is None or entry.state != "scored" or self._dock.running or model is None:
            return
        threshold = self._dock.threshold.threshold
        summary = replace(entry.summary, findings=len(findings), threshold=threshold)
        if summary != entry.summary:
            self._rows.put(entry.scored(summary))
            self._try(self._store.save_summary, opened.key, model_key(model), entry.done, summary)

    def _try(self, save: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return save(*args, **kwargs)
        except SpatialARError as error:
            self.message.emit(report(error, "Storing the edits"))
            return None

    # ------------------------------------------------------------------ scores

    def _on_scored(self, session: Session, indices: list[int]) -> None:
        opened = self._of(session)
        entry = None if opened is None else self._rows.entry(opened.key)
        if opened is not None and entry is not None and entry.state != "scored":
            visited = session.score.visited
            self._rows.put(entry.at(int(visited.sum()), len(visited)))
            if time.monotonic() - opened.saved_at > _SAVE_SECONDS:
                self.keep_scores(opened)

    def _on_finished(self, session: Session) -> None:
        opened = self._of(session)
        if opened is not None:
            entry = self._rows.entry(opened.key)
            if entry is not None:
                self._rows.put(entry.set_down())
            self.keep_scores(opened)
        self._restore()

    def keep_scores(self, opened: Opened) -> None:
        """Write scores that are not stored yet, in a worker."""
        session = opened.session
        count = 0 if session is None else int(session.score.visited.sum())
        if session is None or not opened.ready or opened.saving or count <= opened.saved:
            return
        opened.saved, opened.saved_at, opened.saving = count, time.monotonic(), True
        scores = session.score.copy()  # slices may be scored meanwhile
        # Until they are written, the worker must not start from the stored ones.
        self._runner.plan.hold(opened.key)
        work = partial(
            save_steps,
            key=opened.key,
            store=self._store,
            model=session.model,
            volume=session.volume,
            scores=scores,
            rule=self._runner.plan.rule,
        )
        task = self._tasks.start(work)
        task.returned.connect(partial(self._on_kept, opened.key, session.model, count))
        task.failed.connect(partial(report, doing="Storing scores"))
        task.finished.connect(partial(self._on_written, opened))

    def _on_kept(self, key: str, model: ScoringModel, count: int, summary: Summary | None) -> None:
        entry = self._rows.entry(key)
        if entry is None or model is not self._dock.models.whole:
            return
        if summary is not None:
            self._rows.put(entry.scored(summary))
        elif entry.state == "waiting":
            self._rows.put(replace(entry, done=count))

    def _on_written(self, opened: Opened) -> None:
        opened.saving = False
        self.keep_scores(opened)
        if not opened.saving:
            self.release(opened)

    def release(self, opened: Opened) -> None:
        """Release a scan that is no longer open to the worker, once it is written."""
        if not opened.saving and opened.key not in {other.key for other in self.opened}:
            opened.hold.close()
            self._runner.plan.release(opened.key)
        self._runner.refresh()

    # ------------------------------------------------------------------ opening

    @property
    def current(self) -> str:
        """Key of the open scan; "" without one."""
        layers = self._dock.viewer.layers
        found = (o.key for o in reversed(self.opened) if o.layer in layers)
        return next(found, "")

    @property
    def busy(self) -> bool:
        """Whether a scan is being read or its scores loaded."""
        return self._task is not None or self._next is not None

    def open(self, key: str) -> None:
        """Open a scan: with heatmap and mask if it is scored, else it is scored now."""
        entry = self._rows.entry(key)
        if entry is None or key not in self._rows.scans:
            self.message.emit("" if entry is None else entry.trouble)
            return
        self.stop()
        self.message.emit(f"Opening {entry.label}...")
        known = self.find(key)
        if known is not None:
            self._show(known)
        self._start(key, read=known is None)

    def stop(self) -> None:
        """Cancel the opening of a scan."""
        self._next = None
        if self._task is not None:
            task, self._task = self._task, None
            task.stop()
            if self.find(self._wanted) is None:
                self._hold.close()
                self._runner.plan.release(self._wanted)
        self._yield_to_viewer()

    def _yield_to_viewer(self) -> None:
        """Pause the worker while the viewer is scoring."""
        self._runner.set_busy(self.busy or self._dock.running)

    def _start(self, key: str, *, read: bool) -> None:
        self._wanted = key
        self._runner.plan.hold(key)
        model = self._dock.models.whole
        if read:
            self._hold = ExitStack()
        work = partial(
            open_steps,
            plan=self._runner.plan,
            key=key,
            scan=self._rows.scans[key],
            store=self._store,
            model=model,
            hold=self._hold,
            read=read,
        )
        task = self._tasks.start(work)
        task.progressed.connect(partial(self._take, task, key))
        task.returned.connect(partial(self._on_returned, task, key, model))
        task.failed.connect(partial(self._on_failed, task, key))
        self._task = task
        self._yield_to_viewer()

    def _take(self, task: Task, key: str, step: object) -> None:
        if task is not self._task:
            return
        if isinstance(step, Loaded):
            self._add(key, step)
        elif isinstance(step, Warned):
            warn(step.text)

    def _add(self, key: str, loaded: Loaded) -> None:
        for text in loaded.volume.warnings:
            warn(text)
        layer = add_scan(self._dock.viewer, loaded.volume, loaded.drawn, visible=False)
        opened = Opened(key, layer, hold=self._hold)
        self.opened.append(opened)
        self._show(opened)
        for other in [o for o in self.opened if o is not opened]:
            self._close(other)

    def _show(self, opened: Opened) -> None:
        self._dock.scan.list.choose(opened.layer)
        self.see(opened.key)
        self.shown.emit(opened.key)

    def _close(self, opened: Opened) -> None:
        """Remove a scan and its results from the viewer; work on it remains stored."""
        self.keep_marks(opened)
        self.keep_scores(opened)
        layers = self._dock.viewer.layers
        self.opened.remove(opened)
        self.release(opened)
        if opened.layer in layers:
            layers.remove(opened.layer)  # its results are removed too

    def _on_removed(self) -> None:
        """Handle a scan that was removed from the viewer by hand."""
        for opened in list(self.opened):
            if opened.layer not in self._dock.viewer.layers:
                self._close(opened)

    def _on_failed(self, task: Task, key: str, error: Exception) -> None:
        if task is not self._task:
            return
        self._task = None
        self.message.emit(report(error, "Opening the scan"))
        if self.find(key) is None:
            self._hold.close()
            self._runner.plan.release(key)
            entry = self._rows.entry(key)
            elsewhere = isinstance(error, InUseError)
            if entry is not None and entry.state != "scored" and not elsewhere:
                self._rows.put(entry.failed(row_message(error), report_message(error)))
                self.keep_failure(key, report_message(error))
        self._yield_to_viewer()

    def _on_returned(
        self, task: Task, key: str, model: ScoringModel | None, kept: StoredScan | None
    ) -> None:
        if task is not self._task:
            return
        self._task = None
        self.message.emit("")
        opened = self.find(key)
        if opened is not None and model is not self._dock.models.whole:
            self._start(key, read=False)  # another one was chosen meanwhile
        elif opened is not None and kept is not None:
            self._next = opened, kept
            if self._dock.running:
                self._dock.scorer.cancel()
            else:
                self._restore()
        self._yield_to_viewer()

    def _on_model(self, model: ScoringModel | None) -> None:
        """Load another model's results for the open scan."""
        self.keep_all_marks()
        for opened in self.opened:
            opened.ready, opened.session, opened.saved = False, None, 0
        key = self.current
        if key in self._rows.scans and self._task is None:
            self._start(key, read=False)

    def _restore(self) -> None:
        if self._next is not None and not self._dock.running:
            (opened, kept), self._next = self._next, None
            self._bring_back(opened, kept)
        self._yield_to_viewer()

    def _bring_back(self, opened: Opened, kept: StoredScan) -> None:
        """Show stored results, and, if the list is being scored, score the remaining slices."""
        dock, scores = self._dock, kept.scores
        model = dock.models.whole
        if model is None or opened.layer not in dock.viewer.layers:
            return
        select_data(dock.plane_box, model.plane)
        opened.saved, opened.ready = int(scores.visited.sum()), True
        remaining = self._runner.wanted
        if not remaining and not opened.saved:
            return
        try:
            session = dock.scorer.restore(
                opened.layer, model, model.plane, scores, remaining=remaining
            )
        except SpatialARError as error:
            self.message.emit(report(error, "Opening the scan"))
            return
        session.bring_back(kept.marks.marks, kept.marks.strokes)
        opened.session = session
        session.keep_on_disk()
        opened.marks, opened.strokes = session.listed.marks, session.strokes
