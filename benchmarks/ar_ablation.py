"""What could be changed about Spatial AR, a row each: inputs, network, training, and the score.

python benchmarks/ar_ablation.py DATASET --modality MRI|CT|OCT [--steps N] [--batch N]
    [--seeds 0,1,2] [--variants "dilated;standard"] [--device cuda] [--json FILE]

DATASET is in the BMAD layout. One network is trained for every variant, on the same stored
embeddings, with the same seed, for the same number of steps of as many slices, and scored by

- identity: |r|^2, the paper's (its NLL up to a constant and a factor), r being F - mu; of the
  variant that predicts variances, its own NLL;
- variance: sum of r_d^2 / v_d, v_d the variance of a channel's residuals on training slices;
- covariance: r^T C^-1 r, C their covariance, with a tenth of its mean variance on the diagonal;
- position: the identity's score less its mean at that position on normal validation slices, in
  standard deviations there;
- bank: the identity's score and that of surroundings-bank, each in standard deviations of normal
  validation patches, added.

Each has the smoothing (1, 3, 5 or 7 patches) with the best pixel AUPR on valid, or 3 where valid
has no labels, and test is scored at that one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.datasets.folders import BmadItem, bmad_items, find_slices, iter_slices
from napari_spatial_ar.evaluation.candidates import label_of
from napari_spatial_ar.evaluation.metrics import roc_auc
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window, default_window, resolve
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors import DETECTORS
from napari_spatial_ar.normative.detectors.ar_network import MaskedConv2d
from napari_spatial_ar.normative.detectors.ar_training import precision
from napari_spatial_ar.normative.detectors.base import FitContext
from napari_spatial_ar.normative.detectors.grids import StoredGrids, rows_of
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.steps import finish

SMOOTHINGS = (1, 3, 5, 7)
MEASURED, SHRINKAGE = 128, 0.1


@dataclass(frozen=True)
class Variant:
    """Differences from the paper's dilated network; dilations are those of its convolutions."""

    name: str
    dilations: tuple[int, ...] = (4, 4, 4, 4, 4)
    #: Inputs and targets: raw, standardised (by channel), whitened (all components).
    inputs: str = "raw"
    variances: bool = False
    position: bool = False
    schedule: bool = False
    foreground: bool = False


VARIANTS = (
    Variant("dilated"),
    Variant("standard", dilations=(1, 1, 1, 1, 1)),
    Variant("whitened", inputs="whitened"),
    Variant("mixed dilations 1-2-4-2-1", dilations=(1, 2, 4, 2, 1)),
    Variant("one-cycle rate, averaged weights", schedule=True),
    Variant("variances predicted", variances=True),
    Variant("loss in the body alone", foreground=True),
    Variant("standardised", inputs="standardised"),
    Variant("position given", position=True),
    Variant("wider context 8-4-4-2-1", dilations=(8, 4, 4, 2, 1)),
    Variant("mixed dilations, whitened", dilations=(1, 2, 4, 2, 1), inputs="whitened"),
    Variant("mixed dilations, one-cycle", dilations=(1, 2, 4, 2, 1), schedule=True),
    Variant("standard, whitened", dilations=(1, 1, 1, 1, 1), inputs="whitened"),
)


