"""Engines that compute a frozen backbone: the same weights, another precision or compiler.

================== ==========================================================================
float32            the weights as they are; every model is fitted and calibrated with it
bfloat16, float16  weights and products in half precision, if the device has it in hardware
compiled           float32 through torch.compile; needs a C++ compiler, and minutes for the first
                   slice
openvino           Intel's OpenVINO in float32, on any x86 or Arm processor (extra ``openvino``)
openvino-bfloat16  the same in bfloat16, if the processor has it
openvino-int8      the same with a third of the products in 8 bits, by NNCF (extra ``int8``)
================== ==========================================================================

`napari_spatial_ar.normative.backbones.fastest_engine` measures which is the fastest engine that
gives the same maps.

NNCF quantizes the products to 8 bits. It runs a few slices through the network to find the range of
its activations. That takes many seconds, so the result is cached on disk, under a name derived from
everything it depends on. A damaged file, or one from a version with another recipe, is generated
again; the files may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import io
import json
import logging
import shutil
import sys
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.imaging.samples import sample_volume
from napari_spatial_ar.imaging.windows import Window, apply_window, resolve
from napari_spatial_ar.normative.backbones.devices import native_bfloat16
from napari_spatial_ar.normative.backbones.kept_tokens import KeptTokens
from napari_spatial_ar.normative.backbones.weight_files import content_sha256
from napari_spatial_ar.normative.cancellation import check_cancelled
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.paths import quantized_dir

__all__ = [
    "ENGINES",
    "Engine",
    "available",
    "build",
    "check",
    "convert",
    "disable_telemetry",
    "quantized",
]

# Increment when the quantized products or the slices used for calibration change.
_RECIPE = 1


_SLICES = 6


_KEPT = 8


_SHA256 = "sha256"


_WORDS = ("xml", "bin")


# The first product of each MLP, by its name in transformers' ViTs. Quantizing anything else, above
# all what follows an activation or belongs to attention, changes the maps
# (docs/explanation/speed.md).
_QUANTIZED = (".mlp.fc1/", ".mlp.up_proj/", ".mlp.gate_proj/")


_PRODUCTS = ("MatMul", "Convolution", "GroupConvolution", "ScaledDotProductAttention")


def disable_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting their use: nothing leaves this machine.

    Call this before importing either. Both report to a web service unless a file in the user's
    home directory forbids it; both work without the reporting package if it cannot be imported.
    """
    loaded = sys.modules.get("openvino_telemetry")
    if loaded is None:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        return
    # Another plugin may have imported it before.
    for name in ("send_event", "send_error", "send_stack_trace", "start_session", "end_session"):
        setattr(loaded.Telemetry, name, _say_nothing)


def _say_nothing(*_: object, **__: object) -> None:
    """Stand-in for the class that would report."""


def convert(network: nn.Module, shape: Sequence[int], *, skips: bool = False) -> Any:
    """Trace a network for images of one shape.

    Parameters
    ----------
    network : nn.Module
        On the CPU, in float32.
    shape : (B, 3, H, W)
        Shape of its images.
    skips : bool
        Whether its second input is the patches to keep, any number of them.

    Returns
    -------
    openvino.Model
    """
    disable_telemetry()
    import openvino

    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        # Tracing warns of shapes that become constants, which is intended here.
        warnings.simplefilter("ignore")
        images, sizes = torch.zeros(*shape), [tuple(shape)]
        if not skips:
            return openvino.convert_model(network, example_input=images, input=sizes)
        both = images, torch.arange(2).expand(shape[0], -1)
        return openvino.convert_model(
            network, example_input=both, input=[*sizes, (int(shape[0]), -1)]
        )


def quantized(network: nn.Module, shape: tuple[int, ...], *, skips: bool = False) -> Any:
    """Return a network with 8-bit first products in its MLPs; built once, then read from disk.

    Parameters
    ----------
    network : PatchGrid
        On the CPU, in float32.
    shape : (1, 3, H, W)
        Shape of its images.
    skips : bool
        As for `convert`.

    Returns
    -------
    openvino.Model

    Raises
    ------
    Cancelled
        If this thread was cancelled, see `napari_spatial_ar.normative.cancellation`.
    """
    path = quantized_dir() / f"{_key(network, shape, skips)}.safetensors"
    model = _read(path)
    if model is None:
        patch = cast(Any, network).spec.patch if skips else 0
        slices = _slices(shape, patch)
        model = _quantize(convert(network, shape, skips=skips), slices)
        check_cancelled()
        with suppress(StorageError):
            _write(model, path)
    return model


