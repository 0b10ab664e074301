"""Long work as generators: each yields its progress and returns its result.

The caller decides how to run the steps: all at once, inside another generator, or in a worker that
can pause and stop between two steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

__all__ = ["finish", "mapped", "run_until_stopped"]

Step = TypeVar("Step")
Other = TypeVar("Other")
Result = TypeVar("Result")

_YIELD_SECONDS = 0.1
# Seconds between checks of a paused worker for cancellation.
_PAUSE_SECONDS = 0.2


def finish(
    steps: Generator[Step, None, Result], progress: Callable[[Step], object] | None = None
) -> Result:
    """Run all steps and return the result.

    Parameters
    ----------
    steps : generator
        The work.
    progress : callable, optional
        Called with each step; an exception that it raises stops the work.
    """
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
            if progress is not None:
                progress(step)
    finally:
        steps.close()


def mapped(
    steps: Generator[Step, None, Result], function: Callable[[Step], Other]
) -> Generator[Other, None, Result]:
    """Yield the result of a function for each step; return the same result."""
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
            yield function(step)
    finally:
        steps.close()


def run_until_stopped(
    stop: threading.Event,
    steps: Generator[Step, None, Result],
    *,
    go: threading.Event | None = None,
    news: Callable[[Step], Any] = lambda step: None,
) -> Generator[Step, None, Result | None]:
    """Run steps in a worker, yielding at most ten times a second.

    Parameters
    ----------
    stop : threading.Event
        Once set, the work is closed before its next step.
    steps : generator
        The work.
    go : threading.Event, optional
        While it is not set, the work is paused.
    news : callable
        Maps a step to a value. A step whose value differs from that of the last one is always
        yielded.

    Returns
    -------
    The result of ``steps``; None if it was stopped.
    """
    last, seen = 0.0, object()
    try:
        while True:
            while go is not None and not stop.is_set() and not go.wait(_PAUSE_SECONDS):
                pass
            if stop.is_set():
                return None
            try:
                step = next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
            now = time.monotonic()
            if now - last >= _YIELD_SECONDS or news(step) != seen:
                last, seen = now, news(step)
                yield step
    finally:
        steps.close()
