"""Voxels of a NIfTI file, one 3-D volume or one slice at a time."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.grey import Narrowing, finite, grey_of, is_wide, span
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.inflate import Inflater, read_to_the_end
from napari_spatial_ar.imaging.memory import check_fits

__all__ = ["DAMAGED", "NiftiVoxels", "StoredVoxels", "content_size", "first_bytes", "is_packed"]

DAMAGED = "is not a NIfTI file that can be read: it is cut short, damaged or of another kind"
_GZIP = b"\x1f\x8b"
# A compressed file with several volumes is inflated completely up to this size (as stored) and
# stays in memory; of a larger one, each volume is inflated separately, onto the disk if it exceeds
# this size itself.
_KEPT_WHOLE_BYTES = 512 * 2**20
_PIECE_BYTES = 2**20
# Writers pad: up to this many bytes may follow what the header claims.
_MOST_BEYOND = 2**26


def is_packed(path: Path) -> bool:
    """Whether a file is compressed with gzip, whatever its name."""
    with open(path, "rb") as file:
        return file.read(2) == _GZIP


def first_bytes(path: Path, count: int) -> bytes:
    """First bytes of a file's content, fewer if it is shorter; no checksum is verified."""
    with open(path, "rb") as file:
        if file.read(2) != _GZIP:
            file.seek(0)
            return file.read(count)
        file.seek(0)
        stream = Inflater(file, "gzip", most_bytes=_MOST_BEYOND, path=path)
        return stream.read(count)


def content_size(path: Path, most: int) -> int:
    """Inflated size of a file; a compressed one is read to its end, up to ``most`` + 64 MiB."""
    if not is_packed(path):
        return path.stat().st_size
    with open(path, "rb") as file:
        stream = Inflater(file, "gzip", most_bytes=most + _MOST_BEYOND, path=path)
        stream.finish()
        return stream.count


