"""What pictures of slices are drawn with: panels, colour over grey, outlines, marks, text."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.review.colormap import inferno

__all__ = [
    "BACKGROUND",
    "MUTED",
    "PanelSize",
    "Rgb",
    "grey_of",
    "grey_picture",
    "heat_limits",
    "panel_size",
    "resized",
    "to_image",
    "with_heat",
    "with_outline",
    "write_marks",
    "write_png",
    "write_text",
]

Rgb = npt.NDArray[np.float32]

BACKGROUND = (0, 0, 0)
_TEXT = (222, 222, 222)
MUTED = (150, 150, 150)
#: Outline colour: cyan does not occur in inferno or in the scan.
_OUTLINE = np.array([0.0, 0.9, 1.0], dtype=np.float32)
# Enough slices for the median and the highest scores of a scan.
_SLICES_LOOKED_AT = 64


@dataclass(frozen=True)
class PanelSize:
    """Size of one picture of a slice, in pixels."""

    height: int
    width: int


def write_png(path: str | Path, picture: Image.Image) -> None:
    """Save a picture as PNG; the file appears whole or not at all (`StorageError`)."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    atomic_write_bytes(Path(path), buffer.getvalue())


def to_image(picture: Rgb) -> Image.Image:
    """Picture of (rows, columns, 3) in [0, 1]."""
    return Image.fromarray(np.rint(picture * 255).astype(np.uint8))


def grey_of(volume: Volume, index: int, window: tuple[float, float], size: PanelSize) -> Rgb:
    """Upright slice ``index`` in grey: (height, width, 3) in [0, 1]."""
    return grey_picture(apply_window(volume.slice(index), *window), size)


def grey_picture(unit: npt.NDArray[np.floating], size: PanelSize) -> Rgb:
    """Slice of (rows, columns) in [0, 1] in grey: (height, width, 3) in [0, 1]."""
    grey = np.clip(resized(unit, size, Image.Resampling.BICUBIC), 0, 1)
    return np.repeat(grey[..., None], 3, axis=2)


def heat_limits(
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


def panel_size(geometry: Geometry, shape: tuple[int, ...], longest: int) -> PanelSize:
    """Size of a picture with square mm whose longer side has ``longest`` pixels."""
    s, p, left = geometry.display_spacing
    row, column = {"axial": (p, left), "coronal": (s, left), "sagittal": (s, p)}[geometry.plane]
    height, width = shape[0] * row, shape[1] * column
    scale = longest / max(height, width)
    return PanelSize(max(1, round(height * scale)), max(1, round(width * scale)))


def resized(plane: npt.NDArray[Any], size: PanelSize, how: Image.Resampling) -> Rgb:
    """Plane (rows, columns) as (height, width) float32."""
    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(picture.resize((size.width, size.height), how), dtype=np.float32)


def with_heat(base: Rgb, heat: Rgb, low: float, high: float) -> Rgb:
    """Lay the colour over the scan, more opaque the higher the score: normal stays visible."""
    unit = np.clip((heat - low) / (high - low), 0, 1)
    opacity = (0.85 * unit**0.7)[..., None]
    return np.asarray(base * (1 - opacity) + inferno(unit) * opacity, dtype=np.float32)


def with_outline(base: Rgb, inside: npt.NDArray[np.bool_]) -> Rgb:
    """Draw the edge of a mask (height, width) over a picture."""
    edge = ndimage.binary_dilation(inside, iterations=1) & ~ndimage.binary_erosion(inside)
    return np.where(edge[..., None], _OUTLINE, base)


def write_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    *,
    anchor: str = "la",
    fill: tuple[int, int, int] = _TEXT,
) -> None:
    """Write text with a dark rim, so that it can be read on any picture."""
    font = ImageFont.load_default(size)
    draw.text(at, text, fill=fill, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def write_marks(
    draw: ImageDraw.ImageDraw, geometry: Geometry, place: tuple[int, int], size: PanelSize
) -> None:
    """Letters for the patient's sides, where the scan says how the patient lies."""
    if not geometry.spacing_known:
        return
    letters = ("A", "P") if geometry.plane == "sagittal" else ("R", "L")
    x, y = place
    write_text(draw, (x + 6, y + size.height / 2), letters[0], 15, anchor="lm")
    write_text(draw, (x + size.width - 6, y + size.height / 2), letters[1], 15, anchor="rm")
