"""Backbones that the user adds, described by their own folder or file of weights.

These vision transformers are supported: `Dinov2Model`, `Dinov2WithRegistersModel`,
`DINOv3ViTModel`, `ViTModel` and `CLIPVisionModel` of transformers, and the same networks in the
layouts of Meta, timm and open_clip. Architecture, sizes and registers are read from the tensors;
what tensors do not show (heads, activation, normalisation) from the JSON files beside them. Nothing
is guessed if a wrong guess would change features, and no code that comes with weights is run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from napari_spatial_ar.errors import InputError, UnsaidError, WeightsError
from napari_spatial_ar.normative.backbones.registry import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneSpec,
)
from napari_spatial_ar.normative.backbones.weight_files import (
    Family,
    block_of,
    content_sha256,
    read_json,
    read_weights,
    to_transformers,
)
from napari_spatial_ar.paths import check_name_length

__all__ = ["BackboneOverrides", "Bundle", "check_name", "describe", "read_bundle", "weights_file"]

_FAMILIES: dict[str, Family] = {
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3_vit",
    "vit": "vit",
    "clip": "clip",
    "clip_vision_model": "clip",
}
# The keys read from a config.json, in transformers' names.
_READ: dict[Family, tuple[str, ...]] = {
    "dinov2": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "hidden_act"),
        *("layer_norm_eps", "image_size", "patch_size", "qkv_bias", "use_swiglu_ffn"),
    ),
    "dinov3_vit": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        *("hidden_act", "layer_norm_eps", "rope_theta", "image_size", "patch_size"),
        *("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"),
        *("use_gated_mlp", "num_register_tokens"),
    ),
    "vit": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        *("hidden_act", "layer_norm_eps", "image_size", "patch_size", "qkv_bias"),
    ),
    "clip": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        *("hidden_act", "layer_norm_eps", "image_size", "patch_size"),
    ),
}
# Heads by width, as in these networks' releases: used if no config states the number.
_HEADS: dict[Family, dict[int, int]] = {
    "dinov2": {384: 6, 768: 12, 1024: 16, 1536: 24},
    "dinov3_vit": {384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32},
    "vit": {192: 3, 384: 6, 768: 12, 1024: 16},
    "clip": {},
}
# The eps of their norms, likewise.
_EPS: dict[Family, float] = {"dinov2": 1e-6, "dinov3_vit": 1e-5, "vit": 1e-6, "clip": 1e-5}
# The first token of a vision transformer, under all its names: it shows where the tensors are among
# those of a text tower or of a head.
_FIRST = (
    "embeddings.cls_token",
    "embeddings.class_embedding",
    "cls_token",
    "class_embedding",
)
_PARTS = ("embeddings.", "encoder.", "model.layer.", "layers.", "pre_layrnorm.")
_NORMS = ("norm.", "layernorm.", "post_layernorm.")
# Heads, poolers and the like come after the blocks.
_BEHIND = re.compile(
    r"^(pooler|head|heads|classifier|decoder|dino_head|ibot_head|attn_pool|text|logit_"
    r"|visual_projection|proj$)"
)
_WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
# Fields of `BackboneOverrides` that the user may have to give: the option of the command line.
_OPTIONS = {
    "heads": "--heads N",
    "activation": "--activation gelu|quick_gelu",
    "mean": "--mean R,G,B",
    "std": "--std R,G,B",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class BackboneOverrides:
    """What the user states about a backbone; it takes precedence over what its files state.

    Parameters
    ----------
    patch : int, optional
        Side of a patch in pixels, checked against the weights.
    heads : int, optional
        Attention heads.
    activation : str, optional
        Activation of the MLPs, by its name in transformers: ``"gelu"``, ``"quick_gelu"``.
    mean, std : sequence of float, optional
        Normalisation of intensities in 0..1: three values, or one for all three channels.
    licence : str
        Licence of the weights.
    """

    patch: int | None = None
    heads: int | None = None
    activation: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    licence: str = ""


@dataclass(frozen=True)
class Bundle:
    """Weights with the JSON files beside them.

    Parameters
    ----------
    path : Path
        The file of weights.
    tensors : dict of str to Tensor
        As the file names them.
    config, processor, open_clip : dict
        ``config.json``, ``preprocessor_config.json`` and ``open_clip_config.json``; empty if
        missing.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    processor: dict[str, Any]
    open_clip: dict[str, Any]


