"""Resampled figures against a real resampling of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from napari_spatial_ar.evaluation.bootstrap import (
    ImageSample,
    PixelSample,
    draw_weights,
    interval,
    resample_images,
    resample_pixels,
    resample_shares,
)
from napari_spatial_ar.evaluation.metrics import PixelScores, pixel_figures

PATIENTS = 6


@pytest.fixture
def patients() -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and labels of patients whose lesions are more or less easy to see."""
    rng = np.random.default_rng(2)
    result = []
    for number in range(PATIENTS):
        label = rng.random((40, 50)) < 0.03 * number
        result.append((rng.normal(label * (0.5 + 0.3 * number)).astype(np.float32), label))
    return result


def drawn(patients: list[tuple[np.ndarray, np.ndarray]], weights: np.ndarray) -> PixelScores:
    pixels = PixelScores()
    for (score, label), times in zip(patients, weights.astype(int), strict=True):
        for _ in range(times):
            pixels.add(score, label)
    return pixels


def test_draws_equal_resampled_pixels(patients: list[tuple[np.ndarray, np.ndarray]]) -> None:
    weights = np.vstack([np.ones(PATIENTS), draw_weights(PATIENTS, 8, seed=3)])
    with PixelScores() as pixels:
        for number, (score, label) in enumerate(patients):
            pixels.add(score, label, f"p{number}")
        figures = pixel_figures(pixels)
        assert figures is not None
        sample = PixelSample.of(pixels, figures.curve.threshold)
    ours = resample_pixels(sample, weights)
    for number, weight in enumerate(weights):
        with drawn(patients, weight) as pixels:
            exact = pixel_figures(pixels)
        assert exact is not None
        assert ours["pixel_auroc"][number] == pytest.approx(exact.auroc, abs=1e-3)
        assert ours["pixel_aupr"][number] == pytest.approx(exact.aupr, abs=2e-3)
        assert ours["pixel_aupro"][number] == pytest.approx(exact.aupro, abs=1e-3)
        assert ours["best_dice_oracle"][number] == pytest.approx(exact.best_dice, abs=2e-3)
    turned = sample.ordered(sample.patients[::-1])
    again = resample_pixels(turned, weights[:, ::-1])
    np.testing.assert_allclose(again["pixel_aupr"], ours["pixel_aupr"])


def test_a_draw_without_lesions_has_no_figure(
    patients: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    with PixelScores() as pixels:
        for number, (score, label) in enumerate(patients):
            pixels.add(score, label, f"p{number}")
        sample = PixelSample.of(pixels, np.linspace(5, -6, 50, dtype=np.float32))
    healthy = np.zeros((1, PATIENTS))
    healthy[0, 0] = PATIENTS  # patient 0 has no lesion
    assert all(np.isnan(values).all() for values in resample_pixels(sample, healthy).values())


def test_image_draws_are_exact() -> None:
    rng = np.random.default_rng(4)
    abnormal = rng.random(60) < 0.4
    scores = np.round(rng.normal(abnormal * 1.0), 1)
    patient = np.sort(rng.integers(0, 12, 60))
    weights = np.vstack([draw_weights(12, 6, seed=1), np.eye(12)[:1] * (~abnormal).all()])
    ours = resample_images(ImageSample(scores, abnormal, patient), weights)
    for number, weight in enumerate(weights[:-1]):
        each = weight[patient]
        auroc = roc_auc_score(abnormal, scores, sample_weight=each)
        precision = average_precision_score(abnormal, scores, sample_weight=each)
        assert ours["image_auroc"][number] == pytest.approx(auroc, abs=1e-9)
        assert ours["image_ap"][number] == pytest.approx(precision, abs=1e-9)
    assert np.isnan(ours["image_auroc"][-1])


def test_shares_are_weighted_sums() -> None:
    counts = {"found": [5, 0], "false": [1, 3], "abnormal": [10, 0], "flagged": [1, 4]}
    arrays = {name: np.array(values, float) for name, values in counts.items()}
    arrays["tissue"] = np.array([100.0, 200.0])
    figures = resample_shares(arrays, np.array([[1.0, 1.0], [2.0, 0.0]]))
    np.testing.assert_allclose(figures["dice_at_fpr"], [10 / 19, 20 / 32])
    np.testing.assert_allclose(figures["realised_fpr"], [5 / 300, 2 / 200])


def test_weights_draw_as_many_patients_and_repeat_for_a_seed() -> None:
    weights = draw_weights(7, 500, seed=0)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_array_equal(weights, draw_weights(7, 500, seed=0))
    assert (weights != draw_weights(7, 500, seed=1)).any()


def test_interval_holds_95_percent_and_leaves_empty_draws_out() -> None:
    values = np.append(np.arange(1001.0), np.nan)
    assert interval(values) == pytest.approx((25, 975))
    assert interval(np.array([1.0, np.nan, np.nan])) is None
