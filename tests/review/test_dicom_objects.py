"""What goes back to an archive: its places, measures, sides and references, read by others."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from PIL import ImageDraw
from pydicom.dataset import Dataset

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.derived import source_slices
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.windows import display_limits
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.review.dicom_objects import DICOM_OBJECTS
from napari_spatial_ar.review.findings import FindingsList, list_findings
from napari_spatial_ar.review.outputs import ScanOutputs, write_scan_outputs
from tests.dicom_oracles import (
    Group,
    conformance_errors,
    pixels_by_dcmtk,
    presented_by_dcmtk,
    report_by_dcmtk,
)
from tests.json_check import check
from tests.scans import build_image, build_multiframe

WriteSeries = Callable[..., list[Path]]

_AXES = [sign * np.eye(3)[axis] for axis in range(3) for sign in (1, -1)]
ORIENTATIONS = [
    (*row, *column) for row, column in itertools.product(_AXES, _AXES) if abs(row @ column) < 0.5
]
#: Rows and columns of the usual axial, coronal and sagittal series, of flipped ones, and oblique.
USUAL = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial, flipped left to right": (-1, 0, 0, 0, 1, 0),
    "axial, upside down": (1, 0, 0, 0, -1, 0),
    "axial, transposed": (0, 1, 0, 1, 0, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "coronal, upside down": (1, 0, 0, 0, 0, 1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "sagittal, from the back": (0, -1, 0, 0, 0, -1),
    "oblique": (0.9, 0.1, -0.42379, -0.06, 0.99231, 0.10808),
}
VOLUME, LONG, SHORT = "118565006", "103339001", "103340004"
SEGMENT = "121191"
LEFT, RIGHT = "7771000", "24028007"
#: Real series: CT and MR of several makers, sagittal, axial, anisotropic, multi-frame, tilted.
REAL = [
    *("mr_sagittal_HFS", "ct_ge", "generic/anatomical/002_non_isotropic", "ge/anatomical/001"),
    *("philips_enhanced/anatomical/001", "philips/anatomical/001", "siemens/anatomical/001"),
    *("failing/gantrytilting/001", "failing/sliceincrement/001", "generic/compressed_jpeg/001"),
]


def head(shape: tuple[int, int, int] = (6, 48, 40), centre: float = 19.5) -> np.ndarray:
    """Stored values of a bright ellipse with air around it."""
    rows, columns = np.indices(shape[1:])
    inside = ((rows - 23.5) / 18) ** 2 + ((columns - centre) / 14) ** 2 <= 1
    grey = np.where(inside, 500, 0) + np.random.default_rng(0).integers(0, 20, shape)
    return grey.astype(np.uint16)


def scored(scan: Scan, *boxes: tuple[tuple[slice, ...], float]) -> ScanScores:
    """Scores of 1 but in boxes (Z, Y, X)."""
    nll = np.ones(scan.geometry.shape, np.float32)
    for box, value in boxes:
        nll[box] = value
    count = scan.geometry.slice_count
    planes = np.moveaxis(nll, scan.geometry.slice_axis, 0).reshape(count, -1)
    return ScanScores(nll, scan.geometry, np.ones(count, bool), planes.max(axis=1))


def boxes_of(scan: Scan) -> list[tuple[tuple[slice, ...], float]]:
    """Three boxes that fit any scan, in slices that differ, the highest first."""
    z, y, x = scan.geometry.shape
    return [
        (np.s_[:2, y // 8 : y // 8 + 6, x // 8 : x // 8 + 3], 4.0),
        (np.s_[1:3, y // 2 : y // 2 + 4, x // 2 : x // 2 + 7], 3.5),
        (np.s_[z - 1 :, y // 4 : y // 4 + 3, 3 * x // 4 : 3 * x // 4 + 4], 3.0),
    ]


def rejecting(scan: Scan, scores: ScanScores, rank: int) -> FindingsList:
    """Findings of a threshold of 2, of which one is rejected and the first kept."""
    listed = list_findings(scores.nll > 2, scores.nll, scan.geometry)
    labels = {item.finding.rank: item.finding.label for item in listed.items}
    listed = listed.decide(labels[rank], status="reject")
    return listed.decide(labels[1], status="keep")


def outputs(
    folder: Path, scan: Scan, scores: ScanScores, model: Any, **options: Any
) -> ScanOutputs:
    options = {"threshold": 2.0, "dicom": DICOM_OBJECTS, **options}
    return write_scan_outputs(folder, scan, scores, model, **options)


def dicom_files(written: ScanOutputs) -> dict[str, Path]:
    """Every DICOM file, by its name in the folder."""
    folder = written.files["provenance"].parent
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.dcm"))}


def regions(report: Path) -> list[Group]:
    """Groups that refer to a segment."""
    whole, *groups = report_by_dcmtk(report).groups
    assert whole.texts["112039"] == ["whole scan"]
    assert whole.numbers["regions"] == (len(groups), "1")
    return groups


# ---------------------------------------------------------------- each object, on real scans


@pytest.mark.parametrize("series", REAL)
def test_objects_of_real_scans_are_valid_and_agree(
    series: str, shared_data: Path, tmp_path: Path, model: Any
) -> None:
    scan = read(shared_data / "readers" / series)[0]
    scores = scored(scan, *boxes_of(scan))
    listed = rejecting(scan, scores, 2)
    written = outputs(tmp_path / "out", scan, scores, model, reviewed=listed)
    allowed = ("frame of reference", "different factors")
    assert all(any(word in warning for word in allowed) for warning in written.warnings)
    files = dicom_files(written)
    assert {"mask.dcm", "findings.dcm", "nll.dcm", "report.dcm"} <= set(files)
    for name, path in files.items():
        assert conformance_errors(path) == [], name
    source = source_slices(scan)
    header = source[0].header
    for name, path in files.items():
        found = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate"):
            assert found.get(keyword) == header.get(keyword), (name, keyword)
        if name in ("mask.dcm", "findings.dcm", "nll.dcm"):
            assert found.FrameOfReferenceUID == header.FrameOfReferenceUID
        assert "research use" in found.SeriesDescription
    record = json.loads(written.files["provenance"].read_text())
    check(record, "provenance")
    recorded = {
        u["sop_instance"] for several in record["dicom"]["objects"].values() for u in several
    }
    assert recorded == {str(pydicom.dcmread(path).SOPInstanceUID) for path in files.values()}
    of_report(files, written, scan)
    of_captures(files, written, scan)


def of_report(files: dict[str, Path], written: ScanOutputs, scan: Scan) -> None:
    """Measures, references and identifiers are those of the tables and of the segmentation."""
    table = json.loads(written.files["findings_json"].read_text())["findings"]
    kept = [row for row in table if row["status"] != "reject"]
    assert len(kept) == 2
    seg = pydicom.dcmread(files["findings.dcm"])
    groups = regions(files["report.dcm"])
    for group, row in zip(groups, kept, strict=True):
        assert group.texts["112040"] == [row["tracking_uid"]]
        assert group.texts["112039"] == [row["tracking_id"]]
        ((instance, number),) = group.images
        assert instance == seg.SOPInstanceUID
        segment = seg.SegmentSequence[int(number) - 1]
        assert segment.SegmentNumber == int(number)
        assert segment.TrackingUID == row["tracking_uid"]
        assert segment.TrackingID == row["tracking_id"]
        assert group.texts["121232"] == [seg.ReferencedSeriesSequence[0].SeriesInstanceUID]
        highest, mean = group.numbers["score 56851009"], group.numbers["score 373098007"]
        assert highest == (pytest.approx(row["peak_score"]), "1")
        assert mean == (pytest.approx(row["mean_score"]), "1")
        assert group.codes["status"] == row["status"]
        for code, key, unit in (
            (VOLUME + " ", "volume_ml", "ml"),
            (LONG, "longest_diameter_mm", "mm"),
            (SHORT, "perpendicular_diameter_mm", "mm"),
        ):
            if row[key] is None:
                assert code.strip() not in group.numbers
            else:
                assert group.numbers[code.strip()] == (pytest.approx(row[key], rel=1e-6), unit)
        # The volume is that of the segment's voxels in the file.
        frames = np.atleast_3d(seg.pixel_array.reshape(-1, seg.Rows, seg.Columns))
        own = [
            frame
            for frame, of in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True)
            if of.SegmentIdentificationSequence[0].ReferencedSegmentNumber == int(number)
        ]
        assert sum(int(frame.sum()) for frame in own) == row["voxels"]


def of_captures(files: dict[str, Path], written: ScanOutputs, scan: Scan) -> None:
    """One for each flagged slice, of its source image."""
    captures = {name: path for name, path in files.items() if name.startswith("captures/")}
    flagged = np.flatnonzero(written.mask.any(axis=(1, 2)))
    assert [int(name[-7:-4]) for name in captures] == flagged.tolist()
    sources = source_slices(scan)
    assert len({pydicom.dcmread(path).SeriesInstanceUID for path in captures.values()}) == 1
    for index, path in zip(flagged, captures.values(), strict=True):
        made = pydicom.dcmread(path)
        assert (made.ConversionType, made.BurnedInAnnotation) == ("WSD", "YES")
        assert made.SeriesDescription.startswith("Outlines burnt in (research use)")
        assert made.PhotometricInterpretation == "RGB"
        (source,) = made.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == sources[index].sop_instance
        assert source.get("ReferencedFrameNumber") == sources[index].frame
        assert made.InstanceNumber == index + 1
        np.testing.assert_array_equal(pixels_by_dcmtk(path), made.pixel_array)
        by_itk = sitk.GetArrayFromImage(sitk.ReadImage(path))
        np.testing.assert_array_equal(by_itk.squeeze(), made.pixel_array)


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("orientation", list(USUAL.values()), ids=list(USUAL))
def test_what_is_drawn_lies_on_the_marked_pixels_of_the_source(
    orientation: tuple[float, ...],
    write_series: WriteSeries,
    tmp_path: Path,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pixels are found in the files themselves, by value, and their places by the headers."""
    letters: list[tuple[str, float]] = []
    draw = ImageDraw.ImageDraw.text

    def listen(self: Any, xy: Any, text: str, *args: Any, **options: Any) -> None:
        letters.append((text, xy[0]))
        draw(self, xy, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", listen)
    grey = head((4, 48, 40))
    grey[1:3, 10:16, 6:9] = 900  # no middle of anything
    grey[2, 12, 7] = 905  # a hole in the outline
    paths = write_series(grey, orientation=orientation, FrameOfReferenceUID="1.2.9")
    (scan,) = read(paths)
    nll = np.where(scan.data == 900, 3.0, 1.0).astype(np.float32)
    scores = replace(scored(scan), nll=nll)
    written = outputs(tmp_path / "out", scan, scores, model)
    assert written.warnings == ()
    state = pydicom.dcmread(written.files["outlines_dicom"])
    by_uid = {pydicom.dcmread(path).SOPInstanceUID: path for path in paths}
    drawn = {}
    for annotation in state.GraphicAnnotationSequence:
        (image,) = annotation.ReferencedImageSequence
        header = pydicom.dcmread(by_uid[image.ReferencedSOPInstanceUID])
        marked = header.pixel_array == 900
        rows, columns = np.indices(marked.shape)
        centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
        inside = np.zeros(marked.size, bool)
        for graphic in annotation.GraphicObjectSequence:
            assert (graphic.GraphicType, graphic.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
            points = np.reshape(graphic.GraphicData, (-1, 2))
            np.testing.assert_array_equal(points[0], points[-1])
            inside ^= Polygon(points).contains_points(centres)
        np.testing.assert_array_equal(inside.reshape(marked.shape), marked)
        drawn[image.ReferencedSOPInstanceUID] = header
        low, high = display_limits(scan)
        shown = presented_by_dcmtk(
            written.files["outlines_dicom"], by_uid[header.SOPInstanceUID], tmp_path / "s.pgm"
        )
        expected = np.clip((header.pixel_array - low) / (high - low), 0, 1) * 255
        assert np.abs(shown - expected)[shown.shape[0] // 4 :].max() <= 1.5
    assert len(drawn) == 2
    for path in sorted((tmp_path / "out/captures").iterdir()):
        made = pydicom.dcmread(path)
        header = drawn[made.SourceImageSequence[0].ReferencedSOPInstanceUID]
        picture = pixels_by_dcmtk(path)[:-44].astype(int)
        cyan = (picture[..., 0] < 30) & (picture[..., 2] > 240) & (picture[..., 1] > 220)
        centre = place_in_patient(header, header.pixel_array >= 900)
        corners = np.zeros((48, 40), bool)
        corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
        ends = places(header, corners)
        for letter, along in zip(made.PatientOrientation, (1, 0), strict=True):
            direction, size = towards(header, letter)
            seen = np.flatnonzero(cyan.any(axis=1 - along))
            middle = (seen[0] + seen[-1] + 1) / 2 * made.PixelSpacing[along]
            stated = direction @ centre - (ends @ direction).min() + size / 2
            assert abs(middle - stated) < 1.5 * made.PixelSpacing[along]
    sides = {text: x for text, x in letters if text in ("R", "L", "A", "P")}
    first, second = ("A", "P") if scan.geometry.plane == "sagittal" else ("R", "L")
    assert sides[first] < sides[second]


def places(header: Dataset, marked: np.ndarray) -> np.ndarray:
    """LPS of marked pixels by the header alone (PS3.3 C.7.6.2.1.1), mm."""
    along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, header.PixelSpacing)
    rows, columns = np.nonzero(marked)
    first = np.array(header.ImagePositionPatient, float)
    return (
        first
        + columns[:, None] * between_columns * along_row
        + rows[:, None] * between_rows * along_column
    )


def place_in_patient(header: Dataset, marked: np.ndarray) -> np.ndarray:
    found = places(header, marked)
    return (found.min(axis=0) + found.max(axis=0)) / 2


def towards(header: Dataset, letter: str) -> tuple[np.ndarray, float]:
    """The image's direction closest to one of the patient, and the size of its pixels, mm."""
    axis, sign = {"L": (0, 1), "P": (1, 1), "F": (2, -1)}[letter]
    directions = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    which = int(np.abs(directions[:, axis]).argmax())
    direction = directions[which] * np.sign(directions[which, axis]) * sign
    return direction, float(header.PixelSpacing[1 - which])


def test_frames_are_referred_to_by_number(tmp_path: Path, model: Any) -> None:
    """An enhanced file, stored from top to bottom, with a rescale in its functional groups."""
    grey = head((5, 48, 40))
    frames = [{"position": (0.0, 0.0, 40.0 - 2 * k)} for k in range(5)]
    whole = build_multiframe(
        grey,
        frames,
        SOPClassUID=pydicom.uid.EnhancedMRImageStorage,
        FrameOfReferenceUID="1.2.9",
    )
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, -100, "US"
    whole.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [rescale]
    pydicom.dcmwrite(tmp_path / "enhanced.dcm", whole, enforce_file_format=True)
    (scan,) = read(tmp_path / "enhanced.dcm")
    box = np.s_[3:4, 20:24, 20:26]  # of slices that rise: frame 2, at 38 mm
    written = outputs(tmp_path / "out", scan, scored(scan, (box, 3.0)), model)
    files = dicom_files(written)
    assert len(files) == 6
    for path in files.values():
        assert conformance_errors(path) == []
    seg = pydicom.dcmread(files["findings.dcm"])
    (group,) = seg.PerFrameFunctionalGroupsSequence
    assert group.PlanePositionSequence[0].ImagePositionPatient[2] == 38
    (capture,) = (path for name, path in files.items() if name.startswith("captures/"))
    state = pydicom.dcmread(files["outlines.dcm"])
    for item in (
        group.DerivationImageSequence[0].SourceImageSequence[0],
        pydicom.dcmread(capture).SourceImageSequence[0],
        state.GraphicAnnotationSequence[0].ReferencedImageSequence[0],
        state.ReferencedSeriesSequence[0].ReferencedImageSequence[0],
    ):
        assert item.ReferencedSOPInstanceUID == whole.SOPInstanceUID
        assert item.ReferencedSOPClassUID == whole.SOPClassUID
        assert item.ReferencedFrameNumber == 2
    assert (state.RescaleSlope, state.RescaleIntercept) == (2, -100)
    (window,) = state.SoftcopyVOILUTSequence
    low, high = display_limits(scan)
    assert window.WindowWidth == pytest.approx(high - low + 1)
    assert window.WindowCenter == pytest.approx((low + high + 1) / 2)
    report = report_by_dcmtk(files["report.dcm"])
    assert {uid for uid, _ in report.groups[0].images} == {whole.SOPInstanceUID}


def test_captures_and_outlines_are_of_acquired_slices_whatever_was_scored(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    (acquired,) = read(write_series(head(), FrameOfReferenceUID="1.2.9"))
    scan = acquired.along("sagittal")
    written = outputs(tmp_path / "out", scan, scored(scan, (np.s_[2:4, 20:24, 20:26], 3.0)), model)
    assert written.warnings == ()
    names = [path.name for path in sorted((tmp_path / "out/captures").iterdir())]
    assert names == ["slice_002.dcm", "slice_003.dcm"]
    state = pydicom.dcmread(written.files["outlines_dicom"])
    assert len(state.GraphicAnnotationSequence) == 2


def test_slices_of_different_rescale_have_no_presentation_state_and_a_sentence(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    """As in PET."""
    paths = write_series(head(), FrameOfReferenceUID="1.2.9")
    for number, path in enumerate(paths):
        header = pydicom.dcmread(path)
        header.RescaleSlope, header.RescaleIntercept = 1 + number / 8, 0
        header.save_as(path)
    (scan,) = read(paths)
    written = outputs(tmp_path / "out", scan, scored(scan, *boxes_of(scan)), model)
    (sentence,) = written.warnings
    assert sentence.startswith("No outlines.dcm was written: the pixels of its slices")
    assert "outlines_dicom" not in written.files
    assert not (tmp_path / "out/outlines.dcm").exists()
    assert {"report_dicom", "captures_dicom", "findings_dicom"} <= set(written.files)


# ---------------------------------------------------------------- sides and patients


def side_reported(folder: Path, scan: Scan, box: tuple[slice, ...], model: Any) -> tuple[str, str]:
    """Site and laterality of the one finding, by dcmtk."""
    written = outputs(folder, scan, scored(scan, (box, 3.0)), model, dicom=["sr"])
    (group,) = regions(written.files["report_dicom"])
    return group.codes.get("363698007", ""), group.laterality


BRAIN, KNEE = "12738006", "72696002"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_side_is_the_patients_in_every_orientation(
    orientation: tuple[float, ...], write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    """A cube of a head with a bright spot; its side follows from the headers (LPS x grows left)."""
    z, y, x = np.indices((30, 30, 30)) - 14.5
    grey = np.where(z**2 + y**2 + x**2 <= 12**2, 500, 0).astype(np.uint16)
    grey[18:21, 19:22, 20:23] = 900
    paths = write_series(
        grey,
        orientation=orientation,
        spacing=(4.0, 4.0),
        step=4.0 * np.cross(*np.array(orientation, float).reshape(2, 3)),
        origin=(500.0, 20.0, 30.0),  # far from the scanner's origin
        FrameOfReferenceUID="1.2.9",
        BodyPartExamined="BRAIN",
    )
    headers = [pydicom.dcmread(path) for path in paths]
    spot = np.concatenate([places(h, h.pixel_array == 900) for h in headers]).mean(axis=0)
    middle = np.concatenate([places(h, h.pixel_array >= 0) for h in headers]).mean(axis=0)
    (scan,) = read(paths)
    box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(scan.data == 900))
    expected = LEFT if spot[0] > middle[0] else RIGHT
    assert side_reported(tmp_path / "out", scan, box, model) == (BRAIN, expected)


def test_the_side_is_reported_only_where_it_is_known(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    """Columns grow to the patient's left: a spot in the last ones is left of the middle."""
    on_the_left, in_the_middle = np.s_[2:4, 20:24, 28:31], np.s_[2:4, 20:24, 19:21]
    folders = (f"case{n}" for n in itertools.count())
    spacing = (2.0, 2.0)

    def report(box: Any, *, centre: float = 19.5, **tags: Any) -> tuple[str, str]:
        folder = next(folders)
        paths = write_series(
            head(centre=centre), folder=folder, spacing=spacing, FrameOfReferenceUID="1.2.9", **tags
        )
        (scan,) = read(paths)
        return side_reported(tmp_path / f"out-{folder}", scan, box, model)

    assert report(on_the_left, BodyPartExamined="BRAIN") == (BRAIN, LEFT)
    assert report(in_the_middle, BodyPartExamined="BRAIN") == (BRAIN, "")
    # Nothing in the header: the middle of an image need not be that of a patient.
    assert report(on_the_left) == ("", "")
    assert report(on_the_left, BodyPartExamined="DOE JANE") == ("", "")
    # The middle of an image of a knee is no midline; the header states which knee it is.
    assert report(on_the_left, BodyPartExamined="KNEE") == (KNEE, "")
    assert report(on_the_left, BodyPartExamined="KNEE", Laterality="R") == (KNEE, RIGHT)
    assert report(on_the_left, BodyPartExamined="KNEE", ImageLaterality="L") == (KNEE, LEFT)
    assert report(on_the_left, BodyPartExamined="KNEE", Laterality="B") == (KNEE, "")
    # A head that the header calls the right one: the two disagree.
    assert report(on_the_left, BodyPartExamined="BRAIN", Laterality="R") == (BRAIN, "")
    # A head at the edge of the image, or off its middle.
    assert report(on_the_left, centre=27.0, BodyPartExamined="BRAIN") == (BRAIN, "")
    assert report(on_the_left, centre=30.0, BodyPartExamined="BRAIN") == (BRAIN, "")
    # Between the image's middle and that of a head which is not far off it.
    between = np.s_[2:4, 20:24, 23:25]
    assert report(between, BodyPartExamined="BRAIN") == (BRAIN, LEFT)
    assert report(between, centre=23.0, BodyPartExamined="BRAIN") == (BRAIN, "")
    # A code counts before the name.
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = KNEE, "SCT", "Doe's knee"
    assert report(
        on_the_left, BodyPartExamined="BRAIN", AnatomicRegionSequence=[code], Laterality="L"
    ) == (KNEE, LEFT)


def test_each_patients_objects_carry_this_patient(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    """Two patients with scans on the same grid, in one study folder."""
    for name in ("Alpha^Ann", "Beta^Bob"):
        write_series(
            head(),
            folder=f"in/{name}",
            PatientName=name,
            PatientID=name[:1],
            StudyInstanceUID=f"1.2.{len(name)}",
            SeriesInstanceUID=f"1.2.3.{len(name)}",
            FrameOfReferenceUID=f"1.2.9.{len(name)}",
        )
    scans = read(tmp_path / "in")
    assert len(scans) == 2
    tracked, instances = [], []
    for number, scan in enumerate(scans):
        name = str(pydicom.dcmread(scan.path).PatientName)
        out = tmp_path / f"out{number}"
        written = outputs(out, scan, scored(scan, *boxes_of(scan)), model)
        for path in dicom_files(written).values():
            header = pydicom.dcmread(path)
            assert (header.PatientName, header.PatientID) == (name, name[:1])
            assert header.StudyInstanceUID == f"1.2.{len(name)}"
            instances.append(header.SOPInstanceUID)
        assert name[:4].encode() not in written.files["findings_json"].read_bytes()
        table = json.loads(written.files["findings_json"].read_text())["findings"]
        tracked += [row["tracking_uid"] for row in table]
    assert len(set(tracked)) == len(tracked) == 6
    assert len(set(instances)) == len(instances)


# ---------------------------------------------------------------- readings


def test_a_rejected_finding_is_in_no_object(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    (scan,) = read(write_series(head(), FrameOfReferenceUID="1.2.9"))
    scores = scored(scan, *boxes_of(scan))
    written = outputs(tmp_path / "out", scan, scores, model, reviewed=rejecting(scan, scores, 2))
    table = json.loads(written.files["findings_json"].read_text())["findings"]
    (gone,) = (row for row in table if row["status"] == "reject")
    files = dicom_files(written)
    for name, path in files.items():
        assert gone["tracking_uid"].encode() not in path.read_bytes(), name
    assert len(regions(files["report.dcm"])) == 2
    assert gone["first_slice"] == 1, "alone in slice 2"
    assert "captures/slice_002.dcm" not in files
    images = pydicom.dcmread(files["outlines.dcm"]).GraphicAnnotationSequence
    assert len(images) == 3


def reading_of(written: ScanOutputs) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written.files["provenance"].read_text())["dicom"]
    return found


def test_exporting_again_adds_nothing_and_a_later_reading_supersedes(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    (scan,) = read(write_series(head(), FrameOfReferenceUID="1.2.9"))
    scores = scored(scan, *boxes_of(scan))

    def export(where: str = "out", **options: Any) -> tuple[dict[str, str], ScanOutputs]:
        written = outputs(tmp_path / where, scan, scores, model, overwrite=True, **options)
        uids = {
            name: str(pydicom.dcmread(path).SOPInstanceUID)
            for name, path in dicom_files(written).items()
        }
        return uids, written

    first, written = export()
    again, _ = export()
    elsewhere, _ = export("elsewhere")
    assert first == again == elsewhere
    assert reading_of(written)["reading"] == 1
    second, written = export(threshold=3.2)
    assert reading_of(written)["reading"] == 2
    assert {name for name in second if second[name] == first.get(name)} == {"nll.dcm"}
    report = report_by_dcmtk(written.files["report_dicom"])
    before = report.xml.find("document/predecessor/study/series/value/instance")
    assert before is not None
    assert before.get("uid") == first["report.dcm"]
    header = pydicom.dcmread(written.files["findings_dicom"])
    assert header.SeriesDescription == "Departure from normal (research use), series 4, reading 2"
    assert header.SeriesNumber == 9013
    for path in dicom_files(written).values():
        assert conformance_errors(path) == []
    same, written = export(threshold=3.2)
    assert same == second, "the second again, with the same predecessor"
    # Back to the first threshold: not the first reading, which the archive shows as superseded.
    third, written = export()
    assert reading_of(written)["reading"] == 3
    assert not {*third.values()} & {*first.values(), *second.values()} - {first["nll.dcm"]}
    report = report_by_dcmtk(written.files["report_dicom"])
    before = report.xml.find("document/predecessor/study/series/value/instance")
    assert before is not None
    assert before.get("uid") == second["report.dcm"]
    # Results without DICOM in between do not make it forget.
    export(dicom=False, threshold=3.9)
    same, written = export()
    assert same == third
    # Another status is another reading too, and so is one without a report in between.
    listed = rejecting(scan, scores, 2)
    _, written = export(reviewed=listed, dicom=["seg"])
    assert reading_of(written)["reading"] == 4
    _, written = export(reviewed=listed, threshold=3.2)
    report = report_by_dcmtk(written.files["report_dicom"])
    before = report.xml.find("document/predecessor/study/series/value/instance")
    assert before is not None
    assert before.get("uid") == third["report.dcm"]


def test_the_record_names_no_uid_of_the_source(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    own = {
        "StudyInstanceUID": "1.2.840.77.1",
        "SeriesInstanceUID": "1.2.840.77.2",
        "FrameOfReferenceUID": "1.2.840.77.3",
    }
    (scan,) = read(write_series(head(), **own))
    for threshold in (2.0, 3.2):
        scores = scored(scan, *boxes_of(scan))
        options = {"threshold": threshold, "overwrite": True}
        written = outputs(tmp_path / "out", scan, scores, model, **options)
        assert b"1.2.840.77" not in written.files["provenance"].read_bytes()
        report = report_by_dcmtk(written.files["report_dicom"])
    before = report.xml.find("document/predecessor/study")
    assert before is not None
    assert before.get("uid") == own["StudyInstanceUID"]


def test_results_of_another_scan_are_not_superseded(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    for number in (1, 2):
        paths = write_series(
            head(), folder=f"s{number}", SeriesInstanceUID=f"1.2.3.{number}", PatientID=f"P{number}"
        )
        (scan,) = read(paths)
        scores = scored(scan, *boxes_of(scan))
        written = outputs(tmp_path / "out", scan, scores, model, overwrite=True)
        assert reading_of(written)["reading"] == 1
        assert reading_of(written)["predecessor"] is None


def test_a_report_states_model_threshold_and_calibration(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    (scan,) = read(write_series(head(), FrameOfReferenceUID="1.2.9"))
    written = outputs(tmp_path / "out", scan, scored(scan, *boxes_of(scan)), model, dicom=["sr"])
    assert {"report_dicom", "findings_dicom", "mask_dicom"} <= set(written.files)
    assert not {"nll_dicom", "captures_dicom", "outlines_dicom"} & set(written.files)
    report = report_by_dcmtk(written.files["report_dicom"])
    title = report.text("document/content/container/concept/meaning")
    assert "research use" in title
    assert report.text("document/content/container/concept/value") == "126000"
    whole = report.groups[0]
    assert whole.numbers["122411"] == (2.0, "1")
    for group in report.groups:
        assert group.texts["111001"] == ["brain"]
        assert group.texts["111003"] == [model.sha256[:16]]
        said = group.texts["111002"]
        assert f"model sha256={model.sha256}" in said
        assert "threshold=2 nats per dimension" in said
        assert "unit of scores=nats per dimension" in said
    observers = [item.findtext("value") for item in report.xml.iter("code")]
    assert "121007" in observers, "a device"
    assert "121006" not in observers, "nobody has signed"
    signed = outputs(
        tmp_path / "b", scan, scored(scan, *boxes_of(scan)), model, dicom=["sr"], signed_by="Roe^R"
    )
    report = report_by_dcmtk(signed.files["report_dicom"])
    assert [item.findtext("value/last") for item in report.xml.iter("pname")] == ["Roe"]
    assert conformance_errors(signed.files["report_dicom"]) == []
    odd = "Żółw\\^Jürgen=x\n"
    signed = outputs(
        tmp_path / "c", scan, scored(scan, *boxes_of(scan)), model, dicom=["sr"], signed_by=odd
    )
    header = pydicom.dcmread(signed.files["report_dicom"])
    names = [item.PersonName for item in header.ContentSequence if item.ValueType == "PNAME"]
    assert names == ["Żółw^Jürgenx"]
    assert header.PatientName == "Doe^John"


def test_a_report_warns_of_scans_outside_the_training_domain(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    (scan,) = read(write_series(head(), FrameOfReferenceUID="1.2.9"))
    shift = DomainShift(("its slices are sagittal",))
    written = outputs(
        tmp_path / "out", scan, scored(scan, *boxes_of(scan)), model, dicom=["sr"], shift=shift
    )
    (sentence,) = written.shift_warnings
    whole, *groups = report_by_dcmtk(written.files["report_dicom"]).groups
    assert f"warning={sentence}" in whole.texts["111002"]
    assert all("warning" not in text for group in groups for text in group.texts["111002"])


def test_nothing_found_is_reported_as_such(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    (scan,) = read(write_series(head(), FrameOfReferenceUID="1.2.9"))
    written = outputs(tmp_path / "out", scan, scored(scan), model)
    assert written.warnings == (
        "No captures were written: nothing is flagged.",
        "No outlines.dcm were written: nothing is flagged.",
    )
    assert regions(written.files["report_dicom"]) == []
    for path in dicom_files(written).values():
        assert conformance_errors(path) == []


# ---------------------------------------------------------------- what cannot be


def test_sparse_headers_do(tmp_path: Path, model: Any) -> None:
    """No frame of reference, StudyID, dates or accession number."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k, plane in enumerate(head()):
        image = build_image(
            plane,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 3 * k],
            PixelSpacing=[2, 1],
        )
        for keyword in ("PatientBirthDate", "SeriesNumber", "SeriesDescription"):
            delattr(image, keyword)
        pydicom.dcmwrite(folder / f"{k}.dcm", image, enforce_file_format=True)
    (scan,) = read(folder)
    written = outputs(tmp_path / "out", scan, scored(scan, *boxes_of(scan)), model)
    (sentence,) = written.warnings
    assert "no frame of reference" in sentence
    files = dicom_files(written)
    assert {"mask.dcm", "report.dcm", "outlines.dcm", "nll.dcm"} <= set(files)
    for path in files.values():
        assert conformance_errors(path) == []


def test_a_nifti_scan_has_no_objects_and_one_sentence(
    scan: Scan, scores: Any, model: Any, tmp_path: Path
) -> None:
    written = outputs(tmp_path / "out", scan, scores, model)
    (sentence,) = written.warnings
    assert sentence.startswith("No DICOM objects were written: this scan was not read from DICOM")
    assert dicom_files(written) == {}
    assert json.loads(written.files["provenance"].read_text())["dicom"] is None


def test_an_unknown_kind_of_object_is_named(
    scan: Scan, scores: Any, model: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no kind of DICOM object 'rtss'"):
        outputs(tmp_path / "out", scan, scores, model, dicom=["seg", "rtss"])
    assert not (tmp_path / "out").exists()


def test_texts_of_the_header_that_viewers_do_not_need_stay_behind(
    write_series: WriteSeries, tmp_path: Path, model: Any
) -> None:
    """Of images as bright where they are dark, too: their own window and rescale are kept."""
    for number, photometric in enumerate(("MONOCHROME2", "MONOCHROME1")):
        paths = write_series(
            head(),
            folder=f"s{number}",
            FrameOfReferenceUID="1.2.9",
            PhotometricInterpretation=photometric,
            RescaleSlope=2,
            RescaleIntercept=-10,
            RescaleType="POISON TYPE",
            WindowCenter=300,
            WindowWidth=700,
            WindowCenterWidthExplanation="POISON WINDOW",
        )
        (scan,) = read(paths)
        written = outputs(tmp_path / f"o{number}", scan, scored(scan, *boxes_of(scan)), model)
        for name, path in dicom_files(written).items():
            assert b"POISON" not in path.read_bytes(), name
            assert conformance_errors(path) == [], name
        state = pydicom.dcmread(written.files["outlines_dicom"])
        assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (2, -10, "US")
        inverse = photometric == "MONOCHROME1"
        assert state.PresentationLUTShape == ("INVERSE" if inverse else "IDENTITY")
        (window,) = state.SoftcopyVOILUTSequence
        # The same values, black to white: LINEAR of the header is so by itself.
        assert window.WindowCenter == pytest.approx(300, abs=0.51)
        assert window.WindowWidth == pytest.approx(700)


def test_images_in_colour_have_no_grey_presentation_state(
    shared_data: Path, tmp_path: Path, model: Any
) -> None:
    scan = read(shared_data / "readers/generic/rgb/001")[0]
    written = outputs(tmp_path / "out", scan, scored(scan, *boxes_of(scan)), model)
    assert any("its images are in colour" in warning for warning in written.warnings)
    assert {"report_dicom", "captures_dicom"} <= set(written.files)
