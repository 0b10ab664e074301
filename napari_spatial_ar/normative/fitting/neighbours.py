"""The normal patches of a fit that are most similar to one patch of a scan.

Similarity is the cosine between embeddings of the backbone, whatever the model's own method does
with them: it is the only measure that all models share. Stored embeddings are read slice by slice
and only the best matches are held, so memory does not grow with the training set. Only the best
patch of each patient counts: neighbouring slices of one patient are nearly the same.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.datasets.slices import SliceRef, iter_slices
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.calibration.calibrate import slice_keys
from napari_spatial_ar.normative.explaining import PatchPicture, picture_around
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.fitting.outliers import series_of_fit, survey_again
from napari_spatial_ar.normative.fitting.plan import FitProgress, embedding
from napari_spatial_ar.normative.scoring_model import ScoringModel

__all__ = ["Nearest", "Neighbour", "nearest_patches", "similar_patches"]


@dataclass(frozen=True)
class Nearest:
    """A patch of a training slice.

    Parameters
    ----------
    distance : float
        Cosine distance of its embedding, 0 for the same direction.
    ref : SliceRef
        The slice. It may name a patient: not to be shown.
    patch : (int, int)
        Row and column of the patch on the slice's grid.
    """

    distance: float
    ref: SliceRef = field(repr=False)
    patch: tuple[int, int]


@dataclass(frozen=True)
class Neighbour:
    """A normal patch to be shown: its cosine distance and its image."""

    distance: float
    picture: PatchPicture = field(repr=False)


def nearest_patches(
    store: FeatureStore, refs: Sequence[SliceRef], query: Tensor, count: int
) -> Iterator[tuple[int, tuple[Nearest, ...]]]:
    """Search stored embeddings for the nearest patches.

    Parameters
    ----------
    store : FeatureStore
        Contains the slices' embeddings.
    refs : sequence of SliceRef
        The slices.
    query : (D,) float
        Embedding of the patch.
    count : int
        Number of patches, each of another patient.

    Yields
    ------
    (int, tuple of Nearest)
        Number of slices searched, and the best so far, nearest first.
    """
    wanted = functional.normalize(query.float().cpu(), dim=0)
    best: dict[str, Nearest] = {}
    for done, ref in enumerate(refs, start=1):
        tiles = functional.normalize(load_batch(store.paths([ref])), dim=1)
        similarity = torch.einsum("tdrc,d->trc", tiles, wanted)
        flat = int(similarity.nan_to_num(-torch.inf).argmax())
        _, rows, columns = similarity.shape
        tile, within = divmod(flat, rows * columns)
        top, left = store.tiling.offsets[tile]
        row, column = divmod(within, columns)
        distance = max(0.0, 1 - float(similarity.flatten()[flat]))
        found = Nearest(distance, ref, (top + row, left + column))
        mine = best.get(ref.group)
        if mine is None or distance < mine.distance:
            best[ref.group] = found
            if len(best) > count:
                del best[max(best, key=lambda group: best[group].distance)]
        yield done, tuple(sorted(best.values(), key=lambda one: one.distance))


def similar_patches(
    model: ScoringModel,
    folders: str | Path | Sequence[str | Path],
    query: Tensor,
    *,
    count: int = 4,
    patient_pattern: str | None = None,
) -> Generator[FitProgress, None, tuple[Neighbour, ...]]:
    """Find the most similar patches among a model's training slices.

    Parameters
    ----------
    model : ScoringModel
        Determines backbone, preprocessing, and which slices it was trained on.
    folders : path-like or sequence of path-like
        Folders that it was fitted on.
    query : (D,) float
        Embedding of the patch.
    count : int
        Maximum number of patches to return.
    patient_pattern : str, optional
        As in the fit, see `find_slices`.

    Yields
    ------
    FitProgress
        Stop iterating to cancel. Embeddings that are no longer stored are computed again.

    Returns
    -------
    tuple of Neighbour
        Nearest first.

    Raises
    ------
    InputError
        If ``count`` is less than 1, the patch was skipped as air, the folders cannot be read, or
        contain no training slice of the model.
    WeightsError
        If the backbone's weights are missing.
    StorageError
        If the disk has no room for embeddings.
    """
    if count < 1:
        raise InputError(f"the number of patches to show must be at least 1, not {count}")
    if query.isnan().any():
        raise InputError("the patch shows no body, so nothing is like it", fix="Choose another")
    found = yield from survey_again(model, folders, patient_pattern)
    refs = _learned_from(model, [ref for one in series_of_fit(model, found) for ref in one.refs])
    if not refs:
        raise InputError(
            f"'{model.name}' was trained on none of its slices",
            path=folders if isinstance(folders, str | Path) else folders[0],
            fix="Choose the folder that the model was fitted on",
        )
    preprocessing = model.header.preprocessing
    store = FeatureStore(model.backbone, preprocessing)
    yield from embedding(store.extract(refs), len(refs), "Embedding normal slices")
    nearest: tuple[Nearest, ...] = ()
    for done, best in nearest_patches(store, refs, query, count):
        nearest = best
        yield FitProgress("calibration", done, len(refs), message="Comparing with normal slices")
    pictures = {
        ref: apply_window(image, *window)
        for ref, image, window in iter_slices([one.ref for one in nearest], preprocessing.window)
    }
    return tuple(
        Neighbour(one.distance, picture_around(pictures[one.ref], one.patch, store.tiling.grid))
        for one in nearest
    )


def _learned_from(model: ScoringModel, refs: Sequence[SliceRef]) -> list[SliceRef]:
    keys = (model.header.training.get("slice_keys") or {}).get("train")
    if keys is None:
        return list(refs)
    known = set(keys)
    return [ref for ref in refs if slice_keys([ref])[0] in known]
