"""Ranking the scans of a fit by how little they are like other patients'."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.detectors import DETECTORS
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.fitting.outliers import CrossJudge, find_outliers
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.steps import finish

STRANGE = "patient2_01.png"


def add_strange(folder: Path) -> None:
    """Stripes in one picture."""
    image = np.asarray(Image.open(folder / STRANGE)).copy()
    image[16:32:2, 12:28] = 255
    image[17:32:2, 12:28] = 0
    Image.fromarray(image).save(folder / STRANGE)


@pytest.fixture
def model(
    normal_slices: Path, tmp_path: Path, tiny_backbone: Backbone, tiny_weights: Path
) -> NormativeModel:
    """Fitted on four patients, one of whom has a strange slice."""
    add_strange(normal_slices)
    return nsar.fit(
        normal_slices,
        out=tmp_path / "model",
        backbone=tiny_backbone,
        method="memory-bank",
        size=(64, 64),
        device="cpu",
    )


def test_the_strange_scan_comes_first_with_its_slice_and_place(
    model: NormativeModel, normal_slices: Path
) -> None:
    before = set(normal_slices.iterdir())
    found = finish(find_outliers(model, normal_slices))
    assert found.scans == len(found.ranked) == 4
    scores = [one.score for one in found.ranked]
    assert scores == sorted(scores, reverse=True)
    first = found.ranked[0]
    assert scores[0] > 1.2 * scores[1]
    assert (first.slices, first.place) == (3, 1)
    assert first.example.image.shape == first.example.nll.shape == (48, 40)
    assert np.array_equal(first.example.image[20, 12:28], np.ones(16)), "the slice itself"
    assert first.example.image_score == first.score <= first.example.nll.max() * 1.001
    assert "patient2" not in repr(found)
    assert set(normal_slices.iterdir()) == before
    assert finish(find_outliers(model, [normal_slices], top=2)).ranked[0].key == first.key
    # What is given is what a fit leaves out.
    left = find_slices(normal_slices, exclude={first.key}).train
    assert {ref.group for ref in left} == {"patient0", "patient1", "patient3"}


def test_a_slice_is_never_judged_by_its_own_patient(
    model: NormativeModel, normal_slices: Path
) -> None:
    refs = find_slices(normal_slices).train
    store = FeatureStore(model.backbone, model.header.preprocessing)
    for method in ("surroundings-bank", "memory-bank"):
        judge = CrossJudge(store, model.header.scoring, DETECTORS[method])
        list(judge.learn(refs))
        least = min(judge.score(ref, (48, 40)).grid.max() for ref in refs)
        # A bank that holds a slice's own patches finds each again, at no distance.
        assert least > 1e-2, method


def test_only_slices_of_the_fit_count(
    model: NormativeModel, normal_slices: Path, tmp_path: Path
) -> None:
    for name in ("other_00.png", "other_01.png"):
        Image.fromarray(np.tri(40, dtype=np.uint8) * 255).save(normal_slices / name)
    assert finish(find_outliers(model, normal_slices)).scans == 4
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(normal_slices / "other_00.png", elsewhere)
    with pytest.raises(InputError, match="none of its slices was used in the fit of 'model'"):
        finish(find_outliers(model, elsewhere))
    del model.header.training["slice_keys"]
    with pytest.raises(InputError, match="of one patient"):
        finish(find_outliers(model, elsewhere))
    with pytest.raises(InputError, match="at least 1, not 0"):
        finish(find_outliers(model, normal_slices, top=0))
