"""Tensors and networks from a model file, which may come from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from napari_spatial_ar.errors import ModelFileError

__all__ = ["BANK", "loaded", "take"]

M = TypeVar("M", bound=nn.Module)
#: The dtypes of stored banks of patches.
BANK = (torch.float16, torch.float32)


def take(
    tensors: Mapping[str, Tensor],
    name: str,
    *shape: int | None,
    kinds: tuple[torch.dtype, ...] = (torch.float32,),
) -> Tensor:
    """Return the tensor with this name, contiguous.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Those of the file.
    name : str
        Its name.
    *shape : int or None
        Its shape; None for any length of at least 1.
    kinds : tuple of torch.dtype
        Its allowed dtypes.

    Returns
    -------
    Tensor

    Raises
    ------
    ModelFileError
        If it is missing, or has another shape or dtype.
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
    """Build a network with weights, after checking that they have its shapes.

    Parameters
    ----------
    make : callable
        Builds the network. It is first called on the meta device, where tensors take no memory.
    state : mapping of str to Tensor
        The weights.

    Raises
    ------
    ModelFileError
        If they belong to another network.
    InputError
        As raised by ``make``.
    """
    with torch.device("meta"):
        expected = {name: (t.shape, t.dtype) for name, t in make().state_dict().items()}
    if expected != {name: (t.shape, t.dtype) for name, t in state.items()}:
        raise ModelFileError("the network's weights do not match its description")
    network = make()
    network.load_state_dict(dict(state))
    return network
