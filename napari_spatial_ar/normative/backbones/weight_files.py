"""Read weights from files in any known layout, detected by content, and never unpickled.

Meta's ``.pth``, timm's safetensors and transformers' safetensors (old and new names) hold the
same DINO weights under different names. `to_transformers` turns each into the names of the
transformers 5 modules that run them, so all layouts give the same features and one hash.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from napari_spatial_ar.errors import WeightsError
from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.imaging.json_text import parse_json

__all__ = [
    "Family",
    "Rounding",
    "block_of",
    "check_kind",
    "content_sha256",
    "is_final_norm",
    "is_used",
    "read_json",
    "read_metadata",
    "read_rounding",
    "read_weights",
    "rounded",
    "to_transformers",
    "write_rounded",
]

Family = Literal["dinov3_vit", "dinov2", "dinov3_convnext", "vit", "clip", "pixels"]


Rules = tuple[tuple[str, str], ...]


# Present in checkpoints but never used at inference, or recomputed from the config.
_UNUSED = re.compile(r"(^|\.)mask_token$|rope_embed|bias_mask$|^norms\.|position_ids$")


# Part of the norm after the last block, which is not applied when an earlier block is read.
_FINAL_NORM = re.compile(r"^(norm|layernorm|post_layernorm)\.")


_POSITIONS = "embeddings.position_embeddings"


# Common to Meta and timm: a fused qkv per block, split afterwards.
_BLOCKS_TO_DINOV3: Rules = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^(storage_tokens|reg_token)$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"model.layer.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.([qkv])_(bias)$", r"model.layer.\1.attention.\2_proj.\3"),
    (r"^blocks\.(\d+)\.attn\.", r"model.layer.\1.attention."),
    (r"^blocks\.(\d+)\.(?:ls(\d)\.gamma|gamma_(\d))$", r"model.layer.\1.layer_scale\2\3.lambda1"),
    (r"^blocks\.(\d+)\.mlp\.(?:w1|fc1_g)\.", r"model.layer.\1.mlp.gate_proj."),
    (r"^blocks\.(\d+)\.mlp\.(?:w2|fc1_x|fc1)\.", r"model.layer.\1.mlp.up_proj."),
    (r"^blocks\.(\d+)\.mlp\.(?:w3|fc2)\.", r"model.layer.\1.mlp.down_proj."),
    (r"^blocks\.(\d+)\.norm", r"model.layer.\1.norm"),
    (r"^layer\.", "model.layer."),
)


_BLOCKS_TO_DINOV2: Rules = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^(register_tokens|reg_token)$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    # `blocks.` may be grouped by depth in Meta's larger checkpoints: blocks.CHUNK.N.
    (r"^blocks\.(?:\d+\.)?(\d+)\.", r"encoder.layer.\1."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.", ".attention."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
    (r"^norm\.", "layernorm."),
    # transformers before 5
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.mlp\.(?:w12|weights_in)\.", ".mlp.gate_up."),
    (r"\.mlp\.(?:w3|weights_out)\.", ".mlp.down_proj."),
)


_TO_CONVNEXT: Rules = (
    (r"^stem\.", "stages.0.downsample_layers."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample_layers."),
    (r"^stages\.(\d+)\.downsample\.", r"stages.\1.downsample_layers."),
    (r"^stages\.(\d+)\.(?:blocks\.)?(\d+)\.", r"stages.\1.layers.\2."),
    (r"\.(?:dwconv|conv_dw)\.", ".depthwise_conv."),
    (r"\.(?:pwconv1|mlp\.fc1)\.", ".pointwise_conv1."),
    (r"\.(?:pwconv2|mlp\.fc2)\.", ".pointwise_conv2."),
    (r"(layers\.\d+)\.norm\.", r"\1.layer_norm."),
    (r"^(?:head\.)?norm\.", "layer_norm."),
    (r"^stages\.", "model.stages."),
)


# A plain vision transformer: timm's, open_clip's wrapper around one of timm's, and transformers'
# before 5.
_TO_VIT: Rules = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.norm1\.", r"layers.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"layers.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"layers.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.", r"layers.\1.attention."),
    (r"^blocks\.", "layers."),
    (r"^norm\.", "layernorm."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.", r"layers.\1.attention.q_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.key\.", r"layers.\1.attention.k_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.value\.", r"layers.\1.attention.v_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.attention.o_proj."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.mlp.fc2."),
    (r"^encoder\.layer\.", "layers."),
)


# CLIP's vision transformer in the layout of its authors and of open_clip.
_TO_CLIP: Rules = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.attn\.in_proj_(weight|bias)$", r".self_attn.qkv.\1"),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


_RULES: dict[Family, Rules] = {
    "dinov3_vit": _BLOCKS_TO_DINOV3,
    "dinov2": _BLOCKS_TO_DINOV2,
    "dinov3_convnext": _TO_CONVNEXT,
    "vit": _TO_VIT,
    "clip": _TO_CLIP,
}


def to_transformers(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Rename and split tensors of any known layout.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights as found in a file.
    family : {"dinov3_vit", "dinov2", "dinov3_convnext", "vit", "clip"}
        Which transformers model will hold them.

    Returns
    -------
    dict of str to Tensor
        float32 tensors under the names of `transformers` 5 modules, without those not used at
        inference (mask tokens, rotary buffers, the zero key bias of DINOv3). Tensors that no rule
        matches keep their names, so that loading can report them.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("attn.qkv.bias") and f"{name}_mask" in state:
            # Meta masks the key part; the mask may be NaN in a file that was never trained.
            mask = torch.nan_to_num(state[f"{name}_mask"].float(), nan=1.0)
            tensor = tensor.float() * mask
        new = name
        if family == "dinov2" and _is_packed(name, state):
            new = new.replace(".fc1.", ".w12.").replace(".fc2.", ".w3.")
        for pattern, replacement in _RULES[family]:
            new = re.sub(pattern, replacement, new)
        if not _UNUSED.search(new):
            renamed[new] = tensor.detach().to(torch.float32)
    masked = any(name.endswith("attn.qkv.bias") for name in state)
    for attention in (".attention.", ".self_attn."):
        renamed = _split(renamed, f"{attention}qkv.", ("q_proj", "k_proj", "v_proj"), attention)
    renamed = _split(renamed, ".mlp.gate_up.", ("gate_proj", "up_proj"), ".mlp.")
    if family == "dinov3_vit":
        if masked:  # Meta's key bias is masked to zero
            renamed = {k: v for k, v in renamed.items() if not k.endswith("k_proj.bias")}
        _add_zero_biases(renamed)
    positions = renamed.get(_POSITIONS)
    if positions is not None and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        # In files with registers, timm adds the class token's position to the token itself.
        none = positions.new_zeros(1, 1, positions.shape[2])
        renamed[_POSITIONS] = torch.cat([none, positions], dim=1)
    return {name: tensor.contiguous() for name, tensor in renamed.items()}


def _is_packed(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a tensor belongs to a gated MLP in timm's layout, with two products fused in one."""
    mlp = re.match(r"(.*\.mlp\.)fc[12]\.", name)
    first, second = (state.get(f"{mlp.group(1)}fc{n}.weight") if mlp else None for n in (1, 2))
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def _split(
    state: dict[str, Tensor], fused: str, parts: tuple[str, ...], parent: str
) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if fused not in name:
            out[name] = tensor
            continue
        prefix, suffix = name.split(fused)
        for part, chunk in zip(parts, tensor.chunk(len(parts)), strict=True):
            out[f"{prefix}{parent}{part}.{suffix}"] = chunk
    return out


