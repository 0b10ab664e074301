"""Steps in a worker: stopped, paused, and told in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from napari_spatial_ar.gui.training import stepping
from napari_spatial_ar.gui.training.stepping import StepText, until_stopped
from napari_spatial_ar.normative.fitting.progress import FitProgress


class Steps:
    """A generator of steps that counts them."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = False

    def __call__(self) -> Generator[FitProgress, None, str]:
        try:
            while True:
                self.taken += 1
                yield FitProgress("training", self.taken, 10**9, epoch=self.taken)
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
            for _ in until_stopped(stop, steps(), go):
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
    assert set(go.waits) == {stepping._LOOK_SECONDS}
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
    def ends() -> Generator[FitProgress, None, str]:
        yield FitProgress("saving", 1, 1)
        return "model"

    found = until_stopped(threading.Event(), ends())
    assert next(found).stage == "saving"
    with pytest.raises(StopIteration) as end:
        next(found)
    assert end.value.value == "model"


def test_words_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(stepping.time, "monotonic", lambda: now)
    say = StepText()
    assert say(FitProgress("features", 4, 40)) == "Embedding slices: 4 of 40"
    now += 8
    step = FitProgress("features", 8, 40, images_per_second=0.5, message="Embedding with it")
    assert say(step) == ("Embedding with it: 8 of 40, about 64 s left of this, 0.5 images a second")
    whole = FitProgress(
        "training", 30, 90, 3, 9, (2.0,) * 3, (2.0, 1.0, 1.5), 1, 12.34, 350.0, "Training"
    )
    assert say(whole) == (
        "Training: 30 of 90, about 6 min left in all, 12.3 images a second, best epoch 2 of 3"
    )
    assert say(FitProgress("features", 0, 0, message="Looking")) == "Looking"


def test_a_pause_does_not_slow_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(stepping.time, "monotonic", lambda: now)
    say = StepText()
    say(FitProgress("features", 0, 20))
    now += 10
    assert "about 10 s left" in say(FitProgress("features", 10, 20))
    now += 10_000
    say.restart()
    say(FitProgress("features", 11, 20))
    now += 4
    assert "about 5 s left" in say(FitProgress("features", 15, 20))
