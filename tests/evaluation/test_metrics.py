"""Metrics against scikit-learn, torchmetrics and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from napari_spatial_ar.evaluation.metrics import area_under_pro, average_precision, dice, roc_auc


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores with many ties."""
    rng = np.random.default_rng(0)
    labels = rng.random((3, 20, 30)) < 0.1
    scores = np.round(rng.normal(labels * 1.2), 1).astype(np.float32)
    return labels, scores


def test_auroc_and_aupr_equal_torchmetrics(scored: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = scored
    theirs = torch.from_numpy(scores.ravel()).sigmoid().double(), torch.from_numpy(labels.ravel())
    assert roc_auc(labels, scores) == pytest.approx(float(binary_auroc(*theirs)), abs=1e-6)
    expected = float(binary_average_precision(*theirs))
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-6)


def test_without_both_classes_there_is_no_figure() -> None:
    none, scores = np.zeros(5, bool), np.arange(5.0)
    assert roc_auc(none, scores) is None
    assert roc_auc(~none, scores) is None
    assert average_precision(none, scores) is None
    assert dice(none, none) is None
    assert area_under_pro([none[None]], [scores[None].astype(np.float32)]) is None


def test_dice() -> None:
    labels = np.array([True, True, False, False])
    assert dice(labels, np.array([True, False, True, False])) == 0.5
    assert dice(labels, labels) == 1.0


def plain_pro(labels: list[np.ndarray], scores: list[np.ndarray], max_fpr: float) -> float:
    """Threshold by threshold, region by region."""
    from scipy import ndimage

    everything = np.concatenate([s.ravel() for s in scores])
    points = [(0.0, 0.0)]
    for threshold in np.unique(everything)[::-1]:
        overlaps, false, normal = [], 0, 0
        for label, score in zip(labels, scores, strict=True):
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
def test_pro_equals_its_definition(scored: tuple[np.ndarray, np.ndarray], max_fpr: float) -> None:
    labels, scores = list(scored[0]), list(scored[1])
    ours = area_under_pro(labels, scores, max_fpr)
    assert ours == pytest.approx(plain_pro(labels, scores, max_fpr), abs=1e-9)


def test_pro_counts_a_small_region_as_much_as_a_large_one() -> None:
    label = np.zeros((10, 10), bool)
    label[0, 0] = True
    label[4:8, 4:8] = True
    small_found, large_found = np.zeros((2, 10, 10), np.float32)
    small_found[0, 0] = 1
    large_found[4:8, 4:8] = 1
    small = area_under_pro([label], [small_found])
    assert small == pytest.approx(area_under_pro([label], [large_found]))
    assert small == pytest.approx(0.5 + 0.5 * 0.15, abs=1e-6)