class Network(nn.Module):
    """Spatial AR of any dilations, with the variant's inputs and outputs."""

    def __init__(self, channels: int, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        last = len(variant.dilations) - 1
        widths = [
            channels + 2 * variant.position,
            *[256] * last,
            channels * (1 + variant.variances),
        ]
        layers: list[nn.Module] = []
        for n, dilation in enumerate(variant.dilations):
            sees = "B" if n else "A"
            layers += [nn.ReLU()] * bool(n)
            layers.append(
                MaskedConv2d(widths[n], widths[n + 1], kernel=3, dilation=dilation, sees=sees)
            )
        self.net = nn.Sequential(*layers)

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals and log variances, both (B, D, Hp, Wp)."""
        shown = grid
        if self.variant.position:
            rows, columns = (torch.linspace(-1, 1, n, device=grid.device) for n in grid.shape[2:])
            place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
            shown = torch.cat([grid, place.expand(len(grid), -1, -1, -1)], dim=1)
        out = self.net(shown).float()
        if not self.variant.variances:
            return grid - out, torch.zeros((), device=grid.device)
        mean, log_variance = out.chunk(2, dim=1)
        return grid - mean, log_variance.clamp(-6, 6)

    def nll(self, grid: Tensor) -> Tensor:
        """Per dimension, without the constant; (B, Hp, Wp)."""
        residual, log_variance = self(grid)
        return (residual.square() * (-log_variance).exp() + log_variance).mean(dim=1) / 2


@dataclass(frozen=True)
class Images:
    """Images of a split, embedded: grids (D, Hp, Wp) float16."""

    items: list[BmadItem]
    shapes: list[tuple[int, int]]
    grids: list[Tensor]


def embedded(dataset: Path, split: str, store: FeatureStore) -> Images:
    """Embed the images of a split, patient by patient."""
    items = sorted(bmad_items(dataset, split), key=lambda item: item.group)
    shapes, grids = [], []
    for item in items:
        image, intensity = read_raster(item.image)
        window = resolve(store.preprocessing.window, image, intensity)
        unit = apply_window(image, *window)
        grids.append(store.backbone.embed(store.preprocessing(unit)[None])[0].half())
        shapes.append(image.shape)
    return Images(items, shapes, grids)


def body_patches(refs: list, store: FeatureStore) -> Tensor:
    """(N, Hp, Wp) float32: 1 where more than a tenth of a patch is body."""
    masks = []
    for _, image, window in iter_slices(refs, store.preprocessing.window):
        body = torch.from_numpy(tissue_mask(apply_window(image, *window))).float()[None, None]
        masks.append((functional.adaptive_avg_pool2d(body, store.shape[:2])[0, 0] > 0.1).float())
    return torch.stack(masks)


def transform(train: Tensor, kind: str) -> Callable[[Tensor], Tensor]:
    """Give the change of inputs, fitted on training embeddings; (B, D, Hp, Wp) to the same."""
    if kind == "raw":
        return lambda grid: grid.float()
    rows = rows_of(train[:: max(1, len(train) // MEASURED)].float()).double()
    mean = rows.mean(dim=0)
    covariance = (rows - mean).T @ (rows - mean) / len(rows)
    if kind == "standardised":
        matrix = torch.diag(covariance.diagonal() ** -0.5)
    else:
        values, vectors = torch.linalg.eigh(covariance)
        matrix = (vectors * (values + 1e-3 * values.mean()) ** -0.5).T
    shift, turn = mean.float()[:, None, None], matrix.float()
    return lambda grid: torch.einsum("kd,bdhw->bkhw", turn, grid.float() - shift)


def trained(
    variant: Variant, train: Tensor, body: Tensor | None, steps: int, batch_size: int, seed: int
) -> tuple[Network, Callable[[Tensor], Tensor]]:
    """Train one variant; its network and its change of inputs."""
    change = transform(train, variant.inputs)
    torch.manual_seed(seed)
    network = Network(train.shape[1], variant)
    network.to(train.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    cycle = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        if variant.schedule  # where it is made, it sets the rate
        else None
    )
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    rng, order = np.random.default_rng(seed), list[int]()
    noise = 0.03 * change(train[:64]).std(dim=(0, 2, 3), keepdim=True)
    for _ in range(steps):
        if len(order) < batch_size:
            order = list(rng.permutation(len(train)))
        batch, order = order[:batch_size], order[batch_size:]
        grid = change(train[batch]).contiguous(memory_format=torch.channels_last)
        if rng.random() < 0.2:
            grid = grid + noise * torch.randn_like(grid)
        with precision(train.device):
            nll = network.nll(grid)
        weight = torch.ones_like(nll) if body is None else body[batch]
        optimizer.zero_grad(set_to_none=True)
        ((nll * weight).sum() / weight.sum().clamp_min(1)).backward()
        optimizer.step()
        if cycle is not None:
            cycle.step()
            averaged.update_parameters(network)
    best = averaged.module if variant.schedule else network
    assert isinstance(best, Network)
    return best.eval(), change


def whitenings(residuals: Tensor) -> dict[str, Tensor]:
    """Matrices W of the measures |W r|^2, from (N, D) residuals of training slices."""
    rows = residuals.double() - residuals.double().mean(dim=0)
    covariance = rows.T @ rows / len(rows)
    variance = covariance.diagonal()
    ridge = SHRINKAGE * variance.mean() * torch.eye(len(variance)).to(variance)
    values, vectors = torch.linalg.eigh(covariance + ridge)
    return {
        "variance": torch.diag(variance**-0.5).float(),
        "covariance": (values**-0.5 * vectors).T.float(),
    }


def scored(
    network: Network,
    change: Callable[[Tensor], Tensor],
    matrices: dict[str, Tensor],
    images: Images,
) -> dict[str, Tensor]:
    """Patch scores (N, Hp, Wp) by measure."""
    found: dict[str, list[Tensor]] = {}
    with torch.inference_mode(), precision(images.grids[0].device):
        for grid in images.grids:
            changed = change(grid[None])
            residual = network(changed)[0].float()
            found.setdefault("identity", []).append(network.nll(changed)[0].float())
            for name, matrix in matrices.items():
                score = (rows_of(residual) @ matrix.T).float().square().mean(dim=1)
                found.setdefault(name, []).append(score.reshape(grid.shape[1:]))
    return {name: torch.stack(maps) for name, maps in found.items()}


def derived(
    valid: dict[str, Tensor], test: dict[str, Tensor], bank: tuple[Tensor, Tensor], normal: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """All measures on valid and test; ``normal`` says which images of valid are."""
    for name in valid:
        yield name, valid[name], test[name]
    std, mean = torch.std_mean(valid["identity"][normal], dim=0)
    std = std.clamp_min(0.01 * std.mean())  # the background may be the same in all of them
    yield "position", *((maps["identity"] - mean) / std for maps in (valid, test))
    scales = [maps[normal].std() for maps in (valid["identity"], bank[0])]
    pairs = ((valid["identity"], bank[0]), (test["identity"], bank[1]))
    yield "bank", *(sum(m / s for m, s in zip(pair, scales, strict=True)) for pair in pairs)


@dataclass(frozen=True)
class Truth:
    """What is known of a split, once for all measures."""

    images: Images
    #: Of all images with a label, one after the other; None where there is none.
    labels: Tensor | None
    labelled: list[int]

    @classmethod
    def of(cls, images: Images, device: torch.device) -> Truth:
        """Read the labels."""
        pairs = zip(images.items, images.shapes, strict=True)
        found = [label_of(item, shape) for item, shape in pairs]
        labelled = [n for n, label in enumerate(found) if label is not None]
        flat = [np.asarray(found[n]).ravel() > 0 for n in labelled]
        labels = torch.from_numpy(np.concatenate(flat)).to(device) if flat else None
        return cls(images, labels if labels is not None and labels.any() else None, labelled)


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Equal scikit-learn's, ties counted together; (N,) float32 and (N,) bool on any device."""
    ordered, order = scores.sort(descending=True)
    positives = labels[order].long().cumsum(0)
    last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool).to(labels)])
    place = last.nonzero()[:, 0]
    hits = positives[place].double()
    gained = torch.diff(hits, prepend=hits.new_zeros(1))
    return float((gained * hits / (place + 1)).sum() / hits[-1])


