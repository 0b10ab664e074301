"""Two models side by side on the scan under review."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QLabel,
    QProgressBar,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.jobs import Task, TaskHost, report
from napari_spatial_ar.gui.layers import layer_volume
from napari_spatial_ar.gui.library import actions
from napari_spatial_ar.gui.review.scan_panel import ScanPanel
from napari_spatial_ar.gui.widgets.choosing import choose_target
from napari_spatial_ar.gui.widgets.forms import (
    Dialog,
    Note,
    button,
    combo,
    research_line,
    row,
    select_data,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.files import atomic_write_bytes

if TYPE_CHECKING:
    from napari_spatial_ar.normative.library import ModelEntry
    from napari_spatial_ar.review.model_comparison import ModelComparison


__all__ = ["ComparisonDialog"]

_NO_SCAN = "No scan is chosen: open one in the Review dock."
_PLACEHOLDER = "Both models' heatmaps of the slices that they find most unusual appear here."


class ComparisonDialog(Dialog):
    """Scores the scan chosen in the Review dock with two models, and shows where they differ.

    Parameters
    ----------
    entries : list of ModelEntry
        Models to choose from.
    scan : ScanPanel or None
        The list of scans.
    parent : QWidget
        The parent window.
    """

    def __init__(self, entries: Sequence[ModelEntry], scan: ScanPanel | None, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("Compare two models")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(1060, 660)
        self.tasks = TaskHost(self)
        self._task: Task | None = None
        self._png = b""
        self._layer = None if scan is None else scan.layer
        self.first = combo(tooltip("comparison.first"), "First model")
        self.second = combo(tooltip("comparison.second"), "Second model")
        for box in (self.first, self.second):
            for entry in entries:
                box.addItem(entry.name, entry.folder)
        self.second.setCurrentIndex(min(1, len(entries) - 1))
        self.scan_note = Note()
        self.compare_button = button("&Compare", tooltip("comparison.compare"))
        self.cancel_button = button("Cancel", tooltip("comparison.cancel"))
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setToolTip(tooltip("comparison.progress"))
        self.note = Note(strong=True)
        self.picture = QLabel(_PLACEHOLDER)
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._lay_out()
        self.first.currentIndexChanged.connect(self._enable)
        self.second.currentIndexChanged.connect(self._enable)
        self.compare_button.clicked.connect(self.compare)
        self.cancel_button.clicked.connect(self.cancel)
        self.save_button.clicked.connect(self.save)
        if scan is not None:
            scan.chosen.connect(self.set_scan)
        self.set_scan(self._layer)

    def _lay_out(self) -> None:
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setWidget(self.picture)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        self.save_button = buttons.addButton(
            "&Save picture...", QDialogButtonBox.ButtonRole.ActionRole
        )
        self.save_button.setToolTip(tooltip("comparison.save_picture"))
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addLayout(row(self.first, QLabel("and"), self.second))
        layout.addWidget(self.scan_note)
        layout.addLayout(row(self.compare_button, self.progress, self.cancel_button))
        layout.addWidget(self.note)
        layout.addWidget(scroll, 1)
        layout.addWidget(buttons)
        layout.addWidget(research_line())

    def set_models(self, first: Path) -> None:
        """Choose the first model, and another one as the second."""
        select_data(self.first, first)
        if self.second.currentIndex() == self.first.currentIndex():
            self.second.setCurrentIndex(0 if self.first.currentIndex() else 1)

    @property
    def running(self) -> bool:
        """Whether slices are being scored."""
        return self._task is not None

    def set_scan(self, layer: Image | None) -> None:
        """Set a scan layer, or None."""
        self._layer = layer
        self.scan_note.set_text(
            _NO_SCAN if layer is None else f"Scan: {layer.name}, in the slices as acquired."
        )
        self._enable()

    def _enable(self, *_: object) -> None:
        same = self.first.currentIndex() == self.second.currentIndex()
        self.compare_button.setEnabled(self._layer is not None and not same and not self.running)
        self.cancel_button.setEnabled(self.running)
        self.save_button.setEnabled(bool(self._png))

    def compare(self) -> None:
        """Score the scan with both models."""
        if self.running or self._layer is None:
            return
        try:
            volume = layer_volume(self._layer)
        except SpatialARError as error:
            self.note.set_text(report(error, "Comparing"))
            return
        folders = self.first.currentData(), self.second.currentData()
        self.progress.setRange(0, 0)
        self.note.set_text("Loading both models...")
        task = self.tasks.start(
            partial(actions.compare, first=folders[0], second=folders[1], volume=volume)
        )
        task.progressed.connect(self._on_step)
        task.returned.connect(self._on_compared)
        task.failed.connect(self._on_failed)
        task.finished.connect(self._on_finished)
        self._task = task
        self._enable()

    def cancel(self) -> None:
        """Stop after the current slice."""
        if self._task is not None:
            self._task.stop()
            self.note.set_text("Stopping...")

    def _on_step(self, step: actions.Step | None) -> None:
        if step is None or self._task is None or self._task.stopped:
            return
        name, done, total = step
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self.note.set_text(f"Scoring with {name}: {done} of {total} slices")

    def _on_compared(self, comparison: actions.Comparison | None) -> None:
        if comparison is None:
            self.note.set_text("Stopped.")
            return
        self._png = comparison.png
        picture = QPixmap()
        picture.loadFromData(self._png, "PNG")
        self.picture.setPixmap(picture)
        warnings = [f"\u26a0 {sentence}" for sentence in comparison.result.shift_warnings]
        self.note.set_text("\n".join([*warnings, _in_words(comparison.result)]))

    def _on_failed(self, error: Exception) -> None:
        self.note.set_text(report(error, "Comparing"))

    def _on_finished(self) -> None:
        self._task = None
        self.progress.setRange(0, max(1, self.progress.maximum()))
        self._enable()

    def save(self) -> None:
        """Ask for a file and write the picture."""
        chosen, _ = choose_target(self, "Save picture", "export", "compare.png", "PNG (*.png)")
        if not chosen:
            return
        path = Path(chosen) if Path(chosen).suffix else Path(chosen).with_suffix(".png")
        try:
            atomic_write_bytes(path, self._png)
        except SpatialARError as error:
            self.note.set_text(report(error, "Saving the picture"))
            return
        settings.remember_folder("export", path.parent)
        self.note.set_text(f"Saved as {path}.")


def _in_words(result: ModelComparison) -> str:
    """Describe in two sentences how well two models agree."""
    if result.dice is None:
        outlines = "Neither outlines anything."
    else:
        outlines = f"Overlap of their outlines (Dice, 1: identical): {result.dice:.2f}."
    if result.rank_correlation is None:
        return f"{outlines} One heatmap is constant, so there is no rank correlation."
    return (
        f"{outlines} Rank correlation over voxels of the body (1: same order): "
        f"{result.rank_correlation:.2f}."
    )
