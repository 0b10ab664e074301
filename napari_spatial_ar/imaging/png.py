"""PNG files checked to their last byte, and decoded where Pillow would cut 16 bits to 8.

W3C Portable Network Graphics (ISO/IEC 15948): every chunk has a CRC, and the pixels, compressed
with zlib, an Adler-32.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

__all__ = ["SIGNATURE", "Png", "read_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_LARGEST = 2**31 - 1
# First row and column, and steps, of the seven passes of an interlaced image (Adam7).
_PASSES = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)),
    (1, 0, 2, 1),
)


@dataclass(frozen=True, slots=True)
class Png:
    """A PNG file whose chunks are complete and match their checksums.

    Parameters
    ----------
    rows, columns : int
        Size.
    depth : int
        Bits per sample.
    channels : int
        1 grey (or palette), 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    interlaced : bool
        Whether pixels are in Adam7 order.
    packed : bytes
        The pixels, compressed.
    """

    rows: int
    columns: int
    depth: int
    channels: int
    interlaced: bool
    packed: bytes = field(repr=False)

    def check_pixels(self) -> None:
        """Check that the compressed pixels are complete and match their checksum.

        Raises
        ------
        ValueError
            If they are not.
        """
        self._unpacked()

    def deep_pixels(self) -> npt.NDArray[np.uint16]:
        """Decode 16-bit pixels, (rows, columns, channels).

        Raises
        ------
        ValueError
            If they are damaged or of another depth.
        """
        if self.depth != 16:
            raise ValueError("samples that are not 16 bits deep")
        raw = self._unpacked()
        pixels = np.empty((self.rows, self.columns, self.channels), np.uint16)
        at = 0
        for place, rows, columns in self._pictures():
            length = rows * (1 + 2 * columns * self.channels)
            lines = np.frombuffer(raw, np.uint8, length, at).reshape(rows, -1)
            at += length
            samples = _unfiltered(lines, 2 * self.channels).view(">u2")
            pixels[place] = samples.reshape(rows, columns, self.channels)
        return pixels

    def _pictures(self) -> Iterator[tuple[tuple[slice, slice], int, int]]:
        """Destination of the pixels of each pass, and its numbers of rows and columns."""
        for top, left, down, right in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            rows, columns = -(-(self.rows - top) // down), -(-(self.columns - left) // right)
            if rows > 0 and columns > 0:
                yield (slice(top, None, down), slice(left, None, right)), rows, columns

    def _unpacked(self) -> bytes:
        bits = self.depth * self.channels
        size = sum(rows * (1 + -(-columns * bits // 8)) for _, rows, columns in self._pictures())
        worker = zlib.decompressobj()
        try:
            raw = worker.decompress(self.packed, size + 1)
        except zlib.error as error:
            raise ValueError("pixels that do not match their checksum") from error
        # Some writers append a byte or two, which the checksum covers too.
        while worker.unconsumed_tail and not worker.eof:
            if not worker.decompress(worker.unconsumed_tail, 4096):
                break
        if len(raw) < size or not worker.eof:
            raise ValueError("fewer pixels than stated in its header")
        return raw[:size]


def read_png(data: bytes) -> Png:
    """Read the chunks of a PNG file and check each against its CRC.

    Raises
    ------
    ValueError
        If it is not a PNG file, a chunk is damaged or missing, or its header is invalid.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG file")
    at, header, packed = len(SIGNATURE), b"", []
    view = memoryview(data)
    while True:
        if len(data) < at + 12:
            raise ValueError("cut short")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if length > _LARGEST or len(data) < end + 4:
            raise ValueError("a chunk is cut short")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError("a chunk that does not match its checksum")
        if (kind == b"IHDR") == bool(header):
            raise ValueError("not exactly one header, at the start")
        if kind == b"IHDR":
            header = data[at + 8 : end]
        elif kind == b"IDAT":
            packed.append(data[at + 8 : end])
        elif kind == b"IEND":
            break
        at = end + 4
    columns, rows, depth, colour, packing, filters, interlace = struct.unpack(">2I5B", header)
    known = colour in _CHANNELS and depth in _DEPTHS[colour] and interlace < 2
    if not known or packing or filters or not 0 < rows <= _LARGEST or not 0 < columns <= _LARGEST:
        raise ValueError("an invalid header")
    if not packed:
        raise ValueError("no pixels")
    return Png(rows, columns, depth, _CHANNELS[colour], interlace == 1, b"".join(packed))


def _unfiltered(lines: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Undo the filters of scan lines (section 9), which predict bytes from earlier ones.

    A pixel depends on its left, upper and upper-left neighbours: pixels on an anti-diagonal are
    independent of each other and are decoded together.

    Parameters
    ----------
    lines : (rows, 1 + columns * width) uint8
        Filter type, then the line.
    width : int
        Bytes per pixel.
    """
    kinds = lines[:, 0]
    if kinds.max(initial=0) > 4:
        raise ValueError("an undefined filter")
    rows, columns = len(lines), (lines.shape[1] - 1) // width
    coded = lines[:, 1:].reshape(rows, columns, width)
    # With a row of zeros above and a column of zeros to the left.
    values = np.zeros((rows + 1, columns + 1, width), np.int16)
    for diagonal in range(rows + columns - 1):
        y = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        x = diagonal - y
        before, above, corner = values[y + 1, x], values[y, x + 1], values[y, x]
        kind = kinds[y][:, np.newaxis]
        predicted = np.select(
            [kind == 1, kind == 2, kind == 3, kind == 4],
            [before, above, (before + above) // 2, _paeth(before, above, corner)],
            0,
        )
        values[y + 1, x + 1] = (coded[y, x] + predicted) & 0xFF
    return cast(npt.NDArray[np.uint8], np.ascontiguousarray(values[1:, 1:]).astype(np.uint8))


def _paeth(
    before: npt.NDArray[np.int16], above: npt.NDArray[np.int16], corner: npt.NDArray[np.int16]
) -> npt.NDArray[np.int16]:
    """Whichever of the three is closest to before + above - corner, the first one if tied."""
    estimate = before + above - corner
    far, farther, farthest = (np.abs(estimate - one) for one in (before, above, corner))
    closest = np.where(farther <= farthest, above, corner)
    return np.where((far <= farther) & (far <= farthest), before, closest)
