"""Pictures of slices as DICOM secondary captures, with what is drawn on them burnt in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from napari_spatial_ar.imaging.dicom.derived import (
    Reading,
    SourceSlice,
    Written,
    complete,
    content_uid,
    derived_uids,
    reference_to,
    save,
    software,
    source_slices,
)
from napari_spatial_ar.imaging.geometry import Plane, slice_number
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan

__all__ = ["SlicePicture", "write_captures"]

_SERIES_NUMBER = 9005
_LABEL = "Outlines burnt in"
# Directions of rows and columns of upright slices.
_UPRIGHT: dict[Plane, tuple[str, str]] = {
    "axial": ("L", "P"),
    "coronal": ("L", "F"),
    "sagittal": ("P", "F"),
}


@dataclass(frozen=True, eq=False)
class SlicePicture:
    """Picture of an acquired slice, upright in the radiological convention.

    Parameters
    ----------
    index : int
        The slice, from 0.
    pixels : (rows, columns, 3) uint8
        RGB.
    pixel_mm : (float, float) or None
        Distance between rows and between columns, mm; None if the scan has no spacing.
    """

    index: int
    pixels: npt.NDArray[np.uint8]
    pixel_mm: tuple[float, float] | None


def write_captures(
    folder: str | Path,
    pictures: Iterable[SlicePicture],
    scan: Scan,
    *,
    identity: str,
    reading: Reading | None = None,
    sources: Sequence[SourceSlice] | None = None,
) -> list[Written]:
    """Write pictures as a series of secondary captures (RGB, ConversionType WSD).

    Each is named after its slice, refers to its source image and states BurnedInAnnotation YES, as
    does the description of the series. The patient's identity is copied from the scan, as by
    `napari_spatial_ar.imaging.dicom.seg.write_seg`. The UIDs follow from ``identity``
    and the pictures.

    Parameters
    ----------
    folder : path-like
        Where to write ``slice_012.dcm`` and so on; created if it does not exist.
    pictures : iterable of SlicePicture
        One at a time is held in memory twice.
    scan : Scan
        The scan, read from DICOM files that still exist.
    identity : str
        Identifies the result that is drawn: the same for the same result.
    reading : Reading, optional
        By default the first.
    sources : sequence of SourceSlice, optional
        Result of `source_slices` for the scan, if available.

    Returns
    -------
    list of Written
        Their UIDs.

    Raises
    ------
    InputError
        Because of the scan, as in `napari_spatial_ar.imaging.dicom.seg.write_seg`.
    StorageError
        If a file cannot be written.
    """
    folder = Path(folder)
    slices = source_slices(scan) if sources is None else sources
    reading = reading or Reading()
    plane = replace(scan.geometry, slice_axis=0).plane
    folder.mkdir(parents=True, exist_ok=True)
    digits = max(3, len(str(len(slices) - 1)))
    written = []
    series, _ = derived_uids("captures", slices, identity)
    for picture in pictures:
        source = slices[picture.index]
        pixels = np.ascontiguousarray(picture.pixels)
        with guard(
            scan.series.files[0], "no DICOM secondary capture can be derived from its header"
        ):
            made = SCImage.from_ref_dataset(
                source.image,
                pixel_array=pixels,
                photometric_interpretation="RGB",
                bits_allocated=8,
                coordinate_system="PATIENT",
                series_instance_uid=series,
                series_number=reading.series_number(_SERIES_NUMBER),
                sop_instance_uid=content_uid("capture", str(series), picture.index, pixels),
                instance_number=slice_number(picture.index),
                manufacturer="napari-spatial-ar",
                manufacturer_model_name="napari-spatial-ar",
                software_versions=software(),
                device_serial_number="0",
                patient_orientation=_UPRIGHT[plane],
                pixel_spacing=cast(Any, picture.pixel_mm),
                series_description=reading.described(_LABEL, source),
                specific_character_set=source.header.SpecificCharacterSet,
                transfer_syntax_uid=ExplicitVRLittleEndian,
            )
            made.copy_patient_and_study_information(source.header)
            complete(made, source)
            made.ConversionType = "WSD"
            made.BurnedInAnnotation = "YES"
            made.DerivationDescription = (
                "Outlines of flagged regions burnt in, for research use, not for diagnosis."
            )
            made.SourceImageSequence = [_source(source)]
        path = folder / f"slice_{picture.index:0{digits}}.dcm"
        save(made, path)
        written.append(Written.of(made))
    return written


def _source(source: SourceSlice) -> Dataset:
    item = reference_to([source])
    purpose = Dataset()
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
