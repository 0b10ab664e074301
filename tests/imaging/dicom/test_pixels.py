"""Pixels of every transfer syntax and depth, whole and frame by frame; damaged ones refused."""

from __future__ import annotations

import base64
import builtins
import gzip
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2K as HTJ2K_ANY
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    RLELossless,
)

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom import frames
from napari_spatial_ar.imaging.dicom.series import find_series, read_dicom
from napari_spatial_ar.imaging.dicom.sources import dicom_sources
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan

Write = Callable[..., list[Path]]
Build = Callable[..., Dataset]


def bundled(name: str) -> Path:
    """Real file that comes with pydicom itself."""
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path))


def one(path: Path) -> Scan:
    (scan,) = find_series([path])
    return scan


MR = ["bigendian", "RLE", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded", "expb"]


@pytest.mark.parametrize("name", [*MR])
def test_a_syntax_is_equal_to_its_uncompressed_twin(name: str) -> None:
    twin = one(bundled("MR_small.dcm"))
    scan = one(bundled(f"MR_small_{name}.dcm"))
    np.testing.assert_array_equal(scan.read().data, twin.read().data)
    np.testing.assert_array_equal(scan.slice(0), twin.slice(0))
    assert (scan.window, scan.intensity, scan.role) == (twin.window, twin.intensity, twin.role)
    np.testing.assert_array_equal(scan.geometry.affine, twin.geometry.affine)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("SC_rgb_rle.dcm", 0),
        ("SC_rgb_gdcm_KY.dcm", 0),  # JPEG 2000
        ("SC_rgb_jpeg_gdcm.dcm", 0),  # JPEG lossless
        ("SC_rgb_dcmtk_+eb+cr.dcm", 2),  # JPEG baseline
        ("SC_rgb_dcmtk_+eb+cy+n1.dcm", 8),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", 8),
        ("SC_rgb_jpeg_lossy_gdcm.dcm", 8),
        ("SC_rgb_jls_lossy_line.dcm", 2),  # JPEG-LS near-lossless
        ("SC_rgb_jls_lossy_sample.dcm", 2),
    ],
)
def test_colour_in_any_syntax_is_the_same_grey(name: str, tolerance: float) -> None:
    twin = pydicom.dcmread(bundled("SC_rgb_rle.dcm")).pixel_array @ [0.299, 0.587, 0.114]
    scan = one(bundled(name))
    grey = scan.read().slices[0]
    np.testing.assert_allclose(grey, twin, atol=tolerance + 1e-3)
    assert np.abs(grey - twin).mean() <= min(tolerance, 1) + 1e-3
    assert scan.intensity == "grey8"


def test_jpeg_extended_of_12_bits() -> None:
    # The sum was taken from dcmdjpeg's output (DCMTK 3.6), which is equal voxel by voxel.
    data = one(bundled("JPGExtended.dcm")).read().data
    assert (data.shape, data.max(), data.sum()) == ((1, 1024, 256), 264, 3767007)


# 24 x 20 pixels of 50 * (row + column), as OpenJPH 0.26.3 packs them without loss.
HTJ2K = """
/0//UQApQAAAAAAUAAAAGAAAAAAAAAAAAAAAFAAAABgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wA
EyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAKMAAf+TwAAml/kFB3QAwAATQAAT
AGj+Aod0ALD+Aod0AMAAEsAAEwA5AMt0APf9AAI0AMAAE8AAFSC7+wMjwnUAxo0bwDGB/rYAwAAVsAAFaOBgMDgY/Ngv1+EL
dwDgYDAY/PQIRiEB7LgAwAAtOAAFqqIoiqIoiqIoiu/6enp6enCCegBiURRFURRF8f9QAj2EIHv2EIHsvQD/2Q==
"""


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2K_ANY])
def test_high_throughput_jpeg_2000(dicom_image: Build, tmp_path: Path, syntax: str) -> None:
    expected = np.add.outer(np.arange(24), np.arange(20)).astype(np.uint16) * 50
    dataset = dicom_image(np.stack([expected, expected]))
    dataset.PixelData = encapsulate([base64.b64decode(HTJ2K)] * 2)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "a"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    scan = one(path)
    np.testing.assert_array_equal(scan.read().slices, [expected, expected])
    np.testing.assert_array_equal(scan.slice(1), expected)


