"""Where a fit stands, told step by step."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from napari_spatial_ar.normative.detectors import Detector, FitSetup
from napari_spatial_ar.normative.detectors.base import Learned
from napari_spatial_ar.normative.memory import Portions, one_sentence

__all__ = ["FitProgress", "embedding", "learning", "spoken"]

Stage = Literal["features", "training", "calibration", "saving"]


@dataclass(frozen=True)
class FitProgress:
    """Where a fit stands.

    Parameters
    ----------
    stage : {"features", "training", "calibration", "saving"}
        What is going on.
    done, total : int
        Within the stage: slices in "features" and "calibration", steps in "training".
    epoch, epochs : int
        Epochs finished, and in all.
    train_nll, valid_nll : tuple of float
        Mean loss of each finished epoch, nats per dimension.
    best_epoch : int
        Index of the epoch with the lowest validation NLL; -1 before the first.
    images_per_second : float
        Over the stage so far.
    seconds_left : float, optional
        Until the whole fit is done, as far as it can be told; at most, where it may end before.
    message : str
        One line for people.
    """

    stage: Stage
    done: int
    total: int
    epoch: int = 0
    epochs: int = 0
    train_nll: tuple[float, ...] = ()
    valid_nll: tuple[float, ...] = ()
    best_epoch: int = -1
    images_per_second: float = 0.0
    seconds_left: float | None = None
    message: str = ""


def spoken(seconds: float) -> str:
    """Say a time as people do: ``"40 s"``, ``"6 min"``, ``"3.5 h"``."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def embedding(
    counts: Iterable[int], total: int, message: str, portions: Portions | None = None
) -> Iterator[FitProgress]:
    """Tell how many of ``total`` slices are embedded, as `FeatureStore.extract` counts them.

    ``portions`` says whether memory ran short.
    """
    seconds, first, begin = 0.0, 0, time.perf_counter()
    for number, done in enumerate(counts):
        first = done if number == 0 else first
        seconds += time.perf_counter() - begin
        yield FitProgress(
            "features",
            done,
            total,
            images_per_second=(done - first) / seconds if seconds else 0.0,
            message=message if portions is None else portions.noted(message),
        )
        # What goes by before the next step is wanted, such as a pause, is not counted.
        begin = time.perf_counter()


def learning(
    method: type[Detector],
    grids: Sequence[Any],
    setup: FitSetup,
    options: Mapping[str, Any],
    tiles: int = 1,
) -> Generator[FitProgress, None, Learned[Detector]]:
    """Learn, telling each step; the summary says how many ``seconds`` it took.

    A method that goes on from a checkpoint gives its own figure, with the time before the stop.
    ``tiles`` is the number of grids that make a slice.

    Raises
    ------
    MemoryShortage
        If there is not enough memory.
    """
    steps = method.learn(grids, setup, **options)
    start = begin = time.perf_counter()
    spent, first, last = 0.0, 0, -1
    while True:
        try:
            with one_sentence(f"Learning by {method.title}", setup.device):
                step = next(steps)
        except StopIteration as end:
            learned: Learned[Detector] = end.value
            seconds = time.perf_counter() - start
            return replace(learned, summary={"seconds": seconds, **learned.summary})
        if last < 0 or step.done < last:  # a method may walk through the slices several times
            spent, first = 0.0, step.done
        else:
            spent += time.perf_counter() - begin
        last = step.done
        images = (step.done - first) * step.images / tiles
        yield FitProgress(
            "training",
            step.done,
            step.total,
            epoch=step.epoch,
            epochs=step.epochs,
            train_nll=step.train_nll,
            valid_nll=step.valid_nll,
            best_epoch=step.best_epoch,
            images_per_second=images / spent if spent else 0.0,
            message=step.message,
        )
        begin = time.perf_counter()
