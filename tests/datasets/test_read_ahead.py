"""The next item is made while the one before is in use: one ahead, in order, no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from napari_spatial_ar.datasets.read_ahead import one_ahead
from napari_spatial_ar.errors import InputError

SECONDS = 10.0


class Reader:
    """Makes numbers, and says when it has begun with each."""

    def __init__(self, count: int) -> None:
        self.begun = [threading.Event() for _ in range(count)]
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        for number, event in enumerate(self.begun):
            self.threads.add(threading.get_ident())
            event.set()
            yield number


def test_the_next_is_made_while_one_is_in_use_and_none_beyond() -> None:
    reader = Reader(5)
    seen = []
    for number in one_ahead(reader):
        if number < 4:
            assert reader.begun[number + 1].wait(SECONDS)
        if number < 3:
            assert not reader.begun[number + 2].is_set()
        seen.append(number)
    assert seen == [0, 1, 2, 3, 4]
    assert len(reader.threads) == 1
    assert threading.get_ident() not in reader.threads


def test_an_error_comes_in_its_place() -> None:
    def read() -> Iterator[str]:
        yield "a"
        raise InputError("is damaged")

    items = one_ahead(read())
    assert next(items) == "a"
    with pytest.raises(InputError, match="is damaged"):
        next(items)
    assert list(items) == []


def test_closing_stops_after_the_one_that_is_being_made() -> None:
    reader = Reader(5)
    items = one_ahead(reader)
    assert next(items) == 0
    items.close()
    assert not reader.begun[2].is_set()
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_nothing_gives_nothing() -> None:
    assert list(one_ahead([])) == []
