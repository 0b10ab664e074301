"""Backbones: shapes, the layers read out, and where weights are looked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from napari_spatial_ar.errors import InputError, WeightsError
from napari_spatial_ar.normative.backbones import weights as weight_files
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import (
    BACKBONES,
    DEFAULT_BACKBONE,
    OFFLINE_BACKBONE,
    BackboneSpec,
    with_layers,
)
from napari_spatial_ar.normative.backbones.weights import add, list_weights, pull
from tests.tiny import TINY, random_state

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(16, 16), (48, 64), (80, 32)])
def test_any_multiple_of_the_patch_embeds(tiny_backbone: Backbone, size: tuple[int, int]) -> None:
    grid = tiny_backbone.embed(torch.randn(3, 3, *size))
    assert grid.shape == (3, 24, size[0] // 16, size[1] // 16)
    assert grid.dtype == torch.float32


def test_grid_keeps_rows_and_columns_apart(tiny_backbone: Backbone) -> None:
    image = torch.zeros(1, 3, 48, 80)
    plain = tiny_backbone.embed(image)
    image[:, :, 16:32, 64:80] = 3.0
    change = (tiny_backbone.embed(image) - plain)[0].norm(dim=0)
    assert np.unravel_index(int(change.argmax()), change.shape) == (1, 4)


@pytest.mark.parametrize("shape", [(1, 3, 30, 32), (1, 3, 8, 8), (1, 1, 32, 32), (3, 32, 32)])
def test_other_shapes_are_refused(tiny_backbone: Backbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"patches of 16|must be \(B, 3, H, W\)"):
        tiny_backbone.embed(torch.zeros(shape))


def test_stays_frozen_in_evaluation_mode(tiny_backbone: Backbone) -> None:
    tiny_backbone.train()
    assert not any(module.training for module in tiny_backbone.modules())
    assert not any(parameter.requires_grad for parameter in tiny_backbone.parameters())


def test_inner_blocks_are_read_normed_and_later_ones_not_built(tiny_spec: BackboneSpec) -> None:
    state = random_state(tiny_spec)
    first = Backbone(replace(tiny_spec, layers=(1,)), dict(state), source="random", device=CPU)
    both = Backbone(replace(tiny_spec, layers=(1, 2)), dict(state), source="random", device=CPU)
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    grid = first.embed(images)
    assert both.channels == 48
    torch.testing.assert_close(both.embed(images)[:, :24], grid)
    tokens = grid.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, functional.layer_norm(tokens, (24,)), atol=1e-4, rtol=0)
    assert sum(p.numel() for p in first.parameters()) < sum(p.numel() for p in both.parameters())
    assert first.sha256 != both.sha256


def test_the_mean_of_blocks_is_as_wide_as_one(tiny_spec: BackboneSpec) -> None:
    state = random_state(tiny_spec)
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    both = Backbone(with_layers(tiny_spec, (1, 2)), dict(state), source="random", device=CPU)
    mean = Backbone(
        with_layers(tiny_spec, (1, 2), "mean"), dict(state), source="random", device=CPU
    )
    assert (both.channels, both.spec.blocks, mean.channels, mean.spec.blocks) == (48, 2, 24, 1)
    one, other = both.embed(images).split(24, dim=1)
    torch.testing.assert_close(mean.embed(images), (one + other) / 2)


@pytest.mark.parametrize(
    ("name", "layers", "fuse", "words"),
    [
        ("dinov3_vits16", (12,), "mean", "needs at least two; dinov3_vits16 would read 1"),
        ("dinov3_vits16", None, "mean", "needs at least two"),
        ("dinov3_convnext_tiny", None, "mean", "needs at least two"),
        ("pixels4", None, "mean", "needs at least two; pixels4 would read 1"),
        ("dinov3_vits16", (1, 2), "max", "concat or mean, not by 'max'"),
    ],
)
def test_blocks_that_cannot_be_fused(
    name: str, layers: tuple[int, ...] | None, fuse: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        load_backbone(name, layers=layers, fuse=fuse)


def test_every_backbone_of_the_table_is_there() -> None:
    v3 = {"vits16", "vits16plus", "vitb16", "vitl16", "vith16plus", "vit7b16"}
    v3 |= {f"convnext_{size}" for size in ("tiny", "small", "base", "large")}
    v2 = {f"vit{size}14{registers}" for size in "sblg" for registers in ("", "_reg4")}
    expected = {f"dinov3_{n}" for n in v3} | {f"dinov2_{n}" for n in v2} | {OFFLINE_BACKBONE}
    assert BACKBONES.keys() == expected
    assert DEFAULT_BACKBONE == "dinov3_vits16"


@pytest.mark.parametrize(
    ("name", "millions"),
    [("dinov3_vits16", 21.6), ("dinov3_vits16plus", 28.7), ("dinov3_convnext_tiny", 27.8)],
)
def test_real_sizes(name: str, millions: float) -> None:
    """Parameter counts that the weights' owners publish."""
    spec = BACKBONES[name]
    backbone = Backbone(spec, random_state(spec), source="random", device=CPU)
    count = sum(p.numel() for n, p in backbone.named_parameters() if "mask_token" not in n)
    assert count / 1e6 == pytest.approx(millions, abs=0.1)
    side = 2 * spec.patch
    assert backbone.embed(torch.randn(1, 3, side, side)).shape == (1, spec.channels, 2, 2)


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="no backbone 'resnet50'"):
        load_backbone("resnet50")


