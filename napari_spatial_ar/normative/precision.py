"""Where bfloat16 is fast: elsewhere it is emulated, several times slower than float32."""

from __future__ import annotations

import torch

__all__ = ["native_bfloat16"]


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return device.type == "cuda"
