"""Models that score the same images, with each image embedded once for all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from napari_spatial_ar.datasets.folders import BmadItem
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation.costs import Times, shared
from napari_spatial_ar.evaluation.scorer import Scorer
from napari_spatial_ar.imaging.raster import read_label, read_raster
from napari_spatial_ar.imaging.windows import resolve
from napari_spatial_ar.normative.scores import SliceScore

__all__ = ["Candidate", "Scored", "label_of", "score_items"]


@dataclass(frozen=True)
class Candidate:
    """A model in a comparison, with its smoothing and threshold.

    Parameters
    ----------
    model : Scorer
        The model.
    smoothing : int, optional
        Replaces the one saved with the model.
    threshold : float, optional
        Calibrated at this smoothing for the requested share.
    fit_seconds : float, optional
        Duration of its fit.
    """

    model: Scorer
    smoothing: int | None = None
    threshold: float | None = None
    fit_seconds: float | None = None


@dataclass(frozen=True)
class Scored:
    """One image with the scores of each candidate.

    Parameters
    ----------
    item : BmadItem
        The image.
    image : (rows, columns)
        Its voxels.
    window : (float, float)
        Intensities that the first model sees as black and white.
    scores : list of SliceScore
        Scores of each candidate.
    """

    item: BmadItem
    image: npt.NDArray[np.generic]
    window: tuple[float, float]
    scores: list[SliceScore]


def score_items(
    items: Iterable[BmadItem],
    candidates: Sequence[Candidate],
    times: Sequence[Times] | None = None,
) -> Iterator[Scored]:
    """Score images with several models.

    A model with several smoothings scores once; only the smoothing is repeated.

    Parameters
    ----------
    items : iterable of BmadItem
        The images.
    candidates : sequence of Candidate
        The models.
    times : sequence of Times, optional
        Times of each candidate, to be filled; the first image of a run warms up and is not
        counted if there are others.

    Yields
    ------
    Scored

    Raises
    ------
    InputError
        If an image cannot be used.
    """
    models = list(dict.fromkeys(candidate.model for candidate in candidates))
    with shared(models) as backbones:
        for number, item in enumerate(items):
            image, intensity = read_raster(item.image)
            windows = [resolve(m.header.preprocessing.window, image, intensity) for m in models]
            by_model = {}
            spent = {}
            for model, window, backbone in zip(models, windows, backbones, strict=True):
                backbone.start()
                begin = time.perf_counter()
                by_model[model] = _score(model, item, image, window)
                spent[model] = time.perf_counter() - begin, backbone.charged, backbone.saved
            for backbone in backbones:
                backbone.forget()
            for candidate, taken in zip(candidates, times or (), strict=times is not None):
                taken.add(*spent[candidate.model], warm=number > 0)
            scores = [_smoothed(by_model[c.model], c, image.shape) for c in candidates]
            yield Scored(item, image, windows[0], scores)


def _score(
    model: Scorer, item: BmadItem, image: npt.NDArray[np.generic], window: tuple[float, float]
) -> SliceScore:
    try:
        return model.score_slice(image, window=window)
    except InputError as error:
        raise InputError(error.what, path=error.path or item.image, fix=error.fix) from error


def _smoothed(score: SliceScore, candidate: Candidate, shape: tuple[int, ...]) -> SliceScore:
    """Compute the heatmap again from the patch scores if another smoothing is requested.

    The image score follows, unless the method has one of its own that is not from patch scores.
    """
    model, smoothing = candidate.model, candidate.smoothing
    saved = model.header.scoring
    if smoothing is None or smoothing == saved.smoothing:
        return score
    grid, (rows, columns) = torch.from_numpy(score.grid), shape
    divisor = model.detector.heatmap_divisor
    other = replace(saved, smoothing=smoothing)(grid, (rows, columns), divisor)
    of_patches = saved(grid, (rows, columns), divisor).image_score
    if math.isclose(of_patches, score.image_score, rel_tol=1e-3):
        return other
    return replace(other, image_score=score.image_score)


def label_of(item: BmadItem, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Abnormal pixels of an image; none if it has no label file.

    Raises
    ------
    InputError
        If the label does not have the image's shape.
    """
    if item.label is None:
        return np.zeros(shape, bool)
    label = read_label(item.label)
    if label.shape != shape:
        raise InputError(
            f"the label has {label.shape} pixels and its image {shape}", path=item.label
        )
    return label
