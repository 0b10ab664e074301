"""Reports as one HTML file, made in a worker: cancelled by the button that started it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.overwriting import may_replace
from napari_spatial_ar.gui.workers import Task, TaskHost
from napari_spatial_ar.imaging.files import atomic_write_text
from napari_spatial_ar.review.report import report_steps
from napari_spatial_ar.review.report_html import scan_page
from napari_spatial_ar.review.results import gather_results

__all__ = ["OPEN_REPORTS", "ReportMaker", "ask_for_report", "scan_report_steps"]

#: Setting: whether a report is opened in the browser once it is written.
OPEN_REPORTS = "open_report"

#: Yields lines for the user and gives the page's text, or None where it was stopped.
Steps = Callable[[threading.Event], Generator[str, None, str | None]]


def ask_for_report(parent: QWidget, name: str) -> Path | None:
    """Ask where a report goes, and whether what is there may be replaced; None for nowhere."""
    start = Path(settings.last_folder("export")) / name
    chosen, _ = QFileDialog.getSaveFileName(
        parent,
        "Export report",
        str(start),
        "HTML (*.html)",
        "",
        # Asked below, for the name with its ending.
        QFileDialog.Option.DontConfirmOverwrite,
    )
    if not chosen:
        return None
    path = Path(chosen)
    if path.suffix.lower() not in (".html", ".htm"):
        path = path.with_name(f"{path.name}.html")
    if not may_replace(parent, "Export report", [path]):
        return None
    settings.remember_folder("export", path.parent)
    return path


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

    def start(self, path: Path, steps: Steps) -> None:
        """Make a report and write it, whole or not at all."""

        def work(stop: threading.Event) -> Generator[str, None, bool]:
            page = yield from steps(stop)
            if page is None or stop.is_set():
                return False
            atomic_write_text(path, page)
            return True

        task = self._tasks.start(work)
        task.progressed.connect(partial(self._on_line, task))
        task.returned.connect(partial(self._on_written, path))
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
    yield "Report: measuring findings..."
    mask, listed = result()
    results = gather_results(
        session.volume, session.score, session.model, mask=mask, reviewed=listed, **arguments
    )
    steps, drawn = report_steps(results, session.model), 0
    while not stop.is_set():
        try:
            next(steps)
        except StopIteration as end:
            return scan_page(end.value)
        drawn += 1
        yield f"Report: {drawn} slices drawn..."
    return None
