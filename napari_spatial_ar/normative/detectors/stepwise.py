"""Training a reconstructing network for a number of steps, on batches of whole slices.

The order of the slices and everything drawn at random in a step depend on the seed and the step
alone, and a checkpoint is written after each pass over the slices: training that was interrupted
ends with the same weights as without the interruption.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_spatial_ar.normative.detectors.ar_training import products
from napari_spatial_ar.normative.detectors.base import FitContext, Step
from napari_spatial_ar.normative.detectors.checkpoint import (
    Record,
    read_checkpoint,
    write_checkpoint,
)
from napari_spatial_ar.normative.detectors.grids import StoredGrids, check_grid

__all__ = ["StepNetwork", "StepPlan", "heads_of", "set_rate", "train_in_steps"]

_HEAD = 64


class StepNetwork(nn.Module):
    """A network that is trained in steps."""

    #: The arguments that build it.
    settings: dict[str, Any]

    @property
    def channels(self) -> int:
        """D, channels of a grid."""
        raise NotImplementedError


@dataclass(frozen=True)
class StepPlan:
    """How long to train.

    Parameters
    ----------
    iterations : int
        Training steps.
    batch_size : int
        Slices per step.
    learning_rate : float
        Highest learning rate.
    """

    iterations: int
    batch_size: int
    learning_rate: float


def train_in_steps(
    network: StepNetwork,
    optimizer: torch.optim.Optimizer,
    gradients: Callable[[Tensor, int], float],
    grids: Sequence[Tensor],
    setup: FitContext,
    plan: StepPlan,
    noted: Callable[[str], str] = str,
) -> Generator[Step, None, dict[str, Any]]:
    """Train a network, or resume from a checkpoint; stop iterating to cancel.

    Parameters
    ----------
    network : StepNetwork
        On the device of ``setup``.
    optimizer : torch.optim.Optimizer
        Of its parameters.
    gradients : callable
        Computes the gradients of a batch, (B, D, Hp, Wp) float on the CPU, in the step of this
        number, and returns its loss.
    grids, setup
        As for `Detector.learn`.
    plan : StepPlan
        How long to train.
    noted : callable
        Adds to a progress message, see `Portions.noted`.

    Yields
    ------
    Step

    Returns
    -------
    dict
        The training record for the model file.
    """
    settings = [*astuple(plan), network.settings, setup.seed]
    checkpoint = _Checkpoint(setup.checkpoint, _key(grids, settings))
    done, loss = checkpoint.resume(network, optimizer), math.nan
    per_epoch = max(1, len(grids) // plan.batch_size)
    devices = [setup.device] if setup.device.type == "cuda" else []
    while done < plan.iterations:
        chosen = _chosen(len(grids), done, per_epoch, plan.batch_size, setup.seed)
        batch = torch.cat([check_grid(grids[index], network.channels) for index in chosen])
        network.train()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(np.random.default_rng([setup.seed, done]).integers(2**62)))
            loss = gradients(batch, done)
        optimizer.step()
        done += 1
        if done % per_epoch == 0 or done == plan.iterations:
            checkpoint.save(network, optimizer, done)
        message = noted(f"Training, loss {loss:.4f}")
        yield Step(done, plan.iterations, message, images=plan.batch_size)
    return {
        "products": products(setup.device),
        "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "steps": done,
        "seconds": checkpoint.seconds,
        # Nothing is left to train if it was interrupted after the last step.
        "loss": None if math.isnan(loss) else loss,
    }


def heads_of(width: int) -> int:
    """Count attention heads of about 64 channels, such that their number divides the width."""
    return next(n for n in range(max(1, width // _HEAD), 0, -1) if width % n == 0)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _chosen(count: int, step: int, per_epoch: int, batch_size: int, seed: int) -> list[int]:
    """Slices of a step; each epoch has its own order, and drops the incomplete last batch."""
    epoch, place = divmod(step, per_epoch)
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return order[place * batch_size : (place + 1) * batch_size]


def _key(grids: Sequence[Tensor], settings: list[Any]) -> str:
    """Key that a checkpoint must match; stored grids are named by content, so names suffice."""
    names = (
        [[path.parent.parent.name, path.name] for path in grids.paths]
        if isinstance(grids, StoredGrids)
        else [len(grids)]
    )
    return hashlib.sha256(json.dumps([names, settings], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Record(Record):
    done: int
    seconds: float = 0.0


class _Checkpoint:
    """Weights and moments on disk, if a path is given, and the training time."""

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._key = key
        self._begin = time.perf_counter()
        #: Up to the last `save`, including the time before an interruption.
        self.seconds = 0.0

    def save(self, network: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        self.seconds = time.perf_counter() - self._begin
        if self._path is not None:
            record = _Record(self._key, done, self.seconds)
            write_checkpoint(self._path, record, optimizer, network=network.state_dict())

    def resume(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore a checkpoint with the same key and return its steps; else 0."""
        found = read_checkpoint(self._path, _Record, self._key)
        if found is None:
            return 0
        network.load_state_dict(found.group("network"))
        found.restore(optimizer)
        self.seconds = found.record.seconds
        self._begin = time.perf_counter() - self.seconds
        return found.record.done
