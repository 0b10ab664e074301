"""Where a fit stands, in words."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["StepText", "stage_and_epoch"]

_STAGES = {
    "features": "Embedding slices",
    "training": "Training",
    "calibration": "Calibrating on held-out normal slices",
    "saving": "Saving",
}


def stage_and_epoch(step: Any) -> tuple[str, int]:
    """Tell steps apart that the user shall see at once; for `until_stopped`."""
    return step.stage, step.epoch


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
