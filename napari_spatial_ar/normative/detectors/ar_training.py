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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from napari_spatial_ar.imaging.files import atomic_path
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.normative.backbones.devices import native_bfloat16
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
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

# Of a card's free memory, that stored grids may fill.
_SHARE = 0.5


class LoadedGrids:
    """Stored grids as a training takes them, kept on a graphics card where there is room.

    Read from the disk again and again they would starve it: a step takes it milliseconds.

    Parameters
    ----------
    paths : sequence of Path
        Stored grids of one shape.
    device : torch.device
        Where the training is.
    turned : bool
        Whether to give them turned by 180 degrees.
    change : EqualVariance, optional
        What to make of them; they are kept as they are stored, in half the memory.
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
            self._kept = kept.movedim(3, 1)  # channels first to the eye, last in memory
        self._change = None if change is None else change.to(self.device)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def device(self) -> torch.device:
        """Where `batch` gives them."""
        return torch.device("cpu") if self._kept is None else self._kept.device

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Give some of them, (B, D, Hp, Wp) float32."""
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
    """Turn (..., Hp, Wp) by 180 degrees, which is undone by turning once more."""
    return grid.flip(-2, -1)


OptimizerName = Literal["adamw", "muon"]


_METADATA_KEY = "napari-spatial-ar-checkpoint"


# Of Muon's steps, one in so many passes before its learning rate is reached.
_WARM_UP_PART = 10


# Seconds of work that a stop may cost on a card.
_BETWEEN_SAVES = 2.0


@dataclass(frozen=True)
class TrainingSettings:
    """How the network is trained; the defaults are the paper's.

    Parameters
    ----------
    network : dict
        Arguments of `SpatialAR`.
    seed : int
        Of the initial weights, the order of slices and the noise.
    batch_size : int
        Slices a step.
    learning_rate : float
        Of the optimizer: AdamW's is constant, Muon's the highest.
    noise_share : float
        Share of batches whose embeddings get Gaussian noise.
    noise_scale : float
        Its standard deviation, in units of each channel's own (after the change of grids).
    optimizer : {"adamw", "muon"}
        What steps along the gradients. Muon's learning rate rises over the first tenth of the
        steps and falls along a cosine to the end, where its weights are the best.
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
    """Mean losses of one pass over the slices, in nats per dimension."""

    train_nll: float
    valid_nll: float


@dataclass
class TrainingState:
    """Where training stands.

    ``batches_done`` counts within the running epoch. ``history`` holds the finished epochs and
    ``best_epoch`` the index of the one with the lowest validation NLL (-1 before the first).
    ``seconds`` is the time that the finished epochs took, those before a stop included;
    ``portions`` says how many slices of a batch are computed at once.
    """

    network: SpatialAR
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    best: dict[str, Tensor] = field(default_factory=dict)
    batches_done: int = 0
    seconds: float = 0.0
    portions: Portions = field(default_factory=lambda: Portions("Training"))

    def stale(self, patience: int) -> bool:
        """Whether the last ``patience`` epochs brought nothing better; never with 0."""
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
    """Train until ``epochs`` epochs are done or it stops improving; stop iterating to cancel.

    A checkpoint is written after each epoch, on a graphics card after those that end two
    seconds or more after the last. Where one for the same slices and settings exists,
    training goes on from it, and ends with the same weights as if it had never stopped: the
    order of slices and the noise of an epoch depend on the seed and the epoch alone.

    Parameters
    ----------
    train_paths, valid_paths : sequence of Path
        Stored grids; both of normal slices.
    settings : TrainingSettings
        How.
    epochs : int
        How many in all, those in the checkpoint included. With Muon, a checkpoint of another
        number of epochs is not gone on from.
    checkpoint : Path
        Safetensors file.
    device : torch.device
        Where.
    turned : bool
        Whether to turn the grids by 180 degrees, so that the raster runs backwards.
    patience : int
        Epochs without a better validation NLL after which to end; 0 to go through all of them.
    change : EqualVariance, optional
        What is made of the grids before the network and the noise; by default nothing.

    Yields
    ------
    TrainingState
        After each step and each epoch; the same object, updated.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = SpatialAR(**settings.network)
    network.to(device)
    # On Apple's GPUs torch had wrong gradients for weights that lie so in memory.
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
                # Drawn where it is needed: a processor takes longer for it than a card for a step.
                generator = torch.Generator(grid.device).manual_seed(noise_seed)
                noise = torch.empty_like(grid).normal_(generator=generator)
                grid = grid + noise_std * noise
            step = partial(_gradients, network, optimizer, grid)
            if settings.optimizer == "muon":
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
        # An epoch may take a card less than writing it down.
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
    """Share of the highest learning rate for the step after so many of all."""
    warm_up = max(1, steps // _WARM_UP_PART)
    if done < warm_up:
        return (done + 1) / warm_up
    return (1 + math.cos(math.pi * (done - warm_up) / max(1, steps - warm_up))) / 2


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 products where the device has them; losses and weights stay float32.

    So weights trained with the same seed depend on the machine, as they do on the number of its
    threads; `products` says it in the model file.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=native_bfloat16(device))


