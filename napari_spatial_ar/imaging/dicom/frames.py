"""DICOM headers as frames: one 2-D image each, with position and meaning of its values."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom

from napari_spatial_ar.imaging.acquisition import Acquisition
from napari_spatial_ar.imaging.dicom.classes import object_remarks
from napari_spatial_ar.imaging.dicom.groups import Groups, Kind, axes_of, kind_of, signs_of
from napari_spatial_ar.imaging.dicom.header import DAMAGED, is_dicom, patient_key, read_header
from napari_spatial_ar.imaging.dicom.private import rows_reversed
from napari_spatial_ar.imaging.dicom.protocol import acquisition_of
from napari_spatial_ar.imaging.dicom.storage import Storage
from napari_spatial_ar.imaging.dicom.values import Header, Values, numbers, read_values
from napari_spatial_ar.imaging.dicom.words import describe, label_of
from napari_spatial_ar.imaging.guard import guard

__all__ = ["Frame", "is_dicom", "patient_key", "read_frames", "reversed_rows", "series_key"]

Floats = npt.NDArray[np.float64]

# Number of files whose headers are cached, so that grouping and opening a folder read each once.
_FILES_KEPT = 16_384
# Top-level numeric attributes that determine values and positions of voxels, and their counts.
_NUMBERS = {
    **{"RescaleSlope": 1, "RescaleIntercept": 1, "PixelSpacing": 2},
    **{"ImagePositionPatient": 3, "ImageOrientationPatient": 6},
}
_REVERSED: dict[bool | None, tuple[str, ...]] = {
    False: (),
    True: (
        "Its rows are stored in reverse (GE epi_pepolar) and were put in the right order: check "
        "front and back.",
    ),
    None: (
        "The rows of every second volume may be stored in reverse (GE epi_pepolar of both "
        "polarities): check front and back.",
    ),
}


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One 2-D image of a DICOM file.

    Parameters
    ----------
    file : Path
        The file.
    number : int
        Index of the frame in the file.
    instance : str
        SOPInstanceUID, "" if there is none.
    series : str
        SeriesInstanceUID.
    label : str
        Modality and number of the series, such as ``"MR series 4"``.
    description : str
        The description of the series without dates and the patient's name and ID: for the screen
        only.
    modality : str
        As in the header: ``"MR"``, ``"CT"``, ...
    kind : Kind
        Distinguishes volumes that share a series.
    signs : tuple
        May distinguish images at one position, see `napari_spatial_ar.imaging.dicom.groups.SIGNS`.
    order : int
        InstanceNumber of the file, 0 without one.
    index : tuple of int
        DimensionIndexValues of the frame, () without any.
    storage : Storage
        How its pixels are stored.
    values : Values
        What the stored values mean.
    position : (3,) float64 or None
        Centre of the first pixel in the patient, LPS mm.
    axes : (2, 3) float64 or None
        Unit vectors in LPS along which columns and rows are counted (ImageOrientationPatient).
    spacing : (float, float) or None
        Distance between rows and between columns, mm.
    thickness : float or None
        Distance between slices according to the header, else the slice thickness, mm.
    remarks : tuple of str
        What the user should know, in sentences.
    acquisition : Acquisition
        How it was acquired, according to the header.
    """

    file: Path
    number: int
    instance: str = field(repr=False)
    series: str = field(repr=False)
    label: str
    description: str = field(repr=False)
    modality: str
    kind: Kind = field(repr=False)
    signs: tuple[Any, ...] = field(repr=False)
    order: int
    index: tuple[int, ...]
    storage: Storage
    values: Values
    position: Floats | None
    axes: Floats | None
    spacing: tuple[float, float] | None
    thickness: float | None
    remarks: tuple[str, ...] = ()
    acquisition: Acquisition = field(default_factory=Acquisition, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.storage.rows, self.storage.columns

    @property
    def located(self) -> bool:
        """Whether the header states the position of the frame in the patient."""
        return self.position is not None and self.axes is not None

    @property
    def sheet(self) -> Literal["", "mosaic", "vframe"]:
        """Whether it is a volume whose slices are tiles (Siemens, United Imaging)."""
        if "MOSAIC" in self.kind.image_type:
            return "mosaic"
        return "vframe" if "VFRAME" in self.kind.image_type else ""

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector across the slice, LPS; slices are counted along it. For located frames."""
        assert self.axes is not None
        normal: npt.NDArray[np.float64] = np.cross(self.axes[0], self.axes[1])
        return normal / np.linalg.norm(normal)


def read_frames(path: Path) -> tuple[Frame, ...]:
    """Frames of one file, without their pixels; cached until the file changes.

    Returns
    -------
    tuple of Frame
        Empty for a DICOM file that is not a scan (a report, a structure set, a segmentation).

    Raises
    ------
    InputError
        If the file cannot be read, or its header claims more pixels than the file holds.
    """
    return _kept(path, *_state(path))[1]


def series_key(path: Path) -> tuple[str, ...]:
    """Return what the files of one series share: study, patient and SeriesInstanceUID.

    If an anonymiser emptied the UID, everything else that is specific to a series replaces it.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    return _kept(path, *_state(path))[0]


def _state(path: Path) -> tuple[int, int]:
    """Size and modification time, by which a changed file is detected."""
    with guard(path, DAMAGED):
        state = path.stat()
        return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=_FILES_KEPT)
