"""Masks as DICOM segmentations, on the frames from which the scan was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.derived import (
    REMARK,
    Algorithm,
    Reading,
    SourceSlice,
    Written,
    complete,
    derived_uids,
    finish,
    plain_text,
    save,
    software,
    source_slices,
)
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.segments import Segment

__all__ = ["write_seg"]

_SERIES_NUMBER = 9001


def write_seg(
    path: str | Path,
    mask: npt.NDArray[np.generic],
    scan: Scan,
    *,
    algorithm: Algorithm | None,
    edited: bool = False,
    label: str = "Departure from normal",
    segments: Sequence[Segment] = (),
    reading: Reading | None = None,
    sources: Sequence[SourceSlice] | None = None,
) -> Written:
    """Write a mask as a DICOM segmentation (SEG, BINARY) that coincides with the scan.

    The patient's name, ID and dates and the study's identification are copied from the scan into
    the file, as DICOM requires: a PACS files it by them. All regions are one segment, or each is a
    separate one, with its name, colour and tracking identifiers. The category is "Spatial and
    Relational Concept" (SNOMED CT), the type "Selected region" (DICOM): they have not been judged
    abnormal. Only slices that contain a part of the mask are stored; for an empty mask, all.

    The UIDs follow from scan, algorithm, mask and reading: writing the same again gives the same.

    Parameters
    ----------
    path : path-like
        The file to write, completely or not at all.
    mask : (Z, Y, X) integer or bool
        Nonzero inside; on the scan's grid, in source order. If there are segments, each voxel has
        the number of its segment.
    scan : Scan
        The scan of the mask, read from DICOM files that still exist.
    algorithm : Algorithm or None
        What computed the mask; None if a person drew it.
    edited : bool
        Whether a person edited the algorithm's mask.
    label : str
        Name of the segment: truncated to 64 characters; non-ASCII characters become question marks.
    segments : sequence of Segment
        Segments of the numbers in the mask. DICOM numbers segments without gaps, so a segment's
        number in the file may be lower than its own, which is in its label.
    reading : Reading, optional
        By default the first.
    sources : sequence of SourceSlice, optional
        Result of `source_slices` for the scan, if available.

    Returns
    -------
    Written
        Its UIDs.

    Raises
    ------
    InputError
        If the mask is not on the scan's grid, the scan is not from DICOM, its files are gone or
        changed, or they do not state their position in the patient.
    StorageError
        If the file cannot be written.
    """
    path = Path(path)
    inside: npt.NDArray[np.generic] = np.asarray(mask) != 0
    if inside.shape != scan.geometry.shape:
        raise InputError(
            f"a mask of {inside.shape} is not on the scan's grid {scan.geometry.shape}"
        )
    slices = source_slices(scan) if sources is None else sources
    reading = reading or Reading()
    if algorithm is None:
        kind = SegmentAlgorithmTypeValues.MANUAL
    elif edited:
        kind = SegmentAlgorithmTypeValues.SEMIAUTOMATIC
    else:
        kind = SegmentAlgorithmTypeValues.AUTOMATIC
    any_inside = bool(inside.any())
    if segments:
        places = np.zeros(max(segment.number for segment in segments) + 1, np.uint16)
        places[[segment.number for segment in segments]] = np.arange(1, len(segments) + 1)
        inside = places[np.asarray(mask)]
    series, instance = derived_uids(
        "segmentation",
        slices,
        None if algorithm is None else algorithm.plain(),
        kind.value,
        label,
        [astuple(segment) for segment in segments],
        inside,
        astuple(reading),
    )
    with guard(scan.series.files[0], "no DICOM segmentation can be derived from its header"):
        descriptions = [
            SegmentDescription(
                segment_number=number,
                segment_label=plain_text(label if segment is None else segment.name),
                segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
                segmented_property_type=codes.DCM.SelectedRegion,
                algorithm_type=kind,
                algorithm_identification=None if algorithm is None else algorithm.identification(),
                tracking_id=None if segment is None else segment.tracking_id,
                tracking_uid=None if segment is None else segment.tracking_uid,
                display_color=None if segment is None else CIELabColor.from_rgb(*segment.colour),
            )
            for number, segment in enumerate(segments or (None,), 1)
        ]
        made = Segmentation(
            source_images=[source.header for source in slices],
            pixel_array=inside,
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=series,
            series_number=reading.series_number(_SERIES_NUMBER + 2 * bool(segments)),
            sop_instance_uid=instance,
            instance_number=1,
            manufacturer="napari-spatial-ar",
            manufacturer_model_name="napari-spatial-ar",
            software_versions=software(),
            device_serial_number="0",
            content_label="SEGMENTATION",
            content_description=REMARK,
            series_description=reading.described(label, slices[0]),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=any_inside,
        )
        complete(made, slices[0], paired=False)
        finish(made, slices)
    save(made, path)
    return Written.of(made)
