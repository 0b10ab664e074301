"""Ways to compute a frozen backbone: the same weights, in other arithmetic or by another compiler.

================== ==========================================================================
float32            as the weights are; what every model is fitted and calibrated with
bfloat16, float16  weights and products of half the width, where the device has them in hardware
compiled           float32 through torch.compile; needs a C++ compiler and minutes for the first
                   slice
openvino           Intel's OpenVINO in float32, on any x86 or Arm processor (extra ``openvino``)
openvino-bfloat16  the same in bfloat16, where the processor has it
openvino-int8      the same with a third of the products in 8 bits, by NNCF (extra ``int8``)
================== ==========================================================================

Which is the fastest that gives the same maps is measured: see
`napari_spatial_ar.normative.backbones.fastest_engine`.
"""

from __future__ import annotations

import copy
import importlib.util
import shutil
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones import openvino_models
from napari_spatial_ar.normative.backbones.precision import native_bfloat16

__all__ = ["ENGINES", "Engine", "available", "build", "check"]


class Engine(ABC):
    """Something that computes the grids of a backbone.

    Parameters
    ----------
    network : PatchGrid
        The network in float32, where it is to run; not changed.
    device : torch.device
        Where that is.
    """

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, network: nn.Module, device: torch.device) -> None: ...

    @classmethod
    @abstractmethod
    def why_not(cls, device: torch.device) -> str:
        """Why it cannot be had on a device, as a clause; "" where it can."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 -> (B, D, Hp, Wp) float32, both on the device."""


class Float32(Engine):
    """The network as it is."""

    name = "float32"

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        del device
        self.network = network

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Give ""."""
        del device
        return ""

    def __call__(self, images: Tensor) -> Tensor:
        """See `Engine`."""
        grid: Tensor = self.network(images)
        return grid


class _Half(Engine):
    """Weights and activations of half the width; norms and softmax are float32 inside torch."""

    dtype: ClassVar[torch.dtype]

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        del device
        self.network = copy.deepcopy(network).to(self.dtype)

    def __call__(self, images: Tensor) -> Tensor:
        """See `Engine`."""
        grid: Tensor = self.network(images.to(self.dtype))
        return grid


class BFloat16(_Half):
    """See `Engine`."""

    name = "bfloat16"
    dtype = torch.bfloat16

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Say where it is emulated, which is several times slower."""
        return "" if native_bfloat16(device) else "the device does not have it in hardware"


class Float16(_Half):
    """See `Engine`."""

    name = "float16"
    dtype = torch.float16

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Leave it to graphics cards: processors convert it to float32 and back."""
        return "it is for graphics cards" if device.type == "cpu" else ""


class Compiled(Engine):
    """torch.compile."""

    name = "compiled"

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        del device
        self.network = torch.compile(network, dynamic=False)

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Say where there is nothing to compile with."""
        if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            return "there is no C++ compiler"
        if device.type not in ("cpu", "cuda"):
            return "it is for processors and NVIDIA's cards"
        if device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        return ""

    def __call__(self, images: Tensor) -> Tensor:
        """See `Engine`."""
        grid: Tensor = self.network(images)
        return grid


class OpenVino(Engine):
    """OpenVINO, one compiled network for each shape of images that it meets."""

    name = "openvino"
    precision: ClassVar[str] = "f32"

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        del device
        self.network = network
        self._requests: dict[tuple[int, ...], Any] = {}

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Say where it is not installed; it is for processors."""
        if device.type != "cpu":
            return "it is for processors"
        return "" if importlib.util.find_spec("openvino") else "the extra 'openvino' is missing"

    def __call__(self, images: Tensor) -> Tensor:
        """See `Engine`."""
        shape = tuple(images.shape)
        if shape not in self._requests:
            self._requests[shape] = self._compile(images)
        result = self._requests[shape].infer([images.contiguous().numpy()], share_inputs=True)
        # The request writes over its own output when it is asked again.
        return torch.from_numpy(result[0].copy())

    def _compile(self, images: Tensor) -> Any:
        openvino_models.keep_silent()
        import openvino

        model = self._model(tuple(images.shape))
        options = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        return openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def _model(self, shape: tuple[int, ...]) -> Any:
        return openvino_models.convert(self.network, shape)


class OpenVinoBFloat16(OpenVino):
    """See `OpenVino`."""

    name = "openvino-bfloat16"
    precision = "bf16"

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Say what is missing of the two."""
        return super().why_not(device) or BFloat16.why_not(device)


class OpenVinoInt8(OpenVino):
    """See `OpenVino`; images go one by one, as each shape takes many seconds to be made."""

    name = "openvino-int8"

    @classmethod
    def why_not(cls, device: torch.device) -> str:
        """Say what is missing of the two."""
        reason = super().why_not(device)
        if reason or importlib.util.find_spec("nncf"):
            return reason
        return "nncf is missing, which 'pip install \"napari-spatial-ar[int8]\"' brings"

    def __call__(self, images: Tensor) -> Tensor:
        """See `Engine`."""
        return torch.cat(
            [super(OpenVinoInt8, self).__call__(one) for one in torch.split(images, 1)]
        )

    def _model(self, shape: tuple[int, ...]) -> Any:
        return openvino_models.quantized(self.network, shape)


ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (Float32, BFloat16, Float16, Compiled, OpenVino, OpenVinoBFloat16, OpenVinoInt8)
}


def available(device: torch.device) -> tuple[str, ...]:
    """Names of the engines that a device can run, float32 first."""
    return tuple(name for name, engine in ENGINES.items() if not engine.why_not(device))


def check(name: str, device: torch.device) -> None:
    """See that there is an engine of this name, on this device.

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
    """Make an engine.

    Parameters
    ----------
    name : str
        A key of `ENGINES`.
    network, device
        See `Engine`.

    Raises
    ------
    InputError
        If there is no such engine, or not on this device.
    """
    check(name, device)
    return ENGINES[name](network, device)
