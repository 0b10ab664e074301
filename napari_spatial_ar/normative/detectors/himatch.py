"""Training-free matching with the most similar normal slices, stage by stage.

Reference: Huo et al., "HiMatch-AD: DINOv3-driven Hierarchical Matching for Training-free Medical
Anomaly Detection" (arXiv 2606.22556). There is no public code, and only the paper's abstract was
available: normal references are retrieved by two branches, global (class token) and patch-level;
maps are computed at several transformer stages by comparing clustered normal features with the
query; they are fused with weights from their uncertainty. All further detail is this module's
interpretation:

- global branch: cosine similarity of mean patch embeddings, in place of the class token (the
  feature store has only patches); patch branch: that of the embeddings averaged on a 4 x 4 grid;
  the two are averaged, and the ``references`` most similar slices are used;
- each normal slice and stage is stored as ``clusters`` centres (spherical k-means, farthest-first
  start); a patch's distance from a reference is the cosine distance to its nearest centre, and the
  map of a stage the smallest over the references;
- stages are made comparable by dividing by the mean of this distance between normal slices;
- the uncertainty of a stage at a patch is the standard deviation of the distances over the
  references, divided by its own mean on normal slices; weights are the softmax of its negative.

Stages are the backbone blocks in the grid, by default at a quarter, a half, three quarters and
the full depth.

Cost: no training; a few operations a normal slice. The file grows by stages x clusters x channels
x 2 bytes for each normal slice, at most ``slices`` of them. Scoring compares each patch with
references x clusters centres per stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning, Step
from napari_spatial_ar.normative.detectors.grids import check_grid, present_in, walk, without_air
from napari_spatial_ar.normative.detectors.kmeans import spherical_kmeans
from napari_spatial_ar.normative.detectors.memory_bank import k_centres
from napari_spatial_ar.normative.detectors.stored import BANK, take
from napari_spatial_ar.normative.model_schema import Part
from napari_spatial_ar.steps import finish

__all__ = ["HierarchicalMatching"]

# Side of the grid that the patch branch compares, and iterations of k-means.
_LOCAL = 4
_ROUNDS = 10
# Normal slices on which the usual distances are measured, each against all others.
_MEASURED = 64


class _Stored(Part):
    references: Annotated[int, Field(ge=1, le=10**6)]


class HierarchicalMatching(Detector):
    """Distance to the clustered patches of similar normal slices, fused over stages.

    Parameters
    ----------
    pooled : (N, D) float16
        Unit-length mean embedding of each normal slice.
    local : (N, 16 D) float16
        Unit-length embeddings on a 4 x 4 grid.
    centres : (N, S, K, C) float16
        Unit-length cluster centres of each slice and stage; S C = D.
    usual : (2, S) float32
        Mean distance, and mean spread of distances, between normal slices.
    references : int
        Number of slices with which a query is matched.
    """

    name: ClassVar[str] = "himatch-ad"
    stored: ClassVar[type[Part]] = _Stored
    title: ClassVar[str] = "HiMatch-AD"
    unit: ClassVar[str] = "times the usual distance"
    summary: ClassVar[str] = "distance to patches of the most similar normal slices, at each stage"
    meaning: ClassVar[str] = (
        "How far the patch is from patches of the most similar normal slices, as a multiple "
        "of the usual distance: 1 is usual."
    )
    reference: ClassVar[str] = "HiMatch-AD (Huo et al., 2026), from the abstract"
    cost: ClassVar[str] = (
        "fits in seconds to minutes, scores in milliseconds, a file of 10 to 400 MB"
    )

    def __init__(
        self, pooled: Tensor, local: Tensor, centres: Tensor, usual: Tensor, references: int = 8
    ) -> None:
        self._tensors = {"pooled": pooled, "local": local, "centres": centres, "usual": usual}
        self.references = references

    @classmethod
    def default_layers(cls, depth: int) -> tuple[int, ...] | None:
        """Four stages; see `Detector.default_layers`."""
        return tuple(depth * n // 4 for n in (1, 2, 3, 4)) if depth >= 4 else None

    @classmethod
    def learn(
        cls,
        grids: Iterable[Tensor],
        setup: FitContext,
        *,
        references: int = 8,
        clusters: int = 32,
        slices: int = 1000,
    ) -> Learning[HierarchicalMatching]:
        """Cluster each normal slice; see `Detector.learn`.

        Parameters
        ----------
        grids, setup
            As for every detector.
        references : int, at least 1
            Normal slices with which a slice is matched.
        clusters : int, at least 1
            Cluster centres for each slice and stage.
        slices : int, at least 1
            Normal slices used, at most; chosen at random if there are more.
        """
        total = sum(len(grid) for grid in walk(grids))
        draw = np.random.default_rng(setup.seed).permutation(total)[:slices]
        kept = set(draw.tolist())
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, grid in _each(grids):
            if number in kept:
                parts.append(_describe(grid.to(setup.device), setup.blocks, clusters))
                yield Step(len(parts), len(kept), "Clustering normal slices")
        pooled, local, centres = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        stages = centres.shape[1]
        found = cls(pooled, local, centres, torch.ones(2, stages), references)
        # Position of each slice among those used, since it must not be matched with itself.
        place = {number: index for index, number in enumerate(sorted(kept))}
        sums, measured = torch.zeros(2, stages), set(draw[:_MEASURED].tolist())
        found.to(setup.device)
        for number, grid in _each(grids):
            if number in measured and len(kept) > 1:
                both = found.stage_maps(grid.to(setup.device), leave_out=place[number])
                there = present_in(grid).flatten().to(setup.device)
                sums += torch.stack([one[..., there].mean(dim=(0, 2)) for one in both]).cpu()
                yield Step(number, total, "Measuring usual distances")
        if len(kept) > 1:
            found._tensors["usual"] = (sums / len(measured)).clamp_min(1e-6)
        return Learned(found.to(torch.device("cpu")))

    @torch.inference_mode()
    def stage_maps(self, grid: Tensor, leave_out: int | None = None) -> tuple[Tensor, Tensor]:
        """Distances at each stage, before fusion.

        Parameters
        ----------
        grid : (B, D, Hp, Wp) float
            Embeddings.
        leave_out : int, optional
            Index of a normal slice to exclude from matching.

        Returns
        -------
        (B, S, Hp * Wp) float32, twice
            Smallest distance over the references, and standard deviation over them.
        """
        own = self._tensors
        stages = own["centres"].shape[1]
        pooled, local = _descriptors(grid)
        similarity = (pooled @ own["pooled"].float().T + local @ own["local"].float().T) / 2
        if leave_out is not None:
            similarity[:, leave_out] = -torch.inf
        available = similarity.shape[1] - (leave_out is not None)
        nearest = similarity.topk(min(self.references, available), dim=1).indices
        maps, spreads = [], []
        for patches, chosen in zip(_stages(grid, stages), nearest, strict=True):
            centres = own["centres"][chosen].float()  # (R, S, K, C)
            # (R, S, P): distance of each patch from each reference.
            matched = torch.einsum("spc,rskc->rspk", patches, centres)
            distance = (1 - matched.amax(dim=-1)).clamp_min(0)
            maps.append(distance.amin(dim=0))
            spreads.append(distance.std(dim=0, correction=0))
        return torch.stack(maps), torch.stack(spreads)

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the fused map already."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """Distances of all stages, weighted by their certainty; see `Detector.score`."""
        batch, _, rows, columns = check_grid(grid, self._tensors["pooled"].shape[1]).shape
        maps, spreads = self.stage_maps(grid)
        usual, usual_spread = self._tensors["usual"]
        weights = torch.softmax(-spreads / usual_spread[:, None], dim=1)
        fused: Tensor = (weights * maps / usual[:, None]).sum(dim=1)
        return fused.reshape(batch, rows, columns)

    def parameters(self) -> dict[str, Any]:
        """Return the settings that the shapes of the tensors do not contain."""
        return {"references": self.references}

    def tensors(self) -> dict[str, Tensor]:
        """Return the references' descriptors and centres."""
        return {name: tensor.cpu().contiguous() for name, tensor in self._tensors.items()}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> HierarchicalMatching:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        centres = take(tensors, "centres", None, None, None, None, kinds=BANK)
        count, stages, _, channels = centres.shape
        width = stages * channels
        return cls(
            take(tensors, "pooled", count, width, kinds=BANK),
            take(tensors, "local", count, _LOCAL**2 * width, kinds=BANK),
            centres,
            take(tensors, "usual", 2, stages),
            parameters["references"],
        )

    def to(self, device: torch.device) -> HierarchicalMatching:
        """Move its tensors to a device, in place."""
        self._tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        return self


