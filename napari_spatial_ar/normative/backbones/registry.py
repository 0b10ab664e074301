"""The known backbones: sizes, licences and the sources of their weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.weight_files import Family, read_metadata
from napari_spatial_ar.normative.model_schema import Digest, Number, Part, Size, Word
from napari_spatial_ar.paths import weights_dir

__all__ = [
    "BACKBONES",
    "DEFAULT_BACKBONE",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "OFFLINE_BACKBONE",
    "BackboneSpec",
    "Fuse",
    "find_spec",
    "known_backbones",
    "own_file",
    "spec_metadata",
    "with_layers",
]

#: How several blocks form one embedding: concatenated, or averaged.
Fuse = Literal["concat", "mean"]


IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


DEFAULT_BACKBONE = "dinov3_vits16"


OFFLINE_BACKBONE = "dinov2_vits14_focus"


_DINOV3_LICENCE = "DINOv3 License (Meta)"


_DINOV2_LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class BackboneSpec:
    """What is known about a backbone before its weights are installed.

    Parameters
    ----------
    name : str
        Name used in model files and on the command line.
    family : {"dinov3_vit", "dinov2", "dinov3_convnext", "vit", "clip", "pixels"}
        Which transformers model runs it; "pixels" needs none.
    patch : int
        Side of a patch, in pixels of the model's input.
    width : int
        Channels of one block's tokens.
    config : dict
        Arguments of the transformers configuration.
    licence : str
        Licence of the weights.
    layers : tuple of int, optional
        Blocks read out, counted from 1, each layer-normed without affine.
        Empty: the last block through the final norm.
    fuse : {"concat", "mean"}, optional
        How several blocks form one embedding.
    hub : tuple of str, optional
        Hub repositories tried in order.
    pinned_sha256 : str, optional
        `content_sha256` of the weights in use, if only one file is right.
    mean, std : (float, float, float), optional
        Normalisation of intensities in 0..1 that its weights were trained with.
    own : bool, optional
        Whether the user added it, see `own_backbones`.
    """

    name: str
    family: Family
    patch: int
    width: int
    licence: str
    config: dict[str, Any] = field(repr=False)
    layers: tuple[int, ...] = ()
    fuse: Fuse = "concat"
    hub: tuple[str, ...] = ()
    pinned_sha256: str = ""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    own: bool = False

    @property
    def blocks(self) -> int:
        """Number of blocks whose channels are concatenated in an embedding."""
        return max(1, len(self.layers)) if self.fuse == "concat" else 1

    @property
    def channels(self) -> int:
        """D, channels of an embedding."""
        return self.width * self.blocks


def _dinov3(
    suffix: str, width: int, depth: int, heads: int, hidden: int, timm: str, **extra: Any
) -> BackboneSpec:
    name = f"dinov3_{suffix}"
    return BackboneSpec(
        name=name,
        family="dinov3_vit",
        patch=16,
        width=width,
        licence=_DINOV3_LICENCE,
        config={
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": hidden,
            "num_register_tokens": 4,
            **extra,
        },
        # timm's "qkvb" files include the query and value biases, like the original.
        hub=(f"facebook/dinov3-{suffix}-pretrain-lvd1689m", f"timm/{timm}.lvd1689m"),
    )


def _convnext(size: str, widths: list[int], depths: list[int]) -> BackboneSpec:
    return BackboneSpec(
        name=f"dinov3_convnext_{size}",
        family="dinov3_convnext",
        patch=32,
        width=widths[-1],
        licence=_DINOV3_LICENCE,
        config={"hidden_sizes": widths, "depths": depths},
        hub=(
            f"facebook/dinov3-convnext-{size}-pretrain-lvd1689m",
            f"timm/convnext_{size}.dinov3_lvd1689m",
        ),
    )


def _dinov2(
    size: str, width: int, depth: int, heads: int, registers: int, **extra: Any
) -> BackboneSpec:
    with_registers = "-with-registers" if registers else ""
    long = {"s": "small", "b": "base", "l": "large", "g": "giant"}[size]
    return BackboneSpec(
        name=f"dinov2_vit{size}14" + ("_reg4" if registers else ""),
        family="dinov2",
        patch=14,
        width=width,
        licence=_DINOV2_LICENCE,
        config={
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "patch_size": 14,
            "image_size": 518,
            **({"num_register_tokens": registers} if registers else {}),
            **extra,
        },
        hub=(f"facebook/dinov2{with_registers}-{long}",),
    )


_GATED: dict[str, Any] = {"use_gated_mlp": True, "hidden_act": "silu"}


_NO_QKV_BIAS: dict[str, Any] = {"query_bias": False, "value_bias": False}


_V2_SIZES: tuple[tuple[str, int, int, int, dict[str, Any]], ...] = (
    ("s", 384, 12, 6, {}),
    ("b", 768, 12, 12, {}),
    ("l", 1024, 24, 16, {}),
    ("g", 1536, 40, 24, {"use_swiglu_ffn": True}),
)


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        _dinov3("vits16", 384, 12, 6, 1536, "vit_small_patch16_dinov3_qkvb"),
        _dinov3("vits16plus", 384, 12, 6, 1536, "vit_small_plus_patch16_dinov3_qkvb", **_GATED),
        _dinov3("vitb16", 768, 12, 12, 3072, "vit_base_patch16_dinov3_qkvb"),
        _dinov3("vitl16", 1024, 24, 16, 4096, "vit_large_patch16_dinov3_qkvb"),
        _dinov3("vith16plus", 1280, 32, 20, 5120, "vit_huge_plus_patch16_dinov3_qkvb", **_GATED),
        _dinov3("vit7b16", 4096, 40, 32, 8192, "vit_7b_patch16_dinov3", **_GATED, **_NO_QKV_BIAS),
        _convnext("tiny", [96, 192, 384, 768], [3, 3, 9, 3]),
        _convnext("small", [96, 192, 384, 768], [3, 3, 27, 3]),
        _convnext("base", [128, 256, 512, 1024], [3, 3, 27, 3]),
        _convnext("large", [192, 384, 768, 1536], [3, 3, 27, 3]),
        *(_dinov2(s, w, d, h, 0, **extra) for s, w, d, h, extra in _V2_SIZES),
        *(_dinov2(s, w, d, h, 4, **extra) for s, w, d, h, extra in _V2_SIZES),
        BackboneSpec(
            name=OFFLINE_BACKBONE,
            family="dinov2",
            patch=14,
            width=384,
            licence="MIT and Apache-2.0",
            config=_dinov2("s", 384, 12, 6, 0).config,
            layers=(7,),
            pinned_sha256="47bdfa09db015946df844c1af5ce11e527eef18fd2d13ebafb672fae7f6ce4db",
        ),
    )
}


# ------------------------------------------------------------ backbones that the user added

# Key of the spec in the metadata of the backbone's file, which has the backbone's name.
_SPEC = "napari-spatial-ar-backbone"


_KEPT = ("family", "patch", "width", "licence", "config", "pinned_sha256", "mean", "std")


def own_file(name: str) -> Path:
    """Path, in the user's weights folder, of a backbone that the user added."""
    return weights_dir() / f"{name}.safetensors"


