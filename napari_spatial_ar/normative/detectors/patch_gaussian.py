"""Gaussian over patch embeddings: one for all positions, or one per position.

References: the global Gaussian is the Mahalanobis detector of Rippel, Mertens, Merhof ("Modeling
the Distribution of Normal Data in Pre-Trained Deep Features", ICPR 2020), per patch instead of per
image; the one per position is PaDiM (Defard et al., ICPR 2021); the image score by nearest
neighbours of pooled features is DN2 (Bergman, Cohen, Hoshen: "Deep Nearest Neighbor Anomaly
Detection", 2020).

Defaults: global, all channels, Ledoit-Wolf shrinkage, image score from the patches.

Cost: two passes over the grids, D^2 operations a patch, and a (components, D) matrix to store. Per
position, another cells^2 x components^2 numbers.

Differs from the publications: channels are reduced by PCA (PaDiM draws them at random). With one
covariance per position, positions share a cell of a coarser grid and channels are reduced to 64 by
default, so that the model stays at some MB; 0.01 x the mean variance is added to the diagonal of
the covariance (PaDiM: 0.01). Positions are relative to the grid, so that a grid of another size can
be scored. Pooled features are compared by cosine distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning, Step
from napari_spatial_ar.normative.detectors.grids import (
    check_grid,
    present_in,
    present_rows,
    walk,
    without_air,
)
from napari_spatial_ar.normative.detectors.stored import BANK, take
from napari_spatial_ar.normative.detectors.whitening import Moments
from napari_spatial_ar.normative.model_schema import Count, Part

__all__ = ["PatchGaussian"]

_PER_POSITION_COMPONENTS = 64
_DIAGONAL = 0.01


class _Stored(Part):
    position: Literal["global", "patch"]
    components: Count
    neighbours: Count


class PatchGaussian(Detector):
    """Mahalanobis distance of each patch from normal patches.

    Parameters
    ----------
    mean : (D,) float32
        Mean of all patches.
    basis : (k, D) float32
        Projection of centred embeddings; for the global Gaussian it whitens them too.
    cell_means : (C, k) float32
        Mean of the patches of each cell, in the basis; (0, k) for the global Gaussian.
    cell_whitening : (C, k, k) float32
        W with W^T W the inverse covariance of the cell.
    pooled : (N, D) float16
        Unit-length mean embedding of each normal slice; (0, D) if not used.
    neighbours : int
        Number of pooled embeddings that the image score averages over; 0: it is computed from the
        patches.
    """

    name: ClassVar[str] = "patch-gaussian"
    stored: ClassVar[type[Part]] = _Stored
    title: ClassVar[str] = "Patch Gaussian"
    unit: ClassVar[str] = "Mahalanobis distance"
    summary: ClassVar[str] = "distance from one Gaussian of normal patches, or one per position"
    meaning: ClassVar[str] = (
        "How many standard deviations the patch is from the mean of normal patches, along "
        "the directions in which they vary."
    )
    reference: ClassVar[str] = "Rippel et al., ICPR 2020; PaDiM (Defard et al., ICPR 2021)"
    cost: ClassVar[str] = "fits in seconds to minutes, scores in milliseconds, a file of 1 to 10 MB"

    def __init__(
        self,
        mean: Tensor,
        basis: Tensor,
        cell_means: Tensor,
        cell_whitening: Tensor,
        pooled: Tensor,
        neighbours: int = 0,
    ) -> None:
        parts = {
            "mean": mean,
            "basis": basis,
            "cell_means": cell_means,
            "cell_whitening": cell_whitening,
            "pooled": pooled,
        }
        # Contiguous, as when read from a file: products with other strides differ in the last bit.
        self._tensors = {name: tensor.contiguous() for name, tensor in parts.items()}
        self.neighbours = neighbours

    @classmethod
    def learn(
        cls,
        grids: Iterable[Tensor],
        setup: FitContext,
        *,
        position: str = "global",
        components: int = 0,
        cells: int = 16,
        neighbours: int = 0,
    ) -> Learning[PatchGaussian]:
        """Measure mean and covariance; see `Detector.learn`.

        Parameters
        ----------
        grids, setup
            As for every detector.
        position : {"global", "patch"}
            One Gaussian for all patches, or one for each cell of the grid.
        components : int, at least 0
            Principal components used; 0 for all of them ("patch": for 64).
        cells : int, at least 1
            Cells along each side of the grid ("patch").
        neighbours : int, at least 0
            The image score is the mean distance of the pooled embedding from those of this many
            normal slices; with 0 it is computed from the patch scores.
        """
        moments, pooled = Moments(), []
        for number, grid in enumerate(walk(grids), start=1):
            moments.add(present_rows(grid.to(setup.device)))
            if neighbours:
                pooled.append(_pool(grid).half().cpu())
            yield Step(number, number, "Measuring means and covariances")
        mean, covariance = moments.mean.numpy(), moments.covariance.numpy()
        channels = len(mean)
        values, vectors = np.linalg.eigh(covariance)
        # A variance below this is rounding (of float32 rows), not data.
        floor = max(float(values[-1]), 1e-12) * 1e-7
        kept = components or (_PER_POSITION_COMPONENTS if position == "patch" else channels)
        values = np.maximum(values[::-1][:kept], floor)
        axes = vectors[:, ::-1][:, :kept].T
        centre = torch.from_numpy(mean).float()
        turn = torch.from_numpy(np.ascontiguousarray(axes)).float()
        width = len(values)
        cell_means, cell_whitening = torch.empty(0, width), torch.empty(0, width, width)
        if position == "global":
            fourth = 0.0
            for number, grid in enumerate(walk(grids), start=1):
                fourth += _fourth_moment(grid.to(setup.device), centre, turn)
                yield Step(number, number, "Measuring shrinkage")
            shrunk = _ledoit_wolf(values, fourth, moments.count)
            turn = turn / torch.from_numpy(np.sqrt(shrunk)).float()[:, None]
        else:
            sums = _CellSums(cells, width)
            for number, grid in enumerate(walk(grids), start=1):
                sums.add(_turned(grid, centre, turn))
                yield Step(number, number, "Measuring each position")
            cell_means, cell_whitening = sums.result(_DIAGONAL * float(values.mean()))
        return Learned(
            cls(
                centre,
                turn,
                cell_means,
                cell_whitening,
                torch.cat(pooled) if pooled else torch.empty(0, channels, dtype=torch.float16),
                neighbours,
            )
        )

    @classmethod
    def check_shape(cls, options: Mapping[str, Any], rows: int, columns: int) -> None:
        """Check that the grid fills all cells of a positional Gaussian."""
        if options["position"] == "patch":
            _check_cells(rows, columns, options["cells"])

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the distance already."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """Mahalanobis distance; see `Detector.score`."""
        own = self._tensors
        turned = _turned(check_grid(grid, len(own["mean"])), own["mean"], own["basis"])
        if not len(own["cell_means"]):
            return turned.square().sum(dim=-1).sqrt()
        batch, rows, columns, width = turned.shape
        cells = round(len(own["cell_means"]) ** 0.5)
        cell = _cell_of(rows, columns, cells).to(turned.device).flatten()
        centred = turned.reshape(batch, -1, width) - own["cell_means"][cell]
        white = torch.einsum("nkl,bnl->bnk", own["cell_whitening"][cell], centred)
        return white.square().sum(dim=-1).sqrt().reshape(batch, rows, columns)

    @property
    def scores_images(self) -> bool:
        """Whether it has neighbours to compare pooled embeddings with."""
        return self.neighbours > 0

    @torch.inference_mode()
    def image_scores(self, grid: Tensor) -> Tensor | None:
        """Mean cosine distance of the pooled embedding from its nearest neighbours."""
        pooled = self._tensors["pooled"]
        if not self.neighbours:
            return None
        similarity = _pool(check_grid(grid, pooled.shape[1])) @ pooled.float().T
        nearest = similarity.topk(min(self.neighbours, len(pooled)), dim=1).values
        return (1 - nearest).clamp_min(0).mean(dim=1)

    def parameters(self) -> dict[str, Any]:
        """Return the settings that the shapes of the tensors do not contain."""
        return {
            "position": "patch" if len(self._tensors["cell_means"]) else "global",
            "components": len(self._tensors["basis"]),
            "neighbours": self.neighbours,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return means, basis, cells and pooled embeddings."""
        return {name: tensor.cpu().contiguous() for name, tensor in self._tensors.items()}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> PatchGaussian:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        basis = take(tensors, "basis", None, None)
        width, channels = basis.shape
        neighbours = parameters["neighbours"]
        # Unused tensors have no rows.
        cells = len(tensors.get("cell_means", ()))
        pooled = len(tensors.get("pooled", ()))
        if math.isqrt(cells) ** 2 != cells or (neighbours > 0) != (pooled > 0):
            raise ModelFileError("the parts of its Gaussian do not match each other")
        return cls(
            take(tensors, "mean", channels),
            basis,
            take(tensors, "cell_means", cells, width),
            take(tensors, "cell_whitening", cells, width, width),
            take(tensors, "pooled", pooled, channels, kinds=BANK),
            neighbours,
        )

    def to(self, device: torch.device) -> PatchGaussian:
        """Move its tensors to a device, in place."""
        self._tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        return self


