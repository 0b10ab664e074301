"""Ways to score the predictions of one AR network: by distance, by direction, by both, of means.

python benchmarks/likelihoods.py DATASET [--modality mri|ct|oct] [--keep-air] [--seed 0]
    [--work FOLDER] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout; --work is that of spatial_ar_change.py. The network is that of
`SpatialARChange`. F and mu are compared patch by patch (1) or as means over 3 x 3 or 5 x 5 patches,
as they are or whitened by the covariance of normal residuals. "both" is direction and a quarter of
the distance, each in standard deviations of held-out normal patches. Heatmaps are unsmoothed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from change_detector import Split, figures_of
from spatial_ar_change import Grids
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.imaging.windows import default_window
from napari_spatial_ar.normative.detectors import FitContext, SpatialARChange, SpatialARDetector
from napari_spatial_ar.normative.detectors.grids import present_rows
from napari_spatial_ar.normative.heatmap import mean_around
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.steps import finish

_SIDES = (1, 3, 5)
_SHARE = 0.25
# Every so many of the training slices, residuals are measured.
_EVERY = 4
_FLOOR = 1e-3


def residual_whitening(detector: SpatialARDetector, grids: Grids) -> Tensor:
    """(D, D): makes the covariance of residuals of normal patches the identity."""
    rows = []
    for number, grid in enumerate(grids):
        if number % _EVERY == 0:
            seen = detector._seen(grid)
            rows.append(present_rows(seen - detector.network(seen)))
    residuals = torch.cat(rows).double()
    values, vectors = torch.linalg.eigh(residuals.T @ residuals / len(residuals))
    values = values.clamp_min(0)
    return (vectors * (values + _FLOOR * values.mean()) ** -0.5).float()


def scores_of(detector: SpatialARDetector, whitening: Tensor, grid: Tensor) -> dict[str, Tensor]:
    """Each score of a grid's patches, (1, Hp, Wp), by its name."""
    seen = detector._seen(grid).float()
    mean = detector.network(seen).float().masked_fill(seen[:, :1].isnan(), torch.nan)
    found = {}
    for name, matrix in (("", None), ("residual-whitened ", whitening)):
        pair = [seen, mean]
        if matrix is not None:
            pair = [(one.movedim(1, -1) @ matrix).movedim(-1, 1) for one in pair]
        for side in _SIDES:
            a, b = (one if side == 1 else mean_around(one, side) for one in pair)
            found[f"{name}direction, {side}"] = 1 - functional.cosine_similarity(a, b, dim=1)
            found[f"{name}distance, {side}"] = (a - b).square().sum(dim=1)
    return found


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument("--keep-air", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--work", type=Path, default=Path("spatial_ar_change_work"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    air = "with-air" if said.keep_air else "without-air"
    work = said.work / f"{said.dataset.name}-{air}"
    work.mkdir(parents=True, exist_ok=True)
    shown = Preprocessing(default_window(said.modality), skip_air=not said.keep_air)
    splits = {
        name: Split(said.dataset, name, shown, said.backbone, work)
        for name in ("train", "valid", "test")
    }
    train = Grids(splits["train"], list(range(len(splits["train"].items))))
    good = [number for number, one in enumerate(splits["valid"].abnormal) if not one]
    held_out = Grids(splits["valid"], good)
    stored = train.stored(work / "normal")
    setup = FitContext(
        seed=said.seed,
        normals=stored,
        valid=held_out.stored(work / "held-out"),
        checkpoint=work / f"checkpoint-likelihoods-{said.seed}.safetensors",
    )
    _, (method, options) = SpatialARChange.stages(SpatialARChange.options(), len(stored))
    detector = finish(method.learn(stored, setup, **{**options, "likelihood": "gaussian"})).detector
    report: dict[str, dict[str, object]] = {}
    with torch.inference_mode():
        whitening = residual_whitening(detector, train)

        def scored(grids: Grids) -> dict[str, Tensor]:
            each = [scores_of(detector, whitening, grid) for grid in grids]
            return {name: torch.cat([one[name] for one in each]) for name in each[0]}

        normal = scored(held_out)
        spread = {name: values[~values.isnan()].std() for name, values in normal.items()}
        for part in ("valid", "test"):
            split = splits[part]
            if not (split.labelled or split.abnormal.any()):
                continue
            found = scored(Grids(split, list(range(len(split.items)))))
            scaled = {name: values / spread[name] for name, values in found.items()}
            for name in list(scaled):
                if "direction" in name:
                    distance = scaled[name.replace("direction", "distance")]
                    scaled[name.replace("direction", "both")] = scaled[name] + _SHARE * distance
            for name, values in scaled.items():
                figures = figures_of(values, split, 1, draws=1)[0]
                report.setdefault(name, {})[part] = {k: round(v, 4) for k, v in figures.items()}
    record = {"machine": said.machine, "seed": said.seed, "keep_air": said.keep_air, **report}
    print(json.dumps(record, indent=2))  # noqa: T201
    if said.json:
        known = json.loads(said.json.read_text()) if said.json.exists() else {}
        known[f"{said.dataset.name}, {air.replace('-', ' ')}"] = record
        said.json.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
