"""From a slice's voxels to the input of the backbone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skimage.exposure import equalize_adapthist
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.backbones.registry import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """How a slice is presented to the backbone; saved in the model file.

    Parameters
    ----------
    window : Window
        Maps voxels to intensities in 0..1.
    size : (int, int)
        Rows and columns the slice is resized to; multiples of the backbone's patch.
    mean, std : (float, float, float)
        Normalisation of the three (equal) channels, as for the backbone.
    clahe : float
        Clip limit, up to 1, of contrast-limited adaptive histogram equalisation before the slice
        is resized; 0 for none.
        size; 0 for none.
    tile : int
        Side of the tiles into which the resized slice is cut, see
        `napari_spatial_ar.normative.tiling.Tiling`; 0 for none.
    skip_air : bool
        Whether patches without body skip the backbone and all later steps.

    Raises
    ------
    InputError
        If the clip limit or the tile is out of range.
    """

    window: Window
    size: tuple[int, int] = (448, 448)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    clahe: float = 0.0
    tile: int = 0
    skip_air: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.clahe <= 1:
            raise InputError(
                f"the clip limit of CLAHE must be from 0 to 1, not {self.clahe}",
                fix="0.01 is typical, 0 turns it off",
            )
        if self.tile < 0:
            raise InputError(f"a tile is a number of pixels, 0 for none, not {self.tile}")

    def __call__(self, unit: npt.NDArray[np.float32]) -> Tensor:
        """Equalise if set, resize and normalise a windowed slice.

        Parameters
        ----------
        unit : (rows, columns) float32
            Intensities in 0..1.

        Returns
        -------
        (3, H, W) float32
            Bilinear with antialiasing, normalised.

        Raises
        ------
        InputError
            If the slice is not two-dimensional or is smaller than 8 x 8 pixels.
        """
        if unit.ndim != 2:
            raise InputError(f"a slice has two axes, not {unit.ndim}")
        # A slice without contrast cannot be equalised.
        if self.clahe and unit.min() < unit.max():
            unit = equalize_adapthist(unit, clip_limit=self.clahe)
        return self.resized(torch.from_numpy(np.ascontiguousarray(unit, dtype=np.float32))[None])[0]

    def resized(self, units: Tensor) -> Tensor:
        """Resize and normalise slices that were equalised if set, on any device.

        Parameters
        ----------
        units : (B, rows, columns) float32
            Intensities in 0..1.

        Returns
        -------
        (B, 3, H, W) float32
        """
        images = functional.interpolate(
            units[:, None], size=self.size, mode="bilinear", antialias=True, align_corners=False
        )
        # Channel by channel: a tensor of these numbers would have to be copied to the device.
        channels = zip(self.mean, self.std, strict=True)
        return torch.cat([(images - mean) / std for mean, std in channels], dim=1)

    def present(self, unit: npt.NDArray[np.float32], patch: int) -> Tensor | None:
        """Find the patches of a windowed slice that go through the backbone.

        Parameters
        ----------
        unit : (rows, columns) float32
            Intensities in 0..1.
        patch : int
            Side of a patch in pixels of the resized slice.

        Returns
        -------
        (Hp, Wp) bool or None
            Patches that hold a pixel of the body (`tissue_mask`), and those next to them; None
            if all do because `skip_air` is off.
        """
        if not self.skip_air:
            return None
        body = torch.from_numpy(tissue_mask(unit))[None].float()
        grid = [side // patch for side in self.size]
        holds = functional.adaptive_max_pool2d(body, grid)
        return functional.max_pool2d(holds, 3, stride=1, padding=1)[0].bool()

    def to_dict(self) -> dict[str, Any]:
        """JSON form, stored in the model file; options added later only if they are set.

        Models and stored grids from before these existed therefore keep their hashes.
        """
        values = {**asdict(self), "window": self.window.to_dict()}
        later = ("clahe", "tile", "skip_air")
        return {key: v for key, v in values.items() if key not in later or v}
