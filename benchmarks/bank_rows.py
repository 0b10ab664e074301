"""How few rows the bank of change-novelty can do with, judged on a labelled validation split.

python benchmarks/bank_rows.py DATASET [--rows 16384 8192 4096 2048 1024] [--seeds 0 1 2]
    [--smoothing 5] [--work FOLDER] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout and its validation split has labels; its test split is not read. For
each seed the part that looks for changes is learned once, and beside it a bank of each size: a draw
of normal patches, as `SurroundingsBank` makes it, and, up to 4,096, spherical k-means of a draw of
65,536. Time is that of the bank alone, an embedded slice at a time. Embeddings stay in --work.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from change_detector import Split, figures_of
from torch import Tensor

from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.evaluation.metrics import roc_auc
from napari_spatial_ar.imaging.windows import default_window
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.normative.detectors.surroundings_bank import SurroundingsBank
from napari_spatial_ar.normative.detectors.two_parts import _image_scores
from napari_spatial_ar.normative.fitting.synthetic_grids import SyntheticGrids
from napari_spatial_ar.normative.preprocessing import Preprocessing

WEIGHT, POOL, MOST_MEANS = 0.5, 65_536, 4096


def figures(odds: Tensor, novelty: Tensor, split: Split, smoothing: int) -> dict[str, float]:
    """Pixel AUPR and image AUROC of both parts together, and of novelty alone."""
    normal = ~torch.from_numpy(split.abnormal)
    spread = [float(part[normal].std(correction=0)) for part in (odds, novelty)]
    both = odds / spread[0] + WEIGHT * novelty / spread[1]
    images = _image_scores(torch.stack([odds, novelty]))
    usual = images[:, normal]
    deviations = (images - usual.mean(1, keepdim=True)) / usual.std(1, keepdim=True, correction=0)
    return {
        "pixel_aupr": figures_of(both, split, smoothing, draws=1)[0]["pixel_aupr"],
        "image_auroc": roc_auc(split.abnormal, deviations.sum(dim=0).numpy()),
        "novelty_pixel_aupr": figures_of(novelty, split, smoothing, draws=1)[0]["pixel_aupr"],
        "novelty_image_auroc": roc_auc(split.abnormal, images[1].numpy()),
    }


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[16384, 8192, 4096, 2048, 1024])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument("--smoothing", type=int, default=5)
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--work", type=Path, default=Path("bank_rows_work"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    work, window = said.work / said.dataset.name, default_window(said.modality)
    work.mkdir(parents=True, exist_ok=True)
    where = {"shown": Preprocessing(window), "backbone": said.backbone, "work": work}
    train, valid = (Split(said.dataset, name, **where) for name in ("train", "valid"))
    if not valid.labelled:
        parser.error(f"the validation split of {said.dataset} has no labels to judge by")
    grids = list(train)
    slices = find_slices(said.dataset, modality=said.modality, window=window).train
    network, shown, found = load_backbone(said.backbone), Preprocessing(window), {}
    for seed in said.seeds:
        changed = SyntheticGrids(network, shown, slices, work, seed=seed)
        list(changed.embed())
        change = ChangeDetector.fit(changed, seed=seed)
        odds = torch.cat([change.score(grid) for grid in valid])
        pool = SurroundingsBank.fit(grids, seed=seed, rows=POOL)
        order = torch.randperm(len(pool.bank), generator=torch.Generator().manual_seed(seed))
        queries = [pool.whitening(grid) for grid in valid]
        for count in said.rows:
            rows = pool.bank[order[:count]]
            banks = {"drawn": SurroundingsBank(pool.whitening, rows)}
            if count <= MOST_MEANS:
                banks["k-means"] = SurroundingsBank.fit(grids, seed=seed, rows=POOL, means=count)
            for kind, bank in banks.items():
                bank.distances(queries[0])
                start = time.process_time()
                novelty = torch.stack([bank.distances(query) for query in queries])
                spent = time.process_time() - start
                one = figures(odds, novelty.reshape(odds.shape), valid, said.smoothing)
                one["cpu_ms_per_slice"] = 1000 * spent / len(queries)
                found.setdefault(f"{count} rows, {kind}", []).append(one)
                print(seed, count, kind, one, flush=True)  # noqa: T201
    record = {
        "machine": said.machine,
        "data": said.dataset.name,
        "split": "valid",
        "seeds": said.seeds,
        "smoothing": said.smoothing,
        "banks": {
            name: {
                key: {
                    "mean": round(float(np.mean([one[key] for one in ones])), 4),
                    "each": [round(float(one[key]), 4) for one in ones],
                }
                for key in ones[0]
            }
            for name, ones in found.items()
        },
    }
    text = json.dumps(record, indent=2)
    print(text)  # noqa: T201
    if said.json:
        said.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
