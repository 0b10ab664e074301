"""Images (PNG, JPEG, TIFF, BMP) as slices and stacks of slices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.gather import attempt, gather, left_out
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.grey import (
    COLOUR_WARNING,
    WIDE_WARNING,
    Narrowing,
    is_wide,
    span,
)
from napari_spatial_ar.imaging.images import (
    ImageInfo,
    decode,
    image_infos,
    page_count,
)
from napari_spatial_ar.imaging.scan import Scan, check_voxels, is_large
from napari_spatial_ar.imaging.series import Intensity, Series
from napari_spatial_ar.imaging.signatures import is_raster

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


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort key by which slice_9 precedes slice_10."""
    return [(0, int(t)) if t.isdecimal() else (1, t) for t in re.split(r"([0-9]+)", str(path)) if t]


def read_raster(path: str | Path) -> tuple[npt.NDArray[np.float32], Intensity]:
    """Read one image as a grey slice.

    Parameters
    ----------
    path : path-like
        A PNG, JPEG, TIFF or BMP file with one page.

    Returns
    -------
    image : (rows, columns) float32
        Intensities as stored; colour becomes luminance (ITU-R BT.601), alpha is blended with black.
    intensity : {"grey8", "arbitrary"}
        ``"grey8"`` for 8-bit images, in 0..255.

    Raises
    ------
    InputError
        If the file is missing, damaged or not an image, has several pages, or its pixels are
        not finite or all the same.
    """
    path = Path(path)
    found = _one_page(path, "slice", fix="Open it as a stack")
    page: npt.NDArray[np.float32] = decode(found).pages[0].astype(np.float32)
    check_voxels(page, path=path)
    return page, found.intensity


def _one_page(path: Path, what: str, fix: str | None = None) -> ImageInfo:
    infos = image_infos(path)
    pages = sum(found.pages for found in infos)
    if pages != 1:
        raise InputError(f"holds {pages} pages, not one {what}", path=path, fix=fix)
    return infos[0]


def read_label(path: str | Path) -> npt.NDArray[np.bool_]:
    """Read a label image: (rows, columns) bool, True where it is not 0.

    Raises
    ------
    InputError
        If the file is missing, damaged, not an image, or has several pages.
    """
    return np.asarray(decode(_one_page(Path(path), "label")).pages[0] > 0)


@dataclass(eq=False)
class _StackVoxels:
    """Reader of a stack of pages (see `napari_spatial_ar.imaging.scan`)."""

    infos: tuple[ImageInfo, ...]
    _narrow: Narrowing | None = field(default=None, repr=False)

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All pages, and whether there was colour."""
        first = self.infos[0]
        count = sum(found.pages for found in self.infos)
        data = np.empty((count, first.rows, first.columns), np.float32)
        narrow = self._narrowing()
        coloured, start = False, 0
        for found in self.infos:
            picture = decode(found)
            data[start : start + found.pages] = narrow(picture.pages)
            coloured |= picture.coloured
            start += found.pages
        return data, (*((COLOUR_WARNING,) if coloured else ()), *narrow.warnings)

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """One page; only its file, and if possible only its page, is decoded."""
        for found in self.infos:
            if index < found.pages:
                break
            index -= found.pages
        page: npt.NDArray[np.float32] = self._narrowing()(decode(found, index).pages)[0]
        if not (np.isfinite(page.min()) and np.isfinite(page.max())):
            raise InputError("holds pixels that are not finite numbers", path=found.path)
        return page

    def _narrowing(self) -> Narrowing:
        """How intensities become float32; if float32 may not hold them, all are read."""
        if self._narrow is None:
            wide = [np.dtype(found.dtype) for found in self.infos if is_wide(np.dtype(found.dtype))]
            whole = all(dtype.kind in "iu" for dtype in wide)
            ends = span(decode(found).pages for found in self.infos) if wide else None
            self._narrow = Narrowing.of(ends, whole=whole)
        return self._narrow


def _stack(infos: Sequence[ImageInfo]) -> Scan:
    """One scan of images of equal size and type."""
    first = infos[0]
    count, rows, columns = sum(found.pages for found in infos), first.rows, first.columns
    label = f"Picture {columns} x {rows}" if count == 1 else f"Stack {columns} x {rows} x {count}"
    stacks = [found.stack for found in infos if found.stack is not None]
    spacing = stacks[0].spacing if len(infos) == 1 and stacks else None
    shape = (count, rows, columns)
    if spacing is None:
        geometry = Geometry.without_spacing(shape)
        warnings = [
            "Images have no spacing: lengths are in pixels, and left and right are as displayed."
        ]
    else:
        step, down, across = spacing
        geometry = Geometry(shape, np.diag([-across, -down, step, 1.0]))
        warnings = [
            "The file does not state the patient's orientation: left and right are as displayed."
        ]
    turned = sum(found.turned for found in infos)
    if turned:
        warnings.append(
            f"{turned} of {len(infos)} files request rotation or mirroring (EXIF orientation); "
            "they are shown as stored."
        )
    warnings += dict.fromkeys(remark for stack in stacks for remark in stack.remarks)
    if is_large(count * rows * columns):
        warnings += [COLOUR_WARNING] * any(found.in_colour for found in infos)
        warnings += [WIDE_WARNING] * any(is_wide(np.dtype(found.dtype)) for found in infos)
    words = stacks[0].words if len(infos) == 1 and stacks else ""
    return Scan(
        voxels=_StackVoxels(tuple(infos)),
        geometry=geometry,
        modality="unknown",
        series=Series(
            label=f"{label}, {words}" if words else label,
            files=tuple(found.path for found in infos),
        ),
        intensity=first.intensity,
        warnings=tuple(warnings),
    )


def find_stacks(files: Sequence[str | Path]) -> list[Scan]:
    """Find stacks among images in one folder, by their headers.

    Parameters
    ----------
    files : sequence of path-like
        Images of one folder; they are stacked by name, slice_9 before slice_10.

    Returns
    -------
    list of Scan
        One with a slice for each image (and page) if sizes and pixel types agree, else one for
        each image, and one for each channel and time point of a TIFF file that has several.
        Without spacing (see `Geometry.without_spacing`), except for an ImageJ or OME-TIFF file
        that has one. Unreadable images are excluded, which a warning of the first scan reports.

    Raises
    ------
    InputError
        If no image could be read.
    """
    paths = sorted(map(Path, files), key=natural_key)
    by_file, errors = attempt(partial(image_infos, path) for path in paths)
    infos = [found for of_file in by_file for found in of_file]
    alone = len({(found.rows, found.columns, found.intensity) for found in infos}) > 1
    alone |= any(len(of_file) > 1 for of_file in by_file)
    first, *others = [[found] for found in infos] if alone else [infos]
    return [_stack(first).warn(*left_out(errors)), *map(_stack, others)]


def read_stack(files: Sequence[str | Path]) -> list[Scan]:
    """Read images in one folder: one stack if all are alike, else each by itself.

    Parameters
    ----------
    files : sequence of path-like
        As for `find_stacks`.

    Returns
    -------
    list of Scan
        As found by `find_stacks`.

    Raises
    ------
    InputError
        If no image could be read, or one of a stack is damaged.
    """

    def read(scan: Scan) -> list[Scan]:
        return [scan.read()]

    return gather(partial(read, scan) for scan in find_stacks(files))
