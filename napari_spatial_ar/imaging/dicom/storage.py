"""How a DICOM file stores its pixels, and whether they are all there."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from napari_spatial_ar.errors import InputError

__all__ = ["Storage", "read_storage"]

# Hardly an image packs better than this; under the floor it costs little to let it try.
_MOST_COMPRESSION = 1000
_COMPRESSION_FLOOR = 64 * 2**20
_MOST_FRAMES = 200_000
# More fragments than this are not counted.
_MOST_FRAGMENTS = 400_000
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Storage:
    """How the pixels of one file are stored.

    Parameters
    ----------
    syntax : UID
        Transfer syntax; guessed where the file does not say.
    photometric : str
        PhotometricInterpretation.
    frames, rows, columns, samples : int
        Size; samples is 3 in a colour image.
    bits : int
        Bits that hold a value.
    signed, floating : bool
        Whether values are negative too; whether they are floating point.
    """

    syntax: UID
    photometric: str
    frames: int
    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool
    floating: bool

    @property
    def coloured(self) -> bool:
        """Whether pixels have a colour."""
        return not self.photometric.startswith("MONOCHROME")

    @property
    def limits(self) -> tuple[float, float] | None:
        """Least and greatest value that can be stored; None for floating point."""
        if self.floating:
            return None
        half = 2 ** (self.bits - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    @property
    def most_bytes(self) -> int:
        """The most bytes that the pixels take, not compressed."""
        return self.frames * self.rows * self.columns * self.samples * 8

    @property
    def display(self) -> bool:
        """Whether values are 8-bit grey or colour, made to be looked at."""
        palette = self.photometric == "PALETTE COLOR"
        return palette or (self.bits == 8 and not self.signed and not self.floating)


def read_storage(header: pydicom.Dataset, file: BinaryIO, size: int, path: Path) -> Storage | None:
    """Read how pixels are stored, and count the bytes that are there.

    Parameters
    ----------
    header : pydicom.Dataset
        As read from the file up to its pixels.
    file : binary file
        Where pydicom stopped, at the pixels' element.
    size : int
        Bytes in the file.

    Returns
    -------
    Storage or None
        None for a DICOM file that is no image (a report).

    Raises
    ------
    InputError
        If the header claims more pixels than the file holds, or its numbers make no sense.
    """
    if "BitsAllocated" not in header:
        return None
    frames = max(1, int(header.get("NumberOfFrames") or 1))
    rows, columns = int(header.Rows), int(header.Columns)
    samples = int(header.get("SamplesPerPixel") or 1)
    allocated = int(header.BitsAllocated)
    start = file.read(12)
    implicit, little = header.original_encoding
    if len(start) < 8:
        raise InputError(
            "its pixels are missing: the file is cut short",
            path=path,
            fix="Export or copy it again",
        )
    order = "<" if little else ">"
    if implicit:
        group, element, length = struct.unpack(order + "HHL", start[:8])
        file.seek(-(len(start) - 8), 1)
    else:
        group, element = struct.unpack(order + "HH", start[:4])
        length = struct.unpack(order + "L", start[8:12])[0]
    said = header.file_meta.get("TransferSyntaxUID")
    plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    syntax = said or (ImplicitVRLittleEndian if implicit else plain)
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    pixels = frames * rows * columns
    # YBR_FULL_422 stores two colour values for every two pixels.
    halved = photometric == "YBR_FULL_422" and not syntax.is_compressed
    claimed = (pixels * (2 if halved else samples) * allocated + 7) // 8
    there = size - file.tell()
    packed = length == _UNDEFINED
    enough = max(_COMPRESSION_FLOOR, _MOST_COMPRESSION * there) if packed else min(there, length)
    if not pixels or claimed > enough or frames > _MOST_FRAMES:
        raise InputError(
            f"its header claims {pixels} pixels in {frames} frames, {claimed} bytes, but the file "
            f"has {there} bytes for them",
            path=path,
            fix="Export or copy it again",
        )
    if packed:
        _check_fragments(file, size, frames, path)
    bits = int(header.get("BitsStored") or allocated)
    return Storage(
        syntax=UID(syntax),
        photometric=photometric,
        frames=frames,
        rows=rows,
        columns=columns,
        samples=samples,
        bits=bits if 0 < bits <= allocated else allocated,
        signed=int(header.get("PixelRepresentation") or 0) == 1,
        floating=(group, element) in ((0x7FE0, 0x0008), (0x7FE0, 0x0009)),
    )


def _check_fragments(file: BinaryIO, size: int, frames: int, path: Path) -> None:
    """Walk over compressed fragments without reading them: all there, at least one a frame."""
    fragments = -1  # the first item is a table of offsets
    while fragments <= _MOST_FRAGMENTS:
        head = file.read(8)
        if len(head) < 8 or head[:4] != _ITEM:
            whole = head[:4] == _END or not head
            break
        length = struct.unpack("<L", head[4:])[0]
        fragments += 1
        if file.seek(length, 1) > size:
            whole = False
            break
    else:
        return
    if not whole or fragments < frames:
        raise InputError(
            f"its pixels are cut short: {max(fragments, 0)} compressed pieces are there for "
            f"{frames} frames" + ("" if whole else ", the last of them not whole"),
            path=path,
            fix="Export or copy it again",
        )
