"""What DICOM values mean: rescale, real world values, units, windows, roles, names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.series import find_series, read_dicom

Write = Callable[..., list[Path]]
Build = Callable[..., Dataset]


def save(dataset: Dataset, path: Path) -> Path:
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def item(**tags: Any) -> Dataset:
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def real_world(code: str, **tags: Any) -> Dataset:
    unit = item(CodeValue=code, CodingSchemeDesignator="UCUM", CodeMeaning="x")
    return item(
        MeasurementUnitsCodeSequence=[unit],
        RealWorldValueFirstValueMapped=0,
        RealWorldValueLastValueMapped=199,
        **tags,
    )


def test_a_linear_real_world_map_is_used_where_there_is_no_rescale(
    write_series: Write, voxels: np.ndarray
) -> None:
    mapping = real_world("um2/s", RealWorldValueSlope=2.5, RealWorldValueIntercept=-10.0)
    tags = {"RealWorldValueMappingSequence": [mapping], "WindowCenter": 60.5, "WindowWidth": 101}
    (volume,) = read_dicom(write_series(voxels, **tags))
    np.testing.assert_allclose(volume.data, voxels * 2.5 - 10)
    assert volume.unit == "um2/s"
    assert volume.window == (10 * 2.5 - 10, 110 * 2.5 - 10)
    (volume,) = read_dicom(write_series(voxels, folder="b", RescaleSlope=3, **tags))
    np.testing.assert_allclose(volume.data, voxels * 3.0)
    assert volume.unit == ""


def test_a_real_world_table_is_looked_up(write_series: Write, voxels: np.ndarray) -> None:
    table = np.sqrt(np.arange(200.0))
    mapping = real_world("mm2/s", RealWorldValueLUTData=table.tolist())
    (volume,) = read_dicom(write_series(voxels, RealWorldValueMappingSequence=[mapping]))
    np.testing.assert_allclose(volume.data, np.sqrt(voxels), rtol=1e-6)
    assert volume.unit == "mm2/s"


def test_a_modality_table_is_looked_up(write_series: Write, voxels: np.ndarray) -> None:
    table = item(LUTDescriptor=[200, 5, 16], ModalityLUTType="US")
    table.add_new("LUTData", "US", (np.arange(200) ** 2).tolist())
    (volume,) = read_dicom(write_series(voxels, ModalityLUTSequence=[table]))
    np.testing.assert_allclose(volume.data, np.clip(voxels.astype(int) - 5, 0, None) ** 2)


def test_a_pet_keeps_its_unit(write_series: Write, voxels: np.ndarray) -> None:
    tags = {"Modality": "PT", "Units": "BQML", "RescaleSlope": 0.25, "RescaleIntercept": 0}
    tags["PhotometricInterpretation"] = "MONOCHROME1"  # drawn dark, counted as it is
    (volume,) = read_dicom(write_series(voxels, **tags))
    assert (volume.modality, volume.unit, volume.intensity) == ("other", "BQML", "arbitrary")
    np.testing.assert_allclose(volume.data, voxels * 0.25)


def test_ct_has_hounsfield_units_unless_it_says_otherwise(
    write_series: Write, voxels: np.ndarray
) -> None:
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}
    (volume,) = read_dicom(write_series(voxels, **tags))
    assert (volume.unit, volume.intensity) == ("HU", "hu")
    (volume,) = read_dicom(write_series(voxels, folder="b", RescaleType="MGML", **tags))
    assert (volume.unit, volume.intensity) == ("MGML", "arbitrary")


PHI = "DOE JOHN 1970"


@pytest.mark.parametrize(
    ("said", "unit"),
    [
        ("HU", "HU"),
        ("hu", "HU"),
        ("US", "HU"),
        ("Hounsfield Units", "HU"),
        ("HU_MOD", "HU_MOD"),
        ("OD", "OD"),
        (PHI, ""),
        ("HU DOE", ""),
    ],
)
def test_a_unit_is_one_of_dicoms_or_not_known(
    write_series: Write, voxels: np.ndarray, said: str, unit: str
) -> None:
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": said}
    (scan,) = find_series(write_series(voxels, **tags))
    assert (scan.unit, scan.intensity == "hu") == (unit, unit == "HU")
    assert any("unit of the values is unknown" in w for w in scan.warnings) == (not unit)
    assert "DOE" not in f"{scan!r}{scan.warnings}{scan.unit}"


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "PT", "Units": PHI},
        {"Modality": "RTDOSE", "DoseUnits": PHI, "DoseGridScaling": 2.0},
        {"RealWorldValueMappingSequence": [real_world(PHI[:16], RealWorldValueSlope=2.5)]},
        {
            "Modality": "CT",
            "ModalityLUTSequence": [item(LUTDescriptor=[200, 0, 16], ModalityLUTType=PHI)],
        },
    ],
)
def test_no_free_text_is_a_unit(
    write_series: Write, voxels: np.ndarray, tags: dict[str, Any]
) -> None:
    for mapping in tags.get("ModalityLUTSequence", []):
        mapping.add_new("LUTData", "US", list(range(200)))
    (scan,) = find_series(write_series(voxels, **tags))
    assert scan.unit == ""
    assert any("unit of the values is unknown" in w for w in scan.warnings)


@pytest.mark.parametrize("code", ["1", "mm2/s", "{SUVbw}g/ml", "[hnsf'U]", "/min"])
def test_a_code_of_ucum_is_a_unit(write_series: Write, voxels: np.ndarray, code: str) -> None:
    mapping = real_world(code, RealWorldValueSlope=2.5, RealWorldValueIntercept=0)
    (scan,) = find_series(write_series(voxels, RealWorldValueMappingSequence=[mapping]))
    assert scan.unit == {"1": "", "[hnsf'U]": "HU"}.get(code, code)
    assert not any("unit" in w for w in scan.warnings)


@pytest.mark.parametrize(
    "rescale",
    [
        {},
        {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": "HU"},
        {"RescaleSlope": 1, "RescaleType": "HU"},
        {"RescaleIntercept": -1024},
        {"RescaleSlope": 0, "RescaleIntercept": -1024},
    ],
)
def test_a_ct_without_its_rescale_is_not_in_hounsfield_units(
    write_series: Write, voxels: np.ndarray, rescale: dict[str, Any]
) -> None:
    (scan,) = find_series(write_series(voxels, Modality="CT", **rescale))
    assert (scan.unit, scan.intensity) == ("", "arbitrary")
    assert any("not in Hounsfield units" in w for w in scan.warnings)
    # In real world values it is, where the header maps to them.
    mapping = real_world("[hnsf'U]", RealWorldValueSlope=1, RealWorldValueIntercept=-1000)
    tags = {"Modality": "CT", "RealWorldValueMappingSequence": [mapping]}
    (scan,) = find_series(write_series(voxels, folder="b", **tags))
    assert (scan.unit, scan.intensity) == ("HU", "hu")
    np.testing.assert_array_equal(scan.read().data, voxels - 1000.0)


@pytest.mark.parametrize(
    ("tags", "window"),
    [
        # C.11.2.1.2.1: black up to c - 0.5 - (w - 1) / 2, white above c - 0.5 + (w - 1) / 2.
        ({"WindowCenter": 2048, "WindowWidth": 4096}, (0, 4095)),
        ({"WindowCenter": [40, -600], "WindowWidth": [401, 1501]}, (-160.5, 239.5)),
        (
            {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
            (-160, 240),
        ),
        ({"WindowCenter": 40, "WindowWidth": 0}, None),
        ({"WindowCenter": 40, "WindowWidth": 1}, None),
        ({"WindowCenter": 900_000, "WindowWidth": 400}, None),
        ({"WindowCenter": 40, "WindowWidth": 9_000_000}, None),
        ({"WindowCenter": 40}, None),
        ({}, None),
    ],
)
def test_window_of_the_header(
    write_series: Write, voxels: np.ndarray, tags: dict, window: tuple[float, float] | None
) -> None:
    (scan,) = find_series(write_series(voxels, RescaleSlope=1, RescaleIntercept=-1024, **tags))
    assert scan.window == (None if window is None else pytest.approx(window))


def test_the_window_of_an_inverted_image_is_inverted(
    write_series: Write, voxels: np.ndarray
) -> None:
    tags = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 2, "RescaleIntercept": 7}
    window = {"WindowCenter": 100, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    (plain,) = find_series(write_series(voxels, **tags, **window))
    (scan,) = find_series(
        write_series(voxels, folder="b", PhotometricInterpretation="MONOCHROME1", **tags, **window)
    )
    assert plain.window == (50, 150)
    # A stored value drawn black in one is drawn white in the other, and the other way round.
    assert scan.window == ((4095 - 71.5) * 2 + 7, (4095 - 21.5) * 2 + 7)
    np.testing.assert_array_equal(scan.read().data, (4095.0 - voxels) * 2 + 7)


@pytest.mark.parametrize(
    ("image_type", "role"),
    [
        (["ORIGINAL", "PRIMARY", "AXIAL"], "original"),
        (["DERIVED", "PRIMARY", "AXIAL"], "original"),  # recompressed by an archive
        (["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"], "original"),
        (["DERIVED", "SECONDARY", "MPR"], "derived"),
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "derived"),
        (["DERIVED", "PRIMARY", "PROJECTION IMAGE"], "derived"),
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], "localizer"),
        (["DERIVED", "SECONDARY", "REF_SURVIEW"], "localizer"),
    ],
)
def test_role(write_series: Write, voxels: np.ndarray, image_type: list[str], role: str) -> None:
    (scan,) = find_series(write_series(voxels, ImageType=image_type))
    assert scan.role == role


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("t2_tse_sag", "t2_tse_sag"),
        ("brain of DOE", "brain of"),
        ("John T1 20240131 1970-01-31 31.1.70", "T1"),
        ("ID4711 flair", "flair"),
        ("FLAIR\n 3D 0.9mm", "FLAIR 3D 0.9mm"),
    ],
)
def test_a_description_without_the_patient(
    write_series: Write, voxels: np.ndarray, said: str, shown: str
) -> None:
    (scan,) = find_series(write_series(voxels, SeriesDescription=said))
    assert scan.series.description == shown
    assert shown not in f"{scan!r}{scan.series.label}{scan.warnings}"


@pytest.mark.parametrize("name", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floating_point_pixels(
    dicom_image: Build, tmp_path: Path, voxels: np.ndarray, name: str
) -> None:
    dtype = np.float32 if name == "FloatPixelData" else np.float64
    pixels = voxels.astype(dtype) / 7
    pixels[0, 1, 1:3] = np.nan, np.inf
    dataset = dicom_image(voxels)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    setattr(dataset, name, pixels.tobytes())
    (scan,) = find_series([save(dataset, tmp_path / "a")])
    volume = scan.read()
    lowest = np.float32(voxels[(voxels != voxels[0, 1, 1]) & (voxels != voxels[0, 1, 2])].min() / 7)
    assert (
        volume.warnings[-1]
        == f"2 of 120 voxels were not finite numbers and were set to {lowest:g}."
    )
    expected = np.where(np.isfinite(pixels), pixels, lowest).astype(np.float32)
    np.testing.assert_allclose(volume.slices, expected, rtol=1e-6)
    np.testing.assert_allclose(scan.slice(2), expected[2], rtol=1e-6)


def test_32_bit_values_keep_their_digits(write_series: Write, voxels: np.ndarray) -> None:
    wide = voxels.astype(np.uint32) + 4_000_000_000
    tags = {"RescaleSlope": 1, "RescaleIntercept": -4_000_000_000}
    (volume,) = read_dicom(write_series(wide, **tags))
    np.testing.assert_array_equal(volume.data, voxels)


def test_1_bit_frames(dicom_image: Build, tmp_path: Path) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (3, 5, 7)).astype(np.uint8)
    dataset = dicom_image(bits, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    (scan,) = find_series([save(dataset, tmp_path / "a")])
    np.testing.assert_array_equal(scan.read().slices, bits)
    np.testing.assert_array_equal(scan.slice(1), bits[1])
    dataset.PixelData = packed[:-4]
    with pytest.raises(InputError, match="claims 105 pixels in 3 frames, 14 bytes"):
        find_series([save(dataset, tmp_path / "b")])


@pytest.mark.parametrize(("deep", "big_endian"), [(8, False), (16, False), (16, True)])
def test_a_palette_image_is_grey8(
    dicom_image: Build, tmp_path: Path, deep: int, big_endian: bool
) -> None:
    index = np.arange(30, dtype=np.uint8).reshape(5, 6)
    dataset = dicom_image(index, PhotometricInterpretation="PALETTE COLOR")
    rgb = np.random.default_rng(2).integers(0, 256, (3, 256))
    for name, column in zip(("Red", "Green", "Blue"), rgb, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, deep])
        table = (
            column.astype(np.uint8)
            if deep == 8
            else (column * 256 + 17).astype(">u2" if big_endian else "<u2")
        )
        setattr(dataset, f"{name}PaletteColorLookupTableData", table.tobytes())
    if big_endian:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    (scan,) = find_series([save(dataset, tmp_path / "a")])
    assert scan.intensity == "grey8"
    assert any("colour" in warning for warning in scan.warnings)
    expected = np.array([0.299, 0.587, 0.114]) @ rgb[:, :30]
    np.testing.assert_allclose(scan.read().slices[0].ravel(), expected, atol=1.0)


def test_an_attribute_that_is_no_number_is_taken_for_missing(
    write_series: Write, voxels: np.ndarray
) -> None:
    paths = write_series(voxels, InversionTime=900)
    for path in paths:
        raw = path.read_bytes()
        assert raw.count(b"DS\x06\x00900.0 ") == 1
        path.write_bytes(raw.replace(b"DS\x06\x00900.0 ", b"DS\x06\x00abcde "))
    (volume,) = read_dicom(paths)
    np.testing.assert_array_equal(volume.data, voxels)


@pytest.mark.parametrize(
    ("keyword", "written", "instead"),
    [
        ("RescaleSlope", b"DS\x04\x001.25", b"DS\x04\x001,25"),
        ("RescaleIntercept", b"DS\x06\x00-777.0", b"DS\x06\x00-777.O"),
        # Two directions that are one.
        (
            "ImageOrientationPatient",
            b"1.0\\0.0\\0.0\\0.0\\1.0\\0.0",
            b"1.0\\0.0\\0.0\\1.0\\0.0\\0.0",
        ),
    ],
)
def test_a_number_that_matters_and_makes_no_sense_is_said(
    write_series: Write, voxels: np.ndarray, keyword: str, written: bytes, instead: bytes
) -> None:
    paths = write_series(voxels[:1], RescaleSlope="1.25", RescaleIntercept="-777.0")
    raw = paths[0].read_bytes()
    assert raw.count(written) == 1
    paths[0].write_bytes(raw.replace(written, instead))
    (scan,) = find_series(paths)
    assert any(w.startswith(keyword) and "makes no sense" in w for w in scan.warnings)


def test_a_pixel_spacing_that_cannot_be_is_named(write_series: Write, voxels: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"its PixelSpacing is 0 x 0\.5 mm, which is impossible"):
        find_series(write_series(voxels, spacing=(0.0, 0.5)))
