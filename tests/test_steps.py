"""Steps of long work: taken at once, through another generator, or in a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from napari_spatial_ar.steps import _PAUSE_SECONDS, finish, mapped, run_until_stopped


class Steps:
    """A generator of steps that counts them."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = False

    def __call__(self) -> Generator[int, None, str]:
        try:
            while True:
                self.taken += 1
                yield self.taken
        except GeneratorExit:
            self.closed = True
            raise


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def worker(steps: Steps) -> Any:
    """Run the steps in a thread; call with (stop, go)."""
    threads: list[threading.Thread] = []
    stops: list[threading.Event] = []

    def start(stop: threading.Event, go: threading.Event) -> threading.Thread:
        def work() -> None:
            for _ in run_until_stopped(stop, steps(), go=go):
                time.sleep(0.001)

        threads.append(threading.Thread(target=work))
        stops.append(stop)
        threads[-1].start()
        return threads[-1]

    yield start
    for stop, thread in zip(stops, threads, strict=True):
        stop.set()
        thread.join(5)


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


class Watched(threading.Event):
    """An event that notes how long each wait for it may take."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return super().wait(timeout)

    def until_waited(self) -> None:
        """Let two waits begin: the first of them ended without the event."""
        before = len(self.waits)
        until(lambda: len(self.waits) > before + 1)


def test_paused_it_takes_no_step_and_sleeps(steps: Steps, worker: Any) -> None:
    stop, go = threading.Event(), Watched()
    go.set()
    worker(stop, go)
    until(lambda: steps.taken > 3)
    go.clear()
    go.until_waited()
    taken = steps.taken
    go.until_waited()
    assert steps.taken == taken
    assert set(go.waits) == {_PAUSE_SECONDS}
    go.set()
    until(lambda: steps.taken > taken + 3)


def test_stopped_while_paused_it_ends_soon(steps: Steps, worker: Any) -> None:
    stop, go = threading.Event(), Watched()
    go.set()
    thread = worker(stop, go)
    until(lambda: steps.taken > 3)
    go.clear()
    go.until_waited()
    taken = steps.taken
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert steps.closed
    assert steps.taken == taken


def test_what_the_steps_return_is_returned() -> None:
    def ends() -> Generator[int, None, str]:
        yield 1
        return "model"

    found = run_until_stopped(threading.Event(), ends())
    assert next(found) == 1
    with pytest.raises(StopIteration) as end:
        next(found)
    assert end.value.value == "model"


def test_all_steps_are_taken_at_once() -> None:
    def work() -> Generator[int, None, str]:
        yield 1
        yield 2
        return "done"

    seen: list[int] = []
    assert finish(work(), seen.append) == "done"
    assert seen == [1, 2]
    through = mapped(work(), str)
    assert [next(through), next(through)] == ["1", "2"]
    assert finish(mapped(work(), str)) == "done"


def test_work_is_closed_by_what_a_listener_raises(steps: Steps) -> None:
    def refuse(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(mapped(steps(), lambda step: step), refuse)
    assert steps.closed
    assert steps.taken == 3


def test_news_is_yielded_at_once() -> None:
    def work() -> Generator[str, None, None]:
        yield from "aabbbc"

    assert set(run_until_stopped(threading.Event(), work(), news=str)) == set("abc")
