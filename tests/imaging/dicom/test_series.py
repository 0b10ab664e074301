"""DICOM series: real ones against independent conversions, synthetic ones against arithmetic."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    JPEG2000Lossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.seg import write_seg
from napari_spatial_ar.imaging.dicom.series import is_dicom, patient_key, read_dicom
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan

Write = Callable[..., list[Path]]
Build = Callable[..., Dataset]
AXIAL = (1, 0, 0, 0, 1, 0)
GROUND_TRUTHS = [
    "ge/anatomical/001",
    "generic/anatomical/001",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "generic/rgb/001",
    "philips/anatomical/001",
    "philips_enhanced/anatomical/001",
    "philips_enhanced/fmri/001",
    "siemens/anatomical/001",
]


def save(dataset: Dataset, path: Path) -> Path:
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def canonical(volume: Scan) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.Nifti1Image(volume.data.T, volume.geometry.affine))


@pytest.mark.parametrize("name", GROUND_TRUTHS)
def test_real_series_meet_their_independent_conversion(shared_data: Path, name: str) -> None:
    folder = shared_data / "readers" / name
    truth = nib.as_closest_canonical(nib.load(f"{folder}_ground_truth.nii.gz"))
    voxels = np.asanyarray(truth.dataobj)
    if voxels.dtype.fields:
        voxels = sum(voxels[c] * w for c, w in zip("RGB", (0.299, 0.587, 0.114), strict=True))
    voxels = voxels.reshape(*voxels.shape[:3], -1)
    volumes = read_dicom(list(folder.iterdir()))
    assert len(volumes) == voxels.shape[3]
    for volume, expected in zip(volumes, np.moveaxis(voxels, 3, 0), strict=True):
        image = canonical(volume)
        np.testing.assert_allclose(image.affine, truth.affine, atol=1e-2)
        np.testing.assert_allclose(image.get_fdata(), expected, rtol=1e-5, atol=1e-4)


def test_a_real_sagittal_series_is_upright(shared_data: Path) -> None:
    (volume,) = read_dicom(list((shared_data / "readers/mr_sagittal_HFS").iterdir()))
    assert (volume.modality, volume.geometry.plane) == ("mri", "sagittal")
    assert volume.geometry.spacing == pytest.approx((4.8, 1.015625, 1.015625))
    assert volume.slices.shape == (35, 256, 256)
    middle = volume.slices[17]
    assert middle[:20].mean() < middle[60:160].mean()  # air above the head


def test_a_real_localizer_says_what_it_is(shared_data: Path) -> None:
    (volume,) = read_dicom([shared_data / "readers/ct_philips_localizer/I10"])
    assert (volume.intensity, volume.role) == ("hu", "localizer")
    assert any("localizer" in w for w in volume.warnings)


def test_axes_order_and_affine(write_series: Write, voxels: np.ndarray) -> None:
    (volume,) = read_dicom(write_series(voxels))
    np.testing.assert_array_equal(volume.data, voxels)
    expected = np.diag([-0.5, -1.5, 3.0, 1.0])
    expected[:3, 3] = (10, 20, 30)
    np.testing.assert_allclose(volume.geometry.affine, expected)
    assert [p.name for p in volume.series.files] == ["004", "003", "002", "001"]
    assert volume.series.uid == "1.2.3"


ORIENTATIONS = {
    "axial": AXIAL,
    "axial feet first": (-1, 0, 0, 0, 1, 0),
    "axial prone": (-1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "sagittal turned": (0, -1, 0, 0, 0, 1),
}


def patient(lps: np.ndarray) -> np.ndarray:
    """Head with a mark at its left, front and top, and a smaller one at its right."""
    left, posterior, superior = lps
    head = np.sqrt(left**2 + posterior**2 + superior**2) < 28
    mark = (left > 8) & (posterior < -5) & (superior > 4)
    other = (left < -15) & (np.abs(posterior) < 5) & (np.abs(superior) < 5)
    return (100 * head + 500 * mark + 250 * other).astype(np.uint16)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_left_is_left_however_it_was_acquired(
    write_series: Write, orientation: tuple[float, ...], backwards: bool
) -> None:
    axes = np.array(orientation, dtype=float).reshape(2, 3)
    step = np.cross(*axes) * (-4 if backwards else 4)
    origin = -axes[0] * 30 - axes[1] * 30 - step * 7
    k, j, i = np.indices((16, 30, 31))
    lps = (
        origin[:, None, None, None]
        + axes[0][:, None, None, None] * i * 2
        + axes[1][:, None, None, None] * j * 2
        + step[:, None, None, None] * k
    )
    paths = write_series(
        patient(lps), orientation=orientation, origin=origin, spacing=(2, 2), step=step
    )
    (volume,) = read_dicom(paths)
    geometry = volume.geometry

    display = geometry.to_display(volume.data)
    world = [
        t + s * index
        for t, s, index in zip(
            geometry.display_translate,
            geometry.display_spacing,
            np.indices(display.shape),
            strict=True,
        )
    ]
    superior, posterior, left = world
    np.testing.assert_array_equal(display, patient(np.stack([left, posterior, superior])))

    # On every slice as a radiologist sees it.
    rows, columns = np.nonzero(volume.slices.max(axis=0) == 600)
    height, width = volume.slices.shape[1:]
    assert rows.max() < height / 2
    if geometry.plane == "sagittal":
        assert columns.max() < width / 2
    else:
        assert columns.min() > width / 2


def test_rescale_is_applied_slice_by_slice(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels)
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = number + 0.5, -number
        save(dataset, path)
    (volume,) = read_dicom(paths)
    factors = np.arange(4)[:, None, None]
    np.testing.assert_allclose(volume.data, voxels * (factors + 0.5) - factors)


def test_ct_is_in_hounsfield_units(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    (volume,) = read_dicom(paths)
    assert (volume.modality, volume.intensity) == ("ct", "hu")
    np.testing.assert_array_equal(volume.data, voxels - 1024.0)


@pytest.mark.parametrize(
    ("modality", "expected"), [("MR", "mri"), ("OPT", "oct"), ("OCT", "oct"), ("US", "other")]
)
def test_modality(write_series: Write, voxels: np.ndarray, modality: str, expected: str) -> None:
    (volume,) = read_dicom(write_series(voxels, Modality=modality))
    assert (volume.modality, volume.intensity) == (expected, "arbitrary")


def test_signed_values(write_series: Write, voxels: np.ndarray) -> None:
    signed = voxels.astype(np.int16) - 60
    (volume,) = read_dicom(write_series(signed))
    np.testing.assert_array_equal(volume.data, signed)


def test_monochrome1_is_inverted_within_its_bits(write_series: Write, voxels: np.ndarray) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    (volume,) = read_dicom(write_series(voxels, **tags))
    np.testing.assert_array_equal(volume.data, 4095.0 - voxels)
    (ct,) = read_dicom(write_series(voxels, folder="ct", Modality="CT", **tags))
    np.testing.assert_array_equal(ct.data, voxels)


def test_8_bit_captures_are_grey8(dicom_image: Build, tmp_path: Path) -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    capture = dicom_image(pixels, SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")
    (volume,) = read_dicom([save(capture, tmp_path / "a")])
    assert (volume.intensity, volume.modality) == ("grey8", "other")
    assert not volume.geometry.spacing_known
    assert any("where the image is in the patient" in w for w in volume.warnings)
    np.testing.assert_array_equal(volume.slices[0], pixels)


@pytest.mark.parametrize("space", ["RGB", "YBR_FULL"])
def test_colour_becomes_luminance(dicom_image: Build, tmp_path: Path, space: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    stored = rgb
    if space == "YBR_FULL":
        stored = pydicom.pixels.processing.convert_color_space(rgb, "RGB", space)
    dataset = dicom_image(stored, PhotometricInterpretation=space)
    (volume,) = read_dicom([save(dataset, tmp_path / "a")])
    np.testing.assert_allclose(volume.slices[0], rgb @ [0.299, 0.587, 0.114], atol=1.5)
    assert volume.intensity == "grey8"
    assert any("luminance" in w for w in volume.warnings)


def test_an_rgb_image_three_columns_wide_is_not_mistaken(
    dicom_image: Build, tmp_path: Path
) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(4, 3)
    dataset = dicom_image(pixels)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = 4, 3
    del dataset.PlanarConfiguration
    (volume,) = read_dicom([save(dataset, tmp_path / "a")])
    np.testing.assert_array_equal(volume.slices[0], pixels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(
    write_series: Write, voxels: np.ndarray, syntax: str
) -> None:
    if syntax == JPEG2000Lossless:
        pytest.importorskip("openjpeg")
    voxels = np.tile(voxels, (1, 13, 11))  # JPEG 2000 wants some size
    paths = write_series(voxels)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        save(dataset, path)
    (volume,) = read_dicom(paths)
    np.testing.assert_array_equal(volume.data, voxels)


def functional_groups(position: np.ndarray, slope: float, time: int) -> Dataset:
    group = Dataset()
    for sequence, tags in {
        "PlanePositionSequence": {"ImagePositionPatient": [float(v) for v in position]},
        "PixelValueTransformationSequence": {"RescaleSlope": slope, "RescaleIntercept": 1},
        "FrameContentSequence": {"TemporalPositionIndex": time},
    }.items():
        item = Dataset()
        for name, value in tags.items():
            setattr(item, name, value)
        setattr(group, sequence, [item])
    return group


def enhanced(build: Build, voxels: np.ndarray, order: list[int], times: list[int]) -> Dataset:
    """Multi-frame data set of voxels (frames, ...) stored in another order."""
    dataset = build(voxels[order])
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [float(v) for v in AXIAL]
    measures.PixelSpacing, measures.SliceThickness = [1.5, 0.5], 2
    everywhere = Dataset()
    everywhere.RescaleSlope, everywhere.RescaleIntercept = 99, 99  # the frame's own goes before
    shared.PixelValueTransformationSequence = [everywhere]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [
        functional_groups(np.array([-10, -20, 30 + 3.0 * (k % 4)]), k + 1.0, times[k])
        for k in order
    ]
    return dataset


def test_enhanced_frames_are_sorted_and_rescaled_by_their_own_groups(
    dicom_image: Build, tmp_path: Path, voxels: np.ndarray
) -> None:
    path = save(enhanced(dicom_image, voxels, [2, 0, 3, 1], [1] * 4), tmp_path / "a")
    (volume,) = read_dicom([path])
    np.testing.assert_allclose(volume.data, voxels * np.arange(1, 5)[:, None, None] + 1)
    assert volume.geometry.spacing == pytest.approx((3, 1.5, 0.5))
    assert volume.series.files == (path,)


def test_enhanced_time_points_are_volumes(
    dicom_image: Build, tmp_path: Path, voxels: np.ndarray
) -> None:
    both = np.concatenate([voxels, voxels[::-1]])
    path = save(
        enhanced(dicom_image, both, [0, 4, 1, 5, 2, 6, 3, 7], [1] * 4 + [2] * 4), tmp_path / "a"
    )
    first, second = read_dicom([path])
    np.testing.assert_allclose(first.data, voxels * np.arange(1, 5)[:, None, None] + 1)
    np.testing.assert_allclose(second.data, voxels[::-1] * np.arange(5, 9)[:, None, None] + 1)
    assert "2 stacks (4, 4 slices)" in first.warnings[0]


def test_a_cine_without_positions_is_a_stack(
    dicom_image: Build, tmp_path: Path, voxels: np.ndarray
) -> None:
    cine = dicom_image(voxels, Modality="US", PixelSpacing=[0.2, 0.1])
    (volume,) = read_dicom([save(cine, tmp_path / "a")])
    np.testing.assert_array_equal(volume.slices, voxels)
    assert not volume.geometry.spacing_known
    cine.SliceThickness = 0.4
    (volume,) = read_dicom([save(cine, tmp_path / "b")])
    assert volume.geometry.spacing == pytest.approx((0.4, 0.2, 0.1))
    assert volume.geometry.spacing_known


def test_one_slice_is_as_thick_as_it_says(write_series: Write, voxels: np.ndarray) -> None:
    (volume,) = read_dicom(write_series(voxels[:1]))
    assert volume.geometry.spacing == pytest.approx((2.5, 1.5, 0.5))
    (volume,) = read_dicom(write_series(voxels[:1], folder="b", SpacingBetweenSlices=4))
    assert volume.geometry.spacing == pytest.approx((4, 1.5, 0.5))


def test_series_orientations_and_sizes_are_set_apart(
    write_series: Write, voxels: np.ndarray
) -> None:
    paths = write_series(voxels)
    paths += write_series(voxels[:3], folder="b", orientation=ORIENTATIONS["sagittal"])
    paths += write_series(voxels[:, 1:], folder="c")
    paths += write_series(voxels + 1, folder="d", SeriesInstanceUID="9.9")
    volumes = read_dicom(paths)
    assert [v.data.shape for v in volumes] == [(4, 5, 6), (3, 5, 6), (4, 4, 6), (4, 5, 6)]
    assert all("3 stacks (4, 3, 4 slices)" in v.warnings[-1] for v in volumes[:3])
    assert volumes[3].warnings == ()


def test_image_types_are_set_apart(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels)
    paths += write_series(voxels, folder="b", ImageType=["DERIVED", "SECONDARY", "PHASE MAP"])
    assert [v.data.shape for v in read_dicom(paths)] == [(4, 5, 6), (4, 5, 6)]


def test_rounded_positions_are_still_regular(write_series: Write, voxels: np.ndarray) -> None:
    positions = [(0, 0, round(0.625 * k, 1)) for k in range(4)]
    (volume,) = read_dicom(write_series(voxels, positions=positions))
    assert volume.geometry.spacing[0] == pytest.approx(0.6333, abs=1e-3)


def test_slices_around_an_axis_are_no_volume(write_series: Write, voxels: np.ndarray) -> None:
    paths = []
    for number, angle in enumerate(np.radians([0, 20, 40, 60])):
        paths += write_series(
            voxels[number : number + 1],
            folder=str(number),
            orientation=(np.cos(angle), np.sin(angle), 0, 0, 0, -1),
        )
    with pytest.raises(InputError, match="4 different orientations"):
        read_dicom(paths)


def test_a_series_without_spacing_is_refused(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels)
    for path in paths:
        dataset = pydicom.dcmread(path)
        del dataset.PixelSpacing
        save(dataset, path)
    with pytest.raises(InputError, match="no pixel spacing"):
        read_dicom(paths)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_refused(write_series: Write, voxels: np.ndarray, share: float) -> None:
    paths = write_series(voxels)
    raw = paths[1].read_bytes()
    paths[1].write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError) as caught:
        read_dicom(paths[1:2])
    assert caught.value.path == paths[1]
    assert "\n" not in str(caught.value)


def test_a_header_that_claims_too_much_is_refused(
    dicom_image: Build, tmp_path: Path, voxels: np.ndarray
) -> None:
    dataset = dicom_image(voxels[0], Rows=60000, Columns=60000)
    with pytest.raises(InputError, match="claims 3600000000 pixels"):
        read_dicom([save(dataset, tmp_path / "a")])
    dataset = dicom_image(voxels, NumberOfFrames=2_000_000_000)
    with pytest.raises(InputError, match="claims"):
        read_dicom([save(dataset, tmp_path / "b")])


def test_a_syntax_without_decoder_says_which(
    dicom_image: Build, tmp_path: Path, voxels: np.ndarray
) -> None:
    dataset = dicom_image(voxels[0])
    dataset.PixelData = pydicom.encaps.encapsulate([b"video"])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    with pytest.raises(InputError, match=r"MPEG2 Main Profile .* no decoder is installed"):
        read_dicom([save(dataset, tmp_path / "a")])


def test_a_missing_plugin_says_which(
    dicom_image: Build, tmp_path: Path, voxels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dicom_image(np.tile(voxels[0], (8, 8)))
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    path = save(dataset, tmp_path / "a")
    read_dicom([path])
    monkeypatch.setattr(pydicom.pixels.decoders.base.JPEG2000Decoder, "_available", {})
    with pytest.raises(InputError, match=r"JPEG 2000 .* no decoder is installed"):
        read_dicom([path])


def test_what_is_no_scan_is_left_out(
    dicom_image: Build, tmp_path: Path, write_series: Write, voxels: np.ndarray
) -> None:
    report = dicom_image(voxels[0], SeriesInstanceUID="5", SOPClassUID=BasicTextSRStorage)
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        del report[name]
    segmentation = dicom_image(voxels[0], SeriesInstanceUID="6", SOPClassUID=SegmentationStorage)
    others = [save(report, tmp_path / "r"), save(segmentation, tmp_path / "s")]
    with pytest.raises(InputError, match="holds no image"):
        read_dicom(others)
    (volume,) = read_dicom(others + write_series(voxels))
    assert any("2 inputs are left out" in w for w in volume.warnings)


def test_nothing_of_the_patient_is_shown(
    write_series: Write, voxels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (volume,) = read_dicom(write_series(voxels))
    shown = f"{volume!r} {volume.warnings} {volume.series.label} {caplog.text}".lower()
    assert volume.series.label == "MR series 4"
    for secret in ("doe", "4711", "1970", "brain"):
        assert secret not in shown


def test_an_invalid_value_reaches_neither_label_nor_log(
    write_series: Write, voxels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_series(voxels)
    for path in paths:
        raw = path.read_bytes().replace(b"CS\x02\0MR", b"CS\x08\0doe 1970")
        path.write_bytes(raw.replace(b"UI\x06\x001.2.3\0", b"UI\x06\0doe.1\0"))
    caplog.set_level(logging.DEBUG)
    (volume,) = read_dicom(paths)
    assert volume.series.label == "DICOM series 4"
    assert "doe" not in caplog.text


@pytest.mark.parametrize(
    ("tags", "label"),
    [
        ({"Modality": "DOEJOHN"}, "DICOM series 4"),
        ({"SeriesNumber": 19700131}, "MR series"),
        ({"SeriesNumber": 100401}, "MR series 100401"),
    ],
)
def test_a_label_says_no_more_than_it_may(
    write_series: Write, voxels: np.ndarray, tags: dict[str, Any], label: str
) -> None:
    (volume,) = read_dicom(write_series(voxels, **tags))
    assert volume.series.label == label


@pytest.mark.parametrize("word", [b"DOEJOHN1970 ", b"1.2.826.19700131"])
def test_no_sentence_repeats_text_of_the_header(
    write_series: Write, voxels: np.ndarray, word: bytes
) -> None:
    (path,) = write_series(voxels[:1])
    raw = path.read_bytes()
    if word.startswith(b"D"):
        raw = raw.replace(b"MONOCHROME2 ", word)
    else:
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(path)
        raw = path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", word.ljust(20, b"\0"))
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"is not supported|unknown syntax") as caught:
        read_dicom([path])
    assert "1970" not in caught.value.what


def test_patients_are_told_apart_without_being_named(
    write_series: Write, voxels: np.ndarray
) -> None:
    one, two = write_series(voxels[:2])
    (other,) = write_series(voxels[:1], folder="b", PatientID="another")
    assert patient_key(one) == patient_key(two) != patient_key(other)
    assert len(patient_key(one)) == 12
    assert "4711" not in patient_key(one)


def test_told_by_content(tmp_path: Path, write_series: Write, voxels: np.ndarray) -> None:
    path = write_series(voxels[:1])[0]
    assert is_dicom(path)
    for name, content in {
        "text": b"\x08 is a backspace",
        "one element": b"\x08\0\x05\0CS\x0a\0ISO_IR 100",
        "out of order": b"\x08\0\x60\0CS\2\0MR\x08\0\x60\0CS\2\0MR\x08\0\x20\0DA\0\0",
        "no such element": b"\x08\0\xf3\0\2\0\0\0MR\x08\0\xf4\0\2\0\0\0MR" + b"\0" * 40,
    }.items():
        (tmp_path / name).write_bytes(content)
        assert not is_dicom(tmp_path / name), name


FIRST_ELEMENTS = {
    "File Meta": "",
    "length to end": "LengthToEnd",
    "character set": "SpecificCharacterSet",
    "image type": "ImageType",
    "class": "SOPClassUID",
    "date": "StudyDate",
    "modality": "Modality",
}
ENCODINGS = {"explicit": (False, True), "implicit": (True, True), "big endian": (False, False)}


@pytest.mark.parametrize(("implicit", "little"), ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("first", FIRST_ELEMENTS.values(), ids=FIRST_ELEMENTS)
def test_a_file_without_preamble_is_read(
    dicom_image: Build, tmp_path: Path, voxels: np.ndarray, first: str, implicit: bool, little: bool
) -> None:
    pixels = voxels[0] if little else voxels[0].byteswap()
    dataset = dicom_image(pixels, StudyDate="20200101", SpecificCharacterSet="ISO_IR 100")
    dataset.add_new((0x0008, 0x0001), "UL", 1000)
    if first:
        for tag in list(dataset.keys()):
            if tag < pydicom.datadict.tag_for_keyword(first):
                del dataset[tag]
        del dataset.file_meta
    else:
        uids = {(True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1"}
        uid = uids.get((implicit, little), "1.2.840.10008.1.2.2")
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    path = tmp_path / "bare"
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little)
    if path.read_bytes()[128:132] == b"DICM":
        path.write_bytes(path.read_bytes()[132:])
    assert is_dicom(path)
    (volume,) = read_dicom([path])
    np.testing.assert_array_equal(volume.slices[0], voxels[0])


@pytest.mark.parametrize("vr", ["UT", "LT", "ST", "LO", "SH", "UN", "UC"])
@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("PixelSpacing", "1.5\\0.5"),
        ("ImageOrientationPatient", "1\\0\\0\\0\\1\\0"),
        ("SliceThickness", "2.5"),
        ("InstanceNumber", "3"),
    ],
)
def test_numbers_as_text_count_whatever_their_type(
    write_series: Write, voxels: np.ndarray, keyword: str, text: str, vr: str
) -> None:
    paths = write_series(voxels)
    for path in paths:
        dataset = pydicom.dcmread(path)
        tag = pydicom.datadict.tag_for_keyword(keyword)
        value = text.encode() + b" " * (len(text) % 2) if vr == "UN" else text
        dataset[tag] = pydicom.DataElement(tag, vr, value)
        dataset.save_as(path)
    (volume,) = read_dicom(paths)
    np.testing.assert_array_equal(volume.data, voxels)
    assert volume.geometry.spacing == pytest.approx((3, 1.5, 0.5))
    assert volume.geometry.regular


@pytest.mark.parametrize("vr", ["UT", "LO"])
def test_a_place_as_text_serves_for_a_segmentation_too(
    write_series: Write, voxels: np.ndarray, tmp_path: Path, vr: str
) -> None:
    paths = write_series(voxels)
    for path in paths:
        dataset = pydicom.dcmread(path)
        for keyword in ("ImagePositionPatient", "PixelSpacing"):
            tag = pydicom.datadict.tag_for_keyword(keyword)
            text = "\\".join(map(str, dataset[tag].value))
            dataset[tag] = pydicom.DataElement(tag, vr, text)
        dataset.save_as(path)
    (volume,) = read_dicom(paths)
    write_seg(tmp_path / "seg.dcm", volume.data > 50, volume, algorithm=None)
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    places = [
        [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        for group in made.PerFrameFunctionalGroupsSequence
    ]
    assert len(places) == np.count_nonzero((volume.data > 50).any(axis=(1, 2)))
    assert all(place[:2] == [-10, -20] for place in places)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_header_lets_a_slice_vanish(
    write_series: Write, tmp_path: Path, voxels: np.ndarray, seed: int
) -> None:
    """Whatever is left of the damaged file is in the scans, or is said to be missing."""
    paths = write_series(np.tile(voxels, (1, 3, 3)))
    folder = paths[0].parent
    whole = paths[seed].read_bytes()
    header = whole.index(b"\xe0\x7f\x10\0") + 12
    random = np.random.default_rng(seed)
    outcomes = set()
    for number in range(120):
        damaged = bytearray(whole)
        place = int(random.integers(128, header))
        if number % 3 == 0:
            damaged[place : place + 4] = b"\x7f\xff\xff\xff"
        else:
            damaged[place] ^= 1 << int(random.integers(8))
        paths[seed].write_bytes(damaged)
        os.utime(paths[seed], ns=(0, number + 1))
        found = find_scans(folder)
        slices = sum(scan.geometry.slice_count for scan in found.scans)
        said = " ".join(warning for scan in found.scans for warning in scan.warnings)
        if slices == len(paths):
            outcomes.add("whole")
        else:
            outcomes.add("named")
            assert slices == len(paths) - 1
            assert "slice may be missing" in said or "no image" in said or "left out" in said
    assert outcomes == {"whole", "named"}


def test_only_the_series_that_a_broken_file_is_of_is_warned_of(
    write_series: Write, voxels: np.ndarray
) -> None:
    first = write_series(voxels, folder="both")
    renamed = [path.rename(path.with_name(f"1{path.name}")) for path in first]
    write_series(voxels + 1, folder="both", SeriesInstanceUID="1.2.4", SeriesNumber=5)
    raw = bytearray(renamed[1].read_bytes())
    at = raw.index(b"\x28\0\x10\0")
    raw[at + 4 : at + 8] = b"OB\xff\xff"
    renamed[1].write_bytes(raw)
    found = find_scans(first[0].parent)
    warned = {
        scan.geometry.slice_count: any("slice may be missing" in w for w in scan.warnings)
        for scan in found.scans
    }
    assert warned == {3: True, 4: False}
    assert [error.path for error in found.errors] == [renamed[1]]
