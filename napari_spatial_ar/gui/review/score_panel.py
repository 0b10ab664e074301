"""Buttons that score, and how far scoring is."""

from __future__ import annotations

from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_spatial_ar.gui.review.shelf import Shelf
from napari_spatial_ar.gui.widgets.forms import Note, button, row, section
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.gui.widgets.warning_note import WarningNote

__all__ = ["ScorePanel"]


class ScorePanel(QWidget):
    """Score, cancel, and what is said of it; the bar is there while slices are scored.

    The buttons are the last row of a panel at the foot of the dock: whatever is said, and however
    late, they stay under the cursor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shelf = Shelf()
        self.unlike_note = WarningNote(tooltip("model.why"))
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
        self.rarity_note = Note()
        parts = [
            self.shelf,
            self.unlike_note,
            self.rarity_note,
            self.note,
            row(self.progress, self.cancel_button),
            row(self.slice_button, self.volume_button),
        ]
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(section("Score", parts))
        self.enable(False, False)

    def enable(self, ready: bool, running: bool) -> None:
        """Allow to score, and to cancel, or not."""
        self.slice_button.setEnabled(ready)
        self.volume_button.setEnabled(ready)
        self.cancel_button.setEnabled(running)
        self.cancel_button.setVisible(running)
        self.progress.setVisible(running)

    def show_progress(self, done: int, total: int) -> None:
        """Move the bar."""
        # Qt would repaint the bar at once, and the whole window with it, canvas and all.
        self.progress.setUpdatesEnabled(False)
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self.progress.setUpdatesEnabled(True)
