"""A scan in memory holds what can be looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.volume import Series, Volume

GEOMETRY = Geometry((2, 3, 4), np.diag([-1.0, -1.0, 5.0, 1.0]))
GOOD = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def volume(data: np.ndarray) -> Volume:
    return Volume(data, GEOMETRY, "mri", Series("MR series 1", (Path("a"), Path("b"))))


def test_slices_are_a_view() -> None:
    scan = volume(GOOD)
    assert scan.slices.shape == (2, 3, 4)
    assert np.shares_memory(scan.slices, scan.data)
    assert scan.path == Path("a")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (GOOD[:1], "do not fit the grid"),
        (np.where(GOOD < 5, np.inf, GOOD), "5 of 24 voxels are not finite"),
        (np.where(GOOD > 22, np.nan, GOOD), "1 of 24 voxels are not finite"),
        (np.zeros_like(GOOD), "same value, 0"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(data: np.ndarray, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        volume(data)
    assert caught.value.path == Path("a")


def test_a_series_does_not_show_its_file_names() -> None:
    assert repr(Series("CT", (Path("doe"),), uid="1.2")) == "Series(label='CT')"
    assert "doe" not in repr(Volume(GOOD, GEOMETRY, "ct", Series("CT", (Path("doe"),))))


def test_slices_of_another_plane_are_upright() -> None:
    scan = volume(GOOD)  # axes (S, P, L)
    coronal, sagittal = scan.along("coronal"), scan.along("sagittal")
    assert scan.along("axial") is scan.along(None) is scan
    np.testing.assert_array_equal(coronal.slices, GOOD[::-1].transpose(1, 0, 2))
    np.testing.assert_array_equal(sagittal.slices, GOOD[::-1].transpose(2, 0, 1))
    for other in (coronal, sagittal):
        assert np.shares_memory(other.data, scan.data)
        np.testing.assert_array_equal(other.geometry.affine, scan.geometry.affine)
    assert (coronal.geometry.plane, sagittal.geometry.plane) == ("coronal", "sagittal")


@pytest.mark.parametrize(
    "geometry", [replace(GEOMETRY, regular=False), Geometry.without_spacing((2, 3, 4))]
)
def test_a_scan_that_is_no_regular_volume_has_no_other_planes(geometry: Geometry) -> None:
    scan = replace(volume(GOOD), geometry=geometry)
    with pytest.raises(InputError, match="coronal slices cannot be made"):
        scan.along("coronal")


def test_a_scan_read_slice_by_slice_has_no_other_planes() -> None:
    with pytest.raises(InputError, match="one axial slice at a time"):
        Scan.of(volume(GOOD)).read(lazy=True).along("sagittal")
