"""Nearest-neighbour memory bank of patches together with their surroundings.

In the line of AnomalyDINO and PatchCore (see `memory_bank`), and smaller: a patch is described by
its embedding and the mean around it, whitened (`Whitening`). Of all normal patches a random sample
of ``rows`` is stored, or ``means`` of these by spherical k-means (Dhillon and Modha, Machine
Learning 42, 2001), of which fewer do as well (benchmarks/bank_rows.py). The score is the cosine
distance to the nearest.

Defaults: 256 components, 16,384 rows. Compared with the full bank of 469 slices this takes a 40th
of the memory and a 44th of the products, and is no worse on brain_flair
(benchmarks/results/compare_brain_flair.json).

Cost: one pass over the normal slices; 2 x rows x components bytes to store, 8 MB.

A patch is described by its embedding and by the mean of the 5 x 5 embeddings around it, 2 D
numbers, transformed to principal components z_k / (v_k + 0.001)^0.35, where v_k is their variance
over normal patches, and scaled to unit length. The cosine between patches is then not dominated by
the few directions in which all of them vary. The power lies between none (0) and full whitening
(0.5).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning, Step
from napari_spatial_ar.normative.detectors.grids import (
    Draw,
    check_grid,
    rows_of,
    score_rows,
    walk,
    without_missing,
)
from napari_spatial_ar.normative.detectors.kmeans import ROUNDS, spherical_kmeans
from napari_spatial_ar.normative.detectors.nearest import largest_products
from napari_spatial_ar.normative.detectors.stored import BANK, take
from napari_spatial_ar.normative.detectors.whitening import Moments
from napari_spatial_ar.normative.heatmap import mean_around
from napari_spatial_ar.normative.model_schema import Count, Part
from napari_spatial_ar.steps import mapped

__all__ = ["StoredBank", "SurroundingsBank", "Whitening", "describe"]

# Side of the neighbourhood whose mean is part of each description.
_AROUND = 5


# A component is divided by (variance + floor) ** power.
_POWER, _FLOOR = 0.35, 1e-3


def describe(grid: Tensor) -> Tensor:
    """(B, D, Hp, Wp) -> (B * Hp * Wp, 2 D) float32: each patch and the mean around it."""
    # A CPU takes a quarter of the time for means of vectors that are contiguous.
    grid = grid.float().contiguous(memory_format=torch.channels_last)
    return rows_of(torch.cat([grid, mean_around(grid, _AROUND)], dim=1))


@dataclass(frozen=True)
class Whitening:
    """Transforms an embedding grid to whitened descriptions of its patches.

    Parameters
    ----------
    mean : (2 D,) float32
        Mean of normal patches' descriptions.
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
        """Whiten descriptions, (N, 2 D) to (N, k), as in `describe`."""
        return functional.normalize((described - self.mean) @ self.basis)

    def to(self, device: torch.device) -> Whitening:
        """Return the same on a device."""
        return Whitening(self.mean.to(device), self.basis.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for a model file."""
        return {"mean": self.mean.cpu().contiguous(), "basis": self.basis.cpu().contiguous()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Whitening:
        """Inverse of `tensors`.

        Raises
        ------
        ModelFileError
            If they are missing or do not match each other.
        """
        mean = take(tensors, "mean", None)
        if len(mean) % 2:
            raise ModelFileError("its mean is not that of patches and their surroundings")
        return cls(mean, take(tensors, "basis", len(mean), None))


class StoredBank(Part):
    """Schema of its parameters in a file."""

    rows: Count = 0
    components: Count = 0


class SurroundingsBank(Detector):
    """Cosine distance, after whitening, to the nearest normal patch in its surroundings.

    Parameters
    ----------
    whitening : Whitening
        Describes patches.
    bank : (N, k) float16
        Unit-length descriptions of normal patches.
    """

    name: ClassVar[str] = "surroundings-bank"
    stored: ClassVar[type[Part]] = StoredBank
    unit: ClassVar[str] = "cosine distance"
    summary: ClassVar[str] = "distance to the nearest normal patch, including surroundings"
    meaning: ClassVar[str] = (
        "How far the patch, with its surroundings, is from the nearest normal one: 0 is "
        "the same, 1 unrelated."
    )
    reference: ClassVar[str] = "in the line of AnomalyDINO (Damm et al., WACV 2025)"
    cost: ClassVar[str] = "fits in seconds, scores in milliseconds, a file of 9 MB"
    replayable: ClassVar[bool] = True

    def __init__(self, whitening: Whitening, bank: Tensor) -> None:
        self.whitening = whitening
        self.bank = bank

    @classmethod
    def learn(
        cls,
        grids: Iterable[Tensor],
        setup: FitContext,
        *,
        rows: int = 16_384,
        components: int = 256,
        means: int = 0,
    ) -> Learning[SurroundingsBank]:
        """Store a sample of whitened patches, or their means; see `Detector.learn`.

        Parameters
        ----------
        grids, setup
            As for every detector.
        rows : int, at least 1
            Patches drawn, at most.
        components : int, at least 1
            Principal components used, at most 2 D.
        means : int, at least 0
            Number of means to store in place of the patches drawn; 0: store the patches.
        """
        moments = Moments()
        for number, grid in enumerate(walk(grids), start=1):
            moments.add(without_missing(describe(grid.to(setup.device))))
            yield Step(number, number, "Measuring normal patches")
        whitening = Whitening.of_moments(moments, components).to(setup.device)
        drawn = Draw(moments.count, rows, setup.seed)
        for number, grid in enumerate(walk(grids), start=1):
            drawn.add(without_missing(whitening(grid.to(setup.device))))
            yield Step(number, number, "Drawing normal patches")
        bank = drawn.rows()
        if 0 < means < len(bank):
            bank = yield from _means_of(bank, means, setup)
        return Learned(cls(whitening.to(torch.device("cpu")), bank))

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the distance already."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """1 - cosine similarity to the nearest row; see `Detector.score`."""
        patches = self.whitening(grid)
        return score_rows(patches, self.distances).reshape(len(grid), *grid.shape[2:])

    def distances(self, queries: Tensor) -> Tensor:
        """1 - cosine similarity to the nearest row of whitened patches, (N, k) to (N,)."""
        return (1 - largest_products(queries, self.bank)).clamp_min(0)

    def parameters(self) -> dict[str, Any]:
        """Return the sizes."""
        return {"rows": len(self.bank), "components": self.bank.shape[1]}

    def tensors(self) -> dict[str, Tensor]:
        """Return the whitening and the bank."""
        return {**self.whitening.tensors(), "bank": self.bank.cpu().contiguous()}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> SurroundingsBank:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        whitening = Whitening.from_tensors(tensors)
        return cls(whitening, take(tensors, "bank", None, whitening.basis.shape[1], kinds=BANK))

    def to(self, device: torch.device) -> SurroundingsBank:
        """Move its tensors to a device, in place."""
        self.whitening, self.bank = self.whitening.to(device), self.bank.to(device)
        return self


def _means_of(rows: Tensor, count: int, setup: FitContext) -> Generator[Step, None, Tensor]:
    """Means of (N, k) float16 rows of unit length: (count, k) float32, on the CPU; seeded."""
    generator = torch.Generator().manual_seed(setup.seed)
    start = rows[torch.randperm(len(rows), generator=generator)[:count]]
    rounds = spherical_kmeans(rows, start, device=setup.device)
    means = yield from mapped(
        rounds, lambda number: Step(number, ROUNDS, "Grouping normal patches", images=0)
    )
    return means.half()
