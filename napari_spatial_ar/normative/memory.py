"""When memory runs short, smaller batches are computed, and unused memory is released."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

from napari_spatial_ar.errors import MemoryShortage

__all__ = ["Portions", "is_shortage", "one_sentence", "release", "releases_memory"]

P = ParamSpec("P")
T = TypeVar("T")
Y = TypeVar("Y")
R = TypeVar("R")

# Messages of torch where it has no error class of its own: on the CPU, and on Apple's GPUs, the
# last for a tensor larger than they allow.
_MEMORY_ERRORS = ("can't allocate memory", "out of memory", "Invalid buffer size")


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that there is not enough memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | MemoryShortage):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY_ERRORS)


def release() -> None:
    """Return unused GPU memory to other programs."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def releases_memory(
    steps_of: Callable[P, Generator[Y, None, R]],
) -> Callable[P, Generator[Y, None, R]]:
    """Release memory when a generator ends, whether it finished, was closed or raised."""

    @functools.wraps(steps_of)
    def releasing(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, None, R]:
        try:
            return (yield from steps_of(*args, **kwargs))
        finally:
            # After the generator has been freed, and everything it refers to.
            release()

    return releasing


def shortage(what: str, device: torch.device) -> MemoryShortage:
    """Create the error for something that does not fit into a device's memory."""
    where = "this machine" if device.type == "cpu" else f"the device '{device}'"
    other = "" if device.type == "cpu" else ", or compute on the CPU (--device cpu)"
    return MemoryShortage(
        f"{what} needs more memory than is free on {where}",
        fix=f"Close other programs, choose a smaller size or backbone{other}",
    )


@contextmanager
def one_sentence(what: str, device: torch.device) -> Iterator[None]:
    """Convert torch's memory errors into one for the user.

    Raises
    ------
    MemoryShortage
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise shortage(what, device) from error


class Portions:
    """Portion sizes of a batch: halved each time memory runs short.

    Parameters
    ----------
    what : str
        What is computed, as the beginning of a sentence.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._most: int | None = None

    @property
    def note(self) -> str:
        """The reduced size, as a clause for the user; "" if it was not reduced."""
        return "" if self._most is None else f"memory ran short: at most {self._most} at once"

    @property
    def warnings(self) -> list[str]:
        """The reduced size, as a sentence; none if it was not reduced."""
        return [f"{self._what}: {self.note}."] if self.note else []

    def noted(self, message: str) -> str:
        """Append the note to a message, if there is one."""
        return f"{message} ({self.note})" if self.note else message

    def __call__(self, count: int, device: torch.device, compute: Callable[[int], T]) -> T:
        """Compute something for ``count`` items in portions.

        Parameters
        ----------
        count : int
            Number of items.
        device : torch.device
            The device whose memory is used.
        compute : callable
            Called with the portion size; called again from the start, with a smaller size, if
            memory runs short.

        Raises
        ------
        MemoryShortage
            If memory does not suffice for a single item.
        """
        size = min(count, self._most or count)
        while True:
            try:
                return compute(size)
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                if size == 1:
                    raise shortage(self._what, device) from error
            # Outside the handler: the error holds references to tensors of the failed attempt.
            release()
            size = self._most = size // 2