@pytest.mark.parametrize("name", ["rtdose.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm"])
def test_a_dose_grid_lies_where_its_offsets_say(name: str) -> None:
    header = pydicom.dcmread(bundled("rtdose.dcm"))
    volume = one(bundled(name)).read()
    assert volume.unit == "RELATIVE"
    np.testing.assert_allclose(
        volume.data, header.pixel_array * float(header.DoseGridScaling), rtol=1e-6
    )
    x, y, z = header.ImagePositionPatient
    last = volume.geometry.affine @ [0, 0, 14, 1]
    np.testing.assert_allclose(last[:3], (-x, -y, z + header.GridFrameOffsetVector[14]))


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm"])
def test_a_frame_alone_is_the_frame_of_the_whole(name: str) -> None:
    scan = one(bundled(name))
    volume = scan.read()
    for index in (0, 7, scan.geometry.slice_count - 1):
        np.testing.assert_array_equal(scan.slice(index), volume.slice(index))


def test_deflated(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    (scan,) = find_series(paths)
    np.testing.assert_array_equal(scan.read().data, voxels)
    np.testing.assert_array_equal(scan.slice(1), scan.read().slice(1))


@pytest.mark.parametrize("where", ["in front of the pixels", "behind the pixels"])
def test_a_deflated_file_that_holds_too_much_is_refused(
    write_series: Write, voxels: np.ndarray, tmp_path: Path, where: str
) -> None:
    (path,) = write_series(voxels[:1])
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    raw = path.read_bytes()
    group = pydicom.dcmread(path, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    whole = zlib.decompress(raw[144 + group :], -15)
    pixels = whole.index(b"\xe0\x7f\x10\0")
    tag = b"\x09\0\x10\x10OB" if where.startswith("in") else b"\xfc\xff\xfc\xffOB"
    padding = tag + b"\0\0" + struct.pack("<L", 2**26)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(
        packer.compress(part)
        for part in (
            *((whole[:pixels],) if where.startswith("in") else (whole,)),
            padding,
            *(b"\0" * 2**20 for _ in range(64)),
            *((whole[pixels:],) if where.startswith("in") else ()),
        )
    )
    path.write_bytes(raw[: 144 + group] + bomb + packer.flush())
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"more than the .* bytes that it may have"):
            find_series([path])
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_big_endian_8_bit(dicom_image: Build, tmp_path: Path) -> None:
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    dataset = dicom_image(pixels)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    swapped = np.frombuffer(pixels.tobytes() + b"\0", "<u2").byteswap().tobytes()
    dataset.PixelData = swapped
    dataset["PixelData"].VR = "OW"
    pydicom.dcmwrite(tmp_path / "a", dataset, enforce_file_format=True)
    np.testing.assert_array_equal(one(tmp_path / "a").read().slices[0], pixels)


def test_bits_that_hold_no_value_are_left_out(write_series: Write, voxels: np.ndarray) -> None:
    overlaid = voxels | np.uint16(0x9000)
    (volume,) = read_dicom(write_series(overlaid, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(volume.data, voxels)


def test_listing_reads_no_pixels_and_a_slice_reads_one_frame(
    dicom_image: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(4).integers(0, 9999, (60, 64, 64)).astype(np.uint16)
    path = tmp_path / "a"
    pydicom.dcmwrite(path, dicom_image(frames), enforce_file_format=True)
    read = count_bytes(monkeypatch)
    scan = one(path)
    assert sum(read) < 16_384
    assert scan.geometry.shape == (60, 64, 64)
    read.clear()
    np.testing.assert_array_equal(scan.slice(41), frames[41])
    assert sum(read) < 16_384 + frames[0].nbytes


def count_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of all reads of files opened from now on."""
    lengths: list[int] = []
    plain = builtins.open

    class Counting(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            lengths.append(len(data))
            return data

    def opened(file: object, mode: str = "r", *args: object, **more: object) -> object:
        if mode == "rb":
            return Counting(io.FileIO(str(file)))
        return plain(file, mode, *args, **more)

    monkeypatch.setattr(builtins, "open", opened)
    return lengths


def test_each_header_is_read_once_until_its_file_changes(
    write_series: Write, voxels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    read = frames.read_header

    def counted(path: Path) -> object:
        calls.append(path)
        return read(path)

    monkeypatch.setattr(frames, "read_header", counted)
    paths = write_series(voxels)
    find_scans(paths[0].parent)
    find_scans(paths[0].parent)
    assert sorted(calls) == sorted(paths)
    dataset = pydicom.dcmread(paths[0])
    dataset.SeriesNumber = 123456
    dataset.save_as(paths[0])
    find_scans(paths[0].parent)
    assert calls[4:] == [paths[0]]


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_compressed_file_cut_short_is_noticed_when_listed(
    dicom_image: Build, tmp_path: Path, share: float
) -> None:
    frames = np.random.default_rng(4).integers(0, 9999, (6, 32, 32)).astype(np.uint16)
    dataset = dicom_image(frames)
    dataset.compress(RLELossless, generate_instance_uid=False)
    path = tmp_path / "a"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    assert one(path).geometry.slice_count == 6
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError, match="compressed fragments for 6 frames"):
        find_series([path])


def test_a_damaged_slice_is_named_when_it_is_read(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(np.tile(voxels, (1, 13, 11)))
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    raw = bytearray(paths[2].read_bytes())
    raw[-400:-8] = b"\x80" * 392
    paths[2].write_bytes(raw)
    (scan,) = find_series(paths)
    scan.slice(1)
    for read in (lambda: scan.slice(2), scan.read):
        with pytest.raises(InputError, match="cannot be decoded") as caught:
            read()
        assert caught.value.path == paths[2]


def mosaic_file(tmp_path: Path, name: str) -> Path:
    """Real Siemens mosaic that comes with nibabel, whose pixels are blank, with pixels put in."""
    packed = Path(nib.__file__).parent / "nicom/tests/data" / name
    if not packed.exists():
        pytest.skip("this nibabel comes without its test data")
    path = tmp_path / name.removesuffix(".gz")
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    dataset = pydicom.dcmread(path)
    random = np.random.default_rng(len(name))
    shape = (dataset.Rows, dataset.Columns)
    dataset.PixelData = random.integers(1, 4095, shape).astype("<u2").tobytes()
    dataset.save_as(path)
    return path


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
def test_a_siemens_mosaic_is_a_volume_each(tmp_path: Path) -> None:
    from nibabel.nicom.dicomwrappers import wrapper_from_file

    paths = [mosaic_file(tmp_path, f"siemens_dwi_{b}.dcm.gz") for b in (1000, 0)]
    scans = find_series(paths)
    assert [scan.series.label for scan in scans] == ["MR series 12, b 1000", "MR series 12, b 0"]
    for path, scan in zip(paths, scans, strict=True):
        volume = scan.read()
        assert volume.data.shape == (48, 128, 128)
        assert dicom_sources(volume) is None
        assert volume.series.files == (path,)
        other = wrapper_from_file(path)
        # nibabel counts rows first, and in LPS.
        np.testing.assert_array_equal(volume.data, other.get_data().transpose(2, 0, 1))
        for i, j, k in [(0, 0, 0), (127, 0, 0), (0, 127, 0), (5, 9, 47)]:
            x, y, z, _ = other.affine @ [j, i, k, 1]
            got = volume.geometry.affine @ [i, j, k, 1]
            np.testing.assert_allclose(got[:3], (-x, -y, z), atol=1e-3)
        np.testing.assert_array_equal(scan.slice(3), volume.slice(3))


def test_a_mosaic_without_its_private_header_is_refused(tmp_path: Path) -> None:
    path = mosaic_file(tmp_path, "siemens_dwi_0.dcm.gz")
    dataset = pydicom.dcmread(path)
    dataset.remove_private_tags()
    dataset.save_as(path)
    with pytest.raises(InputError, match="mosaic without the private header"):
        find_series([path])
