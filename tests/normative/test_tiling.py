"""Slices cut into tiles: each embedded and scored by itself, put together where they lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.windows import Window, apply_window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BackboneSpec
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.tiling import Tiling, embed_slice

PLAIN = Preprocessing(Window("full8"), size=(96, 128))
TILED = replace(PLAIN, tile=64)


@pytest.mark.parametrize(
    ("size", "tile", "patch", "rows", "columns"),
    [
        ((896, 896), 448, 14, [0, 16, 32], [0, 16, 32]),
        ((896, 896), 448, 16, [0, 14, 28], [0, 14, 28]),
        ((96, 64), 64, 16, [0, 2], [0]),
        # What is over is shared: tiles overlap by more than half.
        ((112, 128), 64, 16, [0, 2, 3], [0, 2, 4]),
        ((80, 80), 48, 16, [0, 1, 2], [0, 1, 2]),
        ((64, 64), 32, 16, [0, 1, 2], [0, 1, 2]),
    ],
)
def test_tiles_cover_the_slice_half_over_each_other(
    size: tuple[int, int], tile: int, patch: int, rows: list[int], columns: list[int]
) -> None:
    tiling = Tiling.of(Preprocessing(Window("full8"), size=size, tile=tile), patch)
    assert tiling.grid == (size[0] // patch, size[1] // patch)
    assert tiling.side == (tile // patch, tile // patch)
    assert tiling.offsets == tuple((row, column) for row in rows for column in columns)
    assert len(tiling) == len(rows) * len(columns)
    for starts, patches in ((rows, tiling.grid[0]), (columns, tiling.grid[1])):
        assert starts[-1] + tile // patch == patches
        assert np.all(np.diff(starts) <= tile // patch / 2)


def test_without_tiles_the_slice_is_one() -> None:
    tiling = Tiling.of(PLAIN, 16)
    assert (tiling.side, tiling.offsets) == (tiling.grid, ((0, 0),))
    scores = torch.randn(1, 6, 8)
    assert torch.equal(tiling.join(scores), scores[0])
    assert torch.equal(tiling.cut(scores[0]), scores)


@pytest.mark.parametrize(
    ("size", "tile", "words"),
    [
        ((100, 96), 64, "a size of 100 pixels does not divide into patches of 16.* 96 or 112"),
        ((96, 10), 0, "a size of 10 pixels.* such as 16"),
        ((96, 96), 60, "a tile of 60 pixels.* 48 or 64"),
        ((96, 96), 112, "slices of 96 x 96 .* tiles of 112 .* from 32 to 80 pixels, or a larger"),
        ((96, 96), 96, "slices of 96 x 96 .* tiles of 96 .* from 32 to 80 pixels, or a larger"),
        ((96, 128), 128, "slices of 96 x 128 .* tiles of 128 .* from 32 to 96 pixels"),
        ((96, 96), 16, "tiles of 16 .* from 32 to 80 pixels"),
        ((32, 32), 32, "Do not use tiles, or choose a size of at least 48 pixels"),
    ],
)
def test_sizes_that_do_not_fit_say_which_would(
    size: tuple[int, int], tile: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Tiling.of(Preprocessing(Window("full8"), size=size, tile=tile), 16)


def test_what_is_cut_is_put_together_again_by_its_mean() -> None:
    tiling = Tiling.of(TILED, 16)
    whole = torch.randn(6, 8)
    tiles = tiling.cut(whole)
    assert tiles.shape == (6, 4, 4)
    assert torch.equal(tiles[4], whole[2:, 2:6])
    torch.testing.assert_close(tiling.join(tiles), whole)
    for number, (row, column) in enumerate(tiling.offsets):
        tiles[number] = 10 * row + column
    joined = tiling.join(tiles)
    assert joined[0, 0] == 0
    assert joined[0, 2] == (0 + 2) / 2
    assert joined[3, 3] == (0 + 2 + 20 + 22) / 4
    assert joined[5, 7] == 24


def test_each_tile_is_embedded_by_itself(tiny_backbone: Backbone) -> None:
    unit = np.random.default_rng(0).random((50, 70)).astype(np.float32)
    grids = embed_slice(tiny_backbone, TILED, unit)
    assert grids.shape == (6, 24, 4, 4)
    pixels = PLAIN(unit)
    for grid, (row, column) in zip(grids, Tiling.of(TILED, 16).offsets, strict=True):
        tile = pixels[:, 16 * row : 16 * row + 64, 16 * column : 16 * column + 64]
        torch.testing.assert_close(grid, tiny_backbone.embed(tile[None])[0], atol=1e-4, rtol=0)
    assert torch.equal(embed_slice(tiny_backbone, PLAIN, unit), tiny_backbone.embed(pixels[None]))


def test_the_store_holds_a_file_for_each_tile(
    tiny_backbone: Backbone, normal_slices: Path, tmp_path: Path
) -> None:
    refs = find_slices(normal_slices).train[:3]
    plain = FeatureStore(tiny_backbone, PLAIN, tmp_path)
    tiled = FeatureStore(tiny_backbone, TILED, tmp_path)
    assert plain.folder != tiled.folder
    (path,) = plain.paths(refs[:1])
    names = [tile.name for tile in tiled.paths(refs[:1])]
    assert names == [f"{path.stem}-{n:03}.npy" for n in range(6)]
    assert list(tiled.extract(refs)) == [0, 1, 2, 3]
    assert load_batch(tiled.paths(refs[:1])).shape == (6, 24, 4, 4)
    tiled.paths(refs)[8].unlink()
    assert list(tiled.extract(refs)) == [2, 3]
    assert all(path.is_file() for path in tiled.paths(refs))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("spatial-ar", {"hidden": 8, "dilation": 1}),
    ("memory-bank", {}),
    ("patch-gaussian", {"components": 3, "neighbours": 1}),
    ("himatch-ad", {"clusters": 4, "references": 2}),
    ("synthetic-change", {"slices": 6, "steps": 30, "components": 16, "hidden": 8}),
]


@pytest.mark.parametrize(("method", "options"), CASES, ids=[name for name, _ in CASES])
def test_from_folder_to_file_and_back(
    normal_slices: Path,
    tiny_weights: Path,
    tiny_spec: BackboneSpec,
    tmp_path: Path,
    method: str,
    options: dict[str, Any],
) -> None:
    model = nsar.fit(
        normal_slices,
        out=tmp_path / "m",
        backbone=tiny_spec.name,
        method=method,
        options=options,
        size="96x128",
        tile=64,
        smoothing=1,
        epochs=1,
        device="cpu",
    )
    assert (model.header.preprocessing.size, model.header.preprocessing.tile) == ((96, 128), 64)
    assert model.header.training["images"] == 9
    if method == "memory-bank":
        assert len(model.detector.tensors()["bank"]) == 9 * 6 * 16
    if method == "himatch-ad":
        assert len(model.detector.tensors()["pooled"]) == 9 * 6
    assert model.header.calibration is not None
    assert len(model.header.calibration.image_scores) == 3

    loaded = nsar.load_model(tmp_path / "m", device="cpu")
    assert loaded.header == model.header
    image = np.random.default_rng(0).integers(1, 255, (40, 40)).astype(np.uint8)
    score = loaded.score_slice(image)
    np.testing.assert_array_equal(score.nll, model.score_slice(image).nll)
    assert score.grid.shape == (6, 8)
    assert score.nll.shape == (40, 40)
    grids = embed_slice(model.backbone, model.header.preprocessing, apply_window(image, 0, 255))
    tiles = torch.cat([model.detector.score(grid[None]) for grid in grids])
    sums, counts = np.zeros((6, 8)), np.zeros((6, 8))
    for tile, (row, column) in zip(tiles, Tiling.of(TILED, 16).offsets, strict=True):
        sums[row : row + 4, column : column + 4] += tile.numpy()
        counts[row : row + 4, column : column + 4] += 1
    np.testing.assert_allclose(score.grid, sums / counts, rtol=1e-5)
    own = [model.detector.image_scores(grid[None]) for grid in grids]
    images = [float(image_score) for image_score in own if image_score is not None]
    assert bool(images) == (method == "patch-gaussian")
    if images:
        assert score.image_score == max(images) > min(images)
