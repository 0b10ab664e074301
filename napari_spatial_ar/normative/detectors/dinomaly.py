"""Reconstruction of encoder features through a noisy bottleneck.

Reference: Guo et al., "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly
Detection" (CVPR 2025) and its public code. The mean of eight middle blocks goes through an MLP
with dropout and eight blocks of linear attention; two groups of four encoder blocks each are
compared, as means, with two groups of decoder outputs. Trained by StableAdamW with AMSGrad,
learning rate 2e-3 falling to 2e-4 by a cosine after 100 steps, weight decay 1e-4, gradients clipped
at 0.1; from step 1000 on, the gradients of nine in ten patches are scaled down to a tenth. The
score of a patch is its cosine distance from the reconstruction, averaged over the groups.

Defaults: the published ones, 10,000 steps of 16 slices, dropout 0.2.

Cost: 104 C^2 weights (15 million for ViT-S, a file of 60 MB), each used three times per patch and
step: 10,000 steps need a GPU. Eight blocks take eight times the space of one in the feature store.
Scoring is one pass through the decoder.

Differs from the publication: blocks are read layer-normed (published: as they are), class token
and registers do not go through the decoder (only patches are stored), slices are not cropped to
their centre (published: 448 cut to 392, which would leave the border of a scan unscored; size 392
gives the published number of patches), heatmaps are smoothed by the model's mean filter
(published: a Gaussian).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors.ar_training import precision
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning
from napari_spatial_ar.normative.detectors.grids import check_grid, present_in, walk, without_air
from napari_spatial_ar.normative.detectors.optimizers import StableAdamW
from napari_spatial_ar.normative.detectors.stepwise import (
    StepNetwork,
    StepPlan,
    heads_of,
    set_rate,
    train_in_steps,
)
from napari_spatial_ar.normative.detectors.stored import loaded
from napari_spatial_ar.normative.model_schema import Closed, Part, Size

__all__ = ["Dinomaly", "DinomalyNetwork", "hard_mining_loss"]

_NORM_EPS = 1e-8


class _LinearAttention(nn.Module):
    """Attention with the kernel elu + 1 in place of the softmax: cost linear in the patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, missing: Tensor) -> Tensor:
        """(B, P, C), and (B, P) bool of tokens that no other sees -> (B, P, C)."""
        batch, patches, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        with torch.autocast(tokens.device.type, enabled=False):
            query, key, value = qkv.float()
            query, key = functional.elu(query) + 1, functional.elu(key) + 1
            key = key.masked_fill(missing[:, None, :, None], 0.0)
            memory = key.transpose(-2, -1) @ value
            norm = query @ key.sum(dim=-2).unsqueeze(-1)
            mixed = (query @ memory) / norm
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, patches, width))
        return out