def spec_metadata(spec: BackboneSpec) -> dict[str, str]:
    """Metadata that make a safetensors file of weights a backbone of the user's own."""
    values = asdict(spec)
    return {_SPEC: json.dumps({key: values[key] for key in _KEPT}, sort_keys=True)}


_Setting = Annotated[float, Field(ge=-(2**17), le=2**17)] | bool | Word | None


class _Spec(Part):
    """The metadata of an added backbone's weights, validated: the file may come from anywhere."""

    family: Family
    patch: Annotated[int, Field(ge=1, le=1024)]
    width: Size
    licence: str
    config: dict[Word, _Setting | list[_Setting]]
    pinned_sha256: Digest
    mean: Annotated[list[Number], Field(min_length=3, max_length=3)]
    std: Annotated[list[Number], Field(min_length=3, max_length=3)]


def find_spec(name: str) -> BackboneSpec | None:
    """Find a backbone by name, in `BACKBONES` or among the user's own; None if unknown.

    Parameters
    ----------
    name : str
        Its name.
    """
    if name in BACKBONES or Path(name).name != name:
        return BACKBONES.get(name)
    metadata = read_metadata(own_file(name), _SPEC)
    if metadata is None:
        return None
    try:
        _Spec.model_validate(metadata)
    except ValidationError:
        return None
    values = {key: metadata[key] for key in _KEPT}
    mean, std = tuple(values.pop("mean")), tuple(values.pop("std"))
    return BackboneSpec(name=name, own=True, mean=mean, std=std, **values)


def known_backbones() -> dict[str, BackboneSpec]:
    """List `BACKBONES`, followed by the backbones that the user added, by name."""
    files = sorted(weights_dir().glob("*.safetensors"))
    own = {file.stem: find_spec(file.stem) for file in files if file.stem not in BACKBONES}
    return {**BACKBONES, **{name: spec for name, spec in own.items() if spec is not None}}


def with_layers(spec: BackboneSpec, layers: Sequence[int], fuse: Fuse = "concat") -> BackboneSpec:
    """Return the backbone with other blocks read out.

    Raises
    ------
    InputError
        If it has no such blocks, a block is named twice, or a mean is requested of one block.
    """
    depth = int(spec.config.get("num_hidden_layers", 0))
    blocks = tuple(layers)
    if len(set(blocks)) != len(blocks) or any(not 1 <= n <= depth for n in blocks):
        raise InputError(
            f"{spec.name} cannot give the blocks {', '.join(map(str, blocks))}",
            fix=f"Choose each once, from 1 to {depth}"
            if depth
            else "Do not name any: only its last block can be read",
        )
    if fuse not in get_args(Fuse):
        raise InputError(f"blocks are fused by {' or '.join(get_args(Fuse))}, not by '{fuse}'")
    if fuse == "mean" and len(blocks) < 2:
        raise InputError(
            f"a mean of blocks needs at least two; {spec.name} would read {len(blocks) or 1}",
            fix="Name the blocks to read, such as last4" if depth else "Do not ask for a mean",
        )
    # The pinned hash covers the blocks up to the last one read.
    same = max(blocks, default=0) == max(spec.layers, default=0)
    return replace(spec, layers=blocks, fuse=fuse, pinned_sha256=spec.pinned_sha256 if same else "")
