"""Training the autoregressive network from stored embeddings."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from napari_spatial_ar.normative.backbones.devices import native_bfloat16
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.detectors.checkpoint import (
    Record,
    read_checkpoint,
    write_checkpoint,
)
from napari_spatial_ar.normative.detectors.grids import count_present
from napari_spatial_ar.normative.detectors.optimizers import Muon
from napari_spatial_ar.normative.detectors.whitening import EqualVariance
from napari_spatial_ar.normative.fitting.feature_store import load_batch
from napari_spatial_ar.normative.memory import Portions

__all__ = [
    "Epoch",
    "LoadedGrids",
    "OptimizerName",
    "TrainingSettings",
    "TrainingState",
    "mean_nll",
    "train",
    "turn",
]

# Share of a GPU's free memory that stored grids may fill.
_SHARE = 0.5


class LoadedGrids:
    """Stored grids as training batches, cached in GPU memory if they fit.

    Reading them from disk again for each epoch would starve a GPU: its steps take milliseconds.

    Parameters
    ----------
    paths : sequence of Path
        Stored grids of one shape.
    device : torch.device
        Where training runs.
    turned : bool
        Whether to rotate them by 180 degrees.
    change : EqualVariance, optional
        Transform applied to each batch; the cache holds the grids as stored, in half the memory.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        device: torch.device,
        *,
        turned: bool,
        change: EqualVariance | None = None,
    ) -> None:
        self._paths = paths
        self._turned = turned
        self._kept: Tensor | None = None
        if device.type == "cuda" and paths and self._bytes() < _SHARE * _free_bytes(device):
            first = torch.from_numpy(np.load(paths[0]))
            kept = torch.empty((len(paths), *first.shape), dtype=first.dtype, device=device)
            for place, path in zip(kept, paths, strict=True):
                place.copy_(torch.from_numpy(np.load(path)))
            self._kept = kept.movedim(3, 1)  # channels first as a view, last in memory
        self._change = None if change is None else change.to(self.device)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def device(self) -> torch.device:
        """The device of the grids returned by `batch`."""
        return torch.device("cpu") if self._kept is None else self._kept.device

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return the grids with these indices, (B, D, Hp, Wp) float32."""
        if self._kept is None:
            grid = load_batch([self._paths[i] for i in indices])
        else:
            grid = self._kept[torch.tensor(list(indices), device=self._kept.device)].float()
        if self._change is not None:
            grid = self._change(grid)
        return turn(grid) if self._turned else grid

    def _bytes(self) -> int:
        return sum(path.stat().st_size for path in self._paths)


def _free_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def turn(grid: Tensor) -> Tensor:
    """Rotate (..., Hp, Wp) by 180 degrees; applying it twice restores the input."""
    return grid.flip(-2, -1)


OptimizerName = Literal["adamw", "adamw-cycle", "muon"]


# The warm-up of a cycle of the learning rate takes one in this many steps.
_WARM_UP_PART = 10


# Seconds of work on a GPU that an interruption may cost.
_BETWEEN_SAVES = 2.0


@dataclass(frozen=True)
class TrainingSettings:
    """How the network is trained; the defaults are the paper's.

    Parameters
    ----------
    network : dict
        Arguments of `SpatialAR`.
    seed : int
        Seed of the initial weights, the order of slices and the noise.
    batch_size : int
        Slices per step.
    learning_rate : float
        Learning rate: constant for "adamw", else the highest one.
    noise_share : float
        Share of batches whose embeddings get Gaussian noise.
    noise_scale : float
        Standard deviation of the noise, relative to that of each channel (after the transform).
    optimizer : {"adamw", "adamw-cycle", "muon"}
        The optimizer. Except for "adamw", the learning rate rises over the first tenth of the steps
        and falls along a cosine to the end, where the weights are the best.
    """

    network: dict[str, Any]
    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 1e-3
    noise_share: float = 0.2
    noise_scale: float = 0.03
    optimizer: OptimizerName = "adamw"


@dataclass(frozen=True)
class Epoch:
    """Mean losses of one epoch, in nats per dimension."""

    train_nll: float
    valid_nll: float


@dataclass
class TrainingState:
    """State of the training.

    ``batches_done`` counts within the current epoch. ``history`` holds the finished epochs and
    ``best_epoch`` the index of the one with the lowest validation NLL (-1 before the first).
    ``seconds`` is the time of the finished epochs, including those before an interruption;
    ``portions`` is how many slices of a batch are computed together.
    """

    network: SpatialAR
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    best: dict[str, Tensor] = field(default_factory=dict)
    batches_done: int = 0
    seconds: float = 0.0
    portions: Portions = field(default_factory=lambda: Portions("Training"))

    def stale(self, patience: int) -> bool:
        """Whether the last ``patience`` epochs brought no improvement; never if it is 0."""
        return 0 < patience < len(self.history) - self.best_epoch


def train(
    train_paths: Sequence[Path],
    valid_paths: Sequence[Path],
    settings: TrainingSettings,
    *,
    epochs: int,
    checkpoint: Path,
    device: torch.device,
    turned: bool = False,
    patience: int = 0,
    change: EqualVariance | None = None,
) -> Iterator[TrainingState]:
    """Train for ``epochs`` epochs or until it stops improving; stop iterating to cancel.

    A checkpoint is written after each epoch; on a GPU only if at least two seconds have passed
    since the last one. If there is a checkpoint of the same slices and settings, training resumes
    from it and ends with the same weights as without the interruption: the order of slices and the
    noise of an epoch depend only on the seed and the epoch.

    Parameters
    ----------
    train_paths, valid_paths : sequence of Path
        Stored grids; both of normal slices.
    settings : TrainingSettings
        How to train.
    epochs : int
        Total number of epochs, including those in the checkpoint. Except with "adamw", training
        does not resume from a checkpoint made for another number of epochs.
    checkpoint : Path
        Safetensors file.
    device : torch.device
        Where to train.
    turned : bool
        Whether to rotate the grids by 180 degrees, so that the raster runs backwards.
    patience : int
        Stop after this many epochs without a better validation NLL; 0 never stops early.
    change : EqualVariance, optional
        Transform of the grids before the network and the noise; none by default.

    Yields
    ------
    TrainingState
        After each step and each epoch; the same object, updated.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = SpatialAR(**settings.network)
    network.to(device)
    # On Apple's GPUs torch computed wrong gradients for weights in this memory layout.
    if device.type != "mps":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    on_card = device.type == "cuda"
    optimizer = _optimizer(network, settings, on_card)
    state = TrainingState(network)
    key = _key(train_paths, valid_paths, settings, turned, change, epochs)
    _resume(state, optimizer, checkpoint, key)
    grids, valid = (
        LoadedGrids(paths, device, turned=turned, change=change)
        for paths in (train_paths, valid_paths)
    )
    noise_std = settings.noise_scale * _channel_std(train_paths, change).to(grids.device)
    steps = -(-len(train_paths) // settings.batch_size)
    begin = (saved := time.perf_counter()) - state.seconds
    yield state
    for epoch in range(len(state.history), epochs):
        if state.stale(patience):
            return
        total = 0.0
        for batch, noise_seed in _batches(len(train_paths), epoch, settings):
            grid = grids.batch(batch)
            if noise_seed is not None:
                # Drawn on the device: on a CPU this takes longer than a GPU needs for a step.
                generator = torch.Generator(grid.device).manual_seed(noise_seed)
                noise = torch.empty_like(grid).normal_(generator=generator)
                grid = grid + noise_std * noise
            step = partial(_gradients, network, optimizer, grid)
            if settings.optimizer != "adamw":
                done = epoch * steps + state.batches_done
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * _rate(done, epochs * steps)
            loss = state.portions(len(grid), device, step)
            optimizer.step()
            total += loss * len(batch)
            state.batches_done += 1
            yield state
        valid_nll = mean_nll(network, valid, state.portions)
        state.history.append(Epoch(total / len(train_paths), valid_nll))
        state.batches_done = 0
        if state.best_epoch < 0 or valid_nll < state.history[state.best_epoch].valid_nll:
            state.best_epoch = epoch
            state.best = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        state.seconds = time.perf_counter() - begin
        # On a GPU an epoch may take less time than saving it.
        ends = epoch + 1 == epochs or state.stale(patience)
        if not on_card or ends or time.perf_counter() - saved > _BETWEEN_SAVES:
            _save(state, optimizer, checkpoint, key)
            saved = time.perf_counter()
        yield state


def _optimizer(
    network: SpatialAR, settings: TrainingSettings, on_card: bool
) -> torch.optim.Optimizer:
    if settings.optimizer == "muon":
        return Muon(network.parameters(), lr=settings.learning_rate)
    return torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, fused=on_card or None)


