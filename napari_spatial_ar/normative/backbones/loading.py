"""Load a backbone by name, with weights from wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.devices import resolve_device
from napari_spatial_ar.normative.backbones.pixels import PixelBackbone
from napari_spatial_ar.normative.backbones.registry import Fuse, with_layers
from napari_spatial_ar.normative.backbones.weight_files import to_transformers
from napari_spatial_ar.normative.backbones.weights import default_backbone, find, spec_of

__all__ = ["load_backbone"]


def load_backbone(
    name: str | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    *,
    layers: Sequence[int] | None = None,
    fuse: Fuse = "concat",
) -> Backbone:
    """Load a frozen backbone.

    Weights are searched for in this order: the given file, those that come with the package, the
    user's weights folder, the hub cache. The network is not used, see `weights.pull`.
    ``Backbone.source`` states which were found.

    Parameters
    ----------
    name : str, optional
        A key of `known_backbones`, or ``pixels1`` to ``pixels32`` (see `PixelBackbone`); by default
        `default_backbone`.
    weights : path, optional
        A Meta ``.pth``, or a safetensors file in timm's or transformers' layout.
    device : str or torch.device
        ``"auto"`` chooses CUDA, MPS or the CPU.
    layers : sequence of int, optional
        Blocks to read, counted from 1, instead of the backbone's own (see `BackboneSpec`); empty
        for the last one through the final norm.
    fuse : {"concat", "mean"}
        How several blocks are combined into one embedding.

    Raises
    ------
    InputError
        If the name is unknown, the backbone has no such blocks or too few to fuse, or this
        machine has no such device.
    WeightsError
        If no weights are found, or they are damaged or belong to another backbone.
    """
    name = name or default_backbone(weights)
    if name.startswith("pixels") and not layers:
        pixels = PixelBackbone(name, resolve_device(device))
        with_layers(pixels.spec, (), fuse)  # there are no blocks to fuse
        return pixels
    spec = spec_of(name)
    spec = with_layers(spec, spec.layers if layers is None else layers, fuse)
    found = find(spec, weights)
    return Backbone(
        spec,
        to_transformers(found.tensors, spec.family),
        source=found.source,
        device=resolve_device(device),
        rounding=found.rounding,
    )
