"""What masks and heatmaps written as DICOM share: source images, algorithm and references.

highdicom builds the objects. It takes the position of each frame from its source image, so each
slice is given a header with its exact position here, even if it is one of many frames in a file.
Afterwards the references are corrected: file, frame, and only the images used.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.config import RAISE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.uid import UID, MRImageStorage
from pydicom.valuerep import DS, validate_value

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.anatomy import ExaminedRegion, examined_region
from napari_spatial_ar.imaging.dicom.frames import reversed_rows
from napari_spatial_ar.imaging.dicom.groups import Groups
from napari_spatial_ar.imaging.dicom.header import is_dicom, read_whole_header
from napari_spatial_ar.imaging.dicom.private import rows_reversed
from napari_spatial_ar.imaging.dicom.sources import dicom_sources
from napari_spatial_ar.imaging.dicom.values import Header, numbers
from napari_spatial_ar.imaging.files import atomic_path
from napari_spatial_ar.imaging.geometry import slice_number
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan

__all__ = [
    "REMARK",
    "Algorithm",
    "Reading",
    "SourceSlice",
    "Written",
    "caveats",
    "complete",
    "content_uid",
    "derived_uids",
    "finish",
    "image_marks",
    "is_from_dicom",
    "plain_text",
    "reference_to",
    "save",
    "software",
    "source_slices",
    "source_uids",
]

Floats = npt.NDArray[np.float64]

#: Shown to readers by the PACS (at most 64 characters).
REMARK = "For research use, not for diagnosis."
_PRODUCT = "napari-spatial-ar"
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_TOO_LITTLE = "its header lacks what a DICOM object derived from it requires"
# A slice may be off its regular grid by rounding.
_SAME_PLACE_MM = 0.2
_SAME_AXES = 1e-2
# Attributes of the patient and the study that the object must contain, even if empty.
_MUST_STAND = (
    *("PatientID", "PatientName", "PatientBirthDate"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# Groups with the patient, the study, the frame of reference and the pixels' size; of their
# elements, those that each slice has its own copy of (pydicom would change a shared one
# everywhere).
_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0028, 0x0032, 0x0038)
_OWN = frozenset(
    map(
        tag_for_keyword,
        (
            *("PatientSex", "SOPClassUID", "SOPInstanceUID", "ImagePositionPatient"),
            *("ImageOrientationPatient", "PixelSpacing", "NumberOfFrames"),
            *("SliceThickness", "SpacingBetweenSlices", "SpecificCharacterSet"),
            "DeidentificationMethod",
            # Texts that viewers do not need.
            *("RescaleType", "WindowCenterWidthExplanation"),
        ),
    )
)


@dataclass(frozen=True)
class Algorithm:
    """The algorithm that produced a mask or a heatmap.

    Parameters
    ----------
    name : str
        The model's name; truncated to 64 characters.
    version : str
        Distinguishes models of that name, such as the start of the sha256; truncated to 64
        characters.
    parameters : mapping of str to str
        Its settings, such as the threshold.
    """

    name: str
    version: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> list[object]:
        """Return plain values for `content_uid`."""
        return [self.name, self.version, dict(self.parameters)]

    def identification(self) -> hd.AlgorithmIdentificationSequence:
        """Return the sequence that identifies it, family "Artificial Intelligence"."""
        return hd.AlgorithmIdentificationSequence(
            name=plain_text(self.name),
            family=codes.cid7162.ArtificialIntelligence,
            version=plain_text(self.version) or "unknown",
            source=_PRODUCT,
            parameters=dict(self.parameters) or None,
        )


@dataclass(frozen=True)
class Written:
    """A DICOM object that was written, as other objects of its study refer to it.

    Parameters
    ----------
    sop_class, sop_instance, series : str
        Its UIDs.
    """

    sop_class: str
    sop_instance: str
    series: str

    @classmethod
    def of(cls, made: Dataset) -> Written:
        """Read them from the object."""
        return cls(str(made.SOPClassUID), str(made.SOPInstanceUID), str(made.SeriesInstanceUID))


@dataclass(frozen=True)
class Reading:
    """Which reading of a scan an object is of: a later one supersedes the earlier ones.

    Parameters
    ----------
    number : int
        Counts the readings of a scan that differ, from 1.
    supersedes : str
        Identifies the reading before, "" for the first.
    """

    number: int = 1
    supersedes: str = ""

    def described(self, text: str, source: SourceSlice) -> str:
        """Series description: "research use", the source's series, the number of a later reading.

        A study may have objects derived from several series.
        """
        series = "" if source.series_number is None else f", series {source.series_number}"
        later = "" if self.number == 1 else f", reading {self.number}"
        use = f" (research use){series}{later}"
        return plain_text(text)[: 64 - len(use)] + use

    def series_number(self, first: int) -> int:
        """Series number of an object whose number is ``first`` in the first reading."""
        return first + 10 * (self.number - 1)


@dataclass(frozen=True, eq=False)
class SourceSlice:
    """The DICOM image that one acquired slice was read from.

    Parameters
    ----------
    header : Dataset
        Header of a single-frame image at the slice's position, with a generated SOPInstanceUID.
    sop_class, sop_instance : str
        Of the file itself.
    frame : int or None
        Number of the frame in the file, from 1; None if the file holds one image.
    region : ExaminedRegion or None
        The examined part of the body, if the header states it.
    rescale : (float, float) or None
        Slope and intercept of the image's Modality LUT; None if it has a table, or values of
        another kind.
    series_number : int or None
        Number of its series, if the header has one.
    window : (float, float) or None
        Window centre and width that its header requests, in the unit of the Modality LUT.
    """

    header: Dataset
    sop_class: str
    sop_instance: str
    frame: int | None
    region: ExaminedRegion | None = None
    rescale: tuple[float, float] | None = None
    series_number: int | None = None
    window: tuple[float, float] | None = None

    @property
    def image(self) -> Dataset:
        """Header with the UIDs of the file itself; a copy."""
        made = deepcopy(self.header)
        made.SOPClassUID = UID(self.sop_class)
        made.SOPInstanceUID = UID(self.sop_instance)
        return made


def content_uid(*content: object) -> str:
    """UID that equal content always gets, on any computer.

    Parameters
    ----------
    content : array or plain JSON value
        Arrays count by type, shape and values. The kind of object comes first, so that two kinds
        made of the same content differ.
    """
    digest = hashlib.sha256()
    for part in content:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            for plane in part:
                digest.update(np.ascontiguousarray(plane).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
        digest.update(b"\0")
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest()).int}"


def derived_uids(
    kind: str, slices: Sequence[SourceSlice], *content: object
) -> tuple[hd.UID, hd.UID]:
    """UIDs of series and object, by what the object is derived from and what it holds.

    So the same result has the same UIDs whenever and wherever it is exported: an archive that has
    it already adds nothing.

    Parameters
    ----------
    kind : str
        Kind of object.
    slices : sequence of SourceSlice
        The images that it is derived from: several volumes may share a series.
    content : array or plain JSON value
        What distinguishes it from others, see `content_uid`.
    """
    images = [[source.sop_instance, source.frame] for source in slices]
    key = kind, str(slices[0].header.SeriesInstanceUID), images, *content
    return hd.UID(content_uid("series", *key)), hd.UID(content_uid("instance", *key))


def image_marks(slices: Sequence[SourceSlice]) -> list[str]:
    """Short hashes of the images, sorted: they show without UIDs which images two scans share."""
    images = {f"{source.sop_instance} {source.frame}" for source in slices}
    return sorted(hashlib.sha256(image.encode()).hexdigest()[:12] for image in images)


def is_from_dicom(scan: Scan) -> bool:
    """Whether a scan was read from DICOM files that still exist and identify their series."""
    files = scan.series.files
    there = bool(scan.series.uid and files) and all(file.is_file() for file in files)
    return there and is_dicom(files[0])


def source_uids(scan: Scan) -> dict[str, str]:
    """UIDs of a DICOM scan's ``series``, ``study`` and ``frame_of_reference``; {} for others."""
    if not is_from_dicom(scan):
        return {}
    keywords = ["SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"]
    path = scan.series.files[0]
    header = read_whole_header(path, keywords)
    with guard(path, _TOO_LITTLE):
        found = [str(header.get(keyword) or "") for keyword in keywords]
    return dict(zip(("series", "study", "frame_of_reference"), found, strict=True))


