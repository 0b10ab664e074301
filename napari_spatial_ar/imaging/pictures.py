"""PNG, JPEG, TIFF and BMP files: what their headers say, and their pixels."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.grey import grey_of
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.volume import Intensity

__all__ = ["PNG", "Look", "Picture", "decode", "is_raster_head", "look", "page_count"]

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_ORIENTATION = 274
# How Pillow turns a TIFF by its orientation tag, the other way round.
_UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_MOST_COMPRESSION = 1100  # of deflate, bytes in a byte
_MOST_PIXELS_A_BYTE = 8 * _MOST_COMPRESSION
_TAIL_BYTES = 4096
_DAMAGED = (
    "is not a PNG, JPEG, TIFF or BMP picture that can be read: it is cut short, damaged or of "
    "another kind"
)


@dataclass(frozen=True)
class Look:
    """What the header of a picture file says.

    Parameters
    ----------
    path : Path
        The file.
    pages, rows, columns : int
        Size as stored.
    intensity : {"grey8", "arbitrary"}
        Unit of the grey values.
    in_colour : bool
        Whether pixels are stored as colours (which may all be grey).
    turned : bool
        Whether the file asks to be turned or mirrored (EXIF orientation); it is not.
    """

    path: Path
    pages: int
    rows: int
    columns: int
    intensity: Intensity
    in_colour: bool
    turned: bool


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded file: pages (N, rows, columns) float32 grey, and what they were."""

    path: Path
    pages: npt.NDArray[np.float32]
    intensity: Intensity
    coloured: bool


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(10)
    except OSError:
        return b""


