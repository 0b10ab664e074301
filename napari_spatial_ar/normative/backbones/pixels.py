"""Intensities in place of embeddings: how well a method works without a backbone.

Reference: the image-space ablation of Erdil et al. (Table 1), the same autoregressive network on
the image itself. ``pixels1`` makes every pixel a position with one channel; ``pixels8`` makes
squares of 8 x 8 pixels positions with 64 channels, 64 times cheaper. How the authors sampled
their images is not known here.

Cost: nothing to embed, but ``pixels1`` at 448 x 448 has 256 times the positions of a patch size of
16, so choose a smaller input, or a GPU.
"""

from __future__ import annotations

import hashlib
import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.fair_lock import FairLock
from napari_spatial_ar.normative.backbones.kept_tokens import KeptTokens
from napari_spatial_ar.normative.backbones.registry import BackboneSpec

__all__ = ["PixelBackbone"]

_LARGEST = 32


class PixelBackbone(Backbone):
    """A backbone without weights: the intensities of each patch.

    Parameters
    ----------
    name : str
        ``pixelsN``: squares of N x N pixels, N from 1 to 32.
    device : torch.device
        Where its grids are computed.

    Raises
    ------
    InputError
        If the name is not of this form.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        nn.Module.__init__(self)
        side = re.fullmatch(r"pixels([1-9]\d?)", name)
        if side is None or int(side.group(1)) > _LARGEST:
            raise InputError(
                f"there is no backbone '{name}'", fix="Choose from pixels1 to pixels32"
            )
        patch = int(side.group(1))
        self.spec = BackboneSpec(
            name=name, family="pixels", patch=patch, width=patch**2, licence="none", config={}
        )
        self.source = "none needed"
        self.device = device
        self.lock = FairLock()
        # In place of weights, a model file holds the hash of the rule itself.
        self.sha256 = hashlib.sha256(f"first channel, {name}".encode()).hexdigest()
        self.weights_sha256, self.rounded_to = self.sha256, ""

    @property
    def engine(self) -> str:
        """Return "none": there is nothing to compute."""
        return "float32"

    def use(self, engine: str) -> None:
        """Accept only the one engine; see `Backbone.use`."""
        if engine != self.engine:
            raise InputError(f"{self.spec.name} has nothing for an engine '{engine}' to compute")

    def move(self, device: torch.device) -> None:
        """Compute grids on another device from now on."""
        self.device = device

    def compute(self, images: Tensor, kept: KeptTokens | None = None) -> Tensor:
        """Embed like `embed`."""
        return self.embed(images, None if kept is None else kept.present)

    def compute_with(self, engine: str, images: Tensor, kept: KeptTokens | None = None) -> Tensor:
        """Embed like `embed`: there is only one engine."""
        self.use(engine)
        return self.compute(images, kept)

    @torch.inference_mode()
    def embed(self, images: Tensor, present: Tensor | None = None) -> Tensor:
        """Intensities of each patch in the first channel; shapes as in `Backbone.embed`."""
        self.check_images(images)
        grid = functional.pixel_unshuffle(images[:, :1].to(self.device).float(), self.patch)
        if present is None:
            return grid
        return grid.masked_fill(~present[:, None].to(self.device), torch.nan)
