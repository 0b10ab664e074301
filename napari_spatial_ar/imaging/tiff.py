"""TIFF files: the volumes formed by their pages, checked against the size of the file.

A file may hold several stacks: pages of several sizes, and the channels and time points of an
ImageJ hyperstack or an OME-TIFF. Pages that are listed but missing are an error.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.inflate import MOST_COMPRESSION

__all__ = ["SIGNATURES", "TiffStack", "find_tiff_stacks", "read_tiff_pages"]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION = 274, 282, 283
_MOST_PAGES = 200_000
_MOST_STACKS = 10_000
_FIX = "Export or copy it again"
_HAS_CODECS = importlib.util.find_spec("imagecodecs") is not None
# What tifffile decodes without imagecodecs: uncompressed, deflate, PackBits, LZMA.
_DECODED = (1, 8, 32946, 32773, 34925)
# CCITT, LZW, JPEG, deflate, PackBits, LZMA, Zstandard and WebP, by their TIFF compression codes.
_PILLOW_READS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000, 50001)
# Photometric interpretations whose values are grey or RGB as stored.
_PLAIN = ("MINISWHITE", "MINISBLACK", "RGB")
_COLOURED = ("RGB", "PALETTE", "SEPARATED", "YCBCR", "CIELAB", "ICCLAB", "ITULAB")
_AXIS_WORDS = {"C": "channel", "T": "time point", "Z": "slice"}
_MM = {
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "micrometer"), 1e-3),
    **{"cm": 10.0, "m": 1000.0, "nm": 1e-6, "inch": 25.4, "in": 25.4},
}
# Inverse of the transposition that Pillow applies for each orientation tag.
_UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class TiffStack:
    """Pages of a TIFF file that are slices of one volume.

    Parameters
    ----------
    path : Path
        The file.
    series : int
        Which of the file's series of equal pages.
    planes : tuple of int
        Their indices among the planes of the series.
    sample : int, optional
        Which of several samples per pixel; None if there is one, or if they are a colour.
    rows, columns : int
        Size as stored.
    dtype : str
        Type of the stored samples.
    in_colour : bool
        Whether pixels are coloured.
    turned : bool
        Whether the file requests rotation or mirroring; it is not applied.
    words : str
        Identifies the stack if the file has several: "channel 1 of 2".
    spacing : (float, float, float), optional
        Distance between slices, rows and columns in mm, if the file states it.
    remarks : tuple of str
        What the user should know, in sentences.
    """

    path: Path
    series: int
    planes: tuple[int, ...] = field(repr=False)
    sample: int | None
    rows: int
    columns: int
    dtype: str
    in_colour: bool
    turned: bool
    words: str = ""
    spacing: tuple[float, float, float] | None = None
    remarks: tuple[str, ...] = ()


def find_tiff_stacks(path: Path) -> list[TiffStack]:
    """Find the volumes of a TIFF file from its headers.

    Raises
    ------
    InputError
        If it lists pages that are missing, or its pages cannot be read.
    """
    with open(path, "rb") as file:
        count = _count_pages(file, path)
    with _opened(path) as tiff:
        _check_pages(tiff, path, count)
        stacks = [stack for n in range(len(tiff.series)) for stack in _stacks(tiff, path, n)]
    if len(stacks) > _MOST_STACKS:
        raise InputError(
            f"holds {len(stacks)} stacks, more than the {_MOST_STACKS} listed", path=path
        )
    return stacks


def _opened(path: Path) -> tifffile.TiffFile:
    """Open a file; if OME-XML lists it as one of several, on its own."""
    tiff = tifffile.TiffFile(path)
    others = set(re.findall(r'FileName="([^"]*)"', tiff.ome_metadata or "")) - {path.name}
    if others:
        tiff.close()
        return tifffile.TiffFile(path, is_ome=False)
    return tiff


def _count_pages(file: BinaryIO, path: Path) -> int:
    """Follow the chain of pages (image file directories) to its end.

    TIFF 6.0 section 2, and BigTIFF: each has the offset of the next, 0 at the end.

    Raises
    ------
    InputError
        If a page is listed that is not in the file, or the chain forms a loop.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = Struct(f"{order}H").unpack_from(head, 2)[0] == 43
    number, place = (Struct(order + kind) for kind in ("QQ" if big else "HL"))
    entry = 20 if big else 12
    (at,) = place.unpack_from(head, 8 if big else 4)
    seen: set[int] = set()
    while at:
        file.seek(min(at, size))
        start = file.read(number.size)
        count = number.unpack(start)[0] if len(start) == number.size else 0
        end = at + number.size + entry * count
        if not count or end + place.size > size:
            raise InputError(
                f"is cut short or damaged: it names a page {len(seen) + 1} that is not in it",
                path=path,
                fix=_FIX,
            )
        seen.add(at)
        file.seek(end)
        (at,) = place.unpack(file.read(place.size))
        if at in seen or len(seen) > _MOST_PAGES:
            raise InputError("its pages form a loop: the file is damaged", path=path, fix=_FIX)
    if not seen:
        raise InputError("holds no pages", path=path, fix=_FIX)
    return len(seen)


