"""Reconstruction of embeddings by a U-shaped transformer.

Reference: Chen, You, Zhang, Xiong and Ding, "UTRAD: Anomaly detection and localization with
U-Transformer" (Neural Networks 147, 2022, pp. 53-62) and its public code. Patches are tokens. At
each of several levels, a transformer encoder attends within windows of 4 x 4 tokens and one
further token, whose output summarises the window and is a token of the next level, until one
token is left. Going back, a transformer decoder turns learned queries into the tokens of a window:
it attends to the window's summary and, by skip connection, to the encoder's tokens, which pass a
bottleneck of a quarter of their channels. A linear layer gives the reconstruction, a small network
on the detached tokens the error to expect of it. Both are trained by mean square error, the latter
on the error of the former. The score of a patch is the error of its reconstruction divided by the
expected one.

Published: 3 levels, 4 blocks of 512 channels in each encoder and decoder, dropout 0.1; Adam with
learning rate 1e-4 and momentum 0.5, batches of 2, 150 epochs. Defaults here are for a CPU: blocks
and channels are halved, and training takes 100 steps of 4 slices at a rate that rises to 1e-3 and
falls to zero along a cosine. Longer training did worse: in one run of 800 steps of 2 slices, the
pixel AUPR on every second slice of brain_flair's validation split was 0.16 after 200 steps, 0.06
after 400 and 0.04 after 600.

Cost: with 2 blocks of 256 channels, 12 million weights (a file of 47 MB) and, on a grid of 32 x 32,
4 billion products a slice; three times as many in training.

Differs from the publication: features are patch embeddings of a vision transformer, all of one
scale (published: blocks 1 to 3 of ResNet-18, concatenated at 64 x 64). The number of levels depends
on the size of the grid, which is padded to whole windows: padding, as patches of skipped air, is
seen by no token. Positions in the slice and in a window are learned (published, according to the
code: random and not trained). Normalisation is by token (published: of the expected error, by
batch, which is not possible if a batch is split for lack of memory). The last weights are kept
(published: those with the lowest training loss). Heatmaps are smoothed by the model's mean filter
(published: the mean of four maps, averaged over 1, 4, 16 and 64 tokens).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors.ar_training import precision
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning
from napari_spatial_ar.normative.detectors.explanation import Explanation, Quantity
from napari_spatial_ar.normative.detectors.grids import (
    check_grid,
    count_present,
    present_in,
    walk,
    without_air,
)
from napari_spatial_ar.normative.detectors.stepwise import (
    StepNetwork,
    StepPlan,
    heads_of,
    set_rate,
    train_in_steps,
)
from napari_spatial_ar.normative.detectors.stored import loaded
from napari_spatial_ar.normative.memory import Portions
from napari_spatial_ar.normative.model_schema import Closed, Part, Size

__all__ = ["Utrad", "UtradNetwork"]

#: Side of a window, in tokens.
_SIDE = 4

_INITIAL_STD = 0.02

# Channels below which a layer norm leaves little of a token.
_NARROWEST = 8

# Expected errors are at least this.
_LEAST = 1e-3


class _Level(nn.Module):
    """Encoder and decoder of windows of tokens at one scale."""

    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        shape: dict[str, Any] = {
            "d_model": width,
            "nhead": heads_of(width),
            "dim_feedforward": 4 * width,
            "dropout": dropout,
            "activation": "gelu",
            "batch_first": True,
        }
        tokens = _SIDE * _SIDE
        self.position = nn.Parameter(torch.empty(tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**shape),
            depth,
            nn.LayerNorm(width),
            enable_nested_tensor=False,
        )
        narrow = max(_NARROWEST, width // 4)
        self.bottleneck = nn.Sequential(
            nn.Linear(width, narrow),
            nn.LayerNorm(narrow),
            nn.GELU(),
            nn.Linear(narrow, width),
            nn.LayerNorm(width),
        )
        self.queries = nn.Parameter(torch.empty(tokens, width))
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(**shape), depth, nn.LayerNorm(width)
        )

    def encode(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Summarise windows.

        Parameters
        ----------
        tokens : (N, 16, C) float
            Windows.
        hidden : (N, 16) bool
            Tokens that no other sees.

        Returns
        -------
        (N, C) and (N, 16, C)
            The summaries, and the tokens of the skip connection.
        """
        tokens = self.dropout(tokens + self.position)
        start = tokens.new_zeros(len(tokens), 1, tokens.shape[2])
        encoded = self.encoder(
            torch.cat([start, tokens], dim=1), src_key_padding_mask=_with_summary(hidden)
        )
        return encoded[:, 0], self.bottleneck(encoded[:, 1:])

    def decode(self, summaries: Tensor, skipped: Tensor, hidden: Tensor) -> Tensor:
        """Inverse of `encode`: (N, C), (N, 16, C) and (N, 16) to (N, 16, C)."""
        decoded: Tensor = self.decoder(
            self.queries.expand(len(summaries), -1, -1),
            torch.cat([summaries[:, None], skipped], dim=1),
            tgt_key_padding_mask=hidden,
            memory_key_padding_mask=_with_summary(hidden),
        )
        return decoded


