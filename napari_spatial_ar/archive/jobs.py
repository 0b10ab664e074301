"""Blocking network work in threads, driven by a generator that can be closed at any time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from napari_spatial_ar.errors import ArchiveUnreachable
from napari_spatial_ar.normative.cancellation import check_cancelled

__all__ = ["Hiccup", "Job", "again", "back_off", "run_jobs"]

_YIELD_SECONDS = 0.2
_JOIN_SECONDS = 2.0
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0

Result = TypeVar("Result")
#: Takes an event that is set once its result is not wanted any more.
Job = Callable[[threading.Event], Result]


def run_jobs(jobs: Iterable[Job[Result]], threads: int) -> Generator[Result | None, None, None]:
    """Run jobs in threads; yields each result, and None five times a second meanwhile.

    If a job fails or the generator is closed, no further job is started, and those that run are
    asked to stop.

    Parameters
    ----------
    jobs : iterable of callable
        See `Job`.
    threads : int
        How many run at the same time.

    Raises
    ------
    Exception
        The first that a job raises.
    """
    stop = threading.Event()
    results: queue.Queue[tuple[Result | None, BaseException | None]] = queue.Queue()
    waiting = iter(jobs)
    lock = threading.Lock()

    def work() -> None:
        for job in _taken(waiting, lock, stop):
            try:
                results.put((job(stop), None))
            except BaseException as error:  # noqa: BLE001 - raised by the generator
                results.put((None, error))
                return
        results.put((None, _Done()))

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    left = len(workers)
    try:
        while left:
            check_cancelled()
            try:
                result, error = results.get(timeout=_YIELD_SECONDS)
            except queue.Empty:
                yield None
                continue
            if isinstance(error, _Done):
                left -= 1
            elif error is not None:
                raise error
            else:
                yield result
    finally:
        stop.set()
        for worker in workers:
            worker.join(_JOIN_SECONDS)


class Hiccup(ArchiveUnreachable):
    """An archive that closed a connection or failed by itself: trying again soon may help."""


def again(ask: Callable[[], Result], retries: int) -> Result:
    """Ask what may be asked twice, again if there is a hiccup, with growing pauses."""
    for attempt in range(retries):
        try:
            return ask()
        except Hiccup:
            for _ in back_off(attempt):
                pass
    return ask()


class _Done(Exception):
    """A thread found no more jobs."""


def _taken(
    waiting: Iterator[Job[Result]], lock: threading.Lock, stop: threading.Event
) -> Iterator[Job[Result]]:
    while not stop.is_set():
        with lock:
            job = next(waiting, None)
        if job is None:
            return
        yield job


def back_off(attempt: int) -> Generator[None, None, None]:
    """Wait before another attempt: half a second, doubled each time, 30 seconds at most."""
    end = time.monotonic() + min(_FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS)
    while (left := end - time.monotonic()) > 0:
        check_cancelled()
        with suppress(InterruptedError):
            time.sleep(min(left, _YIELD_SECONDS))
        yield
