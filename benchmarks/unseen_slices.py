"""What leaving out slices that a model has not seen costs and saves.

python benchmarks/unseen_slices.py DATASET VOLUMES [--model brain-flair]
    [--engine openvino] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout. What slices look like is learned from train, and valid, normal and
abnormal, is compared with that; then from train and valid together, for test. VOLUMES has a folder
for each patient, with flair.nii.gz and one other file, the mask of lesions. At the model's
threshold for 1 % of normal tissue, regions (26 neighbours) that touch no lesion are false.

An image of DATASET is on its own here. In a scan it is left out only if it lies at an end of the
stack, or is twice as far (`ScanScores.unseen`), so that less is left out than is counted.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import SliceRef, bmad_items, find_slices
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.normative.calibration.domain_shift import NormalAppearance, SeenSlices
from napari_spatial_ar.normative.calibration.seen_slices import learn_seen_slices
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.steps import finish

SHARE = 0.01
TOUCHING = np.ones((3, 3, 3), bool)
log = logging.getLogger(__name__)


def with_seen(
    model: NormativeModel, looks: NormalAppearance, store: FeatureStore, refs: Sequence[SliceRef]
) -> None:
    """Let a model know these slices."""
    seen: SeenSlices | None = finish(learn_seen_slices(store, refs))
    model.header = replace(model.header, looks=replace(looks, seen=seen))


def images(model: NormativeModel, dataset: Path, split: str) -> dict[str, Any]:
    """Count the images of a split that the model does not know."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for item in bmad_items(dataset, split):
        image, _ = read_raster(item.image)
        found[item.abnormal].append(model.score_slice(image).unfamiliarity)
    return {
        name: {
            "images": len(found[abnormal]),
            "unseen_at_an_end": sum(far > 1 for far in found[abnormal]),
            "unseen_anywhere": sum(far > 2 for far in found[abnormal]),
            "furthest": round(max(found[abnormal], default=0.0), 3),
        }
        for name, abnormal in (("normal", False), ("abnormal", True))
    }


def flagged(score: ScanScores, threshold: float, lesion: np.ndarray) -> dict[str, int]:
    """Count regions and voxels above a threshold."""
    mask = score.nll > threshold
    score.geometry.to_slices(mask)[~score.scored] = False
    labels, count = ndimage.label(mask, TOUCHING)
    return {
        "regions": int(count),
        "false_regions": int(count - len(np.unique(labels[lesion & mask]))),
        "voxels_outside_lesions": int(np.count_nonzero(mask & ~lesion)),
        "lesion_voxels_found": int(np.count_nonzero(mask & lesion)),
        "lesion_voxels": int(np.count_nonzero(lesion)),
    }


def volume(model: NormativeModel, folder: Path) -> dict[str, Any]:
    """Score a volume and count with and without the slices that the model does not know."""
    (other,) = (p for p in folder.glob("*.nii.gz") if p.name != "flair.nii.gz")
    scan, lesion = (nsar.read(p)[0] for p in (folder / "flair.nii.gz", other))
    score = model.score_volume(scan)
    inside = np.asarray(lesion.data) > 0
    lesion_slices = score.geometry.to_slices(inside).any(axis=(1, 2))
    threshold = model.threshold_for_fpr(SHARE)
    return {
        "slices_scored": int((score.scored | score.unseen).sum()),
        "unseen": [int(i) + 1 for i in np.flatnonzero(score.unseen)],
        "slices_with_lesion": int(lesion_slices.sum()),
        "of_them_unseen": int((lesion_slices & score.unseen).sum()),
        "before": flagged(score.counting_unseen(True), threshold, inside),
        "after": flagged(score, threshold, inside),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("volumes", type=Path)
    parser.add_argument("--model", default="brain-flair")
    parser.add_argument("--engine")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    options = parser.parse_args()
    folders = sorted(path.parent for path in options.volumes.glob("*/flair.nii.gz"))
    if not folders:
        parser.error(f"{options.volumes} has no folder with flair.nii.gz")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = nsar.load_model(options.model)
    if options.engine:
        model.use_engine(options.engine)
    looks = model.header.looks
    assert looks is not None
    preprocessing = model.header.preprocessing
    store = FeatureStore(model.backbone, preprocessing)
    found = find_slices(options.dataset, modality=model.modality, window=preprocessing.window)
    both = [*found.train, *found.valid]
    for done in store.extract(both):
        if done % 100 == 0:
            log.info("%d of %d embedded", done, len(both))
    result: dict[str, Any] = {"machine": options.machine, "model": model.name, "volumes": {}}
    with_seen(model, looks, store, found.train)
    result["valid"] = images(model, options.dataset, "valid")
    log.info("valid %s", result["valid"])
    with_seen(model, looks, store, both)
    result["test"] = images(model, options.dataset, "test")
    log.info("test %s", result["test"])
    for folder in folders:
        result["volumes"][folder.name] = volume(model, folder)
        log.info("%s %s", folder.name, result["volumes"][folder.name])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
