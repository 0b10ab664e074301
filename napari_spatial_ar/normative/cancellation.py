"""Cancel within a slice: computations check between their parts whether to stop.

The check is bound to the thread, so that two threads that share a backbone stop independently.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from napari_spatial_ar.errors import Cancelled

__all__ = ["cancel_when", "check_cancelled"]

_asked = threading.local()


@contextmanager
def cancel_when(is_set: Callable[[], bool]) -> Iterator[None]:
    """Stop computations in this thread with `Cancelled` soon after ``is_set()`` becomes true."""
    before = getattr(_asked, "is_set", None)
    _asked.is_set = is_set
    try:
        yield
    finally:
        _asked.is_set = before


def check_cancelled() -> None:
    """Raise if this thread was cancelled.

    Raises
    ------
    Cancelled
    """
    is_set = getattr(_asked, "is_set", None)
    if is_set is not None and is_set():
        raise Cancelled("stopped")
