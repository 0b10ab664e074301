"""How small the weights that come with the package can be without changing a map.

python benchmarks/embedded_backbone.py FULL DATASET [--json FILE] [--write FILE]

FULL is what `weights pull dinov2_vits14_focus` stores, DATASET in the BMAD layout. Each slice of
its test split is scored by the released models with the weights as they are and rounded in several
ways; compared are patch scores (rank correlation, over all slices and for the worst one) and pixel
AUPR. ``--write`` writes the form that the package ships.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

import napari_spatial_ar as nsar
from napari_spatial_ar.evaluation.evaluate import evaluate
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BACKBONES, OFFLINE_BACKBONE
from napari_spatial_ar.normative.backbones.weight_files import (
    is_used,
    read_weights,
    rounded,
    write_rounded,
)
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import SliceScore

BLOCKS = 7
SHIPPED = torch.float16
MODELS = ("brain-flair-change", "brain-flair-focus")


def to_dtype(dtype: torch.dtype) -> Callable[[Tensor], tuple[Tensor, float]]:
    """Round all to a dtype; gives the values as float32, and bytes."""
    return lambda tensor: (tensor.to(dtype).float(), tensor.numel() * dtype.itemsize)


def to_bits(bits: int, group: int = 0) -> Callable[[Tensor], tuple[Tensor, float]]:
    """Round matrices to whole numbers times a float16 scale a row, or a group of its values."""
    most = 2 ** (bits - 1) - 1

    def form(tensor: Tensor) -> tuple[Tensor, float]:
        if tensor.numel() < 10_000:  # biases, norms, scales
            return to_dtype(torch.float16)(tensor)
        rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim < 4 else tensor.flatten(1)
        rows = rows.reshape(-1, group) if group else rows
        scale = (rows.abs().amax(1, keepdim=True) / most).half().float().clamp_min(1e-7)
        values = (rows / scale).round().clamp(-most - 1, most) * scale
        return values.reshape(tensor.shape), rows.numel() * bits / 8 + 2 * len(rows)

    return form


FORMS: dict[str, Callable[[Tensor], tuple[Tensor, float]]] = {
    "float32": to_dtype(torch.float32),
    "float16": to_dtype(torch.float16),
    "bfloat16": to_dtype(torch.bfloat16),
    "8 bits, a scale a channel": to_bits(8),
    "8 bits, a scale for 64 values": to_bits(8, 64),
}


def backbone_of(state: dict[str, Tensor]) -> Backbone:
    """Build the backbone from any weights; what it has embedded is kept for the next model."""
    spec = replace(BACKBONES[OFFLINE_BACKBONE], pinned_sha256="")
    backbone = Backbone(spec, state, source="rounded", device=torch.device("cpu"))
    compute, kept = backbone.compute, {}

    def once(images: Tensor) -> Tensor:
        key = images.numpy().tobytes()
        if key not in kept:
            kept[key] = compute(images)
        return kept[key]

    backbone.compute = once
    return backbone


def scored(model: NormativeModel, dataset: Path) -> tuple[list[np.ndarray], float]:
    """Smoothed patch scores of each test slice, and pixel AUPR."""
    score_slice, found = model.score_slice, []

    def score(*args: Any, **kwargs: Any) -> SliceScore:
        score = score_slice(*args, **kwargs)
        found.append(model.header.scoring.smooth(torch.from_numpy(score.grid)).numpy().ravel())
        return score

    model.score_slice = score
    return found, evaluate(dataset, model, draws=1).pixel_aupr


def main() -> None:
    """Parse arguments, measure, report, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path)
    said = parser.parse_args()
    full = read_weights(said.full)
    if said.write:
        write_rounded(said.write, *rounded(full, OFFLINE_BACKBONE, BLOCKS, SHIPPED))
        return
    state = {name: tensor for name, tensor in full.items() if is_used(name, BLOCKS)}
    assert backbone_of(dict(state)).sha256 == BACKBONES[OFFLINE_BACKBONE].pinned_sha256
    found: dict[str, Any] = {"data": said.dataset.name, "blocks": BLOCKS, "forms": {}}
    references: dict[str, list[np.ndarray]] = {}
    for name, form in FORMS.items():
        rounds = {n: form(tensor) for n, tensor in state.items()}
        row: dict[str, Any] = {"megabytes": round(sum(b for _, b in rounds.values()) / 1e6, 1)}
        backbone = backbone_of({n: tensor for n, (tensor, _) in rounds.items()})
        for released in MODELS:
            model = nsar.load_model(released, device="cpu")
            model.backbone = backbone
            scores, aupr = scored(model, said.dataset)
            reference = references.setdefault(released, scores)
            row[released] = {
                "rank_correlation": _rank(np.concatenate(scores), np.concatenate(reference)),
                "worst_slice": min(map(_rank, scores, reference)),
                "pixel_aupr": round(aupr, 6),
            }
        found["forms"][name] = row
        print(name, json.dumps(row), flush=True)  # noqa: T201
        if said.json:
            said.json.write_text(json.dumps(found, indent=2) + "\n")


def _rank(one: np.ndarray, other: np.ndarray) -> float:
    return round(float(spearmanr(one, other).statistic), 7)


if __name__ == "__main__":
    main()
