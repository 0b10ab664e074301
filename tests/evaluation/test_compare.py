"""Comparisons whose outcome is known beforehand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_spatial_ar.datasets.folders import bmad_items
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation.baselines import ComparedMethod
from napari_spatial_ar.evaluation.compare import Comparison, compare
from napari_spatial_ar.evaluation.evaluate import evaluate
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.scores import SliceScore
from tests.evaluation.conftest import BrightnessModel


class NoisyModel(BrightnessModel):
    """Brightness of single pixels, with noise: smoothing helps, more of it less."""

    def __init__(self, seed: int, noise: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.noise, self.seed = noise, seed
        self.header.training = {"seed": seed}

    def score_slice(self, image: np.ndarray, *, window: Any) -> SliceScore:
        rng = np.random.default_rng(int(image.sum()) + self.seed)
        grid = (image + rng.normal(0, self.noise, image.shape)).astype(np.float32)
        return self.header.scoring(torch.from_numpy(grid), image.shape, 1.0)  # type: ignore[no-any-return]


def compared(name: str, *models: BrightnessModel) -> ComparedMethod:
    return ComparedMethod(name, models)  # type: ignore[arg-type]


@pytest.fixture
def methods() -> list[ComparedMethod]:
    return [
        compared("good", NoisyModel(0, 20), NoisyModel(1, 20)),
        compared("poor", NoisyModel(0, 60), NoisyModel(1, 60)),
    ]


@pytest.fixture
def comparison(cohort: Path, methods: list[ComparedMethod]) -> Comparison:
    return compare(cohort, methods, fpr=0.1, draws=200)


def test_each_has_its_best_smoothing_of_the_validation_split(
    cohort: Path, comparison: Comparison
) -> None:
    for result in comparison.results:
        assert set(result.valid_aupr) == {1, 3, 5, 7}
        by_hand = {}
        for side in result.valid_aupr:
            values = []
            for model in result.method.models:
                noisy = NoisyModel(model.seed, model.noise)  # type: ignore[attr-defined]
                noisy.header.scoring = Scoring(side)
                figures = evaluate(cohort, noisy, split="valid", fpr=0.1, draws=2)  # type: ignore[arg-type]
                values.append(figures.pixel_aupr)
            by_hand[side] = np.mean(values)
        assert result.valid_aupr == pytest.approx(by_hand)
        assert result.smoothing == max(by_hand, key=lambda side: by_hand[side]) > 1


def test_thresholds_are_calibrated_at_that_smoothing(cohort: Path, comparison: Comparison) -> None:
    result = comparison.results[0]
    model = result.method.models[0]
    scores = []
    for item in bmad_items(cohort, "valid"):
        if not item.abnormal:
            from napari_spatial_ar.imaging.raster import read_raster

            image, _ = read_raster(item.image)
            raw = model.score_slice(image, window=(0.0, 255.0)).grid
            smooth = Scoring(result.smoothing)(torch.from_numpy(raw), image.shape, 1.0).nll  # type: ignore[arg-type]
            scores.append(smooth[tissue_mask(image / 255)])
    expected = np.quantile(np.concatenate(scores), 0.9)
    evaluation = result.measured[0].evaluation
    assert evaluation.threshold == pytest.approx(expected, rel=1e-5)
    assert evaluation.dice_at_fpr is not None
    assert 0.02 < (evaluation.realised_fpr or 0) < 0.4


def test_ratios_are_paired_and_means_over_seeds(comparison: Comparison) -> None:
    good, poor = comparison.results
    values = [m.evaluation.pixel_aupr for m in good.measured]
    assert good.mean("pixel_aupr") == pytest.approx(np.mean(values))  # type: ignore[arg-type]
    assert good.seed_range("pixel_aupr") == (min(values), max(values))  # type: ignore[type-var]
    ratio = next(r for r in comparison.ratios if r.figure == "pixel_aupr")
    assert (ratio.first, ratio.other) == ("good", "poor")
    assert ratio.ratio == pytest.approx(good.mean("pixel_aupr") / poor.mean("pixel_aupr"))  # type: ignore[operator]
    assert ratio.interval is not None
    low, high = ratio.interval
    assert 1 < low < ratio.ratio < high
    # Paired: the interval is that of the quotients of the same draws.
    quotients = good.draws("pixel_aupr") / poor.draws("pixel_aupr")  # type: ignore[operator]
    assert ratio.interval == pytest.approx(np.quantile(quotients, [0.025, 0.975]))


def test_a_method_against_itself_is_exactly_one(cohort: Path) -> None:
    twins = [compared("one", NoisyModel(0, 20)), compared("two", NoisyModel(0, 20))]
    result = compare(cohort, twins, smoothing=3, fpr=0.1, draws=50)
    assert [r.smoothing for r in result.results] == [3, 3]
    assert all(r.ratio == 1 and r.interval == (1, 1) for r in result.ratios)


def test_as_json_names_no_patient(comparison: Comparison) -> None:
    text = json.dumps(comparison.to_dict(), allow_nan=False)
    assert "Doe" not in text
    first = json.loads(text)["methods"][0]
    assert (first["name"], len(first["seeds"])) == ("good", 2)
    low, high = first["intervals"]["pixel_aupr"]
    assert low < first["mean"]["pixel_aupr"] < high


def test_without_labels_models_keep_their_smoothing(
    cohort: Path, methods: list[ComparedMethod]
) -> None:
    for split in ("valid", "test"):
        shutil.rmtree(cohort / split / "Ungood" / "label")
    result = compare(cohort, methods, fpr=0.1, draws=20)
    assert [r.smoothing for r in result.results] == [1, 1]
    assert "no labelled abnormal images" in result.notes[0]
    assert result.results[0].mean("pixel_aupr") is None
    assert [r.figure for r in result.ratios] == ["image_auroc", "image_auroc"][:1]
    assert result.results[0].mean("realised_fpr") is not None


def test_without_validation_split_the_models_own_threshold_holds(
    cohort: Path, methods: list[ComparedMethod]
) -> None:
    shutil.rmtree(cohort / "valid")
    result = compare(cohort, methods, fpr=0.1, draws=20)
    assert "no validation split" in result.notes[0]
    assert result.results[0].measured[0].evaluation.threshold == 150.0
    smooth = compare(cohort, methods, smoothing=3, fpr=0.1, draws=20)
    assert smooth.results[0].measured[0].evaluation.threshold is None


def test_a_share_that_was_not_calibrated_is_a_note(
    cohort: Path, methods: list[ComparedMethod]
) -> None:
    result = compare(cohort, methods, smoothing=1, fpr=0.0001, draws=20)
    assert any("was not calibrated" in note for note in result.notes)
    assert result.results[0].mean("dice_at_fpr") is None


def test_wrong_use(cohort: Path, methods: list[ComparedMethod]) -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        compare(cohort, [])
    with pytest.raises(InputError, match="odd number"):
        compare(cohort, methods, smoothing=2)


def test_the_bad_image_is_named(cohort: Path, bank: Any) -> None:
    from PIL import Image

    path = next((cohort / "test" / "good" / "img").iterdir())
    Image.new("L", (40, 40), 9).save(path)
    with pytest.raises(InputError, match="same value") as caught:
        evaluate(cohort, replace_none(bank))
    assert caught.value.path == path


def replace_none(model: Any) -> Any:
    """The same model; its header is rebuilt so that no test changes another's."""
    model.header = replace(model.header)
    return model
