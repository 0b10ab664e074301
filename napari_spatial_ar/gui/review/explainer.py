"""What stands under the cursor: its score at once, the method's explanation from a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import ref

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_spatial_ar.gui import services
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.notify import sentence
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.steps import until_stopped

__all__ = ["Explainer", "Place", "Told", "place_under_cursor"]

_REST_MS = 30


@dataclass(frozen=True)
class Place:
    """Acquired slice, row and column of a pixel of it."""

    index: int
    row: int
    column: int


@dataclass(frozen=True)
class Told:
    """What is known of a patch: the slice as it was embedded, its patch, and the explanation."""

    session: Session
    embedded: Any
    patch: tuple[int, int]
    explanation: Any


def place_under_cursor(viewer: Any, session: Session) -> Place | None:
    """Pixel of a session's scan that the cursor is on; None outside of it and in 3-D display."""
    layer = session.layer
    if viewer.dims.ndisplay != 2:
        return None
    at = np.rint(layer.world_to_data(viewer.cursor.position[-layer.ndim :])).astype(int)
    if (at < 0).any() or (at >= layer.data.shape).any():
        return None
    s, p, left = (0,) * (3 - layer.ndim) + tuple(int(value) for value in at)
    return Place(*session.geometry.slice_index((s, p, left)))


def _follow(explainer: ref[Explainer]) -> Callable[[Any, Any], None]:
    """Make what napari calls when the mouse moves; it keeps no dock alive."""

    def move(viewer: Any, event: Any) -> None:
        found = explainer()
        if found is not None:
            with suppress(RuntimeError):  # the dock may be gone before its Python half is
                found.look()

    return move


class Explainer(QObject):
    """Follows the mouse over a session's scan while it is `on` and not `frozen`.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose cursor is followed.
    tasks : TaskHost
        Runs workers.
    parent : QObject
        The owner.
    """

    #: Place, score there (None where it is not scored); None and None where there is no scan.
    moved = Signal(object, object)
    #: Told.
    told = Signal(object)
    #: Tuple of Neighbour.
    found = Signal(object)
    #: A step of the search: FitProgress.
    progressed = Signal(object)
    #: One sentence on what went wrong.
    failed = Signal(str)
    #: A search began or ended.
    searching = Signal(bool)

    def __init__(self, viewer: Any, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks
        self._session: Session | None = None
        self.on = False
        self.frozen = False
        self.place: Place | None = None
        self.last: Told | None = None
        self._embedded: tuple[Session, int, Any] | None = None
        self._task: Task | None = None
        self._search: Task | None = None
        self._again = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._look)
        self._viewer.mouse_move_callbacks.append(_follow(ref(self)))

    def set_session(self, session: Session | None) -> None:
        """Explain another scan."""
        if session is not self._session:
            self.cancel()
            self._session, self.place, self.last, self._embedded = session, None, None, None
            self.frozen = False
            self.moved.emit(None, None)

    def look(self) -> None:
        """Look soon at what is under the cursor."""
        if self.on and not self.frozen and self._session is not None:
            self._timer.start(_REST_MS)

    def _look(self) -> None:
        session = self._session
        if session is None or self.frozen or not session.alive:
            return
        place = place_under_cursor(self._viewer, session)
        if place is not None:
            self.show(place)

    def show(self, place: Place) -> None:
        """Tell of a place: its score now, the rest when the worker knows."""
        session = self._session
        if session is None:
            return
        self.place = place
        scored = bool(session.score.scored[place.index])
        plane = session.geometry.to_slices(session.score.nll)[place.index]
        self.moved.emit(place, float(plane[place.row, place.column]) if scored else None)
        if scored:
            self._ask()

    def _ask(self) -> None:
        session, place = self._session, self.place
        if session is None or place is None:
            return
        if self._task is not None:
            self._again = True
            return
        known = self._embedded
        same = known is not None and known[0] is session and known[1] == place.index
        embedded = known[2] if same and known is not None else None

        def work(stop: threading.Event) -> Generator[None, None, Any]:
            yield
            made = embedded or services.embed_plane(session.model, session.volume, place.index)
            if stop.is_set():
                return None
            patch = made.patch_at((place.row, place.column))
            return place.index, Told(session, made, patch, made.explain(session.model, patch))

        self._task = self._tasks.start(work)
        self._task.returned.connect(self._on_told)
        self._task.failed.connect(self._on_failed)
        self._task.finished.connect(self._on_finished)

    def _on_told(self, result: tuple[int, Told] | None) -> None:
        if result is None or result[1].session is not self._session:
            return
        index, told = result
        self._embedded = (told.session, index, told.embedded)
        self.last = told
        self.told.emit(told)

    def _on_failed(self, error: Exception) -> None:
        self.failed.emit(sentence(error, "Explaining"))

    def _on_finished(self) -> None:
        self._task = None
        if self._again:
            self._again = False
            self._ask()

    # ------------------------------------------------------------------ normal patches like it

    def search(self, folders: Sequence[str]) -> None:
        """Find the normal patches that are most like the one explained last."""
        told = self.last
        if told is None or self._search is not None:
            return
        query = told.embedded.embedding(told.patch)

        def work(stop: threading.Event) -> Generator[Any, None, Any]:
            steps = services.similar_steps(told.session.model, folders, query)
            return (yield from until_stopped(stop, steps))

        self._search = self._tasks.start(work)
        self._search.progressed.connect(self.progressed)
        self._search.returned.connect(self._on_found)
        self._search.failed.connect(self._on_failed)
        self._search.finished.connect(self._on_searched)
        self.searching.emit(True)

    def cancel(self) -> None:
        """End the search; embeddings made so far stay stored."""
        if self._search is not None:
            self._search.stop()

    def _on_found(self, neighbours: Any) -> None:
        if neighbours is not None:
            self.found.emit(neighbours)

    def _on_searched(self) -> None:
        self._search = None
        self.searching.emit(False)
