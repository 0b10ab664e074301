"""Every transfer syntax, depth and sign against an uncompressed twin: equal, value by value.

``codestreams.json`` holds frames of `pixels`, packed by other hands than the decoders here: by
libjpeg-turbo, OpenJPH, OpenJPEG and CharLS, through imagecodecs 2026.3.6.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.series import find_series
from napari_spatial_ar.imaging.scan import Scan

Build = Callable[..., Dataset]
FRAMES = json.loads(Path(__file__).with_name("codestreams.json").read_text())
SYNTAXES = {
    "jpeg-lossless-1": JPEGLosslessSV1,
    "jpeg-lossless-6": JPEGLossless,
    "jls": JPEGLSLossless,
    "jpeg2k": JPEG2000Lossless,
    "htj2k": HTJ2KLossless,
}
GREY = [name for name in FRAMES if name.split()[0] in SYNTAXES and "rgb" not in name]
DEPTHS = [(bits, signed) for bits in (8, 12, 13, 16) for signed in (0, 1)]
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
# What pydicom writes, and the deepest values that it writes so.
WRITTEN = {
    **dict.fromkeys((*NATIVE, DeflatedExplicitVRLittleEndian), 32),
    **{RLELossless: 16, JPEGLSLossless: 16, JPEG2000Lossless: 24},
}
SHAPE = (9, 14)


def pixels(bits: int, signed: int, samples: int = 1) -> np.ndarray:
    """Values over the whole range, both ends among them, that no codec predicts well."""
    n = np.arange(SHAPE[0] * SHAPE[1] * samples)
    values = (n * n * 31 + n * 17) % (1 << bits)
    values[:2] = 0, (1 << bits) - 1
    values -= (1 << (bits - 1)) if signed else 0
    dtype = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}"
    return values.astype(dtype).reshape(SHAPE if samples == 1 else (*SHAPE, samples))


def image(build: Build, frame: np.ndarray, bits: int, signed: int, **tags: object) -> Dataset:
    return build(frame, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed, **tags)


def packed(dataset: Dataset, frames: list[bytes], syntax: str) -> Dataset:
    dataset.PixelData = encapsulate(frames, has_bot=False)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def read(dataset: Dataset, tmp_path: Path) -> Scan:
    path = tmp_path / "a.dcm"
    if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
        swapped = np.frombuffer(dataset.PixelData, f"u{dataset.BitsAllocated // 8}").byteswap()
        dataset.PixelData = swapped.tobytes()
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    (scan,) = find_series([path])
    volume = scan.read()
    for index in range(scan.geometry.slice_count):
        np.testing.assert_array_equal(scan.slice(index), volume.slice(index))
    return volume


@pytest.mark.parametrize(
    "name", [name for name in FRAMES if name.split()[0] in SYNTAXES and "rgb" not in name]
)
def test_a_compressed_frame_equals_its_twin(dicom_image: Build, tmp_path: Path, name: str) -> None:
    codec, *depth = name.split()
    bits, signed = map(int, depth)
    twin = pixels(bits, signed)
    frame = base64.b64decode(FRAMES[name])
    both = image(dicom_image, np.stack([twin, twin]), bits, signed)
    volume = read(packed(both, [frame, frame], SYNTAXES[codec]), tmp_path)
    np.testing.assert_array_equal(volume.data, [twin, twin])
    assert not any("bits" in warning for warning in volume.warnings)


@pytest.mark.parametrize("codec", ["jpeg-lossless-1", "htj2k"])
def test_a_compressed_frame_in_colour_equals_its_twin(
    dicom_image: Build, tmp_path: Path, codec: str
) -> None:
    twin = pixels(8, 0, samples=3)
    dataset = packed(dicom_image(twin), [base64.b64decode(FRAMES[f"{codec} rgb"])], SYNTAXES[codec])
    np.testing.assert_allclose(
        read(dataset, tmp_path).data[0], twin @ [0.299, 0.587, 0.114], atol=1e-3
    )


@pytest.mark.parametrize(
    ("syntax", "bits", "signed"),
    [
        (syntax, bits, signed)
        for syntax, deepest in WRITTEN.items()
        for bits, signed in [*DEPTHS, (1, 0), (5, 1), (20, 0), (32, 0), (32, 1)]
        if bits <= deepest and (bits > 1 or syntax != JPEGLSLossless)
    ],
)
def test_a_file_written_by_pydicom_equals_its_values(
    dicom_image: Build, tmp_path: Path, syntax: str, bits: int, signed: int
) -> None:
    # OpenJPEG packs no small picture, and CharLS no noise.
    twin = np.tile(pixels(bits, signed), (4, 3)) >> min(3, bits - 1)
    dataset = image(dicom_image, np.stack([twin, twin[::-1]]), bits, signed)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(syntax, generate_instance_uid=False)
    expected = np.stack([twin, twin[::-1]]).astype(np.float32)
    np.testing.assert_array_equal(read(dataset, tmp_path).data, expected)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_colours_stored_together_or_apart(
    dicom_image: Build, tmp_path: Path, syntax: str, bits: int, planar: int
) -> None:
    twin = pixels(bits, 0, samples=3)
    stored = np.moveaxis(twin, -1, 0) if planar else twin
    dataset = dicom_image(twin)
    if syntax == RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.PlanarConfiguration = planar  # RLE stores colours apart, whatever is said
    else:
        dataset.PlanarConfiguration, dataset.PixelData = planar, stored.tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_allclose(
        read(dataset, tmp_path).data[0], twin @ [0.299, 0.587, 0.114], rtol=1e-5
    )


def test_ybr_is_turned_into_rgb_first(dicom_image: Build, tmp_path: Path) -> None:
    twin = pixels(8, 0, samples=3)
    volume = read(dicom_image(twin, PhotometricInterpretation="YBR_FULL"), tmp_path)
    # Y is the luminance (PS3.3 C.7.6.3.1.2); what leaves the range of RGB is cut off.
    y, b, r = np.moveaxis(twin.astype(float), -1, 0)
    b, r = b - 128, r - 128
    rgb = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=-1)
    expected = rgb.clip(0, 255) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(volume.data[0], expected, atol=1)


def test_ybr_422_with_all_its_colours_is_no_422(dicom_image: Build, tmp_path: Path) -> None:
    twin = pixels(8, 0, samples=3)
    full = read(dicom_image(twin, PhotometricInterpretation="YBR_FULL"), tmp_path)
    said = read(dicom_image(twin, PhotometricInterpretation="YBR_FULL_422"), tmp_path)
    np.testing.assert_array_equal(said.data, full.data)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize(("bits", "high"), [(12, 15), (12, 13), (10, 15), (9, 14)])
@pytest.mark.parametrize("signed", [0, 1])
def test_values_in_the_upper_bits_of_their_words(
    dicom_image: Build, tmp_path: Path, syntax: str, bits: int, high: int, signed: int
) -> None:
    twin = pixels(bits, signed).astype(f"{'i' if signed else 'u'}2")
    dataset = dicom_image(twin << (high + 1 - bits), BitsStored=bits, HighBit=high)
    if syntax == RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    volume = read(dataset, tmp_path)
    np.testing.assert_array_equal(volume.data[0], twin)
    assert not any("bits" in warning for warning in volume.warnings)


def test_values_that_are_not_in_the_upper_bits_are_refused(
    dicom_image: Build, tmp_path: Path
) -> None:
    dataset = dicom_image(pixels(12, 0), BitsStored=12, HighBit=15)
    with pytest.raises(InputError, match="bits 4 to 15 of each word, but they are in the lowest"):
        read(dataset, tmp_path)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("declared", [True, False])
def test_overlays_in_the_unused_bits(
    dicom_image: Build, tmp_path: Path, signed: int, declared: bool
) -> None:
    twin = pixels(12, signed)
    overlay = np.random.default_rng(2).integers(0, 2, twin.shape).astype(np.uint16) << 14
    words = twin.view(np.uint16) & 0xFFF | overlay
    dataset = dicom_image(words, BitsStored=12, HighBit=11, PixelRepresentation=signed)
    if declared:
        dataset.add_new((0x6000, 0x0100), "US", 16)
        dataset.add_new((0x6000, 0x0102), "US", 14)
    volume = read(dataset, tmp_path)
    np.testing.assert_array_equal(volume.data[0], twin)
    assert any("12 bits of each word" in w for w in volume.warnings) != declared


def test_a_deeper_codestream_than_bits_stored_says(dicom_image: Build, tmp_path: Path) -> None:
    # JPEG-LS knows no sign: the 16 bits of its words hold 13 bits of a negative value.
    twin = pixels(13, 1)
    dataset = image(dicom_image, twin, 13, 1)
    deep = image(dicom_image, (twin.view("u2") & 0x1FFF), 16, 0)
    deep.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset = packed(dataset, [get_frame(deep.PixelData, 0)], JPEGLSLossless)
    np.testing.assert_array_equal(read(dataset, tmp_path).data[0], twin)


def parts(dataset: Dataset, path: Path, syntax: str) -> tuple[bytes, bytes]:
    """File meta and data set, as written in a syntax."""
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    written = path.read_bytes()
    end = 144 + struct.unpack("<L", written[140:144])[0]
    return written[:end], written[end:]


@pytest.mark.parametrize("codec", ["jpeg2k", "htj2k", "jls", "jpeg-lossless-1"])
def test_the_codestream_counts_and_not_the_syntax_that_is_said(
    dicom_image: Build, tmp_path: Path, codec: str
) -> None:
    twin = pixels(12, 1)
    frame = base64.b64decode(FRAMES[f"{codec} 12 1"])
    for said in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless):
        head, _ = parts(dicom_image(twin), tmp_path / "a.dcm", ExplicitVRLittleEndian)
        if said.is_encapsulated:
            head, _ = parts(packed(dicom_image(twin), [frame], said), tmp_path / "a.dcm", said)
        dataset = packed(image(dicom_image, twin, 12, 1), [frame], SYNTAXES[codec])
        _, body = parts(dataset, tmp_path / "a.dcm", SYNTAXES[codec])
        (tmp_path / "a.dcm").write_bytes(head + body)
        (scan,) = find_series([tmp_path / "a.dcm"])
        np.testing.assert_array_equal(scan.read().data[0], twin)


@pytest.mark.parametrize(
    "said",
    [*NATIVE, RLELossless, DeflatedExplicitVRLittleEndian],
    ids=lambda uid: f"says {uid.keyword}",
)
@pytest.mark.parametrize("found", NATIVE, ids=lambda uid: f"is {uid.keyword}")
def test_the_encoding_found_counts_and_not_the_one_said(
    dicom_image: Build, tmp_path: Path, said: str, found: str
) -> None:
    twin = pixels(12, 1)
    stored = twin.byteswap() if found == ExplicitVRBigEndian else twin
    dataset = image(dicom_image, twin, 12, 1, PixelData=stored.tobytes(), RescaleIntercept=-24)
    dataset.RescaleSlope = 2
    native = ExplicitVRLittleEndian if said == RLELossless else said
    head, _ = parts(dataset, tmp_path / "a.dcm", native)
    _, body = parts(dataset, tmp_path / "a.dcm", found)
    (tmp_path / "a.dcm").write_bytes(head + body)
    if said == RLELossless:
        # As long, so that no length changes.
        raw = (tmp_path / "a.dcm").read_bytes()
        plain = ExplicitVRLittleEndian.encode() + b"\0"
        assert raw.count(plain) == 1
        (tmp_path / "a.dcm").write_bytes(raw.replace(plain, RLELossless.encode() + b"\0"))
    (scan,) = find_series([tmp_path / "a.dcm"])
    np.testing.assert_array_equal(scan.read().data[0], twin * 2.0 - 24)


def test_jpeg_extended_of_12_bits_is_near_its_twin(dicom_image: Build, tmp_path: Path) -> None:
    twin = (np.add.outer(np.arange(16), np.arange(24)) * 50).astype(np.uint16)
    frame = base64.b64decode(FRAMES["jpeg-extended 12 0"])
    dataset = packed(image(dicom_image, twin, 12, 0), [frame], JPEGExtended12Bit)
    np.testing.assert_allclose(read(dataset, tmp_path).data[0], twin, atol=4)
    with pytest.raises(InputError, match="no decoder"):
        read(
            packed(
                dataset,
                [frame.replace(b"\x0c\0\x10\0\x18", b"\x0a\0\x10\0\x18")],
                JPEGExtended12Bit,
            ),
            tmp_path,
        )


def test_eight_bits_under_a_header_of_twelve_are_refused(
    dicom_image: Build, tmp_path: Path
) -> None:
    from PIL import Image

    grey = tmp_path / "a.jpg"
    Image.fromarray(pixels(8, 0)).save(grey)
    dataset = image(dicom_image, pixels(12, 0), 12, 0)
    with pytest.raises(InputError, match="has 8 bits per value, its header states 12"):
        read(packed(dataset, [grey.read_bytes()], JPEGBaseline8Bit), tmp_path)


@pytest.mark.parametrize("codec", SYNTAXES)
def test_a_frame_of_another_size_is_refused(dicom_image: Build, tmp_path: Path, codec: str) -> None:
    frame = base64.b64decode(FRAMES[f"{codec} 12 0"])
    dataset = packed(image(dicom_image, pixels(12, 0)[:, :-1], 12, 0), [frame], SYNTAXES[codec])
    with pytest.raises(InputError, match=r"9 x 14 x 1 values .* its header states 9 x 13 x 1"):
        read(dataset, tmp_path)


@pytest.mark.parametrize("codec", [*SYNTAXES, "jpeg-extended"])
def test_a_frame_cut_short_is_refused(dicom_image: Build, tmp_path: Path, codec: str) -> None:
    frame = base64.b64decode(FRAMES[f"{codec} 12 0"])
    twin = pixels(12, 0) if codec in SYNTAXES else np.zeros((16, 24), np.uint16)
    syntax = SYNTAXES.get(codec, JPEGExtended12Bit)
    for share in (0.3, 0.6, 0.9, 0.97):
        part = frame[: int(share * len(frame))]
        with pytest.raises(InputError, match="cannot be decoded"):
            read(packed(image(dicom_image, twin, 12, 0), [part], syntax), tmp_path)


@pytest.mark.parametrize(
    "codec", ["jpeg-lossless-1 12 0", "jpeg-lossless-6 16 1", "jpeg-extended 12 0"]
)
def test_no_damage_ends_the_process(dicom_image: Build, tmp_path: Path, codec: str) -> None:
    """GDCM aborts over some of these; what is left of them is read or refused."""
    name, bits, signed = codec.split()
    frame = base64.b64decode(FRAMES[codec])
    twin = pixels(int(bits), int(signed)) if "loss" in name else np.zeros((16, 24), np.uint16)
    random = np.random.default_rng(1)
    header = frame.index(b"\xff\xda") + 14
    places = [*range(header), *random.integers(header, len(frame), 40)]
    reading = partial(image, dicom_image, twin, int(bits), int(signed))
    outcomes = set()
    for place in places:
        damaged = bytearray(frame)
        damaged[place] ^= 1 << int(random.integers(8))
        syntax = SYNTAXES.get(name, JPEGExtended12Bit)
        dataset = packed(reading(), [bytes(damaged)], syntax)
        with suppress(InputError):
            outcomes.add(read(dataset, tmp_path).data.shape)
    assert outcomes == {(1, *twin.shape)}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        *(("BitsAllocated", 12), ("PixelRepresentation", 2), ("SamplesPerPixel", 3)),
        *(("Rows", 0), ("PlanarConfiguration", 7)),
    ],
)
def test_a_number_that_cannot_be_is_named(
    dicom_image: Build, tmp_path: Path, keyword: str, value: int
) -> None:
    dataset = dicom_image(pixels(16, 0))
    setattr(dataset, keyword, value)
    with pytest.raises(InputError, match=f"{keyword} is {value}, which is impossible"):
        read(dataset, tmp_path)


def test_more_pixels_than_the_header_speaks_of_are_told(dicom_image: Build, tmp_path: Path) -> None:
    twin = pixels(16, 0)
    dataset = dicom_image(twin, PixelData=twin.tobytes() * 3)
    volume = read(dataset, tmp_path)
    np.testing.assert_array_equal(volume.data[0], twin)
    assert any("504 more bytes of pixels" in warning for warning in volume.warnings)


@pytest.mark.parametrize(
    ("dtype", "base", "tags"),
    [
        ("uint32", 2**31, {}),
        ("int32", -(2**31), {}),
        ("uint16", 0, {"RescaleSlope": 1, "RescaleIntercept": 2**30}),
        ("uint32", 2**30, {"RescaleSlope": 2, "RescaleIntercept": 0}),
    ],
)
def test_values_that_float32_cannot_hold_count_from_the_lowest(
    dicom_image: Build, tmp_path: Path, dtype: str, base: int, tags: dict[str, float]
) -> None:
    twin = np.stack([pixels(12, 0), pixels(12, 0)[::-1]])
    volume = read(dicom_image((twin + np.array(base)).astype(dtype), **tags), tmp_path)
    np.testing.assert_array_equal(volume.data, twin * tags.get("RescaleSlope", 1))
    assert any("was subtracted from all" in warning for warning in volume.warnings)


def test_large_values_that_are_rounded_are_told(dicom_image: Build, tmp_path: Path) -> None:
    twin = pixels(12, 0).astype(np.uint32)
    twin[0, 0] = 2**25 + 1
    volume = read(dicom_image(twin), tmp_path)
    assert volume.data.max() == 2**25
    assert any("reach 33554433, where float32" in warning for warning in volume.warnings)


def split(frames: list[bytes], table: list[int] | None) -> bytes:
    """Frames in two fragments each, behind a table of offsets, or an empty one."""
    pieces = [half for frame in frames for half in (frame[:100], frame[100:])]
    body, starts = b"", []
    for number, piece in enumerate(pieces):
        starts += [len(body)] * (number % 2 == 0)
        piece += b"\0" * (len(piece) % 2)
        body += b"\xfe\xff\x00\xe0" + struct.pack("<L", len(piece)) + piece
    offsets = b"" if table is None else b"".join(struct.pack("<L", starts[n]) for n in table)
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(offsets)) + offsets + body


@pytest.mark.parametrize("table", [None, [0, 1, 2]])
def test_frames_in_several_fragments(
    dicom_image: Build, tmp_path: Path, table: list[int] | None
) -> None:
    twins = [pixels(12, 0), pixels(12, 0)[::-1].copy(), pixels(12, 0) // 2]
    frames = [jpeg_ls(dicom_image, twin) for twin in twins]
    dataset = packed(image(dicom_image, np.stack(twins), 12, 0), frames, JPEGLSLossless)
    dataset.PixelData = split(frames, table)
    np.testing.assert_array_equal(read(dataset, tmp_path).data, twins)


def jpeg_ls(build: Build, frame: np.ndarray) -> bytes:
    dataset = image(build, frame, 12, 0)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    return get_frame(dataset.PixelData, 0)


@pytest.mark.parametrize("table", [[0, 2, 1], [0, 0, 1], [1, 2], [0, 1, 2, 2], [1, 1, 2]])
def test_a_table_of_frames_that_contradicts_them_is_refused(
    dicom_image: Build, tmp_path: Path, table: list[int]
) -> None:
    twin = pixels(12, 0)
    frame = base64.b64decode(FRAMES["jls 12 0"])
    dataset = packed(image(dicom_image, np.stack([twin] * 3), 12, 0), [frame] * 3, JPEGLSLossless)
    dataset.PixelData = split([frame] * 3, table)
    with pytest.raises(InputError, match="cannot be decoded"):
        read(dataset, tmp_path)


def test_a_wrong_table_does_not_matter_where_each_fragment_is_a_frame(
    dicom_image: Build, tmp_path: Path
) -> None:
    twins = [pixels(12, 0), pixels(12, 0)[::-1].copy()]
    frames = [jpeg_ls(dicom_image, twin) for twin in twins]
    dataset = packed(image(dicom_image, np.stack(twins), 12, 0), frames, JPEGLSLossless)
    plain = encapsulate(frames, has_bot=False)
    offsets = struct.pack("<2L", 0, 0)
    dataset.PixelData = plain[:4] + struct.pack("<L", 8) + offsets + plain[8:]
    np.testing.assert_array_equal(read(dataset, tmp_path).data, twins)
