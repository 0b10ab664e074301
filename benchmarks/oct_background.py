"""A copy of a data set of OCT B-scans without the grey level of their background.

python benchmarks/oct_background.py DATASET OUT [--json FILE]

DATASET is in the BMAD layout. The vitreous and what lies below the choroid are most of a B-scan, so
their grey level is the mode of its histogram (mean over 5 levels). It is subtracted from each
image by itself, what is below it becomes black, and OUT has the images as PNG, in the same folders
and with the same names. Contrast within the tissue stays as it is, and so does the speckle of the
background above its mode.

Prints how well grey levels alone tell normal from abnormal test images, before and after: with an
image AUROC far from 0.5 before, a method's figure on DATASET may be of the background; the same
method on OUT shows how much of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from napari_spatial_ar.datasets.folders import bmad_items
from napari_spatial_ar.evaluation.metrics import roc_auc
from napari_spatial_ar.imaging.raster import read_raster

# Statistics of a whole image, and of its highest tenth, which is vitreous in most B-scans.
_STATISTICS = {
    "mode": lambda image: background(image),
    "mean": lambda image: image.mean(),
    "median": np.median,
    "mean of the top tenth": lambda image: image[: max(1, len(image) // 10)].mean(),
}


def background(image: np.ndarray) -> float:
    """Grey level of the background of a B-scan (rows, columns), 0 to 255."""
    counts = np.bincount(np.clip(image, 0, 255).astype(int).ravel(), minlength=256)
    return float(np.convolve(counts, np.ones(5), "same").argmax())


def without_background(image: np.ndarray) -> np.ndarray:
    """(rows, columns) uint8, the background's level subtracted."""
    return np.clip(np.rint(image - background(image)), 0, 255).astype(np.uint8)


def grey_auroc(dataset: Path) -> dict[str, float]:
    """Image AUROC of each statistic on the test split; below 0.5 if normal images are brighter."""
    items = bmad_items(dataset, "test")
    images = [np.asarray(read_raster(item.image)[0], float) for item in items]
    abnormal = np.array([item.abnormal for item in items])
    return {
        name: round(roc_auc(abnormal, np.array([of(image) for image in images])), 3)
        for name, of in _STATISTICS.items()
    }


def main() -> None:
    """Parse arguments, copy, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    part = said.out.with_name(f"{said.out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    if not said.out.exists():  # complete, since it is renamed last
        for path in sorted(said.dataset.rglob("*")):
            if path.suffix.lower() not in {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}:
                continue
            target = part / path.relative_to(said.dataset).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.name == "label":
                shutil.copy(path, target)
            else:
                Image.fromarray(without_background(read_raster(path)[0])).save(target)
        part.rename(said.out)
    found = {"before": grey_auroc(said.dataset), "after": grey_auroc(said.out)}
    text = json.dumps({"image_auroc_of_grey_levels": found}, indent=2)
    print(text)  # noqa: T201
    if said.json:
        said.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