def _rate(done: int, steps: int) -> float:
    """Learning rate of a step as a share of the highest, by its position in the training."""
    warm_up = max(1, steps // _WARM_UP_PART)
    if done < warm_up:
        return (done + 1) / warm_up
    return (1 + math.cos(math.pi * (done - warm_up) / max(1, steps - warm_up))) / 2


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Compute products in bfloat16 if the hardware supports it; losses and weights stay float32.

    Weights trained with the same seed therefore depend on the machine, as they depend on the number
    of its threads; `products` records the precision in the model file.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=native_bfloat16(device))


def products(device: torch.device) -> str:
    """Name of the dtype in which products are computed under `precision`."""
    return "bfloat16" if native_bfloat16(device) else "float32"


def _gradients(
    network: SpatialAR, optimizer: torch.optim.Optimizer, grid: Tensor, size: int
) -> float:
    """Accumulate the gradients of a batch's mean loss, ``size`` slices at a time.

    Whatever the portion size, the sum is that of the full batch, up to rounding.
    """
    optimizer.zero_grad(set_to_none=True)
    total, device = 0.0, next(network.parameters()).device
    patches = count_present(grid)
    for part in torch.split(grid, size):
        with precision(device):
            loss = network.loss(_laid_out(part.to(device))) / network.channels
        loss = loss * (count_present(part) / patches)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _laid_out(grid: Tensor) -> Tensor:
    """Channels-first memory on Apple's GPUs, as their convolutions require; else unchanged."""
    return grid.contiguous() if grid.device.type == "mps" else grid


