"""Tensors and networks out of a model file, which comes from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from napari_spatial_ar.errors import ModelFileError

__all__ = ["BANK", "loaded", "take"]

M = TypeVar("M", bound=nn.Module)
#: What banks of patches are kept in.
BANK = (torch.float16, torch.float32)


def take(
    tensors: Mapping[str, Tensor],
    name: str,
    *shape: int | None,
    kinds: tuple[torch.dtype, ...] = (torch.float32,),
) -> Tensor:
    """Tensor of a name, contiguous.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Those of the file.
    name : str
        Its name.
    *shape : int or None
        Its shape; None stands for any length of at least 1.
    kinds : tuple of torch.dtype
        What it may hold.

    Raises
    ------
    ModelFileError
        If it is not there, or another one.
    """
    found = tensors.get(name)
    wanted = " x ".join("N" if side is None else str(side) for side in shape)
    if found is None:
        raise ModelFileError(f"it lacks its '{name}', of {wanted}")
    fits = found.ndim == len(shape) and found.dtype in kinds
    if not fits or any(
        side < 1 if wish is None else side != wish
        for side, wish in zip(found.shape, shape, strict=True)
    ):
        sides = " x ".join(map(str, found.shape))
        raise ModelFileError(
            f"its '{name}' is {found.dtype} of {sides}, not {kinds[0]} of {wanted}"
        )
    return found.contiguous()


def loaded(make: Callable[[], M], state: Mapping[str, Tensor]) -> M:
    """Network with weights, once it is seen to be of the weights' size.

    Parameters
    ----------
    make : callable
        Makes the network. It is first called where tensors take no memory.
    state : mapping of str to Tensor
        The weights.

    Raises
    ------
    ModelFileError
        If they are those of another network.
    InputError
        As ``make``.
    """
    with torch.device("meta"):
        expected = {name: (t.shape, t.dtype) for name, t in make().state_dict().items()}
    if expected != {name: (t.shape, t.dtype) for name, t in state.items()}:
        raise ModelFileError("the network's weights do not fit the network it describes")
    network = make()
    network.load_state_dict(dict(state))
    return network
