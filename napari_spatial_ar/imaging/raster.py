"""Pictures (PNG, JPEG, TIFF, BMP) as slices and stacks of slices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.gather import attempt, gather, note_errors
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.volume import Intensity, Series, Volume, check_voxels

__all__ = [
    "RASTER_SUFFIXES",
    "find_stacks",
    "is_raster",
    "natural_key",
    "page_count",
    "read_label",
    "read_raster",
    "read_stack",
]

RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", *_TIFF)
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_MOST_COMPRESSION = 1100
_DAMAGED = (
    "is not a PNG, JPEG, TIFF or BMP picture that can be read: it is cut short, damaged or of "
    "another kind"
)


@dataclass(frozen=True, eq=False)
class _Picture:
    """Decoded file: pages (N, rows, columns) float32 grey, and what they were."""

    path: Path
    pages: npt.NDArray[np.float32]
    intensity: Intensity
    coloured: bool


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which slice_9 stands before slice_10."""
    return [(0, int(t)) if t.isdecimal() else (1, t) for t in re.split(r"([0-9]+)", str(path)) if t]


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(10)
    except OSError:
        return b""


def is_raster(path: Path) -> bool:
    """Whether a file says inside that it is a PNG, JPEG, TIFF or BMP picture."""
    head = _head(path)
    return head.startswith(_MAGIC) or (head[:2] == b"BM" and head[6:10] == b"\0\0\0\0")


def _grey(pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], bool]:
    """Grey (..., rows, columns) of (..., rows, columns, channels), and whether it was coloured.

    Channels are grey, grey and alpha, RGB, or RGB and alpha; alpha is put on black.
    """
    channels = pixels.shape[-1]
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1.0
    values = pixels.astype(np.float32)
    if channels in (2, 4):
        values = values[..., :-1] * (values[..., -1:] / np.float32(opaque))
    if channels < 3:
        return values[..., 0], False
    if (values[..., :1] == values[..., 1:]).all():
        return np.ascontiguousarray(values[..., 0]), False
    return values @ _LUMINANCE, True


def _intensity(dtype: np.dtype[Any]) -> Intensity:
    return "grey8" if dtype in (np.uint8, np.bool_) else "arbitrary"


