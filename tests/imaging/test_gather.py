"""One odd source never takes another one down: it is left out, and the reason is said."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.imaging import reading
from napari_spatial_ar.imaging.gather import attempt
from napari_spatial_ar.imaging.nifti_voxels import NiftiVoxels
from napari_spatial_ar.imaging.reading import find_scans, read
from napari_spatial_ar.imaging.survey import survey
from napari_spatial_ar.imaging.surveyed import Survey
from napari_spatial_ar.imaging.thumbnails import thumbnail

ERRORS = [
    IndexError("doe"),
    RecursionError("doe"),
    UnicodeDecodeError("utf-8", b"doe", 0, 1, "doe"),
    OverflowError("doe"),
    ZeroDivisionError("doe"),
    struct.error("doe"),
    zlib.error("doe"),
    MemoryError("doe"),
    AssertionError("doe"),
    OSError(5, "Input/output error", "/doe"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two NIfTI scans, of 5 and of 6 slices."""
    for count, name in ((5, "good.nii"), (6, "odd.nii")):
        voxels = np.arange(16 * 20 * count, dtype=np.int16).reshape(20, 16, count)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / name)
    return tmp_path


def raising(real: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Raise at what has to do with the odd scan."""

    def read_or_raise(one: Any, *rest: Any) -> Any:
        path = one.stored.path if isinstance(one, NiftiVoxels) else Path(one)
        if path.name == "odd.nii":
            raise error
        return real(one, *rest)

    return read_or_raise


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_scan_that_cannot_be_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(reading, "find_nifti", raising(reading.find_nifti, error))
    found = find_scans(folder)
    assert [scan.geometry.shape[0] for scan in found.scans] == [5]
    (left_out,) = found.errors
    assert left_out.path == folder / "odd.nii"
    assert "doe" not in str(left_out)
    (volume,) = read(folder)
    assert any("1 input is left out" in w for w in volume.warnings)


def surveyed(folder: Path) -> Survey:
    steps = survey(folder)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_scan_whose_voxels_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in ("whole", "plane"):
        monkeypatch.setattr(NiftiVoxels, name, raising(getattr(NiftiVoxels, name), error))
    good, odd = find_scans(folder).scans
    assert thumbnail(good).size
    for use in (
        thumbnail,
        lambda scan: scan.read(lazy=False),
        lambda scan: scan.read(lazy=True).slice(0),
        lambda scan: scan.read(lazy=True).sample,
    ):
        with pytest.raises(InputError) as caught:
            use(odd)
        assert caught.value.path == folder / "odd.nii"
        assert "doe" not in str(caught.value)
    (volume,) = read(folder)
    assert volume.geometry.shape[0] == 5
    found = surveyed(folder)
    assert [len(series.slices) for series in found.series] == [5]
    assert [error.path for error in found.errors] == [folder / "odd.nii"]


def test_whatever_a_call_raises_is_its_own_trouble() -> None:
    def call(value: int) -> int:
        return 12 // value

    results, errors = attempt(partial(call, value) for value in (3, 0, 4))
    assert results == [4, 3]
    assert [error.what for error in errors] == ["cannot be read (ZeroDivisionError)"]
    with pytest.raises(InputError, match="ZeroDivisionError"):
        attempt([partial(call, 0)])


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Cancelled("stopped")])
def test_a_stop_is_not_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    monkeypatch.setattr(reading, "find_nifti", raising(reading.find_nifti, stop))
    with pytest.raises(type(stop)):
        find_scans(folder)


def nested_dicom(build: Callable[..., Dataset], path: Path) -> None:
    """Sequences in sequences, deeper than any reader goes."""
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff"
    dataset = build(np.arange(30, dtype=np.uint16).reshape(5, 6))
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    raw = path.read_bytes()
    # In place of the study's UID: in front of what is read.
    place = raw.index(b"\x08\0\x60\0CS")
    path.write_bytes(raw[:place] + b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff" + 20_000 * item)


def test_odd_files_beside_a_good_one(
    folder: Path, tmp_path: Path, dicom_image: Callable[..., Dataset]
) -> None:
    (folder / "line.nrrd").write_text(
        "NRRD0004\ntype: uchar\ndimension: 1\nsizes: 4\nencoding: ascii\n\n1 2 3 4\n"
    )
    nested_dicom(dicom_image, folder / "nested.dcm")
    (folder / "huge.mha").write_bytes(
        b"ObjectType = Image\nNDims = 3\nDimSize = 99999999999 1 1\nElementType = MET_UCHAR\n"
        b"ElementDataFile = LOCAL\n"
    )
    (folder / "name\udcff.nii").write_bytes(b"no scan")
    found = find_scans(folder)
    assert len(found.scans) == 2
    assert len(found.errors) == 4
    said = {error.path.name: error.what for error in found.errors if error.path}
    assert "1-D" in said["line.nrrd"]
    assert "nested" in said["nested.dcm"]
