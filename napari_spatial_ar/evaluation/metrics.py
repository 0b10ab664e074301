"""Detection metrics, from pixel scores and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.measure import label as label_regions
from sklearn.metrics import average_precision_score, roc_auc_score

__all__ = ["area_under_pro", "average_precision", "dice", "roc_auc"]


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


def dice(labels: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_]) -> float | None:
    """Dice overlap over all pixels at once; None where both are empty."""
    total = int(labels.sum()) + int(mask.sum())
    return 2 * int((labels & mask).sum()) / total if total else None


def area_under_pro(
    labels: Sequence[npt.NDArray[np.bool_]],
    scores: Sequence[npt.NDArray[np.float32]],
    max_fpr: float = 0.3,
) -> float | None:
    """Area under the per-region overlap curve up to a false-positive rate, as a share of it.

    Bergmann et al., CVPR 2020: at each threshold, the mean over connected regions (of all
    images) of the share of the region that is found, against the share of normal pixels found.

    Parameters
    ----------
    labels : sequence of (rows, columns) bool
        True where abnormal; regions are 8-connected.
    scores : sequence of (rows, columns) float
        Larger is more abnormal.
    max_fpr : float
        Where the area ends.

    Returns
    -------
    float or None
        In 0..1; None without a region or without a normal pixel.
    """
    shares = []  # what finding a pixel adds to the summed overlap of the regions
    regions = 0
    for label in labels:
        numbered, count = label_regions(label, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
        sizes = np.bincount(numbered.ravel()).astype(np.float64)
        sizes[0] = np.inf
        shares.append((1 / sizes)[numbered].ravel())
        regions += count
    share = np.concatenate(shares)
    score = np.concatenate([s.ravel() for s in scores])
    normal = share == 0
    if not regions or not normal.any():
        return None
    order = np.argsort(-score, kind="stable")
    # Only where the score changes is there a threshold.
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    fpr = np.concatenate([[0.0], np.cumsum(normal[order])[last] / normal.sum()])
    pro = np.concatenate([[0.0], np.cumsum(share[order])[last] / regions])
    end = np.interp(max_fpr, fpr, pro)
    inside = fpr < max_fpr
    area = np.trapezoid(np.append(pro[inside], end), np.append(fpr[inside], max_fpr))
    return float(area / max_fpr)
