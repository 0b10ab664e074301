"""Which tokens of a batch go through the backbone when patches of air are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KeptTokens", "kept_length", "same_length"]

# A batch keeps one of this many numbers of tokens: engines build a network, or a graph, for each.
_LENGTHS = 16


def kept_length(present: int, patches: int) -> int:
    """Count the tokens kept of a slice: those with body, up to the next sixteenth of the grid.

    The rest of that sixteenth is air, so no attention mask is needed. The number depends only on
    the slice, so its embedding is the same alone and in a batch.

    Parameters
    ----------
    present : int
        Patches with body.
    patches : int
        Hp * Wp.
    """
    steps = max(1, -(-present * _LENGTHS // patches))
    return min(patches, -(-steps * patches // _LENGTHS))


@dataclass(frozen=True)
class KeptTokens:
    """Tokens kept of each slice of a batch.

    Parameters
    ----------
    present : (B, Hp, Wp) bool
        Patches with body, which get an embedding.
    index : (B, L) int64
        Which patches are kept, counted in raster order: those with body first, then air.
    """

    present: Tensor
    index: Tensor

    @classmethod
    def of(cls, present: Tensor) -> KeptTokens:
        """Keep the patches with body of slices of one `kept_length`, (B, Hp, Wp) bool."""
        flat = present.flatten(1)
        length = kept_length(int(flat[0].sum()), flat.shape[1])
        # False sorts before True, and a stable sort leaves each part in raster order.
        index = (~flat).to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
        return cls(present, index)

    def to(self, device: torch.device) -> KeptTokens:
        """Give the same on a device."""
        return KeptTokens(self.present.to(device), self.index.to(device))

    def grid(self, tokens: Tensor) -> Tensor:
        """Put the grid together again.

        Parameters
        ----------
        tokens : (B, L, D) float
            Embeddings of the tokens kept.

        Returns
        -------
        (B, D, Hp, Wp), same dtype
            NaN where a patch shows air.
        """
        batch, rows, columns = self.present.shape
        grid = tokens.new_full((batch, rows * columns, tokens.shape[2]), torch.nan)
        grid.scatter_(1, self.index[..., None].expand_as(tokens), tokens)
        grid.masked_fill_(~self.present.flatten(1)[..., None], torch.nan)
        return grid.transpose(1, 2).reshape(batch, -1, rows, columns)


def same_length(present: Tensor) -> Iterator[Tensor]:
    """Split slices (B, Hp, Wp) bool by their `kept_length`: places in the batch, (n,) int64."""
    flat = present.flatten(1)
    lengths = torch.tensor([kept_length(int(n), flat.shape[1]) for n in flat.sum(dim=1)])
    for length in sorted(set(lengths.tolist())):
        yield (lengths == length).nonzero()[:, 0]
