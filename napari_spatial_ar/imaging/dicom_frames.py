"""DICOM headers as frames: one 2-D image each, with where it lies and what its values mean."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.guard import guard

__all__ = [
    "Frame",
    "Pixels",
    "is_dicom",
    "patient_key",
    "read_frames",
    "read_pixels",
    "series_uid",
]

_DAMAGED = "is not a DICOM file that can be read: it is cut short or damaged"
_DAMAGED_PIXELS = "its pixels cannot be decoded: the file is cut short or damaged"
_DICOMDIR = re.compile(rb"1\.2\.840\.10008\.1\.3\.10(?![.0-9])")
# First elements of files without a preamble, little endian: group length, character set, ...
_BARE_STARTS = tuple(b"\x08\0" + element for element in (b"\0\0", b"\x05\0", b"\x08\0", b"\x16\0"))
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
# No scan packs better than this: a header that claims more is lying.
_MOST_COMPRESSION = 1000


@dataclass(frozen=True, eq=False)
class Frame:
    """One 2-D image of a DICOM file.

    Parameters
    ----------
    file : Path
        The file.
    number : int
        Index of the frame in the file.
    series : str
        SeriesInstanceUID.
    label : str
        Modality and number of the series, such as ``"MR series 4"``.
    modality : str
        As in the header: ``"MR"``, ``"CT"``, ...
    kind : tuple of str
        What tells apart the volumes that share a series: image type, echo, time point, stack;
        and the file, where it is a volume by itself (multi-frame) or says no position.
    shape : (int, int)
        Rows and columns.
    position : (3,) float64 or None
        Centre of the first pixel in the patient, LPS mm.
    axes : (2, 3) float64 or None
        Unit vectors in LPS along which columns and rows are counted (ImageOrientationPatient).
    spacing : (float, float) or None
        Distance between rows and between columns, mm.
    thickness : float or None
        Distance between slices as the header has it, else the thickness of one, mm.
    slope, intercept : float
        Stored value to ``slope * value + intercept``.
    """

    file: Path
    number: int
    series: str = field(repr=False)
    label: str
    modality: str
    kind: tuple[str, ...]
    shape: tuple[int, int]
    position: npt.NDArray[np.float64] | None
    axes: npt.NDArray[np.float64] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float
    intercept: float

    @property
    def located(self) -> bool:
        """Whether the header says where in the patient the frame lies."""
        return self.position is not None and self.axes is not None

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector across the slice, LPS; slices are counted along it. For located frames."""
        assert self.axes is not None
        normal: npt.NDArray[np.float64] = np.cross(self.axes[0], self.axes[1])
        return normal / np.linalg.norm(normal)

    @property
    def height(self) -> float:
        """Place along the normal, mm. For located frames."""
        assert self.position is not None
        return float(self.position @ self.normal)


def is_dicom(path: Path) -> bool:
    """Whether a file says inside that it is DICOM, with or without a preamble.

    A DICOMDIR is not counted: it holds no image, and the files it names stand beside it.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return _DICOMDIR.search(head) is None
    return head.startswith(_BARE_STARTS)


def _read_header(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True, force=is_dicom(path))


def series_uid(path: Path) -> str:
    """SeriesInstanceUID of a file, "" where there is none.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    with guard(path, _DAMAGED):
        return str(_read_header(path).get("SeriesInstanceUID", ""))


def patient_key(path: Path) -> str:
    """12 hex digits of the sha256 of a file's PatientID, or of its study's UID without one.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    with guard(path, _DAMAGED):
        header = _read_header(path)
        who = str(header.get("PatientID") or header.get("StudyInstanceUID") or path.parent)
    return hashlib.sha256(who.encode()).hexdigest()[:12]


def _label(header: pydicom.Dataset) -> str:
    """Modality and number only: every other text may name the patient."""
    modality = str(header.get("Modality") or "")
    kind = modality if re.fullmatch("[A-Z]{2,8}", modality) else "DICOM"
    number = re.sub("[^0-9]", "", str(header.get("SeriesNumber") or ""))
    return f"{kind} series {number}".rstrip()


def _floats(value: Any, count: int) -> npt.NDArray[np.float64] | None:
    if value is None or isinstance(value, str) or not hasattr(value, "__len__"):
        return None
    if len(value) != count:
        return None
    array = np.array([float(v) for v in value])
    return array if np.isfinite(array).all() else None


def _axes(value: Any) -> npt.NDArray[np.float64] | None:
    """Two unit vectors at a right angle from ImageOrientationPatient, if it holds such."""
    flat = _floats(value, 6)
    if flat is None:
        return None
    axes = flat.reshape(2, 3)
    return axes if np.allclose(axes @ axes.T, np.eye(2), atol=1e-2) else None


def _float(value: Any) -> float | None:
    return None if value in (None, "") else float(value)


class _Groups:
    """Look up an attribute in a frame's functional groups, then the shared ones, then the top."""

    def __init__(self, header: pydicom.Dataset, number: int):
        frames = header.get("PerFrameFunctionalGroupsSequence")
        shared = header.get("SharedFunctionalGroupsSequence")
        self._levels = [
            *([frames[number]] if frames and number < len(frames) else []),
            *([shared[0]] if shared else []),
        ]
        self._header = header

    def get(self, sequence: str, keyword: str) -> Any:
        for level in self._levels:
            items = level.get(sequence)
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        return self._header.get(keyword)


