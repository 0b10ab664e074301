"""Where memory runs short: less is computed at once, and what is free is given back."""

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

# How torch says it where it has no class of its own for it: of the CPU, and of Apple's GPUs, the
# last of a tensor that is larger than they may be there.
_SAID = ("can't allocate memory", "out of memory", "Invalid buffer size")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | MemoryShortage):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def release() -> None:
    """Give memory of the GPU that nothing uses back to other programs."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def releases_memory(
    steps_of: Callable[P, Generator[Y, None, R]],
) -> Callable[P, Generator[Y, None, R]]:
    """Release memory when a generator ends, whether it is done, closed or has raised."""

    @functools.wraps(steps_of)
    def releasing(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, None, R]:
        try:
            return (yield from steps_of(*args, **kwargs))
        finally:
            # Not before the generator is gone, and with it what it refers to.
            release()

    return releasing


def shortage(what: str, device: torch.device) -> MemoryShortage:
    """Make the error for something that does not fit a device's memory."""
    where = "this machine" if device.type == "cpu" else f"the device '{device}'"
    other = "" if device.type == "cpu" else ", or compute on the CPU (--device cpu)"
    return MemoryShortage(
        f"{what} needs more memory than is free on {where}",
        fix=f"Close other programs, choose a smaller size or backbone{other}",
    )


@contextmanager
def one_sentence(what: str, device: torch.device) -> Iterator[None]:
    """Turn torch's errors of memory into one for the user.

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
    """How many of a batch are computed at once: half as many each time that memory runs short.

    Parameters
    ----------
    what : str
        What is computed, to begin a sentence with.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._most: int | None = None

    @property
    def note(self) -> str:
        """What was changed, as a clause for the user; "" where nothing was."""
        return "" if self._most is None else f"memory ran short: {self._most} at once at most"

    @property
    def warnings(self) -> list[str]:
        """What was changed, as a sentence; none where nothing was."""
        return [f"{self._what}: {self.note}."] if self.note else []

    def noted(self, message: str) -> str:
        """Give a message with what was changed, where something was."""
        return f"{message} ({self.note})" if self.note else message

    def __call__(self, count: int, device: torch.device, compute: Callable[[int], T]) -> T:
        """Compute something over ``count`` in portions.

        Parameters
        ----------
        count : int
            How many there are.
        device : torch.device
            Whose memory it needs.
        compute : callable
            Gets the size of a portion; called again, from the start, with a smaller one.

        Raises
        ------
        MemoryShortage
            If there is no room for one.
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
            # Not in the handler: the error holds on to what the failed try has made.
            release()
            size = self._most = size // 2