class _Block(nn.Module):
    """A transformer block with linear attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attention = _LinearAttention(width)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor, missing: Tensor) -> Tensor:
        """As `_LinearAttention`."""
        tokens = tokens + self.attention(self.norm1(tokens), missing)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class DinomalyNetwork(StepNetwork):
    """Reconstruct groups of encoder blocks from their noisy mean.

    Parameters
    ----------
    width : int
        C, channels of one block's tokens.
    blocks : int
        Number of blocks concatenated in a grid.
    decoder : int
        Number of blocks of the decoder.
    dropout : float
        Dropout of the bottleneck, at its input, between its layers and at its output.

    Raises
    ------
    InputError
        If a parameter is out of range.
    """

    def __init__(self, width: int, blocks: int, decoder: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        if min(width, blocks, decoder) < 1 or not 0 <= dropout < 1:
            raise InputError(
                "width, blocks and decoder must be at least 1 and dropout in 0..1, not "
                f"{width}, {blocks}, {decoder} and {dropout}"
            )
        self.settings: dict[str, Any] = {
            "width": width,
            "blocks": blocks,
            "decoder": decoder,
            "dropout": dropout,
        }
        self.groups = min(2, blocks, decoder)
        self.bottleneck = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.decoder = nn.ModuleList(_Block(width) for _ in range(decoder))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
                nn.init.zeros_(module.bias)

    @property
    def channels(self) -> int:
        """D, channels of a grid."""
        return int(self.settings["width"] * self.settings["blocks"])

    def forward(self, grid: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Embeddings and their reconstructions, by group.

        Parameters
        ----------
        grid : (B, D, Hp, Wp) float
            Embeddings of all blocks.

        Returns
        -------
        two lists of (B, Hp * Wp, C)
            Shallow group first; zeros where a patch was skipped.
        """
        batch, _, rows, columns = grid.shape
        missing = ~present_in(grid).flatten(1)
        stacked = without_air(grid).reshape(batch, self.settings["blocks"], -1, rows * columns)
        encoded = list(stacked.transpose(2, 3).unbind(dim=1))
        tokens = self.bottleneck(_mean(encoded))
        decoded = []
        for block in self.decoder:
            tokens = block(tokens, missing)
            decoded.append(tokens)
        # The last block of the decoder corresponds to the first of the encoder.
        decoded.reverse()
        decoded = [tokens.masked_fill(missing[..., None], 0.0) for tokens in decoded]
        return self._fused(encoded), self._fused(decoded)

    def _fused(self, tokens: list[Tensor]) -> list[Tensor]:
        ends = [len(tokens) * n // self.groups for n in range(self.groups + 1)]
        return [_mean(tokens[a:b]) for a, b in pairwise(ends)]

    def distance(self, grid: Tensor) -> Tensor:
        """Cosine distance of each patch from its reconstruction, averaged, (B, Hp, Wp)."""
        encoded, decoded = self(grid)
        maps = [
            1 - functional.cosine_similarity(a.float(), b.float(), dim=-1)
            for a, b in zip(encoded, decoded, strict=True)
        ]
        distance = _mean(maps).reshape(len(grid), *grid.shape[2:])
        return distance.masked_fill(~present_in(grid), torch.nan)


def _mean(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).mean(dim=0)


def hard_mining_loss(
    encoded: list[Tensor], decoded: list[Tensor], easy_share: float, factor: float = 0.1
) -> Tensor:
    """Cosine distance of complete maps, with most of the gradient left to the worst patches.

    Parameters
    ----------
    encoded, decoded : list of (B, P, C)
        As returned by `DinomalyNetwork`; no gradient flows to the former.
    easy_share : float
        Share of a batch's patches, those reconstructed best, whose gradient is scaled down.
    factor : float
        Scale of their gradient.

    Returns
    -------
    () float32
    """
    losses = []
    for wanted, found in zip(encoded, decoded, strict=True):
        target, guess = wanted.detach().float(), found.float()
        with torch.no_grad():
            distance = 1 - functional.cosine_similarity(target, guess, dim=-1)
            # Skipped patches are zeros in both, and pass no gradient on anyway.
            patches = int((target != 0).any(dim=-1).sum())
            distance = distance.masked_fill((target == 0).all(dim=-1), -torch.inf)
            hard = max(1, round(patches * (1 - easy_share)))
            easy = (distance < distance.flatten().topk(hard).values[-1])[..., None]
        # The values stay the same; the gradient of the easy ones is scaled down.
        guess = torch.where(easy, factor * guess + (1 - factor) * guess.detach(), guess)
        whole = functional.cosine_similarity(target.flatten(1), guess.flatten(1), dim=1)
        losses.append((1 - whole).mean())
    return torch.stack(losses).mean()


_WARM_UP = 100


_FINAL_RATE = 0.1


_EASY, _EASY_FROM = 0.9, 1000


_MAX_NORM = 0.1


class _Stored(Closed):
    width: Size
    blocks: Annotated[int, Field(ge=1, le=999)]
    decoder: Annotated[int, Field(ge=1, le=999)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Dinomaly(Detector):
    """Cosine distance of each patch from its reconstruction."""

    name: ClassVar[str] = "dinomaly"
    stored: ClassVar[type[Part]] = _Stored
    unit: ClassVar[str] = "cosine distance"
    summary: ClassVar[str] = "how badly a patch is reconstructed through a noisy bottleneck"
    meaning: ClassVar[str] = (
        "How far the patch is from its reconstruction by a decoder trained on normal slices "
        "only: 0 is a perfect reconstruction, 1 unrelated."
    )
    reference: ClassVar[str] = "Dinomaly (Guo et al., CVPR 2025)"
    cost: ClassVar[str] = (
        "10,000 training steps need a GPU; a file of 60 MB, features of eight blocks to store"
    )

    def __init__(self, network: DinomalyNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def default_layers(cls, depth: int) -> tuple[int, ...] | None:
        """Eight middle blocks, 3 to 10 of 12; see `Detector.default_layers`."""
        if depth < 12:
            return tuple(range(1, depth + 1))[-8:]
        step = depth // 12
        return tuple(range(2 * step + 1, 10 * step + 1, step))

    @classmethod
    def learn(
        cls,
        grids: Sequence[Tensor],
        setup: FitContext,
        *,
        iterations: int = 10_000,
        batch_size: int = 16,
        learning_rate: float = 2e-3,
        decoder: int = 8,
        dropout: float = 0.2,
    ) -> Learning[Dinomaly]:
        """Train the decoder, or resume from a checkpoint; see `Detector.learn`.

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
        decoder : int, at least 1
            Blocks of the network that reconstructs.
        dropout : float, at least 0 and below 1
            Share of the bottleneck that is zeroed in training.
        """
        channels = next(iter(walk(grids))).shape[1]
        if channels % setup.blocks:
            raise InputError(f"{channels} channels do not divide into {setup.blocks} blocks")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed)
            network = DinomalyNetwork(channels // setup.blocks, setup.blocks, decoder, dropout)
        network.to(setup.device)
        optimizer = StableAdamW(network.parameters(), lr=learning_rate)

        def gradients(batch: Tensor, step: int) -> float:
            set_rate(optimizer, learning_rate * _rate(step, iterations))
            return _gradients(network, optimizer, batch.to(setup.device), step)

        plan = StepPlan(iterations, batch_size, learning_rate)
        outcome = yield from train_in_steps(network, optimizer, gradients, grids, setup, plan)
        summary = {"optimizer": "StableAdamW", **outcome}
        return Learned(cls(network), summary)

    @classmethod
    def passes(cls, options: Mapping[str, Any], train: int, valid: int = 0) -> int:
        """Count the slices of all iterations; see `Detector.passes`."""
        return int(options["iterations"] * options["batch_size"])

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the distance already."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """Mean cosine distance over the groups; see `Detector.score`."""
        return self.network.distance(check_grid(grid, self.network.channels).float()).clamp_min(0)

    def parameters(self) -> dict[str, Any]:
        """Return the arguments of `DinomalyNetwork`."""
        return dict(self.network.settings)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights of the network."""
        return {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}

    @classmethod
    def from_tensors(cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]) -> Dinomaly:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        return cls(loaded(lambda: DinomalyNetwork(**parameters), tensors))

    def to(self, device: torch.device) -> Dinomaly:
        """Move its tensors to a device, in place."""
        self.network.to(device)
        return self


def _rate(step: int, steps: int) -> float:
    """Learning rate of a step, relative to the highest: a warm-up, then half a cosine."""
    if step < _WARM_UP:
        return step / _WARM_UP
    along = (step - _WARM_UP) / max(1, steps - _WARM_UP)
    return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * along)) / 2


def _gradients(network: DinomalyNetwork, optimizer: StableAdamW, batch: Tensor, step: int) -> float:
    """Gradients of a batch's loss, clipped."""
    with precision(batch.device):
        encoded, decoded = network(batch)
        loss = hard_mining_loss(encoded, decoded, _EASY * min(1.0, step / _EASY_FROM))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), _MAX_NORM)
    return loss.item()
