"""Embeddings as principal components of equal variance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.normative.detectors.grids import without_missing
from napari_spatial_ar.normative.fitting.feature_store import load_batch

__all__ = ["EqualVariance", "Moments"]


class Moments:
    """Mean and covariance of rows, accumulated slice by slice on any device."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Add (N, D) float32."""
        if not len(rows):
            return
        if not self.count:
            # Sums around a typical value: their difference loses no digits.
            self._shift = rows.mean(dim=0)
            width = rows.shape[1]
            self._sum = torch.zeros(width, dtype=torch.float64)
            self._outer = torch.zeros(width, width, dtype=torch.float64)
        self.count += len(rows)
        centred = rows - self._shift
        # Products within a slice in float32 take half the time; sums over slices are in float64.
        self._sum += centred.sum(dim=0).cpu().double()
        self._outer += (centred.T @ centred).cpu().double()

    @property
    def mean(self) -> Tensor:
        """(D,) float64, on the CPU."""
        return self._sum / self.count + self._shift.cpu().double()

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, on the CPU."""
        off = self._sum / self.count
        return self._outer / self.count - torch.outer(off, off)


# Maximum number of slices to measure on, and the minimum variance of a component as a share of the
# mean variance: components that hardly vary would otherwise amplify rounding errors.
_MEASURED = 128


_FLOOR = 1e-3


_MEAN, _MATRIX = "mean", "matrix"


@dataclass(frozen=True)
class EqualVariance:
    """Transform of grids: all principal components of the embeddings, with equal variance.

    Parameters
    ----------
    mean : (D,) float32
        Mean of the embeddings of normal slices.
    matrix : (D, D) float32
        W = (V (lambda + 1e-3 mean(lambda))^-1/2)^T; lambda and V are the eigenvalues and
        eigenvectors (in columns) of their covariance.
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def measured(cls, paths: Sequence[Path], device: torch.device) -> EqualVariance:
        """Measure on a device, over at most 128 stored grids, spread over those given.

        The result is on the CPU, whatever the device.
        """
        some = paths[:: max(1, -(-len(paths) // _MEASURED))]
        moments = Moments()
        for path in some:
            rows = load_batch([path])[0].movedim(0, -1).flatten(0, 1)
            moments.add(without_missing(rows).to(device))
        values, vectors = torch.linalg.eigh(moments.covariance)
        values = values.clamp_min(0)
        # If nothing varies at all, there is nothing to scale.
        least = (_FLOOR * values.mean()).clamp_min(torch.finfo(torch.float32).tiny)
        matrix = (vectors * (values + least) ** -0.5).T
        return cls(moments.mean.float().contiguous(), matrix.float().contiguous())

    @property
    def digest(self) -> str:
        """Hash of the transform, which identifies the grids that it returns."""
        digest = hashlib.sha256()
        for tensor in self.tensors().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def __call__(self, grid: Tensor) -> Tensor:
        """Transform (B, D, Hp, Wp) float to the same shape, float32 in channels-last memory."""
        # Half precision would not keep the components apart.
        with torch.autocast(grid.device.type, enabled=False):
            tokens = grid.movedim(1, -1).float() - self.mean
            return (tokens @ self.matrix.T).movedim(-1, 1)

    def to(self, device: torch.device) -> EqualVariance:
        """Return the same on a device."""
        return EqualVariance(self.mean.to(device), self.matrix.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for a model file."""
        both = {_MEAN: self.mean, _MATRIX: self.matrix}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in both.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], channels: int) -> EqualVariance:
        """Inverse of `tensors`, for embeddings of ``channels`` channels.

        Raises
        ------
        ModelFileError
            If they are missing or do not match.
        """
        mean, matrix = tensors.get(_MEAN), tensors.get(_MATRIX)
        if mean is None or matrix is None or len(tensors) != 2:
            raise ModelFileError(
                "it whitens embeddings, but their mean and matrix are not complete"
            )
        if mean.shape != (channels,) or matrix.shape != (channels, channels):
            raise ModelFileError(
                f"its whitening does not match its network: mean {tuple(mean.shape)} and matrix "
                f"{tuple(matrix.shape)} for embeddings of {channels} channels"
            )
        if not (mean.isfinite().all() and matrix.isfinite().all()):
            raise ModelFileError("its whitening holds values that are not finite")
        return cls(mean.float().contiguous(), matrix.float().contiguous())
