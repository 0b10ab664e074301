"""Nearest-neighbour memory bank over patch embeddings.

Reference: AnomalyDINO (Damm, Laszkiewicz, Lederer, Fischer: "Boosting Patch-based Few-shot Anomaly
Detection with DINOv2", WACV 2025). The patches of all normal slices are stored, and the score of a
patch is its cosine distance from the nearest of them. The image score is the mean of the highest
1 % of patch scores (`Scoring.top_share`). The coreset is PatchCore's (Roth et al., "Towards Total
Recall in Industrial Anomaly Detection", CVPR 2022).

Defaults: the full bank. With ``coreset`` below 1 only that share is stored, chosen by greedy
k-centre search under a random projection.

Cost: memory and time a slice grow with the bank, by 2 D bytes per stored patch and 2 D operations
per stored patch and query patch. Choosing a coreset takes (patches x stored) x projection
operations.

Differs from the publication: no foreground masking and no rotated references (both are for few
shots of loose objects); float16 bank; no faiss, since `nearest` finds the exact neighbours too.
Differs from PatchCore: cosine distance, no reweighting of the image score, and if there are more
than ``candidates`` patches, the coreset is chosen from a random sample of that size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning, Step
from napari_spatial_ar.normative.detectors.grids import (
    check_grid,
    present_rows,
    rows_of,
    sample_rows,
    score_rows,
    walk,
)
from napari_spatial_ar.normative.detectors.nearest import largest_products
from napari_spatial_ar.normative.detectors.stored import BANK, take
from napari_spatial_ar.normative.model_schema import Part

__all__ = ["MemoryBank", "k_centres"]

# Patches projected at a time.
_CHUNK = 32_768
# Centres chosen between two checks for cancellation.
_REPORT = 256


class _Stored(Part):
    coreset: Annotated[float, Field(gt=0, le=1)] = 1.0


class MemoryBank(Detector):
    """Cosine distance to the nearest normal patch.

    Parameters
    ----------
    bank : (N, D) float16
        Unit-length patch embeddings of normal slices.
    coreset : float
        Share of the patches that was stored.
    """

    name: ClassVar[str] = "memory-bank"
    stored: ClassVar[type[Part]] = _Stored
    unit: ClassVar[str] = "cosine distance"
    summary: ClassVar[str] = "distance to the nearest patch of any normal slice"
    meaning: ClassVar[str] = (
        "How far the patch is from the nearest normal patch at any position: 0 is the same, 1 "
        "unrelated."
    )
    reference: ClassVar[str] = "AnomalyDINO (Damm et al., WACV 2025)"
    cost: ClassVar[str] = (
        "fits in seconds (a coreset: minutes); the slowest to score, and a file that grows with "
        "the slices"
    )

    def __init__(self, bank: Tensor, coreset: float = 1.0) -> None:
        self.bank = bank
        self.coreset = coreset

    @classmethod
    def learn(
        cls,
        grids: Iterable[Tensor],
        setup: FitContext,
        *,
        coreset: float = 1.0,
        projection: int = 64,
        candidates: int = 200_000,
    ) -> Learning[MemoryBank]:
        """Store every patch, or a coreset of them; see `Detector.learn`.

        Parameters
        ----------
        grids, setup
            As for every detector.
        coreset : float, above 0 and at most 1
            Share of the patches to store; 1 stores all.
        projection : int, at least 1
            Dimensions in which the coreset is chosen.
        candidates : int, at least 1
            Patches from which it is chosen, at most.
        """
        if coreset == 1:
            rows = []
            for number, grid in enumerate(walk(grids), start=1):
                rows.append(functional.normalize(present_rows(grid)).half().cpu())
                yield Step(number, number, "Storing patches")
            return Learned(cls(torch.cat(rows)))
        pool = sample_rows(grids, candidates, setup.seed, unit_length=True)
        count = max(1, round(coreset * len(pool)))
        generator = torch.Generator().manual_seed(setup.seed)
        directions = torch.randn(pool.shape[1], projection, generator=generator)
        points = torch.cat([part.float() @ directions for part in torch.split(pool, _CHUNK)])
        first = int(torch.randint(len(pool), (1,), generator=generator))
        chosen = []
        for number, index in enumerate(k_centres(points.to(setup.device), count, first)):
            chosen.append(index)
            if number % _REPORT == 0:
                yield Step(number, count, "Choosing a coreset", images=0)
        return Learned(cls(pool[torch.tensor(chosen)], coreset))

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the distance already."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """1 - cosine similarity to the nearest row; see `Detector.score`."""
        batch, _, rows, columns = check_grid(grid, self.bank.shape[1]).shape

        def distances(patches: Tensor) -> Tensor:
            nearest = largest_products(functional.normalize(patches), self.bank)
            return (1 - nearest).clamp_min(0)

        return score_rows(rows_of(grid), distances).reshape(batch, rows, columns)

    def parameters(self) -> dict[str, Any]:
        """Return the share of patches stored."""
        return {"coreset": self.coreset}

    def tensors(self) -> dict[str, Tensor]:
        """Return the bank."""
        return {"bank": self.bank.cpu().contiguous()}

    @classmethod
    def from_tensors(cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]) -> MemoryBank:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        return cls(take(tensors, "bank", None, None, kinds=BANK), parameters.get("coreset", 1.0))

    def to(self, device: torch.device) -> MemoryBank:
        """Move its tensors to a device, in place."""
        self.bank = self.bank.to(device)
        return self


def k_centres(points: Tensor, count: int, first: int) -> Iterator[int]:
    """Greedy k-centre search: each next centre is the point farthest from all chosen so far.

    Parameters
    ----------
    points : (N, D) float32
        The points to choose from.
    count : int
        Number of centres, at most N.
    first : int
        Index of the first centre.

    Yields
    ------
    int
        Indices, each once unless points coincide.
    """
    squared = points.square().sum(dim=1)
    distance = torch.full_like(squared, torch.inf)
    centre = first
    for _ in range(min(count, len(points))):
        yield centre
        to_centre = squared - 2 * (points @ points[centre]) + squared[centre]
        torch.minimum(distance, to_centre, out=distance)
        # Rounding must not make a chosen point seem far from itself.
        distance[centre] = -torch.inf
        centre = int(distance.argmax())
