"""Scans that are found first and read when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan, is_large
from napari_spatial_ar.imaging.volume import Series
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
    np.testing.assert_array_equal(found.plane(3), eager.slice(3))
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
            found.plane(index)
