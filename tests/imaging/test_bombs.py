"""A few bytes that claim gigabytes take no more memory than a scan does, or are refused."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

# For each line with a path, and how much memory it may take beside what it has already, a process
# of its own reads it and says what comes of it, and how many MiB it took at most.
_READ = """
import os, resource, sys
import psutil
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.datasets.thumbnails import thumbnail

def read(path, limit):
    me = psutil.Process()
    if limit:
        most = me.memory_info().vms + limit
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before = me.memory_info().rss // 1024
    try:
        (scan,) = find_scans(path).scans
        thumbnail(scan)
        scan.read().slice(0)
        said = f"read: {scan.geometry.shape}"
    except InputError as error:
        said = f"refused: {error.what}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(said, (peak - before) // 1024, sep=chr(9), flush=True)

for line in sys.stdin:
    path, limit = line.strip().split(chr(9))
    child = os.fork()
    if not child:
        read(path, int(limit))
        os._exit(0)
    os.waitpid(child, 0)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
Outcome = Callable[..., tuple[str, int]]


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    """Read a path elsewhere: what comes of it, and MiB that it took at most."""
    with subprocess.Popen(
        [sys.executable, "-c", _READ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout

        def read(path: Path, limit: int = 0) -> tuple[str, int]:
            process.stdin.write(f"{path}\t{limit}\n")
            process.stdin.flush()
            said, peak = process.stdout.readline().split("\t")
            return said, int(peak)

        yield read
        process.stdin.close()


def zeros(count: int, bits: int) -> bytes:
    """``count`` MiB of zeros, deflated: what follows a full flush stands on its own."""
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    first = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + (count - 1) * again


def gzipped(count: int, header: bytes) -> bytes:
    """gzip of a header and ``count`` MiB of zeros, a member each."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    member = packer.compress(bytes(2**20)) + packer.flush()
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(header) + packer.flush() + count * member


def nifti_header(x: int, y: int, z: int) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape((x, y, z))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_sform(np.eye(4), 1)
    return header.binaryblock + bytes(4)


def test_a_packed_nifti_file_goes_through_the_disk(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzipped(520, nifti_header(1024, 1024, 520)))
    assert path.stat().st_size < 2**21
    said, peak = outcome(path)
    assert said == "read: (520, 1024, 1024)"
    assert peak < 300


def test_a_packed_nifti_file_that_holds_more_than_its_header_claims(
    outcome: Outcome, tmp_path: Path
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzipped(2000, nifti_header(64, 64, 64)))
    said, peak = outcome(path)
    assert said.startswith("refused: inflates to more than")
    assert peak < 100


def test_what_does_not_fit_is_refused_with_both_sizes(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzipped(450, nifti_header(1024, 1024, 450)))
    said, peak = outcome(path, limit=2**28)
    assert said.startswith("refused: needs 450 MiB of memory")
    assert peak < 200


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_packed_nrrd_or_metaimage_file(outcome: Outcome, tmp_path: Path, name: str) -> None:
    pytest.importorskip("SimpleITK")
    if name == "a.nrrd":
        head = (
            b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1024 1024 900\nencoding: gzip\n"
            b"space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n\n"
        )
        content = head + gzipped(900, b"")
    else:
        packed = zeros(900, 15)
        content = (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\n"
            f"CompressedDataSize = {len(packed)}\nDimSize = 1024 1024 900\n"
            "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
        ).encode() + packed
    (tmp_path / name).write_bytes(content)
    said, peak = outcome(tmp_path / name, limit=2**30)
    assert said.startswith(("refused: needs 1.8 GiB of memory", "refused: its compressed data"))
    assert peak < 300


@pytest.mark.parametrize("rows", [64, 20_000])
def test_a_deflated_dicom_file(
    outcome: Outcome, tmp_path: Path, dicom_image: Callable[..., Dataset], rows: int
) -> None:
    dataset = dicom_image(np.zeros((64, 64), np.uint8), Rows=rows, Columns=rows)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "a.dcm"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    raw = path.read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    whole = zlib.decompress(raw[start:], -15)
    at = whole.index(b"\xe0\x7f\x10\0") + 8
    count = 400
    head = whole[:at] + struct.pack("<L", count * 2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(raw[:start] + packed + zeros(count, -15) + b"\x03\0")
    said, peak = outcome(path, limit=2**29)
    if rows == 64:
        assert peak < 100
    else:
        assert said.startswith("refused: needs")
        assert peak < 300


def test_a_table_of_contents(outcome: Outcome, tmp_path: Path) -> None:
    meta = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10\2\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"
    group = b"\2\0\0\0UL\4\0" + struct.pack("<L", len(meta))
    body = b"\x04\0\x20\x12SQ\0\0" + struct.pack("<L", 400 * 2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(400, -15)
    path = tmp_path / "DICOMDIR"
    path.write_bytes(bytes(128) + b"DICM" + group + meta + packed + b"\x03\0")
    said, peak = outcome(path)
    assert "deflated" in said
    assert peak < 50


@pytest.mark.parametrize("side", [13_000, 16_000])
def test_a_picture(outcome: Outcome, tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">L", len(content))
            + kind
            + content
            + struct.pack(">L", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(1)
    row = bytes(side + 1)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">LLBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )
    said, peak = outcome(path, limit=2**29)
    assert said.startswith("refused:")
    assert "memory" in said if side == 13_000 else "million pixels" in said
    assert peak < 500
