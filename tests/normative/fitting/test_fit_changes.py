"""A model that learns from changed slices, from the folder to the file and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.registry import BackboneSpec
from napari_spatial_ar.normative.fitting.fit import FitProgress

OPTIONS = {"slices": 6, "steps": 60, "components": 16, "hidden": 8}


@pytest.fixture
def settings(tiny_weights: Path, tiny_spec: BackboneSpec) -> dict[str, Any]:
    return {
        "backbone": tiny_spec.name,
        "method": "synthetic-change",
        "options": OPTIONS,
        "size": (160, 160),
        "device": "cpu",
    }


def test_from_folder_to_file_and_back(
    normal_slices: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    steps: list[FitProgress] = []
    model = nsar.fit(normal_slices, out=tmp_path / "m", progress=steps.append, **settings)
    training = model.header.training
    assert training["options"] == OPTIONS
    assert training["changed_patches"] > 0
    assert training["changed_patches"] + training["unchanged_patches"] <= 6 * 100
    changed = [step for step in steps if step.message == "Embedding synthetic anomalies"]
    assert [step.done for step in changed] == [0, 1, 2, 3, 4, 5, 6]
    assert {step.total for step in changed} == {6}
    # Of the unchanged ones only those for calibration are needed.
    assert {s.total for s in steps if s.message.startswith("Embedding slices with")} == {3}
    loaded = nsar.load_model(tmp_path / "m", device="cpu")
    assert loaded.header == model.header
    image = np.random.default_rng(0).integers(1, 255, (40, 40)).astype(np.uint8)
    first, second = model.score_slice(image), loaded.score_slice(image)
    np.testing.assert_array_equal(first.nll, second.nll)
    assert first.nll.min() >= 0
    assert model.header.calibration is not None
    assert len(model.header.calibration.image_scores) == 3
    assert [path.name for path in (tmp_path / "m").iterdir() if path.is_dir()] == []


def test_goes_on_where_it_was_stopped(
    normal_slices: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop_at_three(step: FitProgress) -> None:
        if step.message == "Embedding synthetic anomalies" and step.done == 3:
            raise Stop

    with pytest.raises(Stop):
        nsar.fit(normal_slices, out=tmp_path / "a", progress=stop_at_three, **settings)
    steps: list[FitProgress] = []
    again = nsar.fit(normal_slices, out=tmp_path / "a", progress=steps.append, **settings)
    done = [step.done for step in steps if step.message == "Embedding synthetic anomalies"]
    assert done == [3, 4, 5, 6]
    whole = nsar.fit(normal_slices, out=tmp_path / "b", **settings)
    image = np.random.default_rng(0).integers(1, 255, (40, 40)).astype(np.uint8)
    np.testing.assert_array_equal(again.score_slice(image).nll, whole.score_slice(image).nll)


def test_a_wrong_number_of_slices_is_refused(
    normal_slices: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"options": {"slices": 0}}
    with pytest.raises(InputError, match="slices must be at least 1, not 0"):
        nsar.fit(normal_slices, out=tmp_path / "m", **settings)
