"""Sheets of several slices in one picture, and images whose rows are not where they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.seg import write_seg
from napari_spatial_ar.imaging.dicom.series import find_series, read_dicom
from napari_spatial_ar.imaging.dicom.sources import dicom_sources
from tests.scans import AXIAL

Build = Callable[..., Dataset]
Write = Callable[..., list[Path]]
NORMAL = np.array([0.0, 0.0, 1.0])
ORIGIN = np.array([-31.5, -20.0, 7.0])


def place(k: int) -> np.ndarray:
    return ORIGIN + 3.0 * k * NORMAL


@pytest.fixture
def vframe(dicom_image: Build, tmp_path: Path) -> Callable[..., Path]:
    """Write slices (N, rows, columns) as a sheet of United Imaging's, tile by tile in an order."""

    def write(
        slices: np.ndarray, order: list[int], *, name: str = "a", change: Any = None, b: float = 0.0
    ) -> Path:
        count, rows, columns = slices.shape
        across = math.ceil(math.sqrt(count))
        sheet = np.zeros((math.ceil(count / across) * rows, across * columns), np.uint16)
        for tile, k in enumerate(order):
            row, column = divmod(tile, across)
            sheet[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = (
                slices[k]
            )
        dataset = dicom_image(
            sheet,
            ImageType=["ORIGINAL", "PRIMARY", "M", "VFRAME"],
            ImageOrientationPatient=list(AXIAL),
            PixelSpacing=[1.5, 0.5],
            SliceThickness=2.5,
        )
        block = dataset.private_block(0x0065, "Image Private Header", create=True)
        block.add_new(0x50, "DS", str(count))
        block.add_new(0x09, "FD", b)
        tiles = []
        for k in order:
            item = Dataset()
            item.ImagePositionPatient = place(k).tolist()
            tiles.append(item)
        block.add_new(0x51, "SQ", tiles)
        if change:
            change(dataset, block)
        pydicom.dcmwrite(tmp_path / name, dataset, enforce_file_format=True)
        return tmp_path / name

    return write


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 20])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_sheet_is_a_volume(vframe: Callable[..., Path], count: int, backwards: bool) -> None:
    slices = np.random.default_rng(count).integers(1, 900, (count, 4, 5)).astype(np.uint16)
    order = list(range(count))[:: -1 if backwards else 1]
    path = vframe(slices, order)
    (scan,) = find_series([path])
    volume = scan.read()
    np.testing.assert_array_equal(volume.data, slices)
    np.testing.assert_array_equal(scan.slice(count - 1), volume.slice(count - 1))
    expected = np.diag([-0.5, -1.5, 3.0 if count > 1 else 2.5, 1.0])
    expected[:3, 3] = ORIGIN * (-1, -1, 1)
    np.testing.assert_allclose(volume.geometry.affine, expected, atol=1e-6)
    assert volume.geometry.regular
    assert volume.warnings == ()
    assert dicom_sources(volume) is None


def test_sheets_of_a_series_are_named_by_their_b_values(vframe: Callable[..., Path]) -> None:
    slices = np.arange(120, dtype=np.uint16).reshape(6, 4, 5)
    paths = [vframe(slices + n, list(range(6)), name=str(n), b=n * 929.75) for n in range(2)]
    scans = find_series(paths)
    assert [s.series.label for s in scans] == ["MR series 4, b 0", "MR series 4, b 930"]


def test_uneven_tiles_are_said_so(vframe: Callable[..., Path]) -> None:
    def move(dataset: Dataset, block: Any) -> None:
        block[0x51].value[2].ImagePositionPatient = [-31.5, -20.0, 14.0]

    slices = np.arange(120, dtype=np.uint16).reshape(6, 4, 5)
    (scan,) = find_series([vframe(slices, list(range(6)), change=move)])
    assert not scan.geometry.regular
    assert "unevenly spaced" in scan.warnings[0]


