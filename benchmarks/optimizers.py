"""How fast Spatial AR is fitted by AdamW and by Muon: seconds, and validation NLL by epoch.

python benchmarks/optimizers.py DATASET [--modality mri|ct|oct] [--backbone NAME] [--epochs 8]
    [--batch 8] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout. Both fits go through the same slices in the same order with the same
initial weights. The first embeds the slices, where they are not stored yet; the second finds them
stored. Test figures are of the weights with the best validation NLL, smoothed over 5 x 5 patches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import napari_spatial_ar as nsar
from napari_spatial_ar.evaluation.evaluate import evaluate
from napari_spatial_ar.normative.fitting.config import FitConfig
from napari_spatial_ar.normative.fitting.fit import fit_steps

# Learning rates: the paper's, and that of the docs.
RATES = {"adamw": 1e-3, "muon": 3e-3}


def fitted(arguments: argparse.Namespace, optimizer: str, out: Path) -> dict[str, Any]:
    """Fit, and give the seconds of each stage, the losses and the test figures."""
    config = FitConfig.of(
        arguments.dataset,
        modality=arguments.modality,
        backbone=arguments.backbone,
        smoothing=5,
        method="spatial-ar",
        options={
            "optimizer": optimizer,
            "learning_rate": RATES[optimizer],
            "epochs": arguments.epochs,
            "batch_size": arguments.batch,
        },
    )
    steps = fit_steps(config, out=out)
    seconds: dict[str, float] = {}
    last, valid = time.perf_counter(), ()
    for step in steps:
        now = time.perf_counter()
        seconds[step.stage] = seconds.get(step.stage, 0.0) + now - last
        last, valid = now, step.valid_nll or valid
    figures = evaluate(arguments.dataset, nsar.load_model(out))
    return {
        "seconds": {stage: round(spent, 1) for stage, spent in seconds.items()},
        "valid_nll": [round(nll, 4) for nll in valid],
        "test_pixel_aupr": round(figures.pixel_aupr, 4),
        "test_image_auroc": round(figures.image_auroc, 4),
    }


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "machine": arguments.machine,
        "data": arguments.dataset.name,
        "batch_size": arguments.batch,
        "learning_rate": RATES,
    }
    with tempfile.TemporaryDirectory() as folder:
        for optimizer in ("muon", "adamw"):
            found[optimizer] = fitted(arguments, optimizer, Path(folder, optimizer))
            print(optimizer, json.dumps(found[optimizer]), flush=True)  # noqa: T201
    best = {name: min(found[name]["valid_nll"]) for name in RATES}
    reached = [nll <= best["adamw"] for nll in found["muon"]["valid_nll"]]
    found["muon_epochs_to_best_of_adamw"] = reached.index(True) + 1 if any(reached) else None
    text = json.dumps(found, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
