"""Tools for figures of slices: colours of heatmaps, panels, outlines, text, line plots.

Inferno and viridis (Smith and van der Walt 2015, CC0) and cividis (Nunez, Anderton and Renslow
2018) are perceptually uniform in lightness, cividis also with red-green colour blindness; "red" has
a single hue. All fade in from their low end, so that the scan shows through.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window

__all__ = [
    "ACCENT",
    "BACKGROUND",
    "DEFAULT_COLOURS",
    "HEAT_COLOURS",
    "INFERNO",
    "MUTED",
    "QUIET",
    "HeatColours",
    "Line",
    "PanelSize",
    "Rgb",
    "grey_of",
    "grey_picture",
    "heat_limits",
    "inferno",
    "line_plot",
    "panel_size",
    "resized",
    "to_image",
    "with_heat",
    "with_outline",
    "write_marks",
    "write_png",
    "write_text",
]

_KNOTS = (
    "000004 040312 0b0724 150b37 210c4a 2e0a5a 3c0965 4a0c6b 57106d 63146e 70196e "
    "7d1e6d 89226a 962766 a32b61 af315c bb3755 c63e4d d14644 db4f3b e35932 eb6528 "
    "f1711e f67f14 f98d0a fb9c06 fcab0f fbba1f f9ca32 f5d949 f2e865 f3f586 fcffa4"
)


_VIRIDIS = (
    "440154 470d60 48186a 482374 472d7b 453681 424086 3f4989 3b528b 375a8d 33638d "
    "2f6a8e 2c728e 297a8e 26818e 23898e 21908c 1f988b 1f9f88 21a685 28ae80 31b57b "
    "3ebc74 4cc26c 5dc963 6ece58 82d34c 96d83f abdc32 c0df24 d5e21a eae51a fde725"
)


_CIVIDIS = (
    "00224e 00285b 002e6a 043371 1a386f 273e6e 32436d 3b496c 434e6c 4b546c 52596d "
    "5a5f6e 61656f 686a71 6f7073 757676 7c7b78 848179 8b8778 938d78 9b9376 a39a75 "
    "aba072 b3a670 bbad6c c3b469 ccba64 d4c15f ddc958 e6d051 efd748 f8df3c fee838"
)


_RED = "ff3b30 ff3b30"


def _table(words: str = _KNOTS) -> npt.NDArray[np.float32]:
    knots = np.array([list(bytes.fromhex(knot)) for knot in words.split()]) / 255
    at = np.linspace(0, len(knots) - 1, 256)
    columns = [np.interp(at, np.arange(len(knots)), knots[:, c]) for c in range(3)]
    table = np.stack(columns, axis=1).astype(np.float32)
    table.setflags(write=False)
    return table


#: (256, 3) float32 RGB in [0, 1], from low to high; within 1.5 of 255 of the original table.
INFERNO = _table()


@dataclass(frozen=True)
class HeatColours:
    """A choice of colours for a heatmap over a scan.

    Parameters
    ----------
    title : str
        Its name for users.
    rgba : (256, 4) float32
        From low to high, in [0, 1]; the low end is transparent.
    """

    title: str
    rgba: npt.NDArray[np.float32] = field(repr=False)


def _fading(title: str, rgb: npt.NDArray[np.float32]) -> HeatColours:
    opacity = 0.85 * np.linspace(0, 1, len(rgb)) ** 0.7
    rgba = np.column_stack([rgb, opacity]).astype(np.float32)
    rgba.setflags(write=False)
    return HeatColours(title, rgba)


#: Available colours, by the name that is stored.
HEAT_COLOURS = {
    "inferno": _fading("Inferno", INFERNO),
    "viridis": _fading("Viridis", _table(_VIRIDIS)),
    "cividis": _fading("Cividis", _table(_CIVIDIS)),
    "red": _fading("Red only", _table(_RED)),
}


DEFAULT_COLOURS = "inferno"


def inferno(unit: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Colours of values.

    Parameters
    ----------
    unit : (...) floating
        Values in [0, 1]; values outside are clipped.

    Returns
    -------
    (..., 3) float32
        RGB in [0, 1].
    """
    index = np.clip(np.rint(np.nan_to_num(unit) * 255), 0, 255).astype(np.intp)
    return np.asarray(INFERNO[index], dtype=np.float32)


Rgb = npt.NDArray[np.float32]


BACKGROUND = (0, 0, 0)


_TEXT = (222, 222, 222)


MUTED = (150, 150, 150)


#: Outline colour: cyan does not occur in inferno or in the scan.
_OUTLINE = np.array([0.0, 0.9, 1.0], dtype=np.float32)


# Number of slices that suffice for the median and the highest scores of a scan.
_SLICES_LOOKED_AT = 64


@dataclass(frozen=True)
class PanelSize:
    """Size of the image of a slice, in pixels."""

    height: int
    width: int