def _each(grids: Iterable[Tensor]) -> Iterable[tuple[int, Tensor]]:
    """Slices one by one, (1, D, Hp, Wp), with their index."""
    number = 0
    for grid in walk(grids):
        for single in torch.split(grid, 1):
            yield number, single
            number += 1


def _descriptors(grid: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) and (B, 16 D), unit length: the descriptors by which slices are compared."""
    filled, present = without_air(grid.float()), present_in(grid)
    share = functional.adaptive_avg_pool2d(present[:, None].float(), _LOCAL)
    local = functional.adaptive_avg_pool2d(filled, _LOCAL) / share
    mean = filled.sum(dim=(2, 3)) / present.sum(dim=(1, 2))[:, None]
    # A part that is only air carries no information.
    local = local.masked_fill(share == 0, 0.0).flatten(1)
    return functional.normalize(mean), functional.normalize(local)


def _stages(grid: Tensor, stages: int) -> Tensor:
    """(B, D, Hp, Wp) -> (B, S, P, C), patches of unit length at each stage."""
    batch, channels, rows, columns = grid.shape
    patches = grid.float().reshape(batch, stages, channels // stages, rows * columns)
    return functional.normalize(patches.transpose(2, 3), dim=-1)


def _describe(grid: Tensor, stages: int, clusters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Descriptors and centres of one slice, float16 on the CPU."""
    if grid.shape[1] % stages:
        raise InputError(f"{grid.shape[1]} channels do not divide into {stages} blocks")
    patches = _stages(grid, stages)[0]
    present = present_in(grid).flatten()
    if not present.all():
        patches = patches[:, present]
    if patches.shape[1] < clusters:
        raise InputError(
            f"a grid of {patches.shape[1]} patches is too small for {clusters} clusters",
            fix="Choose fewer clusters",
        )
    centres = torch.stack([_cluster(stage, clusters) for stage in patches])
    pooled, local = _descriptors(grid)
    return pooled.half().cpu(), local.half().cpu(), centres[None].half().cpu()


def _cluster(patches: Tensor, count: int) -> Tensor:
    """(P, C) unit-length patches -> (K, C) unit-length centres, on the CPU."""
    start = patches[torch.tensor(list(k_centres(patches, count, 0)), device=patches.device)]
    rounds = spherical_kmeans(patches.cpu(), start.cpu(), rounds=_ROUNDS, device=patches.device)
    return finish(rounds)
