"""Voxels of a NIfTI file, one 3-D volume or one slice at a time."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.grey import finite, grey_of
from napari_spatial_ar.imaging.guard import guard

__all__ = ["DAMAGED", "NiftiVoxels", "StoredVoxels", "is_packed", "opened"]

DAMAGED = "is not a NIfTI file that can be read: it is cut short, damaged or of another kind"
_GZIP = b"\x1f\x8b"
# A packed file with several volumes is unpacked whole up to this size (as stored) and kept;
# of a longer one, each volume is unpacked by itself.
_KEPT_WHOLE_BYTES = 512 * 2**20
_PIECE_BYTES = 2**24


def is_packed(path: Path) -> bool:
    """Whether a file is packed by gzip, whatever its name."""
    with open(path, "rb") as file:
        return file.read(2) == _GZIP


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Bytes of a file, unpacked where it is gzip by content."""
    with open(path, "rb") as file:
        if file.read(2) == _GZIP:
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, unpacked)
        else:
            file.seek(0)
            yield file


@dataclass(eq=False)
class StoredVoxels:
    """Voxels of a file as they are stored, shared by its volumes.

    Parameters
    ----------
    path : Path
        File with the voxels.
    offset : int
        Bytes before them, unpacked.
    dtype : dtype
        Stored type, byte order included.
    shape : (N, Z, Y, X)
        Volumes and their size.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, int, int, int]
    packed: bool
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _kept: dict[int, npt.NDArray[Any]] = field(default_factory=dict, repr=False)

    def volume(self, number: int, *, keep: bool) -> npt.NDArray[Any]:
        """Volume ``number`` (Z, Y, X) of the stored type.

        A view into the file where it is not packed: only what is indexed is read. Of a packed
        file, kept in memory (as stored) for the next call where ``keep`` says so or where all
        volumes are unpacked together.
        """
        if not self.packed:
            return self._mapped(number)
        with self._lock:
            if number in self._kept:
                return self._kept[number]
            count, *size = self.shape
            all_bytes = count * self._volume_bytes
            if count > 1 and all_bytes <= _KEPT_WHOLE_BYTES:
                whole = self._unpacked(0, all_bytes).reshape(self.shape)
                self._kept.update(enumerate(whole))
                return self._kept[number]
            voxels = self._unpacked(number * self._volume_bytes, self._volume_bytes).reshape(size)
            if keep:
                self._kept = {number: voxels}
            return voxels

    @property
    def _volume_bytes(self) -> int:
        _, z, y, x = self.shape
        return z * y * x * self.dtype.itemsize

    def _mapped(self, number: int) -> npt.NDArray[Any]:
        start = self.offset + number * self._volume_bytes
        # What is mapped beyond the end of a file ends the process when it is touched.
        if self.path.stat().st_size < start + self._volume_bytes:
            raise InputError(DAMAGED, path=self.path, fix="Export or copy it again")
        return np.memmap(self.path, self.dtype, "r", offset=start, shape=self.shape[1:])

    def _unpacked(self, start: int, count: int) -> npt.NDArray[Any]:
        # In pieces: the header may claim more than the file holds.
        unpacked = bytearray()
        with opened(self.path) as stream:
            stream.seek(self.offset + start)
            while len(unpacked) < count:
                piece = stream.read(min(_PIECE_BYTES, count - len(unpacked)))
                if not piece:
                    raise InputError(DAMAGED, path=self.path, fix="Export or copy it again")
                unpacked += piece
        return np.frombuffer(unpacked, self.dtype)


@dataclass(eq=False)
class NiftiVoxels:
    """Reader of one 3-D volume of a NIfTI file (see `napari_spatial_ar.imaging.scan`).

    Parameters
    ----------
    stored : StoredVoxels
        The file's.
    number : int
        Which volume.
    slope, inter : float
        Voxels are the stored values times slope plus inter (not in colour).
    slice_axis : {0, 1, 2}
        Axis of (Z, Y, X) with the slices.
    """

    stored: StoredVoxels
    number: int
    slope: float
    inter: float
    slice_axis: int
    _lowest: float | None = field(default=None, repr=False)

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels (Z, Y, X), and how many were no finite numbers."""
        with guard(self.stored.path, DAMAGED):
            stored = self.stored.volume(self.number, keep=False)
            data = np.empty(stored.shape, np.float32)
            for z, plane in enumerate(stored):
                data[z] = self._numbers(plane)
            return data, finite(data, self.stored.path)

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """Acquired slice ``index``: (Z, Y, X) without the slice axis."""
        with guard(self.stored.path, DAMAGED):
            stored = self.stored.volume(self.number, keep=True)
            data = self._numbers(stored[(slice(None),) * self.slice_axis + (index,)])
            bad = ~np.isfinite(data)
            if bad.any():
                data[bad] = self._lowest_finite(stored)
            return data

    def _lowest_finite(self, stored: npt.NDArray[Any]) -> float:
        """Lowest finite value of the volume, so that a slice is the same alone and in it."""
        if self._lowest is None:
            planes = (self._numbers(plane) for plane in stored)
            lows = [plane.min(where=np.isfinite(plane), initial=np.inf) for plane in planes]
            self._lowest = float(min(lows))
            if not np.isfinite(self._lowest):
                raise InputError("none of its voxels is a finite number", path=self.stored.path)
        return self._lowest

    def _numbers(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if stored.dtype.fields:
            channels = np.stack([stored[name] for name in stored.dtype.names or ()], axis=-1)
            return grey_of(channels)[0]
        with np.errstate(all="ignore"):
            if (self.slope, self.inter) == (1.0, 0.0):
                return stored.astype(np.float32)
            return (stored.astype(np.float64) * self.slope + self.inter).astype(np.float32)
