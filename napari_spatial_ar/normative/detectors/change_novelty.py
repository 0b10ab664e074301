"""Two kinds of evidence in one score: similarity to a synthetic anomaly, and novelty.

The two parts of `TwoParts` are `ChangeDetector` and `SurroundingsBank`, the distance to the nearest
patch of a normal slice.

Defaults: those of the two parts, but 2,048 means of 65,536 patches for the bank. On brain_flair's
validation split (5 x 5, two seeds, benchmarks/results/bank_rows.json) the pixel AUPR was 0.620 and
the image AUROC 0.964; with 16,384 patches themselves, which take eight times as long, 0.621 and
0.961, with 2,048 of them 0.605 and 0.956. ``weight`` is 0.5; with 0 the image score is the same and
the heatmap shows changes alone. It was chosen by pixel AUPR on the same split with 16,384 patches,
where 0, 0.25, 0.5, 1 and 2 gave 0.576, 0.594, 0.608, 0.625 and 0.633 (one seed, 5 x 5). It is below
the best of them because that split has four patients with lesions, and whatever is added to the
changes blurs their outline.

Cost: that of the two parts. Scoring takes some 30 ms a slice on two cores; the file has 3 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector, StoredChange
from napari_spatial_ar.normative.detectors.grids import check_grid, score_rows
from napari_spatial_ar.normative.detectors.surroundings_bank import (
    StoredBank,
    SurroundingsBank,
    describe,
)
from napari_spatial_ar.normative.detectors.two_parts import TwoParts, Weight
from napari_spatial_ar.normative.model_schema import Part

__all__ = ["ChangeNovelty"]


class _Stored(Part):
    weight: Weight
    change: StoredChange
    novelty: StoredBank


class ChangeNovelty(TwoParts):
    """Log odds of a synthetic change, and distance from normal patches; see `TwoParts`."""

    name: ClassVar[str] = "change-novelty"
    stored: ClassVar[type[Part]] = _Stored
    title: ClassVar[str] = "Change and novelty"
    second: ClassVar[type[Detector]] = SurroundingsBank
    second_name: ClassVar[str] = "novelty"
    second_measures: ClassVar[tuple[str, str]] = (
        "distance to normal",
        "Distance to the nearest normal patch",
    )
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
    later_options: ClassVar[Mapping[str, Any]] = {"means": 0}
    other: SurroundingsBank

    @classmethod
    def learn(
        cls,
        grids: Iterable[Any],
        setup: FitContext,
        *,
        weight: float = 0.5,
        slices: int = 600,
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
        yield from found.measure_usual(setup)
        return Learned(found.to(torch.device("cpu")), change.summary)

    @torch.inference_mode()
    def score_both(self, grid: Tensor) -> Tensor:
        """See `TwoParts.score_both`: both parts describe patches in the same way, only once."""
        change, novelty = self.change, self.other
        # But they whiten the descriptions differently.
        described = describe(check_grid(grid, self.channels_of(novelty)))

        def both(rows: Tensor) -> Tensor:
            odds = change.odds(change.whitening.of_described(rows))
            distances = novelty.distances(novelty.whitening.of_described(rows))
            return torch.stack([odds, distances])

        return score_rows(described, both).reshape(2, len(grid), *grid.shape[2:])

    @staticmethod
    def channels_of(other: SurroundingsBank) -> int:
        """D of the embeddings that the bank was fitted on."""
        return len(other.whitening.mean) // 2
