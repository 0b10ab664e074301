"""Spatial AR and change: both parts in one score, each alone, learned in turn and stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BACKBONES
from napari_spatial_ar.normative.detectors import (
    ChangeDetector,
    SpatialARChange,
    SpatialARDetector,
    detector_from_tensors,
)
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.review.model_card import model_facts
from tests.tiny import draw_normal_slices, make_backbone, make_spec

OPTIONS: dict[str, Any] = {"slices": 6, "steps": 12, "batch_size": 4, "hidden": 16}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Backbone]]:
    with pytest.MonkeyPatch.context() as patch:
        spec = make_spec()
        patch.setitem(BACKBONES, spec.name, spec)
        backbone = make_backbone(spec)
        place = tmp_path_factory.mktemp("spatial-ar-change")
        nsar.fit(
            draw_normal_slices(place / "normal"),
            out=place / "model",
            backbone=backbone,
            method="spatial-ar-change",
            options=OPTIONS,
            size=(64, 64),
            skip_air=True,
            patient_pattern="(patient[0-9])",
        )
        yield place / "model", backbone


@pytest.fixture
def model(fitted: tuple[Path, Backbone]) -> NormativeModel:
    folder, backbone = fitted
    model = nsar.load_model(folder)
    model.backbone = backbone
    return model


def image(seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    found = np.random.default_rng(seed).integers(40, 250, (48, 40)).astype(np.uint8)
    found[:, :26] = 0
    return found


def scan() -> Scan:
    slices = np.stack([image(n) for n in range(3)])
    slices[1] = 0
    return Scan(slices, Geometry((3, 48, 40), np.diag([1.0, 1.0, 3.0, 1.0])), "mri", Series("x"))


def test_both_parts_add_up(model: NormativeModel) -> None:
    detector = model.detector
    assert isinstance(detector, SpatialARChange)
    assert model.parts == ("change", "nll")
    assert isinstance(detector.parts["change"], ChangeDetector)
    assert isinstance(detector.parts["nll"], SpatialARDetector)
    score = model.score_slice(image())
    change, nll = (model.part(name).score_slice(image()) for name in model.parts)
    assert score.grid is not None
    assert change.grid is not None
    assert nll.grid is not None
    spread = detector.usual[0].numpy()
    expected = change.grid / spread[0] + detector.weight * nll.grid / spread[1]
    np.testing.assert_allclose(score.grid, expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(score.grid).any()
    assert np.isfinite(score.grid).any()
    # What is kept with the score of both is what each part says alone.
    np.testing.assert_array_equal(score.parts["change"], change.grid)
    np.testing.assert_array_equal(score.parts["nll"], nll.grid)


def test_the_scores_of_a_part_need_no_second_run(model: NormativeModel) -> None:
    both = model.score_volume(scan())
    for name in model.parts:
        part = model.part(name)
        alone, kept = part.score_volume(scan()), model.scores_of(name, both)
        np.testing.assert_array_equal(kept.nll, alone.nll)
        np.testing.assert_array_equal(kept.image_scores, alone.image_scores)
        assert kept.visited.all()
        assert part.unit != model.unit
    both.parts.clear()
    # An empty slice has no scores to keep.
    assert model.scores_of("nll", both).visited.tolist() == [False, True, False]


def test_a_part_has_its_own_calibration(
    model: NormativeModel, fitted: tuple[Path, Backbone]
) -> None:
    whole = model.calibration
    for name in model.parts:
        own = model.part(name).calibration
        assert (own.slices, own.patients) == (whole.slices, whole.patients)
        assert own.thresholds != whole.thresholds
    # As if the part were all of the model.
    folder, _ = fitted
    alone, normals = model.part("nll"), folder.parent / "normal"
    found = [alone.score_slice(read_raster(path)[0]) for path in sorted(normals.glob("*.png"))]
    scores = np.array([score.image_score for score in found])
    for score in alone.calibration.image_scores:  # from embeddings stored in half precision
        assert np.isclose(scores, score, rtol=0.01).any()


def test_a_part_that_is_none_is_refused(model: NormativeModel) -> None:
    with pytest.raises(InputError, match=r"no part 'novelty'. It has: change, nll"):
        model.part("novelty")
    with pytest.raises(InputError, match=r"no part 'x'. It has no parts"):
        model.part("nll").part("x")


def test_learned_in_turn(model: NormativeModel) -> None:
    training = model.header.training
    assert training["optimizer"] == "AdamW, one cycle"
    assert training["steps"] >= OPTIONS["steps"]
    assert training["changed_patches"] > 0
    assert "nats per dimension at epoch" in model_facts(model)["Training"]
    assert len(training["history"]["valid_nll"]) == training["epochs"]
    stages = SpatialARChange.stages({**SpatialARChange.options(), **OPTIONS}, 9)
    assert [method for method, _ in stages] == [ChangeDetector, SpatialARDetector]
    assert stages[1][1]["epochs"] == 4  # 3 steps of 4 slices each
    assert set(stages[1][1]) == set(SpatialARDetector.options())


def test_a_damaged_file_is_refused(model: NormativeModel) -> None:
    detector = model.detector
    tensors, parameters = detector.tensors(), detector.parameters()
    assert parameters["nll"]["likelihood"] == "both"
    again = detector_from_tensors(detector.name, parameters, tensors)
    grid = torch.randn(1, 24, 5, 6, generator=torch.Generator().manual_seed(0))
    grid = grid[:, : again.other.network.channels]  # type: ignore[attr-defined]
    assert torch.equal(again.score(grid), detector.to(torch.device("cpu")).score(grid))
    for broken in (
        {key: value for key, value in tensors.items() if key != "nll.pool"},
        {**tensors, "usual": torch.ones(2, 2)},
        {key: value for key, value in tensors.items() if not key.startswith("change.")},
    ):
        with pytest.raises(ModelFileError, match=r"it lacks|its '"):
            detector_from_tensors(detector.name, parameters, broken)
