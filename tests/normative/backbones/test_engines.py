"""Ways to compute a backbone, and which of them is taken."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.backbones import engines, fastest_engine
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.engines import ENGINES, Engine, Float32
from napari_spatial_ar.normative.backbones.fastest_engine import (
    Trial,
    choose_engine,
    fastest,
    recalled,
    trials,
)
from napari_spatial_ar.normative.cancellation import cancel_when
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.preprocessing import Preprocessing
from tests.normative.test_model import build

CPU = torch.device("cpu")
IMAGES = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Choose freely, and forget what other tests found."""
    monkeypatch.delenv(fastest_engine.VARIABLE)
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(tmp_path / "home"))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[Engine]]:
    """Add an engine that gives float32's grids, changed."""

    def add(name: str, change: Callable[[Tensor], Tensor]) -> type[Engine]:
        class Changed(Float32):
            def __call__(self, images: Tensor) -> Tensor:
                return change(super().__call__(images))

        Changed.name = name
        monkeypatch.setitem(ENGINES, name, Changed)
        return Changed

    return add


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that engines take, by name, in place of a measurement."""
    seconds: dict[str, float] = {}
    measure = fastest_engine._tried

    def tried(model: NormativeModel, engine: str, inputs: Any) -> tuple[float, np.ndarray]:
        assert model.backbone.engine == "float32"  # others that compute meanwhile notice nothing
        _, scores = measure(model, engine, inputs)
        return seconds.get(engine, 1.0), scores

    monkeypatch.setattr(fastest_engine, "_tried", tried)
    monkeypatch.setattr(fastest_engine, "available", lambda device: ("float32", *seconds))
    return seconds


# ---------------------------------------------------------------------- the engines


def test_bfloat16_gives_nearly_the_same(tiny_backbone: Backbone) -> None:
    expected = tiny_backbone.embed(IMAGES)
    # Built as it is where the processor has it, which this one may not.
    engine = engines.BFloat16(tiny_backbone.network, CPU)
    found = engine(IMAGES)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert (found - expected).norm() / expected.norm() < 0.05
    assert all(p.dtype == torch.float32 for p in tiny_backbone.network.parameters())


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="the extra is not installed")
def test_openvino_gives_the_same(tiny_backbone: Backbone) -> None:
    expected = [tiny_backbone.embed(images) for images in (IMAGES, IMAGES[:1, :, :32])]
    tiny_backbone.use("openvino")
    assert tiny_backbone.engine == "openvino"
    # Two shapes, and the first one again: results must not be written over.
    first, second, again = (tiny_backbone.embed(i) for i in (IMAGES, IMAGES[:1, :, :32], -IMAGES))
    torch.testing.assert_close(first, expected[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(second, expected[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(again, first, atol=1e-2)


def test_an_engine_that_is_not_there_is_one_sentence(tiny_backbone: Backbone) -> None:
    with pytest.raises(InputError, match="there is no engine 'abacus'"):
        tiny_backbone.use("abacus")
    with pytest.raises(InputError, match="cannot run on the device 'cpu': it is for GPUs"):
        tiny_backbone.use("float16")


def test_what_was_built_is_kept_until_the_device_changes(tiny_backbone: Backbone) -> None:
    built = tiny_backbone._engine
    tiny_backbone.use("float32")
    assert tiny_backbone._engine is built
    tiny_backbone.move(CPU)
    assert tiny_backbone._engine is not built


def test_it_stops_between_its_blocks(tiny_backbone: Backbone) -> None:
    with cancel_when(lambda: True), pytest.raises(Cancelled):
        tiny_backbone.embed(IMAGES)


def test_stored_grids_are_those_of_float32(
    tiny_backbone: Backbone, added: Callable[..., Any], tmp_path: Path, normal_slices: Path
) -> None:
    from napari_spatial_ar.datasets.folders import find_slices
    from napari_spatial_ar.imaging.windows import default_window

    window = default_window("mri")
    refs = find_slices(normal_slices, modality="mri", window=window).train[:2]
    expected = FeatureStore(tiny_backbone, Preprocessing(window, (64, 64)), tmp_path / "a")
    list(expected.extract(refs))
    added("wrong", lambda grid: grid + 1)
    tiny_backbone.use("wrong")
    store = FeatureStore(tiny_backbone, Preprocessing(window, (64, 64)), tmp_path / "b")
    list(store.extract(refs))
    assert tiny_backbone.engine == "wrong"
    for one, other in zip(expected.paths(refs), store.paths(refs), strict=True):
        np.testing.assert_array_equal(np.load(one), np.load(other))


# ---------------------------------------------------------------------- the choice


def test_the_fastest_that_agrees_is_taken() -> None:
    slow = Trial("float32", 1.0, 1.0)
    assert fastest([slow]) == "float32"
    assert fastest([slow, Trial("a", 0.5, 0.9995), Trial("b", 0.4, 0.9991)]) == "b"
    assert fastest([slow, Trial("wrong", 0.1, 0.99), Trial("a", 0.5, 0.9999)]) == "a"
    assert fastest([slow, Trial("no gain", 0.95, 1.0)]) == "float32"
    assert fastest([slow, Trial("broken", float("nan"), float("nan"), "it broke")]) == "float32"


def test_maps_are_compared_with_those_of_float32(
    tiny_backbone: Backbone, added: Callable[..., Any], timed: dict[str, float]
) -> None:
    model = build(tiny_backbone)
    generator = torch.Generator().manual_seed(0)
    added("exact", lambda grid: grid + 0.0)
    added("noisy", lambda grid: grid + torch.randn(grid.shape, generator=generator))
    added("broken", lambda grid: grid * float("nan"))

    def fails(grid: Tensor) -> Tensor:
        raise RuntimeError("no such instruction")

    added("failing", fails)
    timed |= {"exact": 0.5, "noisy": 0.1, "broken": 0.1, "failing": 0.1}
    found = {trial.engine: trial for trial in trials(model)}
    assert found["float32"].agreement == pytest.approx(1)
    assert found["exact"].agreement == pytest.approx(1)
    assert found["noisy"].agreement < 0.9
    assert not found["broken"].agrees
    assert (found["failing"].problem, found["failing"].agrees) == ("RuntimeError", False)
    assert model.backbone.engine == "float32"
    assert fastest(found.values()) == "exact"


def test_the_choice_is_measured_once_and_remembered(
    tiny_backbone: Backbone, added: Callable[..., Any], timed: dict[str, float]
) -> None:
    model = build(tiny_backbone)
    added("fast", lambda grid: grid + 0.0)
    timed["fast"] = 0.5
    assert recalled(model) == ""
    assert choose_engine(model, measure=False) == "float32"
    assert choose_engine(model) == model.engine == "fast"
    timed["fast"] = 2.0  # would not be taken if it were measured again
    model.use_engine("float32")
    assert choose_engine(model) == "fast"
    assert recalled(build(tiny_backbone)) == "fast"
    del timed["fast"]  # gone from this machine
    assert choose_engine(model) == "float32"


def test_the_environment_has_the_last_word(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny_backbone)
    fastest_engine.remember(model, "bfloat16")
    monkeypatch.setenv(fastest_engine.VARIABLE, "float32")
    assert choose_engine(model) == "float32"
    monkeypatch.setenv(fastest_engine.VARIABLE, "abacus")
    with pytest.raises(InputError, match="there is no engine 'abacus'"):
        choose_engine(model)


def test_stopping_while_it_is_measured_stops(
    tiny_backbone: Backbone, added: Callable[..., Any], timed: dict[str, float]
) -> None:
    model = build(tiny_backbone)
    timed["fast"] = 0.5
    added("fast", lambda grid: grid + 0.0)
    with cancel_when(lambda: True), pytest.raises(Cancelled):
        choose_engine(model)
    assert recalled(model) == ""


def test_a_choice_that_cannot_be_read_is_none(tiny_backbone: Backbone) -> None:
    key = ["engine"]
    speeds.remember(key, 3.0)
    assert speeds.recall_choice(key) == ""
    speeds.remember_choice(key, "fast")
    assert (speeds.recall_choice(key), speeds.recall(key)) == ("fast", None)


def test_fewer_digits_and_what_takes_long_are_tried_only_when_asked_for(
    tiny_backbone: Backbone, added: Callable[..., Any], timed: dict[str, float]
) -> None:
    model = build(tiny_backbone)
    for name in set(ENGINES) - {"float32", "openvino"}:
        added(name, lambda grid: grid + 0.0)
        timed[name] = 0.1
    assert [trial.engine for trial in trials(model)] == ["float32"]
    assert choose_engine(model) == "float32"
    asked = list(trials(model, ["float32", "openvino-int8"]))
    assert fastest(asked) == "openvino-int8"
