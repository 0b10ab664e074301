"""Storage for results: a folder of this machine, or any location that fsspec reaches."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging.files import atomic_write_bytes, work_folder

__all__ = ["Storage", "digests", "is_url"]


def is_url(out: str) -> bool:
    """Whether a location is a URL, such as ``s3://bucket/folder``, and not a path."""
    return "://" in out


@dataclass(frozen=True)
class Storage:
    """A folder for results.

    Parameters
    ----------
    url : str
        As given by the user, but with an absolute path, so that it means the same wherever it is
        opened.
    files : fsspec.AbstractFileSystem
        Reads and writes there.
    root : str
        The folder, by its name in ``files``.
    """

    url: str
    files: Any = field(repr=False)
    root: str = field(repr=False)

    @classmethod
    def of(cls, out: str) -> Storage:
        """Open a location.

        Parameters
        ----------
        out : str
            A path, or a URL of a protocol that fsspec supports. Credentials come from the
            environment, never from the URL.

        Raises
        ------
        InputError
            If the protocol is unknown, or a package that it needs is missing.
        """
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise InputError(
                "results at a URL, and work on a cluster, need fsspec, which is not installed",
                fix="Run: pip install 'napari-spatial-ar[cluster]'",
            ) from error
        url = out.rstrip("/") if is_url(out) else str(Path(out).expanduser().resolve())
        protocol = url.partition("://")[0]
        try:
            files, root = url_to_fs(url)
        except ImportError as error:
            raise InputError(
                f"{protocol}:// needs a package that is not installed ({error})", fix="Install it"
            ) from error
        except ValueError as error:
            raise InputError(
                f"locations that begin with {protocol}:// are not supported",
                fix="Give a folder, or a URL such as s3://bucket/folder",
            ) from error
        return cls(url, files, root.rstrip("/"))

    @property
    def local(self) -> Path | None:
        """The folder, if it is on this machine or mounted on it."""
        return Path(self.root) if "file" in _protocols(self.files) else None

    @property
    def is_shared(self) -> bool:
        """Whether other processes see what is written; ``memory://`` is private to a process."""
        return "memory" not in _protocols(self.files)

    def read(self, name: str) -> bytes | None:
        """Content of a file; None if there is none.

        Raises
        ------
        StorageError
            If the storage cannot be reached.
        """
        with self._reached():
            try:
                data: bytes = self.files.cat_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return None
            return data

    def write(self, name: str, data: bytes) -> None:
        """Write a small file; in a folder of this machine completely or not at all.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        if self.local is not None:
            atomic_write_bytes(self.local / name, data)
            return
        with self._reached():
            self._make_parent(f"{self.root}/{name}")
            self.files.pipe_file(f"{self.root}/{name}", data)

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of each file under a folder, by relative name; {} without the folder.

        Raises
        ------
        StorageError
            If the storage cannot be reached.
        """
        with self._reached():
            # A file listed before may have been deleted since.
            self.files.invalidate_cache()
            found = self.files.find(f"{self.root}/{folder}", detail=True)
            return {
                name.partition(f"{folder}/")[2]: int(info["size"]) for name, info in found.items()
            }

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Provide a local folder to write to, whose content is stored when the block ends.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        if self.local is not None:
            yield self.local / name
            return
        with work_folder(tempfile.gettempdir()) as temporary:
            # Not the temporary folder itself: the writer of results creates its own.
            made = temporary / "scan"
            yield made
            with self._reached():
                for path in sorted(p for p in made.rglob("*") if p.is_file()):
                    target = f"{self.root}/{name}/{path.relative_to(made).as_posix()}"
                    self._make_parent(target)
                    self.files.put_file(str(path), target)

    def _make_parent(self, target: str) -> None:
        self.files.makedirs(target.rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            # Each of the many file systems has its own error messages.
            reason = f"{type(error).__name__}: {error}".rstrip(".")
            raise StorageError(
                f"could not be read or written ({reason})",
                fix=f"Check that {self.url} exists and that you may write to it",
            ) from error


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def digests(folder: Path) -> dict[str, tuple[int, str]]:
    """Size in bytes and sha256 of each file under a folder, by relative name."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = (path.stat().st_size, sha256)
    return found
