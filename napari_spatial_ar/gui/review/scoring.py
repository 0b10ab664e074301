"""Scores scans in a worker, and keeps each result with the layer it was made for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.errors import Cancelled, SpatialARError
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.notify import report, sentence
from napari_spatial_ar.gui.review.scored_layer import Session, outward, score_steps
from napari_spatial_ar.gui.viewer import slice_in_view
from napari_spatial_ar.imaging.geometry import Plane
from napari_spatial_ar.review.worklist.scoring import KeptFirst
from napari_spatial_ar.review.worklist.store import ScanScores

__all__ = ["Scorer"]


@dataclass(frozen=True)
class _Order:
    """Slices to score, wanted in this order."""

    session: Session
    slices: list[int]
    whole: bool

    @property
    def left(self) -> list[int]:
        """Slices to score now: of a whole scan those that are not scored yet, or else all."""
        new = [i for i in self.slices if not self.session.visited[i]]
        return (new or self.slices) if self.whole else self.slices


class Scorer(QObject):
    """One scan is scored at a time, others wait; results arrive slice by slice."""

    #: A session has something new to say, in its `said`.
    said = Signal(object)
    #: A scan cannot be scored: why, as a sentence.
    refused = Signal(str)
    #: Slices done, slices in all.
    progressed = Signal(int, int)
    #: A session was made for a scan and model that had none.
    session_made = Signal(object)
    #: Session, list of the slices that came in.
    scored = Signal(object, object)
    #: Scoring ended, whatever the reason.
    finished = Signal(object)

    def __init__(self, viewer: Any, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks
        self._sessions: list[Session] = []
        self._waiting: list[_Order] = []
        self._task: Task | None = None
        self._at_work: Session | None = None
        self._done = self._total = 0
        self._began = 0.0
        self._trouble = ""

    @property
    def running(self) -> bool:
        """Whether slices are being scored."""
        return self._task is not None

    def session_for(self, layer: Any, model: Any, plane: Plane | None = None) -> Session | None:
        """Scores of a layer by a model in a plane (None: that acquired), if there are any."""
        return next((s for s in self._sessions if s.fits(layer, model, plane)), None)

    def busy_with(self, session: Session | None) -> bool:
        """Whether a session is being scored or waits to be."""
        waiting = any(order.session is session for order in self._waiting)
        return session is not None and (session is self._at_work or waiting)

    def score(self, layer: Any, model: Any, what: str, plane: Plane | None = None) -> None:
        """Score the slice in view (``"slice"``) or all slices that are left (``"volume"``).

        Where another scan is being scored, this one waits for its turn.
        """
        if self.busy_with(self.session_for(layer, model, plane)):
            return
        try:
            session = self.session_for(layer, model, plane)
            session = session or self._new_session(layer, model, plane)
        except SpatialARError as error:
            self.refused.emit(report(error, "Scoring"))
            return
        here = slice_in_view(self._viewer, layer, session.geometry)
        whole = what != "slice"
        order = outward(len(session.visited), here) if whole else [here]
        self._waiting.append(_Order(session, order, whole))
        if self.running:
            self._say(session, "This scan waits until the one before it is scored.")
        else:
            self._next()

    def _say(self, session: Session, text: str) -> None:
        """Say something of a session."""
        session.said = text
        self.said.emit(session)

    def told(self, session: Session | None) -> str:
        """Tell how far the scoring of a session is (None: there is none), and what else goes on."""
        lines = [] if session is None or not session.said else [session.said]
        if self._at_work is not None and self._at_work is not session:
            lines.append(f"Another scan is being scored: {self._at_work.said}")
        count = len(self._waiting)
        if count:
            lines.append(f"{count} {'scan waits' if count == 1 else 'scans wait'}.")
        return " ".join(lines)

    def _next(self) -> None:
        """Begin with what has waited longest and is still there."""
        self._waiting = [order for order in self._waiting if order.session.alive]
        if self._waiting and not self.running:
            order = self._waiting.pop(0)
            self._run(order.session, order.left)

    @property
    def sessions(self) -> list[Session]:
        """All scores there are, of any scan by any model in any plane."""
        return self._sessions

    def restore(
        self, layer: Any, model: Any, plane: Plane | None, kept: ScanScores, *, rest: bool
    ) -> Session:
        """Show scores that are kept, and with ``rest`` go on with the slices that are left.

        Only where nothing is being scored. The slice in view comes first.

        Raises
        ------
        InputError
            If the layer is no scan, or has no such slices.
        """
        session = self.session_for(layer, model, plane)
        session = session or self._new_session(layer, model, plane)
        here = slice_in_view(self._viewer, layer, session.geometry)
        new = [i for i in outward(len(session.visited), here) if not session.visited[i]]
        order = [i for i in new if rest or kept.visited[i]]
        if order:
            self._run(session, order, KeptFirst(model, kept))
        return session

    def _new_session(self, layer: Any, model: Any, plane: Plane | None) -> Session:
        session = Session(self._viewer, layer, model, plane)
        self._sessions.append(session)
        self.session_made.emit(session)
        return session

    def _run(self, session: Session, order: list[int], source: Any = None) -> None:
        self._done, self._total = 0, len(order)
        self._began = time.monotonic()
        self._at_work = session
        self._trouble = ""
        self.progressed.emit(0, self._total)
        self._say(session, "Scoring...")
        task = self._tasks.start(
            lambda stop: score_steps(
                stop, source or session.model, session.volume, order, look=session.body.plane
            )
        )
        task.progressed.connect(partial(self._take, session))
        task.failed.connect(self._on_failed)
        task.finished.connect(partial(self._on_finished, session))
        self._task = task

    def cancel(self, session: Session | None = None) -> None:
        """Stop scoring; what is scored stays. A session that waits only waits no longer."""
        left = [order for order in self._waiting if order.session is not session]
        if session is not None and len(left) < len(self._waiting):
            self._waiting = left
            self._say(session, "Taken out: this scan is not scored.")
        elif self._task is not None:
            self._task.stop()
            if self._at_work is not None:
                self._say(self._at_work, "Stopping...")

    def stop(self) -> None:
        """Stop scoring, and let none wait."""
        self._waiting = []
        self.cancel()

    def drop_removed(self) -> list[Session]:
        """Forget sessions whose scan left the viewer, and stop scoring it; give them back."""
        self._waiting = [order for order in self._waiting if order.session.alive]
        if self._at_work is not None and not self._at_work.alive:
            self.cancel()
        gone = [s for s in self._sessions if not s.alive]
        self._sessions = [s for s in self._sessions if s.alive]
        return gone

    def adopt(self, sessions: Sequence[Session]) -> None:
        """Take sessions back whose scan is in the viewer again."""
        self._sessions += [s for s in sessions if s not in self._sessions]

    def _take(self, session: Session, batch: list) -> None:
        if not session.alive:
            self.cancel()
            return
        indices = session.put(batch)
        self._done += len(batch)
        self.progressed.emit(self._done, self._total)
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        if self._task is not None and not self._task.stopped:
            self._say(session, f"{self._done} of {self._total} slices, about {left:.0f} s left.")
        self.scored.emit(session, indices)

    def _on_failed(self, error: Exception) -> None:
        if not isinstance(error, Cancelled):
            self._trouble = sentence(error, "Scoring")
            report(error, "Scoring")

    def _on_finished(self, session: Session) -> None:
        stopped = self._task is not None and self._task.stopped
        self._task = self._at_work = None
        self._sessions = [s for s in self._sessions if s.alive]
        session.judge()
        count = int(session.visited.sum())
        note = " ".join(
            [f"{count} of {len(session.visited)} slices are scored.", *session.model.notes]
        )
        self._say(session, self._trouble or (f"Stopped. {note}" if stopped else note))
        self.finished.emit(session)
        self._next()
