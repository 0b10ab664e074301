"""Whether leaving out the most surprising training slices, unseen, makes up for abnormal ones.

python benchmarks/robust_fit.py DATASET [--modality mri|ct|oct] [--share 0.05] [--left-out 0.1]
    [--methods surroundings-bank patch-gaussian] [--draws 3] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout. Abnormal slices of its valid split are mixed into the training
slices, so that they are --share of all. Each method learns from the normal slices alone (clean),
from all (mixed), from all but the --left-out share that `CrossJudge` finds most surprising (less
the surprising), and from all but as many drawn at random (less as many). Reported is the pixel
AUPR on test, at 3 x 3 patches, for each draw of the abnormal slices.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from contamination import SCORING, abnormal_pool, by_others
from torch import Tensor

from napari_spatial_ar.datasets.folders import BmadItem, bmad_items, find_slices
from napari_spatial_ar.evaluation.candidates import label_of
from napari_spatial_ar.evaluation.metrics import PixelScores, pixel_figures
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.windows import apply_window, default_window, resolve
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors import DETECTORS, Detector, StoredGrids
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.preprocessing import Preprocessing

Embedded = list[tuple[BmadItem, tuple[int, int], Tensor]]


def embedded(dataset: Path, store: FeatureStore) -> Embedded:
    """Test images patient by patient, with shape and (1, D, Hp, Wp) float16 grid."""
    found: Embedded = []
    for item in sorted(bmad_items(dataset, "test"), key=lambda item: item.group):
        image, intensity = read_raster(item.image)
        window = resolve(store.preprocessing.window, image, intensity)
        unit = apply_window(image, *window)
        grid = store.backbone.embed(store.preprocessing(unit)[None]).half()
        found.append((item, (image.shape[0], image.shape[1]), grid))
    return found


def aupr(detector: Detector, test: Embedded) -> float:
    """Pixel AUPR at the images' own size."""
    with PixelScores() as pixels:
        for item, shape, grid in test:
            score = SCORING(detector.score(grid.float())[0], shape, detector.heatmap_divisor)
            label = label_of(item, shape)
            assert label is not None, "the data set has no masks"
            pixels.add(score.nll, label, item.group)
        found = pixel_figures(pixels)
    assert found is not None  # both labels are there
    return round(found.aupr, 4)


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--left-out", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["surroundings-bank", "patch-gaussian"])
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    window = default_window(said.modality)
    normal = list(find_slices(said.dataset, modality=said.modality, window=window).train)
    pool, count = abnormal_pool(said.dataset, len(normal), said.share)
    store = FeatureStore(load_backbone(said.backbone), Preprocessing(window))
    list(store.extract([*normal, *pool]))
    test = embedded(said.dataset, store)
    draws = []
    for seed in range(said.draws):
        rng = np.random.default_rng(seed)
        strange = [pool[index] for index in np.sort(rng.choice(len(pool), count, replace=False))]
        mixed = [*normal, *strange]
        surprise = by_others(DETECTORS["surroundings-bank"], store, mixed, seed)
        fewer = round(len(mixed) * said.left_out)
        surprising = set(np.argsort(-surprise)[:fewer])
        drawn = set(rng.choice(len(mixed), fewer, replace=False))
        learned_from = {
            "clean": normal,
            "mixed": mixed,
            "less the surprising": [ref for n, ref in enumerate(mixed) if n not in surprising],
            "less as many": [ref for n, ref in enumerate(mixed) if n not in drawn],
        }
        found = {
            name: {
                what: aupr(DETECTORS[name].fit(StoredGrids(store.paths(refs)), seed=seed), test)
                for what, refs in learned_from.items()
            }
            for name in said.methods
        }
        caught = sum(ref in strange for n, ref in enumerate(mixed) if n in surprising)
        draws.append({"seed": seed, "abnormal_left_out": caught, "test_aupr": found})
        print(json.dumps(draws[-1]), flush=True)  # noqa: T201
    record = {"machine": said.machine, "data": {}}
    if said.json and said.json.exists():
        record = json.loads(said.json.read_text())
    record["data"][said.dataset.name] = {
        "normal_slices": len(normal),
        "abnormal_slices": count,
        "left_out": said.left_out,
        "draws": draws,
    }
    if said.json:
        said.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
