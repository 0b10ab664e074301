"""A model's best hits, worst misses and largest false regions on a labelled test split, drawn.

python benchmarks/pictures.py DATASET MODEL OUT.png [--fpr 0.01] [--count 3] [--part PART]

DATASET is in the BMAD layout. A column is a slice: above as it is, below with the heatmap, the
contour of the mask at the threshold for --fpr of normal tissue (white), and a green cross in the
centre of each labelled lesion: labels may be under another licence than images. Hits are the
abnormal slices with the highest Dice of mask and label, misses the largest lesions that the mask
does not touch, false regions the normal slices with the largest mask.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from scipy import ndimage

from napari_spatial_ar.datasets.folders import bmad_items
from napari_spatial_ar.evaluation.candidates import label_of
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.normative.model import load_model

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Shown:
    """A scored slice with its label."""

    image: Array
    scores: Array
    label: Array
    mask: Array

    @property
    def dice(self) -> float:
        """Overlap of mask and label."""
        return float(2 * (self.mask & self.label).sum() / (self.mask.sum() + self.label.sum()))


def main() -> None:
    """Parse arguments, score, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--fpr", type=float, default=0.01)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--part")
    said = parser.parse_args()
    matplotlib.use("agg")
    model = load_model(said.model, part=said.part)
    cut = model.threshold_for_fpr(said.fpr)
    hits: list[Shown] = []
    misses: list[Shown] = []
    false: list[Shown] = []
    for item in bmad_items(said.dataset, "test"):
        image, _ = read_raster(item.image)
        scores = model.score_slice(image).scores
        drawn = label_of(item, image.shape)
        label = np.zeros(image.shape, bool) if drawn is None else np.asarray(drawn) > 0
        shown = Shown(image, scores, label, scores > cut)
        if not label.any():
            false.append(shown)
        else:
            (hits if (shown.mask & label).any() else misses).append(shown)
    hits.sort(key=lambda one: -one.dice)
    misses.sort(key=lambda one: -int(one.label.sum()))
    false.sort(key=lambda one: -int(one.mask.sum()))
    rows = [("hit", hits), ("missed", misses), ("false", false)]
    columns = [(name, one) for name, found in rows for one in found[: said.count]]
    high = max(float(one.scores.max()) for _, one in columns)
    figure, axes = pyplot.subplots(2, len(columns), figsize=(1.9 * len(columns), 4.1))
    for (name, one), (above, below) in zip(columns, axes.T, strict=True):
        for axis in (above, below):
            axis.imshow(one.image, cmap="gray")
            axis.axis("off")
        above.set_title(name, fontsize=9)
        heat = np.ma.masked_less(one.scores, cut - 0.25 * (high - cut))
        below.imshow(heat, cmap="inferno", alpha=0.6, vmin=0.6 * cut, vmax=high)
        if one.mask.any():
            below.contour(one.mask, [0.5], colors="white", linewidths=0.8)
        lesions, count = ndimage.label(one.label)
        for row, column in ndimage.center_of_mass(one.label, lesions, range(1, count + 1)):
            below.plot(column, row, "+", color="lime")
    figure.tight_layout(pad=0.3)
    figure.savefig(said.out, dpi=110)
    print(len(hits), "hit,", len(misses), "missed")  # noqa: T201


if __name__ == "__main__":
    main()