def _check_cells(rows: int, columns: int, cells: int) -> None:
    """Check that every cell contains patches of the grid."""
    if min(rows, columns) < cells:
        raise InputError(
            f"a grid of {rows} x {columns} patches does not fill {cells} x {cells} cells",
            fix="Choose fewer cells",
        )


class _CellSums:
    """Mean and covariance of each cell of the grid."""

    def __init__(self, cells: int, width: int) -> None:
        self._cells = cells
        self._count = torch.zeros(cells**2, dtype=torch.float64)
        self._sum = torch.zeros(cells**2, width, dtype=torch.float64)
        self._outer = torch.zeros(cells**2, width, width, dtype=torch.float64)

    def add(self, turned: Tensor) -> None:
        """(B, Hp, Wp, k) principal components."""
        _, rows, columns, _ = turned.shape
        _check_cells(rows, columns, self._cells)
        cell = _cell_of(rows, columns, self._cells).flatten()
        for whole in turned.flatten(1, 2).cpu().double():
            there = ~whole[:, 0].isnan()
            values, place = whole[there], cell[there]
            self._count += torch.bincount(place, minlength=len(self._count))
            self._sum.index_add_(0, place, values)
            for number in range(len(self._count)):
                members = values[place == number]
                self._outer[number] += members.T @ members

    def result(self, diagonal: float) -> tuple[Tensor, Tensor]:
        """Means (C, k) and whitening matrices (C, k, k), float32."""
        count, empty = self._count.clamp_min(1), self._count == 0
        mean = self._sum / count[:, None]
        outer = self._outer / count[:, None, None]
        covariance = outer - mean[:, :, None] * mean[:, None, :]
        # A cell that was air in all slices: the mean of all patches, and the usual spread.
        covariance[empty] = covariance[~empty].mean(dim=0)
        covariance += diagonal * torch.eye(mean.shape[1], dtype=torch.float64)
        lower = torch.linalg.cholesky(covariance)
        eye = torch.eye(mean.shape[1], dtype=torch.float64).expand_as(lower)
        return mean.float(), torch.linalg.solve_triangular(lower, eye, upper=False).float()


