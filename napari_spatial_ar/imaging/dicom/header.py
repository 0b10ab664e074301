"""Detect DICOM files by content, and read their headers no further than needed."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import pydicom
from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.filebase import DicomIO
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from napari_spatial_ar.imaging.dicom.classes import is_image
from napari_spatial_ar.imaging.dicom.encoding import parse
from napari_spatial_ar.imaging.dicom.private import PRIVATE_TAGS
from napari_spatial_ar.imaging.dicom.storage import Storage, read_storage
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.inflate import InflatedFile, Inflater
from napari_spatial_ar.imaging.memory import check_fits

__all__ = [
    "DAMAGED",
    "begins_bare",
    "begins_with_preamble",
    "is_deflated_head",
    "is_dicom",
    "is_dicomdir_head",
    "opened",
    "patient_key",
    "read_header",
    "read_whole_header",
]

DAMAGED = "is not a DICOM file that can be read: it is cut short or damaged"
# Class and transfer syntax in the File Meta of the file itself, not of files that it refers to.
_DICOMDIR = re.compile(rb"\x02\0\x02\0(?:UI)?.{2,4}1\.2\.840\.10008\.1\.3\.10(?![.0-9])", re.DOTALL)
_DEFLATED = re.compile(
    rb"\x02\0\x10\0(?:UI)?.{2,4}1\.2\.840\.10008\.1\.2\.1\.99(?![.0-9])", re.DOTALL
)
# An element of the first group in any encoding.
_PLAIN = re.compile(rb"\x08\0.\0(?:[A-Z]{2}|.\0\0\0)|\0\x08\0.[A-Z]{2}", re.DOTALL)
# This many valid elements at the start of a file identify a data set without a preamble.
_BARE_ELEMENTS = 3
_BARE_GROUPS = (0x0002, 0x0008)
# Maximum size of a deflated file excluding its pixels: a few bytes can claim any size.
_MOST_BESIDE_PIXELS = 2**24
_HEAD = 4096

_KEYWORDS = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID ConcatenationUID Modality
    ImageType SeriesNumber SeriesDescription ProtocolName PatientName PatientID OtherPatientIDs
    AccessionNumber
    Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel
    PlanarConfiguration PhotometricInterpretation NumberOfFrames
    RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence Units WindowCenter WindowWidth
    VOILUTFunction RealWorldValueMappingSequence DoseGridScaling DoseUnits
    PixelPaddingValue PixelPaddingRangeLimit BurnedInAnnotation
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness
    SpacingBetweenSlices GridFrameOffsetVector
    EchoNumbers EchoTime TemporalPositionIdentifier DiffusionBValue
    DiffusionGradientOrientation AcquisitionNumber TriggerTime InversionTime FlipAngle
    ScanningSequence SequenceVariant PulseSequenceName AcquisitionContrast ContrastBolusAgent
    RepetitionTime KVP ConvolutionKernel ASLContext SequenceName ReceiveCoilName ImageComments
    ComplexImageComponent NominalPercentageOfCardiacPhase FrameReferenceTime
    AcquisitionDateTime AcquisitionDate AcquisitionTime ContentDate ContentTime InstanceNumber
    FrameOfReferenceUID StudyDate SeriesDate SeriesTime
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    ExtendedOffsetTable ExtendedOffsetTableLengths
"""
_OVERLAY_BITS = [group << 16 | 0x0100 for group in range(0x6000, 0x6020, 2)]  # OverlayBitsAllocated

# Plain integers: lookup is much faster than with pydicom's tags, and happens for every attribute.
_TAGS: list[BaseTag | int] = [
    *(tag for tag in map(tag_for_keyword, _KEYWORDS.split()) if tag is not None),
    *PRIVATE_TAGS,
    *_OVERLAY_BITS,
]


def begins_with_preamble(head: bytes) -> bool:
    """Whether a file that begins so is DICOM by PS3.10 7.1: "DICM" and an element of group 2.

    The preamble before it may be the beginning of another kind of file.
    """
    return head[128:134] == b"DICM\2\0" and re.match(rb"[A-Z]{2}", head[136:138]) is not None


def begins_bare(head: bytes) -> bool:
    """Whether a file that begins so is a DICOM data set without a preamble.

    It begins with File Meta, or with any element of the group that identifies an image: known
    elements follow in ascending order, in one of the four encodings (old files, ACR-NEMA included,
    have implicit VR).
    """
    return any(
        _elements_follow(head, order, explicit) for order in "<>" for explicit in (True, False)
    )


