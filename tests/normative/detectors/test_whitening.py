"""Spatial AR on whitened embeddings, and with a dilation for each convolution."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load, save

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.detectors import (
    SpatialARDetector,
    StoredGrids,
    ar_training,
    check_options,
    detector_from_tensors,
)
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.detectors.ar_training import LoadedGrids, _channel_std, turn
from napari_spatial_ar.normative.detectors.whitening import EqualVariance
from napari_spatial_ar.normative.fitting.feature_store import load_batch
from napari_spatial_ar.paths import released_models_dir
from tests.normative.detectors.learning import learn_ar

CHANNELS, ROWS, COLUMNS = 6, 5, 7
CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"hidden": 8, "epochs": 4, "batch_size": 4, "whiten": True}
MIXED = {"dilations": "2-1-3", "convolutions": 3}
Array = npt.NDArray[np.float64]


@pytest.fixture
def grids(tmp_path: Path) -> tuple[StoredGrids, StoredGrids]:
    """Slices whose channels go together, and vary by very different amounts."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(CHANNELS, CHANNELS)) * np.array([5, 2, 1, 0.5, 0.1, 0.001])
    paths = []
    for number in range(12):
        rows = np.cumsum(rng.normal(size=(ROWS, COLUMNS, CHANNELS)), axis=1) @ mixing.T + 3
        paths.append(tmp_path / "store" / f"{number:02}.npy")
        paths[-1].parent.mkdir(exist_ok=True)
        np.save(paths[-1], rows.astype(np.float16))
    return StoredGrids(paths[:8]), StoredGrids(paths[8:])


learn = partial(learn_ar, **OPTIONS)


def learned(
    grids: tuple[StoredGrids, StoredGrids], folder: Path, **options: Any
) -> SpatialARDetector:
    found, _ = learn(grids, folder, **options)
    assert found is not None
    return found.detector


def measured(paths: list[Path]) -> tuple[Array, Array]:
    """Mean and W by the formula, whose rows may have either sign."""
    rows = np.concatenate([np.load(path).reshape(-1, CHANNELS) for path in paths]).astype(float)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False, bias=True))
    return rows.mean(axis=0), (vectors * (values + 1e-3 * values.mean()) ** -0.5).T


def plain_nll(network: SpatialAR, seen: Array, dilations: list[int]) -> Array:
    """Equation 2 of (D, Hp, Wp) with loops over layers, patches and those before them."""
    hidden = seen
    for number, dilation in enumerate(dilations):
        layer = network.net[2 * number]
        weight, bias = (t.detach().double().numpy() for t in (layer.weight, layer.bias))
        out = np.repeat(bias[:, None, None], ROWS, 1).repeat(COLUMNS, 2)
        for i, j in np.ndindex(ROWS, COLUMNS):
            for di, dj in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0)):
                y, x = i + di * dilation, j + dj * dilation
                unseen = number == 0 and di == dj == 0
                if 0 <= y < ROWS and 0 <= x < COLUMNS and not unseen:
                    out[:, i, j] += weight[:, :, di + 1, dj + 1] @ hidden[:, y, x]
        hidden = np.maximum(out, 0) if number < len(dilations) - 1 else out
    nll: Array = CHANNELS / 2 * math.log(2 * math.pi) + np.square(seen - hidden).sum(axis=0) / 2
    return nll


@pytest.mark.parametrize("raster", ["forward", "both"])
def test_the_score_equals_a_plain_computation(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path, raster: str
) -> None:
    detector = learned(grids, tmp_path, raster=raster, **MIXED)
    assert detector.whitening is not None
    mean, matrix = measured(grids[0].paths)
    theirs = detector.whitening.matrix.double().numpy()
    matrix *= np.sign((matrix * theirs).sum(axis=1))[:, None]
    np.testing.assert_allclose(theirs, matrix, rtol=1e-3, atol=1e-4 * np.abs(matrix).max())
    for grid in grids[1]:
        seen = np.einsum("kd,dhw->khw", matrix, grid[0].double().numpy() - mean[:, None, None])
        expected = plain_nll(detector.network, seen, [2, 1, 3])
        if detector.backward is not None:
            turned = plain_nll(detector.backward, seen[:, ::-1, ::-1], [2, 1, 3])
            expected = (expected + turned[::-1, ::-1]) / 2
        np.testing.assert_allclose(detector.score(grid)[0].numpy(), expected, rtol=2e-3)
    assert (detector.backward is None) == (raster == "forward")