def _frame(header: pydicom.Dataset, path: Path, number: int) -> Frame:
    groups = _Groups(header, number)
    axes = _axes(groups.get("PlaneOrientationSequence", "ImageOrientationPatient"))
    position = _floats(groups.get("PlanePositionSequence", "ImagePositionPatient"), 3)
    spacing = _floats(groups.get("PixelMeasuresSequence", "PixelSpacing"), 2)
    between = _float(groups.get("PixelMeasuresSequence", "SpacingBetweenSlices"))
    thickness = between or _float(groups.get("PixelMeasuresSequence", "SliceThickness"))
    slope = _float(groups.get("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = _float(groups.get("PixelValueTransformationSequence", "RescaleIntercept"))
    multiframe = int(header.get("NumberOfFrames") or 1) > 1
    alone = multiframe or position is None or axes is None
    kind = (
        str(path) if alone else "",
        groups.get("MRImageFrameTypeSequence", "FrameType") or header.get("ImageType"),
        groups.get("MREchoSequence", "EffectiveEchoTime") or header.get("EchoNumbers"),
        groups.get("FrameContentSequence", "TemporalPositionIndex")
        or header.get("TemporalPositionIdentifier"),
        groups.get("FrameContentSequence", "StackID"),
        header.get("SOPClassUID"),
    )
    return Frame(
        file=path,
        number=number,
        series=str(header.get("SeriesInstanceUID", "")),
        label=_label(header),
        modality=str(header.get("Modality") or ""),
        kind=tuple(str(part or "") for part in kind),
        shape=(int(header.Rows), int(header.Columns)),
        position=position,
        axes=axes,
        spacing=None if spacing is None else (spacing[0], spacing[1]),
        thickness=abs(thickness) if thickness else None,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
    )


def read_frames(path: Path) -> list[Frame]:
    """Frames of one file, without their pixels.

    Returns
    -------
    list of Frame
        Empty for a DICOM file that is no scan (a report, a structure set, a segmentation).

    Raises
    ------
    InputError
        If the file cannot be read, or its header claims more pixels than the file can hold.
    """
    with guard(path, _DAMAGED):
        header = _read_header(path)
        if header.get("SOPClassUID") == SegmentationStorage or "BitsAllocated" not in header:
            return []
        count = int(header.get("NumberOfFrames") or 1)
        size = path.stat().st_size
        pixels = count * int(header.Rows) * int(header.Columns)
        syntax = header.file_meta.get("TransferSyntaxUID")
        packed = syntax is not None and (syntax.is_compressed or syntax.is_deflated)
        if pixels * int(header.BitsAllocated) // 8 > size * (_MOST_COMPRESSION if packed else 1):
            raise InputError(
                f"its header claims {pixels} pixels but the file has {size} bytes",
                path=path,
                fix="Export or copy it again",
            )
        return [_frame(header, path, number) for number in range(count)]


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded file: grey (frames, rows, columns), before the rescale of each frame.

    ``display`` is True for 8-bit grey made to be looked at, ``coloured`` where colour was
    turned into luminance.
    """

    grey: npt.NDArray[np.float32]
    display: bool
    coloured: bool


def read_pixels(path: Path) -> Pixels:
    """Decode all frames of one file, whatever its transfer syntax.

    MONOCHROME1 is inverted, except in a CT, whose values are Hounsfield units either way.

    Raises
    ------
    InputError
        If the pixels are cut short or damaged, or no decoder for their compression is there.
    """
    with guard(path, _DAMAGED_PIXELS):
        dataset = pydicom.dcmread(path, force=True)
        array = _decode(dataset, path)
        photometric = str(dataset.PhotometricInterpretation)
        rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsStored)
        signed = int(dataset.get("PixelRepresentation") or 0) == 1
        if photometric == "PALETTE COLOR":
            array = apply_color_lut(array, dataset)
        elif photometric == "MONOCHROME1" and dataset.get("Modality") != "CT":
            array = -1 - array if signed else (2**bits - 1) - array
        coloured = False
        if photometric.startswith("MONOCHROME"):
            grey = array.reshape(-1, rows, columns).astype(np.float32)
        else:
            colours = array.reshape(-1, rows, columns, 3).astype(np.float32)
            coloured = bool((colours[..., :1] != colours[..., 1:]).any())
            grey = colours @ _LUMINANCE if coloured else np.ascontiguousarray(colours[..., 0])
        return Pixels(grey, display=bits == 8 and not signed, coloured=coloured)


def _decode(dataset: pydicom.Dataset, path: Path) -> npt.NDArray[Any]:
    """Decode the stored values of all frames, YBR turned into RGB."""
    dataset.ensure_file_meta()
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, _ = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    try:
        array: npt.NDArray[Any] = pixel_array(dataset)
    except RuntimeError as error:
        if not isinstance(error, NotImplementedError) and "missing" not in str(error):
            raise
        name = dataset.file_meta.TransferSyntaxUID.name
        raise InputError(
            f"its pixels are compressed as {name}, for which no decoder is installed",
            path=path,
            fix="Export the series uncompressed, or as JPEG 2000",
        ) from error
    return array
