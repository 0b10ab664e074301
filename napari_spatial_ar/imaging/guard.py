"""A guard around readers of files of unknown origin: they succeed, or state why they cannot."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from napari_spatial_ar.errors import InputError, SpatialARError

__all__ = ["guard", "one_source"]

_LOGGERS = ("PIL", "nibabel.global", "pydicom", "tifffile")


class _Silence:
    """Suppress warnings and logs of reading libraries while any thread is in the block.

    Both are global, so the first thread that enters turns them off and the last one to leave turns
    them on again; each by itself would restore what another had turned off.
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
def one_source(path: Path | None, what: str | None = None) -> Iterator[None]:
    """Convert any problem with one scan into a single InputError for that scan.

    Parameters
    ----------
    path : Path, optional
        The file named in the error.
    what : str, optional
        What is wrong if the block fails for a reason without a sentence of its own; by default
        that it cannot be read, and the type of error, which no file can influence.

    Raises
    ------
    InputError
        For any exception of the block except those that this package raises on purpose, which
        pass unchanged, and those that are not errors (KeyboardInterrupt).
    """
    try:
        yield
    except SpatialARError:
        raise
    except FileNotFoundError:
        raise InputError("there is no such file", path=path) from None
    except PermissionError:
        raise InputError("may not be read", path=path, fix="Check its permissions") from None
    except MemoryError as error:
        raise InputError(
            "needs more memory than is free",
            path=path,
            fix="Close other programs, or use a machine with more memory",
        ) from error
    except RecursionError as error:
        raise InputError("is nested too deeply", path=path) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise InputError(
            f"its header claims more than the {most} million pixels allowed for an image",
            path=path,
        ) from error
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.errno is not None else ""
        if reason:
            raise InputError(f"cannot be read ({reason})", path=path) from error
        raise InputError(
            what or f"cannot be read ({type(error).__name__})",
            path=path,
            fix="Export or copy it again",
        ) from error


@contextmanager
def guard(path: Path | None, what: str | None = None) -> Iterator[None]:
    """Make reading a file either succeed silently or raise one InputError (see `one_source`).

    Reading libraries raise every kind of exception for damaged files, and quote odd values and
    file names in warnings and logs, which may name a patient.
    """
    with one_source(path, what), _silence:
        yield