def _key(network: nn.Module, shape: tuple[int, ...], skips: bool) -> str:
    """Hash everything that the quantized network depends on."""
    parts = [
        _RECIPE,
        content_sha256(network.state_dict()),
        repr(getattr(network, "spec", type(network).__name__)),
        shape,
        [version(name) for name in ("openvino", "nncf", "torch", "transformers")],
        *(["skips"] if skips else []),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _slices(shape: tuple[int, ...], patch: int) -> list[Any]:
    """Slices of the sample scan, other than those on which engines are compared.

    With a ``patch`` (its side), each is paired with the index of the patches kept of it.
    """
    volume = sample_volume()
    window = Window("percentile", 1.0, 99.0)
    preprocessing = Preprocessing(window, (shape[2], shape[3]), skip_air=bool(patch))
    limits = resolve(window, volume)
    count = volume.geometry.slice_count
    chosen = (count * (2 * n + 2 * _SLICES + 1) // (6 * _SLICES) for n in range(_SLICES))
    found: list[Any] = []
    for index in chosen:
        unit = apply_window(volume.slice(index), *limits)
        image, present = preprocessing(unit)[None].numpy(), preprocessing.present(unit, patch)
        found.append(
            image if present is None else (image, KeptTokens.of(present[None]).index.numpy())
        )
    return found


def _quantize(model: Any, images: Sequence[Any]) -> Any:
    disable_telemetry()
    with (
        warnings.catch_warnings(),
        # NNCF draws progress bars, and there may be no terminal.
        contextlib.redirect_stdout(io.StringIO()),
        torch.inference_mode(False),
    ):
        warnings.simplefilter("ignore")
        import nncf

        nncf.set_log_level(logging.ERROR)
        left = [
            op.get_friendly_name()
            for op in model.get_ops()
            if op.get_type_name() in _PRODUCTS
            and not any(name in op.get_friendly_name() for name in _QUANTIZED)
        ]
        check_cancelled()
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=left),
        )


def _write(model: Any, path: Path) -> None:
    """Cache a model as one file; if the cache is full, delete the least recently used one."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "model.xml")
        openvino.save_model(model, written, compress_to_fp16=False)
        parts = {n: np.fromfile(written.with_suffix(f".{n}"), np.uint8) for n in _WORDS}
    atomic_write_bytes(path, save(parts, metadata={_SHA256: _digest(parts)}))
    kept = sorted(path.parent.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
    for old in kept[:-_KEPT]:
        with suppress(OSError):
            old.unlink()


def _read(path: Path) -> Any:
    """Read a cached model; None if there is none, or if the file was altered."""
    try:
        with safe_open(path, framework="numpy") as stored:
            stated = (stored.metadata() or {}).get(_SHA256)
            parts = {name: stored.get_tensor(name) for name in _WORDS}
    except (OSError, SafetensorError):
        return None
    if stated != _digest(parts):
        return None
    disable_telemetry()
    import openvino

    try:
        return openvino.Core().read_model(parts["xml"].tobytes(), openvino.Tensor(parts["bin"]))
    except RuntimeError:
        return None


def _digest(parts: dict[str, npt.NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for name in _WORDS:
        digest.update(parts[name].tobytes())
    return digest.hexdigest()


class Engine(ABC):
    """Computes the embedding grids of a backbone.

    Parameters
    ----------
    network : PatchGrid
        The network in float32, on `device`; not changed.
    device : torch.device
        Where it runs.
    """

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, network: nn.Module, device: torch.device) -> None: ...

    @classmethod
    @abstractmethod
    def why_not(cls, device: torch.device) -> str:
        """Why the engine is unavailable on a device, as a clause; "" if it is available."""

    @abstractmethod
    def __call__(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Compute `PatchGrid.forward` on the device."""


class Float32(Engine):
    """The network in float32, as it is."""

    name = "float32"

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        del device
        self.network = network

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Return "": float32 is available everywhere."""
        del device
        return ""

    def __call__(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Run the network itself."""
        grid: Tensor = self.network(images, kept)
        return grid


