"""The DICOM objects written for a scored scan, and which reading of it they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.anatomy import ExaminedRegion, HeaderSide
from napari_spatial_ar.imaging.dicom.capture import write_captures
from napari_spatial_ar.imaging.dicom.deidentify import deidentified
from napari_spatial_ar.imaging.dicom.derived import (
    Algorithm,
    Reading,
    SourceSlice,
    Written,
    caveats,
    content_uid,
    image_marks,
    source_slices,
)
from napari_spatial_ar.imaging.dicom.parametric_map import write_parametric_map
from napari_spatial_ar.imaging.dicom.presentation import write_presentation
from napari_spatial_ar.imaging.dicom.seg import write_seg
from napari_spatial_ar.imaging.dicom.structured_report import (
    ReportedRegion,
    ReportedScan,
    write_report,
)
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.segments import MOST_SEGMENTS, Segment
from napari_spatial_ar.imaging.windows import display_limits
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.findings import MIDLINE_MM, Finding
from napari_spatial_ar.review.p_values import share_note
from napari_spatial_ar.review.pictures import captured_slices
from napari_spatial_ar.review.provenance import dicom_algorithm
from napari_spatial_ar.review.results import ScanResults

__all__ = [
    "CAPTURES",
    "DEFAULT_OBJECTS",
    "DICOM_FILES",
    "DICOM_OBJECTS",
    "MORE_DICOM_FILES",
    "DicomObject",
    "DicomWritten",
    "EarlierReading",
    "chosen_objects",
    "earlier_reading",
    "write_dicom_objects",
]

DicomObject = Literal["seg", "pm", "sr", "capture", "gsps"]
#: Kinds of objects, by the names that users choose them by: segmentation, parametric map of the
#: scores, structured report, secondary captures, presentation state with outlines.
DICOM_OBJECTS: tuple[DicomObject, ...] = get_args(DicomObject)
#: Those written for ``dicom=True``.
DEFAULT_OBJECTS: tuple[DicomObject, ...] = ("seg", "pm")
#: Keys and names of their files.
DICOM_FILES = {"mask_dicom": "mask.dcm", "nll_dicom": "nll.dcm", "findings_dicom": "findings.dcm"}
#: Key and name of the folder of captures.
CAPTURES = "captures_dicom"
#: Keys and names of the files and the folder of the others.
MORE_DICOM_FILES = {
    "report_dicom": "report.dcm",
    "outlines_dicom": "outlines.dcm",
    CAPTURES: "captures",
}
# How far the middle of the body may be from that of the image for the side of a finding to be
# reported, and in how many slices the body is looked for.
_CENTRED_MM = 15.0
_SAMPLED_SLICES = 32
_STATED: dict[HeaderSide, Literal["left", "right"] | None] = {"R": "right", "L": "left", "": None}


def chosen_objects(dicom: bool | Collection[str]) -> tuple[DicomObject, ...]:
    """Objects to write, in their usual order; a report brings the segmentation that it refers to.

    Parameters
    ----------
    dicom : bool or collection of str
        True for `DEFAULT_OBJECTS`, or names of `DICOM_OBJECTS`.

    Raises
    ------
    InputError
        If there is no object of a name.
    """
    if isinstance(dicom, bool):
        return DEFAULT_OBJECTS if dicom else ()
    unknown = sorted(set(dicom) - set(DICOM_OBJECTS))
    if unknown:
        raise InputError(
            f"there is no kind of DICOM object '{unknown[0]}'",
            fix=f"Choose from {', '.join(DICOM_OBJECTS)}",
        )
    wanted = {*dicom, *(("seg",) if "sr" in dicom else ())}
    return tuple(kind for kind in DICOM_OBJECTS if kind in wanted)


@dataclass(frozen=True)
class EarlierReading:
    """The reading whose results are in a folder, as recorded in its ``provenance.json``.

    Parameters
    ----------
    reading : int
        Its number, from 1.
    uid : str
        Identifies it among the readings of the scan.
    content : str
        Identifies what was found: equal for readings that found the same.
    source : str
        Identifies the images.
    supersedes : str
        The ``uid`` of the reading before, "" for the first.
    predecessor : Written or None
        The report before its own.
    objects : dict of str to list of Written
        What was written, by the keys of files.
    images : list of str
        `image_marks` of the images; [] in records of earlier versions.
    """

    reading: int
    uid: str
    content: str
    source: str
    supersedes: str = ""
    predecessor: Written | None = None
    objects: dict[str, list[Written]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)

    @property
    def report(self) -> Written | None:
        """Its report, or the last one before it."""
        return next(iter(self.objects.get("report_dicom", [])), self.predecessor)


@dataclass(frozen=True)
class _Record:
    """The part of ``provenance.json`` on DICOM objects."""

    dicom: EarlierReading | None = None


def earlier_reading(record: Path) -> EarlierReading | None:
    """Read it from a ``provenance.json``; None if there is none, or it is not readable."""
    try:
        return parse_json(record.read_bytes(), _Record).dicom
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class DicomWritten:
    """What was written.

    Parameters
    ----------
    files : dict of str to Path
        By the keys of `DICOM_FILES` and `MORE_DICOM_FILES`.
    warnings : tuple of str
        Why a requested object is missing, or what to know about it.
    record : dict or None
        For ``provenance.json``, see `EarlierReading`; None if nothing was written.
    """

    files: dict[str, Path]
    warnings: tuple[str, ...] = ()
    record: dict[str, Any] | None = None


def write_dicom_objects(
    folder: Path,
    results: ScanResults,
    model: ScoringModel,
    scores: npt.NDArray[np.float32],
    *,
    objects: Sequence[DicomObject],
    earlier: EarlierReading | None = None,
    signed_by: str = "",
) -> DicomWritten:
    """Write DICOM objects into a folder, or state why it is impossible for a scan.

    If the scan's earlier reading found something else, or had only a part of its images, the new
    one supersedes it: its report refers to the earlier report, and the descriptions and numbers of
    its series count on. If it found the same, all UIDs are those of the earlier one.

    Parameters
    ----------
    folder : Path
        Gets the files.
    results : ScanResults
        What to write; rejected findings are in none of the objects.
    model : ScoringModel
        The model that scored the scan.
    scores : (Z, Y, X) float32
        For the parametric map.
    objects : sequence of str
        From `chosen_objects`.
    earlier : EarlierReading, optional
        The reading whose results are replaced.
    signed_by : str
        See `write_report`; nobody's name is in de-identified objects.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    volume, segments = results.volume, results.kept_segments
    try:
        sources = source_slices(volume)
        if results.de_identified:
            sources, signed_by = deidentified(sources), ""
    except InputError as error:
        # Without the path: a file name may contain a patient's name.
        return DicomWritten({}, (f"No DICOM objects were written: {error.what}.",))
    algorithm = dicom_algorithm(model, threshold=results.threshold)
    numbers = results.listed.numbered(volume.geometry.shape)
    edited = bool(results.record["threshold"]["mask_edited_by_hand"])
    now = _reading(results, sources, algorithm, numbers, earlier, signed_by)
    reading = Reading(now.reading, now.supersedes)
    files = {**DICOM_FILES, **MORE_DICOM_FILES}
    written: dict[str, list[Written]] = {}
    warnings = [*caveats(volume)]

    def write(key: str, make: Callable[[Path], Written | list[Written]]) -> None:
        """Write one object, or add a sentence on why it is impossible."""
        path = folder / files[key]
        try:
            found = make(path)
        except InputError as error:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            warnings.append(f"No {files[key]} was written: {error.what}.")
            return
        written[key] = found if isinstance(found, list) else [found]

    def seg(path: Path, parts: Sequence[Segment] = ()) -> Written:
        return write_seg(
            path,
            numbers,
            volume,
            algorithm=algorithm,
            edited=edited,
            segments=parts,
            reading=reading,
            sources=sources,
        )

    if "seg" in objects:
        write("mask_dicom", seg)
        if 0 < len(segments) <= MOST_SEGMENTS:
            write("findings_dicom", partial(seg, parts=segments))
        elif segments:
            warnings.append(
                f"No findings.dcm was written: {len(segments)} flagged regions are more than "
                f"{MOST_SEGMENTS} segments. mask.dcm has all of them as one."
            )
    if "pm" in objects:
        write(
            "nll_dicom",
            lambda path: write_parametric_map(
                path, scores, volume, algorithm=algorithm, unit=results.unit, sources=sources
            ),
        )
    referred = written.get("findings_dicom" if segments else "mask_dicom")
    if "sr" in objects and referred is None:
        warnings.append("No report.dcm was written: there are no segments that it can refer to.")
    elif "sr" in objects and referred is not None:
        region = _examined(sources)
        write(
            "report_dicom",
            lambda path: write_report(
                path,
                _reported(results, model, region),
                _about(results, model, region),
                volume,
                segmentation=referred[0],
                algorithm=algorithm,
                reading=reading,
                predecessor=now.predecessor,
                signed_by=signed_by,
                sources=sources,
            ),
        )
    if not segments:
        drawn = {"capture": "captures", "gsps": "outlines.dcm"}
        warnings += [
            f"No {what} were written: nothing is flagged."
            for kind, what in drawn.items()
            if kind in objects
        ]
    else:
        if "capture" in objects:
            write(
                CAPTURES,
                lambda path: write_captures(
                    path,
                    captured_slices(volume, numbers),
                    volume,
                    identity=now.uid,
                    reading=reading,
                    sources=sources,
                ),
            )
        if "gsps" in objects:
            write(
                "outlines_dicom",
                lambda path: write_presentation(
                    path,
                    numbers,
                    volume,
                    segments=segments,
                    window=display_limits(volume),
                    reading=reading,
                    sources=sources,
                ),
            )
    if not written:
        return DicomWritten({}, tuple(warnings))
    record = asdict(replace(now, objects=written))
    found = {key: folder / name for key, name in files.items() if key in written}
    return DicomWritten(found, tuple(warnings), record)


