"""A guard around libraries that read files of unknown origin."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_spatial_ar.errors import InputError

__all__ = ["guard"]

_LOGGERS = ("PIL", "nibabel.global", "pydicom", "tifffile")


class _Silence:
    """No warnings and no logs of reading libraries while any thread is in the block.

    Both are the whole process's, so that the first thread in turns them off and the last one out
    turns them on again; each by itself would put back what another had turned off.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")
                for name in _LOGGERS:
                    logging.getLogger(name).addFilter(_drop)

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for name in _LOGGERS:
                    logging.getLogger(name).removeFilter(_drop)
                self._warnings.__exit__(None, None, None)


def _drop(record: logging.LogRecord) -> bool:
    return False


_silence = _Silence()


@contextmanager
def guard(path: Path, what: str) -> Iterator[None]:
    """Make reading a file either succeed in silence or raise one InputError.

    Reading libraries meet damaged files with every kind of exception, and quote odd values and
    file names in warnings and logs, which may name a patient.

    Parameters
    ----------
    path : Path
        The file that the error names.
    what : str
        What is wrong with the file if the block fails.

    Raises
    ------
    InputError
        For any exception of the block; an InputError passes as it is.
    """
    try:
        with _silence:
            yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("there is no such file", path=path) from None
    except PermissionError:
        raise InputError("may not be read", path=path, fix="Check its permissions") from None
    except Exception as error:
        raise InputError(what, path=path, fix="Export or copy it again") from error
