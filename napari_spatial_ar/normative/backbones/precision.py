"""Where bfloat16 is fast: elsewhere it is emulated, several times slower than float32.

What scores is computed in float32 all the same, so that a score does not depend on the processor:
bfloat16 only says which rows of a bank are worth a float32 product (`methods.nearest`). Engines and
training that compute in bfloat16 are described in docs/speed.md, with what they change.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError

__all__ = ["VARIABLE", "bfloat16_products", "native_bfloat16"]

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
