"""Reading libraries are silenced for as long as anyone reads, and no longer."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path

import pytest
from PIL import Image

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.imaging.guard import guard


def test_any_error_becomes_one_that_names_the_file() -> None:
    with pytest.raises(InputError, match="is damaged") as caught, guard(Path("a"), "is damaged"):
        raise KeyError("secret")
    assert caught.value.path == Path("a")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "needs more memory than is free"),
        (RecursionError(), "is nested too deeply"),
        (Image.DecompressionBombError("doe"), "claims more than the 178 million pixels"),
        (OSError(5, "Input/output error", "/doe"), r"cannot be read \(Input/output error\)"),
        (OSError("image file is truncated"), "is damaged"),
        (FileNotFoundError(), "there is no such file"),
        (PermissionError(), "may not be read"),
        (InputError("is of another kind"), "is of another kind"),
    ],
)
def test_what_has_a_sentence_of_its_own_is_not_called_damage(
    error: Exception, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as caught, guard(Path("a"), "is damaged"):
        raise error
    assert "doe" not in str(caught.value)


def test_what_is_not_foreseen_is_named_by_its_kind() -> None:
    with pytest.raises(InputError, match=r"cannot be read \(KeyError\)"), guard(Path("a")):
        raise KeyError("secret")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled("stopped"), SystemExit])
def test_a_stop_is_no_error_of_the_file(stop: BaseException) -> None:
    kind = stop if isinstance(stop, type) else type(stop)
    with pytest.raises(kind), guard(Path("a"), "is damaged"):
        raise stop


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
