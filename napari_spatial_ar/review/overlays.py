"""Slices of a scored scan as pictures: the scan, the mask's outline, the heatmap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from napari_spatial_ar.imaging.geometry import slice_number
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.imaging.windows import display_limits
from napari_spatial_ar.review.drawing import (
    BACKGROUND,
    grey_of,
    heat_limits,
    panel_size,
    resized,
    to_image,
    with_heat,
    with_outline,
    write_marks,
    write_png,
    write_text,
)
from napari_spatial_ar.review.montage import highest_slices
from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = ["overlay_slices", "overlays", "write_overlays"]

_FOOT = 44


def overlay_slices(
    volume: Volume,
    mask: npt.NDArray[Any],
    image_scores: npt.NDArray[np.floating],
    *,
    at_least: int = 4,
) -> list[int]:
    """Slices worth a picture: those that the mask touches, else the highest-scoring ones.

    Parameters
    ----------
    volume : Volume
        The scan.
    mask : (Z, Y, X) integer
        Nonzero inside.
    image_scores : (N,) floating
        One score a slice; NaN where not scored.
    at_least : int
        How many of the highest-scoring ones where the mask is empty.
    """
    inside = volume.geometry.to_slices(mask)
    touched = [index for index, plane in enumerate(inside) if plane.any()]
    return touched or sorted(highest_slices(image_scores, at_least))


def overlays(
    volume: Volume,
    nll: npt.NDArray[np.floating],
    image_scores: npt.NDArray[np.floating],
    mask: npt.NDArray[Any],
    *,
    threshold: float,
    heat: bool = False,
    longest: int = 768,
) -> Iterator[tuple[int, Image.Image]]:
    """Draw slices of a scan in its display window, with the outline of the mask.

    Slices stand upright the radiological way, with square mm, marked with the patient's sides
    where they are known; one is drawn at a time.

    Parameters
    ----------
    volume, nll, image_scores, mask, threshold
        As for `napari_spatial_ar.review.montage.montage`.
    heat : bool
        Also lay the scores over the scan in colour.
    longest : int
        Longer side of a slice in pixels.

    Yields
    ------
    (int, PIL.Image.Image)
        Number of the slice, from 0, and its picture (RGB).
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
        page = Image.new("RGB", (size.width, size.height + _FOOT), BACKGROUND)
        page.paste(to_image(with_outline(picture, flags)), (0, 0))
        draw = ImageDraw.Draw(page)
        write_marks(draw, geometry, (0, 0), size)
        limits = f"window {window[0]:.4g} to {window[1]:.4g} {volume.unit}".rstrip()
        note = f"slice {slice_number(index)}   {limits}"
        write_text(draw, (6, size.height + 18), note, 13, anchor="ls")
        write_text(draw, (6, size.height + 38), RESEARCH_USE, 13, anchor="ls")
        yield index, page


def write_overlays(
    folder: Path,
    volume: Volume,
    nll: npt.NDArray[np.floating],
    image_scores: npt.NDArray[np.floating],
    mask: npt.NDArray[Any],
    *,
    threshold: float,
    heat: bool = False,
) -> list[Path]:
    """Write what `overlays` draws as ``slice_012.png`` and so on into a folder.

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