def read_bundle(source: Path) -> Bundle:
    """Read weights and the JSON files that describe them.

    Parameters
    ----------
    source : Path
        A folder as written by `save_pretrained` or downloaded from a model hub, also in the cache
        of the hub's client, or a file of weights, with its JSON files beside it.

    Raises
    ------
    WeightsError
        If there are no weights, or a file is damaged.
    """
    path = weights_file(source)
    folder = path.parent

    def parsed(name: str) -> dict[str, Any]:
        return read_json(folder / name) if (folder / name).is_file() else {}

    processor = parsed("preprocessor_config.json") or parsed("processor_config.json")
    nested = processor.get("image_processor")
    return Bundle(
        path,
        read_weights(path),
        parsed("config.json"),
        nested if isinstance(nested, dict) else processor,
        parsed("open_clip_config.json"),
    )


def weights_file(source: Path) -> Path:
    """Find the weights file for a path; see `read_bundle`."""
    if source.name.endswith("config.json"):
        source = source.parent
    return _weights_in(_snapshot(source)) if source.is_dir() else source


def _snapshot(folder: Path) -> Path:
    """Return the folder itself, or the snapshot of a repository in the hub client's cache."""
    main = folder / "refs" / "main"
    if not main.is_file():
        return folder
    inside = folder / "snapshots" / main.read_text(encoding="utf-8").strip()
    return inside if inside.is_dir() else folder


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    for endings in (("safetensors",), ("pth", "pt", "bin")):
        found = sorted(path for ending in endings for path in folder.glob(f"*.{ending}"))
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"the folder holds several files of weights: {', '.join(p.name for p in found)}",
                path=folder,
                fix="Name one of them",
            )
    raise WeightsError(
        "the folder holds no weights",
        path=folder,
        fix="Give one with a model.safetensors, or a file of weights",
    )


def check_name(name: str) -> None:
    """Check the name of a user's own backbone (`InputError` if invalid)."""
    check_name_length(name)
    if not _NAME.fullmatch(name):
        raise InputError(
            f"'{name}' cannot be a backbone's name",
            fix="Use letters, digits, hyphens, underscores and full stops",
        )
    lower = name.lower()
    if re.match(r"pixels\d", lower) or any(
        lower == known or lower.startswith((f"{known}.", f"{known}_pretrain"))
        for known in map(str.lower, BACKBONES)
    ):
        raise InputError(
            f"'{name}' would be taken for another backbone", fix="Choose a name of your own"
        )


def describe(
    bundle: Bundle, name: str, overrides: BackboneOverrides
) -> tuple[BackboneSpec, dict[str, Tensor]]:
    """Describe a backbone, and return its weights under transformers' names.

    Parameters
    ----------
    bundle : Bundle
        See `read_bundle`.
    name : str
        Its new name.
    overrides : BackboneOverrides
        What the user states about it.

    Raises
    ------
    InputError
        If its architecture is not supported, or something has to be stated: the message names the
        options.
    WeightsError
        If weights and config belong to different networks.
    """
    check_name(name)
    tower = _tower(bundle)
    family = _family(bundle, tower)
    state = _state(tower, family, bundle.path)
    config, missing = _config(bundle, family, state, overrides)
    mean, std = _normalisation(bundle, overrides)
    if mean is None:
        missing.append("mean")
    if std is None:
        missing.append("std")
    if missing:
        fix = f"Give {' and '.join(_OPTIONS[name] for name in missing)}"
        if mean is None or std is None:
            usual = [",".join(map(str, values)) for values in (IMAGENET_MEAN, IMAGENET_STD)]
            fix += f" (of ImageNet: mean {usual[0]}, standard deviation {usual[1]})"
        what = "its files do not contain all that is needed"
        raise UnsaidError(tuple(missing), what, path=bundle.path, fix=fix)
    assert mean is not None
    assert std is not None
    return BackboneSpec(
        name=name,
        family=family,
        patch=config["patch_size"],
        width=config["hidden_size"],
        licence=overrides.licence or "see its owner",
        config=config,
        pinned_sha256=content_sha256(state),
        mean=mean,
        std=std,
        own=True,
    ), state


