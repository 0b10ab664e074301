"""The plan of a fit, its progress, and its remaining time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, ParamSpec, TypeVar

from napari_spatial_ar.datasets.folders import SliceRef
from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.detectors import Detector, FitContext
from napari_spatial_ar.normative.detectors.base import Learned
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.fitting.synthetic_grids import SyntheticGrids
from napari_spatial_ar.normative.memory import Portions, one_sentence

__all__ = [
    "FitPlan",
    "FitPlanned",
    "FitProgress",
    "embedding",
    "format_duration",
    "learning",
    "with_time_left",
]

Stage = Literal["features", "training", "calibration", "saving"]


@dataclass(frozen=True)
class FitProgress:
    """Progress of a fit.

    Parameters
    ----------
    stage : {"features", "training", "calibration", "saving"}
        The current stage.
    done, total : int
        Within the stage: slices in "features" and "calibration", steps in "training".
    epoch, epochs : int
        Epochs finished, and in all.
    train_nll, valid_nll : tuple of float
        Mean loss of each finished epoch, nats per dimension.
    best_epoch : int
        Index of the epoch with the lowest validation NLL; -1 before the first.
    images_per_second : float
        Average over the stage so far.
    seconds_left : float, optional
        Estimated time until the fit is done, if known; an upper limit if it may stop early.
    message : str
        One line for users.
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


def format_duration(seconds: float) -> str:
    """Format a duration for users: ``"40 s"``, ``"6 min"``, ``"3.5 h"``."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def embedding(
    counts: Iterable[int], total: int, message: str, portions: Portions | None = None
) -> Iterator[FitProgress]:
    """Report how many of ``total`` slices are embedded, as counted by `FeatureStore.extract`.

    ``portions`` reports whether memory ran short.
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
        # Time until the next step is requested, such as a pause, is not counted.
        begin = time.perf_counter()


def learning(
    method: type[Detector],
    grids: Sequence[object],
    setup: FitContext,
    options: Mapping[str, Any],
    tiles: int = 1,
) -> Generator[FitProgress, None, Learned[Detector]]:
    """Learn, reporting each step; the summary contains the ``seconds`` it took.

    A method that resumes from a checkpoint reports its own time, including that before the
    interruption. ``tiles`` is the number of grids per slice.

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
        if last < 0 or step.done < last:  # a method may read the slices several times
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


P = ParamSpec("P")


R = TypeVar("R")


# Minimum number of slices for which the embedding time per slice is stored.
_ENOUGH = 8


@dataclass(frozen=True)
class FitPlan:
    """Everything a fit knows before it starts to compute.

    Parameters
    ----------
    method, options
        The method and all of its options.
    store : FeatureStore
        Where embeddings are stored.
    refs : tuple of SliceRef
        Slices embedded unchanged.
    changed : SyntheticGrids, optional
        Synthetic anomalies, embedded too.
    train, valid : int
        Number of slices to learn from and to validate on.
    folds : int
        The fit's ``calibration_folds``.
        As the fit's ``calibration_folds``.
    """

    method: type[Detector]
    options: Mapping[str, Any]
    store: FeatureStore
    refs: tuple[SliceRef, ...]
    changed: SyntheticGrids | None
    train: int
    valid: int
    folds: int = 0

    @property
    def to_embed(self) -> int:
        """Slices whose embeddings are not stored, including synthetic anomalies."""
        changed = 0 if self.changed is None else len(self.changed.missing())
        return len(self.store.missing(self.refs)) + changed

    @property
    def total(self) -> int:
        """Slices whose embeddings are needed, including synthetic anomalies."""
        return len(self.refs) + (0 if self.changed is None else len(self.changed))

    @property
    def embedding_key(self) -> list[Any]:
        """Everything that the embedding time of a slice depends on."""
        spec, seen = self.store.backbone.spec, self.store.preprocessing
        machine = speeds.machine(self.store.backbone.device)
        return ["embedding", machine, spec.name, list(spec.layers), list(seen.size), seen.tile]

    @property
    def learning_key(self) -> list[Any]:
        """Everything that the learning time of a slice depends on, except the number of slices."""
        shape = [*self.store.shape, len(self.store.tiling)]
        machine = speeds.machine(self.store.backbone.device)
        return ["learning", machine, self.method.name, dict(self.options), shape]


@dataclass(frozen=True)
class FitPlanned(FitProgress):
    """The step of a fit that contains its plan, once."""

    plan: FitPlan = field(kw_only=True, repr=False)


class _Clock:
    """Time spent in the stages of a fit, without the time between its steps."""

    def __init__(self) -> None:
        self._plan: FitPlan | None = None
        self._last = FitProgress("features", 0, 0)
        self._spent = 0.0
        self._first = 0
        self._embedded = 0
        self._to_embed = 0
        self._learning: float | None = None

    def take(self, step: FitProgress, seconds: float) -> FitProgress:
        """Add the remaining time to a step that took ``seconds`` to reach."""
        if isinstance(step, FitPlanned):
            self._plan, self._to_embed = step.plan, step.plan.to_embed
            a_slice = speeds.recall(step.plan.learning_key)
            self._learning = None if a_slice is None else a_slice * step.plan.train
            self._spent = 0.0
            return step
        if self._plan is None:
            return step
        if step.stage != self._last.stage:
            self._keep(self._plan)
            self._spent, self._first = 0.0, step.done
        elif step.stage == "features" and step.message == self._last.message:
            self._embedded += step.done - self._last.done
        self._spent += seconds
        self._last = step
        return replace(step, seconds_left=self._left(self._plan, step))

    def _left(self, plan: FitPlan, step: FitProgress) -> float | None:
        if step.stage == "features":
            if self._learning is None or not self._embedded:
                return None
            a_slice = self._spent / self._embedded
            return a_slice * (self._to_embed - self._embedded) + self._learning
        if step.stage == "training" and plan.method.passes(plan.options, plan.train) is None:
            # Its steps show how far one pass over the slices is, not how many follow.
            return None if self._learning is None else max(0.0, self._learning - self._spent)
        done = step.done - self._first
        return self._spent / done * (step.total - step.done) if done > 0 else None

    def _keep(self, plan: FitPlan) -> None:
        """Store the time of a finished stage; learning that was resumed counts only in part."""
        if self._last.stage == "features" and self._embedded >= _ENOUGH:
            speeds.remember(plan.embedding_key, self._spent / self._embedded)
        if self._last.stage == "training" and self._first <= 1:
            speeds.remember(plan.learning_key, self._spent / plan.train)


def with_time_left(
    steps_of: Callable[P, Generator[FitProgress, None, R]],
) -> Callable[P, Generator[FitProgress, None, R]]:
    """Fill in `FitProgress.seconds_left` of the steps of a fit."""

    @functools.wraps(steps_of)
    def timed(*args: P.args, **kwargs: P.kwargs) -> Generator[FitProgress, None, R]:
        steps, clock = steps_of(*args, **kwargs), _Clock()
        try:
            while True:
                begin = time.perf_counter()
                try:
                    step = next(steps)
                except StopIteration as end:
                    result: R = end.value
                    return result
                yield clock.take(step, time.perf_counter() - begin)
        finally:
            steps.close()

    return timed
