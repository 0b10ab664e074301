"""Waiting for a worker with a dialog that can be cancelled, where napari wants an answer now."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEventLoop, QObject, Qt, QThread
from qtpy.QtWidgets import QApplication, QMainWindow, QProgressDialog, QWidget

from napari_spatial_ar.errors import Cancelled
from napari_spatial_ar.gui.jobs import TaskHost, Work

__all__ = ["main_window", "run_waiting"]

_SHOW_AFTER_MS = 400


def main_window() -> QMainWindow | None:
    """Return a window that a dialog can belong to; None in scripts and in other threads."""
    application = QApplication.instance()
    if application is None or QThread.currentThread() is not application.thread():
        return None
    shown = [w for w in QApplication.topLevelWidgets() if w.isVisible()]
    return next((w for w in shown if isinstance(w, QMainWindow)), None)


def run_waiting(work: Work, title: str, parent: QWidget) -> tuple[list[Any], Any]:
    """Run a generator in a worker while the window stays alive.

    Returns
    -------
    list, object
        What it yielded besides lines for the user, and what it returned.

    Raises
    ------
    Cancelled
        If the user pressed Cancel.
    Exception
        The worker's own.
    """
    dialog = QProgressDialog(title, "Cancel", 0, 0, parent)
    dialog.setWindowTitle("Spatial AR")
    dialog.setWindowModality(Qt.WindowModality.ApplicationModal)
    dialog.setMinimumDuration(_SHOW_AFTER_MS)
    loop = QEventLoop()
    host = QObject()
    yielded: list[Any] = []
    ended: dict[str, Any] = {}

    def take(step: Any) -> None:
        if isinstance(step, str):
            dialog.setLabelText(step)
        else:
            yielded.append(step)

    task = TaskHost(host).start(work)
    task.progressed.connect(take)
    task.returned.connect(lambda value: ended.update(value=value))
    task.failed.connect(lambda error: ended.update(error=error))
    task.finished.connect(loop.quit)
    dialog.canceled.connect(task.stop)
    dialog.canceled.connect(loop.quit)
    dialog.setValue(0)
    loop.exec()
    cancelled = task.stopped
    dialog.canceled.disconnect()
    dialog.close()
    dialog.deleteLater()
    if cancelled:
        raise Cancelled("cancelled")
    if "error" in ended:
        raise ended["error"]
    return yielded, ended.get("value")
