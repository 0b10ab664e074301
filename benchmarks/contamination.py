"""Whether abnormal slices among the training slices are found by `models suspects`.

python benchmarks/contamination.py DATASET [--modality mri|ct|oct] [--share 0.05] [--draws 1]
    [--methods surroundings-bank patch-gaussian] [--backbone NAME] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout. Each draw mixes abnormal slices of its valid split into the training
slices, so that they are --share of all, and ranks all of them: judged by the half of the patients
that theirs is not in (`CrossJudge`), and by what was learned from all of them together. Reported
are means over draws: how many of the n abnormal slices are among the first n, the area under the
ROC, and the same of patients, each ranked by its highest slice. Abnormal slices come from patients
that have no other slice among the training slices, so what else is unusual of these helps too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from napari_spatial_ar.datasets.folders import bmad_items, find_slices
from napari_spatial_ar.datasets.slices import SliceRef
from napari_spatial_ar.evaluation.metrics import roc_auc
from napari_spatial_ar.imaging.reading import Source
from napari_spatial_ar.imaging.windows import default_window
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors import DETECTORS, Detector, StoredGrids, score_grid
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.fitting.outliers import CrossJudge
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.preprocessing import Preprocessing

# Those of a fit, by default.
SCORING = Scoring(smoothing=3, top_share=0.01)


def by_others(
    method: type[Detector], store: FeatureStore, refs: list[SliceRef], seed: int
) -> np.ndarray:
    """Image scores, each by what was learned from the other half of the patients."""
    judge, size = CrossJudge(store, SCORING, method), store.preprocessing.size
    for _ in judge.learn(refs, seed):
        pass
    return np.array([judge.score(ref, size).image_score for ref in refs])


def by_all(
    method: type[Detector], store: FeatureStore, refs: list[SliceRef], seed: int
) -> np.ndarray:
    """Image scores by what was learned from all slices, these included."""
    detector, size = method.fit(StoredGrids(store.paths(refs)), seed=seed), store.preprocessing.size
    grids = (load_batch(store.paths([ref])) for ref in refs)
    return np.array(
        [score_grid(detector, SCORING, grid, size, store.tiling).image_score for grid in grids]
    )


def figures(abnormal: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Share of abnormal ones among as many highest scores, and area under the ROC."""
    count = int(abnormal.sum())
    first = np.argsort(-scores)[:count]
    return {
        "precision_at_n": float(abnormal[first].mean()),
        "roc_auc": roc_auc(abnormal, scores),
    }


def measure(
    refs: list[SliceRef], scores: np.ndarray, strange: list[SliceRef]
) -> dict[str, dict[str, float]]:
    """Figures over slices and over patients."""
    highest: dict[str, float] = {}
    for ref, score in zip(refs, scores, strict=True):
        highest[ref.group] = max(score, highest.get(ref.group, -np.inf))
    patients = {ref.group for ref in strange}
    return {
        "slices": figures(np.array([ref in strange for ref in refs]), scores),
        "patients": figures(
            np.array([group in patients for group in highest]), np.array(list(highest.values()))
        ),
    }


def abnormal_pool(dataset: Path, normal: int, share: float) -> tuple[list[SliceRef], int]:
    """Abnormal slices of valid, and how many of them are ``share`` of all with the normal ones."""
    pool = [
        SliceRef(item.image, None, item.group, Source("raster", (item.image,)))
        for item in bmad_items(dataset, "valid")
        if item.abnormal
    ]
    count = round(share / (1 - share) * normal)
    if not 0 < count <= len(pool):
        raise SystemExit(f"--share asks for {count} abnormal slices, and valid has {len(pool)}")
    return pool, count


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=["surroundings-bank", "patch-gaussian"])
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    window = default_window(said.modality)
    normal = list(find_slices(said.dataset, modality=said.modality, window=window).train)
    pool, count = abnormal_pool(said.dataset, len(normal), said.share)
    store = FeatureStore(load_backbone(said.backbone), Preprocessing(window))
    for _ in store.extract([*normal, *pool]):
        pass
    found: dict[str, list[dict[str, dict[str, float]]]] = {}
    for seed in range(said.draws):
        drawn = np.random.default_rng(seed).choice(len(pool), count, replace=False)
        strange = [pool[index] for index in np.sort(drawn)]
        refs = [*normal, *strange]
        for name in said.methods:
            for judged, score in (("other half", by_others), ("all", by_all)):
                scores = score(DETECTORS[name], store, refs, seed)
                found.setdefault(f"{name}, by {judged}", []).append(measure(refs, scores, strange))
    result = {
        "normal_slices": len(normal),
        "normal_patients": len({ref.group for ref in normal}),
        "abnormal_slices": count,
        "abnormal_patients": len({ref.group for ref in pool}),
        "draws": said.draws,
        "backbone": said.backbone,
        "judged": {
            name: {
                of: {
                    figure: round(float(np.mean([draw[of][figure] for draw in draws])), 4)
                    for figure in draws[0][of]
                }
                for of in ("slices", "patients")
            }
            for name, draws in found.items()
        },
    }
    record = {"machine": said.machine, "data": {}}
    if said.json and said.json.exists():
        record = json.loads(said.json.read_text())
    record["data"][said.dataset.name] = result
    text = json.dumps(record, indent=2)
    print(text)  # noqa: T201
    if said.json:
        said.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
