"""Deleted scans with manual work, and how to restore them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.widgets.forms import Note, button, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["DeletedScan", "DeletedScans"]


@dataclass(frozen=True, eq=False)
class DeletedScan:
    """A deleted scan, and its sessions with manual edits, decisions or comments."""

    layer: Image
    sessions: tuple[Session, ...]


class DeletedScans(QWidget):
    """Holds deleted scans until they are restored or discarded; hidden while there are none.

    napari cannot be kept from deleting a layer, and a scan, its manual edits and decisions are one
    piece of work, so they are held together.
    """

    #: A `DeletedScan` is to be restored to the viewer.
    wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.held: list[DeletedScan] = []
        self.note = Note(strong=True)
        self.back_button = button("Restore", tooltip("deleted_scans.restore"))
        self.discard_button = button("Discard", tooltip("deleted_scans.discard"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.note)
        layout.addLayout(row(self.back_button, self.discard_button))
        self.back_button.clicked.connect(self.bring_back)
        self.discard_button.clicked.connect(self.discard)
        self._update_text()

    def put(self, sessions: Sequence[Session]) -> None:
        """Add the sessions of deleted scans."""
        layers = dict.fromkeys(session.layer for session in sessions)
        for layer in layers:
            self.held.append(DeletedScan(layer, tuple(s for s in sessions if s.layer is layer)))
        self._update_text()

    def bring_back(self) -> None:
        """Restore the scan that was deleted last."""
        if self.held:
            last = self.held.pop()
            self._update_text()
            self.wanted.emit(last)

    def discard(self) -> None:
        """Discard the scan that was deleted last permanently."""
        if self.held:
            self.held.pop()
            self._update_text()

    def _update_text(self) -> None:
        self.setVisible(bool(self.held))
        if self.held:
            others = f" Earlier: {len(self.held) - 1} more." if len(self.held) > 1 else ""
            name = self.held[-1].layer.name
            self.note.set_text(f"Deleted with manual edits, decisions or comments: {name}.{others}")
