"""Frozen vision transformers that turn slices into grids of patch embeddings."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import filterfalse
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.errors import InputError, WeightsError
from napari_spatial_ar.normative.backbones import engines
from napari_spatial_ar.normative.backbones.fair_lock import FairLock
from napari_spatial_ar.normative.backbones.kept_tokens import KeptTokens, same_length
from napari_spatial_ar.normative.backbones.registry import BackboneSpec
from napari_spatial_ar.normative.backbones.weight_files import (
    Rounding,
    content_sha256,
    is_final_norm,
    is_used,
)
from napari_spatial_ar.normative.cancellation import check_cancelled
from napari_spatial_ar.normative.memory import Portions

__all__ = ["Backbone", "PatchGrid", "weights_bytes"]


_QV_BIAS = re.compile(r"\.[qv]_proj\.bias$")


class PatchGrid(nn.Module):
    """A transformers model whose only output is the grid of its patch tokens.

    Parameters
    ----------
    model : nn.Module
        The transformers model.
    spec : BackboneSpec
        Which blocks are read, and how they form an embedding.
    """

    def __init__(self, model: nn.Module, spec: BackboneSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        # These two accept images of one size only, unless asked to interpolate positions.
        learned = spec.family in ("vit", "clip")
        self._options = {"interpolate_pos_encoding": True} if learned else {}
        self._kept: Tensor | None = None
        for name, module in model.named_modules():
            if name.endswith("rope_embeddings"):
                module.register_forward_hook(self._keep_positions)
            elif re.search(r"(^|\.)embeddings$", name):
                module.register_forward_hook(self._keep_tokens)

    @property
    def skips_tokens(self) -> bool:
        """Whether patches can be skipped: a convolutional network needs them all."""
        return self.spec.family != "dinov3_convnext"

    def _keep_tokens(self, module: nn.Module, given: Any, tokens: Tensor) -> Tensor | None:
        """Drop patches after positions are added; class token and registers stay."""
        if self._kept is None:
            return None
        patches = (given[0].shape[2] // self.spec.patch) * (given[0].shape[3] // self.spec.patch)
        first = tokens.shape[1] - patches
        index = (self._kept + first)[..., None].expand(-1, -1, tokens.shape[2])
        return torch.cat([tokens[:, :first], tokens.gather(1, index)], dim=1)

    def _keep_positions(
        self, module: nn.Module, given: Any, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Drop the rotary positions of the same patches: (N, d) -> (B, 1, L, d), twice."""
        if self._kept is None:
            return None
        cos, sin = angles
        return cos[self._kept][:, None], sin[self._kept][:, None]

    def forward(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Embed images, computed in the dtype of the weights.

        Parameters
        ----------
        images : (B, 3, H, W) float
            Normalised.
        kept : (B, L) int64, optional
            Raster indices of the patches that go through the blocks; all by default.

        Returns
        -------
        (B, D, Hp, Wp) float32, or (B, L, D) float32 of the patches kept
        """
        spec = self.spec
        rows, columns = (n // spec.patch for n in images.shape[2:])
        self._kept = kept
        try:
            out = self.model(
                pixel_values=images, output_hidden_states=bool(spec.layers), **self._options
            )
        finally:
            self._kept = None
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
        if kept is not None:
            return tokens[:, -kept.shape[1] :]
        patches = tokens[:, -rows * columns :]
        return patches.transpose(1, 2).reshape(len(images), -1, rows, columns)


class Backbone(nn.Module):
    """A frozen backbone ready to embed images.

    Built by `load_backbone`; weights never train and the module stays in evaluation mode.

    Parameters
    ----------
    spec : BackboneSpec
        Which backbone.
    state : dict of str to Tensor
        Weights under transformers' names.
    source : str
        Where the weights came from, to be shown to the user.
    device : torch.device
        Where it runs.
    rounding : Rounding, optional
        Describes the original weights, if these are a rounded copy.

    Raises
    ------
    WeightsError
        If weights are missing, of another size, or not the pinned ones.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        state: dict[str, Tensor],
        *,
        source: str,
        device: torch.device,
        rounding: Rounding | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.source = source
        self.device = device
        #: Held by a thread while it computes a slice or a batch: engines overwrite their own
        #: buffers, and may be built, exchanged or moved only between batches.
        self.lock = FairLock()
        depth = max(spec.layers, default=0)
        state = {name: t for name, t in state.items() if is_used(name, depth)}
        #: The dtype the weights were rounded to, such as "float16"; "" if they are as published.
        self.rounded_to = rounding.dtype if rounding else ""
        #: Hash of the weights used for computation.
        self.weights_sha256 = content_sha256(state)
        #: Hash that identifies the weights in models; for rounded weights, that of the originals.
        self.sha256 = self.weights_sha256
        if rounding is not None:
            self.sha256 = rounding.originals.get(self.weights_sha256, "")
        if not self.sha256 or self.sha256 != (spec.pinned_sha256 or self.sha256):
            raise WeightsError(
                f"the weights are not those of {spec.name} (sha256 {self.weights_sha256[:12]}...)",
                path=source,
                fix="Install napari-spatial-ar again"
                if rounding
                else f"Delete the file and run 'napari-spatial-ar weights "
                f"{'add' if spec.own else 'pull'}' again",
            )
        model = _build(spec, depth)
        _load_state(model, state, spec, source)
        # A large backbone takes seconds for a slice, so check for cancellation between blocks.
        for module in list(model.modules()):
            if isinstance(module, nn.ModuleList):
                for block in module:
                    block.register_forward_pre_hook(_check_cancelled)
        self.network = PatchGrid(model, spec)
        self.network.eval().requires_grad_(False).to(device)
        self._engines = {"float32": engines.build("float32", self.network, device)}
        self._engine = self._engines["float32"]

    @property
    def channels(self) -> int:
        """D, channels of an embedding."""
        return self.spec.channels

    @property
    def patch(self) -> int:
        """Side of a patch, in pixels."""
        return self.spec.patch

    @property
    def weights_record(self) -> dict[str, Any]:
        """Which weights are used, for the record: no paths, which may contain a person's name."""
        return {
            "embedded": bool(self.rounded_to),
            "rounded_to": self.rounded_to or None,
            "sha256": self.weights_sha256,
        }

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: the backbone is frozen."""
        return super().train(False)

    @torch.inference_mode()
    def embed(self, images: Tensor, present: Tensor | None = None) -> Tensor:
        """Patch embeddings of normalised images.

        Parameters
        ----------
        images : (B, 3, H, W) float32
            Normalised as the backbone was trained; H and W multiples of the patch.
        present : (B, H / patch, W / patch) bool, optional
            Patches with body, see `Preprocessing.present`. The others are left out of the
            transformer, and attention does not see them; by default none is.

        Returns
        -------
        (B, D, H / patch, W / patch) float32
            NaN where a patch is left out.

        Raises
        ------
        InputError
            If the shape is invalid.
        MemoryShortage
            If memory does not suffice for a single image. If it suffices for one but not for all,
            they are embedded in smaller batches.
        """
        self.check_images(images)
        if present is None:
            return self._in_portions(images, None)
        places = list(same_length(present))
        grids = [self._in_portions(images[some], present[some]) for some in places]
        return torch.cat(grids)[torch.cat(places).argsort().to(grids[0].device)]

    def _in_portions(self, images: Tensor, present: Tensor | None) -> Tensor:
        def embedded(size: int) -> Tensor:
            parts = torch.split(images, size)
            if present is None:
                return torch.cat([self.compute(part) for part in parts])
            kept = [KeptTokens.of(part) for part in torch.split(present, size)]
            return torch.cat([self.compute(*both) for both in zip(parts, kept, strict=True)])

        return self.portions(len(images), self.device, embedded)

    def compute(self, images: Tensor, kept: KeptTokens | None = None) -> Tensor:
        """Embed all images in one batch; torch's own errors are raised if memory runs short."""
        self.check_images(images)
        with self.lock.held():
            return self._computed(self._engine, images, kept)

    def compute_with(self, engine: str, images: Tensor, kept: KeptTokens | None = None) -> Tensor:
        """Embed like `compute` but with another engine, for comparison (raises like `use`)."""
        self.check_images(images)
        with self.lock.held():
            return self._computed(self._built(engine), images, kept)

    def _computed(self, engine: engines.Engine, images: Tensor, kept: KeptTokens | None) -> Tensor:
        images = images.to(self.device)
        if kept is None:
            return engine(images)
        kept = kept.to(self.device)
        if self.network.skips_tokens:
            return kept.grid(engine(images, kept.index))
        return engine(images).masked_fill(~kept.present[:, None], torch.nan)

    @cached_property
    def portions(self) -> Portions:
        """Batch sizes that fit into memory."""
        return Portions(f"Embedding with {self.spec.name}")

    @property
    def engine(self) -> str:
        """Name of the engine, see `napari_spatial_ar.normative.backbones.engines`."""
        return self._engine.name

    def use(self, engine: str) -> None:
        """Switch to another engine; engines built before are cached.

        Parameters
        ----------
        engine : str
            See `napari_spatial_ar.normative.backbones.engines`.

        Raises
        ------
        InputError
            If the engine is not available on this device.
        """
        with self.lock.held():
            self._engine = self._built(engine)

    def _built(self, engine: str) -> engines.Engine:
        if engine not in self._engines:
            self._engines[engine] = engines.build(engine, self.network, self.device)
        return self._engines[engine]

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Compute in float32 within a block (one slice), holding the backbone exclusively."""
        with self.lock.held():
            had = self.engine
            self.use("float32")
            try:
                yield
            finally:
                self.use(had)

    def move(self, device: torch.device) -> None:
        """Run on another device from now on."""
        with self.lock.held():
            self.to(device)
            self.device = device
            self._engines = {"float32": engines.build("float32", self.network, device)}
            self._engine = self._engines["float32"]
            # Memory limits found on the old device do not apply to the new one.
            self.__dict__.pop("portions", None)

    def check_images(self, images: Tensor) -> tuple[int, int]:
        """Return Hp and Wp of the grid of these images, or raise as documented in `embed`."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images must be (B, 3, H, W), not {tuple(images.shape)}")
        rows, columns = (n // self.patch for n in images.shape[2:])
        if (rows * self.patch, columns * self.patch) != tuple(images.shape[2:]) or not rows:
            raise InputError(
                f"an image of {images.shape[2]} x {images.shape[3]} pixels does not divide into "
                f"patches of {self.patch}",
                fix=f"Choose an input size that is a multiple of {self.patch}",
            )
        return rows, columns


def _check_cancelled(*_: object) -> None:
    # Compiled code cannot be interrupted between blocks.
    if not torch.compiler.is_compiling():
        check_cancelled()


def _keep_triton_out() -> None:
    """Keep transformers from importing triton if there is no CUDA device to use it.

    triton bundles its own LLVM. If napari draws with Mesa's software OpenGL, which has loaded
    another LLVM, importing triton ends the process with a segmentation fault.
    """
    if not torch.cuda.is_available():
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


def _build(spec: BackboneSpec, depth: int) -> nn.Module:
    _keep_triton_out()
    # transformers takes seconds to import, so import it only when a backbone is built.
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        DINOv3ConvNextConfig,
        DINOv3ConvNextModel,
        DINOv3ViTConfig,
        DINOv3ViTModel,
        ViTConfig,
        ViTModel,
    )

    config = dict(spec.config)
    if depth:
        config["num_hidden_layers"] = depth
    if spec.family == "dinov3_vit":
        return cast(nn.Module, DINOv3ViTModel(DINOv3ViTConfig(**config)))
    if spec.family == "dinov3_convnext":
        return cast(nn.Module, DINOv3ConvNextModel(DINOv3ConvNextConfig(**config)))
    if spec.family == "vit":
        return cast(nn.Module, ViTModel(ViTConfig(**config), add_pooling_layer=False))
    if spec.family == "clip":
        return cast(nn.Module, CLIPVisionModel(CLIPVisionConfig(**config)))
    if "num_register_tokens" in config:
        return cast(nn.Module, Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**config)))
    return cast(nn.Module, Dinov2Model(Dinov2Config(**config)))


def weights_bytes(spec: BackboneSpec) -> int:
    """Approximate size of a backbone's weights in bytes as float32, without building it."""
    with torch.device("meta"):
        return sum(4 * tensor.numel() for tensor in _build(spec, 0).parameters())


def _load_state(
    model: nn.Module, state: dict[str, Tensor], spec: BackboneSpec, source: str
) -> None:
    expected = {name: t.shape for name, t in model.state_dict().items()}
    needed = {n for n in expected if not n.endswith("mask_token")}
    if spec.layers:
        needed = set(filterfalse(is_final_norm, needed))
    if spec.family == "dinov3_vit":
        # Zeros in place of biases that the backbone does not have.
        state = {n: t for n, t in state.items() if n in expected or not _QV_BIAS.search(n)}
    missing = sorted(needed - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    resized = sorted(n for n in state.keys() & expected.keys() if state[n].shape != expected[n])
    for names, words in (
        (missing, "lacks"),
        (unknown, "contains the unexpected"),
        (resized, "has another size for"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(
                f"not weights of {spec.name}: the file {words} {names[0]}{more}",
                path=source,
                fix="Check the backbone's name and the file",
            )
    model.load_state_dict(state, strict=False)
