"""How a DICOM file stores its pixels, and whether they are all there."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from napari_spatial_ar.errors import InputError

__all__ = ["Storage", "read_storage"]

# Images are hardly ever compressed more than this; below the floor, trying costs little.
_MOST_COMPRESSION = 1000
_COMPRESSION_FLOOR = 64 * 2**20
_MOST_FRAMES = 200_000
# Fragments are not counted beyond this number.
_MOST_FRAGMENTS = 400_000
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB\0\0", b"OW\0\0", b"OF\0\0", b"OD\0\0", b"UN\0\0", b"OL\0\0", b"OV\0\0")
_KEYWORDS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}
_ALLOCATED = (1, 8, 16, 32, 64)
_SAMPLES = {
    **dict.fromkeys(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}
# The other defined terms (PS3.3 C.7.6.3.1.2), which messages may quote; no other text may be.
_NOT_READ = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_RCT", "XYB")
# A private GE transfer syntax: only the pixels are big endian.
_GE_BIG_ENDIAN_PIXELS = "1.2.840.113619.5.2"
_FIX = "Export or copy it again"


@dataclass(frozen=True, slots=True)
class Storage:
    """How the pixels of one file are stored, as found and not as declared.

    Parameters
    ----------
    syntax : UID
        Transfer syntax of the pixels: explicit VR of either byte order if they are uncompressed,
        else as declared in the file. For a compressed frame, its own header counts.
    photometric : str
        PhotometricInterpretation.
    frames, rows, columns, samples : int
        Size; samples is 3 in a colour image.
    bits : int
        Bits that hold a value.
    signed, floating : bool
        Whether values are signed; whether they are floating point.
    allocated : int
        Bits of the word that holds a value.
    lowest : int
        Bits of that word below the value: HighBit + 1 - BitsStored, 0 in any file since 2014.
    overlays : bool
        Whether overlays use the remaining bits of that word.
    planar : bool
        Whether colours are stored plane by plane, not pixel by pixel.
    packed : bool
        Whether they are compressed: in fragments, whatever the syntax states.
    start : int
        Where the value of the pixels' element begins in the file (inflated if the file is
        deflated).
    keyword, vr : str
        The pixels' element and its VR; "" if the VR is implicit.
    offsets : (bytes, bytes), optional
        Extended offset table and lengths (PS3.3 C.7.6.3.1.8).
    notes : tuple of str
        Warnings on contradictions.
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
    allocated: int
    lowest: int = 0
    overlays: bool = False
    planar: bool = False
    packed: bool = False
    start: int = 0
    keyword: str = "PixelData"
    vr: str = ""
    offsets: tuple[bytes, bytes] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def coloured(self) -> bool:
        """Whether pixels are coloured."""
        return not self.photometric.startswith("MONOCHROME")

    @property
    def limits(self) -> tuple[float, float] | None:
        """Lowest and highest value that can be stored; None for floating point."""
        if self.floating:
            return None
        half = 2 ** (self.bits - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    @property
    def most_bytes(self) -> int:
        """Maximum size of the uncompressed pixels, in bytes."""
        return (self.frames * self.rows * self.columns * self.samples * self.allocated + 7) // 8

    @property
    def display(self) -> bool:
        """Whether values are 8-bit grey or colour, for display."""
        palette = self.photometric == "PALETTE COLOR"
        return palette or (self.bits == 8 and not self.signed and not self.floating)


@dataclass(frozen=True, slots=True)
class _Element:
    """Head of the pixels' element."""

    keyword: str
    vr: str
    length: int


def read_storage(header: pydicom.Dataset, file: BinaryIO, size: int, path: Path) -> Storage | None:
    """Read how pixels are stored, and check that they are complete.

    Parameters
    ----------
    header : pydicom.Dataset
        As read from the file up to its pixels.
    file : binary file
        At the pixels' element, or at its end if there are none.
    size : int
        Bytes in the file.

    Returns
    -------
    Storage or None
        None for a DICOM file that is not an image (a report).

    Raises
    ------
    InputError
        If the header claims more pixels than the file holds, or its numbers are invalid.
    """
    implicit, little = header.original_encoding
    element = _element_at(file, implicit=bool(implicit), little=bool(little))
    if element is None:
        if _is_image(header):
            raise InputError(
                "holds no pixels, although its SOP class is one of images", path=path, fix=_FIX
            )
        return None
    numbers = _Numbers(header, path)
    rows, columns = numbers.read("Rows", range(1, 2**16)), numbers.read("Columns", range(1, 2**16))
    frames = numbers.read("NumberOfFrames", range(1, 2**31), default=1)
    allocated = numbers.read("BitsAllocated", _ALLOCATED)
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    if photometric not in _SAMPLES:
        raise InputError(
            "its Photometric Interpretation is not supported"
            + (f" ({photometric})" if photometric in _NOT_READ else ""),
            path=path,
            fix="Export it in grey or RGB",
        )
    samples = numbers.read(
        "SamplesPerPixel", (_SAMPLES[photometric],), default=_SAMPLES[photometric]
    )
    start, length = file.tell(), element.length
    packed = length == _UNDEFINED
    pixels = frames * rows * columns
    if photometric == "YBR_FULL_422" and not packed:
        # Two colour values for every two pixels, unless the file is large enough for all values.
        samples_there = 3 if length >= pixels * 3 * allocated // 8 else 2
        photometric = "YBR_FULL" if samples_there == 3 else photometric
    else:
        samples_there = samples
    claimed = (pixels * samples_there * allocated + 7) // 8
    there = size - start
    enough = max(_COMPRESSION_FLOOR, _MOST_COMPRESSION * there) if packed else min(there, length)
    if claimed > enough or frames > _MOST_FRAMES:
        images = "1 frame" if frames == 1 else f"{frames} frames"
        raise InputError(
            f"its header claims {pixels} pixels in {images}, {claimed} bytes, but the file "
            f"has {min(there, length)} bytes for them",
            path=path,
            fix=_FIX,
        )
    notes: tuple[str, ...] = ()
    if packed:
        _check_fragments(file, size, frames, path)
    elif length > claimed + 1:
        notes = (
            f"The file has {length - claimed} more bytes of pixels than described by its header; "
            "they are not read.",
        )
    declared = header.file_meta.get("TransferSyntaxUID")
    if not packed:
        big = not little or declared == _GE_BIG_ENDIAN_PIXELS
        syntax = ExplicitVRBigEndian if big else ExplicitVRLittleEndian
    else:
        syntax = UID(declared or "")
    bits = numbers.read("BitsStored", range(2**16), default=allocated)
    bits = bits if 0 < bits <= allocated else allocated
    high = numbers.read("HighBit", range(2**16), default=bits - 1)
    return Storage(
        syntax=syntax,
        photometric=photometric,
        frames=frames,
        rows=rows,
        columns=columns,
        samples=samples,
        bits=bits,
        signed=numbers.read("PixelRepresentation", (0, 1), default=0) == 1,
        floating=element.keyword != "PixelData",
        allocated=allocated,
        lowest=high + 1 - bits if bits <= high + 1 <= allocated else 0,
        overlays=any(_embedded(header, group) for group in range(0x6000, 0x6020, 2)),
        planar=numbers.read("PlanarConfiguration", (0, 1), default=0) == 1,
        packed=packed,
        start=start,
        keyword=element.keyword,
        vr=element.vr,
        offsets=_extended_offsets(header) if packed else None,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Whole numbers of a header, checked."""

    header: pydicom.Dataset
    path: Path

    def read(self, keyword: str, allowed: Any, default: int | None = None) -> int:
        """Value of an attribute; the default if it is absent or empty."""
        value = self.header.get(keyword)
        if value is None or value == "":
            if default is not None:
                return default
            raise InputError(f"its header lacks {keyword}", path=self.path, fix=_FIX)
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise InputError(f"its {keyword} is not a number", path=self.path, fix=_FIX) from None
        if keyword == "NumberOfFrames" and number == 0:
            return 1
        if number not in allowed:
            raise InputError(
                f"its {keyword} is {number}, which is impossible", path=self.path, fix=_FIX
            )
        return number


def _element_at(file: BinaryIO, *, implicit: bool, little: bool) -> _Element | None:
    """Read the head of the pixels' element; None if the data set ends without one."""
    head = file.read(12)
    order = "<" if little else ">"
    if len(head) < 8:
        return None
    group, number = struct.unpack(order + "HH", head[:4])
    if group != 0x7FE0 or number not in _KEYWORDS:
        return None
    # Some data sets of implicit VR write the pixels' element in explicit VR, or the reverse.
    if head[4:8] in _LONG_VRS and len(head) == 12:
        (length,) = struct.unpack(order + "L", head[8:12])
        return _Element(_KEYWORDS[number], head[4:6].decode(), length)
    file.seek(8 - len(head), 1)
    (length,) = struct.unpack(order + "L", head[4:8])
    return _Element(_KEYWORDS[number], "" if implicit else "OW", length)


def _is_image(header: pydicom.Dataset) -> bool:
    """Whether a data set should have pixels, according to its SOP class or its other attributes."""
    kind = UID(str(header.get("SOPClassUID") or ""))
    return "Image Storage" in kind.name or "BitsAllocated" in header


def _embedded(header: pydicom.Dataset, group: int) -> bool:
    """Whether an overlay is in unused bits of the pixels: OverlayBitsAllocated is not 1."""
    tag = (group, 0x0100)  # OverlayBitsAllocated
    return tag in header and bool(header[tag].value != 1)


def _extended_offsets(header: pydicom.Dataset) -> tuple[bytes, bytes] | None:
    table, lengths = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    return (table, lengths) if table and lengths else None


def _check_fragments(file: BinaryIO, size: int, frames: int, path: Path) -> None:
    """Check that compressed fragments are complete, at least one per frame; skip their data."""
    fragments = -1  # the first item is the offset table
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
            f"its pixels are cut short: there are {max(fragments, 0)} compressed fragments for "
            f"{frames} frames" + ("" if whole else ", the last of them incomplete"),
            path=path,
            fix=_FIX,
        )
