"""The report of all scans of a worklist."""

from __future__ import annotations

import threading
from collections.abc import Generator
from functools import partial
from typing import Any

from qtpy.QtWidgets import QPushButton

from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.review.reporting import ReportMaker, ask_for_report
from napari_spatial_ar.gui.worklist.keeping import WorklistKeeper
from napari_spatial_ar.gui.worklist.model import WorklistModel
from napari_spatial_ar.gui.worklist.runner import WorklistRunner
from napari_spatial_ar.review.report.data import REPORT_FILE, FolderReport
from napari_spatial_ar.review.report.folder import worklist_steps
from napari_spatial_ar.review.report.html import folder_page
from napari_spatial_ar.review.worklist.store import WorklistStore
from napari_spatial_ar.steps import mapped, until_stopped

__all__ = ["FolderReporter"]


class FolderReporter(ReportMaker):
    """Makes it from what is kept on disk of the scans.

    Parameters
    ----------
    button, tasks
        See `ReportMaker`.
    dock : ReviewDock
        Whose threshold says what a finding is.
    rows, runner, keeper, store
        The list, its model, what keeps results, and where.
    """

    def __init__(
        self,
        button: QPushButton,
        tasks: TaskHost,
        dock: Any,
        rows: WorklistModel,
        runner: WorklistRunner,
        keeper: WorklistKeeper,
        store: WorklistStore,
    ):
        super().__init__(button, tasks)
        self._dock = dock
        self._rows = rows
        self._runner = runner
        self._keeper = keeper
        self._store = store
        button.clicked.connect(self.press)

    @property
    def ready(self) -> bool:
        """Whether there is anything to report, or a report to cancel."""
        if self.busy:
            return True
        scored = any(entry.state == "scored" for entry in self._rows.entries)
        known = self._runner.plan.rule.threshold is not None
        return scored and known and self._runner.model is not None

    def press(self) -> None:
        """Ask where to, and make the report; or cancel the one that is being made."""
        if self.busy:
            self.cancel()
            return
        file = ask_for_report(self._button.window(), REPORT_FILE)
        if file is None or not self.ready:
            return
        for opened in self._keeper.opened:
            self._keeper.keep_marks(opened)
        listed = [(entry, self._rows.scans.get(entry.key)) for entry in self._rows.entries]
        steps = worklist_steps(
            listed,
            self._runner.model,
            self._store,
            self._runner.plan.rule,
            fpr=self._dock.threshold.fpr,
        )
        self.start(file, partial(_page_steps, steps=steps, scans=len(listed)))


def _page_steps(
    stop: threading.Event, steps: Generator[int, None, FolderReport], scans: int
) -> Generator[str, None, str | None]:
    told = mapped(steps, lambda done: f"Report: {done} of {scans} scans...")
    made = yield from until_stopped(stop, told, news=str)
    return None if made is None else folder_page(made)
