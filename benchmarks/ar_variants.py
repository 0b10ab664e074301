"""Variants of the AR of the default method, each scored by distance, by direction and by both.

python benchmarks/ar_variants.py DATASET [--modality mri|ct|oct] [--seeds 0 1 2]
    [--variants "default;averaged weights"] [--steps 240] [--work FOLDER] [--json FILE]
    [--machine NAME]

DATASET is in the BMAD layout. Each variant differs in one thing from the default AR: Gaussian, on
whitened embeddings without air, dilations 1-2-4-2-1, AdamW in one cycle of 240 steps of 8 slices.
F and mu are compared as means over 3 x 3 patches, as in `SpatialARDetector`; "both" is direction
and a quarter of the distance, each in standard deviations of held-out normal patches. Heatmaps are
not smoothed otherwise. Embeddings and scores are kept in --work, which spatial_ar_change.py shares,
and not computed again; the --json file keeps the figures of other data sets.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ar_ablation import Images, Truth, figures
from change_detector import Split
from safetensors.torch import load_file, save_file
from spatial_ar_change import Grids
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.evaluation.candidates import label_of
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.windows import default_window
from napari_spatial_ar.normative.detectors.ar_network import MaskedConv2d, Sees
from napari_spatial_ar.normative.detectors.ar_training import precision, turn
from napari_spatial_ar.normative.detectors.grids import StoredGrids
from napari_spatial_ar.normative.detectors.whitening import EqualVariance
from napari_spatial_ar.normative.heatmap import mean_around
from napari_spatial_ar.normative.preprocessing import Preprocessing

_DILATIONS, _HIDDEN, _BATCH, _RATE, _WARM_UP = (1, 2, 4, 2, 1), 256, 8, 2e-3, 0.1
_AROUND, _SHARE = 3, 0.25
_LOOSE, _AVERAGED = 0.1, 0.98
#: Sides of the blocks of patches that an any-order network predicts together.
_BLOCKS = (1, 2, 4, 8)
_SCORED_BLOCK = 4
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Variant:
    """Differences from the default AR."""

    name: str
    #: Transformer blocks whose embeddings are joined; none: those of the backbone's own default.
    layers: tuple[int, ...] = ()
    context: str = "causal"  # "bidirectional", or "any-order": blocks from all around them
    rasters: int = 1
    averaged: bool = False
    dropout: float = 0.0  # of the channels of an embedding, in training
    #: Gradients of the best predicted patches are scaled down, as in Dinomaly.
    loose: bool = False
    means: int = 1  # of a mixture
    rank: int = 0  # of the covariance of residuals, beside a multiple of the identity
    beside: bool = False  # the slice before is context too
    hidden: int = _HIDDEN
    steps: float = 1.0  # times as many
    by_direction: bool = False  # von Mises-Fisher, in training too


VARIANTS = (
    Variant("default"),
    Variant("trained by direction", by_direction=True),
    Variant("averaged weights", averaged=True),
    Variant("both rasters", rasters=2),
    Variant("bidirectional", context="bidirectional"),
    Variant("any order", context="any-order"),
    Variant("slice before", beside=True),
    Variant("loose loss", loose=True),
    Variant("dropout of a fifth of the input", dropout=0.2),
    Variant("mixture of 4", means=4),
    Variant("covariance of rank 64", rank=64),
    Variant("blocks 5 and 7", layers=(5, 7)),
    Variant("twice the steps", steps=2.0),
    Variant("512 hidden channels", hidden=512),
)


class Network(nn.Module):
    """Spatial AR with a variant's context and outputs, on whitened grids without NaN."""

    def __init__(self, channels: int, variant: Variant) -> None:
        super().__init__()
        self.channels, self.variant = channels, variant
        first: Sees = {"causal": "A", "bidirectional": "hollow", "any-order": "open"}[
            variant.context
        ]
        rest: Sees = "B" if variant.context == "causal" else "open"
        last = len(_DILATIONS) - 1
        means = variant.means
        outputs = channels * means + (means if means > 1 else 0)
        widths = [
            channels + (variant.context == "any-order"),
            *[variant.hidden] * last,
            outputs,
        ]
        self.layers = nn.ModuleList(
            MaskedConv2d(
                widths[n], widths[n + 1], kernel=3, dilation=dilation, sees=rest if n else first
            )
            for n, dilation in enumerate(_DILATIONS)
        )
        self.of_before = (
            MaskedConv2d(channels, variant.hidden, kernel=3, dilation=1, sees="open")
            if variant.beside
            else None
        )

    def forward(self, grid: Tensor, before: Tensor | None, hidden: Tensor | None) -> Tensor:
        """Means and, of a mixture, log odds: (B, D, Hp, Wp) or (B, K (D + 1), Hp, Wp)."""
        if hidden is not None:
            grid = torch.cat([grid.masked_fill(hidden, 0), hidden.to(grid.dtype)], dim=1)
        for number, layer in enumerate(self.layers):
            grid = layer(functional.relu(grid) if number else grid)
            if not number and self.of_before is not None and before is not None:
                grid = grid + self.of_before(before)
        return grid

    def predicted(
        self, grid: Tensor, before: Tensor | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean of each patch, that of its likeliest component in a mixture, and NLL per channel."""
        shown = grid
        if self.training and self.variant.dropout:
            shown = functional.dropout2d(grid, self.variant.dropout)
        with precision(_CPU):
            out = self(shown, before, hidden).float()
        if self.variant.by_direction:
            cosine = functional.cosine_similarity(grid, out, dim=1)
            return out, (1 - cosine) / 0.1
        if self.variant.means == 1:
            return out, (grid - out).square().mean(dim=1) / 2
        count = self.variant.means
        odds = out[:, -count:].log_softmax(dim=1)
        means = out[:, :-count].unflatten(1, (count, self.channels))
        joint = odds - (grid[:, None] - means).square().sum(dim=2) / 2
        likeliest = joint.argmax(dim=1)[:, None, None].expand(-1, 1, self.channels, -1, -1)
        return means.gather(1, likeliest)[:, 0], -joint.logsumexp(dim=1) / self.channels


@dataclass(frozen=True)
class Stack:
    """Whitened grids (N, D, Hp, Wp) float16, NaN where a patch was skipped, and each one's before.

    ``before`` holds the index of the nearest earlier slice of the patient, -1 if there is none.
    """

    grids: Tensor
    before: Tensor

    def batch(self, numbers: Tensor, turned: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Grids and those before them with zeros for NaN, and which patches are there."""
        some = self.grids[numbers].float()
        earlier = self.before[numbers]
        others = self.grids[earlier.clamp_min(0)].float().nan_to_num(0)
        others = others * (earlier >= 0)[:, None, None, None]
        present = ~some[:, :1].isnan()
        found = some.nan_to_num(0), others, present
        grids, others, present = (turn(one) for one in found) if turned else found
        packed = torch.channels_last
        return (
            grids.contiguous(memory_format=packed),
            others.contiguous(memory_format=packed),
            present,
        )


def stack_of(splits: Sequence[Split], whitening: EqualVariance) -> Stack:
    """Whiten and stack splits; a slice before may be in another folder of the same split."""
    grids = torch.cat([whitening(grid).half() for split in splits for grid in split])
    items = [item for split in splits for item in split.items]
    place = [int(re.findall(r"\d+", item.image.stem)[-1]) for item in items]
    before = []
    for item, own in zip(items, place, strict=True):
        earlier = [
            (where, number)
            for number, (other, where) in enumerate(zip(items, place, strict=True))
            if other.group == item.group and where < own
        ]
        before.append(max(earlier)[1] if earlier else -1)
    return Stack(grids, torch.tensor(before))


def blocks(shape: Sequence[int], side: int, phase: int) -> Tensor:
    """(Hp, Wp) bool: one of four phases of a pattern of blocks that covers the grid once."""
    rows, columns = (torch.arange(n) // side % 2 for n in shape)
    return (2 * rows[:, None] + columns[None]) == phase


def trained(variant: Variant, train: Stack, steps: int, seed: int, turned: bool) -> Network:
    """Train one network."""
    torch.manual_seed(seed)
    network = Network(train.grids.shape[1], variant)
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(_AVERAGED)
    )
    steps = round(steps * variant.steps)
    warm = _WARM_UP * steps
    order = torch.cat(
        [torch.randperm(len(train.grids)) for _ in range(-(-steps * _BATCH // len(train.grids)))]
    )
    for step in range(steps):
        rate = (
            (step + 1) / warm
            if step < warm
            else (1 + np.cos(np.pi * (step - warm) / (steps - warm))) / 2
        )
        optimizer.param_groups[0]["lr"] = _RATE * min(1.0, rate)
        grid, before, counted = train.batch(order[step * _BATCH :][:_BATCH], turned)
        hidden = None
        if variant.context == "any-order":
            side = _BLOCKS[int(torch.randint(len(_BLOCKS), ()))]
            hidden = blocks(grid.shape[2:], side, int(torch.randint(4, ()))).expand_as(counted)
            counted = counted & hidden
        _, nll = network.predicted(grid, before if variant.beside else None, hidden)
        weight = counted[:, 0].float()
        if variant.loose:
            share = 0.9 * min(1.0, 2 * step / steps)
            least = torch.quantile(nll.detach()[counted[:, 0]], share)
            weight = weight * torch.where(nll.detach() < least, _LOOSE, 1.0)
        optimizer.zero_grad(set_to_none=True)
        ((nll * weight).sum() / weight.sum().clamp_min(1)).backward()
        optimizer.step()
        averaged.update_parameters(network)
    best = averaged.module if variant.averaged else network
    assert isinstance(best, Network)
    return best.eval()


@torch.inference_mode()
def means_of(network: Network, stack: Stack, turned: bool) -> Tensor:
    """Predicted mean of each patch, (N, D, Hp, Wp) float16, the way the grids are stored."""
    found = []
    for numbers in torch.arange(len(stack.grids)).split(_BATCH):
        grid, before, _ = stack.batch(numbers, turned)
        others = before if network.variant.beside else None
        if network.variant.context == "any-order":
            mean = torch.zeros_like(grid)
            for phase in range(4):
                hidden = blocks(grid.shape[2:], _SCORED_BLOCK, phase).expand(len(grid), 1, -1, -1)
                mean = torch.where(hidden, network.predicted(grid, others, hidden)[0], mean)
        else:
            mean = network.predicted(grid, others, None)[0]
        found.append((turn(mean) if turned else mean).half())
    return torch.cat(found)


def residual_matrix(stack: Stack, means: Tensor, rank: int) -> Tensor:
    """(D, D): whitens residuals of normal patches; their covariance is of low rank plus sigma^2 I.

    The maximum-likelihood estimate of Tipping and Bishop (1999), equations 7 and 8.
    """
    residuals = (stack.grids - means).movedim(1, -1).flatten(0, 2).float()
    rows = residuals[~residuals[:, 0].isnan()][::4].double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    rest = values[:-rank].mean()
    scale = torch.cat([rest.expand(len(values) - rank), values[-rank:]]) ** -0.5
    return ((vectors * scale) @ vectors.T).float()


@torch.inference_mode()
def distances(stack: Stack, means: Tensor, matrix: Tensor | None) -> Tensor:
    """1 - cos(F, mu) and |F - mu|^2 / 2 of means around, (2, N, Hp, Wp) float32."""
    found = []
    for seen, mean in zip(stack.grids.split(_BATCH), means.split(_BATCH), strict=True):
        grid = seen.float()
        pair = [grid, mean.float().masked_fill(grid[:, :1].isnan(), torch.nan)]
        if matrix is not None:
            pair = [(one.movedim(1, -1) @ matrix).movedim(-1, 1) for one in pair]
        a, b = (mean_around(one, _AROUND) for one in pair)
        apart = 1 - functional.cosine_similarity(a, b, dim=1)
        found.append(torch.stack([apart, (a - b).square().sum(dim=1) / 2]))
    return torch.cat(found, dim=1)


def scores_of(
    variant: Variant, stacks: dict[str, Stack], steps: int, seed: int
) -> dict[str, Tensor]:
    """`distances` of valid and test, means over the rasters."""
    found: dict[str, Tensor] = {}
    for raster in range(variant.rasters):
        network = trained(variant, stacks["train"], steps, seed, bool(raster))
        matrix = None
        if variant.rank:
            train = stacks["train"]
            matrix = residual_matrix(train, means_of(network, train, bool(raster)), variant.rank)
        for name in ("valid", "test"):
            means = means_of(network, stacks[name], bool(raster))
            own = distances(stacks[name], means, matrix) / variant.rasters
            found[name] = found[name] + own if name in found else own
    return found


def truth_of(split: Split) -> Truth:
    """Labels and sizes of the images of a split."""
    shapes = [read_raster(item.image)[0].shape for item in split.items]
    labels = [label_of(item, shape) for item, shape in zip(split.items, shapes, strict=True)]
    labelled = [n for n, label in enumerate(labels) if label is not None]
    flat = [np.asarray(labels[n]).ravel() > 0 for n in labelled]
    every = torch.from_numpy(np.concatenate(flat)) if flat else None
    some = every if every is not None and every.any() else None
    return Truth(Images(split.items, shapes, []), some, labelled)


def main() -> None:
    """Parse arguments, train, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--modality", default="mri", choices=["mri", "ct", "oct"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", default=";".join(one.name for one in VARIANTS))
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--backbone", default="dinov2_vits14_focus")
    parser.add_argument("--work", type=Path, default=Path("spatial_ar_change_work"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    said = parser.parse_args()
    shown = Preprocessing(default_window(said.modality), skip_air=True)
    known = {one.name: one for one in VARIANTS}
    of_layers: dict[tuple[int, ...], dict[str, Stack]] = {}
    truths: dict[str, Truth] = {}
    for seed in said.seeds:
        for variant in (known[name] for name in said.variants.split(";")):
            joined = "".join(f"-{block}" for block in variant.layers)
            work = said.work / f"{said.dataset.name}-without-air{joined and '-blocks' + joined}"
            work.mkdir(parents=True, exist_ok=True)
            splits = {
                name: Split(said.dataset, name, shown, said.backbone, work, variant.layers or None)
                for name in ("train", "valid", "test")
            }
            truths = truths or {name: truth_of(splits[name]) for name in ("valid", "test")}
            path = (
                work / f"variant-{variant.name.replace(' ', '-')}-{said.steps}-{seed}.safetensors"
            )
            begin = time.perf_counter()
            if not path.exists():
                if variant.layers not in of_layers:
                    of_layers.clear()
                    every = list(range(len(splits["train"].items)))
                    stored: StoredGrids = Grids(splits["train"], every).stored(work / "normal")
                    whitening = EqualVariance.measured(stored.paths, _CPU)
                    of_layers[variant.layers] = {
                        name: stack_of([splits[name]], whitening) for name in splits
                    }
                save_file(scores_of(variant, of_layers[variant.layers], said.steps, seed), path)
            seconds = time.perf_counter() - begin
            row = figures_of_scores(load_file(path), splits["valid"].abnormal, truths)
            print(variant.name, seed, round(seconds), "s", json.dumps(row), flush=True)  # noqa: T201
            if said.json:
                keep(said.json, said.dataset.name, said.machine, variant.name, seed, row)


def figures_of_scores(
    scores: dict[str, Tensor], abnormal: np.ndarray, truths: dict[str, Truth]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Pixel AUPR and image AUROC of each split, by the score."""
    normal = scores["valid"][:, torch.from_numpy(~abnormal)].flatten(1)
    spread = torch.stack([one[~one.isnan()].std() for one in normal])[:, None, None, None]
    row: dict[str, dict[str, dict[str, float | None]]] = {}
    for split, truth in truths.items():
        direction, distance = scores[split] / spread
        maps = {
            "direction": direction,
            "distance": distance,
            "both": direction + _SHARE * distance,
        }
        for name, one in maps.items():
            aupr, auroc = figures(one, truth, 1)
            row.setdefault(name, {})[split] = {
                "pixel_aupr": aupr and round(aupr, 4),
                "image_auroc": auroc and round(auroc, 4),
            }
    return row


def keep(path: Path, dataset: str, machine: str, variant: str, seed: int, row: object) -> None:
    """Add a row to the file of figures."""
    record = json.loads(path.read_text()) if path.exists() else {}
    of_set = record.setdefault(dataset, {"machine": machine, "rows": {}})
    of_set["rows"].setdefault(variant, {})[str(seed)] = row
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
