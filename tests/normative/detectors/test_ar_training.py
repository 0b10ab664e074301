"""Training on stored grids: when it ends, and what it does where memory runs short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.devices import VARIABLE
from napari_spatial_ar.normative.detectors import ar_training, checkpoint
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.detectors.ar_training import Epoch, TrainingState
from napari_spatial_ar.normative.fitting.plan import FitProgress
from tests.tiny import fit_steps


@pytest.fixture
def settings(tiny_backbone: Backbone) -> dict[str, Any]:
    """A fit whose second epoch is its best: the ones after it overshoot."""
    return {
        "backbone": tiny_backbone,
        "size": (64, 64),
        "epochs": 12,
        "batch_size": 4,
        "dilation": 1,
        "device": "cpu",
        "learning_rate": 0.3,
    }


def stopped_by(valid: list[float], patience: int) -> int:
    """Epochs after which ``patience`` of them in a row brought nothing better, by its words."""
    for count in range(1, len(valid) + 1):
        best = valid[:count].index(min(valid[:count])) + 1
        if count - best >= patience:
            return count
    return len(valid)


def test_patience_ends_the_training_and_changes_nothing_before(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = nsar.fit(normal_slices, out=tmp_path / "0", **settings).header.training
    off = nsar.fit(normal_slices, out=tmp_path / "off", patience=0, **settings).header.training
    valid = whole["history"]["valid_nll"]
    assert off["history"] == whole["history"]
    assert len(valid) == 12
    ends = {patience: stopped_by(valid, patience) for patience in (1, 2)}
    assert 1 < ends[1] < 12, "the case needs a loss that rises, more than once"
    for patience, count in ends.items():
        model = nsar.fit(normal_slices, out=tmp_path / f"{patience}", patience=patience, **settings)
        training = model.header.training
        assert training["history"]["valid_nll"] == valid[:count]
        assert training["epochs"] == count
        assert training["best_nll"] == min(valid[:count])
        assert training["options"]["patience"] == patience


@pytest.mark.parametrize("stop_at", [2, 7])
@pytest.mark.parametrize(
    "options",
    [
        {"raster": "forward"},
        {"raster": "both"},
        {"raster": "both", "whiten": True, "dilations": "1-2-1-2-1"},
        {"optimizer": "muon"},
        {"optimizer": "adamw-cycle"},
    ],
    ids=["forward", "both", "both-whitened", "muon", "adamw-cycle"],
)
def test_stopped_and_gone_on_with_patience_gives_the_same_weights(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    stop_at: int,
    options: dict[str, Any],
) -> None:
    settings |= {"patience": 2, "options": options}
    whole = nsar.fit(normal_slices, out=tmp_path / "whole" / "m", **settings)
    steps = fit_steps(normal_slices, out=tmp_path / "stopped" / "m", **settings)
    training = [next(steps)]
    while training[-1].stage != "training" or training[-1].done < stop_at:
        training.append(next(steps))
    steps.close()
    model = nsar.fit(normal_slices, out=tmp_path / "stopped" / "m", **settings)
    for name, tensor in whole.detector.tensors().items():
        assert torch.equal(tensor, model.detector.tensors()[name]), name
    assert whole.sha256 == model.sha256


def test_a_fit_that_ended_early_trains_no_more_when_resumed(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings |= {"patience": 1}
    seen: list[FitProgress] = []
    steps = fit_steps(normal_slices, out=tmp_path / "m", **settings)
    for step in steps:
        if step.stage == "calibration":
            break
    steps.close()
    nsar.fit(normal_slices, out=tmp_path / "m", progress=seen.append, **settings)
    trained = [step for step in seen if step.stage == "training"]
    assert len(trained) == 1, "only where it stands is told"


@pytest.mark.parametrize("change", [{"history": [{"train_nll": 1.0}]}, {"best_epoch": "2"}])
def test_a_checkpoint_with_a_damaged_record_is_not_taken_up(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    network = SpatialAR(8, hidden=4, layers=2)
    optimizer = torch.optim.AdamW(network.parameters())
    file = tmp_path / "checkpoint"
    history = [Epoch(2.0, 1.5), Epoch(1.0, float("nan"))]
    begun = TrainingState(network, history=history, best_epoch=0, seconds=3.0)
    ar_training._save(begun, optimizer, file, "key")
    whole = TrainingState(network)
    ar_training._resume(whole, optimizer, file, "key")
    assert (whole.history[0], len(whole.history), whole.seconds) == (history[0], 2, 3.0)
    with safe_open(file, "pt") as opened:
        record = json.loads(opened.metadata()[checkpoint._METADATA_KEY])
    metadata = {checkpoint._METADATA_KEY: json.dumps({**record, **change})}
    save_file(load_file(file), file, metadata)
    damaged = TrainingState(network)
    ar_training._resume(damaged, optimizer, file, "key")
    assert (damaged.history, damaged.best_epoch) == ([], -1)


def test_patience_below_0(normal_slices: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="patience must be at least 0, not -1"):
        nsar.fit(normal_slices, out=tmp_path / "m", patience=-1, **settings)


def test_products_in_bfloat16_train_nearly_the_same(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On any processor: where there is no bfloat16, torch emulates it."""
    settings |= {"learning_rate": 0.003, "epochs": 6}
    found = {}
    for forced, products in (("off", "float32"), ("on", "bfloat16")):
        monkeypatch.setenv(VARIABLE, forced)
        model = nsar.fit(normal_slices, out=tmp_path / forced, **settings)
        assert model.header.training["products"] == products
        found[products] = model.header.training["history"]["valid_nll"]
    assert found["float32"] != found["bfloat16"]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.01)
    # What it learned scores in float32 either way.
    maps = []
    image = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    for forced in ("off", "on"):
        monkeypatch.setenv(VARIABLE, forced)
        maps.append(model.score_slice(image).grid)
    np.testing.assert_array_equal(*maps)
