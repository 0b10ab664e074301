"""Opens scans of a worklist in the viewer, with what is kept of them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.errors import InUseError, SpatialARError
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.loading import Loaded, Warned
from napari_spatial_ar.gui.notify import report, warn
from napari_spatial_ar.gui.widgets.forms import select_data
from napari_spatial_ar.gui.worklist.keeping import Opened, WorklistKeeper
from napari_spatial_ar.gui.worklist.listing import told_in_row
from napari_spatial_ar.gui.worklist.model import WorklistModel
from napari_spatial_ar.gui.worklist.runner import WorklistRunner
from napari_spatial_ar.gui.worklist.work import Kept, open_steps
from napari_spatial_ar.review.report.data import told_in_report
from napari_spatial_ar.review.worklist.store import WorklistStore

__all__ = ["WorklistOpener"]


class WorklistOpener(QObject):
    """One scan of the list is in the viewer at a time: the next takes the place of the last.

    Parameters
    ----------
    dock : ReviewDock
        Where scans are looked at.
    rows, runner, keeper, tasks, store
        The list, what scores it, what keeps results, where scans are read, and by what.
    """

    #: A line for the user.
    said = Signal(str)
    #: Key of the scan that is in the viewer now.
    opened = Signal(str)

    def __init__(
        self,
        dock: Any,
        rows: WorklistModel,
        runner: WorklistRunner,
        keeper: WorklistKeeper,
        tasks: TaskHost,
        store: WorklistStore,
    ):
        super().__init__(keeper)
        self._dock = dock
        self._rows = rows
        self._runner = runner
        self._keeper = keeper
        self._tasks = tasks
        self._store = store
        self._task: Task | None = None
        self._wanted = ""
        self._hold = ExitStack()
        self._next: tuple[Opened, Kept] | None = None
        # After the keeper, which keeps what was scored before anything else is shown.
        dock.scorer.finished.connect(self._restore)
        dock.models.loaded.connect(self._on_model)
        dock.scan.list.removed.connect(self._on_removed)

    @property
    def current(self) -> str:
        """Key of the scan that is in the viewer; "" where there is none."""
        layers = self._dock.viewer.layers
        found = (o.key for o in reversed(self._keeper.opened) if o.layer in layers)
        return next(found, "")

    @property
    def busy(self) -> bool:
        """Whether a scan is being read or its scores brought back."""
        return self._task is not None or self._next is not None

    def open(self, key: str) -> None:
        """Show a scan: its heatmap and mask at once where it is scored, else it is scored now."""
        entry = self._rows.entry(key)
        if entry is None or key not in self._rows.scans:
            self.said.emit("" if entry is None else entry.trouble)
            return
        self.stop()
        self.said.emit(f"Opening {entry.label}...")
        known = self._keeper.find(key)
        if known is not None:
            self._show(known)
        self._start(key, read=known is None)

    def stop(self) -> None:
        """Let go of what is being opened."""
        self._next = None
        if self._task is not None:
            task, self._task = self._task, None
            task.stop()
            if self._keeper.find(self._wanted) is None:
                self._hold.close()
                self._runner.plan.release(self._wanted)
        self._yield_to_viewer()

    def _yield_to_viewer(self) -> None:
        """Let the worker rest while the viewer is at work."""
        self._runner.set_busy(self.busy or self._dock.running)

    def _start(self, key: str, *, read: bool) -> None:
        self._wanted = key
        self._runner.plan.hold(key)
        model = self._dock.models.model
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

    def _take(self, task: Task, key: str, step: Any) -> None:
        if task is not self._task:
            return
        if isinstance(step, Loaded):
            self._add(key, step)
        elif isinstance(step, Warned):
            warn(step.text)

    def _add(self, key: str, loaded: Loaded) -> None:
        for text in loaded.volume.warnings:
            warn(text)
        arguments = volume_layer_kwargs(loaded.volume, loaded.drawn)
        layer = self._dock.viewer.add_image(**arguments, visible=False)
        opened = Opened(key, layer, hold=self._hold)
        self._keeper.opened.append(opened)
        self._show(opened)
        for other in [o for o in self._keeper.opened if o is not opened]:
            self._close(other)

    def _show(self, opened: Opened) -> None:
        self._dock.scan.list.choose(opened.layer)
        self._keeper.see(opened.key)
        self.opened.emit(opened.key)

    def _close(self, opened: Opened) -> None:
        """Take a scan and its results out of the viewer; what was done to it is kept."""
        self._keeper.keep_marks(opened)
        self._keeper.keep_scores(opened)
        layers = self._dock.viewer.layers
        self._keeper.opened.remove(opened)
        self._keeper.release(opened)
        if opened.layer in layers:
            layers.remove(opened.layer)  # which takes its results along

    def _on_removed(self) -> None:
        """Take note of a scan that was taken out of the viewer by hand."""
        for opened in list(self._keeper.opened):
            if opened.layer not in self._dock.viewer.layers:
                self._close(opened)

    def _on_failed(self, task: Task, key: str, error: Exception) -> None:
        if task is not self._task:
            return
        self._task = None
        self.said.emit(report(error, "Opening the scan"))
        if self._keeper.find(key) is None:
            self._hold.close()
            self._runner.plan.release(key)
            entry = self._rows.entry(key)
            elsewhere = isinstance(error, InUseError)
            if entry is not None and entry.state != "scored" and not elsewhere:
                self._rows.put(entry.failed(told_in_row(error), told_in_report(error)))
                self._keeper.keep_failure(key, told_in_report(error))
        self._yield_to_viewer()

    def _on_returned(self, task: Task, key: str, model: Any, kept: Kept | None) -> None:
        if task is not self._task:
            return
        self._task = None
        self.said.emit("")
        opened = self._keeper.find(key)
        if opened is not None and model is not self._dock.models.model:
            self._start(key, read=False)  # another one was chosen meanwhile
        elif opened is not None and kept is not None:
            self._next = opened, kept
            if self._dock.running:
                self._dock.scorer.cancel()
            else:
                self._restore()
        self._yield_to_viewer()

    def _on_model(self, model: Any) -> None:
        """Look up what another model made of the scan in the viewer."""
        for opened in self._keeper.opened:
            self._keeper.keep_marks(opened)
            opened.ready, opened.session, opened.saved = False, None, 0
        key = self.current
        if key in self._rows.scans and self._task is None:
            self._start(key, read=False)

    def _restore(self, *_: Any) -> None:
        if self._next is not None and not self._dock.running:
            (opened, kept), self._next = self._next, None
            self._bring_back(opened, kept)
        self._yield_to_viewer()

    def _bring_back(self, opened: Opened, kept: Kept) -> None:
        """Show what is kept, and where the list is being scored, score what is left."""
        dock, scores = self._dock, kept.scores
        model = dock.models.model
        if model is None or opened.layer not in dock.viewer.layers:
            return
        select_data(dock.plane_box, model.plane)
        opened.saved, opened.ready = int(scores.visited.sum()), True
        rest = self._runner.wanted
        if not rest and not opened.saved:
            return
        try:
            session = dock.scorer.restore(opened.layer, model, model.plane, scores, rest=rest)
        except SpatialARError as error:
            self.said.emit(report(error, "Opening the scan"))
            return
        if not session.listed.marks and not session.strokes:
            session.listed = session.listed.with_marks(kept.marks.marks)
            session.strokes = kept.marks.strokes
        opened.session = session
        session.on_disk = True
        opened.marks, opened.strokes = session.listed.marks, session.strokes