def products(device: torch.device) -> str:
    """Name of what products are computed in under `precision`."""
    return "bfloat16" if native_bfloat16(device) else "float32"


def _gradients(
    network: SpatialAR, optimizer: torch.optim.Optimizer, grid: Tensor, size: int
) -> float:
    """Put the gradients of a batch's mean loss in place, ``size`` slices at a time.

    However small the portions, the sum is that of the whole batch, up to rounding.
    """
    optimizer.zero_grad(set_to_none=True)
    total, device = 0.0, next(network.parameters()).device
    for part in torch.split(grid, size):
        with precision(device):
            loss = network.nll(_laid_out(part.to(device))).mean() / network.channels
        loss = loss * (len(part) / len(grid))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _laid_out(grid: Tensor) -> Tensor:
    """Channels first in memory on Apple's GPUs, as their convolutions want it; else as it is."""
    return grid.contiguous() if grid.device.type == "mps" else grid


def mean_nll(network: SpatialAR, grids: LoadedGrids, portions: Portions | None = None) -> float:
    """Mean NLL of stored grids, in nats per dimension."""
    count, device = len(grids), next(network.parameters()).device

    def summed(size: int) -> float:
        parts = (range(n, min(n + size, count)) for n in range(0, count, size))
        with torch.inference_mode(), precision(device):
            loaded = (grids.batch(part).to(device) for part in parts)
            return sum(network.nll(_laid_out(grid)).mean().item() * len(grid) for grid in loaded)

    # Portions of 16, where there is room for so many.
    total = (portions or Portions("Validation"))(min(16, count), device, summed)
    return total / count / network.channels


def _batches(
    count: int, epoch: int, settings: TrainingSettings
) -> Iterator[tuple[list[int], int | None]]:
    """Give the slices of each step of an epoch, and the seed of its noise if it gets any."""
    rng = np.random.default_rng([settings.seed, epoch])
    order = rng.permutation(count)
    for start in range(0, count, settings.batch_size):
        noisy = rng.random() < settings.noise_share
        seed = int(rng.integers(2**31))
        yield order[start : start + settings.batch_size].tolist(), seed if noisy else None


def _channel_std(paths: Sequence[Path], change: EqualVariance | None = None) -> Tensor:
    """Measure each channel's standard deviation over some 256 slices, (D, 1, 1) float32."""
    count, mean, squares = 0, 0.0, 0.0
    for path in paths[:: max(1, len(paths) // 256)]:
        grid = np.load(path)
        if change is not None:
            grid = change(load_batch([path]))[0].movedim(0, -1).numpy()
        tokens = grid.astype(np.float64).reshape(-1, grid.shape[-1])
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
    """Name what a checkpoint must match; stored grids are named by content, so names do."""
    names = [[path.parent.parent.name, path.name] for path in (*train_paths, *valid_paths)]
    told = asdict(settings)
    if settings.optimizer == "adamw":  # checkpoints of before there was another
        del told["optimizer"]
    else:  # the learning rate depends on how many there will be
        told["epochs"] = epochs
    parts = [names, len(train_paths), told, *(["turned"] if turned else [])]
    if change is not None:
        parts.append(change.digest)
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _save(
    state: TrainingState, optimizer: torch.optim.Optimizer, checkpoint: Path, key: str
) -> None:
    tensors = {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in state.best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    record = {
        "key": key,
        "best_epoch": state.best_epoch,
        "history": [asdict(epoch) for epoch in state.history],
        "seconds": state.seconds,
    }
    data = save(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        metadata={_METADATA_KEY: json.dumps(record)},
    )
    with atomic_path(checkpoint) as temporary:
        temporary.write_bytes(data)


def _resume(
    state: TrainingState, optimizer: torch.optim.Optimizer, checkpoint: Path, key: str
) -> None:
    """Take up a checkpoint made with the same key; any other is left to be overwritten."""
    if not checkpoint.is_file():
        return
    try:
        with safe_open(checkpoint, "pt") as file:
            record = parse_json((file.metadata() or {}).get(_METADATA_KEY, "{}"))
        if not isinstance(record, dict) or record.get("key") != key:
            return
        tensors = load_file(checkpoint)
    except (SafetensorError, OSError, ValueError):
        return
    state.network.load_state_dict(_under("network.", tensors))
    state.best = _under("best.", tensors)
    state.best_epoch = record["best_epoch"]
    state.history = [Epoch(**epoch) for epoch in record["history"]]
    state.seconds = record.get("seconds", 0.0)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, moment = name.split(".")
        moments.setdefault(int(index), {})[moment] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
