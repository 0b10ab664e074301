"""PNG: every filter and order of pixels, and no damage unnoticed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.png import SIGNATURE, read_png
from napari_spatial_ar.imaging.raster import read_raster

COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
RANDOM = np.random.default_rng(5)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def paeth(a: int, b: int, c: int) -> int:
    """Predictor of ISO 15948 section 9.4, as it is written there."""
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    return a if pa <= pb and pa <= pc else b if pb <= pc else c


def filtered(lines: list[bytes], width: int, kinds: Iterator[int]) -> bytes:
    """Scan lines filtered byte by byte."""
    out, above = bytearray(), bytes(len(lines[0]))
    for line in lines:
        kind = next(kinds)
        out.append(kind)
        for n, value in enumerate(line):
            a = line[n - width] if n >= width else 0
            b, c = above[n], above[n - width] if n >= width else 0
            out.append(value - (0, a, b, (a + b) // 2, paeth(a, b, c))[kind] & 0xFF)
        above = line
    return bytes(out)


PASSES = [
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)),
    (1, 0, 2, 1),
]


def written(pixels: np.ndarray, *, interlaced: bool = False, kinds: str = "01234") -> bytes:
    rows, columns, channels = pixels.shape
    order = (int(kind) for kind in kinds * 1000)
    raw = b""
    for top, left, down, right in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = pixels[top::down, left::right]
        if part.size:
            lines = [line.astype(">u2").tobytes() for line in part]
            raw += filtered(lines, 2 * channels, order)
    header = struct.pack(">2I5B", columns, rows, 16, COLOURS[channels], 0, 0, interlaced)
    packed = zlib.compress(raw)
    half = len(packed) // 2
    return (
        SIGNATURE
        + chunk(b"IHDR", header)
        + chunk(b"tEXt", b"Comment\0x")
        + chunk(b"IDAT", packed[:half])
        + chunk(b"IDAT", packed[half:])
        + chunk(b"IEND", b"")
    )


def deep(channels: int, rows: int = 21, columns: int = 19) -> np.ndarray:
    smooth = np.add.outer(np.arange(rows) * 997, np.arange(columns) * 131)[..., np.newaxis]
    noise = RANDOM.integers(0, 300, (rows, columns, channels))
    return ((smooth + noise) % 65536).astype(np.uint16)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kinds", ["0", "1", "2", "3", "4", "30142"])
def test_16_bits_are_read_as_they_were_written(channels: int, interlaced: bool, kinds: str) -> None:
    pixels = deep(channels)
    png = read_png(written(pixels, interlaced=interlaced, kinds=kinds))
    np.testing.assert_array_equal(png.deep_pixels(), pixels)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_grey_agrees_with_pillow(interlaced: bool, size: tuple[int, int]) -> None:
    raw = written(deep(1, *size), interlaced=interlaced)
    with Image.open(io.BytesIO(raw)) as image:
        expected = np.asarray(image)
    np.testing.assert_array_equal(read_png(raw).deep_pixels()[..., 0], expected)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_picture_of_16_bits_keeps_them(tmp_path: Path, channels: int) -> None:
    grey = deep(1)
    alpha = np.full_like(grey, 65535)
    layers = {2: [grey, alpha], 3: [grey] * 3, 4: [grey] * 3 + [alpha]}[channels]
    (tmp_path / "a.png").write_bytes(written(np.concatenate(layers, axis=-1)))
    image, intensity = read_raster(tmp_path / "a.png")
    np.testing.assert_array_equal(image, grey[..., 0])
    assert intensity == "arbitrary"


def samples() -> dict[str, bytes]:
    smooth = np.add.outer(np.arange(24), np.arange(30)).astype(np.uint8) * 3
    found = {
        "deep": written(deep(3, 12, 9)),
        "interlaced": written(deep(1, 12, 9), interlaced=True),
    }
    for name, picture in {
        "grey": Image.fromarray(smooth),
        "colour": Image.fromarray(np.dstack([smooth, smooth // 2, smooth // 3])),
        "palette": Image.fromarray(smooth).convert("P"),
        "bits": Image.fromarray(smooth > 60),
    }.items():
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        found[name] = buffer.getvalue()
    return found


@pytest.mark.parametrize("name", samples())
def test_no_flipped_bit_gives_other_pixels(tmp_path: Path, name: str) -> None:
    whole = samples()[name]
    path = tmp_path / "a.png"
    path.write_bytes(whole)
    expected = read_raster(path)[0]
    outcomes = set()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(RANDOM.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_raster(path)[0]
        except InputError as error:
            outcomes.add(error.path)
        else:
            np.testing.assert_array_equal(found, expected)
    assert outcomes == {path}


def test_fewer_pixels_than_the_header_says_are_refused(tmp_path: Path) -> None:
    for shape in ((9, 8), (10, 7)):
        raw = zlib.compress(bytes(9 * 8))
        header = struct.pack(">2I5B", shape[1], shape[0], 8, 0, 0, 0, 0)
        parts = chunk(b"IHDR", header), chunk(b"IDAT", raw), chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(SIGNATURE + b"".join(parts))
        with pytest.raises(InputError, match="cut short, damaged"):
            read_raster(tmp_path / "a.png")


def test_chunks_out_of_order_are_refused() -> None:
    whole = written(deep(1))
    header = whole[8:33]
    for raw in (SIGNATURE + whole[33:], whole[:33] + header + whole[33:], whole[:-12], b"", b"x"):
        with pytest.raises(ValueError, match=r"."):
            read_png(raw)


def test_an_animation_is_refused_by_name(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((5, 6), n, np.uint8)) for n in (1, 2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="is an animation"):
        read_raster(tmp_path / "a.png")
