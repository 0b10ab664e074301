"""Checkpoints of the paper's authors: what the file contains, and what has to be given.

Their code (E. Erdil et al., "Spatial Autoregressive Modeling of DINOv3 Embeddings for Unsupervised
Anomaly Detection") stores ``epoch``, ``model_state_dict``, ``val_loss`` and ``img_size``. The state
has ``net.{0,2,4,...}.{weight,bias}``, and a ``mask`` of the weight's shape for each convolution
that is masked: all of them with ``--mode causal``, only the first with ``--mode bidirectional``,
none with ``--mode standard``. Sizes and context are therefore in the file. Dilations, the backbone
and the kind of images are not; the name of the experiment's folder contains the first two:
``dinov3_vits16_brats_causal_ks3_dil4x4x4x4_seed42_ep40_img448_DATE/ckpt/model_best_val_loss.pth``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.backbones.registry import BACKBONES
from napari_spatial_ar.normative.detectors.ar_network import Context, Sees, SpatialAR

__all__ = [
    "ReferenceCheckpoint",
    "layer_dilations",
    "load_reference_checkpoint",
    "read_dilations",
    "read_reference_checkpoint",
]

_STATE = "model_state_dict"
_KEY = re.compile(r"net\.(0|[1-9]\d?)\.(weight|bias|mask)")
_EXPERIMENT = re.compile(r"_dil(?P<dilations>[1-9]\d*(?:x[1-9]\d*)*)_")
_LARGEST_SIZE = 2**16


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """The contents of a checkpoint.

    Parameters
    ----------
    path : Path
        The file.
    layers, channels, hidden, kernel : int
        Sizes of the network, see `SpatialAR`.
    context : {"causal", "bidirectional"}
        According to its masks.
    size : int or None
        Side in pixels that images were resized to, ``img_size``; None if it is missing.
    sha256 : str
        Hash of the file.
    epoch, val_loss : float or None
        As in the file; for the record.
    state : mapping of str to Tensor
        Weights and biases, (out, in, k, k) and (out,) float32.
    folder_dilations : tuple of int
        Dilations according to the name of the experiment's folder; empty if the name has another
        form. Folders can be renamed: use it as a suggestion only.
    folder_backbone : str
        Likewise the backbone.
        The same of the backbone.
    """

    path: Path
    layers: int
    channels: int
    hidden: int
    kernel: int
    context: Context
    size: int | None
    sha256: str
    epoch: float | None = None
    val_loss: float | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    folder_dilations: tuple[int, ...] = ()
    folder_backbone: str = ""

    def network(
        self, dilation: int | Sequence[int] | None, context: Context | None = None
    ) -> SpatialAR:
        """Build the network, in evaluation mode; see `load_reference_checkpoint`."""
        if context is not None and context != self.context:
            raise ModelFileError(
                f"its masks are those of a {self.context} network, not of a {context} one",
                path=self.path,
            )
        if dilation is None:
            raise InputError(
                "the checkpoint does not state its dilations",
                path=self.path,
                fix="Give those it was trained with: 4, 1, or a schedule such as 1-2-4-8",
            )
        each = layer_dilations(dilation, self.layers)
        model = SpatialAR(
            self.channels,
            self.hidden,
            self.layers,
            self.kernel,
            each[0] if len(set(each)) == 1 else each,
            self.context,
        )
        # Causal layers have the upper rows only; the rows below are masked in the original.
        own = {
            name: self.state[name][:, :, : tensor.shape[2]]
            if tensor.ndim == 4
            else self.state[name]
            for name, tensor in model.state_dict().items()
        }
        model.load_state_dict(own)
        return model.eval()


def layer_dilations(dilation: int | Sequence[int], layers: int) -> list[int]:
    """Dilation of each layer.

    Parameters
    ----------
    dilation : int or sequence of int
        One for all layers, one for each, or one fewer than there are layers, as in the authors'
        ``--dilation_schedule``: its last value applies to the last two layers.
    layers : int
        Number of layers.

    Raises
    ------
    InputError
        If their number does not match, or one is less than 1.
    """
    each = list(dilation) if isinstance(dilation, Sequence) else [dilation] * layers
    if any(type(number) is not int or number < 1 for number in each):
        raise InputError(f"dilations are whole numbers from 1, not {dilation!r}")
    if len(each) == layers - 1:
        each.append(each[-1])
    if len(each) != layers:
        raise InputError(
            f"{len(each)} dilations ({'-'.join(map(str, each))}) do not fit {layers} convolutions",
            fix=f"Give one for all, {layers}, or {layers - 1} as in the authors' dilation schedule",
        )
    return each


def read_dilations(text: str) -> int | list[int]:
    """Parse ``"4"``, ``"1-2-4-8"``, or the same with commas, x or spaces in place of hyphens.

    Raises
    ------
    InputError
        If it has another form.
    """
    numbers = re.split(r"\s*[-,x]\s*|\s+", text.strip())
    if not all(re.fullmatch(r"[1-9]\d{0,4}", number) for number in numbers):
        raise InputError(
            f"'{text}' are no dilations", fix="Write 4, or one for each convolution: 1-2-4-8"
        )
    found = [int(number) for number in numbers]
    return found[0] if len(found) == 1 else found


def load_reference_checkpoint(
    path: str | Path,
    *,
    dilation: int | Sequence[int] | None = None,
    context: Context | None = None,
) -> SpatialAR:
    """Import a checkpoint of the paper's authors.

    Parameters
    ----------
    path : path
        See `read_reference_checkpoint`.
    dilation : int or sequence of int
        Not in the file: 4 for the paper's dilated model, 1 for its standard one; or a schedule,
        see `layer_dilations`.
    context : {"causal", "bidirectional"}, optional
        Expected context; the file contains the actual one.

    Raises
    ------
    ModelFileError
        If the file is not such a checkpoint, or of another context.
    InputError
        If the dilation is missing, or does not match.
    """
    return read_reference_checkpoint(path).network(dilation, context)


def read_reference_checkpoint(path: str | Path) -> ReferenceCheckpoint:
    """Read and validate a checkpoint of the paper's authors.

    Parameters
    ----------
    path : path
        A ``.pth`` as written by their code. Read with ``weights_only=True``: nothing in it is
        executed.

    Raises
    ------
    ModelFileError
        If the file is no such checkpoint, or its network is not Spatial AR.
    """
    source = Path(path)
    try:
        return _read(source)
    except ModelFileError as error:
        raise ModelFileError(error.what, path=source, fix=error.fix) from error


def _read(source: Path) -> ReferenceCheckpoint:
    if not source.is_file():
        raise ModelFileError("there is no such checkpoint")
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
        digest = _sha256(source)
    except Exception as error:  # unpickling fails in many ways
        raise ModelFileError("not a complete checkpoint of plain tensors") from error
    state = loaded.get(_STATE) if isinstance(loaded, dict) else None
    if not isinstance(state, Mapping) or "net.0.weight" not in state:
        raise ModelFileError(
            f"it has no '{_STATE}' with 'net.0.weight', so it is not a checkpoint of the "
            "reference code"
        )
    weights, masks = _parts(state)
    first, *_, last = weights
    hidden, channels, kernel, _ = first.shape
    widths = [channels, *[hidden] * (len(weights) - 1), channels]
    if last.shape[0] != channels:
        raise ModelFileError(
            f"it predicts {last.shape[0]} channels from {channels}, but should predict as many"
        )
    for number, weight in enumerate(weights):
        wanted = (widths[number + 1], widths[number], kernel, kernel)
        if tuple(weight.shape) != wanted:
            raise ModelFileError(
                f"net.{2 * number}.weight is {_sides(weight.shape)}, not {_sides(wanted)}"
            )
    if kernel % 2 == 0 or kernel < 3:
        raise ModelFileError(f"the side of its kernels is {kernel}, but should be odd, from 3")
    dilations, backbone = _said_by_folder(source)
    return ReferenceCheckpoint(
        path=source,
        layers=len(weights),
        channels=channels,
        hidden=hidden,
        kernel=kernel,
        context=_context(masks, kernel),
        size=_size(loaded.get("img_size")),
        sha256=digest,
        epoch=_number(loaded.get("epoch")),
        val_loss=_number(loaded.get("val_loss")),
        state={name: tensor.float() for name, tensor in state.items()},
        folder_dilations=dilations,
        folder_backbone=backbone,
    )


def _parts(state: Mapping[Any, Any]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Weights and masks in the order of the layers, after checking that all keys are known."""
    for key, tensor in state.items():
        found = _KEY.fullmatch(key) if isinstance(key, str) else None
        if found is None or int(found.group(1)) % 2:
            raise ModelFileError(
                f"its '{_STATE}' has {str(key)[:80]!r}, which is no part of a Spatial AR network"
            )
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ModelFileError(f"{key} holds no floating-point numbers")
        if not tensor.isfinite().all():
            raise ModelFileError(f"{key} holds values that are not finite")
    numbers = sorted({int(key.split(".")[1]) for key in state})
    if numbers != list(range(0, 2 * len(numbers), 2)) or len(numbers) < 2:
        raise ModelFileError(f"its layers are {numbers}, but should be 0, 2, 4 and so on")
    weights, masks = [], []
    for number in numbers:
        weight, bias = (state.get(f"net.{number}.{part}") for part in ("weight", "bias"))
        mask = state.get(f"net.{number}.mask")
        if weight is None or bias is None:
            raise ModelFileError(f"it lacks net.{number}.{'weight' if weight is None else 'bias'}")
        if weight.ndim != 4:
            raise ModelFileError(
                f"net.{number}.weight is {_sides(weight.shape)}, not out x in x k x k"
            )
        if bias.shape != weight.shape[:1]:
            raise ModelFileError(
                f"net.{number}.bias is {_sides(bias.shape)}, not {weight.shape[0]}"
            )
        if mask is not None and mask.shape != weight.shape:
            raise ModelFileError(
                f"net.{number}.mask is {_sides(mask.shape)}, not {_sides(weight.shape)}"
            )
        weights.append(weight)
        masks.append(mask)
    return weights, masks


