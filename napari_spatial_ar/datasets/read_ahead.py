"""Reading the next scan while the one before it is computed on."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

__all__ = ["one_ahead"]

T = TypeVar("T")
_END: Final = object()


def one_ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Walk through items, each made by one background thread while the one before is in use.

    Parameters
    ----------
    items : iterable
        Made lazily. Two are in memory at a time at most: that in use and the next.

    Yields
    ------
    T
        The items in their order. What making one raises is raised in its place. Close the
        generator to stop: it waits for the item that is being made and makes no further one.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        coming = thread.submit(next, source, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, source, _END)
            yield cast(T, item)
            # Until the next one comes, the thread's is the only one that this holds.
            del item
