"""Meaning of the values of a mask's layer: findings by number, with colours and names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from napari.utils.colormaps import DirectLabelColormap

from napari_spatial_ar.imaging.segments import colour_of
from napari_spatial_ar.review.findings import Finding, ReviewedFinding
from napari_spatial_ar.review.segments import finding_name

__all__ = [
    "IN_MASK",
    "NUMBERED",
    "finding_colour",
    "label_colormap",
    "label_features",
    "label_values",
    "shown_colour",
    "within",
]

#: Findings numbered up to this have a value of their own, which is the number.
NUMBERED = 250
#: Value of mask voxels without a finding of their own: not measured yet, or numbered higher.
IN_MASK = 255
# The same by (chosen, rejected).
_MORE = {(False, False): IN_MASK, (False, True): 254, (True, False): 253, (True, True): 252}
# Red, green, blue and opacity for these.
_COLOURS = {
    (False, False): (0.0, 0.9, 1.0, 1.0),
    (False, True): (0.6, 0.6, 0.6, 0.6),
    (True, False): (1.0, 0.9, 0.1, 1.0),
    (True, True): (0.8, 0.75, 0.4, 0.8),
}

Bytes = npt.NDArray[np.uint8]


def finding_colour(item: ReviewedFinding) -> tuple[int, int, int] | None:
    """Return a finding's own red, green, blue; None if rejected or numbered too high."""
    rank = item.finding.rank
    return None if item.status == "reject" or rank > NUMBERED else colour_of(rank)


def _mark(item: ReviewedFinding, chosen: Finding | None) -> tuple[bool, bool]:
    is_chosen = chosen is not None and item.finding.label == chosen.label
    return is_chosen, item.status == "reject"


def shown_colour(item: ReviewedFinding, chosen: Finding | None) -> tuple[float, ...]:
    """Red, green, blue and opacity (0..1) in which a finding is outlined."""
    mark, own = _mark(item, chosen), finding_colour(item)
    return _COLOURS[mark] if any(mark) or own is None else (*(part / 255 for part in own), 1.0)


def label_values(items: Sequence[ReviewedFinding], chosen: Finding | None) -> Bytes:
    """Value on the layer for each `Finding.label`, from 0."""
    values = np.zeros(len(items) + 1, np.uint8)
    for item in items:
        rank = item.finding.rank
        values[item.finding.label] = rank if rank <= NUMBERED else _MORE[_mark(item, chosen)]
    return values


def label_colormap(
    items: Sequence[ReviewedFinding] = (), chosen: Finding | None = None
) -> DirectLabelColormap:
    """Colours of the values."""
    colours: dict[int | None, tuple[float, ...]] = {
        value: _COLOURS[mark] for mark, value in _MORE.items()
    }
    for item in items:
        if item.finding.rank <= NUMBERED:
            colours[item.finding.rank] = shown_colour(item, chosen)
    colours |= {0: (0.0,) * 4, None: _COLOURS[False, False]}
    return DirectLabelColormap(color_dict={key: np.array(c) for key, c in colours.items()})


def label_features(items: Sequence[ReviewedFinding]) -> dict[str, list[object]]:
    """Columns of the layer's ``features``: a value, and its finding's name, status and colour."""
    own = [item for item in items if item.finding.rank <= NUMBERED]
    colours = ["#{:02x}{:02x}{:02x}".format(*colour_of(item.finding.rank)) for item in own]
    return {
        "index": [item.finding.rank for item in own],
        "name": [finding_name(item) for item in own],
        "status": [item.status for item in own],
        "colour": list(colours),
    }


def within(old: Bytes, inside: npt.NDArray[np.bool_]) -> Bytes:
    """Values of a mask whose voxels keep their previous finding."""
    return np.where(inside, np.where(old > 0, old, IN_MASK), 0).astype(np.uint8)
