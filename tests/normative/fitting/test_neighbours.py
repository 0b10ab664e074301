"""The most similar normal patches, found in stored embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.explaining import embed_plane, patch_at, picture_around
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.fitting.neighbours import nearest_patches, similar_patches
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.steps import finish


@pytest.fixture
def model(
    normal_slices: Path, tmp_path: Path, tiny_backbone: Backbone, tiny_weights: Path
) -> NormativeModel:
    return nsar.fit(
        normal_slices,
        out=tmp_path / "model",
        backbone=tiny_backbone,
        method="memory-bank",
        size=(64, 64),
        device="cpu",
    )


def test_the_nearest_are_those_of_a_search_through_all(
    model: NormativeModel, normal_slices: Path
) -> None:
    store = FeatureStore(model.backbone, model.header.preprocessing)
    refs = find_slices(normal_slices).train
    for _ in store.extract(refs):
        pass
    grids = torch.stack([load_batch(store.paths([ref]))[0] for ref in refs])
    query = grids[4, :, 1, 2] + 0.1 * torch.randn(24, generator=torch.Generator().manual_seed(0))
    apart = 1 - functional.cosine_similarity(grids, query[None, :, None, None], dim=1)
    best: dict[str, float] = {}
    for ref, distances in zip(refs, apart, strict=True):
        best[ref.group] = min(best.get(ref.group, 9.0), float(distances.min()))
    *_, (done, nearest) = nearest_patches(store, refs, query, 3)
    assert done == len(refs)
    assert [one.distance for one in nearest] == pytest.approx(sorted(best.values())[:3], abs=1e-5)
    assert len({one.ref.group for one in nearest}) == 3
    assert nearest[0].ref == refs[4]
    assert nearest[0].patch == (1, 2)


def test_only_slices_that_the_model_learned_from_count(
    model: NormativeModel, normal_slices: Path, tmp_path: Path
) -> None:
    train = model.header.training["slice_keys"]["train"]
    assert 0 < len(train) < 12
    found = finish(similar_patches(model, normal_slices, torch.ones(24), count=9))
    patients = len(train) // 3  # three slices each
    assert len(found) == patients
    distances = [one.distance for one in found]
    assert distances == sorted(distances)
    assert all(one.picture.image.min() >= 0 and one.picture.image.max() <= 1 for one in found)


def test_folders_of_another_fit_are_one_sentence(model: NormativeModel, tmp_path: Path) -> None:
    from tests.tiny import draw_normal_slices

    other = draw_normal_slices(tmp_path / "other")
    for path in other.glob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="was trained on none of its slices"):
        finish(similar_patches(model, other, torch.ones(24)))


def test_stopping_the_search_ends_it(model: NormativeModel, normal_slices: Path) -> None:
    steps = similar_patches(model, normal_slices, torch.ones(24))
    for step in steps:
        if step.message.startswith("Comparing"):
            break
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


def test_patches_cover_the_slice() -> None:
    assert patch_at((0, 0), (448, 300), (28, 28)) == (0, 0)
    assert patch_at((447, 299), (448, 300), (28, 28)) == (27, 27)
    assert patch_at((16, 10), (448, 300), (28, 28)) == (1, 0)


def test_a_picture_has_the_patch_in_its_box() -> None:
    unit = np.zeros((40, 60), np.float32)
    unit[:10, 45:60] = 1  # patch (0, 3) of a grid of 4 x 4
    picture = picture_around(unit, (0, 3), (4, 4))
    top, left, bottom, right = picture.box
    inside = picture.image[top:bottom, left:right]
    assert inside.shape == (10, 15)
    assert (inside == 1).all()
    assert picture.image.sum() == inside.sum()


def test_a_patch_is_explained_by_the_score_of_its_method(model: NormativeModel) -> None:
    voxels = np.zeros((2, 48, 40), np.float32)
    voxels[:, 10:40, 8:30] = np.random.default_rng(1).uniform(50, 200, (2, 30, 22))
    geometry = nsar.imaging.geometry.Geometry.without_spacing(voxels.shape)
    volume = nsar.imaging.scan.Scan(voxels, geometry, "mri", nsar.imaging.series.Series("a scan"))
    embedded = embed_plane(model, volume, 1)
    patch = embedded.patch_at((30, 20))
    told = embedded.explain(model, patch)
    ((_, score),) = model.iter_volume(volume, [1])
    assert told.quantities[0].value == pytest.approx(float(score.grid[patch]), abs=1e-5)
    assert told.quantities[0].unit == model.unit
    assert told.meaning
