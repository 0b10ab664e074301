"""Dirichlet-process mixture of Gaussians over patch embeddings.

Reference: Schulthess, Konukoglu: "Anomaly Detection by Clustering DINO Embeddings using a Dirichlet
Process Mixture" (MICCAI 2025) and its public code. Embeddings of unit length are clustered by a
truncated Dirichlet-process Gaussian mixture with diagonal covariances, fitted by stochastic
expectation maximisation: each batch of slices updates exponential averages of the sufficient
statistics, from which means, variances, stick-breaking ratios and the concentration follow. The
score of a patch is its cosine distance from the mean of the nearest component whose weight is above
1e-6.

Defaults: at most 200 components, 10 passes, 12 slices a batch, update rate 0.2, concentration 2 to
start with, 1e-6 added to variances (published: 500 components, 40 passes, the rest the same).

Cost: 4 x components x D operations a patch and pass; scoring compares a patch with at most
``components`` means, which are all that is stored.

Differs from the publication: the result of the last pass is used (published: the one most likely on
validation slices); the first means are patches drawn from the whole first batch; and there are
fewer components, see above. scikit-learn's mixture was tried and rejected: its Wishart prior for
diagonal covariances needs as many degrees of freedom as channels, which eliminates all but a dozen
components.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning, Step
from napari_spatial_ar.normative.detectors.grids import (
    check_grid,
    present_rows,
    rows_of,
    score_rows,
    walk,
)
from napari_spatial_ar.normative.detectors.stored import take
from napari_spatial_ar.normative.model_schema import Count, Part

__all__ = ["DirichletMixture", "MixtureState"]

# Added to each variance, and the minimum weight of a component in use, as published.
_REGULARISATION = 1e-6
_IN_USE = 1e-6
_EPS = float(torch.finfo(torch.float32).eps)


class MixtureState:
    """A truncated stick-breaking mixture and the averages from which it is computed.

    Parameters
    ----------
    rows : (N, D) float32
        Patches from which the first means are drawn and the variances measured.
    components : int
        K, maximum number of components.
    concentration : float
        Initial concentration of the Dirichlet process.
    generator : torch.Generator
        Source of random numbers.
    """

    def __init__(
        self, rows: Tensor, components: int, concentration: float, generator: torch.Generator
    ) -> None:
        count = min(components, len(rows))
        drawn = torch.randperm(len(rows), generator=generator)[:count]
        uniform = torch.rand(count, generator=generator)
        self.concentration = concentration
        self.means = rows[drawn.to(rows.device)]
        self.variances = (rows.var(dim=0) + _REGULARISATION).expand_as(self.means)
        # Beta(1, a) by its inverse distribution function; the last stick takes the rest.
        self.sticks = (1 - uniform ** (1 / concentration)).to(rows)
        self.sticks[-1] = 1
        self._count = torch.zeros_like(self.sticks)
        self._sum = torch.zeros_like(self.means)
        self._square = torch.zeros_like(self.means)

    def log_weights(self) -> Tensor:
        """(K,): log of each stick times the remainder of the sticks before it."""
        left = torch.log1p(-self.sticks).cumsum(dim=0)
        return self.sticks.log() + torch.cat([left.new_zeros(1), left[:-1]])

    def log_joint(self, rows: Tensor) -> Tensor:
        """(N, K): log of weight times density."""
        precision = 1 / self.variances
        distance = (
            rows.square() @ precision.T
            - 2 * rows @ (self.means * precision).T
            + (self.means.square() * precision).sum(dim=1)
        )
        norm = self.variances.log().sum(dim=1) + rows.shape[1] * math.log(2 * math.pi)
        return self.log_weights() - (distance + norm) / 2

    def update(self, rows: Tensor, rate: float) -> None:
        """Update the averages with those of a batch, by a share ``rate``."""
        share = torch.softmax(self.log_joint(rows), dim=1) / len(rows)
        self._count.lerp_(share.sum(dim=0), rate)
        self._sum.lerp_(share.T @ rows, rate)
        self._square.lerp_(share.T @ rows.square(), rate)
        count = (self._count + _EPS)[:, None]
        self.means = self._sum / count
        variances = self._square / count - self.means.square()
        self.variances = variances.clamp_min(0) + _REGULARISATION
        after = self._count.flip(0).cumsum(dim=0).flip(0) - self._count
        after.clamp_(min=0)
        prior = (self.concentration - 1) / len(rows)
        self.sticks = (self._count / (self._count + after + prior + _EPS)).clamp(0, 1)
        at = self.concentration
        grown = torch.digamma(len(rows) * (self._count + after) + at + 1)
        rest = torch.digamma(len(rows) * after + at)
        if len(self._count) > 1:
            self.concentration = (len(self._count) - 1) / float((grown - rest)[:-1].sum())


class _Stored(Part):
    components: Count = 0


class DirichletMixture(Detector):
    """Cosine distance to the nearest mean of a Dirichlet-process mixture.

    Parameters
    ----------
    means : (K, D) float32
        Means of the components in use.
    weights : (K,) float32
        Their shares of the patches.
    """

    name: ClassVar[str] = "dpmm"
    stored: ClassVar[type[Part]] = _Stored
    title: ClassVar[str] = "Dirichlet mixture (DPMM)"
    unit: ClassVar[str] = "cosine distance"
    summary: ClassVar[str] = "distance to the nearest centre of a mixture of normal patches"
    meaning: ClassVar[str] = (
        "How far the patch is from the nearest typical normal patch: 0 is the same, 1 unrelated."
    )
    reference: ClassVar[str] = "DPMM on DINO embeddings (Schulthess and Konukoglu, MICCAI 2025)"
    cost: ClassVar[str] = "fits in minutes, scores in milliseconds, a file below 1 MB"

    def __init__(self, means: Tensor, weights: Tensor) -> None:
        self.means = means
        self.weights = weights

    @classmethod
    def learn(
        cls,
        grids: Sequence[Tensor],
        setup: FitContext,
        *,
        components: int = 200,
        passes: int = 10,
        batch_size: int = 12,
        rate: float = 0.2,
        concentration: float = 2.0,
    ) -> Learning[DirichletMixture]:
        """Fit the mixture; see `Detector.learn`.

        Parameters
        ----------
        grids, setup
            As for every detector.
        components : int, at least 1
            Components of the mixture, at most.
        passes : int, at least 1
            Passes over the training slices.
        batch_size : int, at least 1
            Slices per update.
        rate : float, above 0 and at most 1
            Share by which a batch updates the averages.
        concentration : float, at least 1
            The larger, the more components the mixture gets.
        """
        channels = next(iter(walk(grids))).shape[1]
        generator = torch.Generator().manual_seed(setup.seed)
        total = passes * -(-len(grids) // batch_size)
        state, done = None, 0
        for number in range(passes):
            order = np.random.default_rng([setup.seed, number]).permutation(len(grids)).tolist()
            for start in range(0, len(order), batch_size):
                batch = [check_grid(grids[i], channels) for i in order[start : start + batch_size]]
                rows = torch.cat([functional.normalize(present_rows(grid)) for grid in batch])
                rows = rows.to(setup.device)
                if state is None:
                    state = MixtureState(rows, components, concentration, generator)
                state.update(rows, rate)
                done += 1
                yield Step(done, total, "Fitting the mixture", images=batch_size)
        assert state is not None  # `walk` raises if there are no grids
        weights = state.log_weights().softmax(dim=0)
        used = weights > _IN_USE
        detector = cls(state.means[used].cpu(), weights[used].cpu())
        return Learned(detector, {"passes": passes, "concentration": state.concentration})

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the distance already."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """1 - cosine similarity to the nearest mean; see `Detector.score`."""
        batch, _, rows, columns = check_grid(grid, self.means.shape[1]).shape
        means = functional.normalize(self.means)

        def distances(patches: Tensor) -> Tensor:
            similarity = functional.normalize(patches) @ means.T
            return (1 - similarity.max(dim=1).values).clamp_min(0)

        return score_rows(rows_of(grid), distances).reshape(batch, rows, columns)

    def parameters(self) -> dict[str, Any]:
        """Return the number of components in use."""
        return {"components": len(self.means)}

    def tensors(self) -> dict[str, Tensor]:
        """Return means and weights."""
        return {"means": self.means.cpu().contiguous(), "weights": self.weights.cpu().contiguous()}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> DirichletMixture:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        del parameters
        means = take(tensors, "means", None, None)
        return cls(means, take(tensors, "weights", len(means)))

    def to(self, device: torch.device) -> DirichletMixture:
        """Move its tensors to a device, in place."""
        self.means, self.weights = self.means.to(device), self.weights.to(device)
        return self
