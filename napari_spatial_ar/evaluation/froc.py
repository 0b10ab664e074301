"""Lesions found against false positives, as radiologists count them.

At each threshold the flagged regions of an image are the 8-connected parts of its heatmap at or
above it. A region hits a lesion (an 8-connected part of the label) if its centre is in the lesion,
or if their intersection over union is above 0.1. A lesion is found if a region hits it; a region
that hits none is a false positive. False positives are counted per scan: all images of a patient.

The free-response curve (FROC) is summarised, as in LUNA16 (Setio et al., Medical Image Analysis 42,
2017), by the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_spatial_ar.imaging.files import ScratchFile

__all__ = [
    "FALSE_POSITIVES",
    "Froc",
    "Heatmaps",
    "SizeClass",
    "free_response",
    "resample_froc",
]

Floats = npt.NDArray[np.float64]

#: False positives per scan at which the sensitivity is reported.
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: Least intersection over union with a lesion, for a region whose centre is beside it.
HIT_IOU = 0.1

_ALL_AROUND = np.ones((3, 3), bool)
# Thresholds: this many among the highest local maxima of images, and below them among all pixels.
_PEAKS, _BELOW = 96, 24
_PEAKS_OF_IMAGE = 16
_LARGEST_SHARE = 0.3
# Every n-th pixel of a heatmap is held in memory to choose the thresholds below the peaks.
_SAMPLE = 61


class Heatmaps:
    """Heatmaps with their labels, added image by image and held in a temporary file.

    Parameters
    ----------
    folder : Path, optional
        Folder of the temporary file (4 bytes for each pixel); by default the system's.

    Raises
    ------
    StorageError
        If the disk has no room for them.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = ScratchFile(folder)
        self._images: list[tuple[tuple[int, ...], npt.NDArray[np.uint8], str]] = []
        self._peaks: list[npt.NDArray[np.float32]] = []
        self._samples: list[npt.NDArray[np.float32]] = []

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def add(self, heat: npt.NDArray[np.float32], label: npt.NDArray[np.bool_], scan: str) -> None:
        """Add an image.

        Parameters
        ----------
        heat : (rows, columns) float32
            Larger is more abnormal.
        label : (rows, columns) bool
            True where abnormal.
        scan : str
            Scan of the image: its patient.
        """
        heat = np.ascontiguousarray(heat, np.float32)
        self._file.append(heat.tobytes())
        self._images.append((heat.shape, np.packbits(label), scan))
        peaks = heat[(heat == ndimage.maximum_filter(heat, 3)) & (heat > heat.min())]
        self._peaks.append(np.sort(np.unique(peaks))[-_PEAKS_OF_IMAGE:])
        self._samples.append(heat.ravel()[_SAMPLE // 2 :: _SAMPLE].copy())

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], str]]:
        """Read them again: heatmap, label and scan of each image."""
        first = 0
        for shape, packed, scan in self._images:
            count = int(np.prod(shape))
            heat = np.frombuffer(self._file.read(first, 4 * count), np.float32).reshape(shape)
            first += 4 * count
            yield heat, np.unpackbits(packed, count=count).astype(bool).reshape(shape), scan

    def thresholds(self) -> npt.NDArray[np.float32]:
        """Falling thresholds: from the highest peak down to a share of 0.3 of all pixels."""
        peaks, pixels = np.concatenate(self._peaks), np.concatenate(self._samples)
        if len(peaks):
            peaks = np.quantile(peaks, np.linspace(1, 0, _PEAKS), method="nearest")
        shares = np.geomspace(1e-4, _LARGEST_SHARE, _BELOW)
        below = np.quantile(pixels, 1 - shares, method="nearest")
        both = np.concatenate([peaks, below[below < peaks.min(initial=np.inf)]])
        return np.unique(both.astype(np.float32))[::-1]


@dataclass(frozen=True)
class SizeClass:
    """Lesions of about one size.

    Parameters
    ----------
    smallest, largest : int
        Area of the smallest and of the largest, in pixels.
    lesions : int
        How many.
    sensitivity : float
        Mean over `FALSE_POSITIVES` of the share found.
    """

    smallest: int
    largest: int
    lesions: int
    sensitivity: float