def _with_summary(hidden: Tensor) -> Tensor:
    """Prepend a summary, which is always seen, to (N, 16) bool."""
    return functional.pad(hidden, (1, 0), value=False)


class UtradNetwork(StepNetwork):
    """Reconstruct embeddings through a pyramid of windows.

    Parameters
    ----------
    channels : int
        D, channels of a grid.
    rows, columns : int
        Size of the grids trained on; positions are interpolated for others.
    width : int
        C, channels of a token.
    depth : int
        Blocks of each encoder and of each decoder.
    dropout : float
        Dropout of positions, attention and feed-forward layers.

    Raises
    ------
    InputError
        If a parameter is out of range.
    """

    def __init__(
        self,
        channels: int,
        rows: int,
        columns: int,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if min(channels, rows, columns, width, depth) < 1 or not 0 <= dropout < 1:
            raise InputError(
                "channels, rows, columns, width and depth must be at least 1 and dropout in "
                f"0..1, not {channels}, {rows}, {columns}, {width}, {depth} and {dropout}"
            )
        self.settings = {
            "channels": channels,
            "rows": rows,
            "columns": columns,
            "width": width,
            "depth": depth,
            "dropout": dropout,
        }
        self.enter = nn.Linear(channels, width, bias=False)
        self.position = nn.Parameter(torch.empty(1, width, rows, columns))
        self.dropout = nn.Dropout(dropout)
        self.levels = nn.ModuleList(
            _Level(width, depth, dropout) for _ in range(_levels(max(rows, columns)))
        )
        self.leave = nn.Linear(width, channels, bias=False)
        self.expected = _head(width)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("position", "queries")):
                nn.init.normal_(parameter)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.MultiheadAttention):
                # Blocks are copies of one another until here.
                nn.init.xavier_uniform_(module.in_proj_weight)

    @property
    def channels(self) -> int:
        """D, channels of a grid."""
        return int(self.settings["channels"])

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct embeddings.

        Parameters
        ----------
        grid : (B, D, Hp, Wp) float
            Embeddings.

        Returns
        -------
        (B, Hp, Wp, D) and (B, Hp, Wp)
            The reconstruction, and its expected error as root mean square over channels.
            Meaningless where a patch was skipped.
        """
        hidden = ~present_in(grid)
        levels = cast("list[_Level]", list(self.levels))
        position: Tensor = self.position
        if position.shape[2:] != grid.shape[2:]:
            position = functional.interpolate(
                position, size=grid.shape[2:], mode="bilinear", align_corners=False
            )
        tokens = self.enter(without_air(grid).movedim(1, -1)) + position.movedim(1, -1)
        tokens = self.dropout(tokens)
        passed = []
        for level in levels:
            shape = tokens.shape[1:3]
            windows, unseen = _cut(tokens, 0.0), _cut(hidden, True)
            hidden = unseen.all(dim=-1)
            # Nothing is asked of a window of air alone, but attention needs something to see.
            unseen = (unseen & ~hidden[..., None]).flatten(0, 2)
            used = _used(hidden)
            summaries, skipped = level.encode(windows.flatten(0, 2)[used], unseen[used])
            passed.append((skipped, unseen[used], used, shape))
            tokens = _spread(summaries, used, hidden.shape)
        for level, (skipped, unseen, used, (rows, columns)) in zip(
            reversed(levels), reversed(passed), strict=True
        ):
            windows = level.decode(tokens.flatten(0, 2)[used], skipped, unseen)
            tokens = _joined(_spread(windows, used, tokens.shape[:3]))[:, :rows, :columns]
        return self.leave(tokens), self.expected(tokens.detach())[..., 0]

    def errors(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Error of each patch's reconstruction, and the expected one, (B, Hp, Wp) float32.

        Both as root mean square over the channels; skipped patches have the errors of others.
        """
        rebuilt, expected = self(grid)
        error = (rebuilt.float() - without_air(grid).movedim(1, -1)).square().mean(dim=-1).sqrt()
        return error, expected.float()


