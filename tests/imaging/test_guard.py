"""Reading libraries are silenced for as long as anyone reads, and no longer."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path

import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.guard import guard


def test_any_error_becomes_one_that_names_the_file() -> None:
    with pytest.raises(InputError, match="is damaged") as caught, guard(Path("a"), "is damaged"):
        raise KeyError("secret")
    assert caught.value.path == Path("a")
    assert "secret" not in str(caught.value)


def test_threads_that_read_at_once_leave_warnings_as_they_were() -> None:
    entered, leave = threading.Event(), threading.Event()
    before = list(warnings.filters)

    def read() -> None:
        with guard(Path("a"), "is damaged"):
            entered.set()
            leave.wait(5)

    reader = threading.Thread(target=read)
    with guard(Path("b"), "is damaged"):
        reader.start()
        entered.wait(5)
    # The other one still reads.
    warnings.warn("of a reading library", stacklevel=1)
    assert not logging.getLogger("pydicom").filter(logging.makeLogRecord({}))
    leave.set()
    reader.join()
    assert warnings.filters == before
    assert logging.getLogger("pydicom").filter(logging.makeLogRecord({}))
