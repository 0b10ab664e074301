"""Files that satisfy two formats are of the one whose signature is the strongest."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset

from napari_spatial_ar.imaging.dicom.dicomdir import is_dicomdir
from napari_spatial_ar.imaging.dicom.series import is_dicom
from napari_spatial_ar.imaging.reading import find_scans, find_sources, read
from napari_spatial_ar.imaging.signatures import is_nifti, is_raster, kind_of

Build = Callable[..., Dataset]

PIXELS = np.random.default_rng(2).integers(0, 900, (16, 20)).astype(np.uint16)
STARTS = {
    "TIFF": b"II*\0\x08\0\0\0",
    "big-endian TIFF": b"MM\0*\0\0\0\x08",
    "BigTIFF": b"II+\0\x08\0\0\0",
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "BMP": b"BM\x90\1\0\0\0\0\0\0",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "NIfTI-1": b"\x5c\1\0\0",
    "NIfTI-2": b"\x1c\2\0\0n+2\0\r\n\x1a\n",
    "NRRD": b"NRRD0005\n",
    "MetaImage": b"ObjectType = Image\n",
    "Heidelberg": b"HSF-OCT-",
    "Topcon": b"FOCT",
    "DICOM without preamble": b"\x08\0\x05\0CS\n\0ISO_IR 100",
    "PDF": b"%PDF-1.4",
}


def dicom_bytes(build: Build) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, build(PIXELS, Modality="MR"), enforce_file_format=True)
    return buffer.getvalue()


def nifti_bytes(kind: type = nib.Nifti1Image) -> bytearray:
    return bytearray(kind(PIXELS.T[..., None], np.eye(4)).to_bytes())


@pytest.mark.parametrize("start", STARTS)
def test_a_preamble_says_nothing(tmp_path: Path, dicom_image: Build, start: str) -> None:
    whole = dicom_bytes(dicom_image)
    path = tmp_path / "scan"
    path.write_bytes(STARTS[start].ljust(128, b"\0") + whole[128:])
    assert is_dicom(path)
    assert not is_raster(path)
    assert not is_nifti(path)
    assert [s.format for s in find_sources(path)] == ["dicom"]
    (volume,) = read(path)
    assert volume.modality == "mri"
    np.testing.assert_array_equal(volume.slices[0], PIXELS)


def test_a_whole_picture_in_a_dicom_file(tmp_path: Path, dicom_image: Build) -> None:
    # As whole-slide images have it: the TIFF directory points to the pixels of DICOM.
    whole = dicom_bytes(dicom_image)
    rows, columns = PIXELS.shape
    pixels = whole.rindex(PIXELS.tobytes())
    entries = [
        *((256, 4, columns), (257, 4, rows), (258, 3, 16), (259, 3, 1), (262, 3, 1)),
        *((273, 4, pixels), (277, 3, 1), (278, 4, rows), (279, 4, PIXELS.nbytes)),
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHLL", tag, kind, 1, n) for tag, kind, n in entries)
    directory += bytes(4)
    directory += bytes(len(directory) % 2)
    padding = b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<L", len(directory))
    preamble = b"II*\0" + struct.pack("<L", len(whole) + len(padding))
    path = tmp_path / "both"
    path.write_bytes(preamble.ljust(128, b"\0") + whole[128:] + padding + directory)
    np.testing.assert_array_equal(tifffile.imread(path), PIXELS)
    (volume,) = read(path)
    assert volume.series.label == "MR series 4"
    np.testing.assert_array_equal(volume.slices[0], PIXELS)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
def test_nifti_with_the_signature_of_dicom(tmp_path: Path, kind: type, packed: bool) -> None:
    content = nifti_bytes(kind)
    # cal_min in NIfTI-1, a spacing that nothing needs in NIfTI-2.
    content[128:132] = b"DICM"
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert is_nifti(path)
    (scan,) = find_scans(path).scans
    assert scan.series.label == "NIfTI scan 20 x 16 x 1"


@pytest.mark.parametrize(("place", "word"), [(344, b"n+1\0"), (344, b"ni1\0"), (128, b"DICM")])
def test_a_picture_with_the_signature_of_another(tmp_path: Path, place: int, word: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS.astype(np.uint8)).save(buffer, format="png")
    plain = buffer.getvalue()
    text = b"note\0".ljust(place - 41, b" ") + word
    chunk = b"tEXt" + text
    chunk = struct.pack(">L", len(text)) + chunk + struct.pack(">L", zlib.crc32(chunk))
    content = plain[:33] + chunk + plain[33:]
    assert content[place : place + 4] == word
    path = tmp_path / "picture"
    path.write_bytes(content)
    assert is_raster(path)
    (volume,) = read(path)
    np.testing.assert_array_equal(volume.slices[0], PIXELS.astype(np.uint8))


def test_what_is_packed_by_gzip_is_named(
    tmp_path: Path, dicom_image: Build, caplog: pytest.LogCaptureFixture
) -> None:
    whole = dicom_bytes(dicom_image)
    nifti = tmp_path / "a.nii.gz"
    nifti.write_bytes(gzip.compress(nifti_bytes()))
    for name, content in (
        ("slice.dcm.gz", STARTS["TIFF"].ljust(128, b"\0") + whole[128:]),
        ("slice.tif.gz", tifffile_bytes()),
    ):
        (tmp_path / name).write_bytes(gzip.compress(content))
    (tmp_path / "notes.txt.gz").write_bytes(gzip.compress(b"hello"))
    (tmp_path / "twice.nii.gz.gz").write_bytes(gzip.compress(nifti.read_bytes()))
    found = find_scans(tmp_path)
    assert [scan.series.label for scan in found.scans] == ["NIfTI scan 20 x 16 x 1"]
    assert [error.path.name for error in found.errors if error.path] == [
        "slice.dcm.gz",
        "slice.tif.gz",
    ]
    assert {error.what for error in found.errors} == {
        "is compressed with gzip, which is supported only for NIfTI"
    }


def tifffile_bytes() -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PIXELS)
    return buffer.getvalue()


def test_a_table_of_contents_is_told_by_its_class_alone(tmp_path: Path, dicom_image: Build) -> None:
    # An image that mentions the class of a DICOMDIR, and the syntax that deflates.
    image = dicom_image(PIXELS, Modality="MR")
    reference = Dataset()
    reference.ReferencedSOPClassUID = "1.2.840.10008.1.3.10"
    reference.ReferencedSOPInstanceUID = "1.2.840.10008.1.2.1.99"
    image.ReferencedStudySequence = [reference]
    path = tmp_path / "image"
    pydicom.dcmwrite(path, image, enforce_file_format=True)
    assert kind_of(path) == "dicom"
    assert not is_dicomdir(path)
    (volume,) = read(path)
    np.testing.assert_array_equal(volume.slices[0], PIXELS)


def test_nothing_of_all_this(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"hello"), ("zeros", bytes(5000))):
        (tmp_path / name).write_bytes(content)
        assert kind_of(tmp_path / name) is None
    assert kind_of(tmp_path / "absent") is None
    assert kind_of(tmp_path) is None
