"""A cache of series retrieved from archives: files named by hashes of UIDs, up to a total size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from napari_spatial_ar.archive.entries import SeriesEntry
from napari_spatial_ar.archive.incoming import Incoming
from napari_spatial_ar.archive.interface import Archive, Transfer
from napari_spatial_ar.archive.retrieval import Retrieved, get_series
from napari_spatial_ar.errors import InUseError
from napari_spatial_ar.paths import studies_dir

__all__ = ["DEFAULT_LIMIT", "StudyCache"]

#: Bytes that the cache may have, by default.
DEFAULT_LIMIT = 20 * 10**9


@dataclass(frozen=True, slots=True)
class StudyCache:
    """Series on this machine, the least recently used of which make room for others.

    Parameters
    ----------
    folder : Path
        Where they are; each in a folder of its own.
    limit : int
        Bytes that they may have in total; the series just retrieved stays in any case.
    """

    folder: Path = field(default_factory=studies_dir)
    limit: int = DEFAULT_LIMIT

    def get(
        self, archive: Archive, series: SeriesEntry, keep: Collection[Path] = ()
    ) -> Generator[Transfer, None, Retrieved]:
        """Retrieve a series, see `get_series`; what is in the cache is not sent again.

        ``keep`` are folders of series that are still needed and must not make room for it.
        """
        found = yield from get_series(archive, series, self.folder)
        with suppress(OSError):
            os.utime(found.folder)
        self.trim(keep=(*keep, found.folder))
        return found

    def size(self) -> int:
        """Bytes of all series, also of those not yet whole."""
        return sum(_size(path) for path in self._entries())

    def trim(self, keep: Collection[Path] = ()) -> None:
        """Remove the least recently used series until the rest is within the limit."""
        sizes = {path: _size(path) for path in self._entries()}
        total = sum(sizes.values())
        for path in sorted(sizes, key=_used):
            if total <= self.limit:
                return
            if path not in keep and self._remove(path):
                total -= sizes[path]

    def clear(self) -> int:
        """Remove every series that no process is retrieving; returns the bytes freed."""
        freed = 0
        for path in self._entries():
            size = _size(path)
            if self._remove(path):
                freed += size
        return freed

    def _entries(self) -> list[Path]:
        try:
            with os.scandir(self.folder) as entries:
                return [
                    Path(entry.path)
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and Incoming.owns(entry.name)
                ]
        except OSError:
            return []

    def _remove(self, path: Path) -> bool:
        try:
            with Incoming.reserve(path):
                shutil.rmtree(path, ignore_errors=True)
        except InUseError:
            return False
        return not path.exists()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
