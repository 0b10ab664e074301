"""What scores, thresholds and trained weights owe to the processor that computed them.

python benchmarks/processors.py DATASET [MODEL...] [--slices 24] [--epochs 6] [--json FILE]

DATASET is in the BMAD layout; normal and abnormal slices of its test split are scored again and
again, each time as another processor would do it: the libraries are told to leave out instructions
that this one has. Slices of its training split train Spatial AR with products in float32 and in
bfloat16, and with another number of threads. Every run is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

import napari_spatial_ar as nsar
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.normative.backbones.devices import VARIABLE as BFLOAT16
from napari_spatial_ar.normative.backbones.fastest_engine import VARIABLE as ENGINE
from napari_spatial_ar.normative.backbones.registry import OFFLINE_BACKBONE

_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
_SSE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
_PLAIN = {BFLOAT16: "off", ENGINE: "float32", "OMP_NUM_THREADS": "1"}
#: Processors to score on, the first being what the others are compared with.
SCORING = {
    "float32, one thread": _PLAIN,
    "two threads": {**_PLAIN, "OMP_NUM_THREADS": "2"},
    "search by bfloat16": {**_PLAIN, BFLOAT16: "on"},
    "AVX2": {**_PLAIN, **_AVX2},
    "SSE 4.1": {**_PLAIN, **_SSE},
    "engine bfloat16": {**_PLAIN, BFLOAT16: "on", ENGINE: "bfloat16"},
}
TRAINING = {
    "float32, one thread": _PLAIN,
    "AVX2": {**_PLAIN, **_AVX2},
    "bfloat16": {**_PLAIN, BFLOAT16: "on"},
    "another seed": {**_PLAIN, "SEED": "1"},
}
_FPR = 0.01


def score(model: Any, files: list[Path]) -> dict[str, np.ndarray]:
    """Heatmaps, and the threshold that 1 % of the body in the normal slices exceeds."""
    model.use_engine(os.environ[ENGINE])
    images = [np.asarray(Image.open(file).convert("L")) for file in files]
    maps = [model.score_slice(image).nll for image in images]
    bodies = [tissue_mask(image / np.float32(255)) for image in images]
    normal = [m[b] for m, b, f in zip(maps, bodies, files, strict=True) if "good" in f.parts]
    return {
        "heat": np.concatenate([m[b] for m, b in zip(maps, bodies, strict=True)]),
        "threshold": np.quantile(np.concatenate(normal), 1 - _FPR),
    }


def compare(found: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, float]:
    """How far scores are from the reference's, in its standard deviations, and what follows."""
    ours, theirs = found["heat"].astype(float), reference["heat"].astype(float)
    off, spread = np.abs(ours - theirs), theirs.std()
    flagged, before = ours > found["threshold"], theirs > reference["threshold"]
    return {
        "largest_difference_sd": float(off.max() / spread),
        "rms_difference_sd": float(np.sqrt(np.square(off).mean()) / spread),
        "rank_correlation": float(spearmanr(ours, theirs).statistic),
        "threshold_relative": float(found["threshold"] / reference["threshold"] - 1),
        "dice_of_masks": float(2 * (flagged & before).sum() / (flagged.sum() + before.sum())),
    }


def child(task: str, out: Path, arguments: list[str]) -> None:
    """One run, in the environment that it was started in."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if task == "score":
        model, *files = arguments
        loaded = nsar.load_model(model, device="cpu")
    else:
        folder, backbone, epochs, *files = arguments
        loaded = nsar.fit(
            folder,
            out=out.with_suffix(""),
            backbone=backbone,
            method="spatial-ar",
            device="cpu",
            seed=int(os.environ.get("SEED", "0")),
            options={"epochs": int(epochs), "batch_size": 8},
        )
    found = score(loaded, [Path(file) for file in files])
    if task == "fit":
        found["nll"] = np.array(loaded.header.training["best_nll"])
        found["weights"] = np.concatenate(
            [t.numpy().ravel() for t in loaded.detector.tensors().values()]
        )
    np.savez(out, **found)


def run(task: str, environment: dict[str, str], *arguments: str) -> dict[str, np.ndarray]:
    """Run a child and give what it found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.npz"
        command = [sys.executable, __file__, "--child", task, str(out), *arguments]
        subprocess.run(command, check=True, env={**os.environ, **environment})
        return dict(np.load(out))


def main() -> None:
    """Parse arguments, measure, report."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("models", nargs="*", help="None: training alone.")
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    given = parser.parse_args()
    test = given.dataset / "test"
    files = [
        str(file)
        for kind in ("good", "Ungood")
        for file in _spread(sorted((test / kind / "img").iterdir()), given.slices // 2)
    ]
    result: dict[str, Any] = {
        "machine": given.machine,
        "torch": torch.__version__,
        "data": given.dataset.name,
        "slices": len(files),
        "scoring": {},
        "training": {},
    }
    for model in given.models:
        found = {name: run("score", env, model, *files) for name, env in SCORING.items()}
        reference = found.pop("float32, one thread")
        result["scoring"][Path(model).name] = {n: compare(f, reference) for n, f in found.items()}
        print(json.dumps(result["scoring"], indent=2))  # noqa: T201
    backbone = OFFLINE_BACKBONE
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "normal"
        folder.mkdir()
        for file in _spread(sorted((given.dataset / "train" / "good").rglob("*.png")), 96):
            (folder / file.name).symlink_to(file.resolve())
        trained = {
            name: run("fit", env, str(folder), backbone, str(given.epochs), *files)
            for name, env in TRAINING.items()
        }
    reference = trained["float32, one thread"]
    length = np.linalg.norm(reference["weights"])
    for name, fitted in trained.items():
        result["training"][name] = {
            "best_nll": float(fitted["nll"]),
            "weights_apart": float(
                np.linalg.norm(fitted["weights"] - reference["weights"]) / length
            ),
            **compare(fitted, reference),
        }
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if given.json:
        given.json.write_text(text + "\n")


def _spread(files: list[Path], count: int) -> list[Path]:
    return files[:: max(1, len(files) // count)][:count]


if __name__ == "__main__":
    main()
