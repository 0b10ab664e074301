"""What a header claims is compared with the memory that is free before any is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging import memory
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make so many bytes of memory free."""

    def set_free(count: int) -> None:
        monkeypatch.setattr(memory, "free_bytes", lambda: count)
        monkeypatch.setattr(memory, "_LITTLE", 0)

    return set_free


def test_what_is_free_is_some_of_what_there_is() -> None:
    assert 2**20 < memory.free_bytes() <= psutil.virtual_memory().total


def test_the_sentence_has_both_sizes(free: Callable[[int], None]) -> None:
    free(3 * 2**30)
    memory.check_fits(3 * 2**30, Path("a"))
    assert memory.fits(3 * 2**30)
    assert not memory.fits(3 * 2**30 + 1)
    with pytest.raises(InputError, match=r"needs 5\.0 GiB of memory, and 3\.0 GiB are free"):
        memory.check_fits(5 * 2**30, Path("a"))
    free(7 * 2**20)
    with pytest.raises(InputError, match="and 7 MiB are free"):
        memory.check_fits(5 * 2**30, None)


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit, statistics = tmp_path / "memory.max", tmp_path / "memory.stat"
    monkeypatch.setattr(memory, "_LIMITS", ((str(limit), str(statistics), "anon"),))
    whole = memory.free_bytes()
    limit.write_text("max\n")
    statistics.write_text("anon 1000\nfile 900\n")
    assert memory.free_bytes() > whole // 2
    limit.write_text("5000\n")
    assert memory.free_bytes() == 4000  # the cache of files can be given back


@pytest.fixture(params=["nifti", "packed nifti", "dicom", "picture"])
def scan(
    request: pytest.FixtureRequest, tmp_path: Path, write_series: Callable[..., list[Path]]
) -> Scan:
    """A scan of 32 x 40 x 48 voxels, 240 KiB as float32."""
    voxels = np.random.default_rng(3).integers(0, 900, (32, 40, 48)).astype(np.uint16)
    if request.param == "dicom":
        path = write_series(voxels)[0].parent
    elif request.param == "picture":
        import tifffile

        path = tmp_path / "a.tif"
        tifffile.imwrite(path, voxels, photometric="minisblack")
    else:
        path = tmp_path / ("a.nii.gz" if "packed" in request.param else "a.nii")
        nib.save(nib.Nifti1Image(voxels.T, np.eye(4)), path)
    return find_scans(path).scans[0]


def test_a_scan_that_does_not_fit_is_read_by_slices_or_refused(
    scan: Scan, free: Callable[[int], None]
) -> None:
    whole = scan.read()
    assert not whole.lazy
    free(160_000)
    volume = scan.read()
    assert volume.lazy
    np.testing.assert_array_equal(volume.slice(7), whole.slice(7))
    with pytest.raises(InputError, match="MiB of memory") as caught:
        scan.read(lazy=False)
    assert caught.value.path == scan.series.files[0]
