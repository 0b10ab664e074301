"""A guard around libraries that read files of unknown origin."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_spatial_ar.errors import InputError

__all__ = ["guard"]

_LOGGERS = ("PIL", "highdicom.base", "highdicom.seg.sop", "nibabel.global", "pydicom", "tifffile")


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

    def drop(record: logging.LogRecord) -> bool:
        return False

    logs = [logging.getLogger(name) for name in _LOGGERS]
    for log in logs:
        log.addFilter(drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("there is no such file", path=path) from None
    except PermissionError:
        raise InputError("may not be read", path=path, fix="Check its permissions") from None
    except Exception as error:
        raise InputError(what, path=path, fix="Export or copy it again") from error
    finally:
        for log in logs:
            log.removeFilter(drop)
