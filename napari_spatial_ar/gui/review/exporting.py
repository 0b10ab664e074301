"""Saving what a session found."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_info
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.notify import report, warn
from napari_spatial_ar.gui.overwriting import may_replace
from napari_spatial_ar.gui.review.export_panel import ExportPanel
from napari_spatial_ar.gui.review.likeness_check import LikenessCheck
from napari_spatial_ar.gui.review.mask import MaskController
from napari_spatial_ar.gui.review.reporting import ReportMaker, ask_for_report, scan_report_steps
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.review.threshold_panel import ThresholdPanel
from napari_spatial_ar.imaging.dicom.derived import caveats
from napari_spatial_ar.imaging.dicom.seg import write_seg
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.review.contents import mask_content
from napari_spatial_ar.review.earlier import results_folder
from napari_spatial_ar.review.outputs import (
    earlier_files,
    scan_folder_name,
    write_scan_outputs,
)
from napari_spatial_ar.review.provenance import algorithm_of

__all__ = ["Exporter"]

_NIFTI_SUFFIXES, _DICOM_SUFFIX = (".nii.gz", ".nii"), ".dcm"
_NIFTI_FILTER, _DICOM_FILTER = "NIfTI (*.nii.gz *.nii)", "DICOM segmentation (*.dcm)"


def _without_rejected(result: Callable[[], Any]) -> Any:
    mask, listed = result()
    return listed.without_rejected(mask)


class Exporter:
    """Asks where to, and writes in a worker."""

    def __init__(
        self,
        dock: Any,
        panel: ExportPanel,
        threshold: ThresholdPanel,
        masks: MaskController,
        likeness: LikenessCheck,
    ):
        self._dock: QWidget = dock
        self._panel = panel
        self._tasks = dock.tasks
        self._threshold = threshold
        self._masks = masks
        self._likeness = likeness
        self.reports = ReportMaker(panel.report_button, self._tasks)
        self.reports.said.connect(panel.report_note.say)

    def mask(self, session: Session | None) -> None:
        """Ask for a file and save the mask layer as it stands, on the scan's own grid."""
        if session is None:
            return
        path = self._ask_for_mask_file()
        if path is None:
            return
        settings.remember_folder("export", path.parent)
        result, computed = self._masks.result(session), self._masks.computed(session)
        if path.name.lower().endswith(_DICOM_SUFFIX):
            self._run(
                partial(self._write_seg, session, path, result, computed),
                f"The mask is saved in {path.name}. It holds the patient's identity.",
            )
            return
        volume = session.volume

        def write() -> None:
            mask, content = _without_rejected(result), mask_content(session.model.name)
            write_nifti(path, mask, volume.geometry, like=volume.path, content=content)

        self._run(write, f"The mask is saved in {path.name}.")

    def _ask_for_mask_file(self) -> Path | None:
        kinds = [_NIFTI_FILTER, _DICOM_FILTER] if self._panel.from_dicom else [_NIFTI_FILTER]
        start = Path(settings.last_folder("export")) / "mask.nii.gz"
        chosen, kind = QFileDialog.getSaveFileName(
            self._dock,
            "Export mask",
            str(start),
            ";;".join(kinds),
            "",
            # Asked below, for the name with its ending.
            QFileDialog.Option.DontConfirmOverwrite,
        )
        if not chosen:
            return None
        suffixes = (*_NIFTI_SUFFIXES, _DICOM_SUFFIX)
        if kind == _DICOM_FILTER and chosen.lower().endswith(_NIFTI_SUFFIXES):
            # The suggested name stands while the user picks another kind of file.
            chosen = re.sub(r"(?i)\.nii(\.gz)?$", _DICOM_SUFFIX, chosen)
        elif not chosen.lower().endswith(suffixes):
            chosen += _DICOM_SUFFIX if kind == _DICOM_FILTER else _NIFTI_SUFFIXES[0]
        path = Path(chosen)
        return path if may_replace(self._dock, "Export mask", [path]) else None

    def _write_seg(self, session: Session, path: Path, result: Any, computed: Any) -> Any:
        mask = _without_rejected(result)
        write_seg(
            path,
            mask,
            session.volume,
            algorithm=algorithm_of(session.model, threshold=self._threshold.threshold),
            edited=not np.array_equal(mask, computed),
        )
        return caveats(session.volume)

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
        folder = results_folder(Path(chosen), session.volume)
        earlier = earlier_files(folder)
        if not may_replace(self._dock, "Export all", earlier):
            return
        arguments = {
            **self._arguments(session),
            **self._panel.extras(),
            "overwrite": bool(earlier),
        }
        result = self._masks.result(session)

        def write() -> tuple[str, ...]:
            mask, listed = result()
            return write_scan_outputs(
                folder,
                session.volume,
                session.score,
                session.model,
                mask=mask,
                reviewed=listed,
                **arguments,
            ).warnings

        self._run(
            write,
            f"Heatmap, mask, flagged regions and provenance are saved in the folder {folder.name}.",
        )

    def _arguments(self, session: Session) -> dict[str, Any]:
        """Give what a session's results rest on: arguments of `gather_results`."""
        return {
            "threshold": self._threshold.threshold,
            "fpr": self._threshold.fpr,
            "settings": self._masks.settings,
            "region": self._masks.region(session),
            "likeness": self._likeness.of(session),
        }

    def report(self, session: Session | None) -> None:
        """Ask for a file and write a report; or cancel the one that is being made."""
        if self.reports.busy:
            self.reports.cancel()
            return
        if session is None:
            return
        file = ask_for_report(self._dock, f"{scan_folder_name(session.volume)}-report.html")
        if file is None:
            return
        steps = partial(
            scan_report_steps,
            session=session,
            result=self._masks.result(session),
            arguments=self._arguments(session),
        )
        self.reports.start(file, steps)

    def _run(self, write: Callable[[], Any], done: str) -> None:
        """Write in a worker; what it returns, if anything, are sentences that warn."""

        def work(stop: threading.Event) -> Generator[None, None, Any]:
            yield
            try:
                return write()
            except OSError as error:
                raise InputError("the export could not be written") from error

        def tell(warnings: tuple[str, ...] | None) -> None:
            show_info(done)
            for text in warnings or ():
                warn(text)

        task = self._tasks.start(work)
        task.returned.connect(tell)
        task.failed.connect(lambda error: report(error, "Export"))
