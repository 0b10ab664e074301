"""The default method and each of its parts against a memory bank, on a labelled data set.

python benchmarks/spatial_ar_change.py DATASET [--modality mri|ct|oct] [--keep-air]
    [--smoothings 3 1 5] [--seeds 0 1 2] [--work FOLDER] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout. Each of the parts, their sum and the bank have the smoothing of
--smoothings with the best pixel AUPR on valid where that has labels, else the first; test is scored
once. The bank stores a coreset of 2 % of the patches. Intervals are over patients, in pairs with
the bank. Embeddings and scores are kept in --work (one folder for one backbone), figures of other
data sets in the --json file. For OCT, run it with --keep-air, and once more on a copy without the
grey of the background (oct_background.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from change_detector import Split, against, chosen, figures_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.evaluation.bootstrap import ImageSample, draw_weights, resample_images
from napari_spatial_ar.evaluation.metrics import roc_auc
from napari_spatial_ar.imaging.windows import default_window
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors import (
    FitContext,
    MemoryBank,
    SpatialARChange,
    StoredGrids,
)
from napari_spatial_ar.normative.fitting.synthetic_grids import SyntheticGrids
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.steps import finish

_DRAWS = 1000
_CORESET = 0.02


class Grids:
    """Embeddings of images of a split, read from its file."""

    def __init__(self, split: Split, numbers: list[int]) -> None:
        self._split, self._numbers = split, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Tensor]:
        for number in self._numbers:
            yield torch.from_numpy(self._split.grids[number].copy())[None].float()

    def stored(self, folder: Path) -> StoredGrids:
        """Store them one by one, as a feature store does."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number}.npy" for number in self._numbers]
        for path, grid in zip(paths, self, strict=True):
            if not path.exists():
                part = path.with_suffix(".part.npy")
                np.save(part, grid[0].permute(1, 2, 0).half().numpy())
                part.replace(path)
        return StoredGrids(paths)


@torch.inference_mode()
def learned(
    seed: int, splits: Mapping[str, Split], changed: SyntheticGrids, work: Path
) -> dict[str, Tensor]:
    """Patch scores of each part and of both, and image scores, of each split by its name."""
    # The name of the changed slices depends on how they are made, so old scores are never taken up.
    path = changed.folder.with_suffix(".safetensors")
    if path.exists():
        return load_file(path)
    list(changed.embed())
    good = [number for number, one in enumerate(splits["valid"].abnormal) if not one]
    every = list(range(len(splits["train"].items)))
    setup = FitContext(
        seed=seed,
        normals=Grids(splits["train"], every).stored(work / "normal"),
        valid=Grids(splits["valid"], good).stored(work / "held-out"),
        checkpoint=work / f"checkpoint-{changed.folder.name}.safetensors",
    )
    with torch.inference_mode(False):
        detector = finish(SpatialARChange.learn(changed, setup)).detector
    found: dict[str, Tensor] = {}
    for name in ("valid", "test"):
        scores = [detector.all_scores(grid) for grid in splits[name]]
        for part in detector.parts:
            found[f"{name}/{part}"] = torch.cat([one.parts[part] for one in scores])
        found[f"{name}/both"] = torch.cat([one.patches for one in scores])
        found[f"{name}/images"] = torch.cat([one.images for one in scores])
    _save(found, path)
    return found


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file that is complete or absent, whenever the process is killed."""
    part = path.with_suffix(".part")
    save_file(tensors, part)
    part.replace(path)


def of_images(scores: Tensor, split: Split) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Image AUROC of a method's own image scores, and its draws over patients."""
    patient = np.array([split.patients.index(item.group) for item in split.items])
    sample = ImageSample(scores.numpy(), split.abnormal, patient)
    weights = draw_weights(len(split.patients), _DRAWS, seed=0)
    value = roc_auc(split.abnormal, scores.numpy())
    return {"image_auroc": value}, {"image_auroc": resample_images(sample, weights)["image_auroc"]}


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument("--keep-air", action="store_true")
    parser.add_argument("--smoothings", type=int, nargs="+", default=[3, 1, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--work", type=Path, default=Path("spatial_ar_change_work"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    start = time.perf_counter()
    window, air = default_window(said.modality), "with-air" if said.keep_air else "without-air"
    work = said.work / f"{said.dataset.name}-{air}"
    work.mkdir(parents=True, exist_ok=True)
    shown = Preprocessing(window, skip_air=not said.keep_air)
    names = ("train", "valid", "test")
    splits = {name: Split(said.dataset, name, shown, said.backbone, work) for name in names}
    valid, test = splits["valid"], splits["test"]
    slices = find_slices(said.dataset, modality=said.modality, window=window).train
    network = load_backbone(said.backbone)

    path = work / "bank.safetensors"
    if not path.exists():
        bank = MemoryBank.fit(list(splits["train"]), coreset=_CORESET)
        _save({s: torch.cat([bank.score(g) for g in splits[s]]) for s in ("valid", "test")}, path)
    banks = load_file(path)

    def smoothing(scores: Tensor) -> int:
        return chosen(scores if valid.labelled else None, valid, said.smoothings)

    of_bank = smoothing(banks["valid"])
    reference = figures_of(banks["test"], test, of_bank)
    report: dict[str, object] = {
        "memory-bank": {**reference[0], "smoothing": of_bank, "coreset": _CORESET}
    }
    runs = [
        learned(
            seed,
            splits,
            SyntheticGrids(network, shown, slices, work, seed=seed),
            work,
        )
        for seed in said.seeds
    ]
    for part in ("nll", "change", "both"):
        of_part = smoothing(runs[0][f"valid/{part}"])
        ours = [figures_of(run[f"test/{part}"], test, of_part) for run in runs]
        if part == "both":
            for run, (values, draws) in zip(runs, ours, strict=True):
                own = of_images(run["test/images"], test)
                values |= own[0]
                draws |= own[1]
        report[part] = {
            **against(ours, reference),
            "smoothing": of_part,
            "each": [{name: round(v, 4) for name, v in one[0].items()} for one in ours],
        }
    report |= {"machine": said.machine, "seeds": said.seeds, "keep_air": said.keep_air}
    print(said.dataset.name, round(time.perf_counter() - start), "s")  # noqa: T201
    text = json.dumps(report, indent=2)
    print(text)  # noqa: T201
    if said.json:
        known = json.loads(said.json.read_text()) if said.json.exists() else {}
        known[f"{said.dataset.name}, {air.replace('-', ' ')}"] = report
        said.json.parent.mkdir(parents=True, exist_ok=True)
        said.json.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