def _context(masks: Sequence[Tensor | None], kernel: int) -> Context:
    first, *rest = (_sees(mask, kernel) for mask in masks)
    if first == "A" and set(rest) == {"B"}:
        return "causal"
    if first == "hollow" and set(rest) == {"open"}:
        return "bidirectional"
    if {first, *rest} == {"open"}:
        raise ModelFileError(
            "it was trained with --mode standard: its convolutions have no masks, so the network "
            "sees the patch that it predicts, and its output is no likelihood",
            fix="Use a checkpoint of --mode causal or bidirectional",
        )
    raise ModelFileError(
        "its masks are neither those of a causal network nor those of a bidirectional one"
    )


def _sees(mask: Tensor | None, kernel: int) -> Sees | None:
    """Identify what a layer's mask lets it see; None for any other mask."""
    if mask is None:
        return "open"
    half = kernel // 2
    place = torch.arange(kernel * kernel).reshape(kernel, kernel)
    centre = half * kernel + half
    known: dict[Sees, Tensor] = {
        "A": place < centre,
        "B": place <= centre,
        "hollow": place != centre,
        "open": place >= 0,
    }
    for name, pattern in known.items():
        if torch.equal(mask, pattern.to(mask.dtype).expand_as(mask)):
            return name
    return None


def _size(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_SIZE:
        raise ModelFileError(f"its img_size is {str(value)[:40]}, but should be a number of pixels")
    return value


def _number(value: Any) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    return value if fits and math.isfinite(value) else None


def _said_by_folder(path: Path) -> tuple[tuple[int, ...], str]:
    for name in (parent.name for parent in path.absolute().parents[:3]):
        found = _EXPERIMENT.search(name)
        if found:
            # The longest match, since dinov3_vits16plus begins with dinov3_vits16.
            backbones = [known for known in BACKBONES if name.startswith(f"{known}_")]
            dilations = tuple(map(int, found["dilations"].split("x")))
            return dilations, max(backbones, key=len, default="")
    return (), ""


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
