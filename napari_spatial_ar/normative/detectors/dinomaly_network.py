"""The network of Dinomaly: a noisy bottleneck and a decoder of linear attention."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.errors import InputError

__all__ = ["DinomalyNetwork", "hard_mining_loss"]

_HEAD = 64
_NORM_EPS = 1e-8


class _LinearAttention(nn.Module):
    """Attention with the kernel elu + 1 in place of the softmax: linear in the patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Heads of about 64 channels, as many as divide the width.
        self.heads = next(n for n in range(max(1, width // _HEAD), 0, -1) if width % n == 0)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P, C) -> (B, P, C)."""
        batch, patches, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        with torch.autocast(tokens.device.type, enabled=False):
            query, key, value = qkv.float()
            query, key = functional.elu(query) + 1, functional.elu(key) + 1
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

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P, C) -> (B, P, C)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class DinomalyNetwork(nn.Module):
    """Reconstruct groups of encoder blocks from their noisy mean.

    Parameters
    ----------
    width : int
        C, channels of one block's tokens.
    blocks : int
        Blocks that a grid holds one after the other.
    decoder : int
        Blocks of the decoder.
    dropout : float
        Of the bottleneck, at its input, between its layers and at its output.

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
            Shallow group first.
        """
        batch, _, rows, columns = grid.shape
        stacked = grid.reshape(batch, self.settings["blocks"], -1, rows * columns)
        encoded = list(stacked.transpose(2, 3).unbind(dim=1))
        tokens = self.bottleneck(_mean(encoded))
        decoded = []
        for block in self.decoder:
            tokens = block(tokens)
            decoded.append(tokens)
        # The last block of the decoder answers the first of the encoder.
        decoded.reverse()
        return self._fused(encoded), self._fused(decoded)

    def _fused(self, tokens: list[Tensor]) -> list[Tensor]:
        ends = [len(tokens) * n // self.groups for n in range(self.groups + 1)]
        return [_mean(tokens[a:b]) for a, b in pairwise(ends)]

    def distance(self, grid: Tensor) -> Tensor:
        """Cosine distance of each patch from its reconstruction, mean of groups, (B, Hp, Wp)."""
        encoded, decoded = self(grid)
        maps = [
            1 - functional.cosine_similarity(a.float(), b.float(), dim=-1)
            for a, b in zip(encoded, decoded, strict=True)
        ]
        return _mean(maps).reshape(len(grid), *grid.shape[2:])


def _mean(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).mean(dim=0)


def hard_mining_loss(
    encoded: list[Tensor], decoded: list[Tensor], easy_share: float, factor: float = 0.1
) -> Tensor:
    """Cosine distance of whole maps, most of the gradient left to the worst patches.

    Parameters
    ----------
    encoded, decoded : list of (B, P, C)
        As `DinomalyNetwork` gives them; no gradient flows to the former.
    easy_share : float
        Share of a batch's patches, those reconstructed best, whose gradient is scaled down.
    factor : float
        By how much.

    Returns
    -------
    () float32
    """
    losses = []
    for wanted, found in zip(encoded, decoded, strict=True):
        target, guess = wanted.detach().float(), found.float()
        with torch.no_grad():
            distance = 1 - functional.cosine_similarity(target, guess, dim=-1)
            hard = max(1, round(distance.numel() * (1 - easy_share)))
            easy = (distance < distance.flatten().topk(hard).values[-1])[..., None]
        # The same values; of the easy ones only a share passes a gradient on.
        guess = torch.where(easy, factor * guess + (1 - factor) * guess.detach(), guess)
        whole = functional.cosine_similarity(target.flatten(1), guess.flatten(1), dim=1)
        losses.append((1 - whole).mean())
    return torch.stack(losses).mean()
