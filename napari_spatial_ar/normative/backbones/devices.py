"""Where torch computes: the processor, an NVIDIA card, or the GPU of an Apple computer.

bfloat16 is fast where the hardware has it; elsewhere it is emulated, several times slower than
float32. Scores are computed in float32 all the same, so that they do not depend on the processor:
bfloat16 only selects the rows of a bank that are worth a float32 product (`nearest`). Engines and
training that compute in bfloat16 are described in docs/explanation/speed.md, with what they change.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError

__all__ = ["VARIABLE", "bfloat16_products", "native_bfloat16", "resolve_device", "wait"]

#: Environment variable: ``on`` takes bfloat16 for fast whatever the processor has, ``off`` never.
VARIABLE = "NAPARI_SPATIAL_AR_BFLOAT16"


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware; `VARIABLE` overrules a processor.

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
    (N, M) bfloat16 on hardware that has it, which rounds the sums once more; else float32
    """
    if _in_hardware(left.device):
        return left @ right.T
    # The product of two bfloat16 numbers is a float32 number. Torch's own emulation may sum in
    # bfloat16.
    return left.float() @ right.float().T


def _in_hardware(device: torch.device) -> bool:
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return device.type == "cuda"


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn ``"auto"`` into CUDA, Apple MPS or the CPU, in that order.

    On NVIDIA's cards, torch computes float32 convolutions in TF32, with 10 bits of mantissa, unless
    it is told not to. This tells it, for the whole process, so that scores are those of a CPU.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"``, or a device as torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises
    ------
    InputError
        If there is no such device, or this machine does not have it.
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
    """Let a GPU finish what it was told, so that its time is counted where it is spent."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _is_here(kind: str) -> bool:
    """Whether torch can compute there; of kinds that this package does not know, it is believed."""
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind != "mps" or torch.backends.mps.is_available()


def _choices() -> str:
    here = [name for name in ("cpu", "cuda", "mps") if _is_here(name)]
    return f"Choose: auto, {', '.join(here)}"
