"""Export of results: options, reports, and files that exist already."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QCheckBox, QPushButton, QVBoxLayout, QWidget

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.archive.find_dialog import has_extra
from napari_spatial_ar.gui.archive.send_dialog import SendDialog
from napari_spatial_ar.gui.archive.sending import UnderReview
from napari_spatial_ar.gui.jobs import Task, TaskHost, report, warn
from napari_spatial_ar.gui.review.dicom_choice import DicomChoice, remembered
from napari_spatial_ar.gui.review.mask import MaskController, Reviewed
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.review.scoring import DomainShiftCheck
from napari_spatial_ar.gui.review.threshold_panel import ThresholdPanel
from napari_spatial_ar.gui.widgets.choosing import choose_folder, choose_target, confirmed
from napari_spatial_ar.gui.widgets.forms import Note, button, folding, row, stack
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.dicom.derived import caveats, is_from_dicom
from napari_spatial_ar.imaging.dicom.seg import write_seg
from napari_spatial_ar.imaging.files import atomic_write_bytes, atomic_write_text
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.review.contents import mask_content
from napari_spatial_ar.review.dicom_objects import DEFAULT_OBJECTS, DicomObject
from napari_spatial_ar.review.earlier import results_folder
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import (
    earlier_files,
    scan_folder_name,
    write_scan_outputs,
)
from napari_spatial_ar.review.provenance import dicom_algorithm
from napari_spatial_ar.review.report.data import report_steps
from napari_spatial_ar.review.report.html import scan_page
from napari_spatial_ar.review.report.pdf import PAPERS, Paper, need_pdf, pdf_of
from napari_spatial_ar.review.results import ScanResults, gather_results
from napari_spatial_ar.steps import mapped, run_until_stopped

__all__ = [
    "OPEN_REPORTS",
    "ExportPanel",
    "Exporter",
    "ReportFile",
    "ReportMaker",
    "ask_for_report",
    "may_replace",
    "scan_report_steps",
]

_NAMED = 12


def may_replace(parent: QWidget, title: str, paths: Sequence[Path]) -> bool:
    """Ask whether existing files may be replaced; True if there are none.

    Enter and Escape cancel.
    """
    there = [path.name for path in paths if os.path.exists(path)]
    if not there:
        return True
    if len(there) == 1:
        text = f"There is already a file named {there[0]}. Replace it?"
    else:
        names = ", ".join(there[:_NAMED]) + (", ..." if len(there) > _NAMED else "")
        text = f"{len(there)} files of an earlier export will be replaced: {names}. Replace them?"
    return confirmed(parent, title, text)


#: Setting: whether to open a report after writing it.
OPEN_REPORTS = "open_report"


_KIND = "report_kind"


_HTML = "HTML (*.html)"


_PDF: dict[str, Paper] = {f"PDF, {paper} (*.pdf)": paper for paper in PAPERS}


#: Yields lines for the user and returns the page's text, or None if it was stopped.
Steps = Callable[[threading.Event], Generator[str, None, str | None]]


@dataclass(frozen=True)
class ReportFile:
    """Where to write a report, and its format.

    Parameters
    ----------
    path : Path
        The file.
    paper : {"A4", "Letter"} or None
        Paper of a PDF; None for HTML.
    """

    path: Path
    paper: Paper | None = None

    @classmethod
    def of(cls, name: str, kind: str) -> ReportFile:
        """Create it from the result of a file dialog.

        Parameters
        ----------
        name : str
            The file, with or without an extension.
        kind : str
            The filter. A PDF filter takes precedence over the extension, which may be that of the
            suggested name; a name that ends with .pdf is a PDF whatever the filter.
        """
        path = Path(name)
        ending = path.suffix.lower()
        paper = _PDF.get(kind)
        if paper is None and ending == ".pdf":
            paper = _PDF.get(settings.recall(_KIND, ""), PAPERS[0])
        wanted = (".html", ".htm") if paper is None else (".pdf",)
        if ending not in wanted:
            stem = path.stem if ending in (".html", ".htm") else path.name
            path = path.with_name(f"{stem}{wanted[0]}")
        return cls(path, paper)


def ask_for_report(parent: QWidget, name: str) -> ReportFile | None:
    """Ask where to write a report, and whether existing files may be replaced; None if cancelled.

    Parameters
    ----------
    parent : QWidget
        The parent window.
    name : str
        The suggested name, with the extension .html; a PDF is suggested if the last report was one.
    """
    last = settings.recall(_KIND, _HTML)
    offered = ReportFile.of(name, last).path.name
    chosen, kind = choose_target(
        parent,
        "Export report",
        "export",
        offered,
        ";;".join((_HTML, *_PDF)),
        chosen_filter=last,
        confirm=False,  # asked below, for the name with its extension
    )
    if not chosen:
        return None
    file = ReportFile.of(chosen, kind)
    if not may_replace(parent, "Export report", [file.path]):
        return None
    settings.remember_folder("export", file.path.parent)
    papers = {paper: kind for kind, paper in _PDF.items()}
    settings.remember(_KIND, papers[file.paper] if file.paper else _HTML)
    return file


class ReportMaker(QObject):
    """Writes a report in a worker.

    Parameters
    ----------
    button : QPushButton
        Shows "Cancel report" while there is one.
    tasks : TaskHost
        Runs the worker.
    """

    #: A line for the user.
    message = Signal(str)
    #: A report was started or finished.
    changed = Signal()

    def __init__(self, button: QPushButton, tasks: TaskHost):
        super().__init__(button)
        self._button = button
        self._at_rest = button.text()
        self._tasks = tasks
        self._task: Task | None = None

    @property
    def busy(self) -> bool:
        """Whether a report is being written."""
        return self._task is not None

    def cancel(self) -> None:
        """Stop; nothing is written."""
        if self._task is not None:
            self._task.stop()
            self.message.emit("Stopping...")

    def start(self, file: ReportFile, steps: Steps) -> None:
        """Compile a report and write it, completely or not at all."""

        def work(stop: threading.Event) -> Generator[str, None, bool]:
            if file.paper is not None:
                need_pdf()  # fails early, before the scans are processed
            page = yield from steps(stop)
            if page is None or stop.is_set():
                return False
            if file.paper is None:
                atomic_write_text(file.path, page)
                return True
            yield "Report: laying out pages..."
            try:
                data = pdf_of(page, paper=file.paper, stopped=stop.is_set)
            except Cancelled:
                return False
            atomic_write_bytes(file.path, data)
            return True

        task = self._tasks.start(work)
        task.progressed.connect(partial(self._on_line, task))
        task.returned.connect(partial(self._on_written, file.path))
        task.failed.connect(partial(report, doing="Export report"))
        task.finished.connect(self._on_finished)
        self._task = task
        self._button.setText("Cancel report")
        self.changed.emit()

    def _on_line(self, task: Task, line: str) -> None:
        if not task.stopped:
            self.message.emit(line)

    def _on_written(self, path: Path, written: bool) -> None:
        if not written:
            show_info("The report was cancelled; nothing was written.")
            return
        show_info(f"The report is saved in {path.name}.")
        if settings.recall(OPEN_REPORTS, False):
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(path)))

    def _on_finished(self) -> None:
        self._task = None
        self._button.setText(self._at_rest)
        self.message.emit("")
        self.changed.emit()


class Basis(TypedDict):
    """Basis of the results, as arguments of `gather_results`."""

    threshold: float
    fpr: float | None
    settings: MaskSettings
    region: npt.NDArray[np.bool_] | None
    shift: DomainShift | None


def scan_report_steps(
    stop: threading.Event,
    session: Session,
    result: Callable[[], Reviewed],
    arguments: Basis,
) -> Generator[str, None, str | None]:
    """Compile the report of a scan under review.

    Parameters
    ----------
    session : Session
        The scan and its scores.
    result : callable
        Returns mask and findings, see `MaskController.result`.
    arguments : Basis
        For `gather_results`.
    """
    yield "Report: measuring regions..."
    mask, listed = result()
    results = gather_results(
        session.volume, session.score, session.model, mask=mask, reviewed=listed, **arguments
    )
    drawn = count(1)
    steps = mapped(
        report_steps(results, session.model), lambda _: f"Report: {next(drawn)} slices drawn..."
    )
    made = yield from run_until_stopped(stop, steps)
    return None if made is None else scan_page(made)


class Extras(TypedDict):
    """Additional outputs, as arguments of `write_scan_outputs`."""

    dicom: bool | tuple[DicomObject, ...]
    png: bool
    seg_nrrd: bool
    itksnap: bool
    signed_by: NotRequired[str]
    de_identify: NotRequired[bool]


class ExportPanel(QWidget):
    """Export options of a scored scan; `foot`, with the buttons, is for a dock's foot."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_button = button("Export mask...", tooltip("export.export_mask"), narrow=True)
        self.all_button = button("Export all...", tooltip("export.export_all"), narrow=True)
        self.report_button = button(
            "Export report...",
            tooltip("export.export_report"),
            narrow=True,
        )
        self.send_button = button("Send...", tooltip("export.send"), narrow=True)
        self.open_report = remembered(QCheckBox("Open reports"), OPEN_REPORTS)
        self.open_report.setToolTip(tooltip("export.open_reports"))
        self.report_note = Note()
        self.dicom = remembered(QCheckBox("With DICOM"), "export_dicom")
        self.objects = DicomChoice()
        self.dicom.toggled.connect(self._show_objects)
        self.png = remembered(QCheckBox("With pictures"), "export_png")
        self.png.setToolTip(tooltip("export.with_pictures"))
        self.seg_nrrd = remembered(QCheckBox("3D Slicer"), "export_seg_nrrd")
        self.seg_nrrd.setToolTip(tooltip("export.slicer"))
        self.itksnap = remembered(QCheckBox("ITK-SNAP"), "export_itksnap")
        self.itksnap.setToolTip(tooltip("export.itk_snap"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            row(self.dicom, self.png),
            self.objects.fold,
            row(self.seg_nrrd, self.itksnap),
            self.open_report,
        ]
        self.fold = folding("Export options", parts, key="export", expanded=False)
        self.fold.set_summary(self._chosen)
        for tick in (self.dicom, self.png, self.seg_nrrd, self.itksnap):
            tick.toggled.connect(lambda _: self.fold.update_summary())
        layout.addWidget(self.fold)
        buttons = (self.mask_button, self.all_button, self.report_button, self.send_button)
        self.foot = stack([self.report_note, row(*buttons)])
        self.set_scan(None)
        self.enable(False)

    def set_scan(self, volume: Scan | None) -> None:
        """Offer DICOM for scans read from it."""
        self.from_dicom = volume is not None and is_from_dicom(volume)
        self.dicom.setEnabled(self.from_dicom)
        self.dicom.setToolTip(
            tooltip("export.with_dicom")
            if self.from_dicom
            else tooltip("export.with_dicom.unavailable")
        )
        self.send_button.setToolTip(
            tooltip("export.send") if self.from_dicom else tooltip("export.with_dicom.unavailable")
        )
        self.fold.update_summary()
        # Whoever signs, signs for the scan in view.
        self.objects.signed_by.clear()
        self._show_objects()

    def _chosen(self) -> str:
        """List what is written besides NIfTI."""
        ticks = (self.dicom, self.png, self.seg_nrrd, self.itksnap)
        texts = [tick.text() for tick in ticks if tick.isEnabled() and tick.isChecked()]
        return ", ".join(texts)

    def _show_objects(self) -> None:
        """Show the choice of DICOM objects while there are any."""
        self.objects.fold.setVisible(self.from_dicom and self.dicom.isChecked())

    def enable(self, ready: bool) -> None:
        """Enable or disable the export."""
        self.mask_button.setEnabled(ready)
        self.all_button.setEnabled(ready)
        self.report_button.setEnabled(ready)
        self.send_button.setEnabled(ready and self.from_dicom)

    def extras(self) -> Extras:
        """Arguments of `write_scan_outputs` for the ticked options."""
        extras: Extras = {
            "dicom": False,
            "png": self.png.isChecked(),
            "seg_nrrd": self.seg_nrrd.isChecked(),
            "itksnap": self.itksnap.isChecked(),
        }
        if self.from_dicom and self.dicom.isChecked():
            chosen = self.objects.chosen()
            extras["dicom"] = chosen == DEFAULT_OBJECTS or chosen
            if self.objects.de_identify.isChecked():
                extras["de_identify"] = True
            elif name := self.objects.signed_by.text().strip():
                extras["signed_by"] = name
        return extras


_NIFTI_SUFFIXES, _DICOM_SUFFIX = (".nii.gz", ".nii"), ".dcm"


_NIFTI_FILTER, _DICOM_FILTER = "NIfTI (*.nii.gz *.nii)", "DICOM segmentation (*.dcm)"


def _without_rejected(result: Callable[[], Reviewed]) -> npt.NDArray[np.uint8]:
    mask, listed = result()
    return listed.without_rejected(mask)


class Exporter:
    """Asks for a destination, and writes in a worker."""

    def __init__(
        self,
        dock: QWidget,
        tasks: TaskHost,
        panel: ExportPanel,
        threshold: ThresholdPanel,
        masks: MaskController,
        shift_check: DomainShiftCheck,
    ):
        self._dock = dock
        self._panel = panel
        self._tasks = tasks
        self._threshold = threshold
        self._masks = masks
        self._shift_check = shift_check
        self.reports = ReportMaker(panel.report_button, self._tasks)
        self.reports.message.connect(panel.report_note.set_text)
        #: The open dialog for sending, if any.
        self.dialog: SendDialog | None = None

    def mask(self, session: Session | None) -> None:
        """Ask for a file and save the current mask layer, on the scan's own grid."""
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
                f"The mask is saved in {path.name}. It contains the patient's identity.",
            )
            return
        volume = session.volume

        def write() -> None:
            mask, content = _without_rejected(result), mask_content(session.model.name)
            write_nifti(path, mask, volume.geometry, like=volume.path, content=content)

        self._run(write, f"The mask is saved in {path.name}.")

    def _ask_for_mask_file(self) -> Path | None:
        kinds = [_NIFTI_FILTER, _DICOM_FILTER] if self._panel.from_dicom else [_NIFTI_FILTER]
        chosen, kind = choose_target(
            self._dock,
            "Export mask",
            "export",
            "mask.nii.gz",
            ";;".join(kinds),
            confirm=False,  # asked below, for the name with its extension
        )
        if not chosen:
            return None
        suffixes = (*_NIFTI_SUFFIXES, _DICOM_SUFFIX)
        if kind == _DICOM_FILTER and chosen.lower().endswith(_NIFTI_SUFFIXES):
            # The suggested name remains while the user selects another file type.
            chosen = re.sub(r"(?i)\.nii(\.gz)?$", _DICOM_SUFFIX, chosen)
        elif not chosen.lower().endswith(suffixes):
            chosen += _DICOM_SUFFIX if kind == _DICOM_FILTER else _NIFTI_SUFFIXES[0]
        path = Path(chosen)
        return path if may_replace(self._dock, "Export mask", [path]) else None

    def _write_seg(
        self,
        session: Session,
        path: Path,
        result: Callable[[], Reviewed],
        computed: npt.NDArray[np.uint8],
    ) -> tuple[str, ...]:
        mask = _without_rejected(result)
        write_seg(
            path,
            mask,
            session.volume,
            algorithm=dicom_algorithm(session.model, threshold=self._threshold.threshold),
            edited=not np.array_equal(mask, computed),
        )
        return caveats(session.volume)

    def everything(self, session: Session | None) -> None:
        """Ask for a folder and write heatmap, mask, findings and provenance into a new one."""
        if session is None:
            return
        chosen = choose_folder(self._dock, "Export all: choose a folder", "export")
        if not chosen:
            return
        settings.remember_folder("export", chosen)
        folder = results_folder(Path(chosen), session.volume)
        earlier = earlier_files(folder)
        if not may_replace(self._dock, "Export all", earlier):
            return
        arguments, extras = self._arguments(session), self._panel.extras()
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
                overwrite=bool(earlier),
                **arguments,
                **extras,
            ).warnings

        self._run(
            write,
            f"Heatmap, mask, flagged regions and provenance are saved in the folder {folder.name}.",
        )

    def send(self, session: Session | None) -> None:
        """Open the dialog that sends the results to an archive."""
        if session is None or not has_extra():
            return
        result, arguments = self._masks.result(session), self._arguments(session)

        def gather(de_identify: bool) -> ScanResults:
            mask, listed = result()
            return gather_results(
                session.volume,
                session.score,
                session.model,
                mask=mask,
                reviewed=listed,
                de_identify=de_identify,
                **arguments,
            )

        scan = UnderReview(session.volume, session.score, session.model, gather)
        self.dialog = SendDialog(scan, self._dock.window())
        self.dialog.finished.connect(self._on_closed)
        self.dialog.open()

    def _on_closed(self, *_: object) -> None:
        self.dialog = None

    def _arguments(self, session: Session) -> Basis:
        """Return what a session's results are based on: arguments of `gather_results`."""
        return {
            "threshold": self._threshold.threshold,
            "fpr": self._threshold.fpr,
            "settings": self._masks.settings,
            "region": self._masks.region(session),
            "shift": self._shift_check.of(session),
        }

    def report(self, session: Session | None) -> None:
        """Ask for a file and write a report; or cancel the one in progress."""
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

    def _run(self, write: Callable[[], tuple[str, ...] | None], done: str) -> None:
        """Write in a worker; it returns sentences of warnings, if any."""

        def work(stop: threading.Event) -> Generator[None, None, tuple[str, ...] | None]:
            yield
            try:
                return write()
            except OSError as error:
                raise InputError("the export could not be written") from error

        def announce(warnings: tuple[str, ...] | None) -> None:
            show_info(done)
            for text in warnings or ():
                warn(text)

        task = self._tasks.start(work)
        task.returned.connect(announce)
        task.failed.connect(lambda error: report(error, "Export"))
