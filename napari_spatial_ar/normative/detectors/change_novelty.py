"""Two kinds of evidence in one score: similarity to a synthetic anomaly, and novelty.

`ChangeDetector` finds what looks like a change to normal tissue, and may miss what resembles none
of the synthetic anomalies it was trained on; `SurroundingsBank` is independent of these and finds
whatever no normal slice contains, at less contrast. Each patch scores

    change / s_change + weight * novelty / s_novelty,

s being the standard deviation of each over the patches of held-out normal slices. A slice is scored
by the image score of each part, the mean of the highest 1 % of its patch scores after a 3 x 3 mean.
Both are standardised by their mean and standard deviation over the held-out slices, and added.

Defaults: those of the two parts, but 2,048 means of 65,536 patches for the bank. On brain_flair's
validation split (5 x 5, two seeds, benchmarks/results/bank_rows.json) the pixel AUPR was 0.620 and
the image AUROC 0.964; with 16,384 patches themselves, which take eight times as long, 0.621 and
0.961, with 2,048 of them 0.605 and 0.956. ``weight`` is 0.5; with 0 the image score is the same and
the heatmap shows changes alone. It was chosen by pixel AUPR on the same split with 16,384 patches,
where 0, 0.25, 0.5, 1 and 2 gave 0.576, 0.594, 0.608, 0.625 and 0.633 (one seed, 5 x 5). It is below
the best of them because that split has four patients with lesions, and whatever is added to the
changes blurs their outline.

Cost: that of the two parts. Scoring takes some 30 ms a slice on two cores; the file has 3 MB.

The score is neither a likelihood nor a probability of disease (see `change_detector`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning, Step
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector, StoredChange
from napari_spatial_ar.normative.detectors.explanation import Explanation, Quantity
from napari_spatial_ar.normative.detectors.grids import check_grid, score_rows
from napari_spatial_ar.normative.detectors.stored import take
from napari_spatial_ar.normative.detectors.surroundings_bank import (
    StoredBank,
    SurroundingsBank,
    describe,
)
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model_schema import Part

__all__ = ["ChangeNovelty"]

# How slices are scored, whatever the smoothing of the model's heatmap.
_OF_IMAGES = Scoring(smoothing=3, top_share=0.01)
_PARTS = ("change", "novelty")
_TINY = 1e-6


class _Stored(Part):
    weight: Annotated[float, Field(ge=0, le=1e9)]
    change: StoredChange
    novelty: StoredBank


class ChangeNovelty(Detector):
    """Log odds of a synthetic change, and distance from normal patches, in common units.

    Parameters
    ----------
    change : ChangeDetector
        The first part.
    novelty : SurroundingsBank
        The second part.
    usual : (3, 2) float32
        For each part, on held-out normal slices: standard deviation of patch scores, mean and
        standard deviation of image scores.
    weight : float
        Weight of novelty in the heatmap.
    """

    name: ClassVar[str] = "change-novelty"
    stored: ClassVar[type[Part]] = _Stored
    title: ClassVar[str] = "Change and novelty"
    unit: ClassVar[str] = "SD of normal tissue"
    summary: ClassVar[str] = (
        "similarity to synthetic anomalies, and distance to the nearest normal patch"
    )
    meaning: ClassVar[str] = (
        "How much the patch looks like a synthetic anomaly in normal tissue, plus how far it is "
        "from normal patches, both in standard deviations of normal tissue."
    )
    reference: ClassVar[str] = f"{ChangeDetector.reference}; {SurroundingsBank.reference}"
    cost: ClassVar[str] = (
        "fits in minutes (changed slices are embedded too), scores in milliseconds, a file of 3 MB"
    )
    needs_synthetic: ClassVar[bool] = True
    replayable: ClassVar[bool] = True
    later_options: ClassVar[Mapping[str, Any]] = {"means": 0}

    def __init__(
        self, change: ChangeDetector, novelty: SurroundingsBank, usual: Tensor, weight: float = 0.5
    ) -> None:
        self.change = change
        self.novelty = novelty
        self._detectors: tuple[Detector, Detector] = (change, novelty)
        self.usual = usual
        self.weight = weight

    @classmethod
    def learn(
        cls,
        grids: Iterable[Any],
        setup: FitContext,
        *,
        weight: float = 0.5,
        slices: int = 300,
        rows: int = 65_536,
        means: int = 2048,
    ) -> Learning[ChangeNovelty]:
        """Learn both parts, then measure their usual range; see `Detector.learn`.

        Parameters
        ----------
        grids : iterable of ((B, D, Hp, Wp) float, (B, Hp, Wp) integer)
            Changed slices, as for `ChangeDetector.learn`.
        setup
            As for every detector; ``normals`` are needed. The usual range is measured on
            ``valid``, or on ``normals`` if it is empty.
        weight : float, at least 0
            Weight of novelty in the heatmap.
        slices : int, at least 1
            Changed slices, at most.
        rows : int, at least 1
            Normal patches drawn, at most.
        means : int, at least 0
            Number of means that replace the patches drawn; 0: the patches themselves are used.
        """
        change = yield from ChangeDetector.learn(grids, setup, slices=slices)
        novelty = yield from SurroundingsBank.learn(setup.normals, setup, rows=rows, means=means)
        found = cls(change.detector, novelty.detector, torch.ones(3, 2), weight).to(setup.device)
        patches: list[Tensor] = []
        images: list[Tensor] = []
        held_out = setup.valid if any(True for _ in setup.valid) else setup.normals
        for number, grid in enumerate(held_out, start=1):
            both = found.parts(grid.to(setup.device))
            patches.append(both.flatten(1).cpu())
            images.append(_image_scores(both).cpu())
            yield Step(number, number, "Measuring the usual range")
        of_images = torch.cat(images, dim=1)
        found.usual = torch.stack(
            [
                _present(torch.cat(patches, dim=1)).std(dim=1, correction=0),
                of_images.mean(dim=1),
                of_images.std(dim=1, correction=0),
            ]
        )
        found.usual[::2].clamp_min_(_TINY)
        return Learned(found.to(torch.device("cpu")), change.summary)

    @torch.inference_mode()
    def parts(self, grid: Tensor) -> Tensor:
        """Patch scores of each part in its own unit, (2, B, Hp, Wp) float32."""
        change, novelty = self.change, self.novelty
        # Both describe patches the same way, but whiten the descriptions differently.
        described = describe(check_grid(grid, len(change.whitening.mean) // 2))

        def both(rows: Tensor) -> Tensor:
            odds = change.odds(change.whitening.of_described(rows))
            distances = novelty.distances(novelty.whitening.of_described(rows))
            return torch.stack([odds, distances])

        return score_rows(described, both).reshape(2, len(grid), *grid.shape[2:])

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the weighted sum already."""
        return 1.0

    def score(self, grid: Tensor) -> Tensor:
        """Weighted sum of both parts; see `Detector.score`."""
        return self.all_scores(grid)[0]

    def image_scores(self, grid: Tensor) -> Tensor:
        """Sum of both image scores in standard deviations; see `Detector.image_scores`."""
        return self.all_scores(grid)[1]

    def all_scores(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Patch and image scores as in `Detector.all_scores`; computes the parts only once."""
        both = self.parts(grid)
        spread, mean, deviation = self.usual
        change, novelty = both / spread[:, None, None, None]
        images = ((_image_scores(both) - mean[:, None]) / deviation[:, None]).sum(dim=0)
        return change + self.weight * novelty, images

    @torch.inference_mode()
    def explain(self, grid: Tensor, row: int, column: int) -> Explanation:
        """Explain a score by both parts in their own units, and the contribution of each."""
        both = self.parts(grid)[:, 0, row, column]
        change, novelty = (both / self.usual[0]).tolist()
        log_odds, distance = both.tolist()
        added = self.weight * novelty
        found = (
            Quantity("Score of this patch alone", change + added, self.unit),
            Quantity("of it from similarity to an anomaly", change, "SD"),
            Quantity("of it from distance to normal", added, "SD"),
            Quantity("Similarity to a synthetic anomaly", log_odds, self._detectors[0].unit),
            Quantity("Distance to the nearest normal patch", distance, self._detectors[1].unit),
        )
        return Explanation(self.meaning, found)

    def parameters(self) -> dict[str, Any]:
        """Return the weight and the parameters of both parts."""
        parts = zip(_PARTS, self._detectors, strict=True)
        return {"weight": self.weight, **{name: part.parameters() for name, part in parts}}

    def tensors(self) -> dict[str, Tensor]:
        """Return the usual ranges and the tensors of both parts."""
        parts = {
            f"{name}.{key}": tensor
            for name, part in zip(_PARTS, self._detectors, strict=True)
            for key, tensor in part.tensors().items()
        }
        return {"usual": self.usual.cpu().contiguous(), **parts}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> ChangeNovelty:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        own: dict[str, dict[str, Tensor]] = {name: {} for name in _PARTS}
        for key, tensor in tensors.items():
            name, _, rest = key.partition(".")
            own.setdefault(name, {})[rest] = tensor
        change = ChangeDetector.from_tensors(parameters["change"], own["change"])
        novelty = SurroundingsBank.from_tensors(parameters["novelty"], own["novelty"])
        if len(change.whitening.mean) != len(novelty.whitening.mean):
            raise ModelFileError("its two parts do not fit each other")
        return cls(change, novelty, take(tensors, "usual", 3, 2), parameters["weight"])

    def to(self, device: torch.device) -> ChangeNovelty:
        """Move its tensors to a device, in place."""
        for detector in self._detectors:
            detector.to(device)
        self.usual = self.usual.to(device)
        return self


def _present(both: Tensor) -> Tensor:
    """Leave out skipped patches, (2, N) to (2, n)."""
    return both[:, ~both[0].isnan()]


def _image_scores(both: Tensor) -> Tensor:
    """(2, B, Hp, Wp) -> (2, B): image score of each part."""
    smooth = _OF_IMAGES.smooth(both.flatten(0, 1))
    return _OF_IMAGES.image_scores(smooth).reshape(both.shape[:2])
