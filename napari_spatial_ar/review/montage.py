"""One picture of a scored scan: scan, heatmap and mask outlines of its most unusual slices."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.imaging.windows import apply_window, display_limits
from napari_spatial_ar.review.colormap import inferno
from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = ["highest_slices", "montage", "write_montage"]

Rgb = npt.NDArray[np.float32]

_BACKGROUND = (0, 0, 0)
_TEXT = (222, 222, 222)
_MUTED = (150, 150, 150)
#: Outline colour: cyan does not occur in inferno or in the scan.
_OUTLINE = np.array([0.0, 0.9, 1.0], dtype=np.float32)
# Enough slices for the median and the highest scores of a scan.
_SLICES_LOOKED_AT = 64
_MARGIN, _GAP, _HEAD, _FOOT, _BAR = 16, 10, 62, 30, 92


@dataclass(frozen=True)
class _Panels:
    """Sizes in pixels: one panel, and where row r and column c of panels start."""

    height: int
    width: int

    def place(self, row: int, column: int) -> tuple[int, int]:
        return _MARGIN + column * (self.width + _GAP), _HEAD + row * (self.height + _GAP)


def highest_slices(
    image_scores: npt.NDArray[np.floating], count: int, *, apart: int = 1
) -> list[int]:
    """Slices with the highest scores, highest first.

    Parameters
    ----------
    image_scores : (N,) floating
        One score a slice, NaN where not scored.
    count : int
        How many to give at most.
    apart : int
        Least distance between two of them, so that one lesion does not fill every row; given
        up where it would leave rows empty.
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
    volume: Volume,
    nll: npt.NDArray[np.floating],
    image_scores: npt.NDArray[np.floating],
    mask: npt.NDArray[Any],
    *,
    threshold: float,
    fpr: float | None = None,
    title: str = "",
    limits: tuple[float, float] | None = None,
    rows: int = 4,
    panel: int = 300,
) -> Image.Image:
    """Picture of the highest scoring slices: scan | heatmap over scan | mask outlines.

    Slices stand upright the radiological way (patient's left on the right of the picture),
    with square millimetres.

    Parameters
    ----------
    volume : Volume
        The scan.
    nll : (Z, Y, X) floating
        Scores in source order, nats per dimension.
    image_scores : (N,) floating
        One score a slice; NaN where not scored.
    mask : (Z, Y, X) integer
        Nonzero inside.
    threshold : float
        Nats per dimension; marked on the colour bar.
    fpr : float, optional
        Share of normal tissue flagged at the threshold, in [0, 1].
    title : str
        First line, such as the model's and the series' name. No patient data.
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
    low, high = limits or _limits(volume, scores, window, image_scores, threshold)
    size = _panel_size(geometry, scores.shape[1:], panel)
    width = 2 * _MARGIN + 3 * size.width + 2 * _GAP + _BAR
    height = _HEAD + len(chosen) * (size.height + _GAP) + _FOOT
    page = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    _write_head(draw, size, title, threshold, fpr)
    for row, index in enumerate(chosen):
        unit = apply_window(volume.slice(index), *window)
        grey = np.clip(_resized(unit, size, Image.Resampling.BICUBIC), 0, 1)
        base = np.repeat(grey[..., None], 3, axis=2)
        heat = _resized(scores[index], size, Image.Resampling.BILINEAR)
        flags = _resized(inside[index] != 0, size, Image.Resampling.NEAREST) > 0.5
        pictures = base, _with_heat(base, heat, low, high), _with_outline(base, flags)
        for column, picture in enumerate(pictures):
            x, y = size.place(row, column)
            page.paste(Image.fromarray(np.rint(picture * 255).astype(np.uint8)), (x, y))
            _write_marks(draw, geometry, (x, y), size)
        x, y = size.place(row, 0)
        note = f"slice {index}   score {image_scores[index]:.2f}"
        _text(draw, (x + 6, y + size.height - 6), note, 13, anchor="ls")
    _draw_bar(page, draw, size, len(chosen), (low, high), threshold)
    _text(draw, (_MARGIN, height - 10), RESEARCH_USE, 14, anchor="ls")
    return page


def write_montage(path: str | Path, picture: Image.Image) -> None:
    """Save a montage as PNG; the file appears whole or not at all (`StorageError`)."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    atomic_write_bytes(Path(path), buffer.getvalue())


