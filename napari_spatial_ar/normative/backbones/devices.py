"""Where torch computes: the processor, an NVIDIA card, or the GPU of an Apple computer.

bfloat16 is fast on hardware that supports it; elsewhere it is emulated, several times slower than
float32. Scores are always computed in float32, so that they do not depend on the processor:
bfloat16 only preselects the rows of a bank for which a float32 product is computed (`nearest`).
docs/explanation/speed.md describes the engines and training in bfloat16, and what they change.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError

__all__ = ["VARIABLE", "bfloat16_products", "native_bfloat16", "resolve_device", "wait"]

#: Environment variable: ``on`` treats bfloat16 as fast whatever the processor, ``off`` never does.
VARIABLE = "NAPARI_SPATIAL_AR_BFLOAT16"


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware; `VARIABLE` overrides it for CPUs.

    Raises
    ------
    InputError
        If the variable is neither ``on`` nor ``off``.
    """
    forced = os.environ.get(VARIABLE, "")
    if forced not in ("", "on", "off"):
        raise InputError(f"the environment variable {VARIABLE} is 'on' or 'off', not '{forced}'")
    return forced == "on" if forced and device.type == "cpu" else _in_hardware(device)


def bfloat16_products(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of rows rounded to bfloat16, summed in float32.

    Parameters
    ----------
    left, right : (N, k) and (M, k) bfloat16

    Returns
    -------
    (N, M) bfloat16 if the hardware supports it, which rounds the sums once more; else float32
    """
    if _in_hardware(left.device):
        return left @ right.T
    # The product of two bfloat16 numbers is exact in float32. Torch's own emulation may sum in
    # bfloat16.
    return left.float() @ right.float().T


def _in_hardware(device: torch.device) -> bool:
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return device.type == "cuda"


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn ``"auto"`` into CUDA, Apple MPS or the CPU, in that order.

    By default, torch computes float32 convolutions on NVIDIA GPUs in TF32, with a mantissa of 10
    bits. This turns TF32 off for the whole process, so that scores match those of a CPU.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"``, or a device as torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises
    ------
    InputError
        If the device name is unknown, or this machine does not have the device.
    """
    if device == "auto":
        device = next(n for n in ("cuda", "mps", "cpu") if _is_here(n))
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"there is no device '{device}'", fix=_choices()) from error
    if not _is_here(found.type):
        raise InputError(f"this machine has no device '{device}' for torch", fix=_choices())
    if found.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return found


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished, so that its time is attributed to the work that caused it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _is_here(kind: str) -> bool:
    """Whether torch can compute on a device; kinds unknown to this package are assumed to work."""
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind != "mps" or torch.backends.mps.is_available()


def _choices() -> str:
    here = [name for name in ("cpu", "cuda", "mps") if _is_here(name)]
    return f"Choose: auto, {', '.join(here)}"
