"""Damaged files: whatever is in them, reading gives scans or one InputError."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.reading import find_scans, read

# A damaged file of a few kB that takes this long, or this much memory, is one that hangs.
_SECONDS = 5
_MOST_MEMORY_MB = 300
_PIXELS = np.random.default_rng(1).integers(0, 900, (3, 12, 10)).astype(np.int16)


def nifti_bytes() -> bytes:
    image = nib.Nifti1Image(_PIXELS.T, np.diag([-1.0, 2.0, 3.0, 1.0]))
    return image.to_bytes()


def dicom_bytes(build: Callable[..., Dataset], *, packed: bool, frames: bool) -> bytes:
    dataset = build(
        _PIXELS if frames else _PIXELS[0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[1, 2, 3],
        PixelSpacing=[1, 2],
        WindowCenter=40,
        WindowWidth=80,
    )
    if packed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def samples() -> dict[str, bytes]:
    from tests.scans import build_image

    nifti = nifti_bytes()
    return {
        "scan.nii": nifti,
        "scan.nii.gz": gzip.compress(nifti, mtime=0),
        "single": dicom_bytes(build_image, packed=False, frames=False),
        "frames.dcm": dicom_bytes(build_image, packed=False, frames=True),
        "packed.dcm": dicom_bytes(build_image, packed=True, frames=False),
    }


def peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def try_to_read(path: Path) -> None:
    """Read as users do; only an InputError may come out."""
    for attempt in (lambda: find_scans(path).scans, lambda: read(path)):
        with suppress(InputError):
            assert attempt()


# Half of the flips hit the header, where they do most.
def places(size: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(0, min(size, 600) - 1), st.integers(0, size - 1))


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "single", "frames.dcm", "packed.dcm"])
def test_damaged_files_are_read_or_named(
    name: str, samples: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = samples[name]
    path = tmp_path_factory.mktemp("fuzz") / name
    before = peak_memory_mb()

    @settings(
        max_examples=150,
        deadline=timedelta(seconds=_SECONDS),
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        flips=st.lists(st.tuples(places(len(whole)), st.integers(1, 255)), max_size=6),
        end=st.one_of(st.just(len(whole)), st.integers(0, len(whole))),
    )
    def damage(flips: list[tuple[int, int]], end: int) -> None:
        content = bytearray(whole)
        for place, change in flips:
            content[place] ^= change
        path.write_bytes(content[:end])
        try_to_read(path)

    damage()
    assert peak_memory_mb() - before < _MOST_MEMORY_MB


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dims", [(30000, 30000, 111), (32767,) * 7, (1, 1, 2**15 - 1, 2**15 - 1)])
def test_a_small_nifti_file_that_claims_gigabytes_is_refused(
    tmp_path: Path, dims: tuple[int, ...], packed: bool
) -> None:
    head = bytearray(nifti_bytes()[:392])
    head[40 : 40 + 2 * (len(dims) + 1)] = struct.pack(f"<{len(dims) + 1}h", len(dims), *dims)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(bytes(head)) if packed else bytes(head))
    before = peak_memory_mb()
    with pytest.raises(InputError, match=r"claims|cut short"):
        read(path)
    assert peak_memory_mb() - before < 100


@pytest.mark.parametrize("frames", [1, 100_000])
def test_a_small_dicom_file_that_claims_gigabytes_is_refused(
    tmp_path: Path, dicom_image: Callable[..., Dataset], frames: int
) -> None:
    dataset = dicom_image(_PIXELS[0], NumberOfFrames=frames)
    dataset.Rows = dataset.Columns = 65535
    dataset.PixelData = b"\0" * 40
    path = tmp_path / "a.dcm"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    before = peak_memory_mb()
    with pytest.raises(InputError, match="claims") as caught:
        read(path)
    assert caught.value.path == path
    assert peak_memory_mb() - before < 100