def _tower(bundle: Bundle) -> dict[str, Tensor]:
    """Tensors of the vision transformer, without the prefix of their names."""
    for first in _FIRST:
        prefixes = sorted(
            name.removesuffix(first)
            for name in bundle.tensors
            if name == first or name.endswith(f".{first}")
        )
        if prefixes:
            # Of a student and its teacher, the teacher is what gets published.
            taught = [prefix for prefix in prefixes if "teacher" in prefix]
            prefix = "" if "" in prefixes else (taught or prefixes)[0]
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in bundle.tensors.items()
                if name.startswith(prefix)
            }
    raise WeightsError(
        "it holds no vision transformer of a supported kind: there is no class token",
        path=bundle.path,
        fix=_KINDS,
    )


_KINDS = (
    "Give a ViT of DINOv2, DINOv3, timm, open_clip or CLIP: transformers' Dinov2Model, "
    "Dinov2WithRegistersModel, DINOv3ViTModel, ViTModel or CLIPVisionModel"
)


def _family(bundle: Bundle, tower: Iterable[str]) -> Family:
    """Identify the network, from the config if there is one, else from its tensors' names."""
    kind = bundle.config.get("model_type")
    if kind is not None:
        if kind not in _FAMILIES:
            its_own = " It has code of its own, which is never run" * ("auto_map" in bundle.config)
            raise InputError(
                f"its config.json names the architecture '{kind}', which is not supported",
                path=bundle.path,
                fix=f"{_KINDS}.{its_own}" if its_own else _KINDS,
            )
        return _FAMILIES[kind]
    names = " ".join(tower)
    if "class_embedding" in names:
        return "clip"
    scaled = re.search(r"\.ls1\.gamma|\.gamma_1\b|layer_scale1", names)
    if not scaled:
        return "vit"
    return "dinov2" if re.search(r"pos_embed\b|position_embeddings", names) else "dinov3_vit"


def _state(tower: dict[str, Tensor], family: Family, path: Path) -> dict[str, Tensor]:
    """Weights under transformers' names, for images of three channels."""
    state = to_transformers(tower, family)
    state = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith((*_PARTS, *_NORMS)) or not _BEHIND.match(name)
    }
    patch = _patch_name(family)
    if patch not in state or state[patch].ndim != 4:
        raise WeightsError(f"it lacks {patch}, the patch embedding", path=path, fix=_KINDS)
    channels = state[patch].shape[1]
    if channels == 1:  # trained on grey images; here three equal channels come in
        state[patch] = (state[patch] / 3).repeat(1, 3, 1, 1)
    elif channels != 3:
        raise InputError(f"it needs images of {channels} channels, not of one or three", path=path)
    return state


def _patch_name(family: Family) -> str:
    return {
        "dinov3_vit": "embeddings.patch_embeddings.weight",
        "clip": "embeddings.patch_embedding.weight",
    }.get(family, "embeddings.patch_embeddings.projection.weight")


def _sizes(state: dict[str, Tensor], family: Family, path: Path) -> dict[str, Any]:
    """Read the sizes that the tensors show, under the keys of transformers' configs."""
    kernel = state[_patch_name(family)]
    depth = max((block_of(name) or 0 for name in state), default=0)
    width, patch = int(kernel.shape[0]), int(kernel.shape[2])
    if kernel.shape[2] != kernel.shape[3] or not depth:
        raise InputError("its patches are not square, or it has no blocks", path=path)
    first = "encoder.layer.0" if family == "dinov2" else "encoder.layers.0"
    first = {"dinov3_vit": "model.layer.0", "vit": "layers.0"}.get(family, first)
    gated = f"{first}.mlp.gate_proj.weight" in state
    ways = {"dinov3_vit": "up_proj", "dinov2": "up_proj" if gated else "fc1"}
    up = state.get(f"{first}.mlp.{ways.get(family, 'fc1')}.weight")
    if up is None:
        raise WeightsError(f"its blocks have no known MLP ({first}.mlp)", path=path)
    hidden = int(up.shape[0])
    registers = state.get("embeddings.register_tokens")
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "patch_size": patch,
    }
    if family != "dinov3_vit":
        sizes["image_size"] = patch * _side(state, family, path)
    if family in ("dinov2", "vit"):
        attention = f"{first}.attention.q_proj.bias"
        sizes["qkv_bias"] = attention in state
    if family == "dinov2":
        sizes["use_swiglu_ffn"] = gated
        sizes["mlp_ratio"] = _ratio(width, hidden, gated, path)
    else:
        sizes["intermediate_size"] = hidden
    if family == "dinov3_vit":
        sizes["use_gated_mlp"] = gated
        sizes["num_register_tokens"] = 0 if registers is None else int(registers.shape[1])
    elif registers is not None:
        sizes["num_register_tokens"] = int(registers.shape[1])
    return sizes


