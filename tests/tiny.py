"""A tiny random backbone, so that everything above it can be tested in seconds."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from napari_spatial_ar.normative.backbones import backbone as backbones
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BACKBONES, BackboneSpec
from napari_spatial_ar.normative.backbones.weights import store
from napari_spatial_ar.normative.detectors import SpatialARChange, SpatialARDetector
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.normative.fitting import estimate as fit_estimate
from napari_spatial_ar.normative.fitting import fit
from napari_spatial_ar.normative.fitting.config import FitConfig
from napari_spatial_ar.normative.fitting.estimate import FitEstimate
from napari_spatial_ar.normative.fitting.plan import FitProgress
from napari_spatial_ar.normative.model import NormativeModel

TINY = "dinov3_tiny_for_tests"


def random_state(spec: BackboneSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that make every part of the network matter."""
    model = backbones._build(spec, 0)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.2
        for name, tensor in model.state_dict().items()
        if not name.endswith("mask_token")
    }


def learn_changes_briefly(patch: pytest.MonkeyPatch) -> None:
    """Let methods that learn from changes do so in 150 steps, where they are not told how many."""
    defaults = ChangeDetector.learn.__kwdefaults__
    assert defaults["steps"] > 150
    patch.setitem(defaults, "steps", 150)


def _as_config(folder: Any, settings: dict[str, Any]) -> tuple[FitConfig, dict[str, Any]]:
    """Tell what decides a model from where the fit runs, as `nsar.fit` does."""
    elsewhere = ("out", "device", "overwrite", "extract")
    where = {name: settings.pop(name) for name in elsewhere if name in settings}
    if isinstance(settings.get("backbone"), Backbone):
        where["backbone"] = settings["backbone"]
        settings["backbone"] = where["backbone"].spec.name
    return FitConfig.of(folder, **settings), where


def fit_steps(folder: Any, **settings: Any) -> Generator[FitProgress, None, NormativeModel]:
    """The steps of `nsar.fit` with these arguments."""
    config, where = _as_config(folder, settings)
    return fit.fit_steps(config, **where)


def estimate(folder: Any, **settings: Any) -> FitEstimate:
    """What `nsar.fit` with these arguments is estimated to take."""
    config, where = _as_config(folder, settings)
    return fit_estimate.estimate(config, **where)


@pytest.fixture
def tiny_name(tiny_spec: BackboneSpec) -> str:
    return tiny_spec.name


def make_spec() -> BackboneSpec:
    """A DINOv3 ViT of 2 blocks and 24 channels."""
    config = {**BACKBONES["dinov3_vits16"].config}
    config |= {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    return replace(BACKBONES["dinov3_vits16"], name=TINY, width=24, config=config, hub=())


def make_backbone(spec: BackboneSpec) -> Backbone:
    return Backbone(spec, random_state(spec), source="random", device=torch.device("cpu"))


@pytest.fixture
def tiny_spec(monkeypatch: pytest.MonkeyPatch) -> BackboneSpec:
    """The tiny network, known by name like the real ones; those trained on it are small as well."""
    spec = make_spec()
    monkeypatch.setitem(SpatialARDetector.learn.__kwdefaults__, "hidden", 16)
    monkeypatch.setitem(SpatialARChange.learn.__kwdefaults__, "hidden", 16)
    monkeypatch.setitem(SpatialARChange.learn.__kwdefaults__, "steps", 6)
    monkeypatch.setitem(BACKBONES, TINY, spec)
    return spec


@pytest.fixture
def tiny_weights(tiny_spec: BackboneSpec) -> Iterator[Path]:
    """Its random weights, in the user's weights folder."""
    path = store(tiny_spec, random_state(tiny_spec))
    yield path
    path.unlink()


@pytest.fixture
def tiny_backbone(tiny_spec: BackboneSpec) -> Backbone:
    return make_backbone(tiny_spec)


def draw_normal_slices(folder: Path, seed: int = 3) -> Path:
    """Pictures of four patients, three slices each, in one new folder."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:48, :40]
    disc = ((rows - 24) ** 2 + (columns - 20) ** 2 < 300).astype(np.float32)
    for patient in range(4):
        for number in range(3):
            noise = rng.normal(0, 12, disc.shape)
            image = np.clip(disc * (120 + 10 * patient + noise), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / f"patient{patient}_{number:02}.png")
    return folder


@pytest.fixture
def normal_slices(tmp_path: Path) -> Path:
    return draw_normal_slices(tmp_path / "normal")
