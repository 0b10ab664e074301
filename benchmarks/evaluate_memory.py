"""Time and peak memory of the pixel figures of a large data set, with synthetic heatmaps.

python benchmarks/evaluate_memory.py [--images 8000] [--size 240] [--json FILE] [--machine NAME]

Heatmaps are bilinear enlargements of 28 x 28 noise, as a model's are; every third image has a
lesion that scores higher. Everything that `evaluate` does with them is done, intervals over
patients included; only the model is left out. The first 200 images are also given to scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn import functional

from napari_spatial_ar.evaluation.bootstrap import (
    PixelSample,
    draw_weights,
    interval,
    resample_pixels,
)
from napari_spatial_ar.evaluation.costs import peak_rss_mb
from napari_spatial_ar.evaluation.metrics import PixelScores, pixel_figures

_SLICES_A_PATIENT = 20


def images(count: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Give heatmap, label and patient of each image."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    for number in range(count):
        label = np.zeros((size, size), bool)
        if number % 3 == 0:
            row, column = rng.uniform(0.3 * size, 0.7 * size, 2)
            label = np.hypot(rows - row, columns - column) < rng.uniform(0.03, 0.15) * size
        grid = torch.from_numpy(rng.gamma(40, 0.025, (1, 1, 28, 28)).astype(np.float32))
        heatmap = functional.interpolate(grid, size=(size, size), mode="bilinear")[0, 0].numpy()
        yield heatmap + np.float32(0.2) * label, label, f"{number // _SLICES_A_PATIENT}"


def figures_of(count: int, size: int) -> dict[str, object]:
    """Do what `evaluate` does with the heatmaps; seconds leave out making them."""
    filling = 0.0
    with PixelScores() as pixels:
        for heatmap, label, patient in images(count, size):
            start = time.perf_counter()
            pixels.add(heatmap, label, patient)
            filling += time.perf_counter() - start
        start = time.perf_counter()
        figures = pixel_figures(pixels)
        assert figures is not None
        at_figures = time.perf_counter()
        sample = PixelSample.of(pixels, figures.curve.threshold)
        draws = resample_pixels(sample, draw_weights(len(sample.patients), 1000, 0))
        at_intervals = time.perf_counter()
        totals = asdict(pixels.totals)
    values = {k: v for k, v in asdict(figures).items() if k != "curve"}
    return {
        "pixels": totals,
        "patients": len(sample.patients),
        "seconds_adding": round(filling, 1),
        "seconds_figures": round(at_figures - start, 1),
        "seconds_intervals": round(at_intervals - at_figures, 1),
        "figures": values,
        "intervals": {name: interval(values) for name, values in draws.items()},
    }


def difference_from_scikit_learn(size: int) -> dict[str, float]:
    """Compare the figures of 200 images with those of scikit-learn."""
    parts = list(images(200, size))
    with PixelScores() as pixels:
        for part in parts:
            pixels.add(*part)
        figures = pixel_figures(pixels)
    assert figures is not None
    scores, labels = (np.concatenate([part[i].ravel() for part in parts]) for i in (0, 1))
    return {
        "auroc": abs(figures.auroc - float(roc_auc_score(labels, scores))),
        "aupr": abs(figures.aupr - float(average_precision_score(labels, scores))),
    }


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--machine", default=platform.processor() or platform.machine())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    before = peak_rss_mb()
    measured = figures_of(arguments.images, arguments.size)
    result = {
        "machine": arguments.machine,
        "load_average": round(os.getloadavg()[0], 1),
        "images": arguments.images,
        "size": arguments.size,
        "scores_as_float32_mb": round(arguments.images * arguments.size**2 * 4 / 2**20),
        "peak_rss_mb_before": before,
        "peak_rss_mb": peak_rss_mb(),
        **measured,
        "difference_from_scikit_learn": difference_from_scikit_learn(arguments.size),
    }
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