def write_png(path: str | Path, picture: Image.Image) -> None:
    """Save an image as PNG; the file is written completely or not at all (`StorageError`)."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    atomic_write_bytes(Path(path), buffer.getvalue())


def to_image(picture: Rgb) -> Image.Image:
    """Image of an array (rows, columns, 3) in [0, 1]."""
    return Image.fromarray(np.rint(picture * 255).astype(np.uint8))


def grey_of(volume: Scan, index: int, window: tuple[float, float], size: PanelSize) -> Rgb:
    """Upright slice ``index`` in grey: (height, width, 3) in [0, 1]."""
    return grey_picture(apply_window(volume.slice(index), *window), size)


def grey_picture(unit: npt.NDArray[np.floating], size: PanelSize) -> Rgb:
    """Slice of (rows, columns) in [0, 1] in grey: (height, width, 3) in [0, 1]."""
    grey = np.clip(resized(unit, size, Image.Resampling.BICUBIC), 0, 1)
    return np.repeat(grey[..., None], 3, axis=2)


def heat_limits(
    volume: Scan,
    scores: npt.NDArray[np.floating],
    window: tuple[float, float],
    image_scores: npt.NDArray[np.floating],
    threshold: float,
) -> tuple[float, float]:
    """Range from the body's median score to its highest, at least as far above the threshold."""
    scored = np.flatnonzero(np.isfinite(image_scores))
    values = [
        scores[i][tissue_mask(apply_window(volume.slice(i), *window))]
        for i in scored[:: max(1, len(scored) // _SLICES_LOOKED_AT)]
    ]
    body = np.concatenate(values) if sum(map(len, values)) else scores.ravel()
    low, high = (float(v) for v in np.percentile(body, [50, 99.8]))
    return low, max(high, 2 * threshold - low, low + 1e-3)


def panel_size(geometry: Geometry, shape: tuple[int, ...], longest: int) -> PanelSize:
    """Size of an image with square pixels in mm whose longer side has ``longest`` pixels."""
    s, p, left = geometry.display_spacing
    row, column = {"axial": (p, left), "coronal": (s, left), "sagittal": (s, p)}[geometry.plane]
    height, width = shape[0] * row, shape[1] * column
    scale = longest / max(height, width)
    return PanelSize(max(1, round(height * scale)), max(1, round(width * scale)))


def resized(plane: npt.NDArray[np.generic], size: PanelSize, how: Image.Resampling) -> Rgb:
    """Plane (rows, columns) as (height, width) float32."""
    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(picture.resize((size.width, size.height), how), dtype=np.float32)


def with_heat(base: Rgb, heat: Rgb, low: float, high: float) -> Rgb:
    """Blend colour over the scan, more opaque the higher the score: normal tissue stays visible."""
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
    """Write text with a dark outline, so that it is legible on any image."""
    font = ImageFont.load_default(size)
    draw.text(at, text, fill=fill, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def write_marks(
    draw: ImageDraw.ImageDraw, geometry: Geometry, place: tuple[int, int], size: PanelSize
) -> None:
    """Letters for the patient's sides, if the scan's orientation is known."""
    if not geometry.spacing_known:
        return
    letters = ("A", "P") if geometry.plane == "sagittal" else ("R", "L")
    x, y = place
    write_text(draw, (x + 6, y + size.height / 2), letters[0], 15, anchor="lm")
    write_text(draw, (x + size.width - 6, y + size.height / 2), letters[1], 15, anchor="rm")


ACCENT = (0, 229, 255)


QUIET = (110, 110, 110)


# Pixels of a plot.
_SIZE, _DPI = (760, 420), 100


@dataclass(frozen=True)
class Line:
    """One line: its points, its colour, and its name ("" to omit it from the legend)."""

    x: Sequence[float]
    y: Sequence[float]
    colour: tuple[int, int, int] = ACCENT
    name: str = ""


def line_plot(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, log_y: bool = False
) -> Image.Image:
    """Draw lines in one frame.

    Parameters
    ----------
    lines : sequence of Line
        The lines, the last on top. Points that are not finite, or not positive on a logarithmic
        axis, are omitted.
    title, x_label, y_label : str
        Written above, below and beside the frame.
    log_y : bool
        Whether the vertical axis is logarithmic.

    Returns
    -------
    PIL.Image.Image
        RGB; an empty frame if there is no point.
    """
    from matplotlib.figure import Figure

    width, height = (side / _DPI for side in _SIZE)
    figure = Figure((width, height), dpi=_DPI, facecolor=_rgb(BACKGROUND), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(_rgb(BACKGROUND))
    axes.set_title(title, loc="left", color=_rgb(_TEXT))
    axes.set_xlabel(x_label, color=_rgb(MUTED))
    axes.set_ylabel(y_label, color=_rgb(MUTED))
    axes.tick_params(which="both", colors=_rgb(MUTED))
    axes.spines[:].set_color(_rgb(MUTED))
    axes.set_yscale("log" if log_y else "linear")
    for line in lines:
        x, y = _points(line, log_y)
        marker = "o" if len(x) == 1 else ""
        label = line.name or "_"  # matplotlib leaves out names that begin so
        axes.plot(x, y, color=_rgb(line.colour), label=label, linewidth=1.5, marker=marker)
    if any(line.name for line in lines):
        axes.legend(frameon=False, labelcolor="linecolor")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB")


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _points(line: Line, log_y: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    x, y = (np.asarray(values, np.float64) for values in (line.x, line.y))
    shown = np.isfinite(x) & np.isfinite(y) & (y > 0 if log_y else True)
    return x[shown], y[shown]
