"""Two detectors in one score: what looks like a change, and what departs from normal.

`ChangeDetector` finds what looks like a change to normal tissue, and may miss what resembles none
of the synthetic anomalies it was trained on. The other part was trained on normal tissue alone: it
finds whatever is unlike it, at less contrast. Each patch scores

    change / s_change + weight * other / s_other,

s being the standard deviation of each over the patches of held-out normal slices. A slice is scored
by the image score of each part, the mean of the highest 1 % of its patch scores after a 3 x 3 mean.
Both are standardised by their mean and standard deviation over the held-out slices, and added.

The sum is neither a likelihood nor a probability of disease (see `change_detector`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, PatchScores, Step
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.normative.detectors.explanation import Explanation, Quantity
from napari_spatial_ar.normative.detectors.stored import take
from napari_spatial_ar.normative.heatmap import Scoring

__all__ = ["TwoParts", "Weight"]

Weight = Annotated[float, Field(ge=0, le=1e9)]
_CHANGE = "change"
# How slices are scored, whatever the smoothing of the model's heatmap.
_OF_IMAGES = Scoring(smoothing=3, top_share=0.01)
_TINY = 1e-6


class TwoParts(Detector):
    """Log odds of a synthetic change, and departure from normal, in common units.

    Parameters
    ----------
    change : ChangeDetector
        The first part.
    other : Detector
        The second part, a `second`.
    usual : (3, 2) float32
        For each part, on held-out normal slices: standard deviation of patch scores, mean and
        standard deviation of image scores.
    weight : float
        Weight of the second part in the heatmap.
    """

    #: The class of the second part, and its name.
    second: ClassVar[type[Detector]]
    second_name: ClassVar[str]
    #: What the second part measures, within a sentence and as the name of a quantity.
    second_measures: ClassVar[tuple[str, str]]
    unit: ClassVar[str] = "SD of normal tissue"
    needs_synthetic: ClassVar[bool] = True
    replayable: ClassVar[bool] = True

    def __init__(
        self, change: ChangeDetector, other: Detector, usual: Tensor, weight: float = 0.5
    ) -> None:
        self.change = change
        self.other = other
        self.usual = usual
        self.weight = weight

    @property
    def parts(self) -> Mapping[str, Detector]:
        """The change detector, and the second part."""
        return {_CHANGE: self.change, self.second_name: self.other}

    def measure_usual(self, setup: FitContext) -> Generator[Step, None, None]:
        """Set the usual range by the held-out slices of a fit, or by its normals without these."""
        patches: list[Tensor] = []
        images: list[Tensor] = []
        held_out: Iterable[Tensor] = setup.valid
        if not any(True for _ in setup.valid):
            held_out = setup.normals
        for number, grid in enumerate(held_out, start=1):
            both = self.score_both(grid.to(setup.device))
            patches.append(both.flatten(1).cpu())
            images.append(_image_scores(both).cpu())
            yield Step(number, number, "Measuring the usual range")
        of_images = torch.cat(images, dim=1)
        self.usual = torch.stack(
            [
                _present(torch.cat(patches, dim=1)).std(dim=1, correction=0),
                of_images.mean(dim=1),
                of_images.std(dim=1, correction=0),
            ]
        )
        self.usual[::2].clamp_min_(_TINY)

    @torch.inference_mode()
    def score_both(self, grid: Tensor) -> Tensor:
        """Patch scores of each part in its own unit, (2, B, Hp, Wp) float32."""
        return torch.stack([part.score(grid) for part in self.parts.values()])

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is the weighted sum already."""
        return 1.0

    def score(self, grid: Tensor) -> Tensor:
        """Weighted sum of both parts; see `Detector.score`."""
        return self.all_scores(grid).patches

    def image_scores(self, grid: Tensor) -> Tensor:
        """Sum of both image scores in standard deviations; see `Detector.image_scores`."""
        images = self.all_scores(grid).images
        assert images is not None
        return images

    def all_scores(self, grid: Tensor) -> PatchScores:
        """See `Detector.all_scores`; computes the parts only once."""
        both = self.score_both(grid)
        spread, mean, deviation = self.usual
        change, other = both / spread[:, None, None, None]
        images = ((_image_scores(both) - mean[:, None]) / deviation[:, None]).sum(dim=0)
        parts = dict(zip(self.parts, both, strict=True))
        return PatchScores(change + self.weight * other, images, parts)

    @torch.inference_mode()
    def explain(self, grid: Tensor, row: int, column: int) -> Explanation:
        """Explain a score by both parts in their own units, and the contribution of each."""
        both = self.score_both(grid)[:, 0, row, column]
        change, other = (both / self.usual[0]).tolist()
        added = self.weight * other
        own = [
            Quantity(what, value / part.heatmap_divisor, part.unit)
            for what, value, part in zip(
                ("Similarity to a synthetic anomaly", self.second_measures[1]),
                both.tolist(),
                self.parts.values(),
                strict=True,
            )
        ]
        found = (
            Quantity("Score of this patch alone", change + added, self.unit),
            Quantity("of it from similarity to an anomaly", change, "SD"),
            Quantity(f"of it from {self.second_measures[0]}", added, "SD"),
            *own,
        )
        return Explanation(self.meaning, found)

    def parameters(self) -> dict[str, Any]:
        """Return the weight and the parameters of both parts."""
        parts = {name: part.parameters() for name, part in self.parts.items()}
        return {"weight": self.weight, **parts}

    def tensors(self) -> dict[str, Tensor]:
        """Return the usual ranges and the tensors of both parts."""
        parts = {
            f"{name}.{key}": tensor
            for name, part in self.parts.items()
            for key, tensor in part.tensors().items()
        }
        return {"usual": self.usual.cpu().contiguous(), **parts}

    @classmethod
    def from_tensors(cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        own: dict[str, dict[str, Tensor]] = {_CHANGE: {}, cls.second_name: {}}
        for key, tensor in tensors.items():
            name, _, rest = key.partition(".")
            own.setdefault(name, {})[rest] = tensor
        change = ChangeDetector.from_tensors(parameters[_CHANGE], own[_CHANGE])
        other = cls.second.from_tensors(parameters[cls.second_name], own[cls.second_name])
        if len(change.whitening.mean) // 2 != cls.channels_of(other):
            raise ModelFileError("its two parts do not fit each other")
        return cls(change, other, take(tensors, "usual", 3, 2), parameters["weight"])

    @staticmethod
    @abstractmethod
    def channels_of(other: Any) -> int:
        """D of the embeddings that a second part scores."""

    def to(self, device: torch.device) -> Self:
        """Move its tensors to a device, in place."""
        for part in self.parts.values():
            part.to(device)
        self.usual = self.usual.to(device)
        return self


def _present(both: Tensor) -> Tensor:
    """Leave out skipped patches, (2, N) to (2, n)."""
    return both[:, ~both[0].isnan()]


def _image_scores(both: Tensor) -> Tensor:
    """(2, B, Hp, Wp) -> (2, B): image score of each part."""
    smooth = _OF_IMAGES.smooth(both.flatten(0, 1))
    return _OF_IMAGES.image_scores(smooth).reshape(both.shape[:2])
