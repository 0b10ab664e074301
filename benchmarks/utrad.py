"""UTRAD beside a nearest-neighbour bank on the same embeddings, with air skipped.

python benchmarks/utrad.py DATASET [--modality mri|ct|oct] [--iterations 100] [--rows 12000]
    [--backbone NAME] [--engine NAME] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout. UTRAD is trained on the normal slices of train; its rival is the
nearest of --rows normal patches, drawn at random. The smoothing of each is the one of 1, 3 and 5
patches with the highest pixel AUPR on valid, or 3 if valid has no labels; test is scored once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from napari_spatial_ar.datasets.folders import bmad_items, find_slices
from napari_spatial_ar.evaluation.candidates import label_of
from napari_spatial_ar.evaluation.metrics import PixelScores, pixel_figures, roc_auc
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.windows import apply_window, default_window, resolve
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors import DETECTORS, Detector, MemoryBank, StoredGrids
from napari_spatial_ar.normative.detectors.base import FitContext
from napari_spatial_ar.normative.detectors.grids import sample_rows
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.tiling import embed_slice
from napari_spatial_ar.steps import finish

SMOOTHINGS = (1, 3, 5)
_TOP_SHARE = 0.01


@dataclass(frozen=True)
class Labelled:
    """A labelled slice: (D, Hp, Wp) float16, (rows, columns) bool if there is a mask."""

    grid: Tensor
    shape: tuple[int, int]
    group: str
    abnormal: bool
    label: np.ndarray[Any, np.dtype[np.bool_]] | None


def labelled(dataset: Path, store: FeatureStore, split: str) -> list[Labelled]:
    """Embed a split, patient by patient."""
    found = []
    for item in sorted(bmad_items(dataset, split), key=lambda item: item.group):
        image, intensity = read_raster(item.image)
        window = resolve(store.preprocessing.window, image, intensity)
        unit = apply_window(image, *window)
        grid = embed_slice(store.backbone, store.preprocessing, unit)[0].half().cpu()
        label = label_of(item, image.shape)
        shape = (image.shape[0], image.shape[1])
        mask = None if label is None else np.asarray(label) > 0
        found.append(Labelled(grid, shape, item.group, item.abnormal, mask))
    return found


def scored(detector: Detector, slices: Sequence[Labelled]) -> Iterator[Tensor]:
    """Patch scores, (Hp, Wp), of each slice."""
    for each in slices:
        yield detector.score(each.grid[None].float())[0]


def figures(scores: Sequence[Tensor], slices: Sequence[Labelled], smoothing: int) -> dict[str, Any]:
    """Pixel AUPR and image AUROC at the slices' own size; None where labels do not allow it."""
    scoring, images = Scoring(smoothing, top_share=_TOP_SHARE), []
    with PixelScores() as pixels:
        for patches, each in zip(scores, slices, strict=True):
            score = scoring(patches, each.shape, 1.0)
            images.append(score.image_score)
            if each.label is not None:
                pixels.add(score.nll, each.label, each.group)
        found = pixel_figures(pixels)
    abnormal = np.array([each.abnormal for each in slices])
    both = abnormal.any() and not abnormal.all()
    return {
        "pixel_aupr": None if found is None else round(found.aupr, 4),
        "image_auroc": round(float(roc_auc(abnormal, np.array(images))), 4) if both else None,
    }


def measured(
    detector: Detector, valid: Sequence[Labelled], test: Sequence[Labelled]
) -> dict[str, Any]:
    """Figures on valid at each smoothing, and on test at the best of them."""
    before = time.perf_counter()
    on_valid = list(scored(detector, valid))
    seconds = time.perf_counter() - before
    found = {k: figures(on_valid, valid, k) for k in SMOOTHINGS}
    known = {k: each["pixel_aupr"] for k, each in found.items() if each["pixel_aupr"] is not None}
    smoothing = max(known, key=lambda k: known[k]) if known else 3
    return {
        "smoothing": smoothing,
        "valid": found if known else None,
        "test": figures(list(scored(detector, test)), test, smoothing),
        "score_ms_per_slice": round(1000 * seconds / len(valid)),
    }


def compared(
    train: Sequence[Tensor],
    valid: Sequence[Labelled],
    test: Sequence[Labelled],
    *,
    iterations: int,
    rows: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Train both methods on (1, D, Hp, Wp) grids and measure them."""
    before = time.perf_counter()
    learned = finish(
        DETECTORS["utrad"].learn(train, FitContext(seed=seed), iterations=iterations),
        lambda step: print(step.done, step.message, flush=True),  # noqa: T201
    )
    seconds = round(time.perf_counter() - before)
    summary = {k: v for k, v in learned.summary.items() if k != "seconds"}
    utrad = {"training": summary, "fit_seconds": seconds, **measured(learned.detector, valid, test)}
    print(json.dumps(utrad), flush=True)  # noqa: T201
    bank = MemoryBank(sample_rows(train, rows, seed, unit_length=True))
    return {
        "train_slices": len(train),
        "valid_slices": len(valid),
        "test_slices": len(test),
        "seed": seed,
        "utrad": utrad,
        f"nearest of {rows} patches": measured(bank, valid, test),
    }


def record(path: Path | None, name: str, machine: str, found: dict[str, Any]) -> None:
    """Print the figures of a data set, and put them into a file."""
    print(json.dumps(found, indent=2), flush=True)  # noqa: T201
    if path is None:
        return
    content = json.loads(path.read_text()) if path.exists() else {"machine": machine, "data": {}}
    content["data"][name] = found
    path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Parse arguments, embed, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument(
        "--iterations", type=int, default=DETECTORS["utrad"].options()["iterations"]
    )
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--engine", default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    window = default_window(said.modality)
    backbone = load_backbone(said.backbone)
    backbone.use(said.engine)
    store = FeatureStore(backbone, Preprocessing(window, skip_air=True))
    refs = list(find_slices(said.dataset, modality=said.modality, window=window).train)
    list(store.extract(refs))
    valid, test = (labelled(said.dataset, store, split) for split in ("valid", "test"))
    grids = StoredGrids(store.paths(refs))
    found = compared(grids, valid, test, iterations=said.iterations, rows=said.rows)
    record(said.json, said.dataset.name, said.machine, found)


if __name__ == "__main__":
    main()
