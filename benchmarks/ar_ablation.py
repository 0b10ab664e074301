"""What the residuals of Spatial AR are measured by: the paper's unit covariance, and others.

python benchmarks/ar_ablation.py DATASET --model AR [--model ...] [--json FILE] [--machine NAME]

DATASET is in the BMAD layout, with labels in valid. The same networks, as fitted, score by

- identity: |r|^2, the paper's (its NLL up to a constant and a factor);
- variance: sum of r_d^2 / v_d, v the variance of each channel's residuals on training slices;
- covariance: r^T C^-1 r, C their covariance, a tenth of its mean variance added to the diagonal;

r being F - mu. Each has the smoothing (1, 3, 5 or 7 patches) with the best pixel AUPR on valid, and
test is scored at that one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from napari_spatial_ar.evaluation.contenders import label_of
from napari_spatial_ar.evaluation.metrics import pixel_figures
from napari_spatial_ar.evaluation.pixel_scores import PixelScores
from napari_spatial_ar.imaging.datasets import bmad_items, find_slices
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.methods import SpatialARDetector
from napari_spatial_ar.normative.methods.grids import rows_of
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.normative.scoring import Scoring

SMOOTHINGS = (1, 3, 5, 7)
SLICES, SHRINKAGE = 128, 0.1
Measures = dict[str, Tensor]


def residuals(model: NormativeModel, grid: Tensor) -> Tensor:
    """(1, D, Hp, Wp) -> (Hp * Wp, D): what the network did not foresee."""
    assert isinstance(model.detector, SpatialARDetector)
    with torch.inference_mode():
        return rows_of(grid - model.detector.network(grid))


def whitenings(model: NormativeModel, grids: list[Tensor]) -> Measures:
    """Give matrices W, by name: the score is |W r|^2."""
    rows = torch.cat([residuals(model, grid) for grid in grids]).double()
    centred = rows - rows.mean(dim=0)
    covariance = centred.T @ centred / len(rows)
    variance = covariance.diagonal()
    ridge = SHRINKAGE * variance.mean() * torch.eye(len(variance))
    values, vectors = torch.linalg.eigh(covariance + ridge)
    return {
        "identity": torch.eye(len(variance)),
        "variance": torch.diag(variance**-0.5).float(),
        "covariance": (values**-0.5 * vectors).T.float(),
    }


def scores(models: dict[str, NormativeModel], measures: dict[str, Measures], items) -> dict:
    """Patch scores of every image, embedded once, by model and measure."""
    first = next(iter(models.values()))
    preprocessing = first.header.preprocessing
    found: dict[tuple[str, str], list[Tensor]] = {}
    for item in items:
        image, intensity = read_raster(item.image)
        unit = apply_window(image, *resolve(preprocessing.window, image, intensity))
        grid = first.backbone.embed(preprocessing(unit)[None])
        for name, model in models.items():
            rows = residuals(model, grid)
            for measure, matrix in measures[name].items():
                score = (rows @ matrix.T).square().sum(dim=1).reshape(grid.shape[2:])
                found.setdefault((name, measure), []).append(score)
    return found


def aupr(maps: list[Tensor], items, smoothing: int) -> float:
    """Pixel AUPR at the images' own size."""
    with PixelScores() as pixels:
        for score, item in zip(maps, items, strict=True):
            shape = read_raster(item.image)[0].shape
            heatmap = Scoring(smoothing)(score, shape, divisor=1.0).nll
            pixels.add(heatmap, label_of(item, shape), item.group)
        figures = pixel_figures(pixels)
    assert figures is not None  # every map is finite and both labels are there
    return figures.aupr


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    models = {Path(name).name: load_model(name, device="cpu") for name in said.model}
    first = next(iter(models.values()))
    window = first.header.preprocessing.window
    train = find_slices(said.dataset, window=window).train
    refs = train[:: max(1, len(train) // SLICES)]
    store = FeatureStore(first.backbone, first.header.preprocessing)
    list(store.extract(refs))
    grids = [load_batch([path]) for path in store.paths(refs)]
    measures = {name: whitenings(model, grids) for name, model in models.items()}
    valid, test = (
        sorted(bmad_items(said.dataset, split), key=lambda item: item.group)
        for split in ("valid", "test")
    )
    on_valid, on_test = (scores(models, measures, items) for items in (valid, test))
    rows = []
    for name, measure in on_valid:
        tried = {k: aupr(on_valid[name, measure], valid, k) for k in SMOOTHINGS}
        best = max(tried, key=lambda k: tried[k])
        rows.append(
            {
                "model": name,
                "training_steps": models[name].header.training.get("steps"),
                "measure": measure,
                "valid_aupr": {str(k): round(value, 4) for k, value in tried.items()},
                "smoothing": best,
                "test_aupr": round(aupr(on_test[name, measure], test, best), 4),
            }
        )
    text = json.dumps({"machine": said.machine, "data": said.dataset.name, "rows": rows}, indent=2)
    print(text)  # noqa: T201
    if said.json:
        said.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
