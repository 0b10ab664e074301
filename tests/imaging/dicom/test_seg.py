"""Masks and heatmaps as DICOM, read back with highdicom, pydicom and nibabel."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.derived import Algorithm, Reading, caveats
from napari_spatial_ar.imaging.dicom.parametric_map import write_parametric_map
from napari_spatial_ar.imaging.dicom.seg import write_seg
from napari_spatial_ar.imaging.mask_to_series import mask_onto_series
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.reading import find_scans, read
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.segments import Segment, colour_of

ALGORITHM = Algorithm("brain-flair", "0123456789ab", {"threshold": "2.0"})
FRAME_OF_REFERENCE = "1.2.840.99.1"
_AXES = [sign * np.eye(3)[axis] for axis in range(3) for sign in (1, -1)]
#: Rows and columns along every pair of patient axes, and one pair that is oblique.
ORIENTATIONS = [
    (*row, *column) for row, column in itertools.product(_AXES, _AXES) if abs(row @ column) < 0.5
]
_TILTED = np.linalg.qr(np.array([[0.9, 0.2], [0.3, 0.8], [-0.2, 0.5]]))[0].T
OBLIQUE = tuple(_TILTED.ravel())

WriteSeries = Callable[..., list[Path]]


@pytest.fixture
def grey() -> np.ndarray:
    """(slices, rows, columns) uint16, no two alike."""
    return np.random.default_rng(3).permutation(5 * 6 * 7).reshape(5, 6, 7).astype(np.uint16)


def lps_of(path: Path, row: int, column: int) -> np.ndarray:
    """Place of a pixel of a single-frame file by its header alone (PS3.3 C.7.6.2.1.1), LPS mm."""
    header = pydicom.dcmread(path)
    along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(v) for v in header.PixelSpacing)
    first = np.array(header.ImagePositionPatient, float)
    return first + column * between_columns * along_row + row * between_rows * along_column


def lps_in_seg(path: Path) -> np.ndarray:
    """Place of the one voxel of a segmentation, by its frame's own attributes, LPS mm."""
    seg = pydicom.dcmread(path)
    frame, row, column = np.argwhere(
        np.atleast_3d(seg.pixel_array.reshape(-1, seg.Rows, seg.Columns))
    )[0]
    shared = seg.SharedFunctionalGroupsSequence[0]
    axes = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    groups = seg.PerFrameFunctionalGroupsSequence[frame]
    first = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
    along_row, along_column = np.array(axes, float).reshape(2, 3)
    return first + column * float(spacing[1]) * along_row + row * float(spacing[0]) * along_column


def lps_by_highdicom(path: Path) -> np.ndarray:
    volume = hd.seg.segread(path).get_volume()
    array = volume.array.reshape(volume.spatial_shape)
    return volume.map_indices_to_reference(np.argwhere(array))[0]


