"""Pictures as slices."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.raster import (
    find_stacks,
    is_raster,
    natural_key,
    page_count,
    read_label,
    read_raster,
    read_stack,
)

GREY = np.random.default_rng(3).integers(0, 256, (40, 30)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_8_bit_grey_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GREY).save(tmp_path / f"a.{suffix}")
    image, intensity = read_raster(tmp_path / f"a.{suffix}")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, GREY)
    assert intensity == "grey8"


def test_jpeg_is_read_as_pillow_does(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(
        read_raster(tmp_path / "a.jpg")[0], np.asarray(Image.open(tmp_path / "a.jpg"))
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_keeps_its_values(tmp_path: Path, suffix: str) -> None:
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    image, intensity = read_raster(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(image, deep)
    assert intensity == "arbitrary"


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_tiff_of_signed_and_real_numbers(tmp_path: Path, dtype: str) -> None:
    values = (GREY.astype(dtype) - 100) / 4 if dtype != "int16" else GREY.astype(dtype) - 100
    tifffile.imwrite(tmp_path / "a.tif", values)
    image, intensity = read_raster(tmp_path / "a.tif")
    np.testing.assert_array_equal(image, values)
    assert intensity == "arbitrary"


def test_a_tiff_where_0_is_white_is_inverted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif")[0], 255 - GREY)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "tiff_jpeg"])
def test_packed_tiff(tmp_path: Path, compression: str) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.tif", compression=compression)
    expected = np.asarray(Image.open(tmp_path / "a.tif"))
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif")[0], expected)


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    image, intensity = read_raster(tmp_path / "a.png")
    np.testing.assert_allclose(image, np.asarray(Image.fromarray(colours).convert("L")), atol=1)
    assert intensity == "grey8"
    assert any("luminance" in w for w in read_stack([tmp_path / "a.png"])[0].warnings)


def test_grey_stored_as_colour_stays_exact_and_silent(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([GREY] * 3)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png")[0], GREY)
    assert not any("luminance" in w for w in read_stack([tmp_path / "a.png"])[0].warnings)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_put_on_black(tmp_path: Path, suffix: str) -> None:
    alpha = np.full_like(GREY, 51)  # 0.2
    alpha[:5] = 0
    Image.fromarray(np.dstack([GREY] * 3 + [alpha])).save(tmp_path / f"a.{suffix}")
    image, _ = read_raster(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(image, GREY * (alpha / 255), atol=1e-4)


def test_palettes_and_bits(tmp_path: Path) -> None:
    Image.fromarray(GREY).convert("P").save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "p.png")[0], GREY)
    bits = Image.fromarray(GREY > 99)
    for name in ("b.png", "b.tif"):
        bits.save(tmp_path / name)
        image, intensity = read_raster(tmp_path / name)
        np.testing.assert_array_equal(image, (GREY > 99) * 255)
        assert intensity == "grey8"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    raw = buffer.getvalue()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError, match="cut short") as caught:
        read_raster(path)
    assert caught.value.path == path


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match="is not a PNG, JPEG, TIFF or BMP"):
        read_raster(tmp_path / "a.png")
    with pytest.raises(InputError, match="no such file"):
        read_raster(tmp_path / "b.png")


def test_a_lying_tiff_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, metadata=None)
    raw = (tmp_path / "a.tif").read_bytes()
    place = raw.index(b"\x00\x01")  # tag 256, the width
    value = place + 8
    wide = raw[:value] + (200_000_000).to_bytes(4, "little") + raw[value + 4 :]
    wide = wide[: place + 2] + b"\x04\x00" + wide[place + 4 :]
    (tmp_path / "a.tif").write_bytes(wide)
    with pytest.raises(InputError, match="claims 8000000000 bytes"):
        read_raster(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("pixels", "match"),
    [
        (np.full((5, 5), 3, np.float32), "same value, 3"),
        (np.array([[1, np.nan], [2, 3]], np.float32), "1 of 4 voxels are not finite"),
    ],
)
def test_nothing_to_see_is_refused(tmp_path: Path, pixels: np.ndarray, match: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(InputError, match=match) as caught:
        read_raster(tmp_path / "a.tif")
    assert caught.value.path == tmp_path / "a.tif"


def test_labels_may_be_empty(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "none.png")
    Image.fromarray(np.uint8([[0, 255], [0, 1]])).save(tmp_path / "some.png")
    assert not read_label(tmp_path / "none.png").any()
    np.testing.assert_array_equal(read_label(tmp_path / "some.png"), [[False, True], [False, True]])


def test_equal_pictures_are_stacked_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        Image.fromarray(np.clip(GREY, number, 255)).save(tmp_path / f"s_{number}.png")
    (volume,) = read_stack(list(tmp_path.iterdir()))
    assert volume.data.shape == (3, 40, 30)
    assert [p.name for p in volume.series.files] == ["s_1.png", "s_9.png", "s_10.png"]
    assert volume.data.min(axis=(1, 2)).tolist() == [1, 9, 10]
    np.testing.assert_array_equal(volume.slices, volume.data)
    assert not volume.geometry.spacing_known
    assert volume.intensity == "grey8"


def test_pictures_of_other_sizes_stand_alone(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(GREY[1:]).save(tmp_path / "b.png")
    assert [v.data.shape for v in read_stack([tmp_path / "a.png", tmp_path / "b.png"])] == [
        (1, 40, 30),
        (1, 39, 30),
    ]


@pytest.mark.parametrize("writer", ["pillow", "tifffile", "imagej"])
def test_pages_are_slices(tmp_path: Path, writer: str) -> None:
    pages = np.stack([GREY, GREY // 2, GREY // 3])
    if writer == "pillow":
        first, *others = (Image.fromarray(page) for page in pages)
        first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    else:
        tifffile.imwrite(
            tmp_path / "a.tif", pages, photometric="minisblack", imagej=writer == "imagej"
        )
    assert page_count(tmp_path / "a.tif") == 3
    (volume,) = read_stack([tmp_path / "a.tif"])
    np.testing.assert_array_equal(volume.data, pages)
    with pytest.raises(InputError, match="holds 3 pages"):
        read_raster(tmp_path / "a.tif")


def test_a_bad_picture_among_good_ones_is_named_in_a_warning(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (tmp_path / "doe_john.png").write_bytes(b"")
    (volume,) = read_stack(list(tmp_path.iterdir()))
    assert volume.data.shape == (1, 40, 30)
    assert any("1 input is left out" in w for w in volume.warnings)
    assert "doe" not in " ".join(volume.warnings)


def test_natural_order() -> None:
    names = ["s2.png", "s10.png", "S1.png", "a.png", "10.png", "9.png"]
    ordered = [p.name for p in sorted(map(Path, names), key=natural_key)]
    assert ordered == ["9.png", "10.png", "S1.png", "a.png", "s2.png", "s10.png"]


def test_told_by_content(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "tif", "bmp"):
        Image.fromarray(GREY).save(tmp_path / f"a.{suffix}")
        (tmp_path / f"a.{suffix}").rename(tmp_path / suffix)
        assert is_raster(tmp_path / suffix)
    (tmp_path / "text").write_text("BMW is a car, not a picture")
    assert not is_raster(tmp_path / "text")


COLOURS = np.random.default_rng(1).integers(0, 256, (9, 8, 3)).astype(np.uint8)


def save_kind(path: Path, kind: str) -> Path:
    """A file of two pages where the kind has pages."""
    pages = np.stack([GREY, 255 - GREY])
    if kind in ("png16", "tif16"):
        Image.fromarray(GREY.astype(np.uint16) * 257).save(path, kind[:3].replace("tif", "tiff"))
    elif kind == "alpha":
        Image.fromarray(np.dstack([GREY] * 4)).save(path, "png")
    elif kind == "palette":
        Image.fromarray(COLOURS).quantize(16).save(path, "png")
    elif kind == "bits":
        Image.fromarray(GREY > 99).save(path, "png")
    elif kind == "cmyk":
        Image.fromarray(COLOURS).convert("CMYK").save(path, "jpeg")
    elif kind == "colour":
        Image.fromarray(COLOURS).save(path, "bmp")
    elif kind == "lzw pages":
        first, second = map(Image.fromarray, pages)
        first.save(path, "tiff", save_all=True, append_images=[second], compression="tiff_lzw")
    elif kind == "colour pages":
        tifffile.imwrite(path, np.stack([COLOURS, 255 - COLOURS]), photometric="rgb")
    elif kind == "planes":
        tifffile.imwrite(path, np.moveaxis(COLOURS, -1, 0), photometric="rgb", planarconfig=2)
    elif kind == "imagej":
        tifffile.imwrite(path, pages, imagej=True)
    else:
        tifffile.imwrite(path, pages.astype(kind) / 3, photometric="minisblack")
    return path


KINDS = ["png16", "tif16", "alpha", "palette", "bits", "cmyk", "colour", "lzw pages"]
KINDS += ["colour pages", "planes", "imagej", "float32", "float64"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_header_says_is_what_is_decoded(tmp_path: Path, kind: str) -> None:
    (scan,) = find_stacks([save_kind(tmp_path / "a", kind)])
    volume = scan.read(lazy=False)
    assert volume.data.shape == scan.geometry.shape
    for index in range(scan.geometry.slice_count):
        np.testing.assert_array_equal(scan.slice(index), volume.slice(index))
    (eager,) = read_stack([tmp_path / "a"])
    assert (eager.series.label, eager.intensity) == (scan.series.label, scan.intensity)
    assert scan.intensity == ("arbitrary" if kind[-2:] in ("16", "32", "64") else "grey8")
    in_colour = kind in ("palette", "cmyk", "colour", "colour pages", "planes")
    assert any("luminance" in w for w in volume.warnings) == in_colour


def test_pictures_are_found_by_their_headers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        Image.fromarray(GREY + np.uint8(number)).save(tmp_path / f"{number}.png")
    decoded = []
    load = Image.Image.load

    def noting(image: Image.Image) -> object:
        decoded.append(Path(image.filename).name)
        return load(image)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", noting)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", noting)
    (scan,) = find_stacks(list(tmp_path.iterdir()))
    assert decoded == []
    monkeypatch.undo()
    lazy = scan.read(lazy=True)
    for number in (0, 1, 3):
        (tmp_path / f"{number}.png").unlink()
    np.testing.assert_array_equal(lazy.slice(2), GREY + np.uint8(2))
    with pytest.raises(InputError, match="no such file"):
        lazy.slice(1)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "lzw.tif"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_picture_is_never_turned_but_the_wish_is_told(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    if suffix == "jpg":
        Image.fromarray(GREY).save(path, exif=exif, quality=100)
    else:
        compression = "tiff_lzw" if suffix == "lzw.tif" else None
        Image.fromarray(GREY).save(path, exif=exif, compression=compression)
    (volume,) = read_stack([path])
    np.testing.assert_allclose(volume.data[0], GREY, atol=2 if suffix == "jpg" else 0)
    assert any("1 of 1 files request rotation" in w for w in volume.warnings)
    np.testing.assert_array_equal(read_raster(path)[0], volume.data[0])


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_a_picture_cut_short_is_left_out_of_its_stack(tmp_path: Path, suffix: str) -> None:
    for number in range(3):
        Image.fromarray(GREY).save(tmp_path / f"{number}.{suffix}")
    raw = (tmp_path / f"1.{suffix}").read_bytes()
    (tmp_path / f"1.{suffix}").write_bytes(raw[: 3 * len(raw) // 4])
    (scan,) = find_stacks(list(tmp_path.iterdir()))
    assert scan.geometry.shape == (2, 40, 30)
    assert any("1 input is left out" in w for w in scan.warnings)


def test_a_picture_that_changed_since_it_was_found_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (scan,) = find_stacks([tmp_path / "a.png"])
    Image.fromarray(GREY[1:]).save(tmp_path / "a.png")
    for read in (scan.read, lambda: scan.slice(0)):
        with pytest.raises(InputError, match="1 x 39 x 30"):
            read()


def test_a_lying_png_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY[:1, :1]).save(buffer, "png")
    raw = bytearray(buffer.getvalue())
    raw[16:24] = (12_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(raw)
    with pytest.raises(InputError, match="cut short, damaged"):
        find_stacks([tmp_path / "a.png"])
