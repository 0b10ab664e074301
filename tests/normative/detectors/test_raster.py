"""Spatial AR whose raster runs both ways: two networks, each causal in its own raster."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.detectors import (
    SpatialARDetector,
    StoredGrids,
    check_options,
)
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from tests.normative.detectors.learning import learn_ar

CHANNELS, ROWS, COLUMNS = 6, 5, 7
OPTIONS: dict[str, Any] = {"hidden": 8, "dilation": 1, "epochs": 6, "batch_size": 4}


@pytest.fixture
def grids(tmp_path: Path) -> tuple[StoredGrids, StoredGrids]:
    """Slices whose patches grow from left to right."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(12):
        grid = np.abs(np.cumsum(rng.normal(size=(ROWS, COLUMNS, CHANNELS)), axis=1))
        paths.append(tmp_path / "store" / f"{number:02}.npy")
        paths[-1].parent.mkdir(exist_ok=True)
        np.save(paths[-1], grid.astype(np.float16))
    return StoredGrids(paths[:8]), StoredGrids(paths[8:])


learn = partial(learn_ar, **OPTIONS)


def two_networks() -> SpatialARDetector:
    torch.manual_seed(0)
    one, other = (SpatialAR(CHANNELS, hidden=8, dilation=2) for _ in range(2))
    return SpatialARDetector(one, other)


def test_the_score_is_the_mean_of_two_passes() -> None:
    detector = two_networks()
    assert detector.backward is not None
    grid = torch.randn(3, CHANNELS, ROWS, COLUMNS)
    backward = detector.backward.nll(torch.rot90(grid, 2, (2, 3)))
    expected = (detector.network.nll(grid) + torch.rot90(backward, 2, (1, 2))) / 2
    torch.testing.assert_close(detector.score(grid), expected)
    assert not torch.equal(detector.score(grid), SpatialARDetector(detector.network).score(grid))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 6), (1, 6)])
def test_each_network_sees_its_own_side_alone(row: int, column: int) -> None:
    detector = two_networks()
    assert detector.backward is not None
    grid = torch.randn(1, CHANNELS, ROWS, COLUMNS)
    odd = grid.clone()
    odd[0, :, row, column] += 5.0
    # Which patches score otherwise when this one is another, by place in the raster.
    place = row * COLUMNS + column
    for network, turned in ((detector.network, False), (detector.backward, True)):
        one, other = (torch.rot90(g, 2, (2, 3)) if turned else g for g in (grid, odd))
        change = network.nll(other) - network.nll(one)
        change = torch.rot90(change, 2, (1, 2)) if turned else change
        moved = np.flatnonzero(change.abs().numpy() > 1e-4)
        assert place in moved, "its own score is of itself"
        assert (moved <= place).all() if turned else (moved >= place).all()
        last = place == (0 if turned else ROWS * COLUMNS - 1)
        assert (len(moved) > 1) != last, "what comes next is predicted from it"


def test_both_learn_and_the_summary_says_so(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    learned, seen = learn(grids, tmp_path / "both", raster="both")
    alone, _ = learn(grids, tmp_path / "alone")
    assert learned is not None
    assert alone is not None
    tensors = learned.detector.tensors()
    for name, tensor in alone.detector.tensors().items():
        assert torch.equal(tensor, tensors[name]), "the first is the one that learns alone"
        assert not torch.equal(tensor, tensors[f"backward.{name}"])
    assert learned.detector.parameters() == {**alone.detector.parameters(), "raster": "both"}
    backward = learned.summary["backward"]
    assert learned.summary["history"] == alone.summary["history"]
    assert backward["history"]["valid_nll"] != learned.summary["history"]["valid_nll"]
    assert backward["best_nll"] == min(backward["history"]["valid_nll"])
    assert backward["best_nll"] < backward["history"]["valid_nll"][0]
    assert "backward" not in alone.summary
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[-1].done == seen[-1].total == 2 * 6 * 2
    assert {step.message.split(",")[0] for step in seen} == {
        "Training forward",
        "Training backward",
    }


@pytest.mark.parametrize("stop_at", [5, 13, 17, 23])
def test_goes_on_with_the_network_that_was_learning(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path, stop_at: int
) -> None:
    whole, _ = learn(grids, tmp_path / "whole", raster="both")
    none, _ = learn(grids, tmp_path / "parts", raster="both", stop_at=stop_at)
    assert none is None
    resumed, seen = learn(grids, tmp_path / "parts", raster="both")
    assert seen[0].done == min(stop_at // 2 * 2, 12), "it goes on from the last whole epoch"
    assert len(seen) <= 2 + 3 * (12 - stop_at // 2)
    assert whole is not None
    assert resumed is not None
    for name, tensor in whole.detector.tensors().items():
        assert torch.equal(tensor, resumed.detector.tensors()[name]), name
    summaries = [{**each.summary, "seconds": 0} for each in (whole, resumed)]
    assert summaries[0] == summaries[1]


def test_a_file_says_how_many_networks_there_are() -> None:
    detector = two_networks()
    tensors = load(save(detector.tensors()))
    parameters = detector.parameters()
    grid = torch.randn(1, CHANNELS, ROWS, COLUMNS)
    again = SpatialARDetector.from_tensors(parameters, tensors)
    assert torch.equal(again.to(torch.device("cpu")).score(grid), detector.score(grid))
    forward = {k: v for k, v in tensors.items() if not k.startswith("backward.")}
    alone = {k: v for k, v in parameters.items() if k != "raster"}
    assert SpatialARDetector.from_tensors(alone, forward).backward is None
    for wrong, some in ((parameters, forward), (alone, tensors)):
        with pytest.raises(ModelFileError, match="do not match"):
            SpatialARDetector.from_tensors(wrong, some)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"raster": "sideways"}, "raster must be forward or both, not 'sideways'"),
        ({"raster": "both", "context": "bidirectional"}, "bidirectional network has no raster"),
    ],
)
def test_rasters_that_there_are_not(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_options(SpatialARDetector, options)