@pytest.mark.parametrize("orientation", [*ORIENTATIONS, OBLIQUE])
def test_a_marked_voxel_comes_back_at_its_place(
    orientation: tuple[float, ...], grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    paths = write_series(
        grey, orientation=orientation, FrameOfReferenceUID=FRAME_OF_REFERENCE, origin=(3.5, -8, 21)
    )
    (volume,) = read(paths[0].parent)
    marked = (3, 1, 5)
    place = lps_of(paths[marked[0]], *marked[1:])
    mask = (volume.data == grey[marked]).astype(np.uint8)
    assert mask.sum() == 1
    write_nifti(tmp_path / "mask.nii.gz", mask, volume.geometry)
    write_seg(tmp_path / "mask.dcm", mask, volume, algorithm=ALGORITHM)

    image = nib.load(tmp_path / "mask.nii.gz")
    (index,) = np.argwhere(np.asarray(image.dataobj))
    ras = nib.affines.apply_affine(image.affine, index)
    np.testing.assert_allclose(ras * (-1, -1, 1), place, atol=1e-2)
    np.testing.assert_allclose(lps_in_seg(tmp_path / "mask.dcm"), place, atol=1e-2)
    np.testing.assert_allclose(lps_by_highdicom(tmp_path / "mask.dcm"), place, atol=1e-2)
    seg = pydicom.dcmread(tmp_path / "mask.dcm")
    assert seg.FrameOfReferenceUID == FRAME_OF_REFERENCE
    (groups,) = seg.PerFrameFunctionalGroupsSequence
    (source,) = groups.DerivationImageSequence[0].SourceImageSequence
    assert source.ReferencedSOPInstanceUID == pydicom.dcmread(paths[marked[0]]).SOPInstanceUID
    assert source.SpatialLocationsPreserved == "YES"
    assert len(seg.SourceImageSequence) == len(paths)


def test_a_mask_made_in_another_plane_lies_on_the_images_all_the_same(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    (volume,) = read(write_series(grey, FrameOfReferenceUID=FRAME_OF_REFERENCE)[0].parent)
    mask = (volume.data == grey[3, 1, 5]).astype(np.uint8)
    for name, seen in (("acquired", volume), ("turned", volume.along("sagittal"))):
        write_seg(tmp_path / f"{name}.dcm", mask, seen, algorithm=ALGORITHM)
    np.testing.assert_array_equal(
        lps_in_seg(tmp_path / "turned.dcm"), lps_in_seg(tmp_path / "acquired.dcm")
    )


def segments(*numbers: int) -> list[Segment]:
    return [
        Segment(
            number, f"Flagged region {number}", colour_of(number), f"r{number}", f"2.25.{number}"
        )
        for number in numbers
    ]


@pytest.mark.parametrize("orientation", [*ORIENTATIONS[::7], OBLIQUE])
def test_each_finding_is_a_segment_of_its_own_at_its_place(
    orientation: tuple[float, ...], grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    """The number of one that was rejected, 2, is left out."""
    paths = write_series(grey, orientation=orientation, FrameOfReferenceUID=FRAME_OF_REFERENCE)
    (volume,) = read(paths[0].parent)
    marked = {1: (3, 1, 5), 3: (0, 2, 2), 4: (3, 4, 0)}
    numbers = np.zeros(volume.geometry.shape, np.uint16)
    for number, place in marked.items():
        numbers[volume.data == grey[place]] = number
    out = tmp_path / "findings.dcm"
    write_seg(out, numbers, volume, algorithm=ALGORITHM, segments=segments(*marked))
    seg = hd.seg.segread(out)
    assert list(seg.segment_numbers) == [1, 2, 3]
    for segment, (number, place) in zip(segments(*marked), marked.items(), strict=True):
        (at,) = seg.get_segment_numbers(tracking_uid=segment.tracking_uid)
        told = seg.get_segment_description(at)
        assert told.segment_label == f"Flagged region {number}"
        assert told.tracking_id == f"r{number}"
        colour = hd.color.CIELabColor.from_dicom_value(told.RecommendedDisplayCIELabValue)
        np.testing.assert_allclose(colour.to_rgb(), colour_of(number), atol=1)
        found = seg.get_volume(segment_numbers=[at])
        index = np.argwhere(found.array.reshape(found.spatial_shape))
        (lps,) = found.map_indices_to_reference(index)
        np.testing.assert_allclose(lps, lps_of(paths[place[0]], *place[1:]), atol=1e-2)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_a_nifti_mask_of_any_axis_order_goes_back_onto_its_series(
    axes: tuple[int, ...],
    signs: tuple[int, ...],
    grey: np.ndarray,
    write_series: WriteSeries,
    tmp_path: Path,
) -> None:
    paths = write_series(grey, orientation=OBLIQUE, FrameOfReferenceUID=FRAME_OF_REFERENCE)
    (scan,) = find_scans(paths).scans
    marked = (1, 4, 2)
    mask = (grey == grey[marked]).astype(np.uint8)
    image = nib.Nifti1Image(mask.T, scan.geometry.affine)
    order = np.array([list(pair) for pair in zip(axes, signs, strict=True)], dtype=float)
    nib.save(image.as_reoriented(order), tmp_path / "mask.nii.gz")
    written = mask_onto_series(tmp_path / "mask.nii.gz", paths, tmp_path / "mask.dcm")
    assert (written.voxels, written.slices, written.warnings) == (1, 1, ())
    place = lps_of(paths[marked[0]], *marked[1:])
    np.testing.assert_allclose(lps_in_seg(tmp_path / "mask.dcm"), place, atol=1e-2)
    np.testing.assert_allclose(lps_by_highdicom(tmp_path / "mask.dcm"), place, atol=1e-2)


def test_the_series_that_fits_is_taken_and_the_distance_said(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    tags = {"FrameOfReferenceUID": FRAME_OF_REFERENCE}
    write_series(grey, folder="in/one", SeriesInstanceUID="1.2.3", **tags)
    right = write_series(
        grey, folder="in/two", SeriesInstanceUID="1.2.4", origin=(0, 0, 0), SeriesNumber=8, **tags
    )
    (volume,) = read(tmp_path / "in" / "two")
    write_nifti(tmp_path / "mask.nii", (volume.data > 100).astype(np.uint8), volume.geometry)
    out = tmp_path / "mask.dcm"
    written = mask_onto_series(tmp_path / "mask.nii", tmp_path / "in", out, label="Oedema")
    assert written.series == "MR series 8"
    seg = pydicom.dcmread(out)
    names = {pydicom.dcmread(path).SOPInstanceUID for path in right}
    assert {item.ReferencedSOPInstanceUID for item in seg.SourceImageSequence} == names
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.4"
    assert seg.SegmentSequence[0].SegmentLabel == "Oedema"
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    out.unlink()
    moved = volume.geometry.affine.copy()
    moved[1, 3] += 2
    write_nifti(
        tmp_path / "off.nii",
        (volume.data > 9).astype(np.uint8),
        replace(volume.geometry, affine=moved),
    )
    with pytest.raises(InputError, match="up to 2 mm off the closest one, MR series 8"):
        mask_onto_series(tmp_path / "off.nii", tmp_path / "in", out)
    write_nifti(tmp_path / "heat.nii", volume.data / 7, volume.geometry)
    with pytest.raises(InputError, match="not a mask"):
        mask_onto_series(tmp_path / "heat.nii", tmp_path / "in", out)
    assert not out.exists()


KNOWN = Path(__file__).parents[1] / "known_answers/seg_back_missing_slice"


def test_a_mask_of_a_stack_with_a_missing_slice_goes_back_slice_by_slice(tmp_path: Path) -> None:
    out = tmp_path / "seg.dcm"
    written = mask_onto_series(KNOWN / "mask.nii.gz", KNOWN / "series", out)
    assert written.voxels == 13
    seg = pydicom.dcmread(out)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    inside = np.asarray(nib.load(KNOWN / "mask.nii.gz").dataobj).T
    places = []
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        (path,) = (
            path
            for path in (KNOWN / "series").iterdir()
            if pydicom.dcmread(path).SOPInstanceUID == source.ReferencedSOPInstanceUID
        )
        if frame.sum() == 1:
            places.append(lps_of(path, *np.argwhere(frame)[0]).tolist())
        k = sorted((KNOWN / "series").iterdir()).index(path)
        np.testing.assert_array_equal(frame, inside[k])
    assert places == [[0, 5, 28]]


@pytest.fixture
def uneven(grey: np.ndarray, write_series: WriteSeries) -> list[Path]:
    """Files of a stack with a slice missing."""
    places = [(0.0, 0.0, 3.0 * k) for k in (0, 1, 2, 4, 5)]
    return write_series(grey, positions=places, FrameOfReferenceUID=FRAME_OF_REFERENCE)


def test_a_mask_of_uneven_slices_needs_its_own_series(
    uneven: list[Path], grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    (scan,) = find_scans(uneven).scans
    mask = tmp_path / "mask.nii.gz"
    write_nifti(mask, grey == grey[3, 1, 5], scan.geometry)
    regular = write_series(grey, folder="b", SeriesInstanceUID="1.2.4")
    written = mask_onto_series(mask, [*uneven, *regular], tmp_path / "seg.dcm")
    assert (written.voxels, written.slices) == (1, 1)
    np.testing.assert_allclose(lps_in_seg(tmp_path / "seg.dcm"), lps_of(uneven[3], 1, 5), atol=1e-4)
    places = [(0.0, 0.0, 3.0 * k) for k in (0, 1, 2, 4, 5)]
    other = write_series(grey, folder="c", positions=places, SeriesInstanceUID="1.2.5")
    for files, many in ((regular, "none is"), ([*uneven, *other], "2 are")):
        with pytest.raises(InputError, match=f"of the . DICOM series {many} such a stack"):
            mask_onto_series(mask, files, tmp_path / "seg.dcm")
    # Without its description nothing says that the slices are the scan's.
    image = nib.load(mask)
    image.header["descrip"] = b""
    nib.save(image, mask)
    with pytest.raises(InputError, match="is not on the grid of any"):
        mask_onto_series(mask, uneven, tmp_path / "seg.dcm")


def test_codes_maker_and_patient(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    (volume,) = read(write_series(grey, FrameOfReferenceUID=FRAME_OF_REFERENCE))
    mask = (volume.data > 150).astype(np.uint8)
    for edited, kind in ((False, "AUTOMATIC"), (True, "SEMIAUTOMATIC")):
        write_seg(tmp_path / "m.dcm", mask, volume, algorithm=ALGORITHM, edited=edited)
        seg = hd.seg.segread(tmp_path / "m.dcm")
        (segment,) = seg.SegmentSequence
        assert segment.SegmentAlgorithmType == kind
    assert seg.SegmentationType == "BINARY"
    category, type_ = (
        segment.SegmentedPropertyCategoryCodeSequence[0],
        segment.SegmentedPropertyTypeCodeSequence[0],
    )
    assert (category.CodeValue, category.CodingSchemeDesignator) == ("309825002", "SCT")
    # "Selected region": a program has marked it, and nobody has called it a lesion.
    assert (type_.CodeValue, type_.CodingSchemeDesignator) == ("111099", "DCM")
    (made_by,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (made_by.AlgorithmName, made_by.AlgorithmVersion) == ("brain-flair", "0123456789ab")
    assert made_by.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert made_by.AlgorithmParameters == "threshold=2.0"
    assert "not for diagnosis" in seg.ContentDescription
    assert not seg.get("ContentCreatorName")
    # A PACS files it by the patient; no other text of the scan goes along.
    assert (seg.PatientName, seg.PatientID) == ("Doe^John", "ID4711")
    assert "DOE" not in seg.SeriesDescription.upper()
    assert seg.StudyInstanceUID == "1.2"
    assert seg.SeriesInstanceUID != volume.series.uid


def uids(path: Path) -> list[str]:
    """Every UID of an object that is its own."""
    header = pydicom.dcmread(path)
    (dimensions,) = header.DimensionOrganizationSequence
    own = header.SeriesInstanceUID, header.SOPInstanceUID, dimensions.DimensionOrganizationUID
    assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
    return [str(uid) for uid in own]


def test_the_same_result_has_the_same_uids_and_another_has_others(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    """An archive that has an object already adds nothing when it is sent again."""
    paths = write_series(grey, FrameOfReferenceUID=FRAME_OF_REFERENCE)
    (volume,) = read(paths)
    (again,) = read(paths)
    mask = np.where(volume.data > 150, 7, 0).astype(np.uint16)
    moved = np.roll(mask, 1, axis=2)
    other = write_series(grey, folder="b", FrameOfReferenceUID=FRAME_OF_REFERENCE)
    (elsewhere,) = read(other)  # the same series, other images: another time point
    stricter = replace(ALGORITHM, parameters={"threshold": "2.5"})
    renamed = [replace(segments(7)[0], name="Finding 7")]
    found, every = [], []
    for case in (
        {},
        {"scan": again},
        {"mask": moved},
        {"scan": elsewhere},
        {"algorithm": stricter},
        {"algorithm": replace(ALGORITHM, version="ff")},
        {"edited": True},
        {"segments": segments(7)},
        {"segments": renamed},
        {"reading": Reading(2, "2.25.1")},
        {"reading": Reading(3, "2.25.2")},
    ):
        call = {"mask": mask, "scan": volume, "algorithm": ALGORITHM, **case}
        written = write_seg(tmp_path / "m.dcm", **call)
        found.append(uids(tmp_path / "m.dcm"))
        assert [written.series, written.sop_instance] == found[-1][:2]
    assert found[0] == found[1]
    for different in found[1:]:
        every += different
    assert len(set(every)) == len(every)
    scores = volume.data / 100
    maps = []
    for values, algorithm in ((scores, ALGORITHM), (scores, stricter), (scores * 2, ALGORITHM)):
        write_parametric_map(
            tmp_path / "n.dcm", values, volume, algorithm=algorithm, unit="log odds"
        )
        maps.append(uids(tmp_path / "n.dcm"))
    assert maps[0] == maps[1], "scores are the same at any threshold"
    assert not {*maps[0]} & {*maps[2], *every}


def test_a_later_reading_says_so(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    (volume,) = read(write_series(grey, FrameOfReferenceUID=FRAME_OF_REFERENCE))
    mask = (volume.data > 150).astype(np.uint8)
    numbers = []
    for reading in (Reading(), Reading(2, "2.25.1"), Reading(12, "2.25.1")):
        write_seg(
            tmp_path / "m.dcm", mask, volume, algorithm=ALGORITHM, label="x" * 60, reading=reading
        )
        header = pydicom.dcmread(tmp_path / "m.dcm")
        said = "(research use), series 4"
        said += f", reading {reading.number}" if reading.number > 1 else ""
        assert header.SeriesDescription.endswith(said)
        assert len(header.SeriesDescription) <= 64
        assert "(research use)" in header.SeriesDescription
        numbers.append(header.SeriesNumber)
    assert numbers == [9001, 9011, 9111]


def test_an_empty_mask_is_a_whole_file(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    (volume,) = read(write_series(grey, FrameOfReferenceUID=FRAME_OF_REFERENCE))
    write_seg(tmp_path / "m.dcm", np.zeros(grey.shape), volume, algorithm=ALGORITHM)
    seg = hd.seg.segread(tmp_path / "m.dcm")
    assert seg.NumberOfFrames == 5
    assert seg.get_volume().array.sum() == 0


def test_the_map_holds_the_scores_at_their_places(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    paths = write_series(grey, orientation=OBLIQUE, FrameOfReferenceUID=FRAME_OF_REFERENCE)
    (volume,) = read(paths)
    scores = np.random.default_rng(0).normal(1, 0.2, grey.shape).astype(np.float32)
    write_parametric_map(tmp_path / "nll.dcm", scores, volume, algorithm=ALGORITHM, unit="log odds")
    found = hd.imread(tmp_path / "nll.dcm")
    assert found.FrameOfReferenceUID == FRAME_OF_REFERENCE
    (mapping,) = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.LUTExplanation == "log odds"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    # highdicom stores slices in its own order, each with its place and its source.
    back = found.get_volume(dtype=np.float32)
    by_file = {pydicom.dcmread(path).SOPInstanceUID: number for number, path in enumerate(paths)}
    sources = [
        by_file[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        for groups in found.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(sources) == list(range(5))
    for number, frame in zip(sources, found.get_frames(dtype=np.float32), strict=True):
        np.testing.assert_array_equal(frame, scores[number])
    for index in np.ndindex(2, 2, 2):
        value = back.array[tuple(index)]
        (at,) = np.argwhere(scores == value)
        place = lps_of(paths[at[0]], at[1], at[2])
        found_at = back.map_indices_to_reference(np.array([index]))[0]
        np.testing.assert_allclose(found_at, place, atol=1e-2)
    with pytest.raises(InputError, match="not finite"):
        write_parametric_map(
            tmp_path / "n.dcm", scores * np.nan, volume, algorithm=ALGORITHM, unit="log odds"
        )


@pytest.mark.parametrize("kind", ["tilted", "uneven"])
def test_slices_off_a_regular_grid_keep_their_own_places(
    kind: str, grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    heights = [0, 3, 6, 9, 12] if kind == "tilted" else [0, 3, 6, 13, 16]
    shear = 0.3 if kind == "tilted" else 0.0
    positions = [(2.0, 5.0 + shear * h, float(h)) for h in heights]
    paths = write_series(grey, positions=positions, FrameOfReferenceUID=FRAME_OF_REFERENCE)
    (volume,) = read(paths)
    assert not volume.geometry.regular
    mask = (volume.data == grey[3, 2, 2]).astype(np.uint8)
    write_seg(tmp_path / "m.dcm", mask, volume, algorithm=ALGORITHM)
    np.testing.assert_allclose(lps_in_seg(tmp_path / "m.dcm"), lps_of(paths[3], 2, 2), atol=1e-4)
    write_parametric_map(
        tmp_path / "n.dcm", volume.data, volume, algorithm=ALGORITHM, unit="log odds"
    )
    found = pydicom.dcmread(tmp_path / "n.dcm")
    places = [
        np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for group in found.PerFrameFunctionalGroupsSequence
    ]
    order = np.argsort(np.array(places)[:, 2])
    np.testing.assert_allclose(np.array(places)[order], positions, atol=1e-4)
    np.testing.assert_array_equal(found.pixel_array[order], volume.data)
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert "SpacingBetweenSlices" not in measures


def enhanced(build: Callable[..., Dataset], grey: np.ndarray, times: int, folder: Path) -> Path:
    """Enhanced MR with every slice at every time point, the slices of one time point together."""
    count = len(grey)
    whole = build(
        np.concatenate([grey + 1000 * t for t in range(times)]),
        SOPClassUID=pydicom.uid.EnhancedMRImageStorage,
        FrameOfReferenceUID=FRAME_OF_REFERENCE,
    )
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [1.5, 0.5], 2.0
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for time, index in itertools.product(range(times), range(count)):
        group, position, content = Dataset(), Dataset(), Dataset()
        # Stored from top to bottom: frame order is not slice order.
        position.ImagePositionPatient = [1.0, 2.0, 40.0 - 2 * index]
        content.TemporalPositionIndex, content.StackID = time + 1, "1"
        content.InStackPositionNumber = index + 1
        content.DimensionIndexValues = [index + 1, time + 1]
        group.PlanePositionSequence = Sequence([position])
        group.FrameContentSequence = Sequence([content])
        groups.append(group)
    whole.PerFrameFunctionalGroupsSequence = Sequence(groups)
    path = folder / "enhanced.dcm"
    pydicom.dcmwrite(path, whole, enforce_file_format=True)
    return path


def test_frames_of_one_time_point_are_referred_to_by_number(
    grey: np.ndarray, dicom_image: Callable[..., Dataset], tmp_path: Path
) -> None:
    path = enhanced(dicom_image, grey, 3, tmp_path)
    whole = pydicom.dcmread(path)
    volumes = read(path)
    assert len(volumes) == 3
    for volume in volumes:
        time = int(volume.data.max()) // 1000
        mask = np.isin(volume.data, [grey[1, 2, 3] + 1000 * time, grey[4, 0, 0] + 1000 * time])
        assert mask.sum() == 2
        write_seg(tmp_path / "m.dcm", mask, volume, algorithm=ALGORITHM)
        seg = pydicom.dcmread(tmp_path / "m.dcm")
        numbers = {}
        for group in seg.PerFrameFunctionalGroupsSequence:
            (source,) = group.DerivationImageSequence[0].SourceImageSequence
            assert source.ReferencedSOPInstanceUID == whole.SOPInstanceUID
            assert source.ReferencedSOPClassUID == pydicom.uid.EnhancedMRImageStorage
            place = group.PlanePositionSequence[0].ImagePositionPatient
            numbers[int(source.ReferencedFrameNumber)] = float(place[2])
        assert numbers == {5 * time + 2: 38.0, 5 * time + 5: 32.0}
        (source,) = seg.SourceImageSequence
        assert sorted(source.ReferencedFrameNumber) == list(range(5 * time + 1, 5 * time + 6))
        (item,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert item.ReferencedSOPInstanceUID == whole.SOPInstanceUID
        back = hd.seg.segread(tmp_path / "m.dcm").get_volume().array
        assert back.sum() == 2


def test_what_cannot_be_referred_to_is_refused(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    (volume,) = read(write_series(grey, FrameOfReferenceUID=FRAME_OF_REFERENCE))
    out = tmp_path / "out" / "m.dcm"
    with pytest.raises(InputError, match="not on the scan's grid"):
        write_seg(out, np.zeros((5, 6, 8)), volume, algorithm=ALGORITHM)
    mosaic = replace(volume, series=replace(volume.series, frames=()))
    with pytest.raises(InputError, match="mosaic"):
        write_seg(out, np.ones(grey.shape), mosaic, algorithm=ALGORITHM)
    reversed_files = replace(volume, series=replace(volume.series, files=volume.series.files[::-1]))
    with pytest.raises(InputError, match="not where it was"):
        write_seg(out, np.ones(grey.shape), reversed_files, algorithm=ALGORITHM)
    write_nifti(tmp_path / "scan.nii.gz", volume.data, volume.geometry)
    (other,) = read(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="not read from DICOM"):
        write_seg(out, np.ones(grey.shape), other, algorithm=ALGORITHM)
    emptied = replace(volume, series=replace(volume.series, uid=""))
    with pytest.raises(InputError, match="its series has no UID"):
        write_seg(out, np.ones(grey.shape), emptied, algorithm=ALGORITHM)
    volume.series.files[2].unlink()
    with pytest.raises(InputError, match="still exist"):
        write_seg(out, np.ones(grey.shape), volume, algorithm=ALGORITHM)
    assert not out.parent.exists()


def test_a_series_without_a_frame_of_reference_gets_one_and_says_so(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    (volume,) = read(write_series(grey))
    (sentence,) = caveats(volume)
    assert "frame of reference" in sentence
    mask = (volume.data == grey[3, 2, 2]).astype(np.uint8)
    uids = set()
    for name in ("a.dcm", "b.dcm"):
        write_seg(tmp_path / name, mask, volume, algorithm=ALGORITHM)
        uids.add(pydicom.dcmread(tmp_path / name).FrameOfReferenceUID)
    assert len(uids) == 1


def test_odd_headers_do_not_stop_the_export(
    grey: np.ndarray,
    write_series: WriteSeries,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = write_series(grey, FrameOfReferenceUID=FRAME_OF_REFERENCE)
    for path in paths:
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            dataset.PatientAge = "0Y"
            dataset.PatientSex = "unknown"
            dataset.PatientBirthDate = "31.01.1970"
            dataset.StudyDate = "someday"
            dataset.SpecificCharacterSet = "ISO 2022 IR 100"
            dataset.PatientName = "Müller"
            dataset.save_as(path)
    (volume,) = read(paths)
    write_seg(tmp_path / "m.dcm", np.ones(grey.shape), volume, algorithm=ALGORITHM)
    seg = pydicom.dcmread(tmp_path / "m.dcm")
    assert seg.PatientName == "Müller"
    assert (seg.PatientSex, seg.PatientBirthDate, seg.StudyDate) == ("", "", "")
    shown = "".join(capfd.readouterr()) + caplog.text
    assert "ller" not in shown


def conformance_errors(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert any(line.strip() in ("Segmentation", "ParametricMap") for line in lines)
    return [line for line in lines if "Error" in line]


def conformance(volume: Scan, folder: Path) -> None:
    mask = np.zeros(volume.geometry.shape, np.uint8)
    mask[:, :2, :3] = 1
    write_seg(folder / "m.dcm", mask, volume, algorithm=ALGORITHM)
    assert conformance_errors(folder / "m.dcm") == []
    write_seg(folder / "m.dcm", mask * 0, volume, algorithm=None)
    assert conformance_errors(folder / "m.dcm") == []
    write_parametric_map(
        folder / "n.dcm", volume.data, volume, algorithm=ALGORITHM, unit="log odds"
    )
    assert conformance_errors(folder / "n.dcm") == []
    mask[:, 3:, 4:] = 7
    write_seg(folder / "f.dcm", mask, volume, algorithm=ALGORITHM, segments=segments(1, 7))
    assert conformance_errors(folder / "f.dcm") == []


def test_a_conformance_checker_finds_no_error(
    grey: np.ndarray,
    write_series: WriteSeries,
    dicom_image: Callable[..., Dataset],
    tmp_path: Path,
) -> None:
    (volume,) = read(write_series(grey, FrameOfReferenceUID=FRAME_OF_REFERENCE))
    conformance(volume, tmp_path)
    conformance(read(enhanced(dicom_image, grey, 2, tmp_path))[1], tmp_path)


@pytest.mark.parametrize(
    "series", ["mr_sagittal_HFS", "generic/anatomical/002_non_isotropic", "ge/anatomical/001"]
)
def test_a_conformance_checker_finds_no_error_on_real_scans(
    series: str, shared_data: Path, tmp_path: Path
) -> None:
    conformance(read(shared_data / "readers" / series)[0], tmp_path)


def test_nothing_of_the_patient_beyond_what_dicom_asks_for(
    grey: np.ndarray, write_series: WriteSeries, tmp_path: Path
) -> None:
    (volume,) = read(
        write_series(
            grey,
            FrameOfReferenceUID=FRAME_OF_REFERENCE,
            ProtocolName="POISON protocol",
            ImageComments="POISON comment",
            InstitutionName="POISON hospital",
            OperatorsName="POISON operator",
        )
    )
    write_seg(tmp_path / "m.dcm", np.ones(grey.shape), volume, algorithm=ALGORITHM)
    write_parametric_map(
        tmp_path / "n.dcm", volume.data, volume, algorithm=ALGORITHM, unit="log odds"
    )
    for name in ("m.dcm", "n.dcm"):
        assert b"POISON" not in (tmp_path / name).read_bytes()
        assert b"brain of DOE" not in (tmp_path / name).read_bytes()