def figures(maps: Tensor, truth: Truth, smoothing: int) -> tuple[float | None, float | None]:
    """Pixel AUPR at the images' own size, and image AUROC."""
    scoring, images = Scoring(smoothing, top_share=0.01), truth.images
    scores, heat = [], []
    for number, (patches, shape) in enumerate(zip(maps, images.shapes, strict=True)):
        heatmaps, image = scoring.maps(patches[None], shape, divisor=1.0)
        scores.append(image)
        if truth.labels is not None and number in truth.labelled:
            heat.append(heatmaps.flatten())
    aupr = None if truth.labels is None else average_precision(torch.cat(heat), truth.labels)
    abnormal = [item.abnormal for item in images.items]
    both = len(set(abnormal)) == 2
    auroc = roc_auc(np.array(abnormal), torch.cat(scores).cpu().numpy()) if both else None
    return aupr, auroc


def best_smoothing(maps: Tensor, valid: Truth) -> tuple[int, dict[str, float]]:
    """Smoothing with the best pixel AUPR on valid; 3 where it has none."""
    if valid.labels is None:
        return 3, {}
    tried = {k: figures(maps, valid, k)[0] or 0.0 for k in SMOOTHINGS}
    return max(tried, key=tried.__getitem__), {str(k): round(v, 4) for k, v in tried.items()}