def _add_zero_biases(state: dict[str, Tensor]) -> None:
    """Add query and value biases: timm omits them if they are zero."""
    for name in [n for n in state if re.search(r"\.[qv]_proj\.weight$", n)]:
        bias = name.removesuffix("weight") + "bias"
        state.setdefault(bias, torch.zeros(state[name].shape[0]))


@dataclass(frozen=True)
class Rounding:
    """What a file of rounded weights states about its originals.

    Models name a backbone by the hash of its originals, also when it runs on rounded weights.

    Rounded weights replace the originals wherever a model names its backbone by hash.

    Parameters
    ----------
    backbone : str
        Key of `napari_spatial_ar.normative.backbones.registry.BACKBONES`.
    dtype : str
        The dtype the weights were rounded to, such as ``"float16"``.
    blocks : int
        The file holds the embedding and this many of the first blocks.
    originals : mapping of str to str
        `content_sha256` of the embedding and the first 1, 2, ... rounded blocks -> that of the
        same part of the originals.
    """

    backbone: str
    dtype: str
    blocks: int
    originals: Mapping[str, str]


def is_used(name: str, depth: int) -> bool:
    """Whether a tensor matters when only the first ``depth`` blocks run (0: all)."""
    if not depth:
        return True
    block = block_of(name)
    return not is_final_norm(name) if block is None else block <= depth


def block_of(name: str) -> int | None:
    """Return the number, from 1, of the transformer block that a tensor belongs to."""
    found = re.match(r"(?:model\.|encoder\.)?layers?\.(\d+)\.", name)
    return int(found.group(1)) + 1 if found else None


def is_final_norm(name: str) -> bool:
    """Whether a tensor belongs to the norm after the last block."""
    return _FINAL_NORM.match(name) is not None


def rounded(
    state: Mapping[str, Tensor], backbone: str, blocks: int, dtype: torch.dtype
) -> tuple[dict[str, Tensor], Rounding]:
    """Truncate weights after some blocks and round them.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights under transformers' names.
    backbone : str
        Name of the backbone.
    blocks : int
        How many of the first blocks to include, with the embedding.
    dtype : torch.dtype
        The dtype to round to.
    """
    small = {name: t.to(dtype) for name, t in state.items() if is_used(name, blocks)}
    originals = {}
    for depth in range(1, blocks + 1):
        used = partial(is_used, depth=depth)
        originals[content_sha256(small, used)] = content_sha256(state, used)
    return small, Rounding(backbone, str(dtype).removeprefix("torch."), blocks, originals)