@dataclass(frozen=True)
class Froc:
    """Lesions found and false positives of each scan, at falling thresholds.

    Parameters
    ----------
    scans : tuple of str
        In the order they were first added.
    threshold : (n,) float32
        A pixel is flagged if its score is at least this.
    false : (scans, n) float64
        Regions that hit no lesion.
    found : (lesions, n) bool
        Whether a region hits the lesion.
    area : (lesions,) int64
        Pixels of the lesion.
    owner : (lesions,) int64
        Index of its scan.
    """

    scans: tuple[str, ...]
    threshold: npt.NDArray[np.float32] = field(repr=False)
    false: Floats = field(repr=False)
    found: npt.NDArray[np.bool_] = field(repr=False)
    area: npt.NDArray[np.int64] = field(repr=False)
    owner: npt.NDArray[np.int64] = field(repr=False)

    @property
    def lesions(self) -> int:
        """Number of lesions."""
        return len(self.area)

    def curve(self) -> tuple[Floats, Floats]:
        """Return false positives per scan, rising, and the share of lesions found by then, (n,)."""
        order = np.argsort(self.false.mean(axis=0), kind="stable")
        found = np.maximum.accumulate(self.found.mean(axis=0)[order])
        return self.false.mean(axis=0)[order], found

    def sensitivities(self, chosen: npt.NDArray[np.bool_] | None = None) -> list[float] | None:
        """Share of the lesions found at each of `FALSE_POSITIVES` per scan.

        Parameters
        ----------
        chosen : (lesions,) bool, optional
            Lesions that count; all by default.

        Returns
        -------
        list of float or None
            None without lesions.
        """
        chosen = np.ones(self.lesions, bool) if chosen is None else chosen
        if not chosen.any():
            return None
        false = self.false.mean(axis=0)
        found = self.found[chosen].mean(axis=0)
        return [float(value) for value in _at_rates(false[None], found[None])[0]]

    def by_size(self, parts: int = 3) -> tuple[SizeClass, ...]:
        """Sensitivity of the smallest lesions up to the largest, in equal parts."""
        found = []
        for members in np.array_split(np.argsort(self.area, kind="stable"), parts):
            if not len(members):
                continue
            chosen = np.zeros(self.lesions, bool)
            chosen[members] = True
            values = self.sensitivities(chosen)
            assert values is not None
            area = self.area[members]
            found.append(
                SizeClass(int(area.min()), int(area.max()), len(area), float(np.mean(values)))
            )
        return tuple(found)


def free_response(heatmaps: Heatmaps) -> Froc:
    """Count lesions and false positives at `Heatmaps.thresholds`."""
    thresholds = heatmaps.thresholds()
    scans: dict[str, int] = {}
    false: list[Floats] = []
    found: list[npt.NDArray[np.bool_]] = []
    areas: list[int] = []
    owners: list[int] = []
    for heat, label, scan in heatmaps:
        row = scans.setdefault(scan, len(scans))
        if row == len(false):
            false.append(np.zeros(len(thresholds)))
        lesions, count = ndimage.label(label, _ALL_AROUND)
        area = np.bincount(lesions.ravel(), minlength=count + 1)[1:]
        hits = np.zeros((count, len(thresholds)), bool)
        flagged = heat.size - np.searchsorted(np.sort(heat, axis=None), thresholds)
        before, hit, missed = 0, hits[:, 0], 0
        for column, pixels in enumerate(flagged.tolist()):
            if pixels > before:
                hit, missed = _count(heat >= thresholds[column], lesions, area)
            before = pixels
            hits[:, column] = hit
            false[row][column] += missed
        found.append(hits)
        areas += area.tolist()
        owners += [row] * count
    return Froc(
        tuple(scans),
        thresholds,
        np.stack(false) if false else np.zeros((0, len(thresholds))),
        np.concatenate(found) if found else np.zeros((0, len(thresholds)), bool),
        np.array(areas, np.int64),
        np.array(owners, np.int64),
    )


def _count(
    mask: npt.NDArray[np.bool_], lesions: npt.NDArray[Any], area: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], int]:
    """Which lesions the regions of a mask hit, and how many regions hit none."""
    regions, count = ndimage.label(mask, _ALL_AROUND)
    hit = np.zeros(len(area), bool)
    if not count:
        return hit, 0
    if not len(area):
        return hit, int(count)
    numbers = np.arange(1, count + 1)
    size = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    centres = np.rint(ndimage.center_of_mass(mask, regions, numbers)).astype(int)
    pairs = np.zeros((count + 1, len(area) + 1), np.int64)
    inside = mask & (lesions > 0)
    np.add.at(pairs, (regions[inside], lesions[inside]), 1)
    shared = pairs[1:, 1:]
    hits = shared / (size[:, None] + area - shared) > HIT_IOU
    at_centre = lesions[centres[:, 0], centres[:, 1]]
    centred = np.flatnonzero(at_centre)
    hits[centred, at_centre[centred] - 1] = True
    return hits.any(axis=0), int(np.count_nonzero(~hits.any(axis=1)))


def _at_rates(false: Floats, found: Floats) -> Floats:
    """Highest sensitivity at no more false positives than each rate, (draws, n) to (draws, 7)."""
    rates = np.array(FALSE_POSITIVES)
    allowed = false[:, None, :] <= rates[None, :, None]
    best: Floats = np.where(allowed, found[:, None, :], 0.0).max(axis=2)
    return best


def resample_froc(froc: Froc, weights: Floats) -> Floats:
    """Mean sensitivity over `FALSE_POSITIVES` in each draw of scans.

    Parameters
    ----------
    froc : Froc
        Counts of each scan.
    weights : (draws, scans) float64
        From `draw_weights`.

    Returns
    -------
    (draws,) float64
        NaN where a draw has no lesion.
    """
    per_scan = np.zeros((len(froc.scans), len(froc.threshold)))
    np.add.at(per_scan, froc.owner, froc.found.astype(np.float64))
    lesions = np.bincount(froc.owner, minlength=len(froc.scans)).astype(np.float64)
    total = weights @ lesions
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (weights @ per_scan) / total[:, None]
    false = (weights @ froc.false) / weights.sum(axis=1)[:, None]
    means = _at_rates(false, np.nan_to_num(found)).mean(axis=1)
    return np.where(total > 0, means, np.nan)