def _check_pages(tiff: tifffile.TiffFile, path: Path, count: int) -> None:
    """Check that the bytes of all pages are present, and that no page is skipped.

    Raises
    ------
    InputError
        If they are not.
    """
    size = path.stat().st_size
    if len(tiff.pages) != count:
        raise InputError(
            f"{count - len(tiff.pages)} of its {count} pages cannot be read", path=path
        )
    declared = _imagej_planes(tiff)
    first = tiff.pages.first
    if count == 1 and declared > 1:
        # ImageJ writes one directory entry for all pages, which are contiguous.
        whole = (size - min(first.dataoffsets, default=size)) // max(first.nbytes, 1)
        if whole < declared or first.compression != tifffile.COMPRESSION.NONE:
            raise InputError(
                f"is cut short: it names {declared} pages and holds {min(whole, declared)}",
                path=path,
                fix=_FIX,
            )
    elif declared > count:
        raise InputError(
            f"is cut short: it names {declared} pages and holds {count}", path=path, fix=_FIX
        )
    covered = 0
    for series in tiff.series:
        if series.nbytes > MOST_COMPRESSION * size:
            raise InputError(
                f"its header claims {series.nbytes} bytes of pixels, more than the file can hold",
                path=path,
                fix=_FIX,
            )
        covered += len(series.pages)
        for number, page in enumerate(series.pages):
            if page is None:
                raise InputError(f"its page {number + 1} is not in it", path=path, fix=_FIX)
            pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
            whole = math.prod(page.chunked) == len(page.dataoffsets) == len(page.databytecounts)
            if not whole or any(not a or not b or a + b > size for a, b in pieces):
                raise InputError(
                    f"is cut short or damaged: the pixels of page {number + 1} are not all there",
                    path=path,
                    fix=_FIX,
                )
    if covered < count and not tiff.is_imagej:
        # Reduced-resolution copies of other pages are not slices (NewSubfileType, bit 0).
        pages = map(tiff.pages.get, range(count))
        smaller = sum(isinstance(p, tifffile.TiffPage) and bool(p.subfiletype & 1) for p in pages)
        if covered + smaller < count:
            raise _unreadable(count - covered, count, path)


def _unreadable(pages: int, count: int, path: Path) -> InputError:
    return InputError(f"{pages} of its {count} pages cannot be read", path=path, fix=_FIX)


def _imagej_planes(tiff: tifffile.TiffFile) -> int:
    meta = tiff.imagej_metadata or {}
    numbers = [meta.get(name, 1) for name in ("channels", "slices", "frames")]
    sizes = [n for n in (*numbers, meta.get("images", 1)) if isinstance(n, int)]
    together = math.prod(n for n in numbers if isinstance(n, int))
    samples = int(tiff.pages.first.samplesperpixel)
    # Bio-Formats counts the colours of a pixel as channels.
    together = together // samples if samples > 1 and numbers[0] == samples else together
    return max(max(sizes), together) if samples == 1 else together


def _stacks(tiff: tifffile.TiffFile, path: Path, number: int) -> list[TiffStack]:
    """Volumes of one series: its planes, grouped by every axis except that of the slices."""
    series = tiff.series[number]
    first = series.keyframe
    if int(first.subfiletype) & 1 and len(tiff.series) > 1:
        return []
    if not _is_decoded(first):
        _check_fallback(first, path)
    axes, shape = _planes(series)
    samples = math.prod(n for a, n in zip(series.axes, series.shape, strict=True) if a == "S")
    in_colour = _name(first.photometric) in _COLOURED
    apart = samples > 1 and not in_colour and not _has_alpha(first)
    along = _slice_axis(axes, shape)
    places = np.arange(math.prod(shape)).reshape(shape)
    spacing = _spacing(tiff, number, stacked="Z" in axes)
    orientation = first.tags.get(_ORIENTATION)
    others = [range(n) if axis != along else range(1) for axis, n in enumerate(shape)]
    stacks = []
    for chosen in itertools.product(*others):
        parts = [f"series {number + 1} of {len(tiff.series)}"] if len(tiff.series) > 1 else []
        index: list[int | slice] = list(chosen)
        for axis, (letter, place, size) in enumerate(zip(axes, chosen, shape, strict=True)):
            if axis == along:
                index[axis] = slice(None)
            elif size > 1:
                parts.append(f"{_AXIS_WORDS.get(letter, 'part')} {place + 1} of {size}")
        planes = tuple(int(p) for p in places[tuple(index)].reshape(-1))
        for sample in range(samples) if apart else (None,):
            words = [*parts, f"channel {sample + 1} of {samples}"] if sample is not None else parts
            stacks.append(
                TiffStack(
                    path=path,
                    series=number,
                    planes=planes,
                    sample=sample,
                    rows=first.imagelength,
                    columns=first.imagewidth,
                    dtype=str(series.dtype),
                    in_colour=in_colour,
                    turned=orientation is not None and int(orientation.value) in _UNTURN,
                    words=", ".join(words),
                    spacing=spacing,
                    remarks=_axis_remark(axes, shape, along),
                )
            )
    return stacks


