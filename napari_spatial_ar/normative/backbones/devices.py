"""Where torch computes: the processor, one of NVIDIA's cards, or the GPU of an Apple computer."""

from __future__ import annotations

import torch

from napari_spatial_ar.errors import InputError

__all__ = ["resolve_device", "wait"]


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
