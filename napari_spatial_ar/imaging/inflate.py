"""Compressed files: never inflated beyond what their header claims, and read to their checksum."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

from napari_spatial_ar.errors import InputError

__all__ = ["MOST_COMPRESSION", "InflatedFile", "Inflater", "Packing", "read_to_the_end"]

#: gzip (RFC 1952, several members too), zlib (RFC 1950), or bare deflate (RFC 1951), which is the
#: only one of them without a checksum.
Packing = Literal["gzip", "zlib", "deflate"]

#: Deflate cannot compress more than 1032 bytes into one: a header that claims more is wrong.
MOST_COMPRESSION = 1100
_WINDOW_BITS = {"gzip": 31, "zlib": 15, "deflate": -15}
_PIECE = 2**20
_GZIP = b"\x1f\x8b"
#: Files that were read to their checksum, with their size and modification time.
_MOST_CHECKED = 65_536
_CHECKED: dict[Path, tuple[int, int]] = {}


class Inflater:
    """Stream of the content of a compressed file, one piece in memory at a time.

    Parameters
    ----------
    file : binary file
        Positioned where the compressed data begin.
    packing : {"gzip", "zlib", "deflate"}
        How they are compressed.
    most_bytes : int
        More than this is never inflated. May be raised between reads, but not after an error.
    path : Path
        The file named in errors.

    Attributes
    ----------
    count : int
        Bytes inflated so far.
    ended : bool
        Whether that is all.
    """

    def __init__(self, file: BinaryIO, packing: Packing, *, most_bytes: int, path: Path) -> None:
        self.most_bytes, self.path = most_bytes, path
        self.count, self.ended = 0, False
        self._file, self._packing = file, packing
        self._stream = zlib.decompressobj(_WINDOW_BITS[packing])
        self._waiting = b""

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes, fewer only where the data end, verified by their checksum.

        Raises
        ------
        InputError
            If the data are cut short or damaged, or hold more than ``most_bytes``.
        """
        read = bytearray()
        while len(read) < count and not self.ended:
            read += self._piece(min(_PIECE, count - len(read)))
        return bytes(read)

    def skip(self, count: int) -> None:
        """Read up to ``count`` bytes without keeping them.

        Raises
        ------
        InputError
            As for `read`.
        """
        end = self.count + count
        while self.count < end and not self.ended:
            self._piece(min(_PIECE, end - self.count))

    def finish(self) -> None:
        """Read to the end without keeping anything.

        Raises
        ------
        InputError
            As for `read`.
        """
        while not self.ended:
            self._piece(_PIECE)

    def _piece(self, count: int) -> bytes:
        packed = self._waiting or self._file.read(_PIECE)
        # One more than allowed shows whether there are more.
        wanted = min(count, self.most_bytes - self.count + 1)
        try:
            piece = self._stream.decompress(packed, wanted)
        except zlib.error as error:
            raise self._error("its compressed data are damaged") from error
        self._waiting = self._stream.unconsumed_tail
        self.count += len(piece)
        if self.count > self.most_bytes:
            raise self._error(f"inflates to more than the {self.most_bytes} bytes that it may have")
        if self._stream.eof:
            self._next_member()
        elif not packed and not piece:
            raise self._error("its compressed data are cut short")
        return piece

    def _next_member(self) -> None:
        """Continue with another gzip member if one follows; anything else is padding."""
        rest = self._stream.unused_data
        rest += self._file.read(2) if self._packing == "gzip" and len(rest) < 2 else b""
        if self._packing == "gzip" and rest[:2] == _GZIP:
            self._stream = zlib.decompressobj(_WINDOW_BITS["gzip"])
            self._waiting = rest
        else:
            self.ended = True

    def _error(self, what: str) -> InputError:
        return InputError(what, path=self.path, fix="Export or copy it again")


def read_to_the_end(stream: Inflater, path: Path, *, least: int = 0) -> None:
    """Read to the checksum of a file, unless the same file was read that far before.

    A file that is read one slice or volume at a time is then read to its end only once, and again
    when its size or modification time changes.

    Raises
    ------
    InputError
        As `Inflater.read`, or if it holds fewer than ``least`` bytes.
    """
    status = path.stat()
    state = (status.st_size, status.st_mtime_ns)
    if _CHECKED.get(path) != state:
        stream.finish()
        if stream.count < least:
            raise InputError(
                f"its compressed data hold {stream.count} bytes, and its header claims {least}",
                path=path,
                fix="Export or copy it again",
            )
        if len(_CHECKED) >= _MOST_CHECKED:
            _CHECKED.clear()
        _CHECKED[path] = state


class InflatedFile(io.RawIOBase):
    """Compressed data as a seekable file: inflated, and kept, as far as requested.

    Parameters
    ----------
    inflater : Inflater
        The data; its ``most_bytes`` may be changed between reads.
    before : bytes
        First bytes of the file.
    """

    def __init__(self, inflater: Inflater, before: bytes = b"") -> None:
        self.inflater = inflater
        self._before = len(before)
        self._kept = bytearray(before)
        self._at = 0

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether it can be sought in."""
        return True

    def tell(self) -> int:
        """Return the current position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position; if it is relative to the end, everything is inflated."""
        if whence == io.SEEK_END:
            while self._grow(_PIECE):
                pass
        base = (0, self._at, len(self._kept))[whence]
        self._at = max(0, base + offset)
        return self._at

    def size(self) -> int:
        """Return the number of bytes. Everything is inflated, but unread bytes are not kept."""
        self.inflater.finish()
        return self._before + self.inflater.count

    def read(self, size: int = -1, /) -> bytes:
        """Read ``size`` bytes, or all."""
        end = None if size < 0 else self._at + size
        while (end is None or len(self._kept) < end) and self._grow(_PIECE):
            pass
        if self.inflater.ended and len(self._kept) < min(end or self.size(), self.size()):
            raise ValueError("these bytes were inflated, but not kept")
        found = bytes(self._kept[self._at : end])
        self._at += len(found)
        return found

    def _grow(self, count: int) -> int:
        piece = self.inflater.read(count)
        self._kept += piece
        return len(piece)
