"""The Score section: the queue, progress, domain shift and p-value of a scan."""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from napari.layers import Image, Layer
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_spatial_ar.errors import Cancelled, SpatialARError
from napari_spatial_ar.gui.jobs import Task, TaskHost, report, sentence
from napari_spatial_ar.gui.layers import layer_volume
from napari_spatial_ar.gui.review.deleted_scans import DeletedScans
from napari_spatial_ar.gui.review.scored_layer import (
    Scored,
    Session,
    from_slice_outward,
    same_model,
    score_steps,
)
from napari_spatial_ar.gui.viewer import slice_in_view
from napari_spatial_ar.gui.widgets.forms import Note, WarningNote, button, row, stack
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import Plane
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.acquired import header_shift
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.domain_shift import shift_headline
from napari_spatial_ar.review.p_values import p_note, p_values
from napari_spatial_ar.review.provenance import model_window
from napari_spatial_ar.steps import run_until_stopped

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_spatial_ar.normative.calibration.domain_shift import DomainShift


__all__ = ["DomainShiftCheck", "ScanPValue", "ScorePanel", "Scorer"]


@dataclass(frozen=True)
class _QueuedScan:
    """Slices to score, in the order in which they are scored."""

    session: Session
    slices: list[int]
    whole: bool

    @property
    def left(self) -> list[int]:
        """Slices to score now: for a whole scan those not scored yet, or else all."""
        new = [i for i in self.slices if not self.session.score.visited[i]]
        return (new or self.slices) if self.whole else self.slices


