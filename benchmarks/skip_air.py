"""What skipping patches of air saves: the backbone on a slice, and a fit.

python benchmarks/skip_air.py DATASET [--modality mri|ct] [--slices 40] [--fit 100] [--json FILE]

DATASET is in the BMAD layout. The same slices are embedded with and without air in turn; then the
default method is fitted on --fit slices either way, into empty folders (0: no fit). Times are
processor seconds of this process, which other work on the machine changes little, and wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import find_slices, iter_slices
from napari_spatial_ar.imaging.windows import apply_window, default_window
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.tiling import embed_slice

KINDS = {"with air": False, "without air": True}


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Processor and wall seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {
        "processor_s": time.process_time() - processor,
        "wall_s": time.perf_counter() - wall,
    }


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct"])
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--fit", type=int, default=100)
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    window = default_window(said.modality)
    refs = find_slices(said.dataset, modality=said.modality, window=window).train
    chosen = refs[:: max(1, len(refs) // said.slices)][: said.slices]
    network = load_backbone(said.backbone, device="cpu")
    shown = Preprocessing(window, mean=network.spec.mean, std=network.spec.std)
    air: list[float] = []
    slices: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    for number, (_, image, ends) in enumerate(iter_slices(chosen, window)):
        unit = apply_window(image, *ends)
        for name, skip in KINDS.items():
            rule = replace(shown, skip_air=skip)
            taken = timed(lambda rule=rule, unit=unit: embed_slice(network, rule, unit))
            if number:  # the first builds what the others use
                slices[name].append(taken)
        grid = embed_slice(network, replace(shown, skip_air=True), unit)
        air.append(float(grid[:, 0].isnan().float().mean()))
    report: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "backbone": said.backbone,
        "slices": len(chosen) - 1,
        "share_of_air": round(float(np.mean(air)), 3),
        "slice": compared(
            {
                name: {key: float(np.median([one[key] for one in taken])) for key in taken[0]}
                for name, taken in slices.items()
            }
        ),
    }
    if said.fit:
        fits = {}
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "data" / "train" / "good"
            images.mkdir(parents=True)
            for ref in refs[:: max(1, len(refs) // said.fit)][: said.fit]:
                shutil.copy(ref.path, images)
            for name, skip in KINDS.items():
                os.environ["NAPARI_SPATIAL_AR_HOME"] = str(Path(folder) / f"home-{skip}")
                fits[name] = timed(
                    lambda skip=skip: nsar.fit(
                        images.parents[1],
                        modality=said.modality,
                        backbone=said.backbone,
                        skip_air=skip,
                        out=Path(folder) / f"model-{skip}",
                    )
                )
        report["fit"] = {"slices": said.fit, **compared(fits)}
    text = json.dumps(report, indent=2)
    print(text)  # noqa: T201
    if said.json:
        known = json.loads(said.json.read_text()) if said.json.exists() else {}
        said.json.write_text(json.dumps({**known, said.dataset.name: report}, indent=2) + "\n")


def compared(taken: dict[str, dict[str, float]]) -> dict[str, object]:
    """Put both side by side, with how many times as fast it is without air."""
    full, kept = taken["with air"], taken["without air"]
    return {
        **{name: {k: round(v, 4) for k, v in times.items()} for name, times in taken.items()},
        "times_as_fast": {key: round(full[key] / kept[key], 2) for key in full},
    }


if __name__ == "__main__":
    main()
