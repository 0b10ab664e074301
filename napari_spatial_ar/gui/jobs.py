"""Long work off the GUI thread: generators that stop on request and never raise into Qt."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

from napari.qt.threading import GeneratorWorker
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import (
    QCoreApplication,
    QEventLoop,
    QObject,
    QRunnable,
    Qt,
    QThread,
    QThreadPool,
    Signal,
)
from qtpy.QtWidgets import QApplication, QMainWindow, QProgressDialog, QWidget

from napari_spatial_ar.errors import Cancelled, MissingWeightsError, SpatialARError

__all__ = [
    "Task",
    "TaskHost",
    "Work",
    "log",
    "main_window",
    "pool",
    "report",
    "run_waiting",
    "sentence",
    "warn",
]

Step = TypeVar("Step")
Result = TypeVar("Result")

logger = logging.getLogger("napari_spatial_ar")


#: What runs in a worker: called with an event that is set when it is to stop.
Work = Callable[[threading.Event], Generator[object, None, object]]


@dataclass(frozen=True)
class _Failure:
    error: Exception


_hosts: weakref.WeakSet[TaskHost] = weakref.WeakSet()


# How long the program waits on exit for workers that were asked to stop.
_LAST_MS = 20_000


# Running and queued workers: Qt holds only their C++ half.
_started: set[QRunnable] = set()


# Minimum number of threads: some workers pause for long, and the viewer's must not wait for them.
_THREADS = 8


# Niceness of workers (Linux), so that the GUI thread takes precedence.
_NICENESS = 5


@cache
def pool() -> QThreadPool:
    """Threads of this plugin's workers, apart from those of napari and other plugins.

    Their priority is lowered permanently, since a user may lower a thread's priority but not raise
    it again.
    """
    made = QThreadPool()
    made.setMaxThreadCount(max(_THREADS, made.maxThreadCount()))
    return made


def _stand_back() -> None:
    """Give the GUI thread precedence over this thread and those that torch starts from it."""
    # On other systems niceness applies to the whole process.
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            now = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, max(now, _NICENESS))


def _end_workers() -> None:
    """Wait for workers before Qt and Python are torn down."""
    for host in list(_hosts):
        host.stop_all()
    pool().waitForDone(_LAST_MS)


# Runs before Qt's own handler, which is registered earlier, even without an event loop.
atexit.register(_end_workers)


def _stop_all(stops: set[threading.Event], *_: object) -> None:
    for stop in list(stops):
        stop.set()


def _log_warning(arguments: tuple[object, ...]) -> None:
    logger.debug("warning in a worker: %s", getattr(arguments[1], "__name__", "Warning"))


class Task(QObject):
    """One run of a generator in a worker thread. All signals arrive on the GUI thread."""

    #: A value that the generator yielded.
    progressed = Signal(object)
    #: What the generator returned; not sent after an error.
    returned = Signal(object)
    #: The exception that ended it.
    failed = Signal(object)
    #: The last signal in any case.
    finished = Signal()

    def __init__(self, work: Work, stop: threading.Event, parent: QObject):
        super().__init__(parent)
        self._stop = stop
        self.running = True
        self.stopped = False

        def steps() -> Generator[object, None, object]:
            _stand_back()
            try:
                return (yield from work(stop))
            except Exception as error:  # noqa: BLE001 - any error must reach the user as a sentence
                # Passed to the GUI as a value: raised here, napari would show a traceback.
                logger.debug("a worker ended with %s", type(error).__name__)
                yield _Failure(error)
                return None

        self._failed = False
        worker: GeneratorWorker[object, None, object] = GeneratorWorker(steps)
        with suppress(TypeError, RuntimeError):
            # Otherwise napari would show each warning of a library to the user.
            worker.warned.disconnect()
        worker.warned.connect(_log_warning)
        worker.yielded.connect(self._on_yielded)
        worker.returned.connect(self._on_returned)
        worker.finished.connect(self._on_finished)
        self._worker = worker

    def start(self) -> None:
        """Start the thread."""
        _started.add(self._worker)
        self._worker.finished.connect(partial(_started.discard, self._worker))
        pool().start(self._worker)

    def stop(self) -> None:
        """Request the generator to stop; it checks its stop event between slices or steps."""
        self.stopped = True
        self._stop.set()

    def _on_yielded(self, value: object) -> None:
        if isinstance(value, _Failure):
            self._failed = True
            self.failed.emit(value.error)
        else:
            self.progressed.emit(value)

    def _on_returned(self, value: object) -> None:
        if not self._failed:
            self.returned.emit(value)

    def _on_finished(self) -> None:
        self.running = False
        self.finished.emit()
        self.deleteLater()


class TaskHost(QObject):
    """Starts tasks for a widget and stops them with the widget or the application."""

    def __init__(self, parent: QObject):
        super().__init__(parent)
        _hosts.add(self)
        stops: set[threading.Event] = set()
        self._stops = stops
        # A free function over plain data: the widget is half destroyed when "destroyed" is sent.
        parent.destroyed.connect(partial(_stop_all, stops))
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.stop_all)

    def start(self, work: Work) -> Task:
        """Run ``work(stop)``, a generator, in a thread.

        The caller connects to the task's signals before control returns to the event loop.
        """
        stop = threading.Event()
        self._stops.add(stop)
        task = Task(work, stop, self)
        task.finished.connect(partial(self._stops.discard, stop))
        task.start()
        return task

    def stop_all(self) -> None:
        """Request all tasks to stop."""
        _stop_all(self._stops)


#: What to do about missing weights, beside a `WeightsRow`.
GET_OR_ADD = "Get weights... downloads them; Add file... adds them from a file."


def sentence(error: BaseException, doing: str) -> str:
    """One sentence for an error during an action, such as ``"Scoring"``."""
    if isinstance(error, MissingWeightsError):
        # Its own advice is for the command line.
        return f"{MissingWeightsError(error.what)!s} {GET_OR_ADD}"
    if isinstance(error, SpatialARError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{doing} needs more memory than is free. Close other programs and try again."
    if isinstance(error, OSError) and error.strerror:
        return f"{doing} failed: {error.strerror}."
    kind = type(error).__name__
    return f"{doing} stopped because of an unexpected problem ({kind}); see the log."


def report(error: BaseException, doing: str) -> str:
    """Show an error as one sentence and return it; log unexpected ones.

    The log gets the type of error and its location but not its message, which may contain a
    file name and with it a patient's name.
    """
    text = sentence(error, doing)
    log(error, doing)
    if not isinstance(error, Cancelled):
        show_error(text)
    return text


def log(error: BaseException, doing: str) -> None:
    """Log an unexpected error, and nothing for an error that is a sentence."""
    if not isinstance(error, SpatialARError):
        places = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s: %s\n%s", doing, type(error).__name__, places)


def warn(text: str) -> None:
    """Show a warning."""
    show_warning(text)


_SHOW_AFTER_MS = 400


def main_window() -> QMainWindow | None:
    """Return a parent window for a dialog; None in scripts and in other threads."""
    application = QApplication.instance()
    if application is None or QThread.currentThread() is not application.thread():
        return None
    shown = [w for w in QApplication.topLevelWidgets() if w.isVisible()]
    return next((w for w in shown if isinstance(w, QMainWindow)), None)


def run_waiting(
    work: Callable[[threading.Event], Generator[Step | str, None, Result]],
    title: str,
    parent: QWidget,
) -> tuple[list[Step], Result]:
    """Run a generator in a worker while the window stays responsive.

    Returns
    -------
        Its yielded values except lines for the user, and its return value.
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
    yielded: list[Step] = []
    returned: list[Result] = []
    failed: list[Exception] = []

    def take(step: Step | str) -> None:
        if isinstance(step, str):
            dialog.setLabelText(step)
        else:
            yielded.append(step)

    task = TaskHost(host).start(work)
    task.progressed.connect(take)
    task.returned.connect(returned.append)
    task.failed.connect(failed.append)
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
    if failed:
        raise failed[0]
    return yielded, returned[0]
