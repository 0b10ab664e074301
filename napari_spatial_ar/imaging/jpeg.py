"""The structure of JPEG data: sizes, and whether it is complete (ISO 10918-1 annex B)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Jpeg", "read_jpeg"]

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_HUFFMAN, _QUANTISATION, _RESTART = 0xC4, 0xDB, 0xDD
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # 0xF7: JPEG-LS
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_NEEDED = {_HUFFMAN, _QUANTISATION, _RESTART, _SCAN, *_FRAMES}
# Entropy-coded data end at a marker that is neither a stuffed byte nor a restart.
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_MARKER_LS = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")  # JPEG-LS stuffs single bits (ISO 14495-1)


@dataclass(frozen=True, slots=True)
class Jpeg:
    """Header of JPEG data.

    Parameters
    ----------
    process : int
        Marker of the frame: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3 lossless, 0xF7
        JPEG-LS, ...
    rows, columns, samples : int
        Size.
    precision : int
        Bits of a value.
    ended : bool
        Whether there is an end-of-image marker.
    bare : bytes
        The data without comments and application segments: all that decoding needs.
    """

    process: int
    rows: int
    columns: int
    samples: int
    precision: int
    ended: bool
    bare: bytes = field(repr=False)


def read_jpeg(data: bytes) -> Jpeg:
    """Parse JPEG data marker by marker.

    Raises
    ------
    ValueError
        If they are not JPEG, are cut short in a segment, or a segment contradicts itself.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not JPEG data")
    at, frame, scans = 2, b"", 0
    process = 0
    bare = [data[:2]]
    while True:
        marker, at = _marker_at(data, at)
        if marker in (None, _END):
            break
        if marker in _ALONE:
            continue
        start = at
        at += int.from_bytes(data[at : at + 2], "big")
        segment = data[start + 2 : at]
        if at < start + 2 or at > len(data):
            raise ValueError("a segment is cut short")
        if marker in _FRAMES:
            if frame:
                raise ValueError("two frames")
            frame, process = segment, marker
            _check_frame(segment)
        elif marker == _HUFFMAN:
            _check_huffman(segment)
        elif marker == _SCAN:
            if not frame:
                raise ValueError("a scan without a frame")
            _check_scan(segment, frame, process)
            scans += 1
            found = (_MARKER_LS if process == 0xF7 else _MARKER).search(data, at)
            at = len(data) if found is None else found.start()
        if marker in _NEEDED:
            bare.append(bytes((0xFF, marker)) + data[start:at])
    if not scans:
        raise ValueError("no scan")
    return Jpeg(
        process=process,
        precision=frame[0],
        rows=int.from_bytes(frame[1:3], "big"),
        columns=int.from_bytes(frame[3:5], "big"),
        samples=frame[5],
        ended=marker == _END,
        bare=b"".join(bare) + b"\xff\xd9",
    )


def _marker_at(data: bytes, at: int) -> tuple[int | None, int]:
    """Marker at an offset, and the offset after it; None at the end of the data."""
    if at >= len(data):
        return None, at
    if data[at] != 0xFF:
        raise ValueError("a marker is missing")
    while at < len(data) and data[at] == 0xFF:  # any number of fill bytes
        at += 1
    return (data[at], at + 1) if at < len(data) else (None, at)


def _check_frame(segment: bytes) -> None:
    if len(segment) < 6 or len(segment) != 6 + 3 * segment[5]:
        raise ValueError("a frame whose length does not match its components")
    factors = [segment[7 + 3 * n] for n in range(segment[5])]
    if not factors or any(not 1 <= f >> 4 <= 4 or not 1 <= f & 15 <= 4 for f in factors):
        raise ValueError("impossible sampling factors")


def _check_huffman(segment: bytes) -> None:
    """Check that each table has the stated number of values, and codes for all of them."""
    at = 0
    while at < len(segment):
        counts = segment[at + 1 : at + 17]
        room = 1
        for count in counts:
            room = 2 * room - count
            if room < 0:
                raise ValueError("a Huffman table with too many codes")
        if len(counts) < 16 or segment[at] >> 4 > 1 or segment[at] & 15 > 3:
            raise ValueError("a Huffman table that is damaged")
        at += 17 + sum(counts)
    if at != len(segment):
        raise ValueError("a Huffman table that is cut short")


def _check_scan(segment: bytes, frame: bytes, process: int) -> None:
    count = segment[0] if segment else 0
    known = {frame[6 + 3 * n] for n in range(frame[5])}
    named = [segment[1 + 2 * n] for n in range(count) if 1 + 2 * n < len(segment)]
    if not 1 <= count <= 4 or len(segment) != 4 + 2 * count or not known.issuperset(named):
        raise ValueError("a scan with components that are not in the frame")
    first, _, low = segment[-3:]
    if process == 0xC3 and not (1 <= first <= 7 and low & 15 < frame[0]):
        raise ValueError("an undefined predictor")
