"""Images of a report: a slice as acquired, with its scores, and with its findings outlined."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from napari_spatial_ar.imaging.geometry import slice_number
from napari_spatial_ar.imaging.windows import display_limits
from napari_spatial_ar.review.drawing import (
    BACKGROUND,
    MUTED,
    PanelSize,
    grey_of,
    heat_limits,
    inferno,
    panel_size,
    resized,
    to_image,
    with_heat,
    with_outline,
    write_marks,
    write_text,
)
from napari_spatial_ar.review.findings import ReviewedFinding
from napari_spatial_ar.review.pictures import highest_slices
from napari_spatial_ar.review.provenance import RESEARCH_USE
from napari_spatial_ar.review.results import ScanResults

__all__ = ["Picture", "SlicePictures", "chosen_slices"]

_PANEL, _GAP, _FOOT, _THUMB = 320, 6, 24, 96
_CYAN = (0, 229, 255)
# Nobody reads more numbers than this in an image.
_NUMBERED = 99
# Findings are drawn in this order of status if there are too many of them.
_IMPORTANCE = {"keep": 0, "unsure": 1, "unread": 2}


@dataclass(frozen=True)
class Picture:
    """An encoded image with its texts.

    Parameters
    ----------
    data : bytes
        JPEG.
    width, height : int
        Pixels.
    alt : str
        Description for those who cannot see it.
    caption : str
        Text below it.
    """

    data: bytes = field(repr=False)
    width: int
    height: int
    alt: str
    caption: str = ""

    @classmethod
    def of(cls, image: Image.Image, alt: str, caption: str = "") -> Picture:
        """Encode an image; thin coloured lines stay sharp."""
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=90, subsampling=0, optimize=True)
        return cls(buffer.getvalue(), image.width, image.height, alt, caption)


def chosen_slices(
    results: ScanResults, most: int, *, highest: int = 4
) -> list[tuple[int, tuple[ReviewedFinding, ...]]]:
    """Choose the slices to be drawn.

    Parameters
    ----------
    results : ScanResults
        Results of a scan.
    most : int
        Maximum number of slices.
    highest : int
        Number of the highest-scoring slices, whether or not anything was found in them.

    Returns
    -------
    list of (int, tuple of ReviewedFinding)
        The slice with the peak of each finding that is not rejected, in the order kept, unsure,
        unread, each with the findings that have their peak there; then the highest-scoring
        slices.
    """
    shown = [item for item in results.listed.items if item.status != "reject"]
    shown.sort(key=lambda item: (_IMPORTANCE[item.status], item.finding.rank))
    slices: dict[int, list[ReviewedFinding]] = {}
    for item in shown:
        slices.setdefault(item.finding.peak_slice, []).append(item)
    scores = results.score.image_scores
    # Some of the space is reserved for these, however many findings there are.
    top = highest_slices(scores, min(highest, most), apart=max(1, len(scores) // 16))
    new = [index for index in top if index not in slices]
    picked = list(slices)[: max(0, most - len(new))] + new
    return [(index, tuple(slices.get(index, ()))) for index in picked]


class SlicePictures:
    """Draws slices of a scored scan, one at a time.

    Slices are upright in the radiological convention, with square pixels in mm, marked with the
    patient's sides if known.

    Parameters
    ----------
    results : ScanResults
        The scan, its scores and findings.
    """

    def __init__(self, results: ScanResults) -> None:
        volume, score = results.volume, results.score
        self._results = results
        self._scores = volume.geometry.to_slices(score.nll)
        self._inside = volume.geometry.to_slices(results.mask)
        self._window = display_limits(volume)
        self._size = panel_size(volume.geometry, self._scores.shape[1:], _PANEL)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Scores at the transparent and at the bright end of the colours."""
        results = self._results
        return heat_limits(
            results.volume,
            self._scores,
            self._window,
            results.score.image_scores,
            results.threshold,
        )

    def draw(
        self, chosen: Sequence[tuple[int, tuple[ReviewedFinding, ...]]]
    ) -> Generator[None, None, tuple[Picture, ...]]:
        """Draw the slices of `chosen_slices`, yielding after each slice."""
        made = []
        for index, items in chosen:
            made.append(self.slice(index, items))
            yield
        return tuple(made)

    def slice(self, index: int, items: Sequence[ReviewedFinding] = ()) -> Picture:
        """Scan, scores in colour over it, and the outline of the mask, side by side.

        The number of each finding that is not rejected is beside its outline.
        """
        volume, size = self._results.volume, self._size
        base = grey_of(volume, index, self._window, size)
        heat = resized(self._scores[index], size, Image.Resampling.BILINEAR)
        flags = resized(self._inside[index] != 0, size, Image.Resampling.NEAREST) > 0.5
        panels = base, with_heat(base, heat, *self.limits), with_outline(base, flags)
        width = 3 * size.width + 2 * _GAP
        page = Image.new("RGB", (width, size.height + _FOOT), BACKGROUND)
        draw = ImageDraw.Draw(page)
        for column, panel in enumerate(panels):
            at = column * (size.width + _GAP), 0
            page.paste(to_image(panel), at)
            write_marks(draw, volume.geometry, at, size)
        self._number(draw, index)
        foot = size.height + _FOOT // 2
        write_text(draw, (6, foot), f"slice {slice_number(index)}", 13, anchor="lm")
        write_text(draw, (width - 6, foot), RESEARCH_USE, 13, anchor="rm", fill=MUTED)
        score = self._results.score.image_scores[index]
        named = _named(items)
        peaks = "".join(f", peak of {_named([i])} {i.finding.peak_score:.4g}" for i in items)
        caption = f"Slice {slice_number(index)}: score of the slice {score:.4g}{peaks}"
        side = f", {', '.join(_place(item) for item in items)}" if items else ""
        alt = (
            f"Slice {slice_number(index)} of {len(self._scores)} three times: the scan, the scores "
            f"in colour over it, and the mask's outline{f' of {named}' if named else ''}{side}."
        )
        return Picture.of(page, alt, caption)

    def _number(self, draw: ImageDraw.ImageDraw, index: int) -> None:
        """Write the findings' numbers at the upper right of their outlines."""
        left, size = 2 * (self._size.width + _GAP), self._size
        plane = self._ranks[index]
        for rank in np.unique(plane[plane > 0]):
            rows, columns = np.nonzero(plane == rank)
            x = min((columns.max() + 1) * size.width / plane.shape[1] + 3, size.width - 16)
            y = max(rows.min() * size.height / plane.shape[0] - 3, 14)
            write_text(draw, (left + x, y), str(rank), 14, anchor="ls", fill=_CYAN)

    @cached_property
    def _ranks(self) -> npt.NDArray[np.uint8]:
        """Upright slices, as `Geometry.to_slices` gives them, of the findings' numbers."""
        listed, geometry = self._results.listed, self._results.volume.geometry
        by_label = np.zeros(int(listed.labels.max(initial=0)) + 1, np.uint8)
        for item in listed.items:
            if item.status != "reject" and item.finding.rank <= _NUMBERED:
                by_label[item.finding.label] = item.finding.rank
        ranks = np.zeros(geometry.shape, np.uint8)
        ranks.flat[listed.voxels] = by_label[listed.labels]
        return np.asarray(geometry.to_slices(ranks))

    def thumbnail(self, index: int) -> Picture:
        """Draw a thumbnail of a slice with its scores."""
        geometry = self._results.volume.geometry
        size = panel_size(geometry, self._scores.shape[1:], _THUMB)
        base = grey_of(self._results.volume, index, self._window, size)
        heat = resized(self._scores[index], size, Image.Resampling.BILINEAR)
        image = to_image(with_heat(base, heat, *self.limits))
        alt = f"The highest-scoring slice, {slice_number(index)}, with its scores in colour."
        return Picture.of(image, alt)

    def legend(self) -> Picture:
        """Draw the bar of colours, with the threshold on it."""
        (low, high), cut = self.limits, self._results.threshold
        size = PanelSize(14, 3 * self._size.width + 2 * _GAP)
        ramp = np.linspace(0, 1, size.width, dtype=np.float32)[None].repeat(size.height, 0)
        page = Image.new("RGB", (size.width, size.height + 22), BACKGROUND)
        page.paste(to_image(inferno(ramp)), (0, 0))
        draw = ImageDraw.Draw(page)
        y = size.height + 11
        write_text(draw, (6, y), f"{low:.3g}", 13, anchor="lm")
        write_text(draw, (size.width - 6, y), f"{high:.3g}", 13, anchor="rm")
        if low < cut < high:
            x = (cut - low) / (high - low) * size.width
            draw.line((x, 0, x, size.height + 2), fill=_CYAN, width=2)
            beside = min(max(x, 130), size.width - 130)
            write_text(draw, (beside, y), f"threshold {cut:.3g}", 13, anchor="mm", fill=_CYAN)
        unit = self._results.unit
        caption = (
            f"Colours of the scores from {low:.3g} to {high:.3g}, threshold {cut:.3g} ({unit})."
        )
        return Picture.of(page, caption, f"Colours over the scan: scores in {unit}.")


def _named(items: Sequence[ReviewedFinding]) -> str:
    if not items:
        return ""
    ranks = ", ".join(str(item.finding.rank) for item in items)
    return f"region {ranks}" if len(items) == 1 else f"regions {ranks}"


def _place(item: ReviewedFinding) -> str:
    side = item.finding.side
    if side == "unknown":
        return "side unknown"
    return "at the midline" if side == "midline" else f"on the patient's {side}"