def _kept(path: Path, _size: int, _changed: int) -> tuple[tuple[str, ...], tuple[Frame, ...]]:
    header, storage = read_header(path)
    with guard(path, DAMAGED):
        plain = _plain(header)
        key = _series_key(plain, path)
        if storage is None:
            return key, ()
        odd = _unusable(header, plain)
        return key, tuple(_frame(plain, storage, path, n, odd) for n in range(storage.frames))


def _series_key(header: Header, path: Path) -> tuple[str, ...]:
    def texts(*keywords: str) -> tuple[str, ...]:
        return tuple(str(header.get(keyword) or "") for keyword in keywords)

    key = texts("StudyInstanceUID", "PatientID", "SeriesInstanceUID")
    if key[-1]:
        return key
    numbered = header.get("StudyInstanceUID") and header.get("SeriesNumber")
    return (
        *key,
        *texts("StudyDate", "SeriesDate", "SeriesTime", "SeriesNumber", "SeriesDescription"),
        *texts("ProtocolName", "Modality", "PatientName"),
        "" if numbered else str(path.parent),
    )


def _plain(header: pydicom.Dataset) -> Header:
    """Attributes of the top level, with faster access than in the data set.

    An attribute with a value of the wrong type counts as missing; the file is not damaged.
    """
    plain: dict[Any, Any] = {}
    for tag in header.keys():  # noqa: SIM118 (iterating over the data set would read values)
        with suppress(ValueError, TypeError, OverflowError):
            element = header[tag]
            plain[element.keyword or (tag.group, tag.element)] = element.value
    return plain


def _unusable(header: pydicom.Dataset, plain: Header) -> tuple[str, ...]:
    """Warnings on important attributes that exist but are not valid numbers."""
    odd = []
    for keyword, count in _NUMBERS.items():
        if keyword not in header or header.get_item(keyword).value in (None, b"", ""):
            continue
        found = numbers(plain.get(keyword), count)
        if found is None or (count == 6 and axes_of(plain[keyword]) is None):
            odd.append(f"{keyword} in the header makes no sense and is ignored.")
    return tuple(odd)


def _frame(
    header: Header, storage: Storage, path: Path, number: int, odd: tuple[str, ...]
) -> Frame:
    groups = Groups(header, number)
    position, axes = _place(header, groups, number)
    spacing = numbers(groups.get("PixelMeasuresSequence", "PixelSpacing"), 2)
    between = groups.number("PixelMeasuresSequence", "SpacingBetweenSlices")
    thickness = between or groups.number("PixelMeasuresSequence", "SliceThickness")
    reverse = rows_reversed(header)
    if reverse and position is not None and axes is not None and spacing is not None:
        position, axes = reversed_rows(position, axes, float(spacing[0]), storage.rows)
    alone = storage.frames > 1 or position is None or axes is None
    whole = str(header.get("ConcatenationUID") or path) if alone else ""
    kind = kind_of(header, groups, whole)
    return Frame(
        file=path,
        number=number,
        instance=str(header.get("SOPInstanceUID") or ""),
        series=str(header.get("SeriesInstanceUID", "")),
        label=label_of(header),
        description=describe(header),
        modality=str(header.get("Modality") or ""),
        kind=kind,
        signs=signs_of(header, groups, kind),
        order=int(groups.number("", "InstanceNumber") or 0),
        index=_index(groups),
        storage=storage,
        values=read_values(header, groups.get, storage),
        position=position,
        axes=axes,
        spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        thickness=abs(thickness) if thickness else None,
        remarks=(*object_remarks(header), *_REVERSED[reverse], *odd),
        acquisition=acquisition_of(header, groups),
    )


def _index(groups: Groups) -> tuple[int, ...]:
    found = numbers(groups.get("FrameContentSequence", "DimensionIndexValues"))
    return () if found is None else tuple(found.astype(int).tolist())


def reversed_rows(
    position: Floats, axes: Floats, spacing: float, rows: int
) -> tuple[Floats, Floats]:
    """Position and axes of an image whose rows are stored from the last to the first."""
    return position + axes[1] * spacing * (rows - 1), axes * [[1.0], [-1.0]]


def _place(header: Header, groups: Groups, number: int) -> tuple[Floats | None, Floats | None]:
    """Position and axes of a frame, LPS; None if the header does not state them."""
    axes = axes_of(groups.get("PlaneOrientationSequence", "ImageOrientationPatient"))
    position = numbers(groups.get("PlanePositionSequence", "ImagePositionPatient"), 3)
    offsets = numbers(header.get("GridFrameOffsetVector"))
    if position is not None and axes is not None and offsets is not None and number < len(offsets):
        # A dose grid: one position, and the distance of each frame from it along the normal. The
        # first may be an absolute coordinate instead (PS3.3 C.8.8.3.2), so count from it.
        position = position + (offsets[number] - offsets[0]) * np.cross(axes[0], axes[1])
    return position, axes
