"""Line plots for model cards, drawn with what pictures of slices are drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from napari_spatial_ar.review.drawing import BACKGROUND, MUTED, write_text

__all__ = ["ACCENT", "QUIET", "Line", "line_plot"]

ACCENT = (0, 229, 255)
QUIET = (110, 110, 110)
_SIZE = (760, 420)
# Left, top, right, bottom of the plot's frame.
_FRAME = (90, 56, 730, 360)
_TICKS = 5


@dataclass(frozen=True)
class Line:
    """One line: its points, its colour, and its name ("" to leave it out of the legend)."""

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
        What to draw, the last on top. Points that are not finite, or not positive on a
        logarithmic axis, are left out.
    title, x_label, y_label : str
        Written above, below and beside the frame.
    log_y : bool
        Whether the vertical axis is logarithmic.

    Returns
    -------
    PIL.Image.Image
        RGB; an empty frame where there is no point.
    """
    kept = [(line, _points(line, log_y)) for line in lines]
    everything = np.concatenate([points for _, points in kept] or [np.empty((0, 2))])
    page = Image.new("RGB", _SIZE, BACKGROUND)
    draw = ImageDraw.Draw(page)
    left, top, right, bottom = _FRAME
    write_text(draw, (left, 12), title, 16)
    write_text(draw, ((left + right) / 2, _SIZE[1] - 8), x_label, 13, anchor="ms", fill=MUTED)
    write_text(draw, (left, top - 6), y_label, 13, anchor="ls", fill=MUTED)
    draw.rectangle(_FRAME, outline=MUTED)
    if not len(everything):
        return page
    low, high = everything.min(axis=0), everything.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    corner, size = np.array([left, bottom]), np.array([right - left, top - bottom])
    for tick in np.linspace(0, 1, _TICKS):
        x, y = corner + tick * size
        at_x, at_y = low + tick * span
        draw.line((x, bottom, x, bottom + 5), fill=MUTED)
        draw.line((left - 5, y, left, y), fill=MUTED)
        write_text(draw, (x, bottom + 8), f"{at_x:.4g}", 12, anchor="ma", fill=MUTED)
        value = 10**at_y if log_y else at_y
        write_text(draw, (left - 8, y), f"{value:.3g}", 12, anchor="rm", fill=MUTED)
    names = 0
    for line, points in kept:
        placed = [tuple(corner + (point - low) / span * size) for point in points]
        if len(placed) > 1:
            draw.line(placed, fill=line.colour, width=2)
        elif placed:
            x, y = placed[0]
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=line.colour)
        if line.name:
            place = (right - 8, top + 8 + 18 * names)
            write_text(draw, place, line.name, 13, anchor="ra", fill=line.colour)
            names += 1
    return page


def _points(line: Line, log_y: bool) -> npt.NDArray[np.float64]:
    points: npt.NDArray[np.float64] = np.column_stack([line.x, line.y]).astype(float).reshape(-1, 2)
    if log_y:
        points = points[points[:, 1] > 0]
        points[:, 1] = np.log10(points[:, 1])
    finite: npt.NDArray[np.float64] = points[np.isfinite(points).all(axis=1)]
    return finite
