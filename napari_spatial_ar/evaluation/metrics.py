"""Detection metrics, from pixel or image scores and labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from napari_spatial_ar.evaluation.pixel_scores import Floats, PixelScores

__all__ = [
    "PRO_MAX_FPR",
    "Curve",
    "PixelFigures",
    "average_precision",
    "dice",
    "pixel_figures",
    "roc_auc",
]

#: False-positive share at which the area under the PRO curve ends, as in the literature.
PRO_MAX_FPR = 0.3
# A curve keeps a point where one of its shares passes another of so many steps.
_STEPS = 1024
# The low false-positive shares are kept finer: so many points for each power of ten.
_STEPS_A_DECADE = 64


def roc_auc(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float | None:
    """Area under the ROC curve; None unless both classes are there."""
    if labels.all() or not labels.any():
        return None
    return float(roc_auc_score(labels.ravel(), scores.ravel()))


def average_precision(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float | None:
    """Area under the precision-recall curve as average precision; None without positives."""
    if not labels.any():
        return None
    return float(average_precision_score(labels.ravel(), scores.ravel()))


def dice(found: float, false: float, abnormal: float) -> float | None:
    """Dice overlap of a mask with the label; None where both are empty.

    Parameters
    ----------
    found, false : float
        Abnormal and normal pixels in the mask.
    abnormal : float
        Pixels in the label.
    """
    total = found + false + abnormal
    return 2 * found / total if total else None


@dataclass(frozen=True)
class Curve:
    """Points of the ROC, precision-recall and PRO curves, thresholds falling; all (n,).

    Parameters
    ----------
    threshold : float32
        A pixel is found where its score is at least this.
    fpr : float64
        Share of the normal pixels found.
    recall : float64
        Share of the abnormal pixels found.
    precision : float64
        Share of what is found that is abnormal.
    overlap : float64
        Mean over connected abnormal regions of the share of the region found.
    """

    threshold: npt.NDArray[np.float32] = field(repr=False)
    fpr: Floats = field(repr=False)
    recall: Floats = field(repr=False)
    precision: Floats = field(repr=False)
    overlap: Floats = field(repr=False)


@dataclass(frozen=True)
class PixelFigures:
    """Exact figures over all pixels at once; see `pixel_figures`."""

    auroc: float
    aupr: float
    aupro: float
    best_dice: float
    best_threshold: float
    curve: Curve = field(repr=False)


def pixel_figures(scores: PixelScores, *, max_fpr: float = PRO_MAX_FPR) -> PixelFigures | None:
    """Work out every threshold-free figure in one pass over the scores from high to low.

    - AUROC: area under recall against the false-positive rate, ties as straight lines.
    - AUPR: average precision, the sum of precision times the step in recall over all distinct
      scores (scikit-learn's definition).
    - AUPRO (Bergmann et al., CVPR 2020): area under the mean overlap of connected regions against
      the false-positive rate up to ``max_fpr``, as a share of that.
    - Best Dice: the largest over all thresholds. The threshold is chosen with the labels, so it
      is an oracle's.

    Parameters
    ----------
    scores : PixelScores
        Every pixel.
    max_fpr : float
        Where the area under the PRO curve ends.

    Returns
    -------
    PixelFigures or None
        None unless there are normal and abnormal pixels. The curve holds at most some 2,500
        points; the areas are over all.
    """
    totals = scores.totals
    if not totals.normal or not totals.abnormal:
        return None
    auroc = aupr = area = 0.0
    best, best_threshold = 0.0, np.inf
    false = found = overlap = 0.0
    kept = []
    for block in scores.descending():
        falses = np.concatenate([[false], false + np.cumsum(block.normal)])
        founds = np.concatenate([[found], found + np.cumsum(block.abnormal)])
        overlaps = np.concatenate([[overlap], overlap + np.cumsum(block.share)])
        fpr, recall = falses / totals.normal, founds / totals.abnormal
        pro = overlaps / totals.regions
        precision = founds[1:] / (founds[1:] + falses[1:])
        auroc += float(np.trapezoid(recall, fpr))
        aupr += float(np.sum(np.diff(recall) * precision))
        if fpr[0] < max_fpr:
            inside = fpr <= max_fpr
            area += float(np.trapezoid(pro[inside], fpr[inside]))
            if not inside.all():
                last = int(np.flatnonzero(inside)[-1])
                at_end = np.interp(max_fpr, fpr[last : last + 2], pro[last : last + 2])
                area += float((max_fpr - fpr[last]) * (pro[last] + at_end) / 2)
        overlap_with_label = 2 * founds[1:] / (founds[1:] + falses[1:] + totals.abnormal)
        top = int(overlap_with_label.argmax())
        if overlap_with_label[top] > best:
            best, best_threshold = float(overlap_with_label[top]), float(block.score[top])
        at = _worth_keeping(fpr, recall)
        kept.append((block.score[at], fpr[1:][at], recall[1:][at], precision[at], pro[1:][at]))
        false, found, overlap = float(falses[-1]), float(founds[-1]), float(overlaps[-1])
    return PixelFigures(
        auroc=auroc,
        aupr=aupr,
        aupro=area / max_fpr,
        best_dice=best,
        best_threshold=best_threshold,
        curve=Curve(*(np.concatenate(column) for column in zip(*kept, strict=True))),
    )


def _worth_keeping(fpr: Floats, recall: Floats) -> npt.NDArray[np.intp]:
    """Index of the points after which a share enters another step; the last one always is."""
    low = np.log10(np.maximum(fpr, 1e-6)) * _STEPS_A_DECADE
    steps = [np.floor(values) for values in (fpr * _STEPS, recall * _STEPS, low)]
    passes = np.any([np.diff(step) != 0 for step in steps], axis=0)
    at_end = fpr[-1] == 1 and recall[-1] == 1
    if at_end:
        passes[-1] = True
    return np.flatnonzero(passes)