def _reading(
    results: ScanResults,
    sources: Sequence[SourceSlice],
    algorithm: Algorithm,
    numbers: npt.NDArray[np.integer],
    earlier: EarlierReading | None,
    signed_by: str,
) -> EarlierReading:
    """Give the reading its number after the earlier one of the same images, or of some of them."""
    images = [[source.sop_instance, source.frame] for source in sources]
    source = content_uid("images", images)
    found = [
        [segment.tracking_uid, segment.name, item.status]
        for segment, item in zip(results.segments, results.listed.items, strict=True)
        if item.status != "reject"
    ]
    content = content_uid("found", source, algorithm.plain(), numbers, found, signed_by)
    number, supersedes, predecessor = 1, "", None
    marks = image_marks(sources)
    if earlier is not None and (earlier.source == source or _fewer(earlier.images, marks)):
        if earlier.content == content:
            number, supersedes = earlier.reading, earlier.supersedes
            predecessor = earlier.predecessor
        else:
            number, supersedes = earlier.reading + 1, earlier.uid
            predecessor = earlier.report
    uid = content_uid("reading", content, number, supersedes)
    return EarlierReading(number, uid, content, source, supersedes, predecessor, images=marks)


def _fewer(images: Sequence[str], of: Sequence[str]) -> bool:
    """Whether images are some of others, but not all."""
    return bool(images) and set(images) < set(of)


