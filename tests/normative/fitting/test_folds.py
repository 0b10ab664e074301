"""Calibrating on the training patients, each by what others taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import find_slices, split_by_group
from napari_spatial_ar.datasets.slices import SliceRef
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.reading import Source
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.normative.detectors.whitening import EqualVariance
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.fitting.folds import deal


@pytest.fixture
def settings(tiny_weights: Path, tiny_name: str) -> dict[str, Any]:
    return {"backbone": tiny_name, "method": "memory-bank", "size": (64, 64), "device": "cpu"}


def refs_of(counts: dict[str, int]) -> list[SliceRef]:
    return [
        SliceRef(path := Path(f"{patient}-{n}.png"), None, patient, Source("raster", (path,)))
        for patient, count in counts.items()
        for n in range(count)
    ]


def test_patients_are_dealt_whole_and_evenly() -> None:
    refs = refs_of({name: 1 + index % 3 for index, name in enumerate("abcdefghij")})
    folds = deal(refs, 3, seed=1)
    patients = [{ref.group for ref in fold} for fold in folds]
    assert sorted(map(len, patients)) == [3, 3, 4]
    assert sorted(ref.path for fold in folds for ref in fold) == sorted(r.path for r in refs)
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert deal(refs, 3, seed=1) == folds
    assert deal(refs, 3, seed=2) != folds


def test_more_folds_than_patients_are_refused_before_anything_is_done(
    normal_slices: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="3 training patients cannot be divided into 9 folds"):
        nsar.fit(normal_slices, out=tmp_path / "m", calibration_folds=9, **settings)
    with pytest.raises(InputError, match="0 or at least 2, not 1"):
        nsar.fit(normal_slices, out=tmp_path / "m", calibration_folds=1, **settings)
    assert not (tmp_path / "m").exists()


def test_every_patient_is_scored_by_what_the_others_taught(
    normal_slices: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Against distances computed here, with one patient a fold."""
    model = nsar.fit(normal_slices, out=tmp_path / "m", calibration_folds=3, **settings)
    train, held_out = split_by_group(find_slices(normal_slices).train, 0.2, 0)
    store = FeatureStore(model.backbone, model.header.preprocessing)

    def rows(refs: list[SliceRef]) -> torch.Tensor:
        grids = load_batch(store.paths(refs)).permute(0, 2, 3, 1).flatten(0, 2)
        return torch.nn.functional.normalize(grids.double())

    expected = []
    for ref in [*train, *held_out]:
        others = [other for other in train if other.group != ref.group]
        distance = 1 - (rows([ref]) @ rows(others).T).amax(dim=1).reshape(1, 1, 4, 4)
        smooth = torch.nn.functional.avg_pool2d(distance, 3, 1, 1, count_include_pad=False)
        expected.append(smooth.max().item())
    found = model.header.calibration
    assert isinstance(found, Calibration)
    np.testing.assert_allclose(found.image_scores, np.sort(expected), atol=2e-3)
    assert min(found.image_scores) > 0  # its own patches would be at distance 0
    assert (found.folds, found.patients, found.slices) == (3, 4, 12)
    assert found.smallest_p == 1 / 5
    assert [path.name for path in (tmp_path / "m").iterdir() if path.is_dir()] == []


def test_the_model_is_the_same_and_remembers_how_it_was_calibrated(
    normal_slices: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    plain = nsar.fit(normal_slices, out=tmp_path / "a", **settings)
    nsar.fit(normal_slices, out=tmp_path / "b", calibration_folds=2, **settings)
    loaded = nsar.load_model(tmp_path / "b", device="cpu")
    image = np.random.default_rng(0).integers(1, 255, (40, 40)).astype(np.uint8)
    np.testing.assert_array_equal(loaded.score_slice(image).nll, plain.score_slice(image).nll)
    assert loaded.header.calibration is not None
    assert plain.header.calibration is not None
    assert (loaded.header.calibration.folds, plain.header.calibration.folds) == (2, 0)
    assert "folds" not in plain.header.calibration.to_dict()


def test_each_fold_whitens_by_its_own_patients(
    normal_slices: Path,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[set[Path]] = []
    measured = EqualVariance.measured

    def watched(paths: list[Path], device: torch.device) -> EqualVariance:
        seen.append(set(paths))
        return measured(paths, device)

    monkeypatch.setattr(EqualVariance, "measured", watched)
    options = {"epochs": 1, "hidden": 8, "batch_size": 4, "whiten": True, "dilations": "1-1-2-1-1"}
    model = nsar.fit(
        normal_slices,
        out=tmp_path / "m",
        calibration_folds=3,
        **{**settings, "method": "spatial-ar", "options": options},
    )
    whole, *folds = seen
    assert len(folds) == 3
    assert all(fold < whole for fold in folds)
    assert not set.intersection(*folds), "each slice is left out once"
    assert model.header.calibration is not None
    assert model.header.calibration.patients == 4
    assert model.header.training["options"] == options


@pytest.mark.parametrize("method", ["synthetic-change", "spatial-ar"])
def test_methods_that_are_shown_changes_or_are_trained(
    method: str, normal_slices: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = (
        {"slices": 9, "steps": 20, "components": 16, "hidden": 8}
        if method == "synthetic-change"
        else {"epochs": 1, "hidden": 8, "batch_size": 4}
    )
    told: list[str] = []
    model = nsar.fit(
        normal_slices,
        out=tmp_path / "m",
        calibration_folds=3,
        progress=lambda step: told.append(step.message),
        **{**settings, "method": method, "options": options, "size": (160, 160)},
    )
    assert model.header.calibration is not None
    assert model.header.calibration.patients == 4
    for fold in (1, 2, 3):
        assert f"Calibrating, fold {fold} of 3: learning" in told
        assert f"Calibrating, fold {fold} of 3: scoring" in told
