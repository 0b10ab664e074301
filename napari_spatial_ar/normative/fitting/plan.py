"""What a fit is about to do, and from it how long it will still take."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

from napari_spatial_ar.datasets.folders import SliceRef
from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.detectors import Detector
from napari_spatial_ar.normative.fitting.changed_grids import ChangedGrids
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.fitting.progress import FitProgress

__all__ = ["FitPlan", "FitPlanned", "tells_time_left"]

P = ParamSpec("P")
R = TypeVar("R")

# Slices from which on what the embedding of each took is worth keeping.
_ENOUGH = 8


@dataclass(frozen=True)
class FitPlan:
    """All that a fit knows before it computes anything.

    Parameters
    ----------
    method, options
        What learns, and all of its options.
    store : FeatureStore
        Where embeddings are kept.
    refs : tuple of SliceRef
        Slices that are embedded as they are.
    changed : ChangedGrids, optional
        Those that are changed first.
    train, valid : int
        Slices to learn from and to validate on.
    folds : int
        As the fit's ``calibration_folds``.
    """

    method: type[Detector]
    options: Mapping[str, Any]
    store: FeatureStore
    refs: tuple[SliceRef, ...]
    changed: ChangedGrids | None
    train: int
    valid: int
    folds: int = 0

    @property
    def to_embed(self) -> int:
        """Slices whose embeddings are not stored, changed ones included."""
        changed = 0 if self.changed is None else len(self.changed.missing())
        return len(self.store.missing(self.refs)) + changed

    @property
    def total(self) -> int:
        """Slices whose embeddings are needed, changed ones included."""
        return len(self.refs) + (0 if self.changed is None else len(self.changed))

    @property
    def embedding_key(self) -> list[Any]:
        """What the time that a slice's embedding takes depends on."""
        spec, seen = self.store.backbone.spec, self.store.preprocessing
        machine = speeds.machine(self.store.backbone.device)
        return ["embedding", machine, spec.name, list(spec.layers), list(seen.size), seen.tile]

    @property
    def learning_key(self) -> list[Any]:
        """What the time that learning takes a slice depends on, the number of slices left out."""
        shape = [*self.store.shape, len(self.store.tiling)]
        machine = speeds.machine(self.store.backbone.device)
        return ["learning", machine, self.method.name, dict(self.options), shape]


@dataclass(frozen=True)
class FitPlanned(FitProgress):
    """The step of a fit that tells its plan, once."""

    plan: FitPlan = field(kw_only=True, repr=False)


class _Clock:
    """Time spent in the stages of a fit, that between its steps left out."""

    def __init__(self) -> None:
        self._plan: FitPlan | None = None
        self._last = FitProgress("features", 0, 0)
        self._spent = 0.0
        self._first = 0
        self._embedded = 0
        self._to_embed = 0
        self._learning: float | None = None

    def take(self, step: FitProgress, seconds: float) -> FitProgress:
        """Say in a step, to reach which took ``seconds``, how long the rest will take."""
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
            # Its steps tell how far a walk through the slices is, not how many walks follow.
            return None if self._learning is None else max(0.0, self._learning - self._spent)
        done = step.done - self._first
        return self._spent / done * (step.total - step.done) if done > 0 else None

    def _keep(self, plan: FitPlan) -> None:
        """Keep what a finished stage took; of learning that went on from a stop it is a part."""
        if self._last.stage == "features" and self._embedded >= _ENOUGH:
            speeds.remember(plan.embedding_key, self._spent / self._embedded)
        if self._last.stage == "training" and self._first <= 1:
            speeds.remember(plan.learning_key, self._spent / plan.train)


def tells_time_left(
    steps_of: Callable[P, Generator[FitProgress, None, R]],
) -> Callable[P, Generator[FitProgress, None, R]]:
    """Fill in `FitProgress.seconds_left` of a fit's steps."""

    @functools.wraps(steps_of)
    def told(*args: P.args, **kwargs: P.kwargs) -> Generator[FitProgress, None, R]:
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

    return told