def _limits(
    volume: Volume,
    scores: npt.NDArray[np.floating],
    window: tuple[float, float],
    image_scores: npt.NDArray[np.floating],
    threshold: float,
) -> tuple[float, float]:
    """From the median score of the body to its highest, at least as far above the threshold."""
    scored = np.flatnonzero(np.isfinite(image_scores))
    values = [
        scores[i][tissue_mask(apply_window(volume.slice(i), *window))]
        for i in scored[:: max(1, len(scored) // _SLICES_LOOKED_AT)]
    ]
    body = np.concatenate(values) if sum(map(len, values)) else scores.ravel()
    low, high = (float(v) for v in np.percentile(body, [50, 99.8]))
    return low, max(high, 2 * threshold - low, low + 1e-3)


def _panel_size(geometry: Geometry, shape: tuple[int, ...], longest: int) -> _Panels:
    s, p, left = geometry.display_spacing
    row, column = {"axial": (p, left), "coronal": (s, left), "sagittal": (s, p)}[geometry.plane]
    height, width = shape[0] * row, shape[1] * column
    scale = longest / max(height, width)
    return _Panels(max(1, round(height * scale)), max(1, round(width * scale)))


def _resized(plane: npt.NDArray[Any], size: _Panels, how: Image.Resampling) -> Rgb:
    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(picture.resize((size.width, size.height), how), dtype=np.float32)


def _with_heat(base: Rgb, heat: Rgb, low: float, high: float) -> Rgb:
    """Lay the colour over the scan, more opaque the higher the score: normal stays visible."""
    unit = np.clip((heat - low) / (high - low), 0, 1)
    opacity = (0.85 * unit**0.7)[..., None]
    return np.asarray(base * (1 - opacity) + inferno(unit) * opacity, dtype=np.float32)


def _with_outline(base: Rgb, inside: npt.NDArray[np.bool_]) -> Rgb:
    edge = ndimage.binary_dilation(inside, iterations=1) & ~ndimage.binary_erosion(inside)
    return np.where(edge[..., None], _OUTLINE, base)


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    *,
    anchor: str = "la",
    fill: tuple[int, int, int] = _TEXT,
) -> None:
    font = ImageFont.load_default(size)
    draw.text(at, text, fill=fill, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _write_head(
    draw: ImageDraw.ImageDraw, size: _Panels, title: str, threshold: float, fpr: float | None
) -> None:
    _text(draw, (_MARGIN, 10), title, 17)
    flagged = "" if fpr is None else f" ({100 * fpr:.2g} % of normal tissue)"
    heads = ("Scan", "Departure from normal", f"Above {threshold:.2f}{flagged}")
    for column, head in enumerate(heads):
        _text(draw, (size.place(0, column)[0], _HEAD - 8), head, 14, anchor="ls", fill=_MUTED)


def _write_marks(
    draw: ImageDraw.ImageDraw, geometry: Geometry, place: tuple[int, int], size: _Panels
) -> None:
    """Letters for the patient's sides, where the scan says how the patient lies."""
    if not geometry.spacing_known:
        return
    letters = ("A", "P") if geometry.plane == "sagittal" else ("R", "L")
    x, y = place
    _text(draw, (x + 6, y + size.height / 2), letters[0], 15, anchor="lm")
    _text(draw, (x + size.width - 6, y + size.height / 2), letters[1], 15, anchor="rm")


def _draw_bar(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    size: _Panels,
    rows: int,
    limits: tuple[float, float],
    threshold: float,
) -> None:
    low, high = limits
    x = size.place(0, 3)[0] + 6
    top = size.place(0, 0)[1]
    height = min(size.height, 280)
    ramp = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(14, axis=1)
    page.paste(Image.fromarray(np.rint(inferno(ramp) * 255).astype(np.uint8)), (x, top))
    draw.rectangle((x - 1, top - 1, x + 14, top + height), outline=_MUTED)
    _text(draw, (x + 20, top), f"{high:.2f}", 13)
    _text(draw, (x + 20, top + height), f"{low:.2f}", 13, anchor="ls")
    if low < threshold < high:
        at = top + height * (1 - (threshold - low) / (high - low))
        draw.line((x - 4, at, x + 17, at), fill=(0, 229, 255), width=2)
        # Kept clear of the two end labels.
        beside = min(max(at, top + 24), top + height - 24)
        _text(draw, (x + 20, beside), f"{threshold:.2f}", 13, anchor="lm", fill=(0, 229, 255))
    _text(draw, (x - 1, top - 8), "nats / dim.", 13, anchor="ls", fill=_MUTED)