@dataclass(eq=False)
class StoredVoxels:
    """Voxels of a file as stored, shared by its volumes.

    Parameters
    ----------
    path : Path
        File with the voxels.
    offset : int
        Offset of the voxels in the (inflated) file, in bytes.
    dtype : dtype
        Stored type, byte order included.
    shape : (N, Z, Y, X)
        Number of volumes and their size.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, int, int, int]
    packed: bool
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _kept: dict[int, npt.NDArray[np.generic]] = field(default_factory=dict, repr=False)

    def volume(self, number: int, *, keep: bool) -> npt.NDArray[np.generic]:
        """Volume ``number`` (Z, Y, X) of the stored type.

        A view into an uncompressed file: only what is indexed is read. From a compressed file, the
        volume stays in memory (as stored) for the next call if ``keep`` is set or all volumes were
        inflated together.
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

    def _mapped(self, number: int) -> npt.NDArray[np.generic]:
        start = self.offset + number * self._volume_bytes
        # Access to memory mapped beyond the end of a file crashes the process.
        if self.path.stat().st_size < start + self._volume_bytes:
            raise InputError(DAMAGED, path=self.path, fix="Export or copy it again")
        return np.memmap(self.path, self.dtype, "r", offset=start, shape=self.shape[1:])

    def _unpacked(self, start: int, count: int) -> npt.NDArray[np.generic]:
        """Inflate bytes of the file's voxels, verifying the file's checksum if it has not been.

        A small file can inflate to any size: large results go to an unnamed temporary file that
        vanishes with the last reference to them.
        """
        with open(self.path, "rb") as file:
            most = self.offset + self.shape[0] * self._volume_bytes + _MOST_BEYOND
            stream = Inflater(file, "gzip", most_bytes=most, path=self.path)
            stream.skip(self.offset + start)
            if count > _KEPT_WHOLE_BYTES:
                voxels = self._on_disk(stream, count)
            else:
                check_fits(count, self.path)
                voxels = np.empty(count, np.uint8)
                at = 0
                for piece in self._pieces(stream, count):
                    voxels[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                    at += len(piece)
            read_to_the_end(stream, self.path)
        return voxels.view(self.dtype)

    def _pieces(self, stream: Inflater, count: int) -> Iterator[bytes]:
        while count:
            piece = stream.read(min(_PIECE_BYTES, count))
            if not piece:
                raise InputError(DAMAGED, path=self.path, fix="Export or copy it again")
            count -= len(piece)
            yield piece

    def _on_disk(self, stream: Inflater, count: int) -> npt.NDArray[np.uint8]:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if count > free:
            raise InputError(
                f"needs {count / 2**30:.1f} GiB of disk to unpack, and {free / 2**30:.1f} GiB "
                "are free for temporary files",
                path=self.path,
                fix="Unpack it with gunzip and open the .nii file, or set TMPDIR to another disk",
            )
        with tempfile.TemporaryFile(dir=folder) as room:
            room.writelines(self._pieces(stream, count))
            room.flush()
            return np.memmap(room, np.uint8, "r", shape=(count,))


@dataclass(eq=False)
class NiftiVoxels:
    """Reader of one 3-D volume of a NIfTI file (see `napari_spatial_ar.imaging.scan`).

    Parameters
    ----------
    stored : StoredVoxels
        Voxels of the file.
    number : int
        Which volume.
    slope, inter : float
        Voxels are stored values times slope plus inter (not applied to colours).
    slice_axis : {0, 1, 2}
        Axis of (Z, Y, X) along which slices are stacked.
    """

    stored: StoredVoxels
    number: int
    slope: float
    inter: float
    slice_axis: int
    _lowest: float | None = field(default=None, repr=False)
    _narrow: Narrowing | None = field(default=None, repr=False)

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels (Z, Y, X), and warnings."""
        with guard(self.stored.path, DAMAGED):
            stored = self.stored.volume(self.number, keep=False)
            narrow = self._narrowing(stored)
            data = np.empty(stored.shape, np.float32)
            for z, plane in enumerate(stored):
                data[z] = self._numbers(plane, narrow)
            return data, (*narrow.warnings, *finite(data, self.stored.path))

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """Acquired slice ``index``: (Z, Y, X) without the slice axis."""
        with guard(self.stored.path, DAMAGED):
            stored = self.stored.volume(self.number, keep=True)
            narrow = self._narrowing(stored)
            data = self._numbers(stored[(slice(None),) * self.slice_axis + (index,)], narrow)
            bad = ~np.isfinite(data)
            if bad.any():
                data[bad] = self._lowest_finite(stored)
            return data

    def _lowest_finite(self, stored: npt.NDArray[np.generic]) -> float:
        """Lowest finite value of the volume, so that a slice does not depend on how it is read."""
        if self._lowest is None:
            narrow = self._narrowing(stored)
            planes = (self._numbers(plane, narrow) for plane in stored)
            lows = [plane.min(where=np.isfinite(plane), initial=np.inf) for plane in planes]
            self._lowest = float(min(lows))
            if not np.isfinite(self._lowest):
                raise InputError("none of its voxels is a finite number", path=self.stored.path)
        return self._lowest

    def _narrowing(self, stored: npt.NDArray[Any]) -> Narrowing:
        """Conversion of the volume's values to float32, determined once."""
        if self._narrow is None:
            if stored.dtype.fields or not (self._scaled or is_wide(stored.dtype)):
                self._narrow = Narrowing()
            else:
                ends = span(stored)
                if self._scaled and ends is not None:
                    low, high = (float(end) * self.slope + self.inter for end in ends)
                    ends = min(low, high), max(low, high)
                whole = stored.dtype.kind in "iu" and not self._scaled
                self._narrow = Narrowing.of(ends, whole=whole)
        return self._narrow

    @property
    def _scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)

    def _numbers(self, stored: npt.NDArray[Any], narrow: Narrowing) -> npt.NDArray[np.float32]:
        if stored.dtype.fields:
            channels = np.stack([stored[name] for name in stored.dtype.names or ()], axis=-1)
            return grey_of(channels)[0]
        if self._scaled:
            with np.errstate(all="ignore"):
                stored = stored.astype(np.float64) * self.slope + self.inter
        return narrow(stored)
