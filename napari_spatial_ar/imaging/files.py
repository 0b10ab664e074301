"""Write files completely or not at all, and folders that one process at a time writes to.

Anything in progress has a name that begins with ``.partial-`` and is locked by its process (POSIX
flock; the kernel releases it when the process ends, however that is). Whatever is not locked was
left by a killed process, and the next one that writes to the folder removes it. A complete folder
is locked in the same way, by a lock on a file in it. On NFS, locks hold between machines if the
server grants them (NFSv4, or NFSv3 with lockd).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from napari_spatial_ar.errors import InputError, InUseError, StorageError, UnguardedWarning

__all__ = [
    "ScratchFile",
    "atomic_path",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "check_room",
    "holds_leftovers",
    "locked",
    "remove_partial",
    "storage_error",
    "strict_json",
    "work_folder",
]

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
# Error numbers of a file system without locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_PARTIAL = ".partial-"
_PARTIAL_NAME = re.compile(r"\.partial-[0-9a-f]{32}(\.|$)")
_HIDDEN = ".napari-spatial-ar"
_LOCK = f"{_HIDDEN}.lock"
# Without locks, anything not modified for this long is considered abandoned.
_ABANDONED_SECONDS = 3600.0
# A Windows lock keeps its own process from writing through another handle.
_LOCKS_WHILE_WRITING = os.name != "nt"
_TRIES = 100
_LONGEST_SUFFIX = 16
_FULL_BYTES = 1 << 16


class ScratchFile:
    """A temporary file without a name, removed when it is closed.

    Parameters
    ----------
    folder : Path, optional
        Where it is; by default the system's folder of temporary files.

    Raises
    ------
    StorageError
        If the disk has no room for it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close
        except OSError as error:
            raise storage_error(error, self._folder) from error

    def append(self, data: bytes) -> None:
        """Write bytes at the end (`StorageError` if the disk is full)."""
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
        except OSError as error:
            raise storage_error(error, self._folder) from error

    def read(self, first: int, count: int) -> bytes:
        """Return ``count`` bytes from byte ``first`` on."""
        self._file.seek(first)
        return self._file.read(count)

    def close(self) -> None:
        """Release the disk space."""
        self._file.close()


def storage_error(error: OSError, path: str | Path) -> StorageError:
    """Convert an operating-system error while writing to path into a sentence.

    Returns
    -------
    StorageError
        To be raised by the caller, ``from error``.
    """
    if error.errno in _NO_SPACE or (error.errno is None and _is_full(Path(path))):
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


def _is_full(path: Path) -> bool:
    """Whether the disk of a file is full, which not every writer reports."""
    try:
        return shutil.disk_usage(_existing(path)).free < _FULL_BYTES
    except OSError:
        return False


def _existing(path: Path) -> Path:
    """Return the path itself or the nearest folder above it that exists."""
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def check_room(needed: int, folder: Path, what: str, *, fix: str = "Free some space") -> None:
    """Refuse to begin with more data than a disk has room for.

    Parameters
    ----------
    needed : int
        Bytes.
    folder : Path
        Destination; it need not exist.
    what : str
        What they are, in the plural: ``"the embeddings of 3 slices"``.
    fix : str
        What to do about it.

    Raises
    ------
    StorageError
        If fewer are free.
    """
    try:
        free = shutil.disk_usage(_existing(folder)).free
    except OSError as error:
        raise storage_error(error, folder) from error
    if needed > free:
        raise StorageError(
            f"{what} need {_describe(needed)} and {_describe(free)} are free",
            path=folder,
            fix=fix,
        )


