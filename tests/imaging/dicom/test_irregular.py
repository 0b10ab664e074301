"""Series that are no regular grid: opened as what they are, with figures, or refused with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.series import find_series, read_dicom
from napari_spatial_ar.imaging.dicom.sources import dicom_sources

Write = Callable[..., list[Path]]
NOT_REGULAR = "The geometry is not regular: nothing is measured in mm."


def places(paths: list[Path]) -> np.ndarray:
    """(N, 3) RAS of the first pixel of each file, in the order of z, by hand."""
    lps = [pydicom.dcmread(path).ImagePositionPatient for path in paths]
    return np.array(sorted(([-x, -y, z] for x, y, z in lps), key=lambda ras: ras[2]), dtype=float)


@pytest.mark.parametrize(
    ("name", "degrees", "step"),
    [("failing/gantrytilting/001", 14.0, 5.0), ("ct_ge", 18.5, 4.2202)],
)
def test_a_real_tilted_gantry_opens_sheared(
    shared_data: Path, name: str, degrees: float, step: float
) -> None:
    paths = sorted((shared_data / "readers" / name).iterdir())
    (volume,) = read_dicom(paths)
    geometry = volume.geometry
    assert not geometry.regular
    assert not geometry.measurable
    assert geometry.exact
    assert geometry.spacing_known
    assert volume.warnings == (
        f"The gantry was tilted by {degrees} degrees: the slices are not straight above each "
        "other.",
        "The geometry is not regular: volumes and sizes in a slice are measured, nothing across "
        "slices.",
    )
    # The sheared affine holds every slice; it is not the one of straight slices.
    corners = geometry.affine @ np.array([[0, 0, k, 1] for k in range(geometry.slice_count)]).T
    np.testing.assert_allclose(corners[:3].T, places(paths), atol=1e-2)
    assert geometry.slice_positions is None
    angle = np.degrees(
        np.arccos(normal_of(paths[0]) @ geometry.affine[:3, 2] / geometry.spacing[0])
    )
    assert angle == pytest.approx(degrees, abs=0.05)
    assert geometry.spacing[0] == pytest.approx(step, abs=1e-3)


def normal_of(path: Path) -> np.ndarray:
    orientation = np.array(pydicom.dcmread(path).ImageOrientationPatient, dtype=float)
    return np.cross(orientation[:3], orientation[3:]) * (-1, -1, 1)


def test_a_real_series_with_a_missing_slice_is_named(shared_data: Path) -> None:
    paths = sorted((shared_data / "readers/failing/sliceincrement/001").iterdir())
    (volume,) = read_dicom(paths)
    assert volume.warnings == (
        "The slices are unevenly spaced: 10.00 mm between slices 3 and 4, where 5.00 mm is usual; "
        "1 slice seems to be missing.",
        NOT_REGULAR,
    )
    assert not volume.geometry.regular
    np.testing.assert_allclose(volume.geometry.slice_positions, places(paths), atol=1e-3)
    assert volume.geometry.spacing[0] == pytest.approx(20 / 3)


def test_real_images_at_one_place_are_refused(shared_data: Path) -> None:
    paths = list((shared_data / "readers/failing/notavolume/001").iterdir())
    with pytest.raises(InputError, match=r"3 of its 4 slices are at the same position .*not one v"):
        read_dicom(paths)


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        (
            [(0, 0, 0), (0, 0, 3), (0, 0, 6), (0, 0, 12)],
            "6.00 mm between slices 3 and 4, where 3.00 mm is usual; 1 slice seems to be missing.",
        ),
        (
            [(0, 0, 0), (0, 0, 9), (0, 0, 12), (0, 0, 15)],
            "9.00 mm between slices 1 and 2, where 3.00 mm is usual; 2 slices seem to be missing.",
        ),
        (
            [(0, 0, 0), (0, 0, 3), (0, 0, 6), (0, 0, 10)],
            "4.00 mm between slices 3 and 4, where 3.00 mm is usual.",
        ),
        (
            [(0, 0, 0), (0, 0, 3), (0, 0, 3), (0, 0, 6)],
            "1 of its 4 slices are at the same position as another (the first at 3.00 mm",
        ),
        (
            [(0, 0, 0), (0, 2, 3), (0, 0, 6), (0, 0, 9)],
            "Slice 2 is shifted sideways by 2.00 mm.",
        ),
    ],
)
def test_an_irregular_series_opens_with_its_figures(
    write_series: Write,
    voxels: np.ndarray,
    positions: list[tuple[float, ...]],
    sentence: str,
) -> None:
    paths = write_series(voxels, positions=positions)
    (volume,) = read_dicom(paths)
    assert sentence in volume.warnings[0]
    assert volume.warnings[-1] == NOT_REGULAR
    assert not volume.geometry.measurable
    assert not volume.geometry.exact
    expected = np.array(positions) * (-1, -1, 1)
    np.testing.assert_allclose(volume.geometry.slice_positions, expected)
    assert sorted(map(float, volume.data[:, 0, 0])) == sorted(map(float, voxels[:, 0, 0]))
    sources = dicom_sources(volume)
    assert sources is not None
    for k, (path, frame) in enumerate(sources):
        dataset = pydicom.dcmread(path)
        assert frame == 0
        np.testing.assert_array_equal(volume.data[k], dataset.pixel_array)
        np.testing.assert_allclose(dataset.ImagePositionPatient, positions[k])


def test_tilted_and_uneven_are_both_named(write_series: Write, voxels: np.ndarray) -> None:
    positions = [(0, 0, 0), (0, 1, 3), (0, 2, 6), (0, 4, 12)]
    (scan,) = find_series(write_series(voxels, positions=positions))
    assert "tilted by 18.4 degrees" in scan.warnings[0]
    assert "6.00 mm between slices 3 and 4" in scan.warnings[1]
    assert scan.geometry.slice_positions is not None


def test_rounded_positions_are_still_regular(write_series: Write, voxels: np.ndarray) -> None:
    positions = [(0, 0, round(0.625 * k, 1)) for k in range(4)]
    (volume,) = read_dicom(write_series(voxels, positions=positions))
    assert volume.geometry.spacing[0] == pytest.approx(0.6333, abs=1e-3)
    assert volume.geometry.regular


@pytest.mark.parametrize(
    ("tag", "values", "words"),
    [
        ("TemporalPositionIdentifier", (1, 2), None),
        ("EchoTime", (4.6, 92.0), "echo time"),
        ("AcquisitionNumber", (7, 3), "acquisition number"),
        ("TriggerTime", (0.0, 40.0), "trigger time"),
        ("AcquisitionTime", ("101500", "101503.5"), "acquisition time"),
        ("ContentTime", ("235959", "235958"), "content time"),
    ],
)
def test_images_at_the_same_places_are_set_apart(
    write_series: Write, voxels: np.ndarray, tag: str, values: tuple, words: str | None
) -> None:
    paths = write_series(voxels, **{tag: values[0]})
    paths += write_series(voxels + 500, folder="b", **{tag: values[1]})
    scans = find_series(paths[::-1])
    assert [scan.geometry.shape for scan in scans] == [(4, 5, 6)] * 2
    assert all(scan.geometry.regular for scan in scans)
    if words:
        said = f"Several images are at each position; they were set apart by {words}."
        assert all(said in scan.warnings for scan in scans)
    data = {scan.series.label: scan.read().data for scan in scans}
    first, second = (voxels, voxels + 500) if values[0] < values[1] else (voxels + 500, voxels)
    if words is None:
        assert list(data) == ["MR series 4, time 2 of 2", "MR series 4, time 1 of 2"]
        data = dict(reversed(data.items()))
    else:
        assert list(data) == ["MR series 4, 1 of 2", "MR series 4, 2 of 2"]
    for got, expected in zip(data.values(), (first, second), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_images_that_only_their_number_tells_apart(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels) + write_series(voxels + 500, folder="b")
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number + 1
        dataset.save_as(path)
    first, second = find_series(paths)
    assert "set apart by their numbering alone." in first.warnings[0]
    np.testing.assert_array_equal(first.read().data, voxels)
    np.testing.assert_array_equal(second.read().data, voxels + 500)


def test_a_scanner_that_numbers_every_slice_a_time_point_makes_one_volume(
    write_series: Write, voxels: np.ndarray
) -> None:
    paths = write_series(voxels)
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.TemporalPositionIdentifier = number + 1
        dataset.save_as(path)
    (volume,) = read_dicom(paths)
    np.testing.assert_array_equal(volume.data, voxels)
    assert volume.series.label == "MR series 4"


def test_a_file_that_is_there_twice_is_read_once(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels)
    copy = paths[1].with_name("copy")
    copy.write_bytes(paths[1].read_bytes())
    (volume,) = read_dicom([*paths, copy])
    np.testing.assert_array_equal(volume.data, voxels)
    assert volume.geometry.regular
    assert "1 image occurs twice and was read once." in volume.warnings


def test_phases_of_one_slice_are_a_film(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels, positions=[(0, 0, 0)] * 4)
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.TriggerTime = 40.0 * number
        dataset.save_as(path)
    (volume,) = read_dicom([paths[k] for k in (2, 0, 3, 1)])
    assert volume.warnings == ("All 4 images are at one position: they are a film, not a volume.",)
    assert not volume.geometry.spacing_known
    np.testing.assert_array_equal(volume.slices, voxels)
