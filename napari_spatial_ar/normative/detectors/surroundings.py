"""Patches described by themselves and by what surrounds them, in whitened principal components.

A patch is described by its embedding and by the mean of the 5 x 5 embeddings around it, 2 D
numbers, turned to principal components z_k / (v_k + 0.001)^0.35, v_k their variance over normal
patches, and brought to one length: then a cosine compares patches without the few directions in
which all of them vary drowning the rest. The power lies between none (0) and full whitening (0.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.normative.detectors.grids import check_grid, rows_of
from napari_spatial_ar.normative.detectors.moments import Moments
from napari_spatial_ar.normative.detectors.stored import take

__all__ = ["Whitening", "describe"]

# Side of the neighbourhood whose mean stands beside each patch.
_AROUND = 5
# A component is divided by (variance + floor) ** power.
_POWER, _FLOOR = 0.35, 1e-3


def describe(grid: Tensor) -> Tensor:
    """(B, D, Hp, Wp) -> (B * Hp * Wp, 2 D) float32: each patch and the mean around it."""
    # Means of whole vectors that lie together take a processor a quarter of the time.
    grid = grid.float().contiguous(memory_format=torch.channels_last)
    around = functional.avg_pool2d(grid, _AROUND, 1, _AROUND // 2, count_include_pad=False)
    return rows_of(torch.cat([grid, around], dim=1))


@dataclass(frozen=True)
class Whitening:
    """From an embedding grid to whitened descriptions of its patches.

    Parameters
    ----------
    mean : (2 D,) float32
        Of normal patches' descriptions.
    basis : (2 D, k) float32
        Principal components, scaled.
    """

    mean: Tensor
    basis: Tensor

    @classmethod
    def of_moments(cls, moments: Moments, components: int) -> Whitening:
        """Principal components of descriptions, at most ``components``, on the CPU."""
        values, vectors = torch.linalg.eigh(moments.covariance)
        scale = (values.flip(0).clamp_min(0) + _FLOOR) ** -_POWER
        basis = (vectors.flip(1) * scale)[:, :components].float().contiguous()
        return cls(moments.mean.float(), basis)

    def __call__(self, grid: Tensor) -> Tensor:
        """(B, D, Hp, Wp) -> (B * Hp * Wp, k) float32, unit length.

        Raises
        ------
        InputError
            If the grid has other axes or channels than those fitted on.
        """
        return self.of_described(describe(check_grid(grid, len(self.mean) // 2)))

    def of_described(self, described: Tensor) -> Tensor:
        """Whiten descriptions, (N, 2 D) to (N, k), as `describe` gives them."""
        return functional.normalize((described - self.mean) @ self.basis)

    def to(self, device: torch.device) -> Whitening:
        """Give the same on a device."""
        return Whitening(self.mean.to(device), self.basis.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Give what a model file keeps."""
        return {"mean": self.mean.cpu().contiguous(), "basis": self.basis.cpu().contiguous()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Whitening:
        """Inverse of `tensors`.

        Raises
        ------
        ModelFileError
            If they are missing or do not fit each other.
        """
        mean = take(tensors, "mean", None)
        if len(mean) % 2:
            raise ModelFileError("its mean is not that of patches and their surroundings")
        return cls(mean, take(tensors, "basis", len(mean), None))