def bank_scores(
    paths: list[Path], splits: tuple[Images, Images], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Patch scores of surroundings-bank on both splits."""
    setup = FitContext(
        blocks=1,
        seed=0,
        device=device,
        valid=StoredGrids([]),
        normals=StoredGrids(paths),
        checkpoint=None,
    )
    learned = finish(DETECTORS["surroundings-bank"].learn(StoredGrids(paths), setup))
    detector = learned.detector.to(device)
    first, second = (torch.cat([detector.score(g[None].float()) for g in s.grids]) for s in splits)
    return first, second


def main() -> None:
    """Parse arguments, train, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri")
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--steps", type=int, default=830)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--variants", default=";".join(v.name for v in VARIANTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    device = torch.device(said.device)
    backbone = load_backbone(said.backbone, said.weights, device=device)
    preprocessing = Preprocessing(default_window(said.modality))
    store = FeatureStore(backbone, preprocessing)
    refs = find_slices(said.dataset, modality=said.modality, window=preprocessing.window).train
    list(store.extract(refs))
    paths = store.paths(refs)
    train = torch.cat([load_batch([path]).half() for path in paths]).to(device)
    body = body_patches(list(refs), store).to(device)
    valid, test = (embedded(said.dataset, split, store) for split in ("valid", "test"))
    truths = [Truth.of(images, device) for images in (valid, test)]
    normal = torch.tensor([not item.abnormal for item in valid.items], device=device)
    bank = bank_scores(paths, (valid, test), device)
    rows = []
    known = {variant.name: variant for variant in VARIANTS}
    names = said.variants.split(";")
    runs = [(known[name], int(seed)) for seed in said.seeds.split(",") for name in names]
    for variant, seed in runs:
        begin = time.perf_counter()
        network, change = trained(
            variant, train, body if variant.foreground else None, said.steps, said.batch, seed
        )
        seconds = time.perf_counter() - begin
        some = train[:: max(1, len(train) // MEASURED)]
        with torch.inference_mode(), precision(device):
            residuals = torch.cat(
                [rows_of(network(change(grid[None]))[0].float()) for grid in some]
            )
        on_valid, on_test = (
            scored(network, change, whitenings(residuals), images) for images in (valid, test)
        )
        for measure, valid_maps, test_maps in derived(on_valid, on_test, bank, normal):
            smoothing, tried = best_smoothing(valid_maps, truths[0])
            aupr, auroc = figures(test_maps, truths[1], smoothing)
            rows.append(
                {
                    "variant": variant.name,
                    "seed": seed,
                    "measure": measure,
                    "smoothing": smoothing,
                    "valid_aupr": tried,
                    "test_aupr": aupr and round(aupr, 4),
                    "test_image_auroc": auroc and round(auroc, 4),
                    "train_seconds": round(seconds, 1),
                }
            )
        print(json.dumps(rows[-5]), flush=True)  # noqa: T201
        if said.json:
            record = json.loads(said.json.read_text()) if said.json.exists() else {}
            key = f"{said.dataset.name}, {said.steps} steps of {said.batch}"
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
            record[key] = {"device": name, "backbone": backbone.spec.name, "rows": rows}
            said.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