def _slice_axis(axes: str, shape: tuple[int, ...]) -> int | None:
    """Axis along which planes are slices of one volume: Z, else T, else the last with several."""
    several = [axis for axis, size in enumerate(shape) if size > 1]
    named = [axis for letter in "ZT" for axis in several if axes[axis] == letter]
    found = named or several[-1:]
    return found[0] if found else None


def _is_decoded(page: tifffile.TiffPage) -> bool:
    """Whether tifffile can decode a page here to values that are grey or RGB as stored."""
    return (
        (_HAS_CODECS or (page.compression in _DECODED and page.predictor in (1, 2)))
        and page.compression in tifffile.TIFF.DECOMPRESSORS
        and page.bitspersample in (1, 8, 16, 32, 64)
        and page.dtype is not None
        and page.dtype.kind in "biuf"
        and _name(page.photometric) in _PLAIN
    )


def _check_fallback(page: tifffile.TiffPage, path: Path) -> None:
    """Refuse a page that Pillow, the fallback for tifffile, cannot read or would cut to 8 bits.

    Raises
    ------
    InputError
        If it does.
    """
    bits, samples = page.bitspersample, page.samplesperpixel
    deep = samples == 1 and bits in (12, 16, 32) and _name(page.photometric) in _PLAIN
    if page.dtype is None or page.dtype.kind not in "biuf":
        raise InputError(f"its pixels are of a type that cannot be read ({page.dtype})", path=path)
    if (
        page.compression not in _PILLOW_READS
        or not (bits in (1, 2, 4, 8) or deep)
        or (bits == 16 and page.dtype.kind == "f")
    ):
        raise InputError(
            f"its pixels are stored as {_name(page.photometric)} of {bits} bits, compressed as "
            f"{_name(page.compression)}, for which no decoder is installed",
            path=path,
            fix="Save it without compression, or run: pip install imagecodecs",
        )


def _planes(series: tifffile.TiffPageSeries) -> tuple[str, tuple[int, ...]]:
    """Axes and sizes of a series, without rows, columns and samples."""
    pairs = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if a not in "YXS"]
    return "".join(a for a, _ in pairs), tuple(n for _, n in pairs)


def _axis_remark(axes: str, shape: tuple[int, ...], stack: int | None) -> tuple[str, ...]:
    if stack is None or shape[stack] == 1 or axes[stack] not in "CT":
        return ()
    return (
        f"The file calls its {shape[stack]} pages {_AXIS_WORDS[axes[stack]]}s; they are shown as "
        "slices.",
    )


def _name(value: object) -> str:
    return str(getattr(value, "name", value))


def _has_alpha(page: tifffile.TiffPage) -> bool:
    return any(int(extra) in (1, 2) for extra in page.extrasamples)


def _spacing(
    tiff: tifffile.TiffFile, number: int, *, stacked: bool
) -> tuple[float, float, float] | None:
    """Spacing along all three axes according to ImageJ or OME-XML, in mm."""
    series = tiff.series[number]
    found: list[float] = []
    meta = tiff.imagej_metadata
    if series.kind == "imagej" and meta:
        mm = _MM.get(str(meta.get("unit", "")).strip().lower())
        tags = tiff.pages.first.tags
        across = [tags[tag].value for tag in (_Y_RESOLUTION, _X_RESOLUTION) if tag in tags]
        if mm and len(across) == 2 and all(a and b for a, b in across):
            found = [float(meta.get("spacing", 0)) * mm, *(mm * b / a for a, b in across)]
    elif series.kind == "ome" and tiff.ome_metadata:
        images = re.findall(r"<Pixels\b[^>]*>", tiff.ome_metadata)
        attributes = (
            dict(re.findall(r'(\w+)="([^"]*)"', images[number])) if number < len(images) else {}
        )
        for axis in "ZYX":
            mm = _MM.get(attributes.get(f"PhysicalSize{axis}Unit", "um").lower(), 0.0)
            found.append(float(attributes.get(f"PhysicalSize{axis}", 0) or 0) * mm)
    good = stacked and len(found) == 3 and all(math.isfinite(f) and f > 0 for f in found)
    return (found[0], found[1], found[2]) if good else None


