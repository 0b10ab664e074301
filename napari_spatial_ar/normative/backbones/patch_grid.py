"""From the tokens of a vision transformer to a grid of patch embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.normative.backbones.registry import BackboneSpec

__all__ = ["PatchGrid"]


class PatchGrid(nn.Module):
    """One of transformers' models, with the grid of its patch tokens as its only output.

    Parameters
    ----------
    model : nn.Module
        A model of transformers.
    spec : BackboneSpec
        Which blocks are read, and how they make an embedding.
    """

    def __init__(self, model: nn.Module, spec: BackboneSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        # These two take images of one size only, unless told to interpolate positions.
        learned = spec.family in ("vit", "clip")
        self._options = {"interpolate_pos_encoding": True} if learned else {}

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float -> (B, D, Hp, Wp) float32; computed in the dtype of the weights."""
        spec = self.spec
        rows, columns = (n // spec.patch for n in images.shape[2:])
        out = self.model(
            pixel_values=images, output_hidden_states=bool(spec.layers), **self._options
        )
        if spec.layers:
            blocks = [
                functional.layer_norm(out.hidden_states[n].float(), (spec.width,), eps=1e-6)
                for n in spec.layers
            ]
            tokens = (
                torch.cat(blocks, dim=-1)
                if spec.fuse == "concat"
                else torch.stack(blocks).mean(dim=0)
            )
        else:
            tokens = out.last_hidden_state.float()
        # The class token and any registers come first.
        patches = tokens[:, -rows * columns :]
        return patches.transpose(1, 2).reshape(len(images), -1, rows, columns)
