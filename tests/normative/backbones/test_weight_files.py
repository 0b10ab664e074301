"""One random backbone written in every layout gives the same features."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from napari_spatial_ar.errors import WeightsError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import BACKBONES, BackboneSpec
from napari_spatial_ar.normative.backbones.weight_files import to_transformers
from tests.tiny import random_state

State = dict[str, Tensor]


def fuse_qkv(state: State, attention: str, out: str) -> State:
    """Weights q, k and v of each block stacked, as the originals have them."""
    fused = dict(state)
    for name in [n for n in state if re.search(rf"{attention}q_proj\.weight$", n)]:
        prefix = name.removesuffix("q_proj.weight")
        parts = [fused.pop(f"{prefix}{p}_proj.weight") for p in "qkv"]
        block = re.search(r"layer\.(\d+)", name).group(1)  # type: ignore[union-attr]
        fused[f"{out.format(block)}.qkv.weight"] = torch.cat(parts)
    return fused


def renamed(state: State, rules: list[tuple[str, str]]) -> State:
    out = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    return out


BLOCKS = [
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^model\.layer\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
    (r"^model\.layer\.(\d+)\.", r"blocks.\1."),
]
META = [
    *BLOCKS,
    (r"^embeddings\.register_tokens$", "storage_tokens"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
]
TIMM = [
    *BLOCKS,
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"layer_scale(\d)\.lambda1", r"gamma_\1"),
]
META_MLP = {
    False: [(r"up_proj", "fc1"), (r"down_proj", "fc2")],
    True: [(r"gate_proj", "w1"), (r"up_proj", "w2"), (r"down_proj", "w3")],
}
TIMM_MLP = {
    False: [(r"up_proj", "fc1"), (r"down_proj", "fc2")],
    True: [(r"gate_proj", "fc1_g"), (r"up_proj", "fc1_x"), (r"down_proj", "fc2")],
}


def as_meta(state: State, gated: bool) -> State:
    fused = fuse_qkv(state, r"attention\.", "blocks.{}.attn")
    for name in [n for n in fused if n.endswith("q_proj.bias")]:
        block = re.search(r"layer\.(\d+)", name).group(1)  # type: ignore[union-attr]
        q, v = fused.pop(name), fused.pop(name.replace("q_proj", "v_proj"))
        key = torch.full_like(q, 7.0)  # whatever stands there is masked
        fused[f"blocks.{block}.attn.qkv.bias"] = torch.cat([q, key, v])
        ones = torch.ones_like(q)
        fused[f"blocks.{block}.attn.qkv.bias_mask"] = torch.cat([ones, 0 * ones, ones])
    out = renamed(fused, META + META_MLP[gated])
    out["mask_token"] = torch.zeros(1, out["cls_token"].shape[-1])
    out["rope_embed.periods"] = torch.ones(3, dtype=torch.bfloat16)
    return out


def as_timm(state: State, gated: bool, biases: bool = True) -> State:
    fused = fuse_qkv(state, r"attention\.", "blocks.{}.attn")
    fused = renamed(fused, [(r"attention\.([qv])_proj\.bias", r"attn.\1_bias")])
    if not biases:
        fused = {n: t for n, t in fused.items() if not re.search(r"attn\.[qv]_bias", n)}
    return renamed(fused, TIMM + TIMM_MLP[gated])


def as_old_transformers(state: State) -> State:
    return renamed(state, [(r"^model\.layer\.", "layer.")])


def embed(spec: BackboneSpec, path: Path) -> tuple[Tensor, str]:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    backbone = load_backbone(spec.name, path, "cpu")
    return backbone.embed(images), backbone.sha256


@pytest.mark.parametrize("gated", [False, True])
def test_three_dinov3_layouts_give_the_same_features(
    tiny_spec: BackboneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    if gated:
        config = {**tiny_spec.config, "use_gated_mlp": True, "hidden_act": "silu"}
        tiny_spec = replace(tiny_spec, config=config)
        monkeypatch.setitem(BACKBONES, tiny_spec.name, tiny_spec)
    state = random_state(tiny_spec)
    meta = tmp_path / "meta.pth"
    torch.save(as_meta(state, gated), meta)
    layouts = {"new": state, "old": as_old_transformers(state), "timm": as_timm(state, gated)}
    expected, sha256 = embed(tiny_spec, meta)
    assert expected.shape == (2, 24, 4, 6)
    assert expected.std() > 0.1
    for name, layout in layouts.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in layout.items()}, path)
        features, other_sha256 = embed(tiny_spec, path)
        torch.testing.assert_close(features, expected, atol=1e-6, rtol=0, msg=name)
        assert other_sha256 == sha256, name


def test_timm_file_without_biases_counts_them_as_zero(
    tiny_spec: BackboneSpec, tmp_path: Path
) -> None:
    state = random_state(tiny_spec)
    zeroed = {
        n: torch.zeros_like(t) if re.search(r"[qv]_proj\.bias$", n) else t for n, t in state.items()
    }
    save_file(as_timm(state, gated=False, biases=False), tmp_path / "timm.safetensors")
    save_file(zeroed, tmp_path / "new.safetensors")
    features, _ = embed(tiny_spec, tmp_path / "timm.safetensors")
    expected, _ = embed(tiny_spec, tmp_path / "new.safetensors")
    torch.testing.assert_close(features, expected)


DINOV2_META = [
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"^layernorm\.", "norm."),
]
DINOV2_OLD = [
    (r"attention\.q_proj\.", "attention.attention.query."),
    (r"attention\.k_proj\.", "attention.attention.key."),
    (r"attention\.v_proj\.", "attention.attention.value."),
    (r"attention\.o_proj\.", "attention.output.dense."),
]


def fuse(state: State, parts: tuple[str, ...], whole: str) -> State:
    out = dict(state)
    for name in [n for n in state if f".{parts[0]}." in n]:
        tensors = [out.pop(name.replace(parts[0], part)) for part in parts]
        out[name.replace(parts[0], whole)] = torch.cat(tensors)
    return out


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg4", "dinov2_vitg14"])
def test_dinov2_layouts_are_the_same_weights(name: str) -> None:
    spec = BACKBONES[name]
    small = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 42}
    spec = replace(spec, width=24, config={**spec.config, **small})
    state = random_state(spec)
    meta = fuse(state, ("q_proj", "k_proj", "v_proj"), "qkv")
    meta = fuse(meta, ("gate_proj", "up_proj"), "w12")
    more = [(r"mlp\.down_proj", "mlp.w3"), (r"\.attention\.", ".attn.")]
    meta = renamed(meta, [*DINOV2_META, *more])
    old = fuse(state, ("gate_proj", "up_proj"), "weights_in")
    old = renamed(old, [*DINOV2_OLD, (r"mlp\.down_proj", "mlp.weights_out")])
    assert "blocks.1.attn.qkv.bias" in meta
    timm = renamed(
        meta, [("w12", "fc1"), (r"mlp\.w3", "mlp.fc2"), ("^register_tokens", "reg_token")]
    )
    for layout in (state, meta, old, timm):
        back = to_transformers(layout, "dinov2")
        assert back.keys() == state.keys()
        for key, tensor in back.items():
            torch.testing.assert_close(tensor, state[key], msg=key)
    images = torch.randn(1, 3, 28, 56, generator=torch.Generator().manual_seed(2))
    backbone = Backbone(spec, dict(state), source="random", device=torch.device("cpu"))
    assert backbone.embed(images).shape == (1, 24, 2, 4)


def test_convnext_layouts_are_the_same_weights() -> None:
    spec = BACKBONES["dinov3_convnext_tiny"]
    small = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
    spec = replace(spec, width=32, config=small)
    state = random_state(spec)
    names = [
        (r"pointwise_conv(\d)", r"pwconv\1"),
        (r"depthwise_conv", "dwconv"),
        (r"^layer_norm", "norm"),
        (r"(layers\.\d+)\.layer_norm", r"\1.norm"),
        (r"^model\.stages\.(\d+)\.downsample_layers", r"downsample_layers.\1"),
        (r"^model\.stages\.(\d+)\.layers", r"stages.\1"),
    ]
    meta = renamed(state, names)
    assert "stages.2.1.dwconv.weight" in meta
    meta["norms.3.weight"] = meta["norm.weight"]
    timm = renamed(
        meta,
        [
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
            (r"^stages\.(\d)\.(\d)\.", r"stages.\1.blocks.\2."),
            ("dwconv", "conv_dw"),
            (r"pwconv(\d)", r"mlp.fc\1"),
            (r"^norm\.", "head.norm."),
        ],
    )
    old = renamed(state, [(r"^model\.stages", "stages")])
    for layout in (meta, timm, old):
        back = to_transformers(layout, "dinov3_convnext")
        assert back.keys() == state.keys()
        for key, tensor in back.items():
            torch.testing.assert_close(tensor, state[key], msg=key)
    backbone = Backbone(spec, dict(state), source="random", device=torch.device("cpu"))
    assert backbone.embed(torch.randn(1, 3, 64, 96)).shape == (1, 32, 2, 3)


def test_hash_in_a_meta_file_name_is_checked(tiny_spec: BackboneSpec, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(as_meta(random_state(tiny_spec), gated=False), path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    right = path.rename(tmp_path / f"{tiny_spec.name}_pretrain_lvd1689m-{digits}.pth")
    assert embed(tiny_spec, right)[0].shape == (2, 24, 4, 6)
    wrong = right.rename(tmp_path / f"{tiny_spec.name}_pretrain_lvd1689m-0badc0de.pth")
    with pytest.raises(WeightsError, match="its name has 0badc0de"):
        load_backbone(tiny_spec.name, wrong, "cpu")


def test_file_of_another_backbone_is_named_as_such(tiny_spec: BackboneSpec, tmp_path: Path) -> None:
    state = random_state(tiny_spec)
    path = tmp_path / "weights.safetensors"
    save_file({n: t for n, t in state.items() if "layer.1.mlp" not in n}, path)
    with pytest.raises(WeightsError, match=r"lacks model\.layer\.1\.mlp\.down_proj\.bias and 3"):
        load_backbone(tiny_spec.name, path, "cpu")
    save_file({**state, "head.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"unexpected head\.weight"):
        load_backbone(tiny_spec.name, path, "cpu")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a valid safetensors file"):
        load_backbone(tiny_spec.name, path, "cpu")