def _decode_pillow(path: Path) -> _Picture:
    pages = []
    coloured = False
    with Image.open(path, formats=_FORMATS) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frame: Image.Image = image
            if frame.mode in ("1", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
                has_alpha = frame.mode == "PA" or "transparency" in frame.info
                target = "L" if frame.mode == "1" else "RGBA" if has_alpha else "RGB"
                frame = frame.convert(target)
            pixels = np.asarray(frame)
            page, page_coloured = _grey(pixels if pixels.ndim == 3 else pixels[..., np.newaxis])
            pages.append(page)
            coloured |= page_coloured
        return _Picture(path, np.stack(pages), _intensity(pixels.dtype), coloured)


def _decode_tiff(path: Path) -> _Picture:
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        if series.nbytes > _MOST_COMPRESSION * path.stat().st_size:
            raise ValueError("its header claims more pixels than the file can hold")
        axes, pixels = series.axes, series.asarray()
        palette = tiff.pages.first.photometric == tifffile.PHOTOMETRIC.PALETTE
        inverted = tiff.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if palette or pixels.dtype.kind not in "biuf":
        raise ValueError("pixels that are not plain numbers")
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if inverted and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    channel = axes.find("S")
    pixels = pixels[..., np.newaxis] if channel < 0 else np.moveaxis(pixels, channel, -1)
    *leading, rows, columns, channels = pixels.shape
    if sum(n > 1 for n in leading) > 1:
        raise ValueError(f"pixels of shape {pixels.shape}")
    with np.errstate(all="ignore"):
        pages, coloured = _grey(pixels.reshape(-1, rows, columns, channels))
    return _Picture(path, pages, _intensity(pixels.dtype), coloured)


def _decode(path: Path) -> _Picture:
    # Pillow unpacks some compressions that tifffile needs another package for.
    if _head(path).startswith(_TIFF):
        with suppress(InputError), guard(path, _DAMAGED):
            return _decode_tiff(path)
    with guard(path, _DAMAGED):
        return _decode_pillow(path)


def read_raster(path: str | Path) -> tuple[npt.NDArray[np.float32], Intensity]:
    """Read one picture as a grey slice.

    Parameters
    ----------
    path : path-like
        A PNG, JPEG, TIFF or BMP file with one page.

    Returns
    -------
    image : (rows, columns) float32
        Grey values as stored; colour becomes luminance (ITU-R BT.601), alpha is put on black.
    intensity : {"grey8", "arbitrary"}
        ``"grey8"`` for 8-bit pictures, in 0..255.

    Raises
    ------
    InputError
        If the file is missing, damaged or no picture, has several pages, or its pixels are
        not finite or all the same.
    """
    path = Path(path)
    picture = _decode(path)
    if len(picture.pages) != 1:
        raise InputError(
            f"holds {len(picture.pages)} pages, not one slice", path=path, fix="Open it as a stack"
        )
    check_voxels(picture.pages, path=path)
    return picture.pages[0], picture.intensity


def read_label(path: str | Path) -> npt.NDArray[np.bool_]:
    """Read a label picture: (rows, columns) bool, True where it is not 0.

    Raises
    ------
    InputError
        If the file is missing, damaged, no picture, or has several pages.
    """
    path = Path(path)
    picture = _decode(path)
    if len(picture.pages) != 1:
        raise InputError(f"holds {len(picture.pages)} pages, not one label", path=path)
    return np.asarray(picture.pages[0] > 0)


def page_count(path: str | Path) -> int:
    """Pages of a picture file, without decoding them; 1 if it cannot be opened."""
    with suppress(InputError), guard(Path(path), _DAMAGED), Image.open(path, formats=_FORMATS) as i:
        return int(getattr(i, "n_frames", 1))
    return 1


def _volume(pictures: Sequence[_Picture]) -> list[Volume]:
    """One volume of pictures of equal size and type."""
    data = np.concatenate([picture.pages for picture in pictures])
    count, rows, columns = data.shape
    label = f"Picture {columns} x {rows}" if count == 1 else f"Stack {columns} x {rows} x {count}"
    warnings = ["Pictures carry no spacing: lengths are in pixels, and left and right as drawn."]
    if any(picture.coloured for picture in pictures):
        warnings.append("Colour was turned into grey (luminance).")
    volume = Volume(
        data=data,
        geometry=Geometry.without_spacing((count, rows, columns)),
        modality="unknown",
        series=Series(label=label, files=tuple(picture.path for picture in pictures)),
        intensity=pictures[0].intensity,
        warnings=tuple(warnings),
    )
    return [volume]


def find_stacks(files: Sequence[str | Path]) -> list[Scan]:
    """Stacks of pictures, by their headers; see `read_stack`."""
    return [Scan.of(volume) for volume in read_stack(files)]


def read_stack(files: Sequence[str | Path]) -> list[Volume]:
    """Read pictures that lie side by side: one stack if all are alike, else each by itself.

    Parameters
    ----------
    files : sequence of path-like
        Pictures of one folder; they are stacked by name, slice_9 before slice_10.

    Returns
    -------
    list of Volume
        One volume with a slice for each picture (and page) where sizes and pixel types agree,
        else one volume for each picture. Without spacing: see `Geometry.without_spacing`.

    Raises
    ------
    InputError
        If no picture could be read.
    """
    paths = sorted(map(Path, files), key=natural_key)
    pictures, errors = attempt(partial(_decode, path) for path in paths)
    alike = len({(picture.pages.shape[1:], picture.intensity) for picture in pictures}) == 1
    stacks = [pictures] if alike else [[picture] for picture in pictures]
    return note_errors(gather(partial(_volume, stack) for stack in stacks), errors)
