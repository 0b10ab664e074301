"""File types by their first bytes; if there are several signatures, the strongest counts.

The first 128 bytes of a DICOM file are free (PS3.10 7.1): whole-slide images and others are TIFF
files too. So a signature at its own offset in a file takes precedence over one at the start, and a
long one over a short one.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

from napari_spatial_ar.imaging.dicom.header import (
    begins_bare,
    begins_with_preamble,
    is_dicomdir_head,
)
from napari_spatial_ar.imaging.images import PNG, is_raster_head
from napari_spatial_ar.imaging.itk_header import is_itk_head
from napari_spatial_ar.imaging.nifti_header import is_nifti_head, unpacked_head
from napari_spatial_ar.imaging.oct import is_oct_head

__all__ = ["HEAD_BYTES", "Kind", "is_nifti", "is_raster", "kind_of", "kind_of_head"]

#: "packed": a supported format compressed by gzip. Only NIfTI is read compressed.
Kind = Literal["dicom", "dicomdir", "nifti", "raster", "itk", "oct", "packed"]

#: Number of bytes examined at the beginning of a file.
HEAD_BYTES = 4096
_GZIP = b"\x1f\x8b"
# The first element behind "DICM": the length of the file meta information, four bytes long.
_FILE_META = b"\x02\0\0\0UL\x04\0"


def kind_of(path: Path) -> Kind | None:
    """Detect a file's type by its first bytes; None if unknown, or if it cannot be opened."""
    try:
        if not path.is_file():  # a pipe or a device would never end
            return None
        with open(path, "rb") as file:
            return kind_of_head(file.read(HEAD_BYTES), path)
    except OSError:
        return None


def kind_of_head(head: bytes, path: Path) -> Kind | None:
    """Detect a file's type by its first bytes.

    Parameters
    ----------
    head : bytes
        The first `HEAD_BYTES` of the file, or all of it.
    path : Path
        The file: some formats have no signature, but a suffix and a size.
    """
    if begins_with_preamble(head):
        return "dicomdir" if is_dicomdir_head(head) else "dicom"
    inside = unpacked_head(head)
    if _is_whole_nifti(inside):
        return "nifti"
    if head.startswith(_GZIP):
        packed = kind_of_head(inside, path) if inside and not inside.startswith(_GZIP) else None
        return "packed" if packed not in (None, "nifti") else packed
    if head.startswith(PNG):
        return "raster"
    if head[128:132] == b"DICM" or head[132:140] == _FILE_META:
        return "dicom"  # also if damage removed one of the two, which is reported later
    if is_raster_head(head):
        return "raster"
    if is_itk_head(head, path):
        return "itk"
    if is_nifti_head(head):
        return "nifti"
    if begins_bare(head):
        return "dicom"
    return "oct" if is_oct_head(head, path) else None


def _is_whole_nifti(head: bytes) -> bool:
    """Whether a header has both its length and its magic word."""
    if len(head) < 348:
        return False
    sizes = {struct.unpack_from(f"{order}i", head)[0] for order in "<>"}
    return (348 in sizes and head[344:348] in (b"n+1\0", b"ni1\0")) or (
        540 in sizes and head[4:12] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")
    )


def is_nifti(path: Path) -> bool:
    """Whether a file's content is a NIfTI scan, compressed or not, or the header of a pair."""
    return kind_of(path) == "nifti"


def is_raster(path: Path) -> bool:
    """Whether a file's content is a PNG, JPEG, TIFF or BMP image, and nothing else."""
    return kind_of(path) == "raster"
