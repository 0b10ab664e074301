"""Lists a folder's scans in a worker, row by row, and draws their pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.worklist.listing import Listed, list_steps, thumbnail_steps
from napari_spatial_ar.gui.worklist.model import WorklistModel
from napari_spatial_ar.imaging.reading import Found
from napari_spatial_ar.review.worklist.entries import Entry

__all__ = ["FolderLister", "last_listed"]


def last_listed() -> list[str]:
    """Files and folders that were listed last; none where they are not there any more."""
    paths = str(settings.recall("worklist", "")).split("\n")
    return paths if all(path and os.path.exists(path) for path in paths) else []


class FolderLister(QObject):
    """Fills the rows of a worklist.

    Parameters
    ----------
    rows : WorklistModel
        Where scans are put.
    tasks : TaskHost
        Where they are looked for.
    """

    #: A line for the user.
    said = Signal(str)
    #: Every scan is listed.
    listed = Signal()

    def __init__(self, rows: WorklistModel, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._rows = rows
        self._tasks = tasks
        self._task: Task | None = None

    @property
    def listing(self) -> bool:
        """Whether scans are being looked for."""
        return self._task is not None

    def look_in(self, paths: Sequence[str], found: Found | None = None) -> None:
        """List what is in files and folders, in place of what was listed before."""
        first = Path(paths[0])
        settings.remember_folder("open", first if os.path.isdir(first) else first.parent)
        settings.remember("worklist", "\n".join(paths))
        task = self._tasks.start(partial(list_steps, paths=list(paths), found=found))
        task.progressed.connect(partial(self._take, task))
        task.returned.connect(partial(self._on_listed, task))
        task.failed.connect(partial(self._on_failed, task))
        self._task = task
        self._rows.clear()

    def draw(self, entries: Sequence[Entry]) -> None:
        """Draw pictures of scans, in this order."""
        known = self._rows.scans
        scans = [(entry.key, known[entry.key]) for entry in entries if entry.key in known]
        task = self._tasks.start(partial(thumbnail_steps, scans=scans))
        task.progressed.connect(self._take_picture)

    def _take(self, task: Task, step: Any) -> None:
        if task is not self._task:
            return
        if isinstance(step, Listed):
            self._rows.add(step.entry, step.scan)
        else:
            self.said.emit(step)

    def _take_picture(self, made: Any) -> None:
        self._rows.put_picture(*made)

    def _on_listed(self, task: Task, passed_over: int) -> None:
        if task is self._task:
            self._task = None
            more = f"{passed_over} localizers and derived series are left out."
            self.said.emit(more if passed_over else "")
            self.listed.emit()

    def _on_failed(self, task: Task, error: Exception) -> None:
        if task is self._task:
            self._task = None
            self.said.emit(report(error, "Looking for scans"))
