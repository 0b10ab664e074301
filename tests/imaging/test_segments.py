"""Label maps for 3D Slicer and ITK-SNAP, read back by libraries that did not write them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.segments import (
    Segment,
    colour_of,
    write_label_descriptions,
    write_seg_nrrd,
)

SHAPE = (4, 6, 8)
#: Voxel (z, y, x) of each number; 2 was rejected.
MARKED = {1: (3, 1, 5), 3: (0, 2, 2), 4: (3, 4, 0)}
_TURNED = nib.eulerangles.euler2mat(0.2, -0.3, 0.1)


def segments() -> list[Segment]:
    names = {number: f"Flagged region {number}" for number in MARKED}
    return [Segment(n, names[n], colour_of(n), f"r{n}", f"2.25.{n}") for n in MARKED]


def numbers() -> np.ndarray:
    made = np.zeros(SHAPE, np.uint16)
    for number, at in MARKED.items():
        made[at] = number
    made[3, 1, 6] = 1
    return made


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
@pytest.mark.parametrize("oblique", [False, True])
def test_a_seg_nrrd_lies_where_the_nifti_lies(
    tmp_path: Path, signs: tuple[int, ...], oblique: bool
) -> None:
    turn = _TURNED if oblique else np.eye(3)[[1, 2, 0]]
    affine = nib.affines.from_matvec(turn @ np.diag([0.5, 0.6, 3.0]) @ np.diag(signs), (3, -4, 5))
    geometry = Geometry(SHAPE, affine)
    path = tmp_path / "findings.seg.nrrd"
    write_seg_nrrd(path, numbers(), geometry, segments())
    write_nifti(tmp_path / "findings.nii.gz", numbers(), geometry)
    image, same = (
        SimpleITK.ReadImage(str(tmp_path / f"findings.{e}")) for e in ("seg.nrrd", "nii.gz")
    )
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), numbers())
    assert image.GetPixelIDValue() == SimpleITK.sitkUInt16
    for ours, theirs in (
        (image.GetOrigin(), same.GetOrigin()),
        (image.GetSpacing(), same.GetSpacing()),
        (image.GetDirection(), same.GetDirection()),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_each_segment_has_its_name_value_extent_and_colour(tmp_path: Path) -> None:
    path = tmp_path / "findings.seg.nrrd"
    write_seg_nrrd(path, numbers(), Geometry(SHAPE, np.diag([-1.0, -1, 2, 1])), segments())
    header = nrrd.read_header(str(path))
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    for index, (number, (z, y, x)) in enumerate(MARKED.items()):
        told = {
            k.partition("_")[2]: v for k, v in header.items() if k.startswith(f"Segment{index}_")
        }
        assert (told["ID"], told["Name"]) == (f"Segment_{number}", f"Flagged region {number}")
        assert (told["LabelValue"], told["Layer"]) == (str(number), "0")
        extent = [x, x + (number == 1), y, y, z, z]
        assert [int(end) for end in told["Extent"].split()] == extent
        colour = [float(part) for part in told["Color"].split()]
        np.testing.assert_allclose(colour, np.array(colour_of(number)) / 255, atol=1e-5)
    assert f"Segment{len(MARKED)}_ID" not in header


def test_nothing_found_is_a_map_without_segments(tmp_path: Path) -> None:
    path = tmp_path / "findings.seg.nrrd"
    write_seg_nrrd(path, numbers() * 0, Geometry(SHAPE, np.eye(4)), [])
    data, header = nrrd.read(str(path))
    assert data.shape == SHAPE[::-1]
    assert not data.any()
    assert not [key for key in header if key.startswith("Segment0")]


def test_uneven_slices_are_refused(tmp_path: Path) -> None:
    places = np.array([[0, 0, 0], [0, 0, 2], [0, 0, 3], [0, 0, 9.0]])
    geometry = Geometry(SHAPE, np.eye(4), slice_positions=places)
    with pytest.raises(InputError, match="unevenly spaced"):
        write_seg_nrrd(tmp_path / "findings.seg.nrrd", numbers(), geometry, segments())
    assert list(tmp_path.iterdir()) == []


def test_label_descriptions_are_as_itk_snap_writes_them(tmp_path: Path) -> None:
    write_label_descriptions(tmp_path / "findings.label", segments())
    lines = (tmp_path / "findings.label").read_text().splitlines()
    rows = [line for line in lines if not line.startswith("#")]
    # Index, red, green, blue, opacity, shown, shown as a mesh, name in quotes.
    pattern = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"(.*)"')
    found = [match.groups() for match in map(pattern.fullmatch, rows) if match]
    assert len(found) == len(rows)
    assert found[0] == ("0", "0", "0", "0", "0", "0", "0", "Clear Label")
    for row, number in zip(found[1:], MARKED, strict=True):
        assert tuple(map(int, row[:4])) == (number, *colour_of(number))
        assert row[4:] == ("1", "1", "1", f"Flagged region {number}")


def test_neighbouring_numbers_differ_in_colour() -> None:
    colours = np.array([colour_of(number) for number in range(1, 41)])
    assert len({tuple(colour) for colour in colours}) == 40
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 150
    assert (colours @ [0.2126, 0.7152, 0.0722]).min() > 0.47 * 255, "black text is read on each"
