"""Opening scans from the dock: a file dialog or a drop, read in a worker."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from napari.settings import get_settings
from napari.utils.notifications import show_info
from qtpy.QtCore import QMimeData, QObject, Signal
from qtpy.QtWidgets import QFileDialog, QMenu, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.notify import report, warn
from napari_spatial_ar.gui.viewing import show_acquired_plane
from napari_spatial_ar.gui.workers import TaskHost
from napari_spatial_ar.imaging.reading import read

__all__ = ["ScanOpener", "ask_for_scan", "become_default_reader", "dropped_paths"]

_FILTER = "Scans (*.nii *.nii.gz *.dcm *.ima *.png *.jpg *.jpeg *.tif *.tiff *.bmp);;All files (*)"


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
    """Reads scans in a worker and adds their layers."""

    #: Reading began.
    started = Signal()
    #: list of the layers that were added; empty where nothing could be read.
    opened = Signal(object)

    def __init__(self, viewer: Any, tasks: TaskHost, parent: QWidget):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks

    def menu(self, parent: QWidget) -> QMenu:
        """Menu with the two dialogs, and the offer to read such files from now on."""
        menu = QMenu(parent)
        menu.addAction("Files...", lambda: self.open(ask_for_scan(parent, folder=False)))
        menu.addAction("Folder...", lambda: self.open(ask_for_scan(parent, folder=True)))
        menu.addSeparator()
        menu.addAction("Always open NIfTI and DICOM files with this plugin", become_default_reader)
        return menu

    def open(self, paths: Sequence[str]) -> None:
        """Read files or folders and add what is in them."""
        if not paths:
            return
        first = Path(paths[0])
        settings.remember_folder("open", first if first.is_dir() else first.parent)

        def work(stop: threading.Event) -> Generator[None, None, Any]:
            yield
            return read(list(paths))

        self.started.emit()
        task = self._tasks.start(work)
        task.returned.connect(self._add)
        task.failed.connect(self._fail)

    def _fail(self, error: Exception) -> None:
        report(error, "Opening the scan")
        self.opened.emit([])

    def _add(self, volumes: Any) -> None:
        layers = []
        for volume in volumes:
            for text in volume.warnings:
                warn(text)
            layers.append(self._viewer.add_image(**volume_layer_kwargs(volume)))
        if layers:
            show_acquired_plane(self._viewer, volumes[0].geometry)
        self.opened.emit(layers)
