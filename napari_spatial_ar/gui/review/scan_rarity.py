"""How rare a whole scan is among normal ones, found in a worker once it is scored."""

from __future__ import annotations

import threading
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.review.p_values import p_note, p_values

__all__ = ["ScanRarity"]


class ScanRarity(QObject):
    """Fills in `Session.rarity`, a line for the user."""

    #: The session whose line is there.
    measured = Signal(object)

    def __init__(self, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._tasks = tasks

    def measure(self, session: Session) -> None:
        """Look at the scores of a session as they stand."""
        # Copies: slices may be scored meanwhile.
        score: Any = SimpleNamespace(
            scored=session.score.scored.copy(), image_scores=session.score.image_scores.copy()
        )

        def work(stop: threading.Event) -> Generator[None, None, Any]:
            yield
            return session, p_note(p_values(session.model, session.volume, score, session.body))

        task = self._tasks.start(work)
        task.returned.connect(self._on_returned)

    def _on_returned(self, found: tuple[Session, str]) -> None:
        session, said = found
        session.rarity = said
        self.measured.emit(session)
