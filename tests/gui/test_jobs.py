"""Workers: results on the GUI thread, errors as values, stopping, and nothing left running."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest
from qtpy.QtCore import QObject, QThread
from qtpy.QtWidgets import QApplication

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui.jobs import TaskHost, pool


@pytest.fixture
def host(qtbot: Any) -> Any:
    parent = QObject()
    yield TaskHost(parent)
    parent.deleteLater()
    qtbot.wait(10)


def test_values_arrive_in_order_on_the_gui_thread(host: TaskHost, qtbot: Any) -> None:
    got: list[Any] = []

    def work(stop: threading.Event) -> Generator[int, None, str]:
        assert QThread.currentThread() is not QApplication.instance().thread()
        yield 1
        yield 2
        return "end"

    task = host.start(work)
    main = threading.get_ident()
    task.progressed.connect(lambda v: got.append((v, threading.get_ident() == main)))
    task.returned.connect(lambda v: got.append((v, threading.get_ident() == main)))
    with qtbot.waitSignal(task.finished, timeout=5000):
        pass
    assert got == [(1, True), (2, True), ("end", True)]


def test_an_error_is_a_signal_and_not_a_return(host: TaskHost, qtbot: Any) -> None:
    errors: list[Exception] = []
    returned: list[Any] = []

    def work(stop: threading.Event) -> Generator[None, None, None]:
        yield
        raise InputError("no good")

    task = host.start(work)
    task.failed.connect(errors.append)
    task.returned.connect(returned.append)
    with qtbot.waitSignal(task.finished, timeout=5000):
        pass
    assert [str(e) for e in errors] == ["no good."]
    assert returned == []


def endless(stop: threading.Event) -> Generator[None, None, None]:
    yield
    while not stop.is_set():
        time.sleep(0.01)


def test_stopping_ends_the_generator(host: TaskHost, qtbot: Any) -> None:
    task = host.start(endless)
    with qtbot.waitSignal(task.finished, timeout=5000):
        qtbot.wait(50)
        task.stop()
    assert not task.running


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")
def test_workers_stand_back_behind_the_gui(host: TaskHost, qtbot: Any) -> None:
    found: list[int] = []

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def work(stop: threading.Event) -> Generator[int, None, None]:
        yield niceness()

    own = niceness()
    task = host.start(work)
    task.progressed.connect(found.append)
    with qtbot.waitSignal(task.finished, timeout=5000):
        pass
    assert found == [max(own, 5)]
    assert niceness() == own


def test_no_thread_outlives_the_widget(qtbot: Any) -> None:
    parent = QObject()
    TaskHost(parent).start(endless)
    qtbot.waitUntil(lambda: pool().activeThreadCount() == 1)
    parent.deleteLater()
    qtbot.waitUntil(lambda: pool().activeThreadCount() == 0, timeout=3000)
