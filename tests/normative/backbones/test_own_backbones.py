"""Backbones that the user brings give the features of the library that they come from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError, NameTakenError, WeightsError
from napari_spatial_ar.normative.backbones import weights
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import BACKBONES, find_spec, known_backbones
from napari_spatial_ar.normative.backbones.weights import BackboneOverrides, add
from napari_spatial_ar.normative.library import missing_backbone
from tests.normative.backbones.test_weight_files import fuse, renamed

NAME = "brought-by-a-test"
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 40,
    "patch_size": 8,
}
# Of RAD-DINO, whose files these imitate.
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5307, 0.5307, 0.5307],
    "image_std": [0.2583, 0.2583, 0.2583],
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2", {"mlp_ratio": 2}),
    "dinov2, gated": ("Dinov2", {"use_swiglu_ffn": True}),
    "dinov2, registers": ("Dinov2WithRegisters", {"num_register_tokens": 3, "mlp_ratio": 3}),
    "dinov2, registers, gated": ("Dinov2WithRegisters", {"use_swiglu_ffn": True}),
    "dinov3": ("DINOv3ViT", {"intermediate_size": 40, "num_register_tokens": 4}),
    "dinov3, gated": (
        "DINOv3ViT",
        {"intermediate_size": 40, "use_gated_mlp": True, "hidden_act": "silu", "rope_theta": 10.0},
    ),
    "dinov3, other biases": (
        "DINOv3ViT",
        {"key_bias": True, "query_bias": False, "mlp_bias": False, "layer_norm_eps": 1e-3},
    ),
    "vit": ("ViT", {"intermediate_size": 40, "hidden_act": "gelu_new"}),
    "vit, no biases": ("ViT", {"qkv_bias": False, "layer_norm_eps": 1e-3}),
    "clip": ("CLIPVision", {"intermediate_size": 40}),
    "clip, gelu": ("CLIPVision", {"hidden_act": "gelu"}),
}


def random_model(kind: str, **more: Any) -> Any:
    """A small model of transformers of which every part matters."""
    import transformers

    name, settings = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **settings, **more})
    model = getattr(transformers, f"{name}Model")(config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model


def save(model: Any, folder: Path, processor: dict[str, Any] | None = PROCESSOR) -> Path:
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def tokens(model: Any, images: Tensor, block: int | None = None) -> Tensor:
    """Its own patch tokens, (B, tokens, D)."""
    learned = type(model).__name__ in ("ViTModel", "CLIPVisionModel")
    options = {"interpolate_pos_encoding": True} if learned else {}
    patches = images.shape[2] // 8 * (images.shape[3] // 8)
    with torch.inference_mode():
        out = model(pixel_values=images, output_hidden_states=True, **options)
    chosen = out.last_hidden_state if block is None else out.hidden_states[block]
    return chosen[:, -patches:]


def grid_tokens(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)


def images(rows: int = 40, columns: int = 64) -> Tensor:
    return torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(3))


def check_features(model: Any) -> None:
    """Compare the features of the backbone that was added with the model's own."""
    backbone = load_backbone(NAME, device="cpu")
    for size in ((40, 40), (40, 64), (80, 24)):
        shown = images(*size)
        expected = tokens(model, shown)
        assert expected.std() > 0.1
        torch.testing.assert_close(grid_tokens(backbone.embed(shown)), expected, atol=1e-5, rtol=0)
    inner = load_backbone(NAME, device="cpu", layers=[2])
    expected = torch.nn.functional.layer_norm(tokens(model, images(), 2), (24,), eps=1e-6)
    torch.testing.assert_close(grid_tokens(inner.embed(images())), expected, atol=1e-5, rtol=0)


@pytest.fixture(autouse=True)
def _remove() -> Iterator[None]:
    yield
    for left in weights.weights_dir().glob(f"{NAME}*"):
        left.unlink()