def _side(state: dict[str, Tensor], family: Family, path: Path) -> int:
    """Patches along each side of the image for which the positions were learned."""
    name = (
        "embeddings.position_embedding.weight"
        if family == "clip"
        else "embeddings.position_embeddings"
    )
    if name not in state:
        raise WeightsError(f"it lacks {name}", path=path, fix=_KINDS)
    count = int(state[name].shape[-2]) - 1
    side = math.isqrt(max(count, 0))
    if side < 1 or side * side != count:
        raise InputError(f"its {count} positions do not form a square image", path=path)
    return side


def _ratio(width: int, hidden: int, gated: bool, path: Path) -> int:
    """Return the ``mlp_ratio`` of a Dinov2Config for this width of the MLP."""
    for ratio in range(1, 17):
        wide = width * ratio
        if hidden == ((wide * 2 // 3 + 7) // 8 * 8 if gated else wide):
            return ratio
    raise InputError(f"its MLPs are {hidden} wide, which is no multiple of {width}", path=path)


def _config(
    bundle: Bundle, family: Family, state: dict[str, Tensor], overrides: BackboneOverrides
) -> tuple[dict[str, Any], list[str]]:
    """Arguments of the transformers config, and the `BackboneOverrides` still needed."""
    sizes = _sizes(state, family, bundle.path)
    if overrides.patch is not None and overrides.patch != sizes["patch_size"]:
        raise WeightsError(
            f"its patches are {sizes['patch_size']} pixels wide, not {overrides.patch}",
            path=bundle.path,
        )
    named = "model_type" in bundle.config
    config = {**_of_config(bundle, family, sizes), **sizes} if named else _usual(family, sizes)
    missing = []
    if overrides.heads is not None:
        config["num_attention_heads"] = overrides.heads
    elif not named:
        heads = _open_clip_heads(bundle) or _HEADS[family].get(sizes["hidden_size"])
        config["num_attention_heads"] = heads or 1
        if heads is None:
            missing.append("heads")
    if overrides.activation is not None:
        config["hidden_act"] = overrides.activation
    elif family == "clip" and not named:
        quick = _vision(bundle).get("quick_gelu", _model_cfg(bundle).get("quick_gelu", False))
        config["hidden_act"] = "quick_gelu" if quick else "gelu"
        if not bundle.open_clip:  # OpenAI's models use one activation, the others another
            missing.append("activation")
    _check(config, bundle.path)
    return config, missing


def _usual(family: Family, sizes: dict[str, Any]) -> dict[str, Any]:
    """Fill in the usual values of these networks for what tensors do not show."""
    gated = sizes.get("use_gated_mlp", False)
    config = {**sizes, "layer_norm_eps": _EPS[family], "hidden_act": "silu" if gated else "gelu"}
    return {**config, "rope_theta": 100.0} if family == "dinov3_vit" else config


def _of_config(bundle: Bundle, family: Family, sizes: dict[str, Any]) -> dict[str, Any]:
    """Read a config.json of transformers, with transformers' defaults for missing keys."""
    import transformers

    content = bundle.config
    if isinstance(content.get("vision_config"), dict):
        content = content["vision_config"]
    known = {
        key: _one(content[key])
        for key in (*_READ[family], "num_register_tokens")
        if content.get(key) is not None
    }
    for key, size in sizes.items():
        stated = known.get(key, size)
        if key == "image_size" and isinstance(stated, int):  # a partial patch does not count
            stated = stated // sizes["patch_size"] * sizes["patch_size"]
        if stated != size:
            raise WeightsError(
                f"config.json has {key} {stated}, but the weights have {size}",
                path=bundle.path,
                fix="They belong to different models: put the right config beside the weights",
            )
    kinds: dict[Family, Any] = {
        "dinov2": transformers.Dinov2Config,
        "dinov3_vit": transformers.DINOv3ViTConfig,
        "vit": transformers.ViTConfig,
        "clip": transformers.CLIPVisionConfig,
    }
    known.pop("num_register_tokens", None)  # two classes; the weights show how many there are
    try:
        filled = kinds[family](**{**known, **{k: v for k, v in sizes.items() if k in known}})
    except Exception as error:  # transformers' validation raises errors of its own
        raise WeightsError(
            f"config.json is invalid for transformers ({json.dumps(known)[:200]})", path=bundle.path
        ) from error
    return {key: getattr(filled, key) for key in _READ[family] if hasattr(filled, key)}


def _one(value: Any) -> Any:
    """Return the one size that a config gives for both rows and columns."""
    same = isinstance(value, list) and len(value) == 2 and value[0] == value[1]
    return value[0] if same else value


def _check(config: dict[str, Any], path: Path) -> None:
    """Check the values that the tensors cannot confirm."""
    from transformers.activations import ACT2FN

    heads, width = config["num_attention_heads"], config["hidden_size"]
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise InputError(f"{width} channels do not divide into {heads} heads", path=path)
    if config["hidden_act"] not in ACT2FN:
        raise InputError(
            f"the activation '{config['hidden_act']}' is not supported",
            path=path,
            fix="Give --activation gelu or quick_gelu",
        )


def _model_cfg(bundle: Bundle) -> dict[str, Any]:
    content = bundle.open_clip.get("model_cfg")
    return content if isinstance(content, dict) else {}


def _vision(bundle: Bundle) -> dict[str, Any]:
    content = _model_cfg(bundle).get("vision_cfg")
    return content if isinstance(content, dict) else {}


def _open_clip_heads(bundle: Bundle) -> int | None:
    """Heads of open_clip's own transformer: its config gives their width, 64 by default."""
    vision = _vision(bundle)
    width, head = vision.get("width"), vision.get("head_width", 64)
    if isinstance(width, int) and isinstance(head, int) and head > 0:
        return width // head
    return None


# ------------------------------------------------------------ normalisation

Triple = tuple[float, float, float]


def _normalisation(
    bundle: Bundle, overrides: BackboneOverrides
) -> tuple[Triple | None, Triple | None]:
    """Mean and standard deviation of intensities in 0..1, from the user or the files."""
    timm = bundle.config.get("pretrained_cfg", bundle.config)
    other = timm if isinstance(timm, dict) else {}
    preprocess = bundle.open_clip.get("preprocess_cfg")
    sources = [other, *([preprocess] if isinstance(preprocess, dict) else [])]
    mean = next((s["mean"] for s in sources if s.get("mean") is not None), None)
    std = next((s["std"] for s in sources if s.get("std") is not None), None)
    processor, scale = bundle.processor, 1.0
    if processor:
        if processor.get("do_normalize") is False:
            mean, std = 0.0, 1.0
        else:
            mean = processor.get("image_mean", mean)
            std = processor.get("image_std", std)
        # The normalisation applies to voxels of 0..255 times this factor.
        if processor.get("do_rescale") is False:
            scale = 255.0
        else:
            scale = 255.0 * float(processor.get("rescale_factor", 1 / 255))
        scale = 1.0 if math.isclose(scale, 1.0, rel_tol=1e-3) else scale
    path = bundle.path
    return (
        _triple(mean, "mean", path, scale)
        if overrides.mean is None
        else _triple(list(overrides.mean), "--mean", path),
        _triple(std, "standard deviation", path, scale, positive=True)
        if overrides.std is None
        else _triple(list(overrides.std), "--std", path, positive=True),
    )


def _triple(
    value: Any, what: str, path: Path, scale: float = 1.0, *, positive: bool = False
) -> Triple | None:
    """Three numbers from one or three, in units of intensities in 0..1."""
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    values = values * 3 if len(values) == 1 else values
    good = len(values) == 3 and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not good or (positive and min(values) <= 0):
        raise InputError(
            f"its {what} is {value}: not three numbers{' above 0' * positive}"
            if not what.startswith("--")
            else f"{what} takes one number or three with commas{', above 0' * positive}",
            path=path,
        )
    one, two, three = (float(v) / scale for v in values)
    return one, two, three
