"""A copy has equal pixels at one place, whatever its UID; one UID makes no copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom import copies
from napari_spatial_ar.imaging.dicom.seg import write_seg
from napari_spatial_ar.imaging.dicom.series import find_series

Write = Callable[..., list[Path]]
Multiframe = Callable[..., Dataset]


def edited(path: Path, name: str, change: Callable[[Dataset], None]) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path.with_name(name), enforce_file_format=True)
    return path.with_name(name)


def renamed(dataset: Dataset) -> None:
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()


def renumbered(dataset: Dataset) -> None:
    renamed(dataset)
    dataset.InstanceNumber = 77


def packed(dataset: Dataset) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)


@pytest.mark.parametrize("change", [renamed, renumbered, packed])
def test_equal_pixels_at_one_place_are_a_copy(
    write_series: Write, voxels: np.ndarray, change: Callable[[Dataset], None]
) -> None:
    paths = write_series(voxels)
    (scan,) = find_series([*paths, edited(paths[1], "copy", change)])
    np.testing.assert_array_equal(scan.read().data, voxels)
    assert scan.geometry.regular
    assert "1 image occurs twice and was read once." in scan.warnings
    other = "1 copy has another SOP Instance UID than the image itself."
    assert (other in scan.warnings) == (change is not packed)


def test_a_whole_series_that_is_there_twice(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels)
    again = [edited(path, f"copy {path.name}", renamed) for path in paths]
    (scan,) = find_series(paths + again)
    np.testing.assert_array_equal(scan.read().data, voxels)
    assert "4 images are copies, which were read once." in scan.warnings
    assert "4 copies have another SOP Instance UID than the image itself." in scan.warnings


def test_images_of_one_uid_are_all_read(
    write_series: Write, voxels: np.ndarray, tmp_path: Path
) -> None:
    (scan,) = find_series(write_series(voxels, SOPInstanceUID="1.2.3.4"))
    np.testing.assert_array_equal(scan.read().data, voxels)
    assert scan.geometry.regular
    assert any(w.startswith("4 images share a SOP Instance UID") for w in scan.warnings)
    assert not any("cop" in w for w in scan.warnings)
    with pytest.raises(InputError, match="several of its images have one SOP Instance UID"):
        write_seg(tmp_path / "seg.dcm", voxels > 60, scan, algorithm=None)


def test_equal_slices_at_other_places_are_no_copies(write_series: Write) -> None:
    # Air above the head looks the same in each slice.
    voxels = np.zeros((4, 5, 6), np.uint16)
    voxels[3] = 7
    for tags in ({}, {"SOPInstanceUID": "1.2.3.4"}):
        (scan,) = find_series(write_series(voxels, folder=str(len(tags)), **tags))
        np.testing.assert_array_equal(scan.read().data, voxels)


def test_equal_blank_slices_of_two_time_points_are_no_copies(
    write_series: Write, voxels: np.ndarray
) -> None:
    voxels[0] = 0
    paths = write_series(voxels, folder="1")
    for path in write_series(voxels + 200 * (voxels > 0), folder="2"):
        number = pydicom.dcmread(path).InstanceNumber
        paths.append(
            edited(path, path.name, lambda d, n=number: setattr(d, "InstanceNumber", n + 4))
        )
    scans = find_series(paths)
    assert [scan.geometry.shape for scan in scans] == [voxels.shape] * 2
    assert not any("cop" in w for scan in scans for w in scan.warnings)


def test_a_multiframe_file_that_is_there_twice(
    multiframe: Multiframe, tmp_path: Path, voxels: np.ndarray
) -> None:
    frames = [{"position": (0, 0, 3.0 * k)} for k in range(4)]
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        pydicom.dcmwrite(path, multiframe(voxels, frames), enforce_file_format=True)
    (scan,) = find_series(paths)
    np.testing.assert_array_equal(scan.read().data, voxels)
    assert "4 images are copies, which were read once." in scan.warnings


def test_pixels_of_an_ordinary_series_are_not_read(
    write_series: Write, voxels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "decode", None)
    paths = write_series(voxels, AcquisitionTime="101500")
    paths += write_series(voxels, folder="b", AcquisitionTime="101503")
    assert len(find_series(paths)) == 2