class _Half(Engine):
    """Weights and activations in half precision; torch keeps norms and softmax in float32."""

    dtype: ClassVar[torch.dtype]

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        del device
        self.network = copy.deepcopy(network).to(self.dtype)

    def __call__(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Run the copy in half precision; the grids are returned in float32."""
        grid: Tensor = self.network(images.to(self.dtype), kept)
        return grid


class BFloat16(_Half):
    """Half precision with the exponent range of float32."""

    name = "bfloat16"
    dtype = torch.bfloat16

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Report a device that only emulates bfloat16, which is several times slower."""
        return "" if native_bfloat16(device) else "the device does not have it in hardware"


class Float16(_Half):
    """Half precision with 10 bits of mantissa, for GPUs."""

    name = "float16"
    dtype = torch.float16

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Report a CPU: it would convert float16 to float32 and back."""
        return "it is for GPUs" if device.type == "cpu" else ""


class Compiled(Engine):
    """torch.compile."""

    name = "compiled"

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        del device
        self.network = torch.compile(network, dynamic=False)

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Report a missing compiler."""
        if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            return "there is no C++ compiler"
        if device.type not in ("cpu", "cuda"):
            return "it is for CPUs and NVIDIA GPUs"
        if device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        return ""

    def __call__(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Run the compiled network."""
        if kept is None:
            whole: Tensor = self.network(images)
            return whole
        # One network for any number of patches: compiling takes minutes.
        kept = kept.clone()
        torch._dynamo.mark_dynamic(kept, 1)
        grid: Tensor = self.network(images, kept)
        return grid


class OpenVino(Engine):
    """OpenVINO, with one compiled network for each input shape."""

    name = "openvino"
    precision: ClassVar[str] = "f32"

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        del device
        self.network = network
        self._requests: dict[tuple[tuple[int, ...], bool], Any] = {}

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Report a missing package, or a device other than a CPU."""
        if device.type != "cpu":
            return "it is for CPUs"
        return "" if importlib.util.find_spec("openvino") else "the extra 'openvino' is missing"

    def __call__(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Compile for the shape of the images if necessary, and run."""
        key = tuple(images.shape), kept is not None
        if key not in self._requests:
            self._requests[key] = self._compile(*key)
        given = [images, *([] if kept is None else [kept])]
        result = self._requests[key].infer(
            [tensor.contiguous().numpy() for tensor in given], share_inputs=True
        )
        # The request overwrites its own output the next time it runs.
        return torch.from_numpy(result[0].copy())

    def _compile(self, shape: tuple[int, ...], skips: bool) -> Any:
        disable_telemetry()
        import openvino

        model = self._model(shape, skips)
        options = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        return openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def _model(self, shape: tuple[int, ...], skips: bool) -> Any:
        return convert(self.network, shape, skips=skips)


class OpenVinoBFloat16(OpenVino):
    """OpenVINO in bfloat16."""

    name = "openvino-bfloat16"
    precision = "bf16"

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Report whichever is missing: OpenVINO, or bfloat16 in hardware."""
        return super().why_not(device) or BFloat16.why_not(device)


class OpenVinoInt8(OpenVino):
    """OpenVINO in 8 bits, image by image, since building a network takes seconds per shape."""

    name = "openvino-int8"

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Report whichever is missing: OpenVINO or NNCF."""
        reason = super().why_not(device)
        if reason or importlib.util.find_spec("nncf"):
            return reason
        return "nncf is missing; 'pip install \"napari-spatial-ar[int8]\"' installs it"

    def __call__(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Embed images one by one."""
        one_by_one = torch.split(images, 1)
        few = [None] * len(images) if kept is None else torch.split(kept, 1)
        pairs = zip(one_by_one, few, strict=True)
        return torch.cat([super(OpenVinoInt8, self).__call__(*pair) for pair in pairs])

    def _model(self, shape: tuple[int, ...], skips: bool) -> Any:
        return quantized(self.network, shape, skips=skips)


ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (Float32, BFloat16, Float16, Compiled, OpenVino, OpenVinoBFloat16, OpenVinoInt8)
}


def available(device: torch.device) -> tuple[str, ...]:
    """Names of the engines available on a device, float32 first."""
    return tuple(name for name, engine in ENGINES.items() if not engine.why_not(device))


def check(name: str, device: torch.device) -> None:
    """Check that an engine exists and is available on a device.

    Raises
    ------
    InputError
        If not.
    """
    if name not in ENGINES:
        raise InputError(f"there is no engine '{name}'", fix=f"Choose: {', '.join(ENGINES)}")
    reason = ENGINES[name].why_not(device)
    if reason:
        raise InputError(
            f"the engine '{name}' cannot run on the device '{device}': {reason}",
            fix=f"Choose: {', '.join(available(device))}",
        )


def build(name: str, network: nn.Module, device: torch.device) -> Engine:
    """Create an engine.

    Parameters
    ----------
    name : str
        A key of `ENGINES`.
    network, device
        See `Engine`.

    Raises
    ------
    InputError
        If there is no such engine, or it is not available on this device.
    """
    check(name, device)
    return ENGINES[name](network, device)
