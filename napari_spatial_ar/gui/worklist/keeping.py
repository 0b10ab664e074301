"""Keeps on disk what happens to a worklist's scans in the viewer: scores, findings, strokes."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.worklist.model import WorklistModel
from napari_spatial_ar.gui.worklist.runner import WorklistRunner
from napari_spatial_ar.gui.worklist.work import save_steps
from napari_spatial_ar.review.worklist.entries import Reading, Summary, toggled
from napari_spatial_ar.review.worklist.store import Marks, ScanScores, WorklistStore, model_key

__all__ = ["Opened", "WorklistKeeper"]

# While the viewer scores a scan, what it has is kept this often.
_SAVE_SECONDS = 60.0


@dataclass(eq=False)
class Opened:
    """A scan of the list that is in the viewer.

    Parameters
    ----------
    key, layer : str, napari.layers.Image
        Which, and where it is drawn.
    ready : bool
        What is on disk of it by the current model was looked up: nothing is written before.
    session : Session or None
        Its scores by the current model.
    saved : int
        Slices of the session that are on disk.
    marks, strokes
        What of the session is on disk.
    hold : ExitStack
        Keeps the scan to this window.
    """

    key: str
    layer: Image
    ready: bool = False
    session: Session | None = None
    saved: int = 0
    saved_at: float = 0.0
    saving: bool = False
    marks: Any = None
    strokes: Any = None
    hold: ExitStack = field(default_factory=ExitStack, repr=False)


def _let_go(opened: list[Opened], *_: object) -> None:
    """Let other windows have the scans."""
    for one in opened:
        one.hold.close()


class WorklistKeeper(QObject):
    """Follows the Review dock.

    Parameters
    ----------
    dock : ReviewDock
        Where scans are looked at.
    rows, runner, tasks, store
        The list, what scores it, where results are written, and by what.
    """

    #: A line for the user.
    said = Signal(str)

    def __init__(
        self,
        dock: Any,
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
        #: Scans in the viewer, the one opened last at the end.
        self.opened: list[Opened] = []
        self.destroyed.connect(partial(_let_go, self.opened))
        dock.scorer.scored.connect(self._on_scored)
        dock.scorer.finished.connect(self._on_finished)
        dock.masks.findings_changed.connect(self._on_findings)

    def find(self, key: str) -> Opened | None:
        """Return a scan that is in the viewer."""
        layers = self._dock.viewer.layers
        return next((o for o in self.opened if o.key == key and o.layer in layers), None)

    def _of(self, session: Session | None) -> Opened | None:
        """Return the scan of a session that is kept: by the current model, in its own plane."""
        if session is None or session.plane != session.model.plane:
            return None
        for opened in self.opened:
            if opened.layer is session.layer and session.model is self._dock.models.model:
                opened.session = session
                session.on_disk = True
                return opened
        return None

    # ------------------------------------------------------------------ the reader

    def set_reading(self, key: str, reading: Reading) -> None:
        """Say how far the reader is with a scan."""
        entry = self._rows.entry(key)
        if entry is not None and key in self._rows.scans:
            self._rows.put(replace(entry, reading=reading))
            self._try(self._store.save_reading, key, reading)

    def see(self, key: str) -> None:
        """Take note that a scan is looked at, unless more was said of it, in any window."""
        entry = self._rows.entry(key)
        if entry is not None and entry.reading == "unread":
            reading: Reading = self._try(self._store.see, key) or "seen"
            self._rows.put(replace(entry, reading=reading))

    def keep_failure(self, key: str, reason: str) -> None:
        """Keep why a scan cannot be read: a sentence that names no file."""
        if self._runner.model is not None:
            self._try(self._store.save_failure, key, model_key(self._runner.model), reason)

    def toggle_done(self, key: str) -> None:
        """Mark a scan as done, or take that back."""
        entry = self._rows.entry(key)
        if entry is not None:
            self.set_reading(key, toggled(entry.reading))

    def keep_marks(self, opened: Opened) -> None:
        """Keep what was said of findings and painted, where that is new."""
        session = opened.session
        if session is None or not opened.ready:
            return
        marks, strokes = session.listed.marks, session.strokes
        if marks is not opened.marks or strokes is not opened.strokes:
            opened.marks, opened.strokes = marks, strokes
            by = model_key(session.model)
            self._try(self._store.save_marks, opened.key, by, Marks(marks, strokes))

    def _on_findings(self, findings: list) -> None:
        """Take the findings of the scan in view as they stand, and what was said of them."""
        opened = self._of(self._dock.session)
        if opened is None:
            return
        self.keep_marks(opened)
        entry = self._rows.entry(opened.key)
        if entry is None or entry.state != "scored" or self._dock.running:
            return
        threshold = self._dock.threshold.threshold
        summary = replace(entry.summary, findings=len(findings), threshold=threshold)
        if summary != entry.summary:
            self._rows.put(entry.scored(summary))
            by = model_key(self._dock.models.model)
            self._try(self._store.save_summary, opened.key, by, entry.done, summary)

    def _try(self, save: Any, *arguments: Any) -> Any:
        try:
            return save(*arguments)
        except SpatialARError as error:
            self.said.emit(report(error, "Keeping what was done"))
            return None

    # ------------------------------------------------------------------ scores

    def _on_scored(self, session: Session, indices: list) -> None:
        opened = self._of(session)
        entry = None if opened is None else self._rows.entry(opened.key)
        if opened is not None and entry is not None and entry.state != "scored":
            visited = session.visited
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

    def keep_scores(self, opened: Opened) -> None:
        """Write scores that are not on disk yet, in a worker."""
        session = opened.session
        count = 0 if session is None else int(session.visited.sum())
        if session is None or not opened.ready or opened.saving or count <= opened.saved:
            return
        opened.saved, opened.saved_at, opened.saving = count, time.monotonic(), True
        score = session.score
        # Copies: slices may be scored meanwhile.
        scores = ScanScores(
            np.array(score.nll, np.float32), session.visited.copy(), score.image_scores.copy()
        )
        # Until it is written the worker may not start from what is there.
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
        task.failed.connect(partial(report, doing="Keeping scores"))
        task.finished.connect(partial(self._on_written, opened))

    def _on_kept(self, key: str, model: Any, count: int, summary: Summary | None) -> None:
        entry = self._rows.entry(key)
        if entry is None or model is not self._dock.models.model:
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
        """Give a scan that is in the viewer no more back to the worker, once it is written."""
        if not opened.saving and opened.key not in {other.key for other in self.opened}:
            opened.hold.close()
            self._runner.plan.release(opened.key)
        self._runner.refresh()