def _examined(sources: Sequence[SourceSlice]) -> ExaminedRegion | None:
    """Find the examined part of the body, if all images state the same."""
    stated = {source.region for source in sources}
    return stated.pop() if len(stated) == 1 else None


def _about(
    results: ScanResults, model: ScoringModel, region: ExaminedRegion | None
) -> ReportedScan:
    calibration = model.header.calibration
    note = share_note(calibration, results.threshold, results.settings) if calibration else ""
    return ReportedScan(
        threshold=results.threshold,
        unit=results.unit,
        calibration=note,
        p_value=None if results.p_values is None else results.p_values.scan,
        site=None if region is None else region.code,
        warnings=results.shift_warnings,
    )


def _reported(
    results: ScanResults, model: ScoringModel, region: ExaminedRegion | None
) -> list[ReportedRegion]:
    middle = None
    if region is not None and region.both_sides:
        middle = _middle_of_body(results.volume, model)
    reported = []
    for segment, item in zip(results.segments, results.listed.items, strict=True):
        if item.status == "reject":
            continue
        finding = item.finding
        reported.append(
            ReportedRegion(
                segment=segment,
                status=item.status,
                peak_score=finding.peak_score,
                mean_score=finding.mean_score,
                volume_ml=finding.volume_ml,
                longest_diameter_mm=finding.longest_diameter_mm,
                perpendicular_diameter_mm=finding.perpendicular_diameter_mm,
                site=None if region is None else region.code,
                side=_side(finding, region, middle, results.volume.geometry),
            )
        )
    return reported


def _side(
    finding: Finding, region: ExaminedRegion | None, middle: float | None, geometry: Geometry
) -> Literal["left", "right"] | None:
    """Determine the patient's side of a finding, if it is beyond doubt.

    Of a paired part, it is the side that the header states: the middle of an image of a right knee
    is no midline. Of a region with both halves, it is the side of the image's middle, if the body's
    middle agrees and the header does not disagree.
    """
    if region is None:
        return None
    stated = _STATED[region.side]
    if not region.both_sides:
        return stated
    side = finding.side
    if middle is None or side not in ("left", "right"):
        return None
    z, y, x = (round(at) for at in finding.centroid_zyx)
    beyond = (geometry.display_index((z, y, x))[2] - middle) * geometry.display_spacing[2]
    body_side = "left" if beyond > MIDLINE_MM else "right" if beyond < -MIDLINE_MM else ""
    return side if body_side == side and stated in (None, side) else None


def _middle_of_body(volume: Scan, model: ScoringModel) -> float | None:
    """Where the body's middle is along the display axis that grows to the patient's left.

    None if the image does not show the body from side to side, or not in its middle: sides in the
    image are then not those of the patient.
    """
    geometry, body = volume.geometry, Body(volume, model)
    count = geometry.slice_count
    across = geometry.plane == "sagittal"
    chosen = range(count) if across else np.linspace(0, count - 1, min(count, _SAMPLED_SLICES))
    scored = np.zeros(count, bool)
    scored[np.unique(np.asarray(chosen).round().astype(int))] = True
    shown = np.flatnonzero(geometry.to_display(body.whole(scored)).any(axis=(0, 1)))
    last = geometry.display_shape[2] - 1
    if not shown.size or shown[0] == 0 or shown[-1] == last:
        return None
    middle = float(shown[0] + shown[-1]) / 2
    off = abs(middle - last / 2) * geometry.display_spacing[2]
    return middle if off <= _CENTRED_MM else None
