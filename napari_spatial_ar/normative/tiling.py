"""Slices far larger than what the backbone is shown at once, embedded tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.preprocessing import Preprocessing

if TYPE_CHECKING:
    from napari_spatial_ar.normative.backbones.backbone import Backbone

__all__ = ["Tiling", "embed_slice"]

# Embedded at once: more are no faster on a CPU, and fill the memory.
_TOGETHER = 8


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of a slice lie on its grid of patches; one tile where it is not cut.

    Parameters
    ----------
    grid : (int, int)
        Hp and Wp, patches of the slice.
    side : (int, int)
        Patches of a tile.
    offsets : tuple of (int, int)
        First row and column of each tile, in patches.
    """

    grid: tuple[int, int]
    side: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, preprocessing: Preprocessing, patch: int) -> Tiling:
        """Lay tiles evenly over a slice, each over half of the one before it or more.

        Parameters
        ----------
        preprocessing : Preprocessing
            With the sizes in pixels.
        patch : int
            Side of a patch in pixels.

        Raises
        ------
        InputError
            If a size does not divide into patches, or tiles do not fit the slice.
        """
        rows, columns = (_patches("size", n, patch) for n in preprocessing.size)
        if not preprocessing.tile:
            return cls((rows, columns), (rows, columns), ((0, 0),))
        side = _patches("tile", preprocessing.tile, patch)
        smallest, largest = sorted((rows, columns))
        # Half of a tile must be a patch at least.
        if side < 2 or side > smallest or side == largest:
            most = smallest if smallest < largest else smallest - 1
            raise InputError(
                f"tiles of {side * patch} pixels cannot be cut from slices of {rows * patch} x "
                f"{columns * patch}, half of each over the next",
                fix=f"Choose a tile from {2 * patch} to {most * patch} pixels, or a larger size"
                if most >= 2
                else f"Leave the tile out, or choose a size from {3 * patch} pixels on",
            )
        offsets = tuple(product(_starts(rows, side), _starts(columns, side)))
        return cls((rows, columns), (side, side), offsets)

    def __len__(self) -> int:
        return len(self.offsets)

    def cut(self, whole: Tensor, patch: int = 1) -> Tensor:
        """Cut tiles.

        Parameters
        ----------
        whole : (..., Hp * patch, Wp * patch)
            A picture, or with a ``patch`` of 1 something with a value a patch.
        patch : int
            Side of a patch.

        Returns
        -------
        (T, ..., h * patch, w * patch)
        """
        rows, columns = (n * patch for n in self.side)
        return torch.stack(
            [
                whole.narrow(-2, row * patch, rows).narrow(-1, column * patch, columns)
                for row, column in self.offsets
            ]
        )

    def join(self, tiles: Tensor) -> Tensor:
        """Put scores of tiles (T, h, w) together, (Hp, Wp): their mean where tiles overlap."""
        rows, columns = self.side
        total, count = tiles.new_zeros(self.grid), tiles.new_zeros(self.grid)
        for tile, (row, column) in zip(tiles, self.offsets, strict=True):
            total[row : row + rows, column : column + columns] += tile
            count[row : row + rows, column : column + columns] += 1
        mean: Tensor = total / count
        return mean


def embed_slice(
    backbone: Backbone, preprocessing: Preprocessing, unit: npt.NDArray[np.float32]
) -> Tensor:
    """Embed a windowed slice.

    Parameters
    ----------
    backbone, preprocessing
        Of the model.
    unit : (rows, columns) float32
        Grey values in 0..1.

    Returns
    -------
    (T, D, h, w) float32
        The grid of each tile; of the slice, T being 1, where it is not cut.

    Raises
    ------
    InputError
        If the sizes do not fit the backbone, see `Tiling.of`.
    """
    tiles = Tiling.of(preprocessing, backbone.patch).cut(preprocessing(unit), backbone.patch)
    starts = range(0, len(tiles), _TOGETHER)
    return torch.cat([backbone.embed(tiles[n : n + _TOGETHER]) for n in starts])


def _patches(what: str, pixels: int, patch: int) -> int:
    if pixels < patch or pixels % patch:
        below = pixels // patch * patch
        near = [str(n) for n in (below, below + patch) if n > 0]
        raise InputError(
            f"a {what} of {pixels} pixels does not divide into patches of {patch}",
            fix=f"Choose a multiple, such as {' or '.join(near)}",
        )
    return pixels // patch


def _starts(patches: int, side: int) -> list[int]:
    """First patches of the tiles along an axis."""
    count = math.ceil((patches - side) / (side // 2)) + 1
    return [round(n * (patches - side) / max(1, count - 1)) for n in range(count)]
