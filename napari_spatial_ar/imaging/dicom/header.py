"""DICOM files told by content, and their headers read no further than is needed."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.filebase import DicomIO
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.storage import Storage, read_storage
from napari_spatial_ar.imaging.guard import guard

__all__ = ["DAMAGED", "is_dicom", "opened", "patient_key", "read_header", "read_whole_header"]

DAMAGED = "is not a DICOM file that can be read: it is cut short or damaged"
_DICOMDIR = re.compile(rb"1\.2\.840\.10008\.1\.3\.10(?![.0-9])")
_DEFLATED = re.compile(rb"1\.2\.840\.10008\.1\.2\.1\.99(?![.0-9])")
# First elements of files without a preamble, little endian: group length, character set, ...
_BARE_STARTS = tuple(b"\x08\0" + element for element in (b"\0\0", b"\x05\0", b"\x08\0", b"\x16\0"))
# Deflated files hold no more than this when inflated: a few bytes can claim any size.
_MOST_INFLATED = 2**29
_HEAD = 4096

_KEYWORDS = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID ConcatenationUID Modality
    ImageType SeriesNumber SeriesDescription ProtocolName PatientName PatientID OtherPatientIDs
    AccessionNumber
    Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel
    PlanarConfiguration PhotometricInterpretation NumberOfFrames
    RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence Units WindowCenter WindowWidth
    VOILUTFunction RealWorldValueMappingSequence DoseGridScaling DoseUnits
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness
    SpacingBetweenSlices GridFrameOffsetVector
    EchoNumbers EchoTime TemporalPositionIdentifier DiffusionBValue
    DiffusionGradientOrientation AcquisitionNumber TriggerTime InversionTime FlipAngle
    AcquisitionDateTime AcquisitionTime ContentTime InstanceNumber
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
"""
_PRIVATE = (
    *((0x0019, 0x0010), (0x0019, 0x100A), (0x0019, 0x100C), (0x0019, 0x100E)),  # Siemens MR
    *((0x0043, 0x0010), (0x0043, 0x1039)),  # GE
)


# Plain numbers, which are looked up a good deal faster than pydicom's tags, for every attribute.
_TAGS: list[BaseTag | int] = [
    *(tag for tag in map(tag_for_keyword, _KEYWORDS.split()) if tag is not None),
    *(group << 16 | element for group, element in _PRIVATE),
]
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) in _PIXELS


def is_dicom(path: Path) -> bool:
    """Whether a file says inside that it is DICOM, with or without a preamble.

    A DICOMDIR is not counted: it holds no image, and the files it names stand beside it.
    """
    try:
        with open(path, "rb") as file:
            return _is_dicom(file.read(_HEAD))
    except OSError:
        return False


def _is_dicom(head: bytes) -> bool:
    if head[128:132] == b"DICM":
        return _DICOMDIR.search(head) is None
    return head.startswith(_BARE_STARTS)


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """Open a file for pydicom; one of the deflated transfer syntax inflated, as explicit VR.

    Yields
    ------
    (binary file, bool)
        The file at its start, and whether it says that it is DICOM.

    Raises
    ------
    InputError
        If a deflated file claims to hold more than 512 MiB.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        file.seek(0)
        if not _DEFLATED.search(head):
            yield file, _is_dicom(head)
            return
        with _inflated(file, path) as plain:
            yield plain, True


def _inflated(file: BinaryIO, path: Path) -> BytesIO:
    meta = read_file_meta_info(path)
    # Preamble, "DICM", the group length element (12 bytes), and what that says follows.
    file.seek(144 + int(meta.FileMetaInformationGroupLength))
    worker = zlib.decompressobj(-zlib.MAX_WBITS)
    data = worker.decompress(file.read(), _MOST_INFLATED)
    if worker.unconsumed_tail:
        limit = f"{_MOST_INFLATED // 2**20} MiB"
        raise InputError(f"claims to hold more than {limit} when inflated", path=path)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain = BytesIO()
    plain.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(DicomIO(plain), meta)
    plain.write(data)
    plain.seek(0)
    return plain


def read_header(path: Path) -> tuple[pydicom.Dataset, Storage | None]:
    """Attributes that imaging uses, and how the pixels are stored; None where there are none.

    Raises
    ------
    InputError
        If the file is no DICOM, or its pixels are not all there.
    """
    with guard(path, DAMAGED), opened(path) as (file, known):
        header = read_partial(file, _at_pixels, force=known, specific_tags=_TAGS)
        at = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(at)
        return header, read_storage(header, file, size, path)


def read_whole_header(path: Path) -> pydicom.Dataset:
    """Every attribute but the pixels."""
    with guard(path, DAMAGED):
        return pydicom.dcmread(path, stop_before_pixels=True, force=is_dicom(path))


def patient_key(path: Path) -> str:
    """12 hex digits of the sha256 of a file's PatientID, or of its study's UID without one.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    with guard(path, DAMAGED):
        header = pydicom.dcmread(
            path,
            stop_before_pixels=True,
            force=is_dicom(path),
            specific_tags=["PatientID", "StudyInstanceUID"],
        )
        who = str(header.get("PatientID") or header.get("StudyInstanceUID") or path.parent)
    return hashlib.sha256(who.encode()).hexdigest()[:12]
