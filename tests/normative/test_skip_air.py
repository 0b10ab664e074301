"""Patches of air left out of the backbone, the method, the heatmap and the image score."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import WeightsError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.backbones import engines
from napari_spatial_ar.normative.backbones.backbone import Backbone, PatchGrid, _build
from napari_spatial_ar.normative.backbones.kept_tokens import KeptTokens, kept_length
from napari_spatial_ar.normative.backbones.registry import BackboneSpec
from napari_spatial_ar.normative.batching import BatchScorer, BatchSizes
from napari_spatial_ar.normative.detectors import (
    DETECTORS,
    FitContext,
    StoredGrids,
    score_grid,
)
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.tiling import Tiling, embed_slice
from napari_spatial_ar.steps import finish
from tests.normative.detectors.test_detectors import (
    BLOCKS,
    CASES,
    COLUMNS,
    NAMES,
    ROWS,
    is_highest,
    normal_grids,
    saved_and_loaded,
)
from tests.normative.test_model import build

SHOWN = Preprocessing(Window("full8"), size=(96, 128), skip_air=True)
CPU = torch.device("cpu")
FAMILIES: list[tuple[str, int, dict[str, Any]]] = [
    ("dinov2", 14, {}),
    ("dinov2", 14, {"num_register_tokens": 4}),
    ("dinov3_vit", 16, {"intermediate_size": 64, "num_register_tokens": 4}),
    ("vit", 14, {"intermediate_size": 64}),
    ("clip", 14, {"intermediate_size": 64}),
]


def network_of(family: Any, patch: int, more: dict[str, Any]) -> PatchGrid:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {**sizes, "image_size": 4 * patch, "patch_size": patch, **more}
    spec = BackboneSpec("test", family, patch, 32, "none", config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchGrid(_build(spec, 0), spec).eval()


def head(rows: int = 96, columns: int = 128) -> np.ndarray:
    """A bright ring around a dark middle, in air."""
    down, across = np.mgrid[:rows, :columns]
    radius = np.hypot(down - 0.5 * rows, across - 0.4 * columns)
    return np.where((radius < 0.3 * rows) & (radius > 0.1 * rows), 0.6, 0.0).astype(np.float32)


# ---------------------------------------------------------------------- which patches


def test_body_and_its_neighbours_are_kept() -> None:
    present = SHOWN.present(head(), 16)
    assert present is not None
    assert present.shape == (6, 8)
    assert present[3, 3]  # the dark middle belongs to the body
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[:, :6] = True  # rows 1 to 4 and columns 1 to 4 hold body, and one more on each side
    assert torch.equal(present, expected)
    assert replace(SHOWN, skip_air=False).present(head(), 16) is None


def test_it_is_saved_only_if_it_is_on() -> None:
    assert SHOWN.to_dict()["skip_air"] is True
    assert from_plain(SHOWN.to_dict(), Preprocessing) == SHOWN
    assert "skip_air" not in replace(SHOWN, skip_air=False).to_dict()


@pytest.mark.parametrize("patches", [12, 784, 1024])
def test_lengths_are_few_and_hold_what_is_present(patches: int) -> None:
    lengths = [kept_length(count, patches) for count in range(1, patches + 1)]
    assert all(length >= count for count, length in enumerate(lengths, start=1))
    assert all(length - count <= -(-patches // 16) for count, length in enumerate(lengths, start=1))
    assert len(set(lengths)) <= 16
    assert lengths[-1] == patches


# ---------------------------------------------------------------------- the backbone


@pytest.mark.parametrize(("family", "patch", "more"), FAMILIES)
def test_tokens_keep_their_positions(family: str, patch: int, more: dict[str, Any]) -> None:
    network = network_of(family, patch, more)
    images = torch.randn(2, 3, 4 * patch, 5 * patch, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = network(images)
        shuffled = torch.stack([torch.randperm(20), torch.randperm(20)])
        tokens = network(images, shuffled)
        again = network(images)
    grid = KeptTokens(torch.ones(2, 4, 5, dtype=torch.bool), shuffled).grid(tokens)
    torch.testing.assert_close(grid, whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(again, whole)


@pytest.mark.parametrize(("family", "patch", "more"), FAMILIES)
def test_what_is_left_out_has_no_part_in_the_rest(
    family: str, patch: int, more: dict[str, Any]
) -> None:
    network = network_of(family, patch, more)
    images = torch.randn(1, 3, 4 * patch, 4 * patch, generator=torch.Generator().manual_seed(1))
    other = images.clone()
    other[..., : 2 * patch, :] += 1  # the upper two rows of patches
    kept = torch.arange(8, 16)[None]
    with torch.inference_mode():
        assert torch.equal(network(images, kept), network(other, kept))
        assert not torch.allclose(network(images)[:, :, 2:], network(other)[:, :, 2:])


def masks() -> Tensor:
    """Four slices of a grid of 6 x 8: two numbers of tokens among them."""
    present = torch.zeros(4, 6, 8, dtype=torch.bool)
    present[:, 1:4, 1:5] = True
    present[1, :, 2:7] = True
    return present


def test_a_slice_is_the_same_alone_and_in_a_batch(tiny_backbone: Backbone) -> None:
    images = torch.randn(4, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    present = masks()
    together = tiny_backbone.embed(images, present)
    assert torch.equal(together[:, 0].isnan(), ~present)
    for number in range(4):
        alone = tiny_backbone.embed(images[number, None], present[number, None])[0]
        torch.testing.assert_close(together[number], alone, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "bfloat16",
        "compiled",
        pytest.param(
            "openvino",
            marks=pytest.mark.skipif(
                not importlib.util.find_spec("openvino"), reason="the extra is not installed"
            ),
        ),
    ],
)
def test_engines_leave_out_the_same(
    tiny_backbone: Backbone, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "compiled":  # by the tracer alone: a compiler takes minutes
        traced = torch.compile(tiny_backbone.network, backend="eager", dynamic=False)
        monkeypatch.setattr(torch, "compile", lambda *_, **__: traced)
    engine = engines.ENGINES[name](tiny_backbone.network, CPU)
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    whole = tiny_backbone.network(images)
    tolerance = 0.05 if name == "bfloat16" else 1e-3
    with torch.inference_mode():
        for present in masks()[:2]:
            kept = KeptTokens.of(present[None])
            found, expected = (each(images, kept.index) for each in (engine, tiny_backbone.network))
            assert (found - expected).norm() < tolerance * expected.norm()
        assert (engine(images) - whole).norm() < tolerance * whole.norm()


def test_numbers_that_are_not_finite_are_no_air(tiny_backbone: Backbone) -> None:
    for parameter in tiny_backbone.network.parameters():
        parameter.fill_(torch.nan)
    for shown in (SHOWN, replace(SHOWN, skip_air=False)):
        with pytest.raises(WeightsError, match="not finite numbers"):
            embed_slice(tiny_backbone, shown, head())


def test_tiles_are_left_out_alike(tiny_backbone: Backbone) -> None:
    shown = replace(SHOWN, tile=64)
    tiling, present = Tiling.of(shown, 16), shown.present(head(), 16)
    assert present is not None
    grids = embed_slice(tiny_backbone, shown, head())
    assert torch.equal(grids[:, 0].isnan(), ~tiling.cut(present))
    joined = tiling.join(grids[:, 0])
    assert torch.equal(joined.isnan(), ~present)


# ---------------------------------------------------------------------- the methods


def without_a_corner(grids: list[Tensor]) -> list[Tensor]:
    """Grids of which the last column and the first two patches of each row are air."""
    masked = torch.cat(grids)
    masked[..., :2] = torch.nan
    masked[..., -1] = torch.nan
    return list(masked.split(1))


@pytest.fixture
def airy(tmp_path: Path) -> tuple[StoredGrids, StoredGrids]:
    paths = []
    for number, grid in enumerate(without_a_corner(normal_grids(20))):
        path = tmp_path / "store" / f"{number:02}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, grid[0].permute(1, 2, 0).half().numpy())
        paths.append(path)
    return StoredGrids(paths[:16]), StoredGrids(paths[16:])


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_methods_learn_from_the_body_and_score_it_alone(
    name: str, options: dict[str, Any], airy: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    setup = FitContext(blocks=BLOCKS, valid=airy[1], checkpoint=tmp_path / "checkpoint.safetensors")
    detector = finish(DETECTORS[name].learn(airy[0], setup, **options)).detector
    assert all(tensor.isfinite().all() for tensor in detector.tensors().values())
    grid = torch.cat(without_a_corner(normal_grids(3, seed=9)))
    odd = grid.clone()
    odd[1, :, 2, 5] = odd[1, :, 2, 5].roll(3)
    scores, normal = detector.score(odd), detector.score(grid)
    assert torch.equal(scores.isnan(), odd[:, 0].isnan())
    found = scores.nan_to_num(-torch.inf)
    assert is_highest((1, 2, 5), found, options)
    assert scores[1, 2, 5] > normal[~normal.isnan()].max()
    assert torch.equal(saved_and_loaded(detector).score(odd).nan_to_num(), scores.nan_to_num())
    images = detector.image_scores(odd)
    assert images is None or images.isfinite().all()


@pytest.mark.parametrize("context", ["causal", "bidirectional"])
def test_the_network_sees_air_as_it_sees_the_edge(context: Any) -> None:
    torch.manual_seed(0)
    network = SpatialAR(4, hidden=8, dilation=2, context=context)
    grid = torch.randn(1, 4, ROWS, COLUMNS)
    airy = grid.clone()
    airy[..., :3] = torch.nan
    blank = grid.clone()
    blank[..., :3] = 0
    expected = network.nll(blank)
    torch.testing.assert_close(network.nll(airy)[..., 3:], expected[..., 3:])
    loss = network.nll(airy)[..., 3:].mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# ---------------------------------------------------------------------- the scores


def test_smoothing_and_image_scores_leave_air_out() -> None:
    scores = torch.full((1, 4, 5), torch.nan)
    scores[0, 1:3, 1:4] = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    smooth = Scoring(smoothing=3).smooth(scores)
    assert torch.equal(smooth.isnan(), scores.isnan())
    assert smooth[0, 1, 1] == pytest.approx((1 + 2 + 4 + 5) / 4)
    score = Scoring(smoothing=1, top_share=0.1)(scores[0], (8, 10), 1.0)
    assert score.image_score == pytest.approx((6 + 5) / 2)
    assert np.isfinite(score.nll).all()
    assert score.nll[0, 0] == 0
    assert Scoring(top_share=1.0)(scores[0], (8, 10), 1.0).image_score == pytest.approx(3.5)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_tile_of_air_alone_has_no_part_in_the_image_score(empty: int) -> None:
    class Highest(DETECTORS["memory-bank"]):  # type: ignore[misc, name-defined]
        name = "highest-for-tests"

        def image_scores(self, grid: Tensor) -> Tensor:
            return grid[:, 0].flatten(1).mean(dim=1)

    DETECTORS.pop("highest-for-tests")
    detector = Highest(torch.eye(4).half())
    grids = torch.rand(2, 4, 4, 4) + 1
    grids[empty] = torch.nan
    tiling = Tiling((4, 6), (4, 4), ((0, 0), (0, 2)))
    score = score_grid(detector, Scoring(), grids, (8, 12), tiling)
    assert score.image_score == pytest.approx(float(grids[1 - empty, 0].mean()))
    assert np.isfinite(score.nll).all()


# ---------------------------------------------------------------------- a model


@pytest.fixture(scope="module")
def volume() -> Scan:
    rng = np.random.default_rng(5)
    data = np.stack([head() * rng.uniform(100, 200, (96, 128)) for _ in range(6)])
    return Scan(data.astype(np.float32), Geometry(data.shape, np.eye(4)), "mri", Series("a scan"))


@pytest.mark.parametrize(
    ("method", "options"),
    [("spatial-ar", {"epochs": 2, "dilation": 1}), ("change-novelty", {"slices": 9})],
)
def test_a_fit_leaves_air_out_and_says_so(
    tiny_backbone: Backbone,
    normal_slices: Path,
    tmp_path: Path,
    volume: Scan,
    method: str,
    options: dict[str, Any],
) -> None:
    model = nsar.fit(
        normal_slices,
        out=tmp_path / "model",
        backbone=tiny_backbone,
        method=method,
        options=options,
        size=(128, 128),
        skip_air=True,
        patient_pattern="(patient[0-9])",
    )
    assert model.header.preprocessing.skip_air
    assert model.header.format_version == 4
    again = nsar.load_model(tmp_path / "model")
    again.backbone = tiny_backbone
    score, same = model.score_volume(volume), again.score_volume(volume)
    assert score.scored.all()
    assert np.isfinite(score.nll).all()
    np.testing.assert_allclose(score.nll, same.nll, rtol=1e-5, atol=1e-6)
    assert not score.nll[:, :, -8:].any()  # air
    assert score.nll[:, 40:50, 30:40].any()
    assert model.header.calibration is not None
    assert np.isfinite(model.header.calibration.thresholds).all()


def test_batches_of_one_length_score_what_slices_score_alone(tiny_backbone: Backbone) -> None:
    model = build(tiny_backbone)
    model.header = replace(
        model.header, preprocessing=replace(model.header.preprocessing, skip_air=True)
    )
    small = np.zeros((96, 128), np.float32)
    small[40:60, 40:60] = 0.7
    units = [head(), small, small + 0.1, head(), head()]
    expected = [model._score(model._prepared(unit)) for unit in units]
    sizes: list[int] = []

    def maps(batch: Tensor, kept: KeptTokens | None) -> tuple[Tensor, Tensor, Tensor]:
        sizes.append(len(batch))
        return model._maps(batch, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NormativeModel, "_in_batches", True)
        prepared = [(number, model._prepared(unit)) for number, unit in enumerate(units)]
    scorer = BatchScorer(maps, model._score, CPU)
    found = list(scorer(iter(prepared), BatchSizes(4)))
    assert [key for key, _ in found] == [0, 1, 2, 3, 4]
    assert max(sizes) > 1
    for (_, score), wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(score.nll, wanted.nll, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(score.grid, wanted.grid, rtol=1e-4, atol=1e-3)
        assert score.image_score == pytest.approx(wanted.image_score, rel=1e-4)
