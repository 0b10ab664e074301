"""The patch under the cursor: its score immediately, the method's explanation from a worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QLabel, QProgressBar, QVBoxLayout, QWidget

from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.jobs import Task, TaskHost, sentence
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.shortcuts import EXPLAIN_KEY, bind
from napari_spatial_ar.gui.widgets.choosing import choose_folder
from napari_spatial_ar.gui.widgets.forms import Fold, Note, button, coloured, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import slice_number
from napari_spatial_ar.review.explaining import (
    patch_row,
    quantity_lines,
    score_sentence,
    share_sentence,
)
from napari_spatial_ar.steps import run_until_stopped

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.utils.events import Event

    from napari_spatial_ar.normative.detectors.explanation import Explanation
    from napari_spatial_ar.normative.explaining import EmbeddedSlice
    from napari_spatial_ar.normative.fitting.neighbours import Neighbour
    from napari_spatial_ar.normative.fitting.plan import FitProgress


__all__ = ["ExplainPanel", "Explainer", "PatchContext", "Place", "place_under_cursor"]

_REST_MS = 30


@dataclass(frozen=True)
class Place:
    """Acquired slice, and row and column of a pixel in it."""

    index: int
    row: int
    column: int


@dataclass(frozen=True)
class PatchContext:
    """What is known about a patch: the embedded slice, its patch, and the explanation."""

    session: Session
    embedded: EmbeddedSlice
    patch: tuple[int, int]
    explanation: Explanation


def place_under_cursor(viewer: ViewerModel, session: Session) -> Place | None:
    """Pixel of a session's scan under the cursor; None outside of it and in 3-D display."""
    layer = session.layer
    if viewer.dims.ndisplay != 2:
        return None
    at = np.rint(layer.world_to_data(viewer.cursor.position[-layer.ndim :])).astype(int)
    if (at < 0).any() or (at >= layer.data.shape).any():
        return None
    s, p, left = (0,) * (3 - layer.ndim) + tuple(int(value) for value in at)
    return Place(*session.geometry.slice_index((s, p, left)))


def _follow(explainer: ref[Explainer]) -> Callable[[ViewerModel, Event], None]:
    """Create the callback for mouse moves; it holds the dock by weak reference."""

    def move(viewer: ViewerModel, event: Event) -> None:
        found = explainer()
        if found is not None:
            with suppress(RuntimeError):  # Qt may delete the dock before its Python half
                found.refresh()

    return move


class Explainer(QObject):
    """Follows the mouse over a session's scan while it is `on` and not `frozen`.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer whose cursor is followed.
    tasks : TaskHost
        Runs workers.
    parent : QObject
        The owner.
    """

    #: Position, and score there (None if not scored); None and None without a scan.
    moved = Signal(object, object)
    #: PatchContext.
    explained = Signal(object)
    #: Tuple of Neighbour.
    found = Signal(object)
    #: A step of the search: FitProgress.
    progressed = Signal(object)
    #: One sentence about an error.
    failed = Signal(str)
    #: A search began or ended.
    searching = Signal(bool)

    def __init__(self, viewer: ViewerModel, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks
        self._session: Session | None = None
        self.on = False
        self.frozen = False
        self.place: Place | None = None
        self.last: PatchContext | None = None
        self._embedded: tuple[Session, int, EmbeddedSlice] | None = None
        self._task: Task | None = None
        self._search: Task | None = None
        self._again = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._explain)
        self._viewer.mouse_move_callbacks.append(_follow(ref(self)))

    def set_session(self, session: Session | None) -> None:
        """Explain another scan."""
        if session is not self._session:
            self.cancel()
            self._session, self.place, self.last, self._embedded = session, None, None, None
            self.frozen = False
            self.moved.emit(None, None)

    def refresh(self) -> None:
        """Schedule an update for the position of the cursor."""
        if self.on and not self.frozen and self._session is not None:
            self._timer.start(_REST_MS)

    def _explain(self) -> None:
        session = self._session
        if session is None or self.frozen or not session.alive:
            return
        place = place_under_cursor(self._viewer, session)
        if place is not None:
            self.show(place)

    def show(self, place: Place) -> None:
        """Report a position: its score now, the rest when the worker has finished."""
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

        def work(stop: threading.Event) -> Generator[None, None, tuple[int, PatchContext] | None]:
            yield
            made = embedded or model_access.embed_plane(session.model, session.volume, place.index)
            if stop.is_set():
                return None
            patch = made.patch_at((place.row, place.column))
            return place.index, PatchContext(
                session, made, patch, made.explain(session.model, patch)
            )

        self._task = self._tasks.start(work)
        self._task.returned.connect(self._on_explained)
        self._task.failed.connect(self._on_failed)
        self._task.finished.connect(self._on_finished)

    def _on_explained(self, result: tuple[int, PatchContext] | None) -> None:
        if result is None or result[1].session is not self._session:
            return
        index, context = result
        self._embedded = (context.session, index, context.embedded)
        self.last = context
        self.explained.emit(context)

    def _on_failed(self, error: Exception) -> None:
        self.failed.emit(sentence(error, "Explaining"))

    def _on_finished(self) -> None:
        self._task = None
        if self._again:
            self._again = False
            self._ask()

    # ------------------------------------------------------------------ similar normal patches

    def search(self, folders: Sequence[str]) -> None:
        """Find the normal patches most similar to the one explained last."""
        context = self.last
        if context is None or self._search is not None:
            return
        query = context.embedded.embedding(context.patch)

        def work(
            stop: threading.Event,
        ) -> Generator[FitProgress, None, tuple[Neighbour, ...] | None]:
            steps = model_access.similar_steps(context.session.model, folders, query)
            return (yield from run_until_stopped(stop, steps))

        self._search = self._tasks.start(work)
        self._search.progressed.connect(self.progressed)
        self._search.returned.connect(self._on_found)
        self._search.failed.connect(self._on_failed)
        self._search.finished.connect(self._on_searched)
        self.searching.emit(True)

    def cancel(self) -> None:
        """Stop the search; embeddings computed so far stay stored."""
        if self._search is not None:
            self._search.stop()

    def _on_found(self, neighbours: tuple[Neighbour, ...] | None) -> None:
        if neighbours is not None:
            self.found.emit(neighbours)

    def _on_searched(self) -> None:
        self._search = None
        self.searching.emit(False)