def test_missing_weights_name_three_ways_and_the_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        load_backbone(DEFAULT_BACKBONE, device="cpu")
    text = str(caught.value)
    ways = ("(1)", "(2)", "(3)", "weights pull", "weights add", "timm/", "facebook/")
    for words in ("DINOv3 License", "comes with the package", *ways):
        assert words in text


def test_explicit_file_comes_first_then_the_weights_folder(
    tiny_spec: BackboneSpec, tiny_weights: Path, tmp_path: Path
) -> None:
    explicit = tmp_path / "mine.safetensors"
    save_file(random_state(tiny_spec, seed=9), explicit)
    mine = load_backbone(TINY, explicit, "cpu")
    kept = load_backbone(TINY, device="cpu")
    assert mine.source == str(explicit)
    assert kept.source == str(tiny_weights)
    assert mine.sha256 != kept.sha256
    with pytest.raises(WeightsError, match="no such weights file"):
        load_backbone(TINY, tmp_path / "absent.pth", "cpu")


def hub_cache(repository: str, files: dict[str, dict[str, torch.Tensor]]) -> None:
    """Lay files out as the hub's client keeps what it downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    for name, state in files.items():
        save_file(state, snapshot / name)


def test_hub_cache_is_read_in_one_file_or_several(
    tiny_spec: BackboneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = random_state(tiny_spec)
    names = sorted(state)
    halves = [{n: state[n] for n in names[::2]}, {n: state[n] for n in names[1::2]}]
    hub_cache("someone/one", {"model.safetensors": state})
    hub_cache("someone/two", {f"model-{i}-of-2.safetensors": h for i, h in enumerate(halves)})
    hashes = []
    for repository in ("someone/one", "someone/two"):
        hub = ("someone/absent", repository)
        monkeypatch.setitem(BACKBONES, TINY, replace(tiny_spec, hub=hub))
        backbone = load_backbone(TINY, device="cpu")
        assert backbone.source == f"{repository} (hub cache)"
        hashes.append(backbone.sha256)
    assert hashes[0] == hashes[1]
    info = next(w for w in list_weights() if w.name == TINY)
    assert info.in_hub_cache
    assert info.path is None


def test_wrong_content_under_a_pinned_name(tiny_spec: BackboneSpec) -> None:
    with pytest.raises(WeightsError, match="not those of dinov3_tiny"):
        Backbone(
            replace(tiny_spec, pinned_sha256="ab" * 32),
            random_state(tiny_spec),
            source="random",
            device=CPU,
        )


def test_add_checks_and_keeps(tiny_spec: BackboneSpec, tmp_path: Path) -> None:
    source = tmp_path / f"{TINY}_pretrain.pth"
    torch.save(random_state(tiny_spec), source)
    path = add(source)
    try:
        assert path.parent == weight_files.weights_dir()
        assert load_backbone(TINY, device="cpu").source == str(path)
        assert pull(TINY) == str(path)
    finally:
        path.unlink()
    with pytest.raises(InputError, match="cannot identify the backbone"):
        add(source.rename(tmp_path / "weights.pth"))
    with pytest.raises(WeightsError, match="not weights of dinov3_vits16"):
        add(tmp_path / "weights.pth", "dinov3_vits16")
    assert not list(weight_files.weights_dir().glob("dinov3_vits16*"))
