"""Whether averaging patch scores over neighbouring slices finds lesions better.

python benchmarks/slice_smoothing.py DATASET VOLUMES [--models brain-flair ...]
    [--sigmas 0 0.5 ...] [--engine openvino] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout, its images named PATIENT_SLICE.png: the images of a patient are put
together as a stack, whose spacing is unknown, so that standard deviations are in slices. VOLUMES
has a folder for each patient, with flair.nii.gz and one other file, the mask of lesions; there the
same number of slices of --step mm is used. The standard deviation with the highest pixel AUPR on
valid is chosen for each model, and test and the volumes are scored with it and without. Models
whose figures are in the --json file are not scored again, unless they or the options changed.

At the threshold for 1 % of the normal tissue of valid, scored alike, regions (26 neighbours) are
counted: a lesion is found if a region hits it (its centre is in the lesion, or their intersection
over union is above 0.1), and regions that hit none are false.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import bmad_items
from napari_spatial_ar.evaluation.candidates import label_of
from napari_spatial_ar.evaluation.metrics import average_precision, roc_auc
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative.calibration.calibration import calibrate
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import SliceScore
from napari_spatial_ar.normative.slice_smoothing import slice_weights

SHARE, HIT_IOU = 0.01, 0.1
TOUCHING = np.ones((3, 3, 3), bool)


@dataclass
class Stack:
    """Slices of a patient by index, each scored by itself."""

    name: str
    geometry: Geometry
    scores: dict[int, SliceScore]
    labels: dict[int, np.ndarray]
    body: dict[int, np.ndarray]

    def heat(
        self, model: NormativeModel, sigma: float
    ) -> tuple[dict[int, np.ndarray], list[float]]:
        """Return heatmaps and image scores, averaged over slices."""
        weights = slice_weights(self.geometry, sigma)
        near = {i: weights[i] if weights else {i: 1.0} for i in self.scores}
        ones = {i: model.smoothed(i, self.scores, near[i]) for i in self.scores}
        return {i: one.nll for i, one in ones.items()}, [one.image_score for one in ones.values()]

    def whole(self, slices: dict[int, np.ndarray], fill: float = 0.0) -> np.ndarray:
        """(N, rows, columns), with ``fill`` where there is no slice."""
        shape = next(iter(slices.values())).shape
        volume = np.full((self.geometry.slice_count, *shape), fill, np.float32)
        for index, plane in slices.items():
            volume[index] = plane
        return volume


def stacks_of(model: NormativeModel, root: Path, split: str) -> Iterator[Stack]:
    """Patients of a split."""
    patients: dict[str, dict[int, Any]] = {}
    for item in bmad_items(root, split):
        name, _, number = item.image.stem.rpartition("_")
        patients.setdefault(name, {})[int(number)] = item
    for name, items in patients.items():
        shape = (max(items) + 1, 8, 8)
        stack = Stack(name, Geometry(shape, np.diag([-1.0, -1.0, 1.0, 1.0])), {}, {}, {})
        for index, item in sorted(items.items()):
            image, kind = read_raster(item.image)
            ends = resolve(model.header.preprocessing.window, image, kind)
            stack.scores[index] = model.score_slice(image, window=ends)
            stack.labels[index] = np.asarray(label_of(item, image.shape)) > 0
            stack.body[index] = tissue_mask(apply_window(image, *ends))
        yield stack


def volume_of(model: NormativeModel, folder: Path) -> Stack:
    """Score a scan, and read its mask."""
    volume = model.cut(nsar.read(folder / "flair.nii.gz")[0])
    (mask,) = [path for path in folder.glob("*.nii.gz") if path.name != "flair.nii.gz"]
    drawn = model.cut(nsar.read(mask)[0])
    scores = dict(model.iter_volume(volume))
    filled = {i: score for i, score in scores.items() if not score.without_body}
    labels = {i: drawn.slice(i) > 0 for i in filled}
    return Stack(folder.name, volume.geometry, filled, labels, {})


def regions(heat: np.ndarray, label: np.ndarray, cut: float) -> tuple[int, int, int]:
    """Lesions, lesions found and false regions."""
    lesions, many = ndimage.label(label, TOUCHING)
    parts, count = ndimage.label(heat > cut, TOUCHING)
    found, false = set[int](), 0
    boxes = ndimage.find_objects(parts)
    for number in range(1, count + 1):
        inside = np.argwhere(parts[boxes[number - 1]] == number)
        inside += [part.start for part in boxes[number - 1]]
        centre = tuple(np.rint(inside.mean(axis=0)).astype(int))
        met = np.bincount(lesions[tuple(inside.T)], minlength=many + 1)
        hits = {
            int(lesion)
            for lesion in np.flatnonzero(met[1:]) + 1
            if met[lesion] / ((lesions == lesion).sum() + len(inside) - met[lesion]) > HIT_IOU
        }
        hits |= {int(lesions[centre])} - {0}
        found |= hits
        false += not hits
    return many, len(found), false


def figures(
    model: NormativeModel, stacks: list[Stack], sigma: float, cut: float
) -> dict[str, float | int | None]:
    """Figures of all stacks together."""
    heat, label, image, abnormal, counts, normal = [], [], [], [], [], []
    for stack in stacks:
        maps, scores = stack.heat(model, sigma)
        heat += [plane.ravel() for plane in maps.values()]
        label += [stack.labels[i].ravel() for i in maps]
        image += scores
        abnormal += [bool(stack.labels[i].any()) for i in maps]
        drawn = stack.whole(stack.labels) > 0
        counts.append(regions(stack.whole(maps, -np.inf), drawn, cut))
        normal.append(not drawn.any())
    lesions, found, false = np.array(counts).T
    none = np.array(normal)
    auroc = roc_auc(np.array(abnormal), np.array(image)) if len(set(abnormal)) == 2 else None
    aupr = average_precision(np.concatenate(label), np.concatenate(heat))
    return {
        "pixel_aupr": None if aupr is None else round(aupr, 4),
        "image_auroc": None if auroc is None else round(auroc, 4),
        "lesions": int(lesions.sum()),
        "lesions_found": int(found.sum()),
        "false_regions_per_scan": round(float(false.mean()), 2),
        "regions_per_normal_scan": round(float(false[none].mean()), 2) if none.any() else None,
    }


def threshold(model: NormativeModel, stacks: list[Stack], sigma: float) -> float:
    """Threshold for a share of the tissue of normal patients."""
    tissue, images, groups = [], [], []
    for stack in stacks:
        if any(label.any() for label in stack.labels.values()):
            continue
        maps, scores = stack.heat(model, sigma)
        tissue += [plane[stack.body[i]] for i, plane in maps.items()]
        images += scores
        groups += [stack.name] * len(scores)
    return calibrate(tissue, images, groups).threshold_for_fpr(SHARE)


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("volumes", type=Path)
    parser.add_argument("--models", nargs="+", default=["brain-flair", "brain-flair-focus"])
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0, 0.5, 0.75, 1, 1.5, 2, 3])
    parser.add_argument("--step", type=float, default=3.0, help="mm of a slice in volumes")
    parser.add_argument("--engine", default="float32")
    parser.add_argument("--machine", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folders = sorted(path.parent for path in options.volumes.glob("*/flair.nii.gz"))
    if not folders:
        parser.error(f"{options.volumes} has no folder with flair.nii.gz")
    logging.basicConfig(level=logging.INFO)
    result: dict[str, Any] = {"machine": options.machine, "share": SHARE, "models": {}}
    if options.json and options.json.exists():
        result["models"] = json.loads(options.json.read_text())["models"]
    for name in options.models:
        model = nsar.load_model(name)
        asked = {"sha256": model.sha256, "step_mm": options.step, "engine": options.engine}
        known = result["models"].get(name, {})
        if known.get("asked") == asked and set(known["valid"]) == {
            f"{s:g}" for s in options.sigmas
        }:
            continue
        model.use_engine(options.engine)
        valid = list(stacks_of(model, options.dataset, "valid"))
        cuts = {sigma: threshold(model, valid, sigma) for sigma in options.sigmas}
        tried = {sigma: figures(model, valid, sigma, cuts[sigma]) for sigma in options.sigmas}
        best = max(options.sigmas, key=lambda sigma: tried[sigma]["pixel_aupr"])
        row: dict[str, Any] = {
            "asked": asked,
            "valid": {f"{s:g}": tried[s] for s in tried},
            "chosen": best,
        }
        test = list(stacks_of(model, options.dataset, "test"))
        row["test"] = {f"{s:g}": figures(model, test, s, cuts[s]) for s in dict.fromkeys((0, best))}
        row["volumes"] = {}
        for folder in folders:
            stack = volume_of(model, folder)
            row["volumes"][folder.name] = {
                f"{s:g}": figures(model, [stack], s * options.step, cuts[s])
                for s in dict.fromkeys((0, best))
            }
        result["models"][name] = row
        logging.info("%s", json.dumps(row))
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
