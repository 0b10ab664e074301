"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from napari_spatial_ar.errors import StorageError

__all__ = [
    "atomic_path",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "remove_partial",
    "storage_error",
]

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_PARTIAL = ".partial-"


def storage_error(error: OSError, path: str | Path) -> StorageError:
    """Turn an operating-system error met while writing to path into a sentence.

    Returns
    -------
    StorageError
        To be raised by the caller, ``from error``.
    """
    if error.errno in _NO_SPACE:
        return StorageError(
            "could not be written, because the disk is full or its quota is used up",
            path=path,
            fix="Free some space or choose another folder",
        )
    if error.errno in _NOT_ALLOWED:
        return StorageError(
            "could not be written, because this is not permitted",
            path=path,
            fix="Choose a folder you may write to, and close the file in other programs",
        )
    if error.errno == errno.ENAMETOOLONG:
        return StorageError(
            "could not be written, because its name is too long",
            path=path,
            fix="Choose a shorter one",
        )
    reason = error.strerror or str(error)
    return StorageError(f"could not be written ({reason})", path=path, fix="Choose another folder")


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes target when the block ends well.

    Parameters
    ----------
    target : path-like
        The file to write. Missing parent folders are made; an existing file is replaced.

    Yields
    ------
    Path
        A file that does not exist yet, in target's folder and with target's suffixes. It is
        removed if the block raises, and target stays as it was.

    Raises
    ------
    StorageError
        If the disk is full, writing is not permitted, or any other OSError is met.
    """
    target = Path(target)
    temporary = target.with_name(f"{_PARTIAL}{uuid.uuid4().hex}{''.join(target.suffixes[-2:])}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise storage_error(error, target) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_partial(folder: Path, *, older_than: float = 0.0) -> None:
    """Remove what a process that was killed was writing in a folder.

    Parameters
    ----------
    folder : Path
        One that nobody else writes to, unless ``older_than`` is long enough for them.
    older_than : float
        Seconds since it was written to last.
    """
    for path in folder.glob(f"{_PARTIAL}*"):
        with suppress(OSError):
            if not older_than or time.time() - path.stat().st_mtime > older_than:
                path.unlink(missing_ok=True)


def atomic_write_bytes(target: str | Path, data: bytes) -> None:
    """Write bytes to target, whole or not at all (see `atomic_path`)."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(target: str | Path, text: str) -> None:
    """Write UTF-8 text to target, whole or not at all; line ends are kept as given."""
    atomic_write_bytes(target, text.encode())


def atomic_write_json(target: str | Path, value: Any) -> None:
    """Write value as indented JSON, whole or not at all.

    Raises
    ------
    ValueError
        If value holds NaN or infinity, which JSON cannot say: give None instead.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(target, text + "\n")
