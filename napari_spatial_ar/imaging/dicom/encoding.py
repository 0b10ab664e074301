"""Read data sets in their actual encoding, whatever their transfer syntax states."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import pydicom
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

__all__ = ["PIXEL_TAGS", "parse"]

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UNDEFINED = 0xFFFFFFFF
_SEQUENCE_END = {True: b"\xfe\xff\xdd\xe0", False: b"\xff\xfe\xe0\xdd"}


class _Encoding(NamedTuple):
    implicit: bool
    little: bool


def parse(file: BinaryIO, tags: Sequence[BaseTag | int] = ()) -> pydicom.Dataset:
    """Read a data set up to its pixels, or to its end if it has none.

    Explicit or implicit VR and byte order are detected from the first element: some writers change
    the encoding but not the transfer syntax, or the reverse.

    Parameters
    ----------
    file : binary file
        Positioned anywhere; preamble and file meta information are optional. Left at the element
        with the pixels, or at the end.
    tags : sequence of tags
        Attributes to read; all by default.

    Returns
    -------
    pydicom.Dataset
        With ``file_meta``; ``original_encoding`` is the one detected.

    Raises
    ------
    ValueError
        If there is no data set, or it ends in the middle of an element.
    """
    file.seek(0)
    if file.read(132)[128:] != b"DICM":
        file.seek(0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    encoding = _encoding_at(file, meta.get("TransferSyntaxUID"))
    ends: list[int] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        # Called after the head of each element.
        ends[:] = file.tell(), length
        return int(tag) in PIXEL_TAGS

    header = read_dataset(
        file,
        encoding.implicit,
        encoding.little,
        stop_when=at_pixels,
        specific_tags=list(tags) or None,
    )
    header.file_meta = meta  # type: ignore[assignment]
    header.set_original_encoding(encoding.implicit, encoding.little)
    if not ends:
        raise ValueError("there is no data set")
    place, length = ends
    if file.tell() >= place and not _is_whole(file, place, length, encoding):
        raise ValueError("the data set ends in the middle of an element")
    return header


def _encoding_at(file: BinaryIO, syntax: UID | None) -> _Encoding:
    """Detect the encoding of the element at the current position, else that of the syntax."""
    declared = _Encoding(
        implicit=syntax is None or syntax == ImplicitVRLittleEndian,
        little=syntax != ExplicitVRBigEndian,
    )
    head = file.read(6)
    file.seek(-len(head), os.SEEK_CUR)
    if len(head) < 6:
        return declared
    # Groups are in ascending order, and the first is a small number: usually 0008.
    low, high = head[0], head[1]
    little = declared.little if low == high else low > high
    # A length that reads as two capital letters would be 16 kB or more: not in a first element.
    return _Encoding(not (head[4:6].isalpha() and head[4:6].isupper()), little)


def _is_whole(file: BinaryIO, place: int, length: int, encoding: _Encoding) -> bool:
    """Whether a data set without pixels ends where its last element does."""
    size = file.seek(0, os.SEEK_END)
    if length == _UNDEFINED:
        file.seek(max(0, size - 8))
        return file.read(4) == _SEQUENCE_END[encoding.little]
    # Some writers pad with zeros.
    file.seek(min(place + length, size))
    return place + length <= size and not file.read().strip(b"\0")