def _pool(grid: Tensor) -> Tensor:
    """(B, D, Hp, Wp) -> (B, D), mean over positions at length 1."""
    total = without_air(grid.float()).sum(dim=(2, 3))
    return functional.normalize(total / present_in(grid).sum(dim=(1, 2))[:, None])


def _turned(grid: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """(B, D, Hp, Wp) -> (B, Hp, Wp, k), centred embeddings in the basis."""
    centred = grid.float().permute(0, 2, 3, 1) - mean.to(grid.device)
    return centred @ basis.to(grid.device).T


def _fourth_moment(grid: Tensor, mean: Tensor, axes: Tensor) -> float:
    """Sum over patches of the fourth power of their length."""
    lengths = _turned(grid, mean, axes).square().sum(dim=-1)
    # Summed on the CPU: Apple's GPUs have no float64.
    return float(lengths.square().cpu().double().nansum())


def _cell_of(rows: int, columns: int, cells: int) -> Tensor:
    """(Hp, Wp) int64: the cell of each position, in raster order."""
    down = torch.arange(rows) * cells // rows
    across = torch.arange(columns) * cells // columns
    return down[:, None] * cells + across[None, :]


def _ledoit_wolf(values: np.ndarray[Any, Any], fourth: float, count: int) -> np.ndarray[Any, Any]:
    """Eigenvalues of the covariance shrunk towards their mean (Ledoit, Wolf 2004).

    Parameters
    ----------
    values : (k,) float64
        Eigenvalues of the covariance.
    fourth : float
        Sum over samples of the fourth power of their length.
    count : int
        Number of samples.
    """
    target = values.mean()
    spread = np.square(values - target).sum()
    noise = (fourth / count - np.square(values).sum()) / count
    share = min(max(noise, 0.0) / spread, 1.0) if spread > 0 else 0.0
    shrunk: np.ndarray[Any, Any] = (1 - share) * values + share * target
    return shrunk