def _elements_follow(head: bytes, order: str, explicit: bool) -> bool:
    at, last = 0, 0
    for number in range(_BARE_ELEMENTS):
        if len(head) < at + 12:
            return False
        group, element, length = struct.unpack_from(f"{order}HHL", head, at)
        start = at + 8
        if explicit:
            vr = head[at + 4 : at + 6].decode("ascii", "replace")
            if vr not in STANDARD_VR:
                return False
            length = struct.unpack_from(f"{order}H", head, at + 6)[0]
            if vr in EXPLICIT_VR_LENGTH_32:
                length = struct.unpack_from(f"{order}L", head, at + 8)[0]
                start = at + 12
        tag = group << 16 | element
        known = element == 0 or group % 2 == 1 or dictionary_has_tag(tag)
        if not known or tag <= last or (number == 0 and group not in _BARE_GROUPS):
            return False
        at, last = start + length, tag
    return True


def is_dicomdir_head(head: bytes) -> bool:
    """Whether a file that begins so is a DICOMDIR, by the class in its File Meta."""
    return head[128:132] == b"DICM" and _DICOMDIR.search(head, 132) is not None


def is_deflated_head(head: bytes) -> bool:
    """Whether a file that begins so is of the deflated transfer syntax, by its File Meta.

    False if a plain data set follows: some programs leave the original transfer syntax in the File
    Meta.
    """
    start = 144 + int.from_bytes(head[140:144], "little")
    return _DEFLATED.search(head) is not None and _PLAIN.match(head, start) is None


def is_dicom(path: Path) -> bool:
    """Whether a file's content is DICOM, with or without a preamble.

    A DICOMDIR is not counted: it has no image, and the files it names are beside it.
    """
    try:
        with open(path, "rb") as file:
            return _is_dicom(file.read(_HEAD))
    except OSError:
        return False


def _is_dicom(head: bytes) -> bool:
    if head[128:132] == b"DICM":
        return not is_dicomdir_head(head)
    return begins_bare(head)


@contextmanager
def opened(path: Path, pixel_bytes: int = 0) -> Iterator[tuple[BinaryIO, bool]]:
    """Open a file for pydicom; one of the deflated transfer syntax inflated, as explicit VR.

    Parameters
    ----------
    path : Path
        The file.
    pixel_bytes : int
        Maximum size of its pixels, if they are needed.

    Yields
    ------
    (binary file, bool)
        The file at its start, and whether it is DICOM. Reading from it raises InputError if a
        deflated file holds more than its pixels and 16 MiB.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        file.seek(0)
        if is_deflated_head(head):
            yield cast(BinaryIO, _inflated(file, path, pixel_bytes)), True
        else:
            yield file, head[128:132] == b"DICM" or begins_bare(head)


def _inflated(file: BinaryIO, path: Path, pixel_bytes: int) -> InflatedFile:
    check_fits(2 * pixel_bytes, path)  # memory that is used in addition
    meta = read_file_meta_info(path)
    # Preamble, "DICM", the group length element (12 bytes), and as many bytes as it states.
    file.seek(144 + int(meta.FileMetaInformationGroupLength))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain = BytesIO()
    plain.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(DicomIO(plain), meta)
    most = pixel_bytes + _MOST_BESIDE_PIXELS
    return InflatedFile(Inflater(file, "deflate", most_bytes=most, path=path), plain.getvalue())


def read_header(path: Path) -> tuple[pydicom.Dataset, Storage | None]:
    """Attributes that imaging uses, and how the pixels are stored; None if it is not an image.

    Raises
    ------
    InputError
        If the file is not DICOM, or its pixels are incomplete.
    """
    with guard(path, DAMAGED), opened(path) as (file, _):
        header = parse(file, _TAGS)
        sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if not is_image(str(sop_class or ""), str(header.get("Modality") or "")):
            return header, None
        return header, read_storage(header, file, _size(file), path)


def _size(file: BinaryIO) -> int:
    """Bytes of a file positioned at its pixels; the position does not change."""
    at = file.tell()
    if isinstance(file, InflatedFile):
        # As many as the pixels' element claims (explicit VR: the last four of its 12 bytes).
        claimed = int.from_bytes(file.read(12)[8:], "little")
        file.inflater.most_bytes = at + claimed + _MOST_BESIDE_PIXELS
        size = file.size()
    else:
        size = file.seek(0, os.SEEK_END)
    file.seek(at)
    return size


def read_whole_header(path: Path, keywords: Sequence[str] | None = None) -> pydicom.Dataset:
    """Every attribute of a DICOM file except the pixels, or those with these keywords.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    tags = [tag for tag in map(tag_for_keyword, keywords or ()) if tag is not None]
    with guard(path, DAMAGED), opened(path) as (file, _):
        return parse(file, tags)


def patient_key(path: Path) -> str:
    """12 hex digits of the sha256 of a file's PatientID, or of its study's UID without one.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    header = read_whole_header(path, ["PatientID", "StudyInstanceUID"])
    with guard(path, DAMAGED):
        who = str(header.get("PatientID") or header.get("StudyInstanceUID") or path.parent)
    return hashlib.sha256(who.encode(errors="surrogatepass")).hexdigest()[:12]