def read_tiff_pages(stack: TiffStack, page: int | None = None) -> npt.NDArray[np.generic]:
    """Read the pages of a stack, or one of them.

    Returns
    -------
    (pages, rows, columns, channels) array
        Grey, grey and alpha, RGB, or RGB and alpha, as stored; alpha is kept only if it is
        unassociated (the colours are not multiplied by it).

    Raises
    ------
    ValueError
        If the decoded pixels do not match the headers.
    """
    planes = stack.planes if page is None else stack.planes[page : page + 1]
    with _opened(stack.path) as tiff:
        series = tiff.series[stack.series]
        first = series.keyframe
        if _is_decoded(first):
            pixels = _through_tifffile(stack.path, tiff, series, planes)
            pixels = _inverted(pixels, first) if first.photometric == 0 else pixels
            alpha = [int(extra) for extra in first.extrasamples]
        else:
            pages = [series.pages[plane] for plane in planes]
            pixels = _through_pillow(stack, [p.index for p in pages if p is not None], first)
            alpha = [2] * (pixels.shape[-1] in (2, 4))
    if pixels.shape[:3] != (len(planes), stack.rows, stack.columns):
        raise ValueError(f"pixels of shape {pixels.shape}")
    if stack.sample is not None:
        return pixels[..., stack.sample : stack.sample + 1]
    colours = 3 if stack.in_colour and pixels.shape[-1] >= 3 else 1
    kept = colours + (alpha[:1] == [2] and pixels.shape[-1] > colours)
    return pixels[..., :kept]


def _through_tifffile(
    path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, planes: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """Planes of a series, (planes, rows, columns, samples); reads only those if possible."""
    page = series.keyframe
    count = math.prod(_planes(series)[1])
    if series.dataoffset is not None:
        dtype = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
        size = page.size * dtype.itemsize
        found = [
            np.fromfile(path, dtype, page.size, offset=series.dataoffset + plane * size)
            for plane in planes
        ]
        pixels = np.stack(found).astype(dtype.newbyteorder("="), copy=False)
    elif len(series.pages) == count:
        pages = [series.pages[plane] for plane in planes]
        pixels = np.stack([one.asarray() for one in pages if one is not None])
    else:
        pixels = series.asarray().reshape(count, *page.shape)[list(planes)]
    pixels = pixels.reshape(len(planes), *page.shape)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if "S" not in page.axes:
        return pixels[..., np.newaxis]
    return np.moveaxis(pixels, 1 + page.axes.index("S"), -1)


def _inverted(pixels: npt.NDArray[np.generic], page: tifffile.TiffPage) -> npt.NDArray[np.generic]:
    """Invert unsigned pixels whose 0 is white; other types are left as they are."""
    if pixels.dtype.kind != "u":
        return pixels
    most = 255 if page.bitspersample == 1 else 2**page.bitspersample - 1
    return (most - pixels).astype(pixels.dtype)


def _through_pillow(
    stack: TiffStack, pages: list[int], first: tifffile.TiffPage
) -> npt.NDArray[np.generic]:
    """Pages whose compression or colours tifffile cannot decode."""
    decoded = []
    with Image.open(stack.path, formats=("TIFF",)) as image:
        for number in pages:
            image.seek(number)
            frame: Image.Image = image
            if frame.mode not in ("L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L"):
                has_alpha = frame.mode == "PA" or "transparency" in frame.info
                target = "L" if frame.mode == "1" else "RGBA" if has_alpha else "RGB"
                frame = frame.convert(target)
            turned = getattr(image, "tag_v2", {}).get(_ORIENTATION, 1)
            if turned in _UNTURN:
                frame = frame.transpose(_UNTURN[turned])
            pixels = np.asarray(frame)
            decoded.append(pixels if pixels.ndim == 3 else pixels[..., np.newaxis])
    pixels = np.stack(decoded)
    dtype = np.dtype(first.dtype)
    if first.samplesperpixel == 1 and _name(first.photometric) in _PLAIN and dtype.kind != "b":
        # Pillow supports fewer sample types than TIFF.
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        if pixels.dtype.itemsize == dtype.itemsize:
            pixels = pixels.view(dtype)
        elif pixels.dtype == np.int32 and dtype.itemsize == 2:
            pixels = pixels.astype(dtype)
        if first.photometric == 0 and first.bitspersample > 8:  # else Pillow inverts
            pixels = _inverted(pixels, first)
    return pixels