def _levels(side: int) -> int:
    """Count levels until one token is left of a side; at least one."""
    count = 1
    while (side := -(-side // _SIDE)) > 1:
        count += 1
    return count


def _head(width: int) -> nn.Sequential:
    """Layers from C channels by way of C, C / 2, C / 4 and C / 8 (at least 8) to one."""
    layers: list[nn.Module] = []
    before = width
    for part in (1, 2, 4, 8):
        after = max(_NARROWEST, width // part)
        layers += [nn.Linear(before, after, bias=False), nn.LayerNorm(after), nn.LeakyReLU(0.2)]
        before = after
    return nn.Sequential(*layers, nn.Linear(before, 1, bias=False))


def _cut(grid: Tensor, value: float) -> Tensor:
    """(B, H, W, ...) to windows (B, P, Q, 16, ...), padded by a value."""
    rows, columns = (-side % _SIDE for side in grid.shape[1:3])
    beyond = [0, 0] * (grid.ndim - 3) + [0, columns, 0, rows]
    padded = functional.pad(grid, beyond, value=value)
    batch, high, wide, *rest = padded.shape
    split = padded.reshape(batch, high // _SIDE, _SIDE, wide // _SIDE, _SIDE, *rest)
    return split.transpose(2, 3).flatten(3, 4)


def _joined(windows: Tensor) -> Tensor:
    """Inverse of `_cut`, (B, P, Q, 16, C) to (B, H, W, C)."""
    batch, down, across, _, width = windows.shape
    split = windows.reshape(batch, down, across, _SIDE, _SIDE, width).transpose(2, 3)
    return split.reshape(batch, down * _SIDE, across * _SIDE, width)


def _used(empty: Tensor) -> Tensor | slice:
    """Places of the windows to compute, (B, P, Q) bool to (n,) int64 or all.

    Windows of air alone cost time on a CPU; elsewhere no value decides on what is computed.
    """
    if empty.device.type != "cpu" or empty.all() or not empty.any():
        return slice(None)
    return (~empty.flatten()).nonzero()[:, 0]


def _spread(values: Tensor, used: Tensor | slice, shape: Sequence[int]) -> Tensor:
    """Return windows (n, ...) to their places, (B, P, Q, ...) for (B, P, Q); zeros elsewhere."""
    if isinstance(used, Tensor):
        everywhere = values.new_zeros(math.prod(shape), *values.shape[1:])
        values = everywhere.index_copy(0, used, values)
    return values.reshape(*shape, *values.shape[1:])


class _Stored(Closed):
    channels: Size
    rows: Size
    columns: Size
    width: Size
    depth: Annotated[int, Field(ge=1, le=999)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Utrad(Detector):
    """Error of each patch's reconstruction, relative to the expected one."""

    name: ClassVar[str] = "utrad"
    stored: ClassVar[type[Part]] = _Stored
    title: ClassVar[str] = "UTRAD"
    unit: ClassVar[str] = "times expected"
    summary: ClassVar[str] = "how badly a patch is reconstructed by a U-shaped transformer"
    meaning: ClassVar[str] = (
        "The error of the patch's reconstruction by a transformer trained on normal slices only, "
        "relative to the error expected of a normal patch at this place: 1 is usual."
    )
    reference: ClassVar[str] = "UTRAD (Chen et al., Neural Networks 2022)"
    cost: ClassVar[str] = "a minute or two of training on a CPU; a file of 47 MB"

    def __init__(self, network: UtradNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def learn(
        cls,
        grids: Sequence[Tensor],
        setup: FitContext,
        *,
        iterations: int = 100,
        batch_size: int = 4,
        learning_rate: float = 1e-3,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.1,
    ) -> Learning[Utrad]:
        """Train the network, or resume from a checkpoint; see `Detector.learn`.

        Parameters
        ----------
        grids, setup
            As for every detector.
        iterations : int, at least 1
            Training steps.
        batch_size : int, at least 1
            Slices per training step.
        learning_rate : float, above 0
            Highest learning rate of the training.
        width : int, at least 1
            Channels of a token inside the network.
        depth : int, at least 1
            Transformer blocks of each encoder and each decoder.
        dropout : float, at least 0 and below 1
            Share of the network's activations that is zeroed in training.
        """
        channels, rows, columns = next(iter(walk(grids))).shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed)
            network = UtradNetwork(channels, rows, columns, width, depth, dropout)
        network.to(setup.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.5, 0.999))
        portions = Portions("Training")

        def gradients(batch: Tensor, step: int) -> float:
            set_rate(optimizer, learning_rate * _rate(step, iterations))
            return portions(
                len(batch), setup.device, partial(_gradients, network, optimizer, batch, setup)
            )

        plan = StepPlan(iterations, batch_size, learning_rate)
        outcome = yield from train_in_steps(
            network, optimizer, gradients, grids, setup, plan, portions.noted
        )
        summary = {"optimizer": "Adam", "warnings": portions.warnings, **outcome}
        return Learned(cls(network), summary)

    @classmethod
    def passes(cls, options: Mapping[str, Any], train: int, valid: int = 0) -> int:
        """Count the slices of all iterations; see `Detector.passes`."""
        return int(options["iterations"] * options["batch_size"])

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the score itself."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """Error relative to the expected one; see `Detector.score`."""
        grid = check_grid(grid, self.network.channels).float()
        error, expected = self.network.errors(grid)
        score = error / expected.abs().clamp_min(_LEAST)
        return score.masked_fill(~present_in(grid), torch.nan)

    @torch.inference_mode()
    def explain(self, grid: Tensor, row: int, column: int) -> Explanation:
        """See `Detector.explain`; adds the error and the expected one."""
        explanation = super().explain(grid, row, column)
        found = (float(each[0, row, column]) for each in self.network.errors(grid.float()))
        names = ("Error of the reconstruction", "Expected error")
        errors = [
            Quantity(name, value, "root mean square")
            for name, value in zip(names, found, strict=True)
        ]
        return Explanation(explanation.meaning, (*explanation.quantities, *errors))

    def parameters(self) -> dict[str, Any]:
        """Return the arguments of `UtradNetwork`."""
        return dict(self.network.settings)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights of the network."""
        return {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}

    @classmethod
    def from_tensors(cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]) -> Utrad:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        return cls(loaded(lambda: UtradNetwork(**parameters), tensors))

    def to(self, device: torch.device) -> Utrad:
        """Move its tensors to a device, in place."""
        self.network.to(device)
        return self


def _rate(step: int, steps: int) -> float:
    """Learning rate of a step, relative to the highest: a warm-up, then half a cosine to zero."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def _gradients(
    network: UtradNetwork,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    setup: FitContext,
    size: int,
) -> float:
    """Accumulate the gradients of a batch's losses, ``size`` slices at a time."""
    optimizer.zero_grad(set_to_none=True)
    patches, total = max(1, count_present(batch)), 0.0
    for part in torch.split(batch, size):
        grid = part.to(setup.device)
        with precision(setup.device):
            rebuilt, expected = network(grid)
        wanted, there = without_air(grid).movedim(1, -1), present_in(grid)
        square = (rebuilt.float() - wanted).square().mean(dim=-1)
        off = (expected.float() - square.detach().sqrt()).square()
        loss = ((square + off) * there).sum() / patches
        loss.backward()
        total += float((square * there).sum().detach()) / patches
    return total
