"""Compares the scan under review with what the chosen model learned from.

What headers say is there at once; what the scan looks like follows from a worker.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.layers import layer_volume
from napari_spatial_ar.gui.review.scored_layer import Session, same_model
from napari_spatial_ar.gui.widgets.warning_note import WarningNote
from napari_spatial_ar.imaging.geometry import Plane
from napari_spatial_ar.normative.calibration.acquired import header_likeness
from napari_spatial_ar.review.likeness import likeness_headline
from napari_spatial_ar.review.provenance import model_window
from napari_spatial_ar.steps import until_stopped

__all__ = ["LikenessCheck"]

_MOST_KEPT = 32


class LikenessCheck(QObject):
    """Looks at a scan once for each model and plane, and says in a note what is unlike."""

    #: The short sentence of the note; "" for none.
    said = Signal(str)

    def __init__(self, note: WarningNote, tasks: TaskHost):
        super().__init__(note)
        self._note = note
        self._tasks = tasks
        self._task: Task | None = None
        self._flagged = ""
        self._asked: tuple[Any, ...] = ()
        self._volume: Any = None
        self._by_header: Any = None
        self._known: list[tuple[tuple[Any, ...], Any]] = []

    def look(self, layer: Any, model: Any, plane: Plane | None, session: Session | None) -> None:
        """Compare a layer with a model; any of them may be None.

        Of the scan's ``session``, if there is one, it is said too that far more is flagged than
        can be abnormal.
        """
        asked: tuple[Any, ...] = (layer, getattr(layer, "data", None), model, plane)
        self._flagged = "" if session is None else session.flagged
        same = _same(asked, self._asked)
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
        nothing = volume is None or not hasattr(getattr(model, "header", None), "looks")
        if nothing or self._find(asked) is not None:
            return

        def work(stop: threading.Event) -> Generator[None, None, Any]:
            from napari_spatial_ar.normative.calibration.appearance import likeness_steps

            yield
            # A file may be gone or weights missing: scoring says so.
            try:
                # Known from here on, so that the first heatmap need not wait for it.
                model_window(model, volume)
                return (yield from until_stopped(stop, likeness_steps(model, volume)))
            except SpatialARError:
                return None

        self._task = self._tasks.start(work)
        self._task.returned.connect(partial(self._take, asked))
        self._task.finished.connect(partial(self._on_finished, self._task))

    @property
    def likeness(self) -> Any:
        """`Likeness` of what was asked about last, by its header alone until more is known."""
        return self._find(self._asked) or self._by_header

    def of(self, session: Session) -> Any:
        """`Likeness` of a session's scan to its model; None where nothing is known."""
        asked = (session.layer, session.layer.data, session.model, session.plane)
        return self._find(asked) or _by_header(session.model, session.volume)

    def _find(self, asked: tuple[Any, ...]) -> Any:
        return next((likeness for key, likeness in self._known if _same(key, asked)), None)

    def _take(self, asked: tuple[Any, ...], likeness: Any) -> None:
        if likeness is None:
            return
        self._known = [*self._known[1 - _MOST_KEPT :], (asked, likeness)]
        if _same(asked, self._asked):
            self._show()

    def _show(self) -> None:
        told = [self.likeness.warning if self.likeness else "", self._flagged]
        headline = likeness_headline(self.likeness, self._flagged)
        self._note.say(headline, "\n".join(filter(None, told)))
        self.said.emit(headline)

    def _on_finished(self, task: Task) -> None:
        if task is self._task:
            self._task = None

    def drop(self, layers: Any) -> None:
        """Forget scans that are not among the layers any more."""
        self._known = [(key, value) for key, value in self._known if key[0] in layers]
        if self._asked and self._asked[0] not in layers:
            self.look(None, None, None, None)


def _volume(layer: Any, plane: Plane | None) -> Any:
    """Scan in a layer; None where it is none that can be scored: scoring it says so."""
    try:
        return None if layer is None else layer_volume(layer).along(plane)
    except SpatialARError:
        return None


def _by_header(model: Any, volume: Any) -> Any:
    """`Likeness` by what headers say; None without a scan or a model that has a header."""
    header: Any = getattr(model, "header", None)
    if volume is None or not hasattr(header, "acquired"):
        return None
    return header_likeness(header, volume)


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    if not a or not b or (a[2] is None) != (b[2] is None):
        return False
    return a[0] is b[0] and a[1] is b[1] and same_model(a[2], b[2]) and a[3] == b[3]