def content_sha256(
    state: Mapping[str, Tensor], keep: Callable[[str], bool] = lambda _name: True
) -> str:
    """Hash of weights by content, the same for every file layout.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights under transformers' names.
    keep : callable, optional
        Returns whether a name is included; by default all are.

    Returns
    -------
    str
        SHA-256 (hex) over names, shapes and float32 little-endian values, in name order.
    """
    digest = hashlib.sha256()
    for name in sorted(filter(keep, state)):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


# Metadata key of the JSON of a `Rounding` in a safetensors file.
_ROUNDING = "napari-spatial-ar-rounding"


_META_HASH = re.compile(r"-([0-9a-f]{8})\.pth$")


# First bytes of a .pth: a zip archive, or the pickle that torch wrote before 1.6.
_PTH = (b"PK\x03\x04", b"\x80\x02")


# Keys under which training code stores the tensors: DINO's authors publish the teacher.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "teacher")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors from a file without unpickling objects.

    Parameters
    ----------
    path : Path
        Safetensors, a PyTorch file (``.pth``, ``.pt``, ``.bin``) of tensors, or the
        ``.index.json`` of a file saved in several parts. If a ``.pth`` has a name in Meta's form
        (``...-xxxxxxxx.pth``), those 8 digits must begin its SHA-256.

    Raises
    ------
    WeightsError
        If the file is damaged, contains more than tensors, its hash does not match its name, or a
        part is missing.
    """
    kind = check_kind(path)
    if kind == "parts":
        return _read_parts(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    named = _META_HASH.search(path.name)
    if named:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if not actual.startswith(named.group(1)):
            raise WeightsError(
                f"its sha256 begins with {actual[:8]}, but its name has {named.group(1)}",
                path=path,
                fix="The file is damaged or was changed: download it again",
            )
    return _read_pth(path)


def check_kind(path: Path) -> Literal["parts", "safetensors", "pth"]:
    """Detect the type of a weights file by its first bytes.

    Raises
    ------
    WeightsError
        If it is not a weights file, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise WeightsError(f"it cannot be read ({error.strerror})", path=path) from error
    if path.name.endswith(".index.json"):
        return "parts"
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            "it is a Git LFS pointer, not the weights themselves", path=path, fix=_DOWNLOAD
        )
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    if not start.startswith(_PTH):
        raise WeightsError(
            "it holds no weights: neither safetensors nor a PyTorch file", path=path, fix=_DOWNLOAD
        )
    return "pth"


_DOWNLOAD = "Download the file of weights itself"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # number types that torch does not support, among others
        raise WeightsError(
            f"not a valid safetensors file ({error})", path=path, fix="Download it again"
        ) from error


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Read weights saved in several parts, which are in the folder of their index."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise WeightsError("it is not an index of weights", path=index)
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(part) for part in places.values()}):
        part = index.parent / name
        if Path(name).name != name or not part.is_file():
            raise WeightsError(
                f"its part {name} is missing",
                path=index,
                fix="Download all parts into one folder",
            )
        tensors |= read_weights(part)
    missing = sorted(set(places) - tensors.keys())
    if missing:
        raise WeightsError(f"its parts lack {missing[0]}", path=index, fix="Download them again")
    return tensors


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways
        raise WeightsError(
            "not a complete file of plain tensors", path=path, fix="Download it again"
        ) from error
    if isinstance(loaded, dict):
        for wrapper in _WRAPPERS:
            inner = loaded.get(wrapper)
            if isinstance(inner, dict):
                loaded = inner
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise WeightsError("it holds no tensors", path=path, fix="Check that it is a weights file")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object (`WeightsError` if it is not one)."""
    try:
        return parse_json(path.read_bytes(), dict[str, Any])
    except (OSError, ValueError) as error:
        raise WeightsError("it is not a JSON object", path=path, fix="Download it again") from error


def read_metadata(path: Path, key: str) -> dict[str, Any] | None:
    """Read a JSON object from the metadata of a safetensors file; None if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return parse_json((file.metadata() or {}).get(key, "null"), dict[str, Any])
    except (SafetensorError, OSError, ValueError):
        return None  # another file type, or a damaged file, which reading the tensors reports


def read_rounding(path: Path) -> Rounding | None:
    """Read which originals a weights file is a rounded copy of; None if it is not a copy."""
    try:
        return Rounding(**(read_metadata(path, _ROUNDING) or {}))
    except TypeError:
        return None


def write_rounded(path: Path, state: dict[str, Tensor], rounding: Rounding) -> None:
    """Write rounded weights, with the metadata for `read_rounding`."""
    from safetensors.torch import save

    metadata = {_ROUNDING: json.dumps(asdict(rounding), sort_keys=True)}
    atomic_write_bytes(path, save(state, metadata=metadata))