DAMAGES: dict[str, Callable[[Dataset, Any], None]] = {
    "no count": lambda dataset, block: block.__delitem__(0x50),
    "no tiles": lambda dataset, block: block.__delitem__(0x51),
    "a tile too few": lambda dataset, block: block[0x51].value.pop(),
    "a tile without place": lambda dataset, block: block[0x51].value[1].clear(),
    "no maker": lambda dataset, block: dataset.__delitem__((0x0065, 0x0010)),
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_a_sheet_without_its_private_header_is_refused(
    vframe: Callable[..., Path], change: Callable[[Dataset, Any], None]
) -> None:
    slices = np.arange(120, dtype=np.uint16).reshape(6, 4, 5)
    with pytest.raises(InputError, match="sheet without the private header"):
        find_series([vframe(slices, list(range(6)), change=change)])


def test_a_sheet_that_does_not_divide_is_refused(vframe: Callable[..., Path]) -> None:
    def count(dataset: Dataset, block: Any) -> None:
        block[0x50].value = "10"
        block[0x51].value.extend(block[0x51].value[:4])

    slices = np.arange(120, dtype=np.uint16).reshape(6, 4, 5)
    with pytest.raises(InputError, match="8 x 15 pixels do not divide into 3 x 4 tiles"):
        find_series([vframe(slices, list(range(6)), change=count)])


def test_an_image_with_orientation_but_no_place_is_no_slice(
    write_series: Write, voxels: np.ndarray
) -> None:
    paths = write_series(voxels)
    for path in paths:
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient
        dataset.save_as(path)
    with pytest.raises(InputError, match="not its position: it may be a sheet of slices"):
        read_dicom(paths)


def test_nor_is_one_without_any_geometry(dicom_image: Build, tmp_path: Path) -> None:
    sheet = np.arange(900, dtype=np.uint16).reshape(30, 30)
    dataset = dicom_image(sheet, PixelSpacing=[30.0, 30.0])
    pydicom.dcmwrite(tmp_path / "a", dataset, enforce_file_format=True)
    with pytest.raises(InputError, match="more than fits into a scanner"):
        find_series([tmp_path / "a"])


@pytest.mark.parametrize(
    ("modality", "spacing", "refused"),
    [
        ("MR", (180.0, 150.0), True),
        ("CT", (180.0, 150.0), True),
        ("MR", (200.0, 80.0), False),  # composed of several stations
        ("MR", (100.0, 80.0), False),
        ("OT", (180.0, 150.0), False),
    ],
)
def test_an_image_wider_than_a_scanner_is_no_slice(
    write_series: Write,
    voxels: np.ndarray,
    modality: str,
    spacing: tuple[float, float],
    refused: bool,
) -> None:
    paths = write_series(voxels, spacing=spacing, Modality=modality)
    if not refused:
        assert find_series(paths)[0].geometry.spacing[1:] == spacing
        return
    with pytest.raises(InputError, match="900 x 900 mm, more than fits into a scanner"):
        find_series(paths)


def pepolar(paths: list[Path], which: str | None, name: str = "research/epi_pepolar") -> None:
    for path in paths:
        dataset = pydicom.dcmread(path)
        block = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", name)
        if which is not None:
            block.add_new(0xB3, "DS", which)
        dataset.save_as(path)


@pytest.mark.parametrize(("which", "name"), [("0", "epi_pepolar"), (None, "epi2"), ("1", "epi2")])
def test_rows_stay_where_they_say(
    write_series: Write, voxels: np.ndarray, which: str | None, name: str
) -> None:
    paths = write_series(voxels)
    (before,) = read_dicom(paths)
    pepolar(paths, which, name)
    (after,) = read_dicom(paths)
    np.testing.assert_array_equal(after.data, before.data)
    np.testing.assert_array_equal(after.geometry.affine, before.geometry.affine)
    assert after.warnings == ()


def test_rows_stored_reversed_are_put_where_they_belong(
    write_series: Write, voxels: np.ndarray, tmp_path: Path
) -> None:
    paths = write_series(voxels, FrameOfReferenceUID="1.2.9")
    (before,) = read_dicom(paths)
    pepolar(paths, "1.000000")
    (after,) = read_dicom(paths)
    assert "rows are stored in reverse (GE epi_pepolar)" in after.warnings[0]
    # In the patient, front and back are exchanged; left and right, top and bottom are not.
    shown = before.geometry.to_display(before.data)
    np.testing.assert_array_equal(after.geometry.to_display(after.data), shown[:, ::-1])
    assert after.geometry.display_translate == pytest.approx(before.geometry.display_translate)
    # A mask lies on the very pixels, as the PACS shows the images.
    mask = after.data == voxels[2, 1, 3]
    write_seg(tmp_path / "seg.dcm", mask, after, algorithm=None)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert np.argwhere(seg.pixel_array).tolist() == [[1, 3]]
    (group,) = seg.PerFrameFunctionalGroupsSequence
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == pydicom.dcmread(paths[2]).SOPInstanceUID


@pytest.mark.parametrize("which", ["2", "3"])
def test_rows_that_may_be_reversed_are_warned_of(
    write_series: Write, voxels: np.ndarray, which: str
) -> None:
    paths = write_series(voxels)
    pepolar(paths, which)
    (volume,) = read_dicom(paths)
    assert "every second volume may be stored in reverse" in volume.warnings[0]
