"""What every detector keeps: it finds what is odd, and is the same after a file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import BackboneSpec
from napari_spatial_ar.normative.detectors import (
    DETECTORS,
    Detector,
    FitContext,
    SpatialARDetector,
    StoredGrids,
    check_options,
    detector_from_tensors,
    score_grid,
)
from napari_spatial_ar.normative.detectors.grids import sample_rows
from napari_spatial_ar.normative.fitting.feature_store import load_batch
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.steps import finish

CHANNELS, ROWS, COLUMNS, BLOCKS = 12, 6, 8, 2

# Each way of fitting, small enough to run in a moment.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("spatial-ar", {"dilation": 1, "hidden": 16, "epochs": 15, "batch_size": 4}),
    ("spatial-ar", {"raster": "both", "dilation": 1, "hidden": 16, "epochs": 15, "batch_size": 4}),
    ("spatial-ar", {"context": "bidirectional", "dilation": 1, "hidden": 16, "epochs": 15}),
    ("spatial-ar", {"dilations": "1-2-1-2-1", "whiten": True, "hidden": 16, "epochs": 15}),
    ("spatial-ar", {"likelihood": "von-mises-fisher", "dilation": 1, "hidden": 16, "epochs": 30}),
    (
        "spatial-ar",
        {"likelihood": "both", "whiten": True, "dilation": 1, "hidden": 16, "epochs": 30},
    ),
    ("memory-bank", {}),
    ("memory-bank", {"coreset": 0.1}),
    ("patch-gaussian", {}),
    ("patch-gaussian", {"components": 5, "neighbours": 2}),
    ("patch-gaussian", {"position": "patch", "cells": 3}),
    ("dpmm", {"components": 30, "passes": 20}),
    ("himatch-ad", {"references": 3, "clusters": 12}),
    ("dinomaly", {"iterations": 150, "batch_size": 8, "decoder": 2, "learning_rate": 0.01}),
    ("utrad", {"iterations": 150, "batch_size": 8, "depth": 1, "width": 16, "learning_rate": 0.01}),
]
NAMES = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CASES]


def normal_grids(count: int, seed: int = 0) -> list[torch.Tensor]:
    """Slices whose patches follow a smooth pattern of the position, with a little noise."""
    fixed = torch.Generator().manual_seed(1)
    pattern = torch.randn(CHANNELS, 3, 4, generator=fixed)
    # No patch is near zero, where noise alone turns it around.
    pattern += 2 * torch.randn(CHANNELS, 1, 1, generator=fixed)
    smooth = torch.nn.functional.interpolate(
        pattern[None], size=(ROWS, COLUMNS), mode="bilinear", align_corners=True
    )
    generator = torch.Generator().manual_seed(seed)
    noise = 0.1 * torch.randn(count, CHANNELS, ROWS, COLUMNS, generator=generator)
    # What a store keeps has been through float16.
    return list((smooth + noise).half().float().split(1))


@pytest.fixture
def stored(tmp_path: Path) -> tuple[StoredGrids, StoredGrids]:
    """Normal grids on disk, as the feature store lays them down: to train and to validate on."""
    paths = []
    for number, grid in enumerate(normal_grids(20)):
        path = tmp_path / "store" / f"{number:02}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, grid[0].permute(1, 2, 0).half().numpy())
        paths.append(path)
    return StoredGrids(paths[:16]), StoredGrids(paths[16:])


def learn(
    name: str,
    options: dict[str, Any],
    stored: tuple[StoredGrids, StoredGrids],
    folder: Path,
    seed: int = 0,
) -> Detector:
    setup = FitContext(
        blocks=BLOCKS, seed=seed, valid=stored[1], checkpoint=folder / "checkpoint.safetensors"
    )
    return finish(DETECTORS[name].learn(stored[0], setup, **options)).detector


def saved_and_loaded(detector: Detector) -> Detector:
    tensors = load(save(detector.tensors()))
    return detector_from_tensors(detector.name, detector.parameters(), tensors)


def is_highest(place: tuple[int, int, int], scores: torch.Tensor, options: dict[str, Any]) -> bool:
    """Whether a patch scores highest; where methods compare neighbourhoods, it or a neighbour."""
    top = np.unravel_index(int(scores.argmax()), scores.shape)
    reach = 1 if options.get("likelihood") == "both" else 0
    return int(np.abs(np.subtract(top, place)).max()) <= reach


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_finds_a_planted_patch_and_survives_a_file(
    name: str, options: dict[str, Any], stored: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    detector = learn(name, options, stored, tmp_path)
    grid = torch.cat(normal_grids(3, seed=9))
    odd = grid.clone()
    odd[1, :, 2, 5] = odd[1, :, 2, 5].roll(3)
    scores, normal = detector.score(odd), detector.score(grid)
    assert scores.shape == (3, ROWS, COLUMNS)
    assert scores.dtype == torch.float32
    assert is_highest((1, 2, 5), scores, options)
    assert scores[1, 2, 5] > normal.max()

    again = saved_and_loaded(detector)
    assert torch.equal(again.score(odd), scores)
    assert again.parameters() == detector.parameters()
    assert again.heatmap_divisor == detector.heatmap_divisor
    assert torch.equal(again.to(torch.device("cpu")).score(odd), scores)
    images = detector.image_scores(odd)
    assert (images is None) == (not options.get("neighbours"))
    if images is not None:
        assert torch.equal(again.image_scores(odd), images)

    other = torch.zeros(1, CHANNELS + BLOCKS, ROWS, COLUMNS)
    for wrong in (other, grid[0], grid[:0]):
        with pytest.raises(InputError, match=r"must be \(B, D, Hp, Wp\)|fitted on 12"):
            detector.score(wrong)


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_same_seed_same_tensors(
    name: str, options: dict[str, Any], stored: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    options = {**options, **{k: 2 for k in ("epochs", "iterations") if k in options}}
    first, second = (
        learn(name, options, stored, tmp_path / folder, seed=3).tensors() for folder in "ab"
    )
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_damaged_model_is_refused(
    name: str, options: dict[str, Any], stored: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    options = {**options, **{k: 1 for k in ("epochs", "iterations") if k in options}}
    detector = learn(name, options, stored, tmp_path)
    for key, tensor in detector.tensors().items():
        without = {k: v for k, v in detector.tensors().items() if k != key}
        with pytest.raises(ModelFileError):
            detector_from_tensors(name, detector.parameters(), without)
        flat = {**without, key: tensor[None]}
        with pytest.raises(ModelFileError):
            detector_from_tensors(name, detector.parameters(), flat)


@pytest.mark.parametrize("name", DETECTORS)
def test_each_says_what_it_is_and_refuses_what_it_is_not(name: str) -> None:
    method = DETECTORS[name]
    assert all((method.summary, method.reference, method.cost, method.unit))
    assert (method.__module__ and method.__doc__) is not None
    with pytest.raises(InputError, match="no option 'colour'"):
        method.fit(normal_grids(2), colour=1)
    if name == SpatialARDetector.name or method.needs_synthetic:
        return  # they take grids of another kind: see their own tests
    with pytest.raises(InputError, match="at least one normal slice"):
        method.fit([])
    with pytest.raises(InputError, match="read more than once"):
        method.fit(iter(normal_grids(2)))
    mixed = [*normal_grids(2), torch.zeros(1, CHANNELS + 1, ROWS, COLUMNS)]
    with pytest.raises(InputError, match="fitted on 12"):
        method.fit(mixed)
    for option, default in method.options().items():
        if not isinstance(default, str):
            with pytest.raises(InputError, match=f"option '{option}'"):
                method.fit(normal_grids(2), **{option: "many"})
            with pytest.raises(InputError):
                method.fit(normal_grids(2), **{option: type(default)(-1)})


def test_spatial_ar_wants_a_store() -> None:
    with pytest.raises(InputError, match="stored grids"):
        SpatialARDetector.fit(normal_grids(2))


def test_sample_is_a_draw_without_replacement() -> None:
    grids = [torch.arange(start, start + 24.0).reshape(2, 1, 3, 4) for start in range(0, 240, 24)]
    rows = sample_rows(grids, 100, seed=5).flatten().tolist()
    assert len(set(rows)) == 100
    assert rows == sorted(rows)
    assert set(rows) <= set(range(240))
    assert rows != sample_rows(grids, 100, seed=6).flatten().tolist()
    assert sample_rows(grids, 999, seed=5).flatten().tolist() == list(range(240))


def test_stored_grids_are_read_when_asked_for(
    stored: tuple[StoredGrids, StoredGrids],
) -> None:
    train, _ = stored
    assert len(train) == 16
    assert torch.equal(train[3], load_batch([train.paths[3]]))
    assert train[2:5].paths == train.paths[2:5]
    assert torch.equal(torch.cat(list(train)), torch.cat(normal_grids(20)[:16]))


def test_own_image_score_takes_the_place_of_the_top_share(
    stored: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    detector = learn("patch-gaussian", {"neighbours": 1}, stored, tmp_path)
    grid = normal_grids(1, seed=9)[0]
    score = score_grid(detector, Scoring(), grid, (12, 16))
    images = detector.image_scores(grid)
    assert images is not None
    assert score.image_score == images.item()
    assert score.nll.shape == (12, 16)
    bank = learn("memory-bank", {}, stored, tmp_path)
    plain = score_grid(bank, Scoring(), grid, (12, 16))
    assert plain.image_score == bank.score(grid).max().item()


FOLDER_CASES: list[tuple[str, dict[str, Any], list[int] | None, int]] = [
    ("spatial-ar", {"hidden": 8}, None, 24),
    ("spatial-ar", {"hidden": 8, "raster": "both"}, None, 24),
    ("memory-bank", {"coreset": 0.5}, [2], 24),
    ("patch-gaussian", {"components": 3, "neighbours": 1}, [1, 2], 48),
    ("dpmm", {"components": 3, "passes": 2}, None, 24),
    ("himatch-ad", {"clusters": 4}, [1, 2], 48),
    ("dinomaly", {"iterations": 3, "decoder": 2}, None, 48),
    ("utrad", {"iterations": 3, "depth": 1, "width": 16}, None, 24),
]


@pytest.mark.parametrize(("method", "options", "layers", "channels"), FOLDER_CASES)
def test_from_folder_to_file_and_back(
    normal_slices: Path,
    tiny_weights: Path,
    tiny_spec: BackboneSpec,
    tmp_path: Path,
    method: str,
    options: dict[str, Any],
    layers: list[int] | None,
    channels: int,
) -> None:
    model = nsar.fit(
        normal_slices,
        out=tmp_path / "m",
        backbone=tiny_spec.name,
        layers=layers,
        method=method,
        options=options,
        size=(64, 64),
        epochs=1,
        device="cpu",
    )
    assert model.backbone.channels == channels
    of_network = {"epochs": 1} if method == "spatial-ar" else {}
    assert model.header.training["options"] == {**of_network, **options}
    loaded = nsar.load_model(tmp_path / "m", device="cpu")
    assert loaded.header == model.header
    assert loaded.backbone.spec.layers == model.backbone.spec.layers
    image = np.random.default_rng(0).integers(1, 255, (40, 40)).astype(np.uint8)
    first, second = model.score_slice(image), loaded.score_slice(image)
    np.testing.assert_array_equal(first.nll, second.nll)
    assert first.image_score == second.image_score
    calibration = model.header.calibration
    assert calibration is not None
    assert len(calibration.image_scores) == 3


def test_options_that_do_not_exist_stop_a_fit_before_it_starts(
    normal_slices: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"out": tmp_path / "m", "backbone": tiny_backbone}
    with pytest.raises(InputError, match=r"no option 'epochs'.*components \(200\)"):
        nsar.fit(normal_slices, method="dpmm", options={"epochs": 2}, **settings)
    with pytest.raises(InputError, match="other blocks"):
        nsar.fit(normal_slices, layers=[1], **settings)
    with pytest.raises(InputError, match="cannot give the blocks 13"):
        nsar.fit(normal_slices, layers=[13], out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_blocks_are_said_in_words_or_numbers(
    normal_slices: Path, tiny_weights: Path, tiny_spec: BackboneSpec, tmp_path: Path
) -> None:
    def fitted(name: str, **settings: Any) -> NormativeModel:
        return nsar.fit(
            normal_slices,
            out=tmp_path / name,
            backbone=tiny_spec.name,
            method="memory-bank",
            size=(64, 64),
            device="cpu",
            **settings,
        )

    both = fitted("both", layers="last2")
    assert both.header.backbone.layers == (1, 2)
    assert fitted("text", layers="1, 2").sha256 == both.sha256
    assert fitted("one", layers=2).header.backbone.layers == (2,)
    mean = fitted("mean", layers="last2", fuse="mean")
    assert mean.detector.tensors()["bank"].shape[1] == 24
    loaded = nsar.load_model(tmp_path / "mean", device="cpu")
    assert loaded.backbone.spec == mean.backbone.spec
    image = np.random.default_rng(0).integers(1, 255, (40, 40)).astype(np.uint8)
    np.testing.assert_array_equal(loaded.score_slice(image).nll, mean.score_slice(image).nll)
    with pytest.raises(InputError, match="other blocks"):
        nsar.fit(normal_slices, out=tmp_path / "x", backbone=both.backbone, fuse="mean")
    for layers, words in (
        ("last3", "has 2 blocks to choose from, not 3"),
        ("middle", "'middle' does not state"),
        ([1.5], "'1.5' does not state"),
        (1.5, "'1.5' does not state"),
        (True, "'True' does not state"),
        ("1 2", "'1 2' does not state"),
        ("3", "cannot give the blocks 3"),
        ("", "needs at least two"),
    ):
        with pytest.raises(InputError, match=words):
            fitted("x", layers=layers, fuse="mean")


def test_a_coreset_can_be_stopped_between_steps() -> None:
    steps: Iterator[Any] = DETECTORS["memory-bank"].learn(
        normal_grids(8), FitContext(), coreset=0.9
    )
    assert [step.done for step in itertools.islice(steps, 2)] == [0, 256]


def test_pixels_in_place_of_a_backbone(normal_slices: Path, tmp_path: Path) -> None:
    backbone = load_backbone("pixels4", device="cpu")
    image = torch.arange(3 * 8 * 12.0).reshape(1, 3, 8, 12)
    grid = backbone.embed(image)
    assert grid.shape == (1, 16, 2, 3)
    assert torch.equal(grid[0, :, 1, 2], image[0, 0, 4:, 8:].flatten())
    with pytest.raises(InputError, match="patches of 4"):
        backbone.embed(torch.zeros(1, 3, 8, 10))
    for name in ("pixels", "pixels0", "pixels33", "pixelsx"):
        with pytest.raises(InputError, match=f"no backbone '{name}'"):
            load_backbone(name)
    with pytest.raises(InputError, match="no backbone 'pixels4'"):
        load_backbone("pixels4", layers=[1])
    model = nsar.fit(
        normal_slices,
        out=tmp_path / "m",
        backbone="pixels1",
        options={"hidden": 8},
        size=(16, 16),
        dilation=1,
        epochs=2,
        device="cpu",
    )
    loaded = nsar.load_model(tmp_path / "m", device="cpu")
    picture = np.random.default_rng(0).integers(1, 255, (40, 40)).astype(np.uint8)
    score = loaded.score_slice(picture)
    assert score.grid.shape == (16, 16)
    np.testing.assert_array_equal(score.nll, model.score_slice(picture).nll)
    assert loaded.backbone.sha256 != backbone.sha256


@pytest.mark.parametrize("method", DETECTORS.values(), ids=DETECTORS)
def test_every_option_says_what_it_is(method: type[Detector]) -> None:
    described = method.described_options()
    assert {option.name: option.default for option in described} == method.options()
    for option in described:
        assert len(option.text) > 5
        assert option.text.endswith(".")
        assert "`" not in option.text
        assert option.default in (option.choices or (option.default,))
        # A text that may only be one of a few has to say which; one that is free starts empty.
        assert option.choices or option.default == "" or not isinstance(option.default, str)
        option.check(option.default)
        # A number has a range, whose ends are refused or taken as it says.
        if isinstance(option.default, int | float) and not isinstance(option.default, bool):
            assert option.limits, option.name
        kind = type(option.default)
        for word, limit in option.limits:
            inside = word in ("at least", "at most")
            wrong = limit + {"at least": -1, "at most": 1}.get(word, 0)
            with pytest.raises(InputError, match=f"{option.name} must be .*{word} {limit:g}"):
                check_options(method, {option.name: kind(wrong)})
            if inside:
                option.check(kind(limit))
        for choice in option.choices:
            option.check(choice)
        if option.choices:
            with pytest.raises(InputError, match=f"{option.name} must be .* or .*, not 'x'"):
                check_options(method, {option.name: "x"})
        if isinstance(option.default, float):
            with pytest.raises(InputError, match=f"{option.name} must be .*, not nan"):
                check_options(method, {option.name: math.nan})
    assert method.title
