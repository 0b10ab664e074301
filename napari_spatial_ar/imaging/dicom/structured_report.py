"""Findings as a DICOM structured report: Comprehensive 3D SR, template TID 1500 of PS3.16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

import highdicom as hd
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from napari_spatial_ar.imaging.dicom.derived import (
    Algorithm,
    Reading,
    SourceSlice,
    Written,
    complete,
    content_uid,
    derived_uids,
    plain_text,
    save,
    software,
    source_slices,
)
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.segments import Segment

__all__ = ["ReportedRegion", "ReportedScan", "ReportedStatus", "write_report"]

ReportedStatus = Literal["unread", "keep", "unsure"]

_SERIES_NUMBER = 9004
_SCHEME = "99NSAR"
_LABEL = "Departure from normal, measurements"
_TITLE = CodedConcept("126000", "DCM", "Imaging Measurement Report (research use)")
_SCORE = CodedConcept("score", _SCHEME, "Departure from normal")
_REGIONS = CodedConcept("regions", _SCHEME, "Number of flagged regions")
_P_VALUE = CodedConcept("p-value", _SCHEME, "p-value among normal scans")
_STATUS = CodedConcept("status", _SCHEME, "Status given by the reader")
_STATUSES = {
    "unread": CodedConcept("unread", _SCHEME, "Not read"),
    "keep": CodedConcept("keep", _SCHEME, "Kept"),
    "unsure": CodedConcept("unsure", _SCHEME, "Unsure"),
}
_SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}
_ML = CodedConcept("ml", "UCUM", "ml")


@dataclass(frozen=True)
class ReportedRegion:
    """A finding and its measures.

    Parameters
    ----------
    segment : Segment
        Its identity; the report's regions are in the order of the segments of the segmentation.
    status : {"unread", "keep", "unsure"}
        Given by the reader. Rejected findings are not reported.
    peak_score, mean_score : float
        In the unit of the report.
    volume_ml, longest_diameter_mm, perpendicular_diameter_mm : float or None
        None if the scan does not allow to measure it; it is then left out.
    site : Code or None
        Where it is, if that is known.
    side : {"left", "right"} or None
        The patient's side, if that is known.
    """

    segment: Segment
    status: ReportedStatus
    peak_score: float
    mean_score: float
    volume_ml: float | None = None
    longest_diameter_mm: float | None = None
    perpendicular_diameter_mm: float | None = None
    site: Code | None = None
    side: Literal["left", "right"] | None = None


@dataclass(frozen=True)
class ReportedScan:
    """What the report says about the scan as a whole.

    Parameters
    ----------
    threshold : float
        Threshold of the mask, in ``unit``.
    unit : str
        Of scores and threshold, in words.
    calibration : str
        What the threshold flags in normal scans, as sentences; "" if that was never measured.
    p_value : float or None
        Of the scan among normal scans.
    site : Code or None
        The examined part of the body, if that is known.
    warnings : tuple of str
        What puts the scores in doubt, such as a scan outside the training domain, as sentences.
    """

    threshold: float
    unit: str
    calibration: str = ""
    p_value: float | None = None
    site: Code | None = None
    warnings: tuple[str, ...] = ()


def write_report(
    path: str | Path,
    regions: Sequence[ReportedRegion],
    about: ReportedScan,
    scan: Scan,
    *,
    segmentation: Written,
    algorithm: Algorithm,
    reading: Reading | None = None,
    predecessor: Written | None = None,
    signed_by: str = "",
    sources: Sequence[SourceSlice] | None = None,
) -> Written:
    """Write findings as a structured report (Comprehensive 3D SR, TID 1500).

    A group of measurements on the scan as a whole (TID 1501) states the threshold, the number of
    regions, the p-value and warnings. One for each region (TID 1411) refers to its segment and the
    source series; it has volume (ml, voxels summed), long axis and short axis (mm: the longest
    caliper diameter in an acquired slice, and that perpendicular to it in this slice), and highest
    and mean score. Each group names the algorithm with its settings (TID 4019).

    The patient's identity is copied from the scan, as by
    `napari_spatial_ar.imaging.dicom.seg.write_seg`. The UIDs follow from the segmentation's and the
    statuses: writing the same again gives the same.

    Parameters
    ----------
    path : path-like
        The file to write, completely or not at all.
    regions : sequence of ReportedRegion
        In the order of the segments of ``segmentation``.
    about : ReportedScan
        The scan as a whole.
    scan : Scan
        The scan, read from DICOM files that still exist.
    segmentation : Written
        The segmentation whose segments are referred to.
    algorithm : Algorithm
        What computed scores and mask; it is the observer.
    reading : Reading, optional
        By default the first.
    predecessor : Written, optional
        The report that this one supersedes.
    signed_by : str
        Name of the person who signed the report, "" if nobody did: then there is no person
        observer.
    sources : sequence of SourceSlice, optional
        Result of `source_slices` for the scan, if available.

    Returns
    -------
    Written
        Its UIDs.

    Raises
    ------
    InputError
        Because of the scan, as in `napari_spatial_ar.imaging.dicom.seg.write_seg`.
    StorageError
        If the file cannot be written.
    """
    path = Path(path)
    slices = source_slices(scan) if sources is None else sources
    reading = reading or Reading()
    signed_by = _person(signed_by)
    statuses = [[region.segment.tracking_uid, region.status] for region in regions]
    series, instance = derived_uids(
        "structured report",
        slices,
        segmentation.sop_instance,
        statuses,
        signed_by,
        astuple(reading),
    )
    with guard(scan.series.files[0], "no DICOM structured report can be derived from its header"):
        distinct = {source.sop_instance: source for source in slices}
        whole = _whole_scan(about, regions, slices, algorithm, instance)
        made_by = _made_by(algorithm, about)
        groups = [
            _region_group(region, number, segmentation, slices, made_by)
            for number, region in enumerate(regions, 1)
        ]
        content = MeasurementReport(
            observation_context=_observers(algorithm, signed_by),
            procedure_reported=codes.SCT.ImagingProcedure,
            imaging_measurements=[whole, *groups],
            title=_TITLE,
        )
        made = Comprehensive3DSR(
            evidence=[
                *(source.image for source in distinct.values()),
                _as_evidence(segmentation, slices[0]),
            ],
            content=content,
            series_instance_uid=series,
            series_number=reading.series_number(_SERIES_NUMBER),
            sop_instance_uid=instance,
            instance_number=1,
            manufacturer="napari-spatial-ar",
            manufacturer_model_name="napari-spatial-ar",
            software_versions=software(),
            device_serial_number="0",
            series_description=reading.described(_LABEL, slices[0]),
            is_complete=True,
            previous_versions=(
                None if predecessor is None else [_as_evidence(predecessor, slices[0])]
            ),
        )
        complete(made, slices[0], paired=False)
        if not signed_by.isascii():
            made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
        scheme = Dataset()
        scheme.CodingSchemeDesignator = _SCHEME
        scheme.CodingSchemeName = "napari-spatial-ar"
        scheme.CodingSchemeResponsibleOrganization = "napari-spatial-ar"
        made.CodingSchemeIdentificationSequence = [scheme]
    save(made, path)
    return Written.of(made)


def _person(name: str) -> str:
    """Name of a person as DICOM allows it: one component group of at most 64 characters."""
    allowed = (letter for letter in name if letter.isprintable() and letter not in "\\=")
    return "".join(allowed).strip()[:64]


def _as_evidence(written: Written, source: SourceSlice) -> Dataset:
    """Header of another object derived from the same study."""
    made = source.image
    made.SOPClassUID, made.SOPInstanceUID = written.sop_class, written.sop_instance
    made.SeriesInstanceUID = written.series
    return made


def _observers(algorithm: Algorithm, signed_by: str) -> ObservationContext:
    device = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=content_uid("device", algorithm.name, algorithm.version),
            name=plain_text(algorithm.name),
            manufacturer_name="napari-spatial-ar",
            model_name=software(),
        ),
    )
    if not signed_by:
        return ObservationContext(observer_device_context=device)
    person = ObserverContext(
        observer_type=codes.DCM.Person,
        observer_identifying_attributes=PersonObserverIdentifyingAttributes(name=signed_by),
    )
    return ObservationContext(observer_person_context=person, observer_device_context=device)


def _site(code: Code | None, side: str | None = None) -> list[FindingSite] | None:
    if code is None:
        return None
    return [FindingSite(code, laterality=None if side is None else _SIDES[side])]


def _made_by(
    algorithm: Algorithm, about: ReportedScan, warnings: Sequence[str] = ()
) -> AlgorithmIdentification:
    return AlgorithmIdentification(
        name=plain_text(algorithm.name),
        version=plain_text(algorithm.version) or "unknown",
        manufacturer="napari-spatial-ar",
        parameters=[
            *(f"{name}={value}" for name, value in algorithm.parameters.items()),
            f"unit of scores={about.unit}",
            *([f"calibration={about.calibration}"] if about.calibration else []),
            *(f"warning={text}" for text in warnings),
        ],
        family=codes.cid7162.ArtificialIntelligence,
    )


def _whole_scan(
    about: ReportedScan,
    regions: Sequence[ReportedRegion],
    slices: Sequence[SourceSlice],
    algorithm: Algorithm,
    instance: str,
) -> MeasurementsAndQualitativeEvaluations:
    no_unit = codes.UCUM.NoUnits
    measures = [
        Measurement(name=codes.DCM.ThresholdValue, value=float(about.threshold), unit=no_unit),
        Measurement(name=_REGIONS, value=len(regions), unit=no_unit),
    ]
    if about.p_value is not None:
        measures.append(Measurement(name=_P_VALUE, value=float(about.p_value), unit=no_unit))
    frames: dict[str, list[SourceSlice]] = {}
    for source in slices:
        frames.setdefault(source.sop_instance, []).append(source)
    images = [
        SourceImageForMeasurementGroup(
            group[0].sop_class,
            group[0].sop_instance,
            [source.frame for source in group if source.frame is not None] or None,
        )
        for group in frames.values()
    ]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(content_uid("scan", instance), "whole scan"),
        algorithm_id=_made_by(algorithm, about, about.warnings),
        finding_sites=_site(about.site),
        measurements=measures,
        source_images=images,
    )


def _region_group(
    region: ReportedRegion,
    number: int,
    segmentation: Written,
    slices: Sequence[SourceSlice],
    made_by: AlgorithmIdentification,
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    measures = [
        Measurement(name=_SCORE, value=float(value), unit=codes.UCUM.NoUnits, derivation=derivation)
        for value, derivation in (
            (region.peak_score, codes.SCT.Maximum),
            (region.mean_score, codes.SCT.Mean),
        )
    ]
    mm = codes.UCUM.Millimeter
    summed = codes.DCM.SumOfSegmentedVoxelMethodForVolume
    for name, size, unit, method in (
        (codes.SCT.Volume, region.volume_ml, _ML, summed),
        (codes.SCT.LongAxis, region.longest_diameter_mm, mm, None),
        (codes.SCT.ShortAxis, region.perpendicular_diameter_mm, mm, None),
    ):
        if size is not None:
            measures.append(Measurement(name=name, value=float(size), unit=unit, method=method))
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            hd.UID(region.segment.tracking_uid), region.segment.tracking_id
        ),
        referenced_segment=ReferencedSegment(
            segmentation.sop_class,
            segmentation.sop_instance,
            number,
            source_series=SourceSeriesForSegmentation(str(slices[0].header.SeriesInstanceUID)),
        ),
        # As in the segmentation: nobody has called it a lesion.
        finding_category=codes.SCT.SpatialAndRelationalConcept,
        finding_type=codes.DCM.SelectedRegion,
        algorithm_id=made_by,
        finding_sites=_site(region.site, region.side),
        measurements=measures,
        qualitative_evaluations=[QualitativeEvaluation(_STATUS, _STATUSES[region.status])],
    )
