"""Reads the next scan while the previous one is being processed."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

__all__ = ["one_ahead"]

T = TypeVar("T")
_END: Final = object()


def one_ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Iterate over items, each created by a background thread while the previous one is in use.

    Parameters
    ----------
    items : iterable
        Created lazily. At most two are in memory at a time: the current one and the next.

    Yields
    ------
    T
        The items in their order. An exception is raised in place of its item. Close the generator
        to stop: it waits for the item being created and creates no further one.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        coming = thread.submit(next, source, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, source, _END)
            yield cast(T, item)
            # Until the next one comes, the thread's is the only one that this holds.
            del item
