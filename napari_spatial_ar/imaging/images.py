"""PNG, JPEG, TIFF and BMP files: their headers, and their pixels."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging import tiff
from napari_spatial_ar.imaging.grey import grey_of
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.inflate import MOST_COMPRESSION
from napari_spatial_ar.imaging.jpeg import read_jpeg
from napari_spatial_ar.imaging.memory import check_fits
from napari_spatial_ar.imaging.png import SIGNATURE as PNG
from napari_spatial_ar.imaging.png import read_png
from napari_spatial_ar.imaging.series import Intensity
from napari_spatial_ar.imaging.tiff import TiffStack

__all__ = ["PNG", "ImageInfo", "Picture", "decode", "image_infos", "is_raster_head", "page_count"]

_FORMATS = ("PNG", "JPEG", "BMP")
_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 274
_MOST_PIXELS_A_BYTE = 8 * MOST_COMPRESSION
_TAIL_BYTES = 4096
_HEADER_BYTES = 30
_DAMAGED = (
    "is not a PNG, JPEG, TIFF or BMP image that can be read: it is cut short, damaged or of "
    "another kind"
)


@dataclass(frozen=True)
class ImageInfo:
    """Header of an image file, for one stack of pages in it.

    Parameters
    ----------
    path : Path
        The file.
    pages, rows, columns : int
        Size as stored.
    dtype : str
        Type of the stored numbers.
    in_colour : bool
        Whether pixels are stored as colours (which may all be grey).
    turned : bool
        Whether the file requests rotation or mirroring (EXIF orientation); it is not applied.
    stack : TiffStack, optional
        Which of the file's pages they are; None if it is not a TIFF file.
    """

    path: Path
    pages: int
    rows: int
    columns: int
    dtype: str
    in_colour: bool
    turned: bool
    stack: TiffStack | None = field(default=None, repr=False)

    @property
    def intensity(self) -> Intensity:
        """Unit of the intensities."""
        return "grey8" if self.dtype in ("uint8", "bool") else "arbitrary"


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pages (N, rows, columns), grey as stored, and whether they were coloured."""

    pages: npt.NDArray[np.generic]
    coloured: bool


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEADER_BYTES)
    except OSError:
        return b""


def is_raster_head(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a PNG, JPEG, TIFF or BMP image."""
    bitmap = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return head.startswith((PNG, _JPEG, *tiff.SIGNATURES)) or bitmap


def page_count(path: str | Path) -> int:
    """Pages of an image file, without decoding them; 1 if it cannot be read."""
    with suppress(InputError):
        return sum(found.pages for found in image_infos(Path(path)))
    return 1


def image_infos(path: Path) -> list[ImageInfo]:
    """Read an image's header: one stack of pages, or several of a TIFF file.

    Raises
    ------
    InputError
        If it is missing, not an image, truncated, or claims more than the file can hold.
    """
    with guard(path, _DAMAGED):
        if not _head(path).startswith(tiff.SIGNATURES):
            return [_info_from_pillow(path)]
        return [
            ImageInfo(
                path=path,
                pages=len(stack.planes),
                rows=stack.rows,
                columns=stack.columns,
                dtype=stack.dtype,
                in_colour=stack.in_colour,
                turned=stack.turned,
                stack=stack,
            )
            for stack in tiff.find_tiff_stacks(path)
        ]


def decode(found: ImageInfo, page: int | None = None) -> Picture:
    """Read pixels, of one page or of all, ignoring orientation tags.

    Raises
    ------
    InputError
        If the file is missing or damaged, or was changed since its header was read.
    """
    count = found.rows * found.columns * (found.pages if page is None else 1)
    width = np.dtype(found.dtype).itemsize * (4 if found.in_colour else 1)
    check_fits(count * (2 * width + 4), found.path)  # decompressed, decoded and as grey values
    with guard(found.path, _DAMAGED):
        if found.stack is not None:
            pixels = tiff.read_tiff_pages(found.stack, page)
        else:
            pixels = _decode_pillow(found.path)
        with np.errstate(all="ignore"):
            pages, coloured = grey_of(pixels)
    size = (found.pages if page is None else 1, found.rows, found.columns)
    if pages.shape != size:
        raise InputError(
            f"its pixels ({' x '.join(map(str, pages.shape))}) do not have the size stated in its "
            f"header ({' x '.join(map(str, size))})",
            path=found.path,
            fix="Export or copy it again",
        )
    return Picture(pages, coloured)


def _info_from_pillow(path: Path) -> ImageInfo:
    head = _head(path)
    size = path.stat().st_size
    with Image.open(path, formats=_FORMATS) as image:
        columns, rows = image.size
        mode, kind = image.mode, image.format
        if getattr(image, "n_frames", 1) > 1:
            raise InputError("is an animation, which is not supported", path=path)
        turned = image.getexif().get(_ORIENTATION, 1) if kind == "JPEG" else 1
    if columns * rows > _MOST_PIXELS_A_BYTE * size:
        raise ValueError("its header claims more pixels than the file can hold")
    _check_end(path, kind, head, size)
    deep = mode in ("I", "F") or mode.startswith("I;") or (kind == "PNG" and head[24] == 16)
    return ImageInfo(
        path=path,
        pages=1,
        rows=rows,
        columns=columns,
        dtype="uint16" if deep else "uint8",
        in_colour=mode not in ("1", "L", "LA", "La", "I", "F") and not mode.startswith("I;"),
        turned=turned in range(2, 9),
    )


def _check_end(path: Path, kind: str | None, head: bytes, size: int) -> None:
    """Check that the end of a PNG, JPEG or BMP file exists, without reading all of a PNG or BMP.

    Raises
    ------
    ValueError
        If it is not.
    """
    if kind == "JPEG":
        whole = read_jpeg(path.read_bytes()).ended
    elif kind == "BMP":
        whole = int.from_bytes(head[2:6], "little") <= size
    else:
        with open(path, "rb") as file:
            file.seek(max(0, size - _TAIL_BYTES))
            whole = b"IEND" in file.read()
    if not whole:
        raise ValueError("cut short")


def _decode_pillow(path: Path) -> npt.NDArray[np.generic]:
    """Pixels (1, rows, columns, channels) of a PNG, JPEG or BMP file, read to its end."""
    if _head(path).startswith(PNG):
        png = read_png(path.read_bytes())
        if png.depth == 16:
            return png.deep_pixels()[np.newaxis]
        png.check_pixels()
    elif _head(path).startswith(_JPEG) and not read_jpeg(path.read_bytes()).ended:
        raise ValueError("cut short")
    with Image.open(path, formats=_FORMATS) as image:
        frame: Image.Image = image
        if frame.mode not in ("L", "LA", "RGB", "RGBA"):
            has_alpha = frame.mode == "PA" or "transparency" in frame.info
            target = "L" if frame.mode == "1" else "RGBA" if has_alpha else "RGB"
            frame = frame.convert(target)
        pixels = np.asarray(frame)[np.newaxis]
    return pixels if pixels.ndim == 4 else pixels[..., np.newaxis]