# ------------------------------------------------------------ folders of transformers


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_features_of_its_own_model(kind: str, tmp_path: Path) -> None:
    model = random_model(kind)
    path = add(save(model, tmp_path / "model"), NAME)
    spec = find_spec(NAME)
    assert spec is not None
    assert path == weights.own_file(NAME)
    assert (spec.patch, spec.width, spec.own) == (8, 24, True)
    assert spec.mean == (0.5307, 0.5307, 0.5307)
    assert spec.std == (0.2583, 0.2583, 0.2583)
    assert spec.config.get("num_register_tokens", 0) == getattr(
        model.config, "num_register_tokens", 0
    )
    check_features(model)


def test_a_fit_normalises_as_the_backbone_was_trained_and_says_which_it_was(
    tmp_path: Path, normal_slices: Path
) -> None:
    add(save(random_model("dinov2, registers"), tmp_path / "model"), NAME)
    settings = {"method": "memory-bank", "size": 40, "device": "cpu"}
    model = nsar.fit(normal_slices, out=tmp_path / "m", backbone=NAME, layers="1,3", **settings)
    again = nsar.load_model(tmp_path / "m", device="cpu")
    shown, ref = again.header.preprocessing, again.header.backbone
    assert (shown.mean, shown.std) == ((0.5307,) * 3, (0.2583,) * 3)
    assert (ref.name, ref.layers) == (NAME, (1, 3))
    assert ref.sha256 == load_backbone(NAME, device="cpu", layers=(1, 3)).sha256
    assert model.backbone.channels == 48
    assert missing_backbone(again.header) is None
    # Another network under the same name is not taken for it; none is told as such.
    add(save(random_model("dinov2"), tmp_path / "other"), NAME, overwrite=True)
    with pytest.raises(WeightsError, match="trained on other weights of brought-by-a-test"):
        _ = again.backbone
    weights.own_file(NAME).unlink()
    assert f"weights add PATH --name {NAME}" in str(missing_backbone(again.header))
    with pytest.raises(InputError, match="there is no backbone 'brought-by-a-test'"):
        _ = nsar.load_model(tmp_path / "m", device="cpu").backbone


def test_it_is_listed_and_keeps_its_hash(tmp_path: Path) -> None:
    folder = save(random_model("vit"), tmp_path / "model")
    stored = add(folder, NAME, overrides=BackboneOverrides(licence="MIT"))
    (info,) = (one for one in weights.list_weights() if one.name == NAME)
    assert (info.own, info.at_hand, info.path, info.licence) == (True, True, stored, "MIT")
    assert list(known_backbones())[: len(BACKBONES)] == list(BACKBONES)
    assert weights.pull(NAME) == str(stored)
    spec = find_spec(NAME)
    assert spec is not None
    assert load_backbone(NAME, device="cpu").sha256 == spec.pinned_sha256
    content = bytearray(stored.read_bytes())
    content[-9] ^= 0x10
    stored.write_bytes(content)
    with pytest.raises(WeightsError, match="not those of brought-by-a-test") as caught:
        load_backbone(NAME, device="cpu")
    assert "weights add" in str(caught.value)


def test_a_name_is_not_taken_twice_unless_asked(tmp_path: Path) -> None:
    one, other = (
        save(random_model(kind), tmp_path / kind.replace(", ", "-")) for kind in ("vit", "clip")
    )
    add(one, NAME)
    add(one, NAME)  # the same again
    with pytest.raises(NameTakenError, match="is already named 'brought-by-a-test'"):
        add(other, NAME)
    add(other, NAME, overwrite=True)
    spec = find_spec(NAME)
    assert spec is not None
    assert spec.family == "clip"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../x", "cannot be a backbone's name"),
        ("a b", "cannot be a backbone's name"),
        ("x" * 101, "101 characters"),
        ("pixels4", "taken for another"),
        ("DINOv2_vits14", "taken for another"),
        ("dinov3_vits16_pretrain-mine", "taken for another"),
        (None, "cannot identify the backbone"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str | None, words: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    with pytest.raises(InputError, match=words):
        add(tmp_path / "model", name)


# ------------------------------------------------------------ other writers


def test_parts_with_an_index(tmp_path: Path) -> None:
    model = random_model("dinov3")
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="10KB")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    parts = sorted(folder.glob("*.safetensors"))
    assert len(parts) > 2
    add(folder, NAME)
    check_features(model)
    parts[1].unlink()
    with pytest.raises(WeightsError, match=f"its part {parts[1].name} is missing"):
        add(folder / "model.safetensors.index.json", NAME)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../outside.safetensors"}})
    )
    with pytest.raises(WeightsError, match="is missing"):
        add(folder, NAME)


