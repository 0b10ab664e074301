"""How long a fit will take, measured on this machine before it starts."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_spatial_ar.datasets.folders import iter_slices
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.detectors import FitContext, StoredGrids
from napari_spatial_ar.normative.fitting.config import FitConfig
from napari_spatial_ar.normative.fitting.fit import fit_steps
from napari_spatial_ar.normative.fitting.plan import (
    FitPlan,
    FitPlanned,
    FitProgress,
    format_duration,
)
from napari_spatial_ar.normative.memory import one_sentence, releases_memory
from napari_spatial_ar.normative.tiling import embed_slice
from napari_spatial_ar.steps import finish

__all__ = ["NOT_COUNTED", "FitEstimate", "estimate", "estimate_steps"]

#: Parts of a fit that an estimate excludes.
NOT_COUNTED = "reading the folders, and the calibration at the end"
# Measuring a part ends after this many seconds.
_SECONDS = 3.0
_SLICES = 4


@dataclass(frozen=True)
class FitEstimate:
    """How long a fit will take, excluding `NOT_COUNTED`.

    Parameters
    ----------
    to_embed, stored : int
        Slices to embed, and slices whose embeddings are stored; both include synthetic anomalies.
    embedding_seconds : float
        Time for reading and embedding them.
    learning_seconds : float
        Time for learning after that, with all epochs even if it may stop early.
    """

    to_embed: int
    stored: int
    embedding_seconds: float
    learning_seconds: float

    @property
    def seconds(self) -> float:
        """The sum of both."""
        return self.embedding_seconds + self.learning_seconds

    def __str__(self) -> str:
        stored = f", {self.stored} are stored" if self.stored else ""
        learning, whole = map(format_duration, (self.learning_seconds, self.seconds))
        embed = f"{self.to_embed} slices to embed{stored}"
        return f"About {whole}: {embed}; learning about {learning}."


@releases_memory
def estimate_steps(config: FitConfig, **where: Any) -> Generator[FitProgress, None, FitEstimate]:
    """Survey a folder, then measure for a few seconds; stop iterating to cancel.

    The backbone is timed on slices of the folder, and the method on random embeddings of their
    size. Measured times, including those of earlier fits, are stored and not measured again.

    Parameters
    ----------
    config, **where
        As for `fit_steps`, with the same errors. Nothing is written except the measured times.

    Yields
    ------
    FitProgress

    Returns
    -------
    FitEstimate
    """
    steps = fit_steps(config, **{**where, "overwrite": True})
    while not isinstance(step := next(steps), FitPlanned):  # a fit plans or raises
        yield step
    steps.close()
    plan = step.plan
    yield FitProgress("features", 0, 0, message="Estimating the time")
    learning = speeds.recall(plan.learning_key)
    if learning is None:
        learning = _time_learning(plan) / plan.train
        speeds.remember(plan.learning_key, learning)
    to_embed = plan.to_embed
    return FitEstimate(
        to_embed=to_embed,
        stored=plan.total - to_embed,
        embedding_seconds=to_embed * _embedding_of_a_slice(plan) if to_embed else 0.0,
        # Each of N folds learns from (N - 1) / N of the slices.
        learning_seconds=learning * plan.train * max(1, plan.folds),
    )


def estimate(config: FitConfig, **where: Any) -> FitEstimate:
    """Estimate how long a fit will take; see `estimate_steps`."""
    return finish(estimate_steps(config, **where))


def _embedding_of_a_slice(plan: FitPlan) -> float:
    """Seconds for reading and embedding a slice."""
    known = speeds.recall(plan.embedding_key)
    if known is not None:
        return known
    store, taken = plan.store, []
    begin = time.perf_counter()
    for _, image, window in iter_slices(plan.refs[:_SLICES], store.preprocessing.window):
        embed_slice(store.backbone, store.preprocessing, apply_window(image, *window)).cpu()
        now = time.perf_counter()
        taken.append(now - begin)
        begin = now
        if sum(taken) > _SECONDS:
            break
    # One-time work, such as opening a volume, is done with the first.
    seconds = statistics.median(taken[1:] or taken)
    speeds.remember(plan.embedding_key, seconds)
    return seconds


def _time_learning(plan: FitPlan) -> float:
    """Seconds for learning, from a short run on random embeddings."""
    generator = torch.Generator().manual_seed(0)
    rows, columns, channels = plan.store.shape
    grid = torch.randn(1, channels, rows, columns, generator=generator)
    what, device = f"Learning by {plan.method.title}", plan.store.backbone.device
    with one_sentence(what, device):
        return sum(
            _time_stage(replace(plan, method=method, options=options), grid, _slices_read(plan))
            for method, options in plan.method.stages(plan.options, plan.train)
        )


def _slices_read(plan: FitPlan) -> int:
    """Slices that a method walks over: normal ones, changed ones, or both."""
    changed = 0 if plan.changed is None else len(plan.changed)
    return changed + (plan.train if plan.method.needs_normal else 0)


def _time_stage(plan: FitPlan, grid: torch.Tensor, slices: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        passes = plan.method.passes(plan.options, plan.train, plan.valid)
        if passes is None:
            return _time_of_walks(plan, grid, Path(folder), slices)
        return passes * len(plan.store.tiling) * _time_of_a_pass(plan, grid, Path(folder))


def _setup(plan: FitPlan, folder: Path, grids: Any) -> FitContext:
    backbone = plan.store.backbone
    return FitContext(
        blocks=backbone.spec.blocks,
        device=backbone.device,
        valid=grids[:1],
        normals=grids if plan.method.needs_normal else (),
        checkpoint=folder / "checkpoint.safetensors",
    )


def _time_of_a_pass(plan: FitPlan, grid: torch.Tensor, folder: Path) -> float:
    """Seconds per slice of a method that trains in batches."""
    path = folder / "grid.npy"
    np.save(path, grid[0].permute(1, 2, 0).half().numpy())
    batch = int(plan.options["batch_size"])
    if plan.store.backbone.device.type == "cpu":
        # On a CPU a slice takes as long in a small batch, and the estimate is ready sooner.
        batch = min(batch, _SLICES)
    grids = StoredGrids([path] * (64 * batch))
    steps = plan.method.learn(
        grids, _setup(plan, folder, grids), **{**plan.options, "batch_size": batch}
    )
    begin, first = 0.0, 0
    for step in steps:
        now = time.perf_counter()
        if not first:  # the first batch, which sets up memory, is not counted
            begin, first = now, step.done
        elif step.done > first and now - begin > _SECONDS:
            break
    seconds = time.perf_counter() - begin
    steps.close()
    return seconds / (batch * max(1, step.done - first))


def _time_of_walks(plan: FitPlan, grid: torch.Tensor, folder: Path, slices: int) -> float:
    """Seconds for a method that reads the slices a few times, and may train between."""
    grids: list[Any] = [grid] * _SLICES
    labels = torch.randint(0, 2, (1, *grid.shape[2:]), generator=torch.Generator().manual_seed(0))
    pairs = [(grid, labels)] * _SLICES
    taken = pairs if plan.method.needs_synthetic else grids
    setup = _setup(plan, folder, grids)
    steps = plan.method.learn(taken, setup, **plan.options)
    # A method of changed slices may walk over normal ones too.
    read = len(taken) + (len(grids) if plan.method.needs_synthetic and setup.normals else 0)
    walking = once = rest = stage = 0.0
    start = begin = time.perf_counter()
    for step in steps:
        now = time.perf_counter()
        if step.total <= read and step.done > 1:
            walking += now - begin
        else:
            once += now - begin
        # The remaining steps of a training when the measuring time is over.
        stage = stage + now - begin if step.done > 1 else 0.0
        rest = stage * (step.total / max(1, step.done) - 1)
        begin = now
        if now - start > 2 * _SECONDS:
            break
    else:
        rest = 0.0
    steps.close()
    return once + rest + walking * slices * len(plan.store.tiling) / (read - 1)