def test_components_have_the_same_variance_but_those_that_hardly_vary(
    grids: tuple[StoredGrids, StoredGrids],
) -> None:
    change = EqualVariance.measured(grids[0].paths, CPU)
    rows = torch.cat([change(grid) for grid in grids[0]]).movedim(1, -1).flatten(0, 2).double()
    covariance = rows.T @ rows / len(rows)
    variance = covariance.diagonal()
    assert (covariance - torch.diag(variance)).abs().max() < 1e-3
    assert variance[-1] == pytest.approx(1, abs=0.01)
    assert variance[0] < 0.01, "rounding is not blown up"
    std = _channel_std(grids[0].paths, change)
    torch.testing.assert_close(std[:, 0, 0].double(), variance.sqrt(), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(std, _channel_std(grids[0].paths), rtol=0.1)


def test_it_is_measured_on_128_slices_at_most(
    grids: tuple[StoredGrids, StoredGrids], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = grids[0].paths
    monkeypatch.setattr("napari_spatial_ar.normative.detectors.whitening._MEASURED", 3)
    spread = EqualVariance.measured(train, CPU)
    monkeypatch.undo()
    assert spread.digest == EqualVariance.measured([train[0], train[3], train[6]], CPU).digest
    assert spread.digest != EqualVariance.measured(train, CPU).digest
    read: list[Path] = []

    def watched(paths: list[Path]) -> torch.Tensor:
        read.extend(paths)
        return load_batch(paths)

    monkeypatch.setattr("napari_spatial_ar.normative.detectors.whitening.load_batch", watched)
    EqualVariance.measured(train * 100, CPU)  # 800 of them
    assert 100 < len(read) <= 128


def test_noise_and_losses_are_those_of_whitened_embeddings(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[torch.Tensor] = []
    gradients = ar_training._gradients

    def watched(network: Any, optimizer: Any, grid: torch.Tensor, size: int) -> float:
        batches.append(grid)
        return gradients(network, optimizer, grid, size)

    monkeypatch.setattr(ar_training, "_gradients", watched)
    found, _ = learn(grids, tmp_path, noise_share=1.0, noise_scale=20.0, **MIXED)
    assert found is not None
    detector = found.detector
    assert detector.whitening is not None
    spread = torch.cat(batches).std(dim=(0, 2, 3))
    own = torch.cat([detector.whitening(grid) for grid in grids[0]]).std(dim=(0, 2, 3))
    torch.testing.assert_close(spread, 20 * own, rtol=0.1, atol=0)
    scores = torch.cat([detector.score(grid) for grid in grids[1]])
    assert found.summary["best_nll"] == pytest.approx(float(scores.mean()) / CHANNELS, rel=0.01)


def test_stored_grids_are_changed_where_they_are_read(
    grids: tuple[StoredGrids, StoredGrids],
) -> None:
    paths = grids[0].paths
    change = EqualVariance.measured(paths, CPU)
    expected = change(torch.cat([grids[0][2], grids[0][5]]))
    assert torch.equal(LoadedGrids(paths, CPU, turned=False, change=change).batch([2, 5]), expected)
    turned = LoadedGrids(paths, CPU, turned=True, change=change).batch([2, 5])
    assert torch.equal(turned, turn(expected))
    assert expected.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(change(torch.cat([grids[0][2], grids[0][5]])), expected)


def test_embeddings_that_are_all_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.full((ROWS, COLUMNS, CHANNELS), 2, np.float16))
    change = EqualVariance.measured([tmp_path / "flat.npy"], CPU)
    assert (change(torch.full((1, CHANNELS, ROWS, COLUMNS), 2.0)) == 0).all()


@pytest.mark.parametrize("stop_at", [3, 9, 13])
def test_a_stopped_training_goes_on_and_ends_as_if_it_had_not(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path, stop_at: int
) -> None:
    whole = learned(grids, tmp_path / "whole", raster="both", **MIXED)
    none, _ = learn(grids, tmp_path / "parts", raster="both", stop_at=stop_at, **MIXED)
    assert none is None
    resumed, seen = learn(grids, tmp_path / "parts", raster="both", **MIXED)
    assert seen[0].done == min(stop_at // 2 * 2, 8), "it goes on from the last whole epoch"
    assert resumed is not None
    tensors = resumed.detector.tensors()
    assert {"whitening.mean", "whitening.matrix"} < tensors.keys()
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize(
    "other", [{"whiten": False}, {"dilations": "1-1-3"}, {"dilations": "", "dilation": 2}]
)
def test_a_checkpoint_of_other_inputs_or_dilations_is_not_taken_up(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path, other: dict[str, Any]
) -> None:
    learned(grids, tmp_path, **MIXED)
    _, seen = learn(grids, tmp_path, **{**MIXED, **other})
    assert seen[0].done == 0
    _, seen = learn(grids, tmp_path, **{**MIXED, **other})
    assert seen[0].done == 8, "its own is"


def test_whitened_otherwise_trains_anew(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digits of what is measured may depend on the machine, which a checkpoint may leave."""
    learned(grids, tmp_path, **MIXED)
    whitening = EqualVariance.measured(grids[0].paths, CPU)
    another = EqualVariance(whitening.mean, whitening.matrix * (1 + 1e-6))
    monkeypatch.setattr(EqualVariance, "measured", lambda paths, device: another)
    _, seen = learn(grids, tmp_path, **MIXED)
    assert seen[0].done == 0


@pytest.mark.parametrize("raster", ["forward", "both"])
def test_a_file_keeps_it(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path, raster: str
) -> None:
    detector = learned(grids, tmp_path, raster=raster, **MIXED)
    parameters = json.loads(json.dumps(detector.parameters()))
    assert parameters["whiten"] is True
    assert parameters["dilation"] == [2, 1, 3]
    tensors = load(save(detector.tensors()))
    again = detector_from_tensors("spatial-ar", parameters, tensors)
    grid = grids[1][0]
    assert torch.equal(again.to(CPU).score(grid), detector.score(grid))
    assert again.parameters() == detector.parameters()
    told = {q.name: q.value for q in again.explain(grid, 2, 3).quantities}
    assert detector.whitening is not None
    seen = detector.whitening(grid)[0, :, 2, 3]
    assert told["Size of the whitened embedding"] == pytest.approx(seen.square().mean().sqrt())
    if raster == "forward":
        error = told["Prediction error"]
        assert told["Score of this patch alone"] == pytest.approx(
            math.log(2 * math.pi) / 2 + error**2 / 2, rel=1e-4
        )


@pytest.mark.parametrize("raster", ["forward", "both"])
def test_whitening_that_does_not_fit_is_refused(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path, raster: str
) -> None:
    detector = learned(grids, tmp_path, raster=raster, epochs=1)
    parameters, tensors = detector.parameters(), detector.tensors()
    mean, matrix = tensors["whitening.mean"], tensors["whitening.matrix"]
    infinite = matrix.clone()
    infinite[1, 2] = torch.inf
    for changed, words in [
        ({"whitening.mean": mean[:-1]}, r"not match its network: mean \(5,\) and matrix \(6, 6"),
        ({"whitening.matrix": matrix[:3]}, r"matrix \(3, 6\) for embeddings of 6 channels"),
        ({"whitening.matrix": infinite}, "not finite"),
        ({"whitening.extra": mean}, "not complete"),
    ]:
        with pytest.raises(ModelFileError, match=words):
            SpatialARDetector.from_tensors(parameters, {**tensors, **changed})
    for name in ("whitening.mean", "whitening.matrix"):
        with pytest.raises(ModelFileError, match="not complete"):
            SpatialARDetector.from_tensors(
                parameters, {k: v for k, v in tensors.items() if k != name}
            )
    unsaid = {k: v for k, v in parameters.items() if k != "whiten"}
    with pytest.raises(ModelFileError, match="do not match its description"):
        SpatialARDetector.from_tensors(unsaid, tensors)
    for dilation in ([1, 2], "4", 1.5, None):
        with pytest.raises(ModelFileError, match="dilation"):
            detector_from_tensors(detector.name, {**parameters, "dilation": dilation}, tensors)


def test_a_plain_network_is_written_as_before(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    detector = learned(grids, tmp_path, whiten=False, dilation=2, epochs=1)
    assert json.dumps(detector.parameters()) == json.dumps(
        {
            "channels": CHANNELS,
            "hidden": 8,
            "layers": 5,
            "kernel": 3,
            "dilation": 2,
            "context": "causal",
        }
    )
    names = {f"net.{n}.{part}" for n in range(0, 10, 2) for part in ("weight", "bias")}
    assert detector.tensors().keys() == names


def test_a_released_file_loads_and_is_written_with_the_same_sha256(tmp_path: Path) -> None:
    released = released_models_dir()
    assert released is not None
    source = released / "brain-flair-focus" / "model.safetensors"
    header, tensors, digest = model_file.read(source)
    detector = detector_from_tensors(header.method, header.parameters, tensors)
    assert isinstance(detector, SpatialARDetector)
    assert detector.whitening is None
    assert detector.parameters() == header.parameters
    assert model_file.write(tmp_path / "again.safetensors", header, detector.tensors()) == digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dilations": "1-2-4"}, r"3 dilations \(1-2-4\) for 5 convolutions"),
        ({"dilations": "1-2", "convolutions": 3}, "for 3 convolutions"),
        ({"dilations": "wide"}, "'wide' are no dilations"),
        ({"dilations": "1-0-1-1-1"}, "no dilations"),
        ({"dilations": "1,2,4,2,1"}, "no dilations"),
        ({"dilations": 4}, "'dilations' must be text, not 4"),
        ({"whiten": "yes"}, "'whiten' must be true or false, not 'yes'"),
        ({"kernel": 4}, "kernel must be an odd number, not 4"),
    ],
)
def test_options_that_cannot_be_read_are_refused_before_anything_is_done(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        check_options(SpatialARDetector, options)


def test_dilations_are_in_place_of_the_dilation(
    grids: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    one = learned(grids, tmp_path / "a", dilation=4, dilations="1 - 2 - 1 - 2 - 1", epochs=1)
    assert one.parameters()["dilation"] == [1, 2, 1, 2, 1]
    assert learned(grids, tmp_path / "b", dilations=" ", epochs=1).parameters()["dilation"] == 4
    check_options(SpatialARDetector, {"dilations": "1-2-4-2-1"})
