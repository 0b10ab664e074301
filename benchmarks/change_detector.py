"""The network trained on synthetic changes against the full memory bank, on a labelled data set.

python benchmarks/change_detector.py DATASET [--modality mri|ct|oct] [--smoothings 5 7]
    [--seeds 0 1 2] [--slices 300] [--work FOLDER] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout. Changed slices are made from train/good alone; the smoothing is the
one of --smoothings with the best pixel AUPR on valid where that has labels, else the first; test is
scored once. Intervals are over patients, in pairs with the bank. Embeddings and scores of the bank
are kept in --work (one folder for one backbone), figures of other data sets in the --json file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from napari_spatial_ar.datasets.folders import bmad_items, find_slices
from napari_spatial_ar.evaluation.bootstrap import (
    ImageSample,
    PixelSample,
    draw_weights,
    interval,
    resample_images,
    resample_pixels,
)
from napari_spatial_ar.evaluation.candidates import label_of
from napari_spatial_ar.evaluation.metrics import PixelScores, pixel_figures, roc_auc
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.windows import apply_window, default_window, resolve
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors.base import Detector
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.normative.detectors.memory_bank import MemoryBank
from napari_spatial_ar.normative.fitting.synthetic_grids import SyntheticGrids
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.tiling import embed_slice

DRAWS, TOP_SHARE = 1000, 0.01
COMPARED = {"pixel_aupr": ("ratio", np.divide), "image_auroc": ("difference", np.subtract)}


# Figures, and their draws over patients, of one detector.
Figures = tuple[dict[str, float], dict[str, np.ndarray]]


class Split:
    """Images of a split, with their embeddings in a file that is made where it is missing."""

    def __init__(
        self,
        root: Path,
        name: str,
        shown: Preprocessing,
        backbone: str,
        work: Path,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.items = bmad_items(root, name)
        self.name = name
        self.patients = sorted({item.group for item in self.items})
        self.abnormal = np.array([item.abnormal for item in self.items])
        self.labelled = any(item.label for item in self.items if item.abnormal)
        path = work / f"{name}.npy"
        if not path.exists():
            network, grids = load_backbone(backbone, layers=layers), []
            for item in self.items:
                image, intensity = read_raster(item.image)
                unit = apply_window(image, *resolve(shown.window, image, intensity))
                grids.append(embed_slice(network, shown, unit)[0].half().cpu())
            np.save(path, torch.stack(grids).numpy())
        self.grids = np.load(path, mmap_mode="r")

    def __iter__(self):
        for grid in self.grids:
            yield torch.from_numpy(grid.copy())[None].float()


def scores_of(detector: Detector, split: Split) -> tuple[Tensor, float]:
    """Patch scores (N, Hp, Wp), and milliseconds of the processor a slice (median)."""
    scores, spent = [], []
    for grid in split:
        start = time.process_time()
        scores.append(detector.score(grid)[0].cpu())
        spent.append(1000 * (time.process_time() - start))
    return torch.stack(scores), float(np.median(spent))


def figures_of(scores: Tensor, split: Split, smoothing: int, draws: int = DRAWS) -> Figures:
    """Measure heatmaps and image scores, at the images' own size."""
    scoring, images, values, sampled = Scoring(smoothing, TOP_SHARE), [], {}, {}
    weights = draw_weights(len(split.patients), draws, seed=0)
    order = sorted(range(len(split.items)), key=lambda number: split.items[number].group)
    with PixelScores() as pixels:
        for number in order:
            item = split.items[number]
            shape = read_raster(item.image)[0].shape
            score = scoring(scores[number], shape, divisor=1.0)
            images.append(score.image_score)
            if split.labelled:
                pixels.add(score.nll, label_of(item, shape), item.group)
        found = pixel_figures(pixels) if split.labelled else None
        if found is not None:
            values = {"pixel_aupr": found.aupr, "pixel_auroc": found.auroc}
            sample = PixelSample.of(pixels, found.curve.threshold).ordered(tuple(split.patients))
            sampled["pixel_aupr"] = resample_pixels(sample, weights)["pixel_aupr"]
    patient = np.array([split.patients.index(split.items[number].group) for number in order])
    abnormal = split.abnormal[order]
    if abnormal.any():
        values["image_auroc"] = roc_auc(abnormal, np.array(images))
        sample = ImageSample(np.array(images), abnormal, patient)
        sampled["image_auroc"] = resample_images(sample, weights)["image_auroc"]
    return values, sampled


