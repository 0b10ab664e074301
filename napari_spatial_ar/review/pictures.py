"""Figures of a scored scan: a montage of its most unusual slices, and each flagged slice alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.capture import SlicePicture
from napari_spatial_ar.imaging.geometry import Geometry, slice_number
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.windows import display_limits
from napari_spatial_ar.review.drawing import (
    BACKGROUND,
    MUTED,
    PanelSize,
    Rgb,
    grey_of,
    heat_limits,
    inferno,
    panel_size,
    resized,
    to_image,
    with_heat,
    with_outline,
    write_marks,
    write_png,
    write_text,
)
from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = [
    "captured_slices",
    "highest_slices",
    "montage",
    "overlay_slices",
    "overlays",
    "write_overlays",
]

_MARGIN, _GAP, _HEAD, _FOOT, _BAR = 16, 10, 62, 30, 92


def _place(size: PanelSize, row: int, column: int) -> tuple[int, int]:
    """Where row r and column c of panels start, in pixels."""
    return _MARGIN + column * (size.width + _GAP), _HEAD + row * (size.height + _GAP)


def highest_slices(
    image_scores: npt.NDArray[np.floating], count: int, *, apart: int = 1
) -> list[int]:
    """Slices with the highest scores, highest first.

    Parameters
    ----------
    image_scores : (N,) floating
        One score per slice, NaN if not scored.
    count : int
        Maximum number of slices.
    apart : int
        Minimum distance between two of them, so that one lesion does not fill every row; ignored
        if it would leave rows empty.
    """
    order = [int(i) for i in np.argsort(-image_scores) if np.isfinite(image_scores[i])]
    chosen: list[int] = []
    for index in order:
        if len(chosen) < count and all(abs(index - other) >= apart for other in chosen):
            chosen.append(index)
    rest = [index for index in order if index not in chosen]
    chosen += rest[: max(0, count - len(chosen))]
    return sorted(chosen, key=order.index)


def montage(
    volume: Scan,
    nll: npt.NDArray[np.floating],
    image_scores: npt.NDArray[np.floating],
    mask: npt.NDArray[np.bool_ | np.uint8],
    *,
    threshold: float,
    fpr: float | None = None,
    unit: str,
    title: str = "",
    limits: tuple[float, float] | None = None,
    rows: int = 4,
    panel: int = 300,
) -> Image.Image:
    """Figure of the highest-scoring slices: scan | heatmap over scan | mask outlines.

    Slices are upright in the radiological convention (patient's left on the right of the image),
    with square pixels in mm.

    Parameters
    ----------
    volume : Scan
        The scan.
    nll : (Z, Y, X) floating
        Scores in source order, in ``unit``.
    image_scores : (N,) floating
        One score per slice; NaN if not scored.
    mask : (Z, Y, X) integer
        Nonzero inside.
    threshold : float
        In ``unit``; marked on the colour bar.
    fpr : float, optional
        Share of normal tissue flagged at the threshold, in [0, 1].
    unit : str
        Unit of scores and threshold, see `NormativeModel.unit`.
    title : str
        First line, such as the names of model and series. No patient data.
    limits : (float, float), optional
        Scores at the dark and the bright end of the colour bar; by default from the median of
        the body, so that colour begins where scores are higher than usual.
    rows : int
        Slices shown.
    panel : int
        Longer side of a panel in pixels.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    InputError
        If no slice is scored.
    """
    geometry = volume.geometry
    count = len(image_scores)
    chosen = highest_slices(image_scores, rows, apart=max(1, count // 16))
    if not chosen:
        raise InputError("no slice of this scan is scored, so there is nothing to show")
    scores, inside = geometry.to_slices(nll), geometry.to_slices(mask)
    window = display_limits(volume)
    low, high = limits or heat_limits(volume, scores, window, image_scores, threshold)
    size = panel_size(geometry, scores.shape[1:], panel)
    width = 2 * _MARGIN + 3 * size.width + 2 * _GAP + _BAR
    height = _HEAD + len(chosen) * (size.height + _GAP) + _FOOT
    page = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(page)
    _write_head(draw, size, title, threshold, fpr)
    for row, index in enumerate(chosen):
        base = grey_of(volume, index, window, size)
        heat = resized(scores[index], size, Image.Resampling.BILINEAR)
        flags = resized(inside[index] != 0, size, Image.Resampling.NEAREST) > 0.5
        pictures = base, with_heat(base, heat, low, high), with_outline(base, flags)
        for column, picture in enumerate(pictures):
            x, y = _place(size, row, column)
            page.paste(to_image(picture), (x, y))
            write_marks(draw, geometry, (x, y), size)
        x, y = _place(size, row, 0)
        note = f"slice {slice_number(index)}   score {image_scores[index]:.2f}"
        write_text(draw, (x + 6, y + size.height - 6), note, 13, anchor="ls")
    _draw_bar(page, draw, size, len(chosen), (low, high), threshold)
    write_text(draw, (_MARGIN, height - 10), f"{RESEARCH_USE}   Scores: {unit}.", 14, anchor="ls")
    return page


def _write_head(
    draw: ImageDraw.ImageDraw, size: PanelSize, title: str, threshold: float, fpr: float | None
) -> None:
    write_text(draw, (_MARGIN, 10), title, 17)
    flagged = "" if fpr is None else f" ({100 * fpr:.2g} % of normal tissue)"
    heads = ("Scan", "Departure from normal", f"Above {threshold:.2f}{flagged}")
    for column, head in enumerate(heads):
        write_text(draw, (_place(size, 0, column)[0], _HEAD - 8), head, 14, anchor="ls", fill=MUTED)


def _draw_bar(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    size: PanelSize,
    rows: int,
    limits: tuple[float, float],
    threshold: float,
) -> None:
    low, high = limits
    x = _place(size, 0, 3)[0] + 6
    top = _place(size, 0, 0)[1]
    height = min(size.height, 280)
    ramp = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(14, axis=1)
    page.paste(to_image(inferno(ramp)), (x, top))
    draw.rectangle((x - 1, top - 1, x + 14, top + height), outline=MUTED)
    write_text(draw, (x + 20, top), f"{high:.2f}", 13)
    write_text(draw, (x + 20, top + height), f"{low:.2f}", 13, anchor="ls")
    if low < threshold < high:
        at = top + height * (1 - (threshold - low) / (high - low))
        draw.line((x - 4, at, x + 17, at), fill=(0, 229, 255), width=2)
        # Avoids the two end labels.
        beside = min(max(at, top + 24), top + height - 24)
        write_text(draw, (x + 20, beside), f"{threshold:.2f}", 13, anchor="lm", fill=(0, 229, 255))


_FOOT = 44
# Longer side of a capture in pixels, unless the slice has more.
_CAPTURE = 512


def overlay_slices(
    volume: Scan,
    mask: npt.NDArray[np.bool_ | np.uint8],
    image_scores: npt.NDArray[np.floating],
    *,
    at_least: int = 4,
) -> list[int]:
    """Slices to be drawn: those that the mask touches, else the highest-scoring ones.

    Parameters
    ----------
    volume : Scan
        The scan.
    mask : (Z, Y, X) integer
        Nonzero inside.
    image_scores : (N,) floating
        One score per slice; NaN if not scored.
    at_least : int
        Number of highest-scoring slices if the mask is empty.
    """
    inside = volume.geometry.to_slices(mask)
    touched = [index for index, plane in enumerate(inside) if plane.any()]
    return touched or sorted(highest_slices(image_scores, at_least))


def overlays(
    volume: Scan,
    nll: npt.NDArray[np.floating],
    image_scores: npt.NDArray[np.floating],
    mask: npt.NDArray[np.bool_ | np.uint8],
    *,
    threshold: float,
    heat: bool = False,
    longest: int = 768,
) -> Iterator[tuple[int, Image.Image]]:
    """Draw slices of a scan in its display window, with the outline of the mask.

    Slices are upright in the radiological convention, with square pixels in mm, marked with the
    patient's sides if known; one is drawn at a time.

    Parameters
    ----------
    volume, nll, image_scores, mask, threshold
        As for `napari_spatial_ar.review.pictures.montage`.
    heat : bool
        Also overlay the scores in colour.
    longest : int
        Longer side of a slice in pixels.

    Yields
    ------
    (int, PIL.Image.Image)
        Number of the slice, from 0, and its image (RGB).
    """
    geometry = volume.geometry
    chosen = overlay_slices(volume, mask, image_scores)
    if not chosen:
        return
    scores, inside = geometry.to_slices(nll), geometry.to_slices(mask)
    window = display_limits(volume)
    size = panel_size(geometry, scores.shape[1:], longest)
    if heat:
        low, high = heat_limits(volume, scores, window, image_scores, threshold)
    for index in chosen:
        picture = grey_of(volume, index, window, size)
        if heat:
            colour = resized(scores[index], size, Image.Resampling.BILINEAR)
            picture = with_heat(picture, colour, low, high)
        flags = resized(inside[index] != 0, size, Image.Resampling.NEAREST) > 0.5
        yield index, _page(volume, index, with_outline(picture, flags), window)


def _page(volume: Scan, index: int, picture: Rgb, window: tuple[float, float]) -> Image.Image:
    """Picture of a slice with the patient's sides, and below it slice, window and research use."""
    height, width = picture.shape[:2]
    page = Image.new("RGB", (width, height + _FOOT), BACKGROUND)
    page.paste(to_image(picture), (0, 0))
    draw = ImageDraw.Draw(page)
    write_marks(draw, volume.geometry, (0, 0), PanelSize(height, width))
    limits = f"window {window[0]:.4g} to {window[1]:.4g} {volume.unit}".rstrip()
    note = f"slice {slice_number(index)}   {limits}"
    write_text(draw, (6, height + 18), note, 13, anchor="ls")
    write_text(draw, (6, height + 38), RESEARCH_USE, 13, anchor="ls")
    return page


def captured_slices(volume: Scan, numbers: npt.NDArray[np.integer]) -> Iterator[SlicePicture]:
    """Draw each acquired slice that has findings, as `overlays` does, with their numbers.

    Parameters
    ----------
    volume : Scan
        The scan; the slices are those acquired, along Z, whatever the plane that was scored.
    numbers : (Z, Y, X) integer
        Number of its finding in each voxel, 0 outside.

    Yields
    ------
    SlicePicture
        With the distance of its pixels.
    """
    acquired = replace(volume, geometry=replace(volume.geometry, slice_axis=0))
    geometry = acquired.geometry
    planes = geometry.to_slices(numbers)
    rows, columns = planes.shape[1:]
    longest = min(max(_CAPTURE, rows, columns), 2 * _CAPTURE)
    size = panel_size(geometry, planes.shape[1:], longest)
    extent = _extent_mm(geometry)
    window = display_limits(acquired)
    for index, plane in enumerate(planes):
        if not plane.any():
            continue
        flags = resized(plane != 0, size, Image.Resampling.NEAREST) > 0.5
        picture = with_outline(grey_of(acquired, index, window, size), flags)
        page = _page(acquired, index, picture, window)
        draw = ImageDraw.Draw(page)
        for number, box in enumerate(ndimage.find_objects(plane), 1):
            if box is None:
                continue  # not in this slice
            x = box[1].stop * size.width / columns + 3
            y = box[0].start * size.height / rows
            beside = min(x, size.width - 30), min(max(y, 14), size.height - 4)
            write_text(draw, beside, str(number), 13, anchor="ls")
        pixel_mm = None if extent is None else (extent[0] / size.height, extent[1] / size.width)
        yield SlicePicture(index, np.asarray(page), pixel_mm)


def _extent_mm(geometry: Geometry) -> tuple[float, float] | None:
    """Height and width of an upright slice in mm."""
    if not geometry.spacing_known:
        return None
    s, p, left = (
        n * mm for n, mm in zip(geometry.display_shape, geometry.display_spacing, strict=True)
    )
    return {"axial": (p, left), "coronal": (s, left), "sagittal": (s, p)}[geometry.plane]


def write_overlays(
    folder: Path,
    volume: Scan,
    nll: npt.NDArray[np.floating],
    image_scores: npt.NDArray[np.floating],
    mask: npt.NDArray[np.bool_ | np.uint8],
    *,
    threshold: float,
    heat: bool = False,
) -> list[Path]:
    """Write the images of `overlays` as ``slice_012.png`` and so on into a folder.

    Raises
    ------
    StorageError
        If one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digits = max(3, len(str(volume.geometry.slice_count - 1)))
    paths = []
    drawn = overlays(volume, nll, image_scores, mask, threshold=threshold, heat=heat)
    for index, picture in drawn:
        paths.append(folder / f"slice_{index:0{digits}}.png")
        write_png(paths[-1], picture)
    return paths
