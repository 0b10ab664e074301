"""Which models count as seeds of one method, and methods fitted for a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation import baselines
from napari_spatial_ar.evaluation.baselines import fit_method, grouped
from napari_spatial_ar.evaluation.compare import compare
from napari_spatial_ar.evaluation.evaluate import evaluate
from napari_spatial_ar.normative.detectors import DETECTORS
from napari_spatial_ar.normative.fitting.config import FitConfig
from tests.evaluation.conftest import BrightnessModel


def models(*names: str) -> list[Any]:
    found = [BrightnessModel(name=name) for name in names]
    for model in found:
        model.sha256 = model.name
    return found


def test_a_last_number_is_a_seed_where_there_are_others() -> None:
    given = models("dilated-seed0", "bank", "dilated-seed1", "dilated_2", "resnet50", "wide-s3")
    found = {compared.name: [m.name for m in compared.models] for compared in grouped(given)}
    assert found == {
        "dilated": ["dilated-seed0", "dilated-seed1", "dilated_2"],
        "bank": ["bank"],
        "resnet50": ["resnet50"],
        "wide-s3": ["wide-s3"],
    }


@pytest.mark.usefixtures("tiny_weights")
def test_options_of_several_kinds_are_said_after_a_colon(
    cohort: Path, tmp_path: Path, tiny_name: str
) -> None:
    settings = {"backbone": tiny_name, "epochs": 1, "batch_size": 4, "size": (64, 64)}
    said = "spatial-ar:dilations=1-2-1,convolutions=3,whiten=true"
    compared = fit_method(cohort, said, [0], tmp_path / "models", **settings)
    assert compared.name == "spatial-ar dilations=1-2-1 convolutions=3 whiten=true"
    parameters = compared.models[0].header.parameters
    assert (parameters["dilation"], parameters["whiten"]) == ([1, 2, 1], True)
    wrong = "spatial-ar:dilations=1-2-1"
    with pytest.raises(InputError, match=r"3 dilations .* for 5 convolutions"):
        fit_method(cohort, wrong, [0], tmp_path / "models", **settings)


def test_other_methods_of_the_same_stem_stay_apart() -> None:
    one, two = models("brain-0", "brain-1")
    two.header.method = "other"
    assert [compared.name for compared in grouped([one, two])] == ["brain-0", "brain-1"]


def test_a_model_given_twice() -> None:
    (one,) = models("a")
    with pytest.raises(InputError, match="given twice"):
        grouped([one, one])


@pytest.mark.usefixtures("tiny_weights")
def test_fits_each_seed_once(
    cohort: Path, tmp_path: Path, tiny_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"backbone": tiny_name, "epochs": 1, "batch_size": 4, "size": (64, 64)}
    arguments = (cohort, "spatial-ar:dilation=1", [0, 1], tmp_path / "models")
    seen: list[str] = []
    compared = fit_method(*arguments, progress=lambda s: seen.append(s.stage), **settings)
    assert compared.name == "spatial-ar dilation=1"
    assert [m.header.training["seed"] for m in compared.models] == [0, 1]
    assert all(m.header.parameters["dilation"] == 1 for m in compared.models)
    assert compared.models[0].sha256 != compared.models[1].sha256
    assert compared.fit_seconds == tuple(m.header.training["seconds"] for m in compared.models)
    assert all(seconds is not None and seconds > 0 for seconds in compared.fit_seconds)
    assert "training" in seen
    monkeypatch.setattr(baselines, "fit", None)  # no need of it the second time
    again = fit_method(*arguments, **settings)
    assert [m.sha256 for m in again.models] == [m.sha256 for m in compared.models]
    assert again.fit_seconds == compared.fit_seconds
    with pytest.raises(InputError, match="other settings"):
        fit_method(*arguments, **{**settings, "epochs": 2})


@pytest.mark.usefixtures("tiny_weights")
def test_options_of_a_method_reach_it(cohort: Path, tmp_path: Path, tiny_name: str) -> None:
    method = "patch-gaussian:components=3,size=[64,64],layers=last2,fuse=mean"
    compared = fit_method(cohort, method, [0], tmp_path, backbone=tiny_name)
    (model,) = compared.models
    assert model.header.parameters["components"] == 3
    assert (model.header.backbone.layers, model.header.backbone.fuse) == ((1, 2), "mean")
    assert model.header.preprocessing.size == (64, 64)


@pytest.mark.parametrize("name", DETECTORS)
def test_no_option_hides_a_setting_of_every_method(name: str) -> None:
    shared = set(FitConfig.model_fields) & set(DETECTORS[name].options())
    assert not shared


def test_a_method_that_is_not_there(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no method 'padim'"):
        fit_method(cohort, "padim", [0], tmp_path)


@pytest.mark.usefixtures("tiny_weights")
def test_tiled_models_take_part_in_a_comparison(
    cohort: Path, tmp_path: Path, tiny_name: str
) -> None:
    settings: dict[str, Any] = {"backbone": tiny_name, "size": 64}
    tiled = fit_method(
        cohort, "memory-bank:size=64x96,tile=64,clahe=0.02", [0], tmp_path, **settings
    )
    plain = fit_method(cohort, "memory-bank", [0], tmp_path, **settings)
    (model,) = tiled.models
    shown = model.header.preprocessing
    assert (shown.size, shown.tile, shown.clahe) == ((64, 96), 64, 0.02)
    result = compare(cohort, [tiled, plain], smoothing=1, fpr=0.1, draws=5)
    figures = [r.measured[0].evaluation for r in result.results]
    assert all(f.pixel_auroc is not None and f.threshold is not None for f in figures)
    alone = evaluate(cohort, model, fpr=0.1, draws=5)
    scores = [
        m.score_slice(np.eye(40, dtype=np.uint8) * 200).grid.shape for m in (model, *plain.models)
    ]
    assert scores == [(4, 6), (4, 4)]
    assert alone.images == figures[0].images


def test_a_setting_that_is_not_there(cohort: Path, tmp_path: Path) -> None:
    for method in ("spatial-ar:dilatoin=1", "spatial-ar:dilation", "memory-bank:seed=1"):
        with pytest.raises(InputError, match="not a setting of a fit"):
            fit_method(cohort, method, [0], tmp_path)
    for setting in ("clahe=strong", "tile=[64,64]", "smoothing=3.5"):
        with pytest.raises(InputError, match=f"{setting.split('=')[0]} must be a"):
            fit_method(cohort, f"memory-bank:{setting}", [0], tmp_path)
