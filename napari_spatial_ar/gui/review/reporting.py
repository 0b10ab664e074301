"""Reports as one HTML or PDF file, made in a worker: cancelled by the button that started it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_spatial_ar.errors import Cancelled
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.overwriting import may_replace
from napari_spatial_ar.imaging.files import atomic_write_bytes, atomic_write_text
from napari_spatial_ar.review.report.data import report_steps
from napari_spatial_ar.review.report.html import scan_page
from napari_spatial_ar.review.report.pdf import PAPERS, Paper, need_pdf, pdf_of
from napari_spatial_ar.review.results import gather_results
from napari_spatial_ar.steps import mapped, until_stopped

__all__ = ["OPEN_REPORTS", "ReportFile", "ReportMaker", "ask_for_report", "scan_report_steps"]

#: Setting: whether a report is opened once it is written.
OPEN_REPORTS = "open_report"
_KIND = "report_kind"
_HTML = "HTML (*.html)"
_PDF: dict[str, Paper] = {f"PDF, {paper} (*.pdf)": paper for paper in PAPERS}

#: Yields lines for the user and gives the page's text, or None where it was stopped.
Steps = Callable[[threading.Event], Generator[str, None, str | None]]


@dataclass(frozen=True)
class ReportFile:
    """Where a report goes.

    Parameters
    ----------
    path : Path
        The file.
    paper : {"A4", "Letter"} or None
        Of a PDF; None for HTML.
    """

    path: Path
    paper: Paper | None = None

    @classmethod
    def of(cls, name: str, kind: str) -> ReportFile:
        """Make it from what a file dialog gives.

        Parameters
        ----------
        name : str
            The file, with or without an ending.
        kind : str
            The filter. One of PDF outweighs the ending, which may be that of the name offered;
            a name that ends with .pdf is a PDF whatever the filter.
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
    """Ask where a report goes, and whether what is there may be replaced; None for nowhere.

    Parameters
    ----------
    parent : QWidget
        Over which it is asked.
    name : str
        What is offered, with the ending .html; that of a PDF where the last report was one.
    """
    last = settings.recall(_KIND, _HTML)
    offered = ReportFile.of(name, last).path.name
    chosen, kind = QFileDialog.getSaveFileName(
        parent,
        "Export report",
        str(Path(settings.last_folder("export")) / offered),
        ";;".join((_HTML, *_PDF)),
        last,
        # Asked below, for the name with its ending.
        QFileDialog.Option.DontConfirmOverwrite,
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
        Says "Cancel report" while there is one.
    tasks : TaskHost
        Where the worker runs.
    """

    #: A line for the user.
    said = Signal(str)
    #: A report was begun or ended.
    changed = Signal()

    def __init__(self, button: QPushButton, tasks: TaskHost):
        super().__init__(button)
        self._button = button
        self._at_rest = button.text()
        self._tasks = tasks
        self._task: Task | None = None

    @property
    def busy(self) -> bool:
        """Whether a report is being made."""
        return self._task is not None

    def cancel(self) -> None:
        """Stop; nothing is written."""
        if self._task is not None:
            self._task.stop()
            self.said.emit("Stopping...")

    def start(self, file: ReportFile, steps: Steps) -> None:
        """Make a report and write it, whole or not at all."""

        def work(stop: threading.Event) -> Generator[str, None, bool]:
            if file.paper is not None:
                need_pdf()  # said before the scans are gone through
            page = yield from steps(stop)
            if page is None or stop.is_set():
                return False
            if file.paper is None:
                atomic_write_text(file.path, page)
                return True
            yield "Report: setting its pages..."
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
            self.said.emit(line)

    def _on_written(self, path: Path, written: bool) -> None:
        if not written:
            show_info("The report was cancelled; nothing is written.")
            return
        show_info(f"The report is saved in {path.name}.")
        if settings.recall(OPEN_REPORTS, False):
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(path)))

    def _on_finished(self) -> None:
        self._task = None
        self._button.setText(self._at_rest)
        self.said.emit("")
        self.changed.emit()


def scan_report_steps(
    stop: threading.Event, session: Any, result: Callable[[], Any], arguments: dict[str, Any]
) -> Generator[str, None, str | None]:
    """Make the report of a scan under review.

    Parameters
    ----------
    session : Session
        The scan and its scores.
    result : callable
        Gives mask and findings, see `MaskController.result`.
    arguments : dict
        Of `gather_results`.
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
    made = yield from until_stopped(stop, steps)
    return None if made is None else scan_page(made)
