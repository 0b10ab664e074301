"""Slices much larger than the input of the backbone, embedded tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError, WeightsError
from napari_spatial_ar.normative.preprocessing import Preprocessing

if TYPE_CHECKING:
    from napari_spatial_ar.normative.backbones.backbone import Backbone

__all__ = ["Tiling", "check_finite", "embed_slice"]

# Tiles embedded together: more are no faster on a CPU, and need more memory.
_TOGETHER = 8


@dataclass(frozen=True)
class Tiling:
    """Positions of the tiles of a slice on its grid of patches; one tile if it is not tiled.

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
        """Spread tiles evenly over a slice, each overlapping the previous one by at least half.

        Parameters
        ----------
        preprocessing : Preprocessing
            Has the sizes in pixels.
        patch : int
            Side of a patch in pixels.

        Raises
        ------
        InputError
            If a size does not divide into patches, or tiles do not match the slice.
        """
        rows, columns = (_patches("size", n, patch) for n in preprocessing.size)
        if not preprocessing.tile:
            return cls((rows, columns), (rows, columns), ((0, 0),))
        side = _patches("tile", preprocessing.tile, patch)
        smallest, largest = sorted((rows, columns))
        # Half a tile must be at least one patch.
        if side < 2 or side > smallest or side == largest:
            most = smallest if smallest < largest else smallest - 1
            raise InputError(
                f"slices of {rows * patch} x {columns * patch} pixels cannot be cut into tiles of "
                f"{side * patch} that overlap by half",
                fix=f"Choose a tile from {2 * patch} to {most * patch} pixels, or a larger size"
                if most >= 2
                else f"Do not use tiles, or choose a size of at least {3 * patch} pixels",
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
            An image, or with a ``patch`` of 1 an array with one value per patch.
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
        """Merge scores of tiles (T, h, w) to (Hp, Wp): their mean where tiles overlap.

        NaN where they are NaN in every tile.
        """
        rows, columns = self.side
        total, count = tiles.new_zeros(self.grid), tiles.new_zeros(self.grid)
        for tile, (row, column) in zip(tiles, self.offsets, strict=True):
            total[row : row + rows, column : column + columns] += tile.nan_to_num(0.0)
            count[row : row + rows, column : column + columns] += ~tile.isnan()
        mean: Tensor = total / count
        return mean


def embed_slice(
    backbone: Backbone, preprocessing: Preprocessing, unit: npt.NDArray[np.float32]
) -> Tensor:
    """Embed a windowed slice.

    Parameters
    ----------
    backbone, preprocessing
        Those of the model.
    unit : (rows, columns) float32
        Intensities in 0..1.

    Returns
    -------
    (T, D, h, w) float32
        The grid of each tile; T is 1 if the slice is not tiled. NaN where a patch is skipped, see
        `Preprocessing.present`.

    Raises
    ------
    InputError
        If the sizes do not match the backbone, see `Tiling.of`.
    WeightsError
        If its embeddings are not finite.
    """
    tiling = Tiling.of(preprocessing, backbone.patch)
    tiles = torch.split(tiling.cut(preprocessing(unit), backbone.patch), _TOGETHER)
    present = preprocessing.present(unit, backbone.patch)
    if present is None:
        grids = torch.cat([backbone.embed(some) for some in tiles])
        check_finite(grids[:, 0].isnan().any())
        return grids
    masks = tiling.cut(present)
    pairs = zip(tiles, torch.split(masks, _TOGETHER), strict=True)
    grids = torch.cat([backbone.embed(*pair) for pair in pairs])
    check_finite((grids[:, 0].isnan() & masks.to(grids.device)).any())
    return grids


def check_finite(broken: Tensor | np.bool_) -> None:
    """See that only skipped patches are NaN.

    Raises
    ------
    WeightsError
        If ``broken``: others would be taken for air.
    """
    if broken:
        raise WeightsError(
            "the backbone gave embeddings that are not finite numbers",
            fix="Set NAPARI_SPATIAL_AR_ENGINE=float32, and check the weights with "
            "'napari-spatial-ar weights list'",
        )


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
    """First patch of each tile along an axis."""
    count = math.ceil((patches - side) / (side // 2)) + 1
    return [round(n * (patches - side) / max(1, count - 1)) for n in range(count)]
