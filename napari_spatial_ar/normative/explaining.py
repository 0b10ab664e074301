"""One patch of a slice: where it is, its embedding, and how the method explains its score."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative.detectors.explanation import Explanation
from napari_spatial_ar.normative.memory import one_sentence
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.normative.tiling import Tiling, embed_slice

__all__ = ["EmbeddedSlice", "PatchPicture", "embed_plane", "patch_at", "picture_around"]

# Patches shown on each side of the central one.
_AROUND = 3


@dataclass(frozen=True)
class PatchPicture:
    """A patch with its surroundings, without anything that identifies the patient.

    Parameters
    ----------
    image : (rows, columns) float32
        Windowed, in [0, 1].
    box : (int, int, int, int)
        First row and column of the patch in the image, and the row and column after its last.
    """

    image: npt.NDArray[np.float32] = field(repr=False)
    box: tuple[int, int, int, int]


def patch_at(
    pixel: tuple[int, int], shape: tuple[int, int], grid: tuple[int, int]
) -> tuple[int, int]:
    """Row and column of the patch that covers a pixel.

    Parameters
    ----------
    pixel : (int, int)
        Row and column in the slice.
    shape : (int, int)
        Rows and columns of the slice.
    grid : (int, int)
        Hp and Wp.
    """
    row, column = (
        min(max(int((at + 0.5) * patches / pixels), 0), patches - 1)
        for at, pixels, patches in zip(pixel, shape, grid, strict=True)
    )
    return row, column


def picture_around(
    unit: npt.NDArray[np.float32], patch: tuple[int, int], grid: tuple[int, int]
) -> PatchPicture:
    """Cut a patch and its surroundings out of a windowed slice (rows, columns).

    Beyond the edge of the slice, the image is black.
    """
    sides = [pixels / patches for pixels, patches in zip(unit.shape, grid, strict=True)]
    margins = [max(1, round(_AROUND * side)) for side in sides]
    starts = [round(at * side) for at, side in zip(patch, sides, strict=True)]
    ends = [round((at + 1) * side) for at, side in zip(patch, sides, strict=True)]
    top, left = starts
    bottom, right = (max(e, s + 1) for s, e in zip(starts, ends, strict=True))
    rows, columns = margins
    wide = np.pad(unit, [(m, m) for m in margins])
    image = np.ascontiguousarray(wide[top : bottom + 2 * rows, left : right + 2 * columns])
    return PatchPicture(image, (rows, columns, rows + bottom - top, columns + right - left))


@dataclass(frozen=True)
class EmbeddedSlice:
    """A slice as the model sees it.

    Parameters
    ----------
    unit : (rows, columns) float32
        Windowed, in [0, 1].
    grids : (T, D, h, w) float32
        Embeddings of its tiles; T is 1 if it is not tiled.
    tiling : Tiling
        Positions of the tiles.
    """

    unit: npt.NDArray[np.float32] = field(repr=False)
    grids: Tensor = field(repr=False)
    tiling: Tiling

    def patch_at(self, pixel: tuple[int, int]) -> tuple[int, int]:
        """Row and column of the patch that covers a pixel."""
        rows, columns = self.unit.shape
        return patch_at(pixel, (rows, columns), self.tiling.grid)

    def embedding(self, patch: tuple[int, int]) -> Tensor:
        """(D,) float32, from the tile in which the patch is nearest to the centre."""
        tile, row, column = self._tile_of(patch)
        return self.grids[tile, :, row, column].float()

    def picture(self, patch: tuple[int, int]) -> PatchPicture:
        """Cut out the patch and its surroundings."""
        return picture_around(self.unit, patch, self.tiling.grid)

    def explain(self, model: ScoringModel, patch: tuple[int, int]) -> Explanation:
        """Explain a patch by the model's method, see `Detector.explain`.

        Raises
        ------
        MemoryShortage
            If there is not enough memory.
        """
        tile, row, column = self._tile_of(patch)
        if self.grids[tile, 0, row, column].isnan():
            return Explanation("The patch shows air, which the model leaves out.", ())
        with (
            model.lock.held(),
            one_sentence("Explaining a patch", model.device),
            torch.inference_mode(),
        ):
            grid = self.grids[tile : tile + 1].to(model.device)
            return model.detector.explain(grid, row, column)

    def _tile_of(self, patch: tuple[int, int]) -> tuple[int, int, int]:
        rows, columns = self.tiling.side

        def margin(tile: int) -> int:
            row, column = self._within(tile, patch)
            return min(row, column, rows - 1 - row, columns - 1 - column)

        best = max(range(len(self.tiling)), key=margin)
        return best, *self._within(best, patch)

    def _within(self, tile: int, patch: tuple[int, int]) -> tuple[int, int]:
        row, column = self.tiling.offsets[tile]
        return patch[0] - row, patch[1] - column


def embed_plane(
    model: ScoringModel, volume: Scan, index: int, window: tuple[float, float] | None = None
) -> EmbeddedSlice:
    """Embed a slice of a scan as for scoring.

    Parameters
    ----------
    model : ScoringModel
        Backbone and preprocessing.
    volume : Scan
        The scan, sliced as it was scored.
    index : int
        Index of the slice along ``volume.geometry.slice_axis``.
    window : (low, high), optional
        Intensities shown to the model as black and white; by default from the whole volume.

    Raises
    ------
    WeightsError
        If the backbone's weights are missing.
    MemoryShortage
        If there is not enough memory.
    """
    preprocessing = model.header.preprocessing
    unit = apply_window(volume.slice(index), *(window or resolve(preprocessing.window, volume)))
    with model.lock.held(), one_sentence("Embedding a slice", model.device):
        grids = embed_slice(model.backbone, preprocessing, unit).cpu()
    return EmbeddedSlice(unit, grids, Tiling.of(preprocessing, model.backbone.patch))