def chosen(scores: Tensor | None, split: Split, smoothings: list[int]) -> int:
    """Smoothing with the best pixel AUPR; the first where there is nothing to choose by."""
    if scores is None:
        return smoothings[0]
    aupr = [figures_of(scores, split, k, draws=1)[0]["pixel_aupr"] for k in smoothings]
    return smoothings[int(np.argmax(aupr))]


def against(ours: list[Figures], bank: Figures) -> dict[str, object]:
    """Means over seeds beside the bank's figures, with paired intervals."""
    report: dict[str, object] = {}
    for name, reference in bank[1].items():
        kind, compare = COMPARED[name]
        mean = float(np.mean([one[0][name] for one in ours]))
        draws = np.mean([one[1][name] for one in ours], axis=0)
        report[name] = {
            "mean": mean,
            "interval": interval(draws),
            kind: float(compare(mean, bank[0][name])),
            f"{kind}_interval": interval(compare(draws, reference)),
        }
    return report


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument("--smoothings", type=int, nargs="+", default=[3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--work", type=Path, default=Path("change_detector_work"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    work, window = said.work / said.dataset.name, default_window(said.modality)
    work.mkdir(parents=True, exist_ok=True)
    where = {"shown": Preprocessing(window), "backbone": said.backbone, "work": work}
    valid, test = (Split(said.dataset, name, **where) for name in ("valid", "test"))
    to_choose_by = [valid] if valid.labelled and len(said.smoothings) > 1 else []
    banked, bank = {}, None
    for split in (*to_choose_by, test):
        path = work / f"bank_{split.name}.npy"
        if not path.exists():
            bank = bank or MemoryBank.fit(list(Split(said.dataset, "train", **where)))
            np.save(path, scores_of(bank, split)[0].numpy())
        banked[split.name] = torch.from_numpy(np.load(path))
    smoothing = chosen(banked.get("valid"), valid, said.smoothings)
    bank_figures = figures_of(banked["test"], test, smoothing)
    result = {"bank": {"smoothing": smoothing, **bank_figures[0]}}

    slices = find_slices(said.dataset, modality=said.modality, window=window).train
    network, shown, ours = load_backbone(said.backbone), Preprocessing(window), []
    for seed in said.seeds:
        changed = SyntheticGrids(network, shown, slices, work, count=said.slices, seed=seed)
        list(changed.embed())
        start = time.process_time()
        detector = ChangeDetector.fit(changed, seed=seed, slices=said.slices)
        seconds = time.process_time() - start
        on_valid = scores_of(detector, valid)[0] if to_choose_by else None
        smoothing = chosen(on_valid, valid, said.smoothings)
        scores, ms = scores_of(detector, test)
        ours.append(figures_of(scores, test, smoothing))
        size = sum(t.nbytes for t in detector.tensors().values())
        result[f"seed {seed}"] = {
            "smoothing": smoothing,
            **ours[-1][0],
            "against_bank": against(ours[-1:], bank_figures),
            "changed_slices": len(changed),
            "fit_cpu_seconds_after_embedding": round(seconds, 1),
            "score_cpu_ms_per_slice_after_embedding": round(ms, 1),
            "tensors_mb": round(size / 1e6, 2),
        }
    result["all seeds"] = against(ours, bank_figures)
    record = {"machine": said.machine, "options": ChangeDetector.options(), "data": {}}
    if said.json and said.json.exists():
        record = json.loads(said.json.read_text())
    record["data"][said.dataset.name] = {"smoothings": said.smoothings, **result}
    text = json.dumps(record, indent=2)
    print(text)  # noqa: T201
    if said.json:
        said.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
