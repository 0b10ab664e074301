"""A scan holds what can be looked at, in memory or read when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan, is_large
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import Window, resolve

DATA = np.random.default_rng(2).normal(100, 30, (5, 6, 7)).astype(np.float32)


@dataclass
class Reader:
    """Counts what is read."""

    slice_axis: int
    data: npt.NDArray[np.float32] = field(default_factory=lambda: DATA)
    planes: list[int] = field(default_factory=list)
    wholes: int = 0

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        self.wholes += 1
        return self.data, ("Seen when read.",)

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        self.planes.append(index)
        return self.data.take(index, axis=self.slice_axis)


def scan(slice_axis: int = 0) -> tuple[Scan, Reader]:
    reader = Reader(slice_axis)
    geometry = Geometry(DATA.shape, np.diag([1.0, -2.0, 3.0, 1.0]), slice_axis=slice_axis)
    return Scan(reader, geometry, "mri", Series("MR series 1"), warnings=("Found.",)), reader


GEOMETRY = Geometry((2, 3, 4), np.diag([-1.0, -1.0, 5.0, 1.0]))
GOOD = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def in_memory(data: npt.NDArray[np.float32]) -> Scan:
    return Scan(data, GEOMETRY, "mri", Series("MR series 1", (Path("a"), Path("b"))))


def test_a_small_scan_is_read_at_once() -> None:
    found, reader = scan()
    volume = found.read()
    assert not volume.lazy
    assert volume.data is DATA
    assert volume.warnings == ("Found.", "Seen when read.")
    assert (reader.wholes, reader.planes) == (1, [])


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_a_lazy_scan_reads_the_slice_that_is_asked_for(slice_axis: int) -> None:
    found, reader = scan(slice_axis)
    volume, eager = found.read(lazy=True), found.read()
    reader.planes.clear()
    assert volume.lazy
    np.testing.assert_array_equal(volume.slice(3), eager.slice(3))
    np.testing.assert_array_equal(found.slice(3), eager.slice(3))
    assert reader.planes == [3, 3]
    display = volume.geometry.to_display(volume.data)
    assert isinstance(display, da.Array)
    np.testing.assert_array_equal(np.asarray(display), eager.geometry.to_display(DATA))


def test_the_limit_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_large(1000 * 512 * 512)
    assert not is_large(300 * 512 * 512)
    monkeypatch.setenv("NAPARI_SPATIAL_AR_LAZY_MB", "1")
    assert is_large(2**18 + 1)
    assert not is_large(2**18)


def test_percentiles_of_a_lazy_scan_come_from_some_of_its_slices() -> None:
    found, reader = scan()
    reader.data = np.random.default_rng(3).normal(500, 100, (200, 20, 20)).astype(np.float32)
    found = replace(found, geometry=Geometry(reader.data.shape, np.eye(4)))
    window = Window("percentile", 1, 99)
    whole = resolve(window, reader.data)
    assert resolve(window, found.read(lazy=True)) == pytest.approx(whole, abs=15)
    assert len(reader.planes) < 50


def test_a_slice_that_is_not_there_is_refused() -> None:
    found, _ = scan()
    for index in (-1, 5):
        with pytest.raises(InputError, match=f"no slice {index}"):
            found.slice(index)


def test_a_scan_found_by_its_header_gives_its_voxels_too() -> None:
    found, reader = scan()
    assert found.lazy
    np.testing.assert_array_equal(np.asarray(found.data), DATA)
    assert sorted(reader.planes) == [0, 1, 2, 3, 4]
    assert reader.wholes == 0


def test_what_is_read_is_not_read_again() -> None:
    found, reader = scan()
    held = found.read()
    assert held.read() is held
    assert held.read(lazy=True) is held
    np.testing.assert_array_equal(found.read(lazy=True).read(lazy=False).data, DATA)
    assert reader.wholes == 1


def test_slices_are_a_view() -> None:
    held = in_memory(GOOD)
    assert held.slices.shape == (2, 3, 4)
    assert np.shares_memory(held.slices, held.data)
    assert held.path == Path("a")


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
        in_memory(data)
    assert caught.value.path == Path("a")


def test_a_series_does_not_show_its_file_names() -> None:
    assert repr(Series("CT", (Path("doe"),), uid="1.2")) == "Series(label='CT')"
    assert "doe" not in repr(Scan(GOOD, GEOMETRY, "ct", Series("CT", (Path("doe"),))))


def test_slices_of_another_plane_are_upright() -> None:
    held = in_memory(GOOD)  # axes (S, P, L)
    coronal, sagittal = held.along("coronal"), held.along("sagittal")
    assert held.along("axial") is held.along(None) is held
    np.testing.assert_array_equal(coronal.slices, GOOD[::-1].transpose(1, 0, 2))
    np.testing.assert_array_equal(sagittal.slices, GOOD[::-1].transpose(2, 0, 1))
    for other in (coronal, sagittal):
        assert np.shares_memory(other.data, held.data)
        np.testing.assert_array_equal(other.geometry.affine, held.geometry.affine)
    assert (coronal.geometry.plane, sagittal.geometry.plane) == ("coronal", "sagittal")


@pytest.mark.parametrize(
    "geometry", [replace(GEOMETRY, regular=False), Geometry.without_spacing((2, 3, 4))]
)
def test_a_scan_that_is_no_regular_volume_has_no_other_planes(geometry: Geometry) -> None:
    held = replace(in_memory(GOOD), geometry=geometry)
    with pytest.raises(InputError, match="coronal slices cannot be made"):
        held.along("coronal")


def test_a_scan_read_slice_by_slice_has_no_other_planes() -> None:
    with pytest.raises(InputError, match="one axial slice at a time"):
        scan()[0].read(lazy=True).along("sagittal")
