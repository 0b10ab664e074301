"""What each method says of a patch."""

from __future__ import annotations

import pytest
import torch

from napari_spatial_ar.normative.detectors import DETECTORS, SpatialARDetector
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.normative.detectors.change_novelty import ChangeNovelty
from napari_spatial_ar.normative.detectors.surroundings_bank import SurroundingsBank

GRID = torch.randn(1, 8, 6, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", DETECTORS)
def test_every_method_says_what_its_score_means(name: str) -> None:
    meaning = DETECTORS[name].meaning
    assert meaning.endswith(".")
    assert 40 < len(meaning) < 200


@pytest.mark.parametrize("raster", ["forward", "both"])
def test_the_prediction_error_is_what_the_likelihood_is_made_of(raster: str) -> None:
    torch.manual_seed(1)
    backward = SpatialAR(8, hidden=8) if raster == "both" else None
    detector = SpatialARDetector(SpatialAR(8, hidden=8), backward)
    told = {q.name: q.value for q in detector.explain(GRID, 2, 3).quantities}
    errors = [value for name, value in told.items() if name.startswith("Prediction error")]
    assert len(errors) == (2 if backward else 1)
    # A / D = log(2 pi) / 2 + mean squared error / 2
    expected = 0.918939 + sum(e**2 for e in errors) / len(errors) / 2
    assert told["Score of this patch alone"] == pytest.approx(expected, rel=1e-4)
    assert told["Size of the embedding"] == pytest.approx(
        float(GRID[0, :, 2, 3].square().mean().sqrt()), rel=1e-5
    )


def test_change_and_novelty_add_up() -> None:
    novelty = SurroundingsBank.fit([GRID, GRID.flip(-1)], rows=50, components=4)
    weights = {
        "hidden.weight": torch.randn(5, 4, generator=torch.Generator().manual_seed(2)),
        "hidden.bias": torch.zeros(5),
        "out.weight": torch.ones(1, 5),
        "out.bias": torch.zeros(1),
    }
    change = ChangeDetector(novelty.whitening, weights, zero=-9.0)
    usual = torch.tensor([[2.0, 0.1], [0.0, 0.0], [1.0, 1.0]])
    detector = ChangeNovelty(change, novelty, usual, weight=0.5)
    told = {q.name: q.value for q in detector.explain(GRID + 0.3, 4, 1).quantities}
    alone = told["Score of this patch alone"]
    assert alone == pytest.approx(float(detector.score(GRID + 0.3)[0, 4, 1]), rel=1e-5)
    parts = told["of it from similarity to an anomaly"] + told["of it from distance to normal"]
    assert alone == pytest.approx(parts, rel=1e-6)
    assert told["Similarity to a synthetic anomaly"] == pytest.approx(
        2 * told["of it from similarity to an anomaly"], rel=1e-5
    )
