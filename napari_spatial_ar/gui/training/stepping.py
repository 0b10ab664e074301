"""Going through the steps of a fit in a worker: stopped, paused, and told in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

__all__ = ["StepText", "until_stopped"]

_YIELD_SECONDS = 0.1
# A worker that waits looks this often whether it is to end.
_LOOK_SECONDS = 0.2
_STAGES = {
    "features": "Embedding slices",
    "training": "Training",
    "calibration": "Calibrating on held-out normal slices",
    "saving": "Saving",
}


def _stage_and_epoch(step: Any) -> object:
    return step.stage, step.epoch


def until_stopped(
    stop: threading.Event,
    steps: Generator[Any, None, Any],
    go: threading.Event | None = None,
    news: Callable[[Any], object] = _stage_and_epoch,
) -> Generator[Any, None, Any]:
    """Go on, yielding at most ten times a second and wherever ``news`` of a step is another.

    Between two steps it waits, without computing, for as long as ``go`` is there and not set.

    Returns
    -------
    What ``steps`` return; None where ``stop`` was set.
    """
    last, seen = 0.0, None
    while True:
        while go is not None and not stop.is_set() and not go.wait(_LOOK_SECONDS):
            pass
        if stop.is_set():
            steps.close()
            return None
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        now = time.monotonic()
        if now - last >= _YIELD_SECONDS or news(step) != seen:
            last, seen = now, news(step)
            yield step


class StepText:
    """Words for where a fit stands."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = (0.0, 0)

    def restart(self) -> None:
        """Measure the speed of the stage anew: time was spent on something else."""
        self._stage = ""

    def __call__(self, step: Any) -> str:
        """Say what is done, how far, how long it will still take, how fast and how well."""
        if step.stage != self._stage:
            self._stage = step.stage
            self._began = (time.monotonic(), step.done)
        told = [step.message or _STAGES.get(step.stage, step.stage)]
        if step.total:
            told.append(", ".join([f"{step.done} of {step.total}", *self._more(step)]))
        return ": ".join(told)

    def _more(self, step: Any) -> list[str]:
        # Not before: it imports torch.
        from napari_spatial_ar.normative.fitting.progress import spoken

        more = []
        if step.seconds_left is not None:
            more.append(f"about {spoken(step.seconds_left)} left in all")
        else:
            began, first = self._began
            done, seconds = step.done - first, time.monotonic() - began
            if done >= 1 and seconds >= 1:
                left = seconds / done * (step.total - step.done)
                more.append(f"about {spoken(left)} left of this")
        if step.images_per_second:
            more.append(f"{step.images_per_second:.3g} images a second")
        if step.best_epoch >= 0:
            more.append(f"best epoch {step.best_epoch + 1} of {step.epoch}")
        return more