def caveats(scan: Scan) -> tuple[str, ...]:
    """Warnings about a DICOM object derived from a scan, one sentence each."""
    if source_uids(scan).get("frame_of_reference") == "":
        return (
            "The series has no frame of reference, which DICOM requires: the DICOM mask and map "
            "have one derived from the series' UID, and refer to the images themselves as usual.",
        )
    return ()


def source_slices(scan: Scan) -> list[SourceSlice]:
    """Header of each acquired slice, in slice order.

    A series without a frame of reference gets one derived from its UID (see `caveats`).

    Raises
    ------
    InputError
        If the scan is not from DICOM, its files are missing or changed, they do not state their
        position in the patient, or several have one UID.
    """
    geometry = scan.geometry
    if not scan.series.uid and dicom_sources(scan) is not None:
        raise InputError(
            "its series has no UID, as after some anonymisers, so no DICOM object can refer to it",
            path=scan.series.files[0],
            fix="Write NIfTI",
        )
    if not is_from_dicom(scan):
        raise InputError(
            "this scan was not read from DICOM files that still exist, so no DICOM object "
            "can refer to them",
            path=scan.series.files[0] if scan.series.files else None,
            fix="Write NIfTI, and put it on the DICOM series with 'napari-spatial-ar seg'",
        )
    headers: dict[Path, Dataset] = {}
    slices = []
    step = geometry.spacing[0] if geometry.regular and geometry.shape[0] > 1 else None
    for index, (path, number) in enumerate(_sources(scan)):
        if path not in headers:
            headers[path] = read_whole_header(path)
        with guard(path, _TOO_LITTLE):
            place = _place(headers[path], number)
        if place is None:
            raise InputError(
                "the series does not state its position in the patient, which a DICOM segmentation "
                "or map requires",
                path=path,
                fix="Use the NIfTI files",
            )
        _check_place(scan, index, _as_read(headers[path], place), path)
        with guard(path, _TOO_LITTLE):
            slices.append(_source_slice(headers[path], number, place, step, geometry.spacing[0]))
    if len({(source.sop_instance, source.frame) for source in slices}) < len(slices):
        raise InputError(
            "several of its images have one SOP Instance UID, so a DICOM segmentation or map "
            "cannot refer to them",
            path=scan.series.files[0],
            fix="Use the NIfTI files",
        )
    return slices