_SIDE = 72


_ASK = "Move the mouse over the scan."


_LIKE = (
    "This patch, then the most similar normal ones, each from another patient. Cosine distance "
    "between embeddings: {}"
)


class ExplainPanel(QWidget):
    """Score, meaning and parts of the patch under the cursor, and similar normal patches.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer whose cursor is followed.
    tasks : TaskHost
        Runs workers.
    scope : QWidget
        The dock: its key works anywhere in it except in text fields, and on the viewer's canvas.
    """

    def __init__(self, viewer: ViewerModel, tasks: TaskHost, scope: QWidget):
        super().__init__()
        self.explainer = Explainer(viewer, tasks, self)
        self._session: Session | None = None
        self.where = Note()
        self.score = Note(strong=True)
        self.share = Note()
        self.meaning = Note()
        self.parts = Note()
        self.freeze = button(
            f"Freeze ({EXPLAIN_KEY})",
            tooltip("explain.freeze"),
        )
        self.freeze.setCheckable(True)
        self.similar = button("Similar normal patches", tooltip("explain.similar_normal_patches"))
        self.folder = button("Folder...", tooltip("explain.folder"))
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setToolTip(tooltip("explain.progress"))
        self.stop = button("Cancel", tooltip("explain.cancel"))
        self.picture = QLabel()
        self.note = Note()
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.where, self.score, self.share, self.meaning, self.parts):
            layout.addWidget(widget)
        layout.addLayout(row(self.freeze, self.similar, self.folder))
        layout.addLayout(row(self.bar, self.stop))
        layout.addWidget(self.picture)
        layout.addWidget(self.note)
        tip = tooltip("explain.heading")
        self.fold = Fold("Explain the patch under the cursor", tip, content, strong=True)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.fold)
        self.fold.toggled.connect(self._on_fold)
        self.freeze.clicked.connect(self._on_freeze)
        self.similar.clicked.connect(self._on_similar)
        self.folder.clicked.connect(self._on_folder)
        self.stop.clicked.connect(self.explainer.cancel)
        for signal, slot in (
            (self.explainer.moved, self._on_moved),
            (self.explainer.explained, self._on_explained),
            (self.explainer.found, self._on_found),
            (self.explainer.progressed, self._on_progress),
            (self.explainer.failed, self.note.set_text),
            (self.explainer.searching, self._on_searching),
        ):
            signal.connect(slot)
        bind(viewer, [scope], EXPLAIN_KEY, self.toggle)
        self._on_moved(None, None)
        self._on_searching(False)

    def set_session(self, session: Session | None) -> None:
        """Explain another scan; None for one that is not scored."""
        self._session = session
        self.explainer.set_session(session)
        self._enable()

    def toggle(self) -> None:
        """Open the panel; if it is open, freeze its contents or follow the mouse again."""
        if not self.fold.isExpanded():
            self.fold.expand()
        else:
            self._on_freeze(not self.explainer.frozen)

    # ------------------------------------------------------------------ what is shown

    def _on_fold(self, expanded: bool) -> None:
        self.explainer.on = expanded
        self.explainer.refresh()

    def _on_freeze(self, on: bool) -> None:
        self.explainer.frozen = on and self.explainer.place is not None
        self._enable()
        self.explainer.refresh()

    def _on_moved(self, place: Place | None, score: float | None) -> None:
        for note in (self.score, self.share, self.note):
            note.set_text("")
        self.picture.hide()
        if place is None or self._session is None:
            self.where.set_text(_ASK if self._session is not None else "Score the scan first.")
            self.meaning.set_text("")
            self.parts.set_text("")
        elif score is None:
            self.where.set_text(f"Slice {slice_number(place.index)} is not scored yet.")
            self.meaning.set_text("")
            self.parts.set_text("")
        else:
            model = self._session.model
            # All three count from 1, as on a scanner.
            at, line, column = (slice_number(n) for n in (place.index, place.row, place.column))
            self.where.set_text(f"Slice {at}, row {line}, column {column}")
            self.score.set_text(score_sentence(score, model.unit))
            self.share.set_text(share_sentence(model, score))
        self._enable()

    def _on_explained(self, context: PatchContext) -> None:
        self.meaning.set_text(context.explanation.meaning)
        self.parts.set_text("\n".join(quantity_lines(context.explanation)))
        self._enable()

    def _enable(self) -> None:
        explainer = self.explainer
        self.freeze.setChecked(explainer.frozen)
        self.freeze.setEnabled(explainer.place is not None)
        ready = explainer.last is not None and not self._busy
        self.similar.setEnabled(ready and bool(self._folders()))
        self.folder.setEnabled(self._session is not None and not self._busy)
        self.similar.setToolTip(
            tooltip("explain.similar_normal_patches")
            if self._folders()
            else tooltip("explain.similar_normal_patches.unknown")
        )

    # ------------------------------------------------------------------ similar normal patches

    _busy = False

    def _key(self) -> str:
        model = None if self._session is None else self._session.model
        return "normals/" + ("" if model is None else model.sha256[:16] or model.name)

    def _folders(self) -> list[str]:
        """Folder of the model's normal slices, if known, else that of the last fit."""
        if self._session is None:
            return []
        known = settings.recall(self._key(), "") or settings.recall("training_folder", "")
        folders = settings.folders_in(known)
        return folders if all(os.path.isdir(part) for part in folders) else []

    def _on_folder(self) -> None:
        start = next(iter(self._folders()), "")
        chosen = choose_folder(self, "Folder of normal scans", "training", start=start)
        if chosen:
            settings.remember(self._key(), chosen)
            self._enable()
            self._on_similar()

    def _on_similar(self) -> None:
        if self.explainer.last is None:
            return
        if not self._folders():
            self.note.set_text(f"{tooltip('explain.similar_normal_patches.unknown')}.")
            return
        self._on_freeze(True)
        self.explainer.search(self._folders())

    def _on_searching(self, on: bool) -> None:
        self._busy = on
        self.bar.setVisible(on)
        self.stop.setVisible(on)
        if on:
            self.bar.setRange(0, 0)
            self.picture.hide()
            self.note.set_text("Searching the normal slices...")
        elif self.note.text().endswith("..."):
            self.note.set_text("")
        self._enable()

    def _on_progress(self, step: FitProgress) -> None:
        self.bar.setRange(0, step.total)
        self.bar.setValue(step.done)
        self.note.set_text(f"{step.message}: {step.done} of {step.total}...")

    def _on_found(self, neighbours: tuple[Neighbour, ...]) -> None:
        context = self.explainer.last
        if context is None or context.session is not self._session:
            return
        own = context.embedded.picture(context.patch)
        pictures = [own, *(one.picture for one in neighbours)]
        self.picture.setPixmap(coloured(patch_row(pictures, _SIDE)))
        self.picture.show()
        self.note.set_text(_LIKE.format(", ".join(f"{one.distance:.2f}" for one in neighbours)))
