"""Headers of compressed frames: JPEG, JPEG-LS, JPEG 2000 or HTJ2K."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
)

from napari_spatial_ar.imaging.jpeg import read_jpeg

__all__ = ["Codestream", "read_codestream"]

# Transfer syntax of each JPEG process. All of JPEG-LS are decoded alike, and so are those of JPEG
# 2000, and of lossless JPEG.
_PROCESSES = {
    0xC0: JPEGBaseline8Bit,
    0xC1: JPEGExtended12Bit,
    0xC2: JPEGExtended12Bit,
    0xC3: JPEGLosslessSV1,
    0xF7: JPEGLSNearLossless,
}
_JPEG_2000 = b"\xff\x4f\xff\x51"
_JP2 = b"\0\0\0\x0cjP  "


@dataclass(frozen=True, slots=True)
class Codestream:
    """Header of a compressed frame.

    Parameters
    ----------
    syntax : UID
        Transfer syntax whose decoder reads it.
    rows, columns, samples : int
        Size.
    precision : int
        Bits per value.
    signed : bool
        Whether values are signed; never in JPEG and JPEG-LS.
    bare : bytes
        The data without what decoding does not need; unchanged if they are not JPEG.
    """

    syntax: UID
    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool
    bare: bytes = field(repr=False)


def read_codestream(data: bytes) -> Codestream | None:
    """Read the header of a compressed frame; None if it is none of these (RLE has no header).

    Raises
    ------
    ValueError
        If it is cut short or contradicts itself, or is of a JPEG process without a decoder.
    """
    start = max(0, data.find(_JPEG_2000)) if data.startswith(_JP2) else 0
    if data.startswith(_JPEG_2000, start):
        return _jpeg_2000(data[start:])
    if not data.startswith(b"\xff\xd8"):
        return None
    found = read_jpeg(data)
    if found.process not in _PROCESSES:
        raise ValueError(f"JPEG of process SOF{found.process & 15}, which is not supported")
    if not found.ended:
        raise ValueError("JPEG data without an end")
    return Codestream(
        syntax=_PROCESSES[found.process],
        rows=found.rows,
        columns=found.columns,
        samples=found.samples,
        precision=found.precision,
        signed=False,
        bare=found.bare,
    )


def _jpeg_2000(data: bytes) -> Codestream:
    """Size marker (ISO 15444-1 A.5.1); bit 14 of the capabilities marks HTJ2K (15444-15)."""
    if len(data) < 43:
        raise ValueError("the header of a compressed frame is cut short")
    right, bottom, left, top = (
        int.from_bytes(data[8 + 4 * n : 12 + 4 * n], "big") for n in range(4)
    )
    return Codestream(
        syntax=HTJ2K if data[6] & 0x40 else JPEG2000,
        rows=bottom - top,
        columns=right - left,
        samples=int.from_bytes(data[40:42], "big"),
        precision=(data[42] & 0x7F) + 1,
        signed=data[42] >= 0x80,
        bare=data,
    )