def _describe(size: int) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Provide a temporary path to write to, which becomes target if the block succeeds.

    Partial files of earlier processes in the folder are removed.

    Parameters
    ----------
    target : path-like
        The file to write. Missing parent folders are made; an existing file is replaced.

    Yields
    ------
    Path
        An empty file in target's folder and with target's suffixes. It is removed if the block
        raises, and target stays as it was.

    Raises
    ------
    StorageError
        If the disk is full, writing is not permitted, or any other OSError is met.
    """
    target = Path(target)
    suffix = "".join(target.suffixes[-2:])
    suffix = suffix if len(suffix) <= _LONGEST_SUFFIX else target.suffix[:_LONGEST_SUFFIX]
    temporary = target.with_name(f"{_PARTIAL}{uuid.uuid4().hex}{suffix}")
    held = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_partial(target.parent)
        held = _hold_while_writing(temporary)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise storage_error(error, target) from error
    except StorageError:
        raise
    except Exception as error:
        # Writers in other languages raise errors of their own.
        if _is_full(target):
            raise storage_error(OSError(errno.ENOSPC, str(error)), target) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


@contextmanager
def work_folder(parent: str | Path) -> Iterator[Path]:
    """Provide an empty folder inside another to work in; it is removed afterwards.

    Raises
    ------
    StorageError
        If it cannot be made.
    """
    parent = Path(parent)
    held = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_partial(parent)
        while held is None:
            folder = parent / f"{_PARTIAL}{uuid.uuid4().hex}"
            folder.mkdir()
            try:
                held = _lock(folder / _LOCK)
            except (BlockingIOError, FileNotFoundError):
                continue  # another process removed it as abandoned, before it was locked
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
    except OSError as error:
        raise storage_error(error, parent) from error
    try:
        yield folder
    finally:
        if held is not None and not _LOCKS_WHILE_WRITING:
            os.close(held)  # Windows removes no open file
            held = None
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Reserve a folder for this process until the block ends or the process does.

    Missing folders are created, and removed again if nothing was written. Partial files of killed
    processes in the folder are removed. If the file system has no locks, there is an
    `UnguardedWarning` and no protection.

    Raises
    ------
    InUseError
        If another process, or another part of this one, has locked it.
    InputError
        If it is a file.
    StorageError
        If it is write-protected.
    """
    folder = Path(folder)
    if os.path.isfile(folder):
        raise InputError("this is a file, not a folder", path=folder, fix="Choose another place")
    lock, held = folder / _LOCK, None
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        held = _lock(lock)
    except BlockingIOError as error:
        raise InUseError(
            "another process is writing to this folder",
            path=folder,
            fix="Wait until it has ended, or choose another folder",
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise storage_error(error, folder) from error
        warnings.warn(
            f"{folder} is on a file system without locks: no other process should write to it.",
            UnguardedWarning,
            stacklevel=3,
        )
    try:
        remove_partial(folder)
        yield
    finally:
        # POSIX: while it is locked, so that no process locks a file that is about to be removed.
        if _LOCKS_WHILE_WRITING:
            _unlink(lock)
        if held is not None:
            os.close(held)
        if not _LOCKS_WHILE_WRITING:
            _unlink(lock)
        with suppress(OSError):
            for made in missing:
                made.rmdir()  # only if empty


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _lock(path: Path, *, create: bool = True) -> int:
    """Open a file and lock it until it is closed.

    Raises
    ------
    BlockingIOError
        If it is locked already.
    OSError
        If it cannot be opened, or the file system has no locks.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    lost: OSError | None = None
    for _ in range(_TRIES):
        try:
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, flags | (os.O_CREAT if create else 0), 0o666)
        except (FileNotFoundError, FileExistsError) as error:
            if not create:
                raise
            lost = error  # the folder was removed, empty, by its previous owner
            continue
        try:
            if not lock_descriptor(descriptor, blocking=False):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was removed by its previous owner
    raise lost or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _hold_while_writing(path: Path) -> int | None:
    """Create a file and lock it; None if locks would be in the way, or there are none."""
    if not _LOCKS_WHILE_WRITING:
        return None
    try:
        return _lock(path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None


def remove_partial(folder: Path) -> None:
    """Remove partial files that killed processes left in a folder.

    Files of other running processes are left alone: they are locked, or, without locks, were
    modified within the hour.
    """
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if _PARTIAL_NAME.match(entry.name)]
    except OSError:
        return
    for path in found:
        with suppress(OSError):
            _remove_abandoned(path)


def holds_leftovers(folder: Path) -> bool:
    """Whether a folder has hidden files of this program: in progress, or abandoned."""
    try:
        with os.scandir(folder) as entries:
            return any(
                entry.name.startswith(_HIDDEN) or _PARTIAL_NAME.match(entry.name)
                for entry in entries
            )
    except OSError:
        return False


def _remove_abandoned(path: Path) -> None:
    is_folder = path.is_dir() and not path.is_symlink()
    held = None
    if is_folder or _LOCKS_WHILE_WRITING:
        try:
            held = _lock(path / _LOCK if is_folder else path, create=is_folder)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    if held is None and time.time() - path.stat().st_mtime < _ABANDONED_SECONDS:
        return
    if held is not None and not _LOCKS_WHILE_WRITING:
        os.close(held)
        held = None
    try:
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        if held is not None:
            os.close(held)


def atomic_write_bytes(target: str | Path, data: bytes) -> None:
    """Write bytes to target, completely or not at all (see `atomic_path`)."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(target: str | Path, text: str) -> None:
    r"""Write UTF-8 text to target, completely or not at all; line ends are kept as given.

    Lone surrogates, from file names that are not valid text, become escapes like ``\udcff``, which
    JSON reads back.
    """
    atomic_write_bytes(target, text.encode(errors="backslashreplace"))


def strict_json(value: object, *, indent: int | None = 2) -> str:
    """Format value as JSON that every reader accepts: NaN and infinity become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def atomic_write_json(target: str | Path, value: object) -> None:
    """Write value as indented JSON (see `strict_json`), completely or not at all."""
    atomic_write_text(target, strict_json(value))