def as_timm_vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ViTModel's tensors as transformers 5 has them, in timm's names."""
    fused = fuse(state, ("q_proj", "k_proj", "v_proj"), "qkv")
    names = [
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^layers\.", "blocks."),
        (r"\.attention\.o_proj\.", ".attn.proj."),
        (r"\.attention\.", ".attn."),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"^layernorm\.", "norm."),
    ]
    return {n: t for n, t in renamed(fused, names).items() if not n.startswith("pooler")}


def test_biomedclip(tmp_path: Path) -> None:
    """open_clip around a transformer of timm's, in a PyTorch file, with a text tower beside."""
    model = random_model("vit", layer_norm_eps=1e-6, hidden_act="gelu")
    state = {f"visual.trunk.{n}": t for n, t in as_timm_vit(model.state_dict()).items()}
    state["visual.head.proj.weight"] = torch.zeros(4, 24)
    state["text.transformer.embeddings.position_ids"] = torch.arange(4)
    state["logit_scale"] = torch.ones(())
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    config = {
        "model_cfg": {"vision_cfg": {"timm_model_name": "vit_base_patch16_224"}},
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="Give --heads N"):  # none of these is 24 channels wide
        add(tmp_path, NAME)
    add(tmp_path, NAME, overrides=BackboneOverrides(heads=2))
    spec = find_spec(NAME)
    assert spec is not None
    assert (spec.mean, spec.std) == ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    check_features(model)


