"""Saving what a session found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info
from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.masking import MaskController
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.session import Session
from napari_spatial_ar.gui.threshold_panel import ThresholdPanel
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.review.outputs import OUTPUT_FILES, scan_folder_name, write_scan_outputs

__all__ = ["Exporter"]


class Exporter:
    """Asks where to, and writes in a worker."""

    def __init__(self, dock: Any, threshold: ThresholdPanel, masks: MaskController):
        self._dock: QWidget = dock
        self._tasks = dock.tasks
        self._threshold = threshold
        self._masks = masks

    def mask(self, session: Session | None) -> None:
        """Ask for a file and save the mask layer as it stands, on the scan's own grid."""
        if session is None:
            return
        start = Path(settings.last_folder("export")) / "mask.nii.gz"
        chosen, _ = QFileDialog.getSaveFileName(
            self._dock, "Export mask", str(start), "NIfTI (*.nii.gz *.nii)"
        )
        if not chosen:
            return
        if not chosen.lower().endswith((".nii", ".nii.gz")):
            chosen += ".nii.gz"
        path = Path(chosen)
        settings.remember_folder("export", path.parent)
        volume = session.volume
        mask = self._masks.painted(session)
        if mask is None:
            mask = self._masks.computed(session)
        self._run(
            lambda: write_nifti(path, mask, volume.geometry, like=volume.path),
            f"The mask is saved in {path.name}.",
        )

    def everything(self, session: Session | None) -> None:
        """Ask for a folder and write heatmap, mask, findings and provenance into a new one."""
        if session is None:
            return
        chosen = QFileDialog.getExistingDirectory(
            self._dock, "Export all: choose a folder", settings.last_folder("export")
        )
        if not chosen:
            return
        settings.remember_folder("export", chosen)
        folder = Path(chosen) / scan_folder_name(session.volume)
        overwrite = any((folder / name).exists() for name in OUTPUT_FILES.values())
        if overwrite and not self._may_overwrite(folder):
            return
        arguments = {
            "threshold": self._threshold.threshold,
            "fpr": self._threshold.fpr,
            "mask": self._masks.painted(session),
            "overwrite": overwrite,
            **self._masks.size_arguments(session),
        }
        self._run(
            lambda: write_scan_outputs(
                folder, session.volume, session.score, session.model, **arguments
            ),
            f"Heatmap, mask, findings and provenance are saved in the folder {folder.name}.",
        )

    def _may_overwrite(self, folder: Path) -> bool:
        answer = QMessageBox.question(
            self._dock,
            "Export all",
            f"The folder {folder.name} holds results of an earlier export. Replace them?",
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _run(self, write: Callable[[], Any], done: str) -> None:
        def work(stop: threading.Event) -> Generator[None, None, None]:
            yield
            try:
                write()
            except OSError as error:
                raise InputError("the export could not be written") from error

        task = self._tasks.start(work)
        task.returned.connect(lambda _: show_info(done))
        task.failed.connect(lambda error: report(error, "Export"))
