"""Grey values in place of embeddings: what a method is worth without a backbone.

Reference: the image-space ablation of Erdil et al. (Table 1), the same autoregressive network on
the image itself. ``pixels1`` gives every pixel as a position with one channel; ``pixels8`` gives
squares of 8 x 8 pixels as positions with 64 channels, 64 times cheaper. How the authors sampled
their images is not known here.

Cost: nothing to embed; ``pixels1`` at 448 x 448 makes 256 times the positions of a patch of 16, so
choose a smaller size, or a GPU.
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
from napari_spatial_ar.normative.backbones.registry import BackboneSpec

__all__ = ["PixelBackbone"]

_LARGEST = 32


class PixelBackbone(Backbone):
    """A backbone without weights: each patch's own grey values.

    Parameters
    ----------
    name : str
        ``pixelsN``: squares of N x N pixels, N from 1 to 32.
    device : torch.device
        Where its grids are.

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
        self.turns = FairLock()
        # What stands for weights in a model file: the rule itself.
        self.sha256 = hashlib.sha256(f"first channel, {name}".encode()).hexdigest()
        self.weights_sha256, self.rounded_to = self.sha256, ""

    @property
    def engine(self) -> str:
        """There is nothing to compute."""
        return "float32"

    def use(self, engine: str) -> None:
        """There is one way only; see `Backbone.use`."""
        if engine != self.engine:
            raise InputError(f"{self.spec.name} has nothing for an engine '{engine}' to compute")

    def move(self, device: torch.device) -> None:
        """Give grids on another device from now on."""
        self.device = device

    def compute(self, images: Tensor) -> Tensor:
        """See `embed`."""
        return self.embed(images)

    def compute_with(self, engine: str, images: Tensor) -> Tensor:
        """See `embed`; there is one way only."""
        self.use(engine)
        return self.embed(images)

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """Grey values of each patch, see `Backbone.embed`; the first of three equal channels."""
        self.check_images(images)
        return functional.pixel_unshuffle(images[:, :1].to(self.device).float(), self.patch)
