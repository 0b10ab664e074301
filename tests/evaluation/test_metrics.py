"""Streamed and image metrics against scikit-learn, torchmetrics and plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation.metrics import (
    PixelFigures,
    PixelScores,
    average_precision,
    dice,
    pixel_figures,
    roc_auc,
)

Images = tuple[list[np.ndarray], list[np.ndarray]]


def some_images(step: float | None, seed: int = 0) -> Images:
    """Labels and scores of six images of two sizes, rounded to ``step`` so that many are equal."""
    rng = np.random.default_rng(seed)
    labels, scores = [], []
    for number in range(6):
        label = rng.random((20 + number % 2, 30)) < (0.0 if number == 1 else 0.1)
        score = rng.normal(label * 1.2)
        labels.append(label)
        rounded = score if step is None else np.round(score / step) * step
        scores.append(rounded.astype(np.float32))
    return labels, scores


def figures(images: Images, *, run: int = 500, **settings: float) -> PixelFigures:
    """Streamed figures, in many short runs."""
    with PixelScores(run=run) as pixels:
        for number, (label, score) in enumerate(zip(*images, strict=True)):
            pixels.add(score, label, f"patient {number // 2}")
        found = pixel_figures(pixels, **settings)
    assert found is not None
    return found


def flat(images: Images) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate([part.ravel() for part in parts]) for parts in images)  # type: ignore[return-value]


@pytest.mark.parametrize("step", [None, 0.1, 1.0])
def test_pixel_figures_equal_scikit_learn_and_torchmetrics(step: float | None) -> None:
    images = some_images(step)
    labels, scores = flat(images)
    ours = figures(images)
    assert ours.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert ours.aupr == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    unit = torch.from_numpy(scores.astype(np.float64)).sigmoid(), torch.from_numpy(labels)
    assert ours.auroc == pytest.approx(float(binary_auroc(*unit)), abs=1e-6)
    assert ours.aupr == pytest.approx(float(binary_average_precision(*unit)), abs=1e-6)
    best = max(f1_score(labels, scores >= t) for t in np.unique(scores)[::7])
    assert ours.best_dice >= best - 1e-12
    at_best = f1_score(labels, scores >= np.float32(ours.best_threshold))
    assert ours.best_dice == pytest.approx(at_best, abs=1e-12)


def test_all_scores_equal() -> None:
    label = np.zeros((10, 10), bool)
    label[:2] = True
    ours = figures(([label], [np.zeros((10, 10), np.float32)]))
    assert (ours.auroc, ours.aupr) == (0.5, 0.2)
    assert ours.aupro == pytest.approx(0.15)
    assert ours.best_dice == pytest.approx(2 * 20 / 120)


def test_curve_lies_on_the_exact_one() -> None:
    images = some_images(None)
    labels, scores = flat(images)
    curve = figures(images).curve
    fpr, _, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    at = np.searchsorted(-thresholds, -curve.threshold)
    np.testing.assert_allclose(curve.fpr, fpr[at], atol=1e-12)
    assert np.diff(curve.fpr, prepend=0).max() < 2e-3
    assert np.diff(curve.recall, prepend=0).max() < 1 / labels.sum() + 2e-3
    found = np.array([(scores[labels] >= t).mean() for t in curve.threshold])
    np.testing.assert_allclose(curve.recall, found, atol=1e-12)
    right = np.array([labels[scores >= t].mean() for t in curve.threshold])
    np.testing.assert_allclose(curve.precision, right, atol=1e-12)
    assert (curve.fpr[-1], curve.recall[-1]) == (1, 1)
    assert curve.overlap[-1] == pytest.approx(1)


def plain_pro(images: Images, max_fpr: float) -> float:
    """Threshold by threshold, region by region."""
    everything = np.concatenate([s.ravel() for s in images[1]])
    points = [(0.0, 0.0)]
    for threshold in np.unique(everything)[::-1]:
        overlaps, false, normal = [], 0, 0
        for label, score in zip(*images, strict=True):
            regions, count = ndimage.label(label, structure=np.ones((3, 3)))
            overlaps += [(score[regions == n] >= threshold).mean() for n in range(1, count + 1)]
            false += int((score[~label] >= threshold).sum())
            normal += int((~label).sum())
        points.append((false / normal, float(np.mean(overlaps))))
    fpr, pro = map(np.array, zip(*points, strict=True))
    keep = fpr < max_fpr
    xs, ys = np.append(fpr[keep], max_fpr), np.append(pro[keep], np.interp(max_fpr, fpr, pro))
    return float(np.trapezoid(ys, xs) / max_fpr)


@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
def test_pro_equals_its_definition(max_fpr: float) -> None:
    images = some_images(0.03)
    ours = figures(images, max_fpr=max_fpr).aupro
    assert ours == pytest.approx(plain_pro(images, max_fpr), abs=1e-9)


def test_pro_counts_a_small_region_as_much_as_a_large_one() -> None:
    label = np.zeros((10, 10), bool)
    label[0, 0] = True
    label[4:8, 4:8] = True
    small_found, large_found = np.zeros((2, 10, 10), np.float32)
    small_found[0, 0] = 1
    large_found[4:8, 4:8] = 1
    small = figures(([label], [small_found])).aupro
    assert small == pytest.approx(figures(([label], [large_found])).aupro)
    assert small == pytest.approx(0.5 + 0.5 * 0.15, abs=1e-6)


def test_image_figures_equal_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(200) < 0.3
    scores = np.round(rng.normal(labels * 1.0), 1)
    unit = torch.from_numpy(scores).sigmoid(), torch.from_numpy(labels)
    assert roc_auc(labels, scores) == pytest.approx(float(binary_auroc(*unit)), abs=1e-6)
    expected = float(binary_average_precision(*unit))
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("decimals", [0, 1, 12])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_image_figures_equal_scikit_learns_with_and_without_ties(kind: type, decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    labels = rng.random((30, 100)) < 0.1
    scores = np.round(rng.normal(labels * 1.0), decimals).astype(kind)
    flat = labels.ravel(), scores.ravel()
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(*flat), abs=1e-12)
    expected = average_precision_score(*flat)
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
    scores[3, 4] = np.nan
    with pytest.raises(InputError, match="not finite"):
        roc_auc(labels, scores)


def test_without_both_classes_there_is_no_figure() -> None:
    none, scores = np.zeros((1, 5), bool), np.arange(5, dtype=np.float32)[None]
    assert roc_auc(none, scores) is None
    assert roc_auc(~none, scores) is None
    assert average_precision(none, scores) is None
    assert dice(0, 0, 0) is None
    for label in (none, ~none):
        with PixelScores() as pixels:
            pixels.add(scores, label)
            assert pixel_figures(pixels) is None
    with PixelScores() as pixels:
        assert pixel_figures(pixels) is None


def test_dice() -> None:
    assert dice(1, 1, 2) == 0.5
    assert dice(2, 0, 2) == 1.0