@pytest.mark.parametrize("quick", [False, True])
def test_a_transformer_of_open_clip_itself(tmp_path: Path, quick: bool) -> None:
    model = random_model("clip", hidden_act="quick_gelu" if quick else "gelu")
    names = [
        (r"^embeddings\.class_embedding$", "class_embedding"),
        (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
        (r"^embeddings\.patch_embedding\.", "conv1."),
        (r"^pre_layrnorm\.", "ln_pre."),
        (r"^post_layernorm\.", "ln_post."),
        (r"^encoder\.layers\.", "transformer.resblocks."),
        (r"\.self_attn\.qkv\.", ".attn.in_proj_"),
        (r"\.self_attn\.", ".attn."),
        (r"\.layer_norm", ".ln_"),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    ]
    fused = fuse(model.state_dict(), ("q_proj", "k_proj", "v_proj"), "qkv")
    state = {f"visual.{n}": t.contiguous() for n, t in renamed(fused, names).items()}
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in state
    state |= {"visual.proj": torch.zeros(24, 8), "positional_embedding": torch.zeros(77, 24)}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=r"Give --heads N and --activation .* and --mean R,G,B"):
        add(tmp_path / "open_clip_model.safetensors", NAME)
    config = {
        "model_cfg": {
            "quick_gelu": quick,
            "vision_cfg": {"width": 24, "head_width": 12, "layers": 3, "patch_size": 8},
        },
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    add(tmp_path, NAME)
    check_features(model)


def test_clip_with_its_text_tower(tmp_path: Path) -> None:
    import transformers

    vision = random_model("clip")
    config = transformers.CLIPConfig(
        vision_config=vision.config.to_dict(),
        text_config={
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "vocab_size": 50_000,
        },
    )
    model = transformers.CLIPModel(config).eval()
    model.vision_model.load_state_dict(vision.state_dict())
    add(save(model, tmp_path), NAME)
    check_features(vision)


def test_dinov2_of_timm_with_registers_and_dinov3_of_meta(tmp_path: Path) -> None:
    """MedDINOv3's kind: a teacher in a .pth, with heads of training and no config."""
    from tests.normative.backbones.test_weight_files import as_meta

    model = random_model("dinov3", layer_norm_eps=1e-5)
    state = {f"backbone.{n}": t for n, t in as_meta(model.state_dict(), gated=False).items()}
    state["dino_head.last_layer.weight"] = torch.zeros(3, 3)
    student = {n: torch.zeros_like(t) for n, t in state.items()}
    torch.save({"teacher": state, "student": student, "epoch": 3}, tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"Give --heads N and --mean R,G,B and --std R,G,B") as e:
        add(tmp_path / "model.pth", NAME)
    assert "0.485,0.456,0.406" in str(e.value)
    add(
        tmp_path / "model.pth",
        NAME,
        overrides=BackboneOverrides(heads=2, mean=[0.5], std=[0.2, 0.3, 0.4]),
    )
    spec = find_spec(NAME)
    assert spec is not None
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    check_features(model)


def test_timm_keeps_the_position_of_the_class_token_in_the_token(tmp_path: Path) -> None:
    model = random_model("dinov2, registers", layer_norm_eps=1e-6)
    state = dict(model.state_dict())
    positions = state["embeddings.position_embeddings"]
    state["embeddings.cls_token"] = state["embeddings.cls_token"] + positions[:, :1]
    state["embeddings.position_embeddings"] = positions[:, 1:]
    meta = fuse(state, ("q_proj", "k_proj", "v_proj"), "qkv")
    names = [
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^encoder\.layer\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
        (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"\.attention\.", ".attn."),
        (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
        (r"^layernorm\.", "norm."),
        (r"^embeddings\.mask_token$", "mask_token"),
    ]
    save_file(
        {n: t.contiguous() for n, t in renamed(meta, names).items()}, tmp_path / "model.safetensors"
    )
    timm = {"architecture": "vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(timm))
    add(tmp_path, NAME, overrides=BackboneOverrides(heads=2))
    check_features(model)


def test_grey_backbones_see_the_one_channel_that_they_know(tmp_path: Path) -> None:
    model = random_model("dinov2", num_channels=1)
    add(save(model, tmp_path, {**PROCESSOR, "image_mean": [0.5], "image_std": [0.2]}), NAME)
    backbone = load_backbone(NAME, device="cpu")
    grey = images()[:, :1]
    torch.testing.assert_close(
        grid_tokens(backbone.embed(grey.repeat(1, 3, 1, 1))), tokens(model, grey), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("processor", "mean"),
    [
        ({"do_normalize": False}, 0.0),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [255.0] * 3}, 0.5),
        ({"rescale_factor": 2 / 255, "image_mean": [1.0] * 3, "image_std": [2.0] * 3}, 0.5),
        ({"image_processor": {"image_mean": [0.5] * 3, "image_std": [1.0] * 3}}, 0.5),
    ],
)
def test_normalisation_is_of_grey_values_from_0_to_1(
    tmp_path: Path, processor: dict[str, Any], mean: float
) -> None:
    folder = save(random_model("dinov2"), tmp_path, processor)
    if "image_processor" in processor:
        (folder / "preprocessor_config.json").rename(folder / "processor_config.json")
    add(folder, NAME)
    spec = find_spec(NAME)
    assert spec is not None
    assert spec.mean == pytest.approx((mean,) * 3)
    assert spec.std == pytest.approx((1.0,) * 3)


def test_places_and_wrappings_that_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("dinov2")
    plain = save(model, tmp_path / "plain")
    expected = find_after(plain)
    assert find_after(plain / "config.json") == expected
    assert find_after(plain / "model.safetensors") == expected
    monkeypatch.chdir(tmp_path)
    assert find_after(Path("plain/")) == expected
    # As the hub's client keeps it.
    cached = tmp_path / "models--someone--else"
    shutil.copytree(plain, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert find_after(cached) == expected
    # With a classifier on top, and beside its student.
    state = load_file(plain / "model.safetensors")
    on_top = {f"dinov2.{n}": t for n, t in state.items()} | {"classifier.weight": torch.zeros(2, 2)}
    save_file(on_top, plain / "model.safetensors")
    assert find_after(plain) == expected
    both = {f"teacher.backbone.{n}": t for n, t in state.items()}
    both |= {f"student.backbone.{n}": t + 1 for n, t in state.items()}
    (plain / "model.safetensors").unlink()
    torch.save({"model": both}, plain / "checkpoint.pth")
    assert find_after(plain) == expected
    # Half the digits are other weights, and what they are in float32.
    half = {n: t.half() for n, t in state.items()}
    (plain / "checkpoint.pth").unlink()
    save_file(half, plain / "model.safetensors")
    assert find_after(plain) != expected
    model.load_state_dict({n: t.half().float() for n, t in model.state_dict().items()})
    check_features(model)


def find_after(source: Path) -> str:
    """Hash of a backbone that is added from somewhere."""
    add(source, NAME, overwrite=True)
    spec = find_spec(NAME)
    assert spec is not None
    return spec.pinned_sha256


# ------------------------------------------------------------ what cannot be used


def test_what_a_config_says_is_compared_with_the_weights(tmp_path: Path) -> None:
    folder = save(random_model("dinov2"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for change, words in (
        ({"num_hidden_layers": 12}, "num_hidden_layers 12, but the weights have 3"),
        ({"patch_size": 14}, "patch_size 14, but the weights have 8"),
        ({"image_size": 224}, "image_size 224, but the weights have 40"),
        ({"num_attention_heads": 5}, "do not divide into 5 heads"),
        ({"num_attention_heads": "many"}, "invalid for transformers"),
        ({"hidden_act": "sine"}, "activation 'sine' is not supported"),
        ({"model_type": "swin"}, "names the architecture 'swin'"),
        ({"model_type": "x", "auto_map": {"AutoModel": "code.Model"}}, "which is never run"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises((InputError, WeightsError), match=re.escape(words)):
            add(folder, NAME)
    assert find_spec(NAME) is None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="8 pixels wide, not 14"):
        add(folder, NAME, overrides=BackboneOverrides(patch=14))
    for said in (
        BackboneOverrides(mean=[0.1, 0.2]),
        BackboneOverrides(std=[0.0]),
        BackboneOverrides(mean=[float("nan")]),
    ):
        with pytest.raises(InputError, match="one number or three"):
            add(folder, NAME, overrides=said)
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    add(folder, NAME)  # the usual name wins
    (folder / "model.safetensors").rename(folder / "third.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors, third\.safetensors"):
        add(folder, NAME)


def test_what_is_no_backbone_is_one_sentence(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"a": Evil()}, tmp_path / "evil.bin")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    save_file({"conv1.weight": torch.zeros(4, 3, 7, 7)}, tmp_path / "resnet.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.index.json").write_text("{}")
    for name, words in {
        "evil.bin": "not a complete file of plain tensors",
        "pointer.safetensors": "Git LFS pointer",
        "page.pth": "holds no weights",
        "resnet.safetensors": "there is no class token",
        "empty": "the folder holds no weights",
        "absent": "no such file or folder",
        "bad.index.json": "not an index of weights",
    }.items():
        with pytest.raises(WeightsError, match=words):
            add(tmp_path / name, NAME)
    assert not (tmp_path / "ran").exists()
    truncated = save(random_model("vit"), tmp_path / "vit")
    state = load_file(truncated / "model.safetensors")
    kept = {n: t for n, t in state.items() if "layer.2.output" not in n}
    save_file(kept, truncated / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lacks layers\.2\.mlp\.fc2\.bias"):
        add(truncated, NAME)
    save_file({**state, "adapter.weight": torch.zeros(2)}, truncated / "model.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected adapter\.weight"):
        add(truncated, NAME)