def mean_nll(network: SpatialAR, grids: LoadedGrids, portions: Portions | None = None) -> float:
    """Mean NLL of stored grids, in nats per dimension."""
    count, device = len(grids), next(network.parameters()).device

    def mean_present(grid: Tensor) -> float:
        nll = network.nll(grid)
        return nll[~nll.isnan()].mean().item()

    def summed(size: int) -> float:
        parts = (range(n, min(n + size, count)) for n in range(0, count, size))
        with torch.inference_mode(), precision(device):
            loaded = (grids.batch(part).to(device) for part in parts)
            return sum(mean_present(_laid_out(grid)) * len(grid) for grid in loaded)

    # Portions of 16, if they fit in memory.
    total = (portions or Portions("Validation"))(min(16, count), device, summed)
    return total / count / network.channels


def _batches(
    count: int, epoch: int, settings: TrainingSettings
) -> Iterator[tuple[list[int], int | None]]:
    """Yield the slices of each step of an epoch, and the seed of its noise if it gets any."""
    rng = np.random.default_rng([settings.seed, epoch])
    order = rng.permutation(count)
    for start in range(0, count, settings.batch_size):
        noisy = rng.random() < settings.noise_share
        seed = int(rng.integers(2**31))
        yield order[start : start + settings.batch_size].tolist(), seed if noisy else None


def _channel_std(paths: Sequence[Path], change: EqualVariance | None = None) -> Tensor:
    """Estimate each channel's standard deviation from about 256 slices, (D, 1, 1) float32."""
    count, mean, squares = 0, 0.0, 0.0
    for path in paths[:: max(1, len(paths) // 256)]:
        grid = np.load(path)
        if change is not None:
            grid = change(load_batch([path]))[0].movedim(0, -1).numpy()
        tokens = grid.astype(np.float64).reshape(-1, grid.shape[-1])
        tokens = tokens[~np.isnan(tokens[:, 0])]
        count += len(tokens)
        mean = mean + tokens.sum(axis=0)
        squares = squares + np.square(tokens).sum(axis=0)
    variance = np.asarray(squares) / count - np.square(np.asarray(mean) / count)
    return torch.from_numpy(np.sqrt(np.maximum(variance, 0))).float()[:, None, None]


def _key(
    train_paths: Sequence[Path],
    valid_paths: Sequence[Path],
    settings: TrainingSettings,
    turned: bool,
    change: EqualVariance | None,
    epochs: int,
) -> str:
    """Key that a checkpoint must match; stored grids are named by content, so names suffice."""
    names = [[path.parent.parent.name, path.name] for path in (*train_paths, *valid_paths)]
    fields = asdict(settings)
    if settings.optimizer == "adamw":  # keeps older checkpoints valid, from before Muon
        del fields["optimizer"]
    else:  # the learning rate depends on the total number of epochs
        fields["epochs"] = epochs
    parts = [names, len(train_paths), fields, *(["turned"] if turned else [])]
    if change is not None:
        parts.append(change.digest)
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Record(Record):
    best_epoch: int
    history: list[Epoch]
    seconds: float = 0.0


def _save(
    state: TrainingState, optimizer: torch.optim.Optimizer, checkpoint: Path, key: str
) -> None:
    record = _Record(key, state.best_epoch, state.history, state.seconds)
    network = state.network.state_dict()
    write_checkpoint(checkpoint, record, optimizer, network=network, best=state.best)


def _resume(
    state: TrainingState, optimizer: torch.optim.Optimizer, checkpoint: Path, key: str
) -> None:
    """Restore a checkpoint with the same key; any other is left to be overwritten."""
    found = read_checkpoint(checkpoint, _Record, key)
    if found is None:
        return
    state.network.load_state_dict(found.group("network"))
    state.best = found.group("best")
    state.best_epoch = found.record.best_epoch
    state.history = found.record.history
    state.seconds = found.record.seconds
    found.restore(optimizer)
