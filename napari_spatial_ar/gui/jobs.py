"""Long work off the GUI thread: generators that stop when asked and never raise into Qt."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QCoreApplication, QObject, QThreadPool, Signal

__all__ = ["Task", "TaskHost", "pool"]

logger = logging.getLogger("napari_spatial_ar")

Work = Callable[[threading.Event], Generator[Any, None, Any]]


@dataclass(frozen=True)
class _Failure:
    error: Exception


_hosts: weakref.WeakSet[TaskHost] = weakref.WeakSet()
# How long the program waits at its end for workers that were asked to stop.
_LAST_MS = 20_000


# Workers that run or wait for a thread: Qt holds only the half of them that is not Python's.
_started: set[Any] = set()
# As many at once at least: some rest for long, and what the viewer does must not wait for them.
_THREADS = 8
# How far workers stand back behind the GUI thread where both want the processor (Linux's nice).
_NICENESS = 5


@cache
def pool() -> QThreadPool:
    """Threads of this plugin's workers, apart from those of napari and other plugins.

    They stand back for good, as a user may lower a thread's priority but not raise it again.
    """
    made = QThreadPool()
    made.setMaxThreadCount(max(_THREADS, made.maxThreadCount()))
    return made


def _stand_back() -> None:
    """Let the GUI thread go first, before this one and those that torch starts from it."""
    # Elsewhere niceness is one for the whole program.
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            now = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, max(now, _NICENESS))


def _end_workers() -> None:
    """Wait for workers before Qt and Python are taken apart under them."""
    for host in list(_hosts):
        host.stop_all()
    pool().waitForDone(_LAST_MS)


# Run before Qt's own, which is registered earlier: also where no event loop ever ran or quit.
atexit.register(_end_workers)


def _stop_all(stops: set[threading.Event], *_: Any) -> None:
    for stop in list(stops):
        stop.set()


def _log_warning(arguments: tuple) -> None:
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

        def steps() -> Generator[Any, None, Any]:
            _stand_back()
            try:
                return (yield from work(stop))
            except Exception as error:  # noqa: BLE001 - any error must reach the user as a sentence
                # Handed to the GUI as a value: raised here, napari would show a traceback.
                logger.debug("a worker ended with %s", type(error).__name__)
                yield _Failure(error)
                return None

        self._failed = False
        worker = create_worker(steps)
        with suppress(TypeError, RuntimeError):
            # Where napari would show each of a library's warnings to the user.
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
        """Ask the generator to end; it looks at its stop event between slices or steps."""
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
    """Starts tasks for a widget and ends them with the widget or the application."""

    def __init__(self, parent: QObject):
        super().__init__(parent)
        _hosts.add(self)
        stops: set[threading.Event] = set()
        self._stops = stops
        # A free function over plain data: the widget is half gone when "destroyed" is sent.
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
        """Ask every task to end."""
        _stop_all(self._stops)