def _sources(scan: Scan) -> tuple[tuple[Path, int], ...]:
    """File of each slice, and the index of its frame in that file."""
    found = dicom_sources(scan)
    if found is None:
        raise InputError(
            "its slices are not DICOM images by themselves (a mosaic holds many), so a DICOM "
            "segmentation or map cannot refer to them",
            path=scan.series.files[0],
            fix="Use the NIfTI files",
        )
    return found


@dataclass(frozen=True, eq=False)
class _Place:
    """Position of an image in its header: LPS mm, unit vectors, mm between rows, columns."""

    position: Floats
    axes: Floats
    spacing: Floats


def _place(header: Dataset, number: int) -> _Place | None:
    groups = [
        *header.get("PerFrameFunctionalGroupsSequence", [])[number : number + 1],
        *header.get("SharedFunctionalGroupsSequence", [])[:1],
    ]

    def find(sequence: str, keyword: str, count: int) -> Floats | None:
        levels = [item for group in groups for item in group.get(sequence, [])[:1]]
        for level in (*levels, header):
            value = numbers(level.get(keyword), count)
            if value is not None:
                return value
        return None

    position = find("PlanePositionSequence", "ImagePositionPatient", 3)
    axes = find("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = find("PixelMeasuresSequence", "PixelSpacing", 2)
    if position is None or axes is None or spacing is None:
        return None
    return _Place(position, axes.reshape(2, 3), spacing)


def _as_read(header: Dataset, place: _Place) -> _Place:
    """Position of an image as read, which for rows stored reversed differs from its header."""
    if not rows_reversed(header):
        return place
    spacing, rows = float(place.spacing[0]), int(header.Rows)
    return _Place(*reversed_rows(place.position, place.axes, spacing, rows), place.spacing)


def _check_place(scan: Scan, index: int, place: _Place, path: Path) -> None:
    """Refuse a slice whose position differs from that in the volume: the files have changed."""
    geometry = scan.geometry
    directions = np.stack([geometry.affine[:3, a] / geometry.spacing[2 - a] for a in (0, 1)])
    off = np.abs(place.position * _LPS_TO_RAS - _first_voxel(scan, index)).max()
    if off > _SAME_PLACE_MM or np.abs(place.axes * _LPS_TO_RAS - directions).max() > _SAME_AXES:
        raise InputError(
            f"slice {slice_number(index)} is not where it was when the scan was read",
            path=path,
            fix="Open the scan again",
        )


def _first_voxel(scan: Scan, index: int) -> Floats:
    """RAS mm of the first voxel of slice ``index``."""
    geometry = scan.geometry
    if geometry.slice_positions is not None:
        place: Floats = geometry.slice_positions[index]
        return place
    return geometry.affine[:3, 2] * index + geometry.affine[:3, 3]


def _source_slice(
    whole: Dataset, number: int, place: _Place, step: float | None, thickness: float
) -> SourceSlice:
    header = Dataset()
    for tag in whole.keys():  # noqa: SIM118  (iterating would decode every element)
        if tag.group in _GROUPS and tag not in _OWN and _is_valid(whole[tag]):
            header.add(whole[tag])
    for keyword in _MUST_STAND:
        if keyword not in header:
            setattr(header, keyword, "")
    # Text is decoded by now; UTF-8 can encode what ASCII and Latin-1 cannot.
    if whole.get("SpecificCharacterSet") in (None, "", "ISO_IR 100"):
        header.SpecificCharacterSet = whole.get("SpecificCharacterSet") or "ISO_IR 100"
    else:
        header.SpecificCharacterSet = "ISO_IR 192"
    sex = str(whole.get("PatientSex") or "")
    header.PatientSex = sex if sex in ("M", "F", "O") else ""
    if header.get("PatientIdentityRemoved") == "YES":
        method = whole.get("DeidentificationMethod")
        header.DeidentificationMethod = method or "see the source images"
    header.SOPClassUID = MRImageStorage  # any single-frame class: highdicom only checks it
    header.SOPInstanceUID = hd.UID()
    header.ImagePositionPatient = _decimals(place.position)
    header.ImageOrientationPatient = _decimals(place.axes.ravel())
    header.PixelSpacing = _decimals(place.spacing)
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = _made_up_frame_ofreference_to(str(whole.SeriesInstanceUID))
    header.SliceThickness = whole.get("SliceThickness") or DS(thickness, auto_format=True)
    header.SpacingBetweenSlices = None if step is None else DS(step, auto_format=True)
    several = int(whole.get("NumberOfFrames") or 1) > 1
    groups = Groups(cast(Header, whole), number)
    return SourceSlice(
        header=header,
        sop_class=str(whole.SOPClassUID),
        sop_instance=str(whole.SOPInstanceUID),
        frame=number + 1 if several else None,
        region=examined_region(whole, number),
        rescale=_rescale(groups, whole),
        series_number=_whole_number(whole.get("SeriesNumber")),
        window=_window(groups),
    )


def _rescale(groups: Groups, whole: Dataset) -> tuple[float, float] | None:
    slope = groups.number("PixelValueTransformationSequence", "RescaleSlope")
    intercept = groups.number("PixelValueTransformationSequence", "RescaleIntercept")
    if slope and intercept is not None:
        return slope, intercept
    maps = "ModalityLUTSequence", "RealWorldValueMappingSequence"
    other = any(groups.get("", keyword) for keyword in maps) or whole.get("DoseGridScaling")
    return None if other or slope is not None or intercept is not None else (1.0, 0.0)


def _whole_number(value: Any) -> int | None:
    found = numbers(value, 1)
    return None if found is None or found[0] != int(found[0]) else int(found[0])


def _window(groups: Groups) -> tuple[float, float] | None:
    centre = groups.number("FrameVOILUTSequence", "WindowCenter")
    width = groups.number("FrameVOILUTSequence", "WindowWidth")
    return (centre, width) if centre is not None and width is not None and width >= 1 else None


def _is_valid(element: DataElement) -> bool:
    """Whether an element has a plain value that its type allows: others are not copied."""
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    try:
        for value in values:
            validate_value(element.VR, value, RAISE)
    except ValueError:
        return False
    return element.VR not in ("SQ", "UN")


def _made_up_frame_ofreference_to(series: str) -> str:
    """Return the same UID for the same series."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, series).int}"


def _decimals(values: Floats) -> list[Any]:
    return [DS(float(value), auto_format=True) for value in values]


def plain_text(text: str) -> str:
    """Text that every DICOM character set can encode: at most 64 ASCII characters."""
    return text.encode("ascii", "replace").decode()[:64]


def software() -> str:
    """Return this package's name and version."""
    return f"{_PRODUCT} {metadata.version(_PRODUCT)}"


def finish(made: Dataset, slices: Sequence[SourceSlice]) -> None:
    """Correct, in place, the references of an object built by highdicom from `source_slices`."""
    sources = {str(source.header.SOPInstanceUID): source for source in slices}
    # Frames of several segments in one slice share its reference.
    done: set[int] = set()
    for group in made.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            for item in derivation.SourceImageSequence:
                if id(item) in done:
                    continue
                done.add(id(item))
                source = sources[str(item.ReferencedSOPInstanceUID)]
                _refer(item, source)
                if source.frame is not None:
                    item.ReferencedFrameNumber = source.frame
    used: dict[str, list[SourceSlice]] = {}
    for source in slices:
        used.setdefault(source.sop_instance, []).append(source)
    made.SourceImageSequence = [reference_to(group) for group in used.values()]
    # Only for complete files: a frame's own reference is stored with the frame.
    made.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [
        reference_to(group[:1], frames=False) for group in used.values()
    ]
    dimensions = content_uid("dimensions", str(made.SOPInstanceUID))
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions


def _refer(item: Dataset, source: SourceSlice) -> None:
    item.ReferencedSOPClassUID = UID(source.sop_class)
    item.ReferencedSOPInstanceUID = UID(source.sop_instance)


def reference_to(group: Sequence[SourceSlice], *, frames: bool = True) -> Dataset:
    """Item that refers to a file, and to those of its frames that are in the group."""
    item = Dataset()
    _refer(item, group[0])
    numbers = [source.frame for source in group if source.frame is not None]
    if frames and numbers:
        item.ReferencedFrameNumber = numbers
    return item


def complete(made: Dataset, source: SourceSlice, *, paired: bool = True) -> None:
    """State, in place, what highdicom does not take from a source image.

    Parameters
    ----------
    made : Dataset
        The object.
    source : SourceSlice
        One of its sources.
    paired : bool
        Whether the laterality of the series is required, if only empty: the body part may be one
        of a pair.
    """
    side = str(source.header.get("Laterality") or "")
    if paired or side:
        made.Laterality = side if side in ("R", "L") else ""
    dates = source.header.get("LongitudinalTemporalInformationModified")
    if dates:
        made.LongitudinalTemporalInformationModified = dates


def save(made: Dataset, path: Path) -> None:
    """Write a DICOM object, completely or not at all (`StorageError`)."""
    with atomic_path(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)