class Scorer(QObject):
    """Scores one scan at a time, with a queue of others; results arrive slice by slice."""

    #: The status of a session changed.
    status_changed = Signal(object)
    #: A scan cannot be scored: the reason, as a sentence.
    refused = Signal(str)
    #: Slices done, slices in all.
    progressed = Signal(int, int)
    #: A session was created for a scan and model without one.
    session_made = Signal(object)
    #: Session, list of new slices.
    scored = Signal(object, object)
    #: Scoring ended, whatever the reason.
    finished = Signal(object)

    def __init__(self, viewer: ViewerModel, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks
        self._sessions: list[Session] = []
        self._queue: list[_QueuedScan] = []
        self._task: Task | None = None
        self._current: Session | None = None
        self._done = self._total = 0
        self._began = 0.0
        self._trouble = ""

    @property
    def running(self) -> bool:
        """Whether slices are being scored."""
        return self._task is not None

    def session_for(
        self, layer: Image | None, model: ScoringModel | None, plane: Plane | None = None
    ) -> Session | None:
        """Scores of a layer by a model in a plane (None: that acquired), if there are any."""
        return next((s for s in self._sessions if s.fits(layer, model, plane)), None)

    def busy_with(self, session: Session | None) -> bool:
        """Whether a session is being scored or queued."""
        waiting = any(queued.session is session for queued in self._queue)
        return session is not None and (session is self._current or waiting)

    def score(
        self, layer: Image, model: ScoringModel, what: str, plane: Plane | None = None
    ) -> None:
        """Score the slice in view (``"slice"``) or all remaining slices (``"volume"``).

        If another scan is being scored, this one is queued.
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
        count = session.geometry.slice_count
        slices = from_slice_outward(count, here) if whole else [here]
        self._queue.append(_QueuedScan(session, slices, whole))
        if self.running:
            self._update_status(session, "In the queue: another scan is being scored.")
        else:
            self._next()

    def _update_status(self, session: Session, text: str) -> None:
        """Set the status of a session."""
        session.set_status(text)
        self.status_changed.emit(session)

    def status_text(self, session: Session | None) -> str:
        """Describe the scoring of a session (None: there is none), and of other scans."""
        lines = [] if session is None or not session.status else [session.status]
        if self._current is not None and self._current is not session:
            lines.append(f"Another scan is being scored: {self._current.status}")
        count = len(self._queue)
        if count:
            lines.append(f"{count} {'scan' if count == 1 else 'scans'} in the queue.")
        return " ".join(lines)

    def _next(self) -> None:
        """Start the first session of the queue that still exists."""
        self._queue = [queued for queued in self._queue if queued.session.alive]
        if self._queue and not self.running:
            queued = self._queue.pop(0)
            self._run(queued.session, queued.left)

    @property
    def sessions(self) -> list[Session]:
        """All sessions, of any scan by any model in any plane."""
        return self._sessions

    def restore(
        self,
        layer: Image,
        model: ScoringModel,
        plane: Plane | None,
        kept: ScanScores,
        *,
        remaining: bool,
    ) -> Session:
        """Show stored scores, and with ``remaining`` score the remaining slices.

        Only while nothing is being scored. The slice in view comes first.

        Raises
        ------
        InputError
            If the layer is not a scan, or has no such slices.
        """
        session = self.session_for(layer, model, plane)
        session = session or self._new_session(layer, model, plane)
        here = slice_in_view(self._viewer, layer, session.geometry)
        visited = session.score.visited
        new = [i for i in from_slice_outward(len(visited), here) if not visited[i]]
        slices = [i for i in new if remaining or kept.visited[i]]
        if slices:
            self._run(session, slices, kept)
        return session

    def _new_session(self, layer: Image, model: ScoringModel, plane: Plane | None) -> Session:
        session = Session(self._viewer, layer, model, plane)
        self._sessions.append(session)
        self.session_made.emit(session)
        return session

    def _run(self, session: Session, slices: list[int], stored: ScanScores | None = None) -> None:
        self._done, self._total = 0, len(slices)
        self._began = time.monotonic()
        self._current = session
        self._trouble = ""
        self.progressed.emit(0, self._total)
        self._update_status(session, "Scoring...")
        task = self._tasks.start(
            lambda stop: score_steps(
                stop, session.model, session.volume, slices, session.body.plane, stored
            )
        )
        task.progressed.connect(partial(self._take, session))
        task.failed.connect(self._on_failed)
        task.finished.connect(partial(self._on_finished, session))
        self._task = task

    def cancel(self, session: Session | None = None) -> None:
        """Stop scoring and keep the scores so far; a queued session is removed from the queue."""
        left = [queued for queued in self._queue if queued.session is not session]
        if session is not None and len(left) < len(self._queue):
            self._queue = left
            self._update_status(session, "Removed from the queue.")
        elif self._task is not None:
            self._task.stop()
            if self._current is not None:
                self._update_status(self._current, "Stopping...")

    def stop(self) -> None:
        """Stop scoring, and empty the queue."""
        self._queue = []
        self.cancel()

    def drop_removed(self) -> list[Session]:
        """Remove sessions whose scan left the viewer, and stop scoring it; returns them."""
        self._queue = [queued for queued in self._queue if queued.session.alive]
        if self._current is not None and not self._current.alive:
            self.cancel()
        gone = [s for s in self._sessions if not s.alive]
        self._sessions = [s for s in self._sessions if s.alive]
        return gone

    def adopt(self, sessions: Sequence[Session]) -> None:
        """Restore sessions whose scan is in the viewer again."""
        self._sessions += [s for s in sessions if s not in self._sessions]

    def _take(self, session: Session, batch: Scored) -> None:
        if not session.alive:
            self.cancel()
            return
        indices = session.put(batch)
        self._done += len(batch)
        self.progressed.emit(self._done, self._total)
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        if self._task is not None and not self._task.stopped:
            self._update_status(
                session, f"{self._done} of {self._total} slices, about {left:.0f} s left."
            )
        self.scored.emit(session, indices)

    def _on_failed(self, error: Exception) -> None:
        if not isinstance(error, Cancelled):
            self._trouble = sentence(error, "Scoring")
            report(error, "Scoring")

    def _on_finished(self, session: Session) -> None:
        stopped = self._task is not None and self._task.stopped
        self._task = self._current = None
        self._sessions = [s for s in self._sessions if s.alive]
        session.judge()
        count = int(session.score.visited.sum())
        note = " ".join(
            [f"{count} of {len(session.score.visited)} slices are scored.", *session.model.notes]
        )
        self._update_status(session, self._trouble or (f"Stopped. {note}" if stopped else note))
        self.finished.emit(session)
        self._next()


class ScorePanel(QWidget):
    """Status of scoring; the bar is visible while slices are scored.

    The button for the whole volume is for a dock's head, so that it stays under the cursor whatever
    is reported, and however late.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shelf = DeletedScans()
        self.shift_note = WarningNote(tooltip("model.why"))
        self.slice_button = button("Score this slice", tooltip("score.score_this_slice"))
        self.volume_button = button("Score whole volume", tooltip("score.score_whole_volume"))
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setToolTip(tooltip("score.progress"))
        self.progress.setAccessibleName("Slices scored")
        self.cancel_button = button(
            "Cancel",
            tooltip("score.cancel"),
        )
        self.note = Note()
        self.p_value_note = Note()
        self.unseen_note = Note(strong=True)
        status = row(self.note, self.slice_button)
        # The button keeps its place while there is no status.
        status.insertStretch(1)
        status.setStretch(0, 1)
        parts = [
            status,
            row(self.progress, self.cancel_button),
            self.shelf,
            self.shift_note,
            self.unseen_note,
            self.p_value_note,
        ]
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(stack(parts))
        self.enable(False, False)

    def enable(self, ready: bool, running: bool) -> None:
        """Enable or disable scoring and cancelling."""
        self.slice_button.setEnabled(ready)
        self.volume_button.setEnabled(ready)
        self.cancel_button.setEnabled(running)
        self.cancel_button.setVisible(running)
        self.progress.setVisible(running)

    def show_progress(self, done: int, total: int) -> None:
        """Move the bar."""
        # Qt would repaint the bar immediately, and the whole window with it, canvas and all.
        self.progress.setUpdatesEnabled(False)
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self.progress.setUpdatesEnabled(True)


class ScanPValue(QObject):
    """Fills in `Session.normal_rank`, a line for the user."""

    #: The session whose line is ready.
    measured = Signal(object)

    def __init__(self, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._tasks = tasks

    def measure(self, session: Session) -> None:
        """Evaluate the current scores of a session."""
        score = session.score
        # Copies: slices may be scored meanwhile. The heatmap is not needed.
        score = replace(
            score,
            visited=score.visited.copy(),
            image_scores=score.image_scores.copy(),
            unfamiliarity=score.unfamiliarity.copy(),
        )

        def work(stop: threading.Event) -> Generator[None, None, tuple[Session, str]]:
            yield
            return session, p_note(p_values(session.model, session.volume, score, session.body))

        task = self._tasks.start(work)
        task.returned.connect(self._on_returned)

    def _on_returned(self, found: tuple[Session, str]) -> None:
        session, line = found
        session.set_normal_rank(line)
        self.measured.emit(session)


_MOST_KEPT = 32


@dataclass(frozen=True, eq=False)
class _Asked:
    """Layer, voxels, model and plane that are compared; the voxels of a layer may be replaced."""

    layer: Image | None = None
    data: object = None
    model: ScoringModel | None = None
    plane: Plane | None = None

    def same(self, other: _Asked) -> bool:
        """Whether two are about the same scan and model."""
        if (self.model is None) != (other.model is None) or self.layer is not other.layer:
            return False
        same_scan = self.data is other.data and self.plane == other.plane
        return same_scan and same_model(self.model, other.model)


class DomainShiftCheck(QObject):
    """Checks a scan once for each model and plane, and warns of differences in a note."""

    #: The short sentence of the note; "" for none.
    message = Signal(str)

    def __init__(self, note: WarningNote, tasks: TaskHost):
        super().__init__(note)
        self._note = note
        self._tasks = tasks
        self._task: Task | None = None
        self._flagged = ""
        self._asked = _Asked()
        self._volume: Scan | None = None
        self._by_header: DomainShift | None = None
        self._known: list[tuple[_Asked, DomainShift]] = []

    def check(
        self,
        layer: Image | None,
        model: ScoringModel | None,
        plane: Plane | None,
        session: Session | None,
    ) -> None:
        """Compare a layer with a model; any of them may be None.

        For the scan's ``session``, if there is one, it also warns if far more is flagged than is
        plausible.
        """
        asked = _Asked(layer, getattr(layer, "data", None), model, plane)
        self._flagged = "" if session is None else session.flagged
        same = asked.same(self._asked)
        self._asked = asked
        if not same:
            self._volume = _volume(layer, plane)
            self._by_header = _by_header(model, self._volume)
        self._show()
        if same and self._task is not None:
            return
        if self._task is not None:
            self._task.stop()
            self._task = None
        volume = self._volume
        if volume is None or model is None:
            return
        if self._find(asked) is not None:
            return

        def work(stop: threading.Event) -> Generator[None, None, DomainShift | None]:
            from napari_spatial_ar.normative.calibration.appearance import domain_shift_steps

            yield
            # A file may be missing or weights not installed: scoring reports it.
            try:
                # Cached from here on, so that the first heatmap need not wait for it.
                model_window(model, volume)
                return (yield from run_until_stopped(stop, domain_shift_steps(model, volume)))
            except SpatialARError:
                return None

        self._task = self._tasks.start(work)
        self._task.returned.connect(partial(self._take, asked))
        self._task.finished.connect(partial(self._on_finished, self._task))

    @property
    def shift(self) -> DomainShift | None:
        """Latest `DomainShift`, from the header only until more is known."""
        return self._find(self._asked) or self._by_header

    def of(self, session: Session) -> DomainShift | None:
        """`DomainShift` of a session's scan for its model; None if nothing is known."""
        asked = _Asked(session.layer, session.layer.data, session.model, session.plane)
        return self._find(asked) or _by_header(session.model, session.volume)

    def _find(self, asked: _Asked) -> DomainShift | None:
        return next((shift for key, shift in self._known if key.same(asked)), None)

    def _take(self, asked: _Asked, shift: DomainShift | None) -> None:
        if shift is None:
            return
        self._known = [*self._known[1 - _MOST_KEPT :], (asked, shift)]
        if asked.same(self._asked):
            self._show()

    def _show(self) -> None:
        lines = [self.shift.warning if self.shift else "", self._flagged]
        headline = shift_headline(self.shift, self._flagged)
        self._note.set_text(headline, "\n".join(filter(None, lines)))
        self.message.emit(headline)

    def _on_finished(self, task: Task) -> None:
        if task is self._task:
            self._task = None

    def drop(self, layers: Container[Layer]) -> None:
        """Forget scans that are no longer among the layers."""
        self._known = [(key, value) for key, value in self._known if key.layer in layers]
        if self._asked.layer is not None and self._asked.layer not in layers:
            self.check(None, None, None, None)


def _volume(layer: Image | None, plane: Plane | None) -> Scan | None:
    """Scan in a layer; None if it cannot be scored, which scoring reports."""
    try:
        return None if layer is None else layer_volume(layer).along(plane)
    except SpatialARError:
        return None


def _by_header(model: ScoringModel | None, volume: Scan | None) -> DomainShift | None:
    """`DomainShift` according to headers; None without a scan or a model."""
    if volume is None or model is None:
        return None
    return header_shift(model.header, volume)
