"""TIFF: which volumes a file holds, every type of number, and pages that are not there."""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.raster import find_stacks, page_count, read_raster, read_stack

Y, X = np.mgrid[:12, :17]
GREY = (Y * 4099 + X * 131).astype(np.uint16)
STACK = np.stack([GREY // (k + 1) for k in range(12)])
RANDOM = np.random.default_rng(2)
# 6 x 7 pixels of y * 9973 + x * 131 packed by LZW, which neither Pillow nor tifffile writes of
# them; imagecodecs 2026.3.6 did.
LZW = {
    "rgb16": """
SUkqAAgAAAANAAABBAABAAAABwAAAAEBBAABAAAABgAAAAIBAwADAAAAqgAAAAMBAwABAAAABQAAAAYBAwABAAAAAgAAABEB
BAABAAAAwAAAABUBAwABAAAAAwAAABYBBAABAAAABgAAABcBBAABAAAACQEAABoBBQABAAAAsAAAABsBBQABAAAAuAAAABwB
AwABAAAAAQAAACgBAwABAAAAAQAAAAAAAAAQABAAEAABAAAAAQAAAAEAAAABAAAAgAAgUDQYAIIAFYAAwBgpXACJALEAEFBg
ChauACPARHALaAASAcQhb1Ex6Cb8Bh4E68CYoBr7E79CZTBp+FA/Ch/BoBFKACirBqEFLCCjWBoHFQDCoCBzqJskfAZNpOGw
nEgaeBOlRQDRzJ65E57DT2J8wU4aPJQHgoaYafhQmz+DTfOhvHUkMR1WI6EAncp1eQ6JgnNB2Gg7lTrOx1HajE5uO63HbPE7
xO74HcwaibpzxGZXTgrJwdGjaTlTJA0LqdVxOOg0cCdrKgGhjTwxJ7LGjmT1ee40ZLCMhhdpAJjDUxhDJBZ7Dc5hIpBKTEFJ
iOBBarENRiThBLDFVhiZBBbbFdpieZBgIA==
""",
    "white": """
SUkqAAgAAAAMAAABBAABAAAABwAAAAEBBAABAAAABgAAAAIBAwABAAAAEAAAAAMBAwABAAAABQAAAAYBAwABAAAAAAAAABEB
BAABAAAAsAAAABUBAwABAAAAAQAAABYBBAABAAAABgAAABcBBAABAAAAYQAAABoBBQABAAAAngAAABsBBQABAAAApgAAACgB
AwABAAAAAQAAAAAAAAABAAAAAQAAAAEAAAABAAAAAACAAAAIMAAYAokAgwBI8BBIBvUTHgTvsTn4UAEUoQUgcVOomm0nPAnH
MnvYnnkoPwoN86GI6uU6mg7Os7G47vE7tRNldONpOF1OuBOmNPOZPMlhExhs9hlJiNViFhittiwE
""",
    "i1": """
SUkqAAgAAAANAAABBAABAAAABwAAAAEBBAABAAAABgAAAAIBAwABAAAACAAAAAMBAwABAAAABQAAAAYBAwABAAAAAQAAABEB
BAABAAAAwAAAABUBAwABAAAAAQAAABYBBAABAAAABgAAABcBBAABAAAAMgAAABoBBQABAAAAqgAAABsBBQABAAAAsgAAACgB
AwABAAAAAQAAAFMBAwABAAAAAgAAAAAAAAABAAAAAQAAAAEAAAABAAAAAAAAAAAAgCAQCBQKCQSDUynU6oVCpVLNZzOZ7PaD
Qej0er1ez2e4bDYcDgdDoeIRCIZDIhEIsBA=
""",
    "u4": """
SUkqAAgAAAAMAAABBAABAAAABwAAAAEBBAABAAAABgAAAAIBAwABAAAAIAAAAAMBAwABAAAABQAAAAYBAwABAAAAAQAAABEB
BAABAAAAsAAAABUBAwABAAAAAQAAABYBBAABAAAABgAAABcBBAABAAAAkQAAABoBBQABAAAAngAAABsBBQABAAAApgAAACgB
AwABAAAAAQAAAAAAAAABAAAAAQAAAAEAAAABAAAAAACAACBABBwQAAYAwhEgGFgwBQ5HgKIhIBxR6iaLngTxp9ieOn4USAAi
mRoQUyYDiqUuomyw2k6XvAnTI5k+avYnzg8lCdvwoT5vnSgmI60RynWjmg7Up1namm471B4neptRN1YrpystpOVwup2vuBO2
Ixp6yuZPWhksK1kxh25nsO4lJiXRqsS7lhi3ptsW+wEA
""",
}


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, array, **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
)
def test_every_type_of_number(
    tmp_path: Path, dtype: str, order: str, compression: str | None
) -> None:
    values = (np.stack([GREY, GREY.T[:12, :12].repeat(2, 1)[:, :17]]) // 400).astype(dtype)
    values -= np.array(100 if dtype[0] != "u" else 0).astype(dtype)
    path = save(tmp_path / "a.tif", values, byteorder=order, compression=compression)
    (scan,) = find_stacks([path])
    np.testing.assert_array_equal(scan.read().data, values.astype(np.float32))
    np.testing.assert_array_equal(scan.slice(1), values[1].astype(np.float32))
    assert scan.intensity == ("grey8" if dtype == "u1" else "arbitrary")


@pytest.mark.parametrize("kind", ["contig", "separate"])
@pytest.mark.parametrize("extra", [None, "unassalpha", "assocalpha", "unspecified"])
def test_16_bit_colours_and_what_stands_beside_them(
    tmp_path: Path, kind: str, extra: str | None
) -> None:
    other = np.full_like(GREY, 13107)  # 0.2
    layers = [GREY] * 3 + [other] * (extra is not None)
    path = save(
        tmp_path / "a.tif",
        np.stack(layers, axis=-1 if kind == "contig" else 0),
        photometric="rgb",
        planarconfig=kind,
        extrasamples=[extra] if extra else None,
    )
    factor = 0.2 if extra == "unassalpha" else 1
    np.testing.assert_allclose(read_raster(path)[0], GREY * factor, rtol=1e-6)


def test_numbers_that_are_no_colours_are_volumes_each(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.stack([GREY, GREY // 2], -1), planarconfig="contig")
    scans = find_stacks([path])
    assert [s.series.label for s in scans] == [f"Picture 17 x 12, channel {n} of 2" for n in (1, 2)]
    for number, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.read().data[0], GREY // (number + 1))


@pytest.mark.parametrize("name", ["cmyk", "ycbcr"])
def test_other_colours_are_turned_into_rgb_first(tmp_path: Path, name: str) -> None:
    rgb = np.dstack([GREY // 257, GREY // 300, GREY // 400]).astype(np.uint8)
    picture = Image.fromarray(rgb).convert({"cmyk": "CMYK", "ycbcr": "YCbCr"}[name])
    picture.save(tmp_path / "a.tif")
    found, _ = read_raster(tmp_path / "a.tif")
    np.testing.assert_allclose(found, rgb @ [0.299, 0.587, 0.114], atol=2)


@pytest.mark.parametrize("axes", ["TZCYX", "ZCYX", "TZYX", "CYX", "TYX", "ZYX"])
@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_channels_and_time_points_are_volumes(tmp_path: Path, axes: str, kind: str) -> None:
    sizes = {"T": 2, "Z": 3, "C": 2}
    shape = tuple(sizes[a] for a in axes[:-2])
    array = STACK[: np.prod(shape)].reshape(*shape, *GREY.shape)
    path = tmp_path / ("a.tif" if kind == "imagej" else "a.ome.tif")
    save(path, array, imagej=kind == "imagej", metadata={"axes": axes})
    scans = find_stacks([path])
    slices = next(a for a in "ZTC" if a in axes)
    apart = [a for a in axes[:-2] if a != slices]
    expected = np.moveaxis(array, axes.index(slices), len(apart)).reshape(-1, sizes[slices], 12, 17)
    assert len(scans) == len(expected)
    for scan, volume in zip(scans, expected, strict=True):
        np.testing.assert_array_equal(scan.read().data, volume)
        np.testing.assert_array_equal(scan.slice(1), volume[1])
        assert any("are shown as slices" in w for w in scan.warnings) == (slices != "Z")
    assert len({scan.series.label for scan in scans}) == len(scans)
    assert page_count(path) == np.prod(shape)


@pytest.mark.parametrize(
    ("unit", "mm"), [("mm", 1), ("micron", 1e-3), ("um", 1e-3), ("cm", 10), ("pixel", None)]
)
def test_imagej_gives_a_spacing(tmp_path: Path, unit: str, mm: float | None) -> None:
    path = save(
        tmp_path / "a.tif",
        STACK,
        imagej=True,
        resolution=(4, 2),
        metadata={"axes": "ZYX", "spacing": 3, "unit": unit},
    )
    (scan,) = find_stacks([path])
    assert scan.geometry.spacing_known == (mm is not None)
    if mm is not None:
        np.testing.assert_allclose(scan.geometry.spacing, np.array([3, 0.5, 0.25]) * mm)
        assert any("left and right are as displayed" in w for w in scan.warnings)


def test_ome_gives_a_spacing(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 250, "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "mm"}
    sizes |= {"PhysicalSizeZ": 0.3, "PhysicalSizeZUnit": "cm"}
    path = save(tmp_path / "a.ome.tif", STACK, metadata={"axes": "ZYX", **sizes})
    (scan,) = find_stacks([path])
    np.testing.assert_allclose(scan.geometry.spacing, [3, 0.5, 0.25])
    path = save(tmp_path / "b.ome.tif", STACK, metadata={"axes": "ZYX", "PhysicalSizeX": 2})
    assert not find_stacks([path])[0].geometry.spacing_known


def test_a_file_of_a_set_is_read_by_itself(tmp_path: Path) -> None:
    """OME-XML may name other files, also outside of the folder: they are not opened."""
    path = save(tmp_path / "a.ome.tif", STACK[:3], metadata={"axes": "CYX"})
    raw = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata or ""
    other = '<TiffData><UUID FileName="../b.tif"/></TiffData>'
    named = re.sub("<TiffData.*?/>", other, re.sub(' Creator="[^"]*"', "", xml)).ljust(len(xml))
    assert len(named) == len(xml)
    path.write_bytes(raw.replace(xml.encode(), named.encode()))
    save(tmp_path / "b.tif", STACK[5:8])
    (tmp_path / "folder").mkdir()
    path = path.rename(tmp_path / "folder/a.ome.tif")
    (scan,) = find_stacks([path])
    np.testing.assert_array_equal(scan.read().data, STACK[:3])


def test_pages_of_several_sizes_are_scans_each(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in (GREY, GREY, GREY[:7]):
            file.write(page, photometric="minisblack", contiguous=False, metadata=None)
    volumes = read_stack([tmp_path / "a.tif"])
    assert [v.data.shape for v in volumes] == [(2, 12, 17), (1, 7, 17)]
    assert [v.series.label[-13:] for v in volumes] == [f"series {n} of 2"[-13:] for n in (1, 2)]


def test_a_smaller_copy_of_a_page_is_no_slice(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY, photometric="minisblack")
        file.write(GREY[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif")[0], GREY)


def stacks_of_pages(tmp_path: Path) -> dict[str, Path]:
    files = {
        "pages": save(tmp_path / "pages.tif", STACK, contiguous=False, metadata=None),
        "packed": save(tmp_path / "packed.tif", STACK, compression="zlib"),
        "shaped": save(tmp_path / "shaped.tif", STACK),
        "imagej": save(tmp_path / "imagej.tif", STACK, imagej=True, metadata={"axes": "ZYX"}),
        "ome": save(tmp_path / "x.ome.tif", STACK, metadata={"axes": "ZYX"}),
        "big": save(tmp_path / "big.tif", STACK, bigtiff=True),
        "swapped": save(tmp_path / "swapped.tif", STACK, byteorder=">"),
    }
    Image.fromarray(GREY.astype(np.uint8)).save(
        tmp_path / "pillow.tif",
        save_all=True,
        append_images=[Image.fromarray((GREY // k).astype(np.uint8)) for k in range(2, 9)],
        compression="tiff_lzw",
    )
    return {**files, "pillow": tmp_path / "pillow.tif", "virtual": virtual(tmp_path / "v.tif")}


def virtual(path: Path) -> Path:
    """ImageJ's way: one entry, behind which the pixels of all pages follow."""
    said = f"ImageJ=1.53\nimages={len(STACK)}\nslices={len(STACK)}\n".encode() + b"\0"
    entries = [
        *((256, 4, 1, 17), (257, 4, 1, 12), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((270, 2, len(said), 200), (273, 4, 1, 400), (277, 3, 1, 1), (278, 4, 1, 12)),
        (279, 4, 1, GREY.nbytes),
    ]
    head = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(entries))
    head += b"".join(struct.pack("<HHLL", *entry) for entry in entries) + bytes(4)
    path.write_bytes(head.ljust(200, b"\0") + said.ljust(200, b"\0") + STACK.tobytes())
    return path


@pytest.mark.parametrize(
    "name",
    [*("pages", "packed", "shaped", "imagej", "ome", "big", "swapped", "pillow", "virtual")],
)
def test_a_stack_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    path = stacks_of_pages(tmp_path)[name]
    whole = path.read_bytes()
    expected = read_stack([path])[0].data
    assert len(expected) == (8 if name == "pillow" else 12)
    outcomes = []
    for share in np.linspace(0.02, 0.999, 25):
        path.write_bytes(whole[: int(share * len(whole))])
        try:
            (volume,) = read_stack([path])
        except InputError as error:
            outcomes.append(error.path)
        else:  # behind the last page may stand what does not matter
            np.testing.assert_array_equal(volume.data, expected)
    assert set(outcomes) == {path}
    assert len(outcomes) >= 20


def test_pages_that_lead_round_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", STACK[:2], contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        last = tiff.pages[1]
        after = last.offset + 2 + 12 * len(last.tags)
        first = tiff.pages[0].offset
    raw = bytearray(path.read_bytes())
    assert raw[after : after + 4] == bytes(4)
    raw[after : after + 4] = struct.pack("<L", first)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="form a loop"):
        find_stacks([path])
    raw[after : after + 4] = struct.pack("<L", 2**31)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="names a page 3 that is not in it"):
        find_stacks([path])


def test_imagej_that_names_more_pages_than_there_are_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"images=12", b"images=19").replace(b"slices=12", b"slices=19"))
    with pytest.raises(InputError, match="names 19 pages and holds 12"):
        find_stacks([path])


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 3}])
def test_no_flipped_bit_in_packed_pixels_gives_others(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    array = np.tile(GREY, (2, 2))
    path = save(tmp_path / "a.tif", array, compression="zlib", predictor=True, **options)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        pieces = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    whole = path.read_bytes()
    outcomes = set()
    for start, count in pieces:
        for place in RANDOM.integers(start, start + count, 40):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(RANDOM.integers(8))
            path.write_bytes(damaged)
            try:
                found = read_raster(path)[0]
            except InputError as error:
                outcomes.add(error.path)
            else:
                np.testing.assert_array_equal(found, array)
    assert outcomes == {path}


def test_lzw_of_16_bit_colours_is_refused_by_name(tmp_path: Path) -> None:
    """Pillow would cut them to 8 bits; tifffile needs imagecodecs for them."""
    (tmp_path / "a.tif").write_bytes(base64.b64decode(LZW["rgb16"]))
    if tifffile_decodes_lzw():
        np.testing.assert_array_equal(read_raster(tmp_path / "a.tif")[0].shape, (6, 7))
        return
    with pytest.raises(InputError, match="RGB of 16 bits, compressed as LZW") as caught:
        read_raster(tmp_path / "a.tif")
    assert "imagecodecs" in str(caught.value)


def tifffile_decodes_lzw() -> bool:
    return 5 in tifffile.TIFF.DECOMPRESSORS


@pytest.mark.parametrize("name", ["white", "i1", "u4"])
def test_types_that_pillow_does_not_know(tmp_path: Path, name: str) -> None:
    y, x = np.mgrid[:6, :7]
    grey = (y * 9973 + x * 131).astype(np.uint16)
    expected = {"white": 65535 - grey, "i1": grey // 257 - 128.0, "u4": grey * 65537.0}[name]
    (tmp_path / "a.tif").write_bytes(base64.b64decode(LZW[name]))
    np.testing.assert_allclose(read_raster(tmp_path / "a.tif")[0], expected, rtol=1e-7)


def test_large_numbers_count_from_the_lowest(tmp_path: Path) -> None:
    values = STACK[:3].astype(np.uint32) + np.uint32(2**31)
    path = save(tmp_path / "a.tif", values)
    (scan,) = find_stacks([path])
    volume = scan.read()
    np.testing.assert_array_equal(volume.data, STACK[:3])
    np.testing.assert_array_equal(scan.slice(2), STACK[2])
    assert any("2147483648 was subtracted" in w for w in volume.warnings)
