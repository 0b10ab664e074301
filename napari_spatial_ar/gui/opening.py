"""Opening scans from the dock: a file dialog or a drop, read in a worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari.settings import get_settings
from napari.utils.notifications import show_info
from qtpy.QtCore import QMimeData, QObject, Signal
from qtpy.QtWidgets import QFileDialog, QMenu, QWidget

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.loading import LOOKING, Loaded, Warned, find_steps, read_steps
from napari_spatial_ar.gui.notify import report, warn
from napari_spatial_ar.gui.series_chooser import SeriesChooser, worth_asking
from napari_spatial_ar.imaging.reading import Found
from napari_spatial_ar.imaging.scan import Scan

__all__ = ["ScanOpener", "ask_for_scan", "become_default_reader", "dropped_paths"]

_FILTER = (
    "Scans (*.nii *.nii.gz *.dcm *.ima DICOMDIR *.nrrd *.nhdr *.mha *.mhd *.vol *.e2e *.fda *.fds "
    "*.img *.png *.jpg *.jpeg *.tif *.tiff *.bmp);;All files (*)"
)

# What napari asks about when such a file is dropped on its canvas.
_DEFAULT_FOR = ("*.nii", "*.nii.gz", "*.dcm")


def dropped_paths(mime: QMimeData) -> list[str]:
    """Local files and folders of a drop."""
    return [url.toLocalFile() for url in mime.urls() if url.isLocalFile()]


def ask_for_scan(parent: QWidget, folder: bool) -> list[str]:
    """Paths chosen in a dialog, for files or for one folder; empty where it was cancelled."""
    start = settings.last_folder("open")
    if folder:
        chosen = QFileDialog.getExistingDirectory(parent, "Open a folder of scans", start)
        return [chosen] if chosen else []
    paths, _ = QFileDialog.getOpenFileNames(parent, "Open scans", start, _FILTER)
    return list(paths)


def become_default_reader() -> None:
    """Let napari open dropped NIfTI and DICOM files with this plugin without asking."""
    plugins = get_settings().plugins
    plugins.extension2reader = {
        **plugins.extension2reader,
        **dict.fromkeys(_DEFAULT_FOR, "napari-spatial-ar"),
    }
    show_info(
        "napari now opens NIfTI and DICOM files with Spatial AR. "
        "To undo this: Preferences > Plugins."
    )


class ScanOpener(QObject):
    """Finds scans in a worker, asks which to open where there are several, and adds layers."""

    #: A line about what is going on.
    said = Signal(str)
    #: Work that can be cancelled began (True) or ended (False).
    busy = Signal(bool)
    #: The first layer was added; others may follow.
    began = Signal(object)
    #: list of the layers that were added; empty where nothing was opened.
    opened = Signal(object)
    #: list of paths, `Found`: the user wants all that is there as a worklist.
    listed = Signal(object, object)

    def __init__(self, viewer: Any, tasks: TaskHost, parent: QWidget):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks
        self._parent = parent
        self._task: Task | None = None
        self._layers: list[Any] = []
        self._paths: list[str] = []
        self._told: set[str] = set()
        #: The dialog that is open, if any.
        self.chooser: SeriesChooser | None = None

    def menu(self, parent: QWidget) -> QMenu:
        """Menu with the two dialogs, and the offer to read such files from now on."""
        menu = QMenu(parent)
        menu.addAction("Files...", lambda: self.open(ask_for_scan(parent, folder=False)))
        menu.addAction("Folder...", lambda: self.open(ask_for_scan(parent, folder=True)))
        menu.addSeparator()
        menu.addAction("Always open NIfTI and DICOM files with this plugin", become_default_reader)
        return menu

    def open(self, paths: Sequence[str]) -> None:
        """Open what is in files or folders, after asking where it is more than one scan."""
        if not paths or self._task is not None or self.chooser is not None:
            return
        first = Path(paths[0])
        settings.remember_folder("open", first if os.path.isdir(first) else first.parent)
        self._paths = list(paths)
        self.said.emit(LOOKING)
        task = self._run(lambda stop: find_steps(stop, paths))
        task.returned.connect(lambda found: self._ask(task, found))

    def cancel(self) -> None:
        """Stop looking or reading; what is read already stays."""
        if self._task is not None:
            task, self._task = self._task, None
            task.stop()
            self._end("" if self._layers else "Cancelled.")

    def _run(self, work: Any) -> Task:
        self._layers = []
        task = self._tasks.start(work)
        task.progressed.connect(lambda step: self._take(task, step))
        task.failed.connect(lambda error: self._fail(task, error))
        self._task = task
        self.busy.emit(True)
        return task

    def _fail(self, task: Task, error: Exception) -> None:
        if task is self._task:
            self._task = None
            report(error, "Opening the scan")
            self._end("Nothing was opened.")

    def _end(self, note: str) -> None:
        self.busy.emit(False)
        self.said.emit(note)
        self.opened.emit(self._layers)

    def _ask(self, task: Task, found: Found) -> None:
        if task is not self._task:
            return
        self._task = None
        if not worth_asking(found):
            self._read(found.scans, found.errors)
            return
        self.busy.emit(False)
        self.said.emit(f"{len(found.scans)} scans found.")
        self.chooser = SeriesChooser(found, self._parent.window(), worklist=True)
        self.chooser.finished.connect(partial(self._on_chosen, found))
        self.chooser.open()

    def _on_chosen(self, found: Found, result: int) -> None:
        chooser, self.chooser = self.chooser, None
        assert chooser is not None
        as_worklist = bool(result) and chooser.as_worklist
        chosen = chooser.chosen if result and not as_worklist else []
        chooser.deleteLater()
        self._layers = []
        if chosen:
            self._read(chosen)
        elif as_worklist:
            self._end("")
            self.listed.emit(self._paths, found)
        else:
            self._end("Nothing was opened.")

    def _read(self, scans: Sequence[Scan], errors: Sequence[InputError] = ()) -> None:
        self._told = set()
        task = self._run(lambda stop: read_steps(stop, scans, errors))
        task.returned.connect(lambda _: self._on_read(task))

    def _on_read(self, task: Task) -> None:
        if task is self._task:
            self._task = None
            self._end("")

    def _take(self, task: Task, step: Any) -> None:
        if task is not self._task:
            return
        if isinstance(step, Loaded):
            self._add(step)
        elif isinstance(step, Warned):
            warn(step.text)
        else:
            self.said.emit(step)

    def _add(self, loaded: Loaded) -> None:
        for text in loaded.volume.warnings:
            # The stacks of a series have most of theirs in common.
            if text not in self._told:
                warn(text)
            self._told.add(text)
        arguments = volume_layer_kwargs(loaded.volume, loaded.drawn)
        layer = self._viewer.add_image(**arguments, visible=False)
        self._layers.append(layer)
        if len(self._layers) == 1:
            self.began.emit(layer)
