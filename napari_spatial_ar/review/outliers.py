"""Training outliers of a fit, as a figure and a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_text
from napari_spatial_ar.imaging.geometry import slice_number
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.normative.fitting.outliers import UNIT, Outliers
from napari_spatial_ar.normative.scores import Example
from napari_spatial_ar.review.drawing import (
    BACKGROUND,
    MUTED,
    PanelSize,
    grey_picture,
    resized,
    to_image,
    with_heat,
    write_png,
    write_text,
)
from napari_spatial_ar.review.provenance import RESEARCH_USE
from napari_spatial_ar.review.tables import csv_text

__all__ = [
    "COLUMNS",
    "contact_sheet",
    "heat_range",
    "outlier_rows",
    "slice_and_heat",
    "write_outliers",
]

#: Columns of the table.
COLUMNS = ("rank", "score", "patient", "scan", "slice", "slices", "key")
_PANEL, _GAP, _HEAD, _FOOT, _LINE = 170, 10, 56, 30, 24
_ACROSS = 3


def outlier_rows(outliers: Outliers) -> list[tuple[str, ...]]:
    """Rows of the table under `COLUMNS`, the strongest outlier first."""
    return [
        (
            str(rank),
            f"{one.score:.4g}",
            one.patient,
            one.label,
            str(one.place),
            str(one.slices),
            one.key,
        )
        for rank, one in enumerate(outliers.ranked, start=1)
    ]


def heat_range(examples: Iterable[Example]) -> tuple[float, float]:
    """Scores at the dark and the bright end of the colours: the body's median and its maximum."""
    body = np.concatenate([one.nll[tissue_mask(one.image)] for one in examples])
    low, high = (float(value) for value in np.percentile(body, [50, 99.8]))
    return low, max(high, low + 1e-3)


def slice_and_heat(example: Example, limits: tuple[float, float], longest: int) -> Image.Image:
    """Draw a slice, and beside it the same slice with its heatmap, RGB.

    Parameters
    ----------
    example : Example
        The slice.
    limits : (float, float)
        See `heat_range`.
    longest : int
        Longer side of each of the two in pixels.
    """
    rows, columns = example.image.shape
    scale = longest / max(rows, columns)
    size = PanelSize(max(1, round(rows * scale)), max(1, round(columns * scale)))
    base = grey_picture(example.image, size)
    heat = resized(example.nll, size, Image.Resampling.BILINEAR)
    pair = Image.new("RGB", (2 * size.width + 2, size.height), BACKGROUND)
    pair.paste(to_image(base), (0, 0))
    pair.paste(to_image(with_heat(base, heat, *limits)), (size.width + 2, 0))
    return pair


def contact_sheet(outliers: Outliers) -> Image.Image:
    """All outliers, each as its slice and heatmap, RGB. Patients are identified by a code."""
    limits = heat_range([one.example for one in outliers.ranked])
    across = min(_ACROSS, len(outliers.ranked))
    down = -(-len(outliers.ranked) // across)
    width, height = 2 * _PANEL + 2 + _GAP, _PANEL + _LINE + _GAP
    page = Image.new(
        "RGB", (max(2 * _GAP + across * width, 640), _HEAD + down * height + _FOOT), BACKGROUND
    )
    draw = ImageDraw.Draw(page)
    title = f"Check these first: {len(outliers.ranked)} outliers of {outliers.scans} training scans"
    write_text(draw, (_GAP, 8), title, 17)
    colours = f"slice | {UNIT} from the other patients, {limits[0]:.3g} to {limits[1]:.3g}"
    write_text(draw, (_GAP, _HEAD - 8), colours, 13, anchor="ls", fill=MUTED)
    for number, one in enumerate(outliers.ranked):
        x, y = _GAP + number % across * width, _HEAD + number // across * height
        page.paste(slice_and_heat(one.example, limits, _PANEL), (x, y + _LINE))
        place = f"patient {one.patient}, slice {slice_number(one.place)}"
        note = f"{number + 1}.  {one.score:.3g}   {place}"
        write_text(draw, (x, y + _LINE - 5), note, 13, anchor="ls")
    write_text(draw, (_GAP, page.height - 10), RESEARCH_USE, 14, anchor="ls")
    return page


def write_outliers(outliers: Outliers, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write ``outliers.png`` and ``outliers.csv``.

    Raises
    ------
    InputError
        If they already exist.
    StorageError
        If they cannot be written.
    """
    png, table = (Path(folder) / f"suspects.{kind}" for kind in ("png", "csv"))
    if not overwrite and (png.exists() or table.exists()):
        raise InputError(
            "training outliers of an earlier run already exist",
            path=folder,
            fix="Choose another folder, or overwrite them",
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_png(png, contact_sheet(outliers))
    atomic_write_text(table, csv_text([COLUMNS, *outlier_rows(outliers)]))
