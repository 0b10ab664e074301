"""Long work as generators: each yields where it stands and returns its result.

Whoever takes the steps decides how: all at once, through another generator, or in a worker that
pauses and stops between two of them.
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
# A worker that is paused checks this often whether it is to stop.
_PAUSE_SECONDS = 0.2


def finish(
    steps: Generator[Step, None, Result], progress: Callable[[Step], object] | None = None
) -> Result:
    """Take all steps and return the result.

    Parameters
    ----------
    steps : generator
        The work.
    progress : callable, optional
        Called with each step; what it raises stops the work.
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
    """Yield what a function makes of each step; return the same result."""
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
    """Take steps in a worker, yielding at most ten times a second.

    Parameters
    ----------
    stop : threading.Event
        Once set, the work is closed before its next step.
    steps : generator
        The work.
    go : threading.Event, optional
        While it is not set, nothing is computed.
    news : callable
        A step of which this gives another value than of the last is yielded in any case.

    Returns
    -------
    What ``steps`` returns; None where it was stopped.
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
