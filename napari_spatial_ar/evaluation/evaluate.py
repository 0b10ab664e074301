"""How well a model finds what is labelled abnormal in a data set of the BMAD layout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation.metrics import area_under_pro, average_precision, dice, roc_auc
from napari_spatial_ar.imaging.datasets import BmadItem, bmad_items
from napari_spatial_ar.imaging.raster import read_label, read_raster
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative.model import NormativeModel

__all__ = ["Evaluation", "evaluate"]

Split = Literal["valid", "test"]


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on one split; None where a figure needs labels that are not there.

    Parameters
    ----------
    pixel_auroc, pixel_aupr, pixel_aupro : float or None
        Over all pixels of all images at their own resolution; AUPRO up to an FPR of 0.3.
    image_auroc, image_ap : float or None
        Over image scores.
    dice_at_fpr : float or None
        Pooled Dice of the mask at the threshold calibrated for ``fpr``.
    realised_fpr : float or None
        Share of body pixels in the normal images above that threshold.
    fpr, threshold : float or None
        The nominal share and its threshold; None for a model without calibration.
    base_rate : float or None
        Share of abnormal pixels: the AUPR of a random heatmap.
    images, abnormal_images, patients : int
        What was scored.
    ms_per_slice : float
        Median time of a slice, from pixels in memory to heatmap.
    peak_rss_mb : float or None
        Largest resident memory of this process so far, in MB; None on Windows.
    """

    split: str
    images: int
    abnormal_images: int
    patients: int
    pixel_auroc: float | None
    pixel_aupr: float | None
    pixel_aupro: float | None
    image_auroc: float | None
    image_ap: float | None
    dice_at_fpr: float | None
    realised_fpr: float | None
    fpr: float | None
    threshold: float | None
    base_rate: float | None
    ms_per_slice: float
    peak_rss_mb: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def evaluate(
    root: str | Path,
    model: NormativeModel,
    *,
    split: Split = "test",
    fpr: float = 0.01,
    patient_pattern: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every image of a split and compare with its labels.

    Parameters
    ----------
    root : path
        Data set in the BMAD layout.
    model : NormativeModel
        What scores.
    split : {"test", "valid"}
        Which images.
    fpr : float
        Share of normal tissue for the calibrated threshold.
    patient_pattern : str, optional
        See `find_slices`.
    progress : callable, optional
        Called with (images done, images in all).

    Raises
    ------
    InputError
        If the folder is not in the BMAD layout, or an image or label cannot be used.
    """
    items = bmad_items(root, split, patient_pattern=patient_pattern)
    calibrated = model.header.calibration is not None
    threshold = model.threshold_for_fpr(fpr) if calibrated else None
    model.backbone  # noqa: B018 - loaded here, so that the first slice is timed like the others
    heatmaps, labels, image_scores, seconds = [], [], [], []
    flagged = tissue = 0
    for done, item in enumerate(items, start=1):
        image, intensity = read_raster(item.image)
        window = resolve(model.header.preprocessing.window, image, intensity)
        start = time.perf_counter()
        score = model.score_slice(image, window=window)
        seconds.append(time.perf_counter() - start)
        heatmaps.append(score.nll)
        image_scores.append(score.image_score)
        labels.append(_label(item, image.shape))
        if threshold is not None and not item.abnormal:
            body = tissue_mask(apply_window(image, *window))
            tissue += int(body.sum())
            flagged += int((score.nll[body] > threshold).sum())
        if progress is not None:
            progress(done, len(items))
    abnormal = np.array([item.abnormal for item in items])
    known = [label for label in labels if label is not None]
    pixels = len(known) == len(items)
    flat = np.concatenate([label.ravel() for label in known]) if pixels else np.empty(0, bool)
    scores = np.concatenate([heatmap.ravel() for heatmap in heatmaps])
    scored = np.array(image_scores)
    return Evaluation(
        split=split,
        images=len(items),
        abnormal_images=int(abnormal.sum()),
        patients=len({item.group for item in items}),
        pixel_auroc=roc_auc(flat, scores) if pixels else None,
        pixel_aupr=average_precision(flat, scores) if pixels else None,
        pixel_aupro=area_under_pro(known, heatmaps) if pixels else None,
        image_auroc=roc_auc(abnormal, scored),
        image_ap=average_precision(abnormal, scored),
        dice_at_fpr=dice(flat, scores > threshold) if pixels and threshold is not None else None,
        realised_fpr=flagged / tissue if tissue else None,
        fpr=fpr if calibrated else None,
        threshold=threshold,
        base_rate=float(flat.mean()) if pixels else None,
        ms_per_slice=1000 * float(np.median(seconds)),
        peak_rss_mb=_peak_rss_mb(),
    )


def _label(item: BmadItem, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Abnormal pixels; none in a normal image, None for an abnormal one without a label file."""
    if item.label is None:
        return None if item.abnormal else np.zeros(shape, bool)
    label = read_label(item.label)
    if label.shape != shape:
        raise InputError(
            f"the label has {label.shape} pixels and its image {shape}", path=item.label
        )
    return label


def _peak_rss_mb() -> float | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