def is_raster_head(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a PNG, JPEG, TIFF or BMP picture."""
    bitmap = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return head.startswith((PNG, _JPEG, *_TIFF)) or bitmap


def page_count(path: str | Path) -> int:
    """Pages of a picture file, without decoding them; 1 if it cannot be opened."""
    with suppress(InputError), guard(Path(path), _DAMAGED), Image.open(path, formats=_FORMATS) as i:
        return int(getattr(i, "n_frames", 1))
    return 1


def look(path: Path) -> Look:
    """Read a picture's header.

    Raises
    ------
    InputError
        If it is missing, no picture, cut short, or claims more than the file can hold.
    """
    # Pillow unpacks some compressions that tifffile needs another package for.
    if _head(path).startswith(_TIFF):
        with suppress(InputError), guard(path, _DAMAGED):
            return _look_tiff(path)
    with guard(path, _DAMAGED):
        return _look_pillow(path)


def decode(path: Path, page: int | None = None) -> Picture:
    """Read a picture's pixels, of one page or of all, never turned by an orientation tag.

    Raises
    ------
    InputError
        If it is missing, damaged or no picture.
    """
    if _head(path).startswith(_TIFF):
        with suppress(InputError), guard(path, _DAMAGED):
            return _decode_tiff(path, page)
    with guard(path, _DAMAGED):
        return _decode_pillow(path, page)


def _intensity(dtype: np.dtype[Any]) -> Intensity:
    return "grey8" if dtype in (np.uint8, np.bool_) else "arbitrary"


def _look_pillow(path: Path) -> Look:
    with Image.open(path, formats=_FORMATS) as image:
        size, mode, kind = image.size, image.mode, image.format
        exif = image.getexif() if kind == "JPEG" else None
        pages = int(getattr(image, "n_frames", 1))
        for number in range(1, pages):
            image.seek(number)
            if (image.size, image.mode) != (size, mode):
                raise ValueError("pages of several sizes or types")
        tags = getattr(image, "tag_v2", {})
        turned = (exif or tags).get(_ORIENTATION, 1)
    columns, rows = size
    if kind == "TIFF":
        if turned in (5, 6, 7, 8):  # Pillow tells the turned size
            columns, rows = rows, columns
        # Where the strips or tiles of the first page stand, and their bytes.
        starts, counts = (tags.get(a) or tags.get(b) or () for a, b in ((273, 324), (279, 325)))
        if any(a + b > path.stat().st_size for a, b in zip(starts, counts, strict=False)):
            raise ValueError("cut short")
    elif columns * rows > _MOST_PIXELS_A_BYTE * path.stat().st_size:
        raise ValueError("its header claims more pixels than the file can hold")
    elif _cut_short(path, kind):
        raise ValueError("cut short")
    deep = mode in ("I", "F") or mode.startswith("I;")
    return Look(
        path=path,
        pages=pages,
        rows=rows,
        columns=columns,
        intensity="arbitrary" if deep else "grey8",
        in_colour=not deep and mode not in ("1", "L", "LA", "La"),
        turned=turned in _UNTURN,
    )


def _cut_short(path: Path, kind: str | None) -> bool:
    """Whether the end of a PNG, JPEG or BMP file is not there."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if kind == "BMP":
            return int.from_bytes(file.read(6)[2:], "little") > size
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    return (b"IEND" if kind == "PNG" else b"\xff\xd9") not in tail


def _decode_pillow(path: Path, page: int | None) -> Picture:
    pages = []
    coloured = False
    with Image.open(path, formats=_FORMATS) as image:
        for number in range(getattr(image, "n_frames", 1)) if page is None else (page,):
            image.seek(number)
            frame: Image.Image = image
            turned = getattr(image, "tag_v2", {}).get(_ORIENTATION, 1)
            if frame.mode in ("1", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
                has_alpha = frame.mode == "PA" or "transparency" in frame.info
                target = "L" if frame.mode == "1" else "RGBA" if has_alpha else "RGB"
                frame = frame.convert(target)
            if image.format == "TIFF" and turned in _UNTURN:
                frame = frame.transpose(_UNTURN[turned])
            pixels = np.asarray(frame)
            grey, page_coloured = grey_of(pixels if pixels.ndim == 3 else pixels[..., np.newaxis])
            pages.append(grey)
            coloured |= page_coloured
        return Picture(path, np.stack(pages), _intensity(pixels.dtype), coloured)


def _tiff_layout(tiff: tifffile.TiffFile, path: Path) -> tuple[Any, int | None]:
    """Return the picture of a TIFF file, and its axis of channels counted from the end.

    Raises
    ------
    ValueError
        If it is none that tifffile can read as one stack of pages.
    """
    series, first = tiff.series[0], tiff.pages.first
    size = path.stat().st_size
    if series.nbytes > _MOST_COMPRESSION * size:
        raise ValueError("its header claims more pixels than the file can hold")
    for page in series.pages:
        if page is not None and any(
            start + count > size
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)
        ):
            raise ValueError("cut short")
    if first.photometric == tifffile.PHOTOMETRIC.PALETTE or series.dtype.kind not in "biuf":
        raise ValueError("pixels that are not plain numbers")
    channel = series.axes.find("S") - series.ndim if "S" in series.axes else None
    if sum(n > 1 for n in _without(series.shape, channel)[:-2]) > 1:
        raise ValueError(f"pixels of shape {series.shape}")
    return series, channel


def _without(shape: tuple[int, ...], channel: int | None) -> tuple[int, ...]:
    return tuple(n for axis, n in enumerate(shape) if axis - len(shape) != channel)


def _page_alone(series: Any, page: int | None) -> Any:
    """One page of a picture, None where it has no entry of its own in the file.

    ImageJ writes one entry for all pages; a picture of several planes has several for each.
    """
    first = series.pages[0]
    if page is None or first is None or first.shape != series.shape[-first.ndim :]:
        return None
    entries = math.prod(series.shape[: series.ndim - first.ndim])
    return series.pages[page] if len(series.pages) == entries else None


def _look_tiff(path: Path) -> Look:
    with tifffile.TiffFile(path) as tiff:
        series, channel = _tiff_layout(tiff, path)
        *leading, rows, columns = _without(series.shape, channel)
        orientation = tiff.pages.first.tags.get(_ORIENTATION)
        return Look(
            path=path,
            pages=math.prod(leading),
            rows=rows,
            columns=columns,
            intensity=_intensity(series.dtype),
            in_colour=channel is not None and series.shape[channel] > 2,
            turned=orientation is not None and int(orientation.value) in _UNTURN,
        )


def _decode_tiff(path: Path, page: int | None) -> Picture:
    with tifffile.TiffFile(path) as tiff:
        series, channel = _tiff_layout(tiff, path)
        inverted = tiff.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        alone = _page_alone(series, page)
        pixels = series.asarray() if alone is None else alone.asarray()
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if inverted and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    pixels = pixels[..., np.newaxis] if channel is None else np.moveaxis(pixels, channel, -1)
    rows, columns, channels = pixels.shape[-3:]
    pixels = pixels.reshape(-1, rows, columns, channels)
    if page is not None and alone is None:
        pixels = pixels[page : page + 1]
    with np.errstate(all="ignore"):
        pages, coloured = grey_of(pixels)
    return Picture(path, pages, _intensity(pixels.dtype), coloured)
