"""Where the time of a slice goes, part by part, with models of one backbone in one run.

python benchmarks/slice_parts.py MODEL... [--repeats 15] [--json FILE]

A slice of the sample scan; the parts of each model are timed in turn with those of the others, and
each has the median of its times. Parts of change-novelty stand below what they belong to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.imaging.samples import sample_volume
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative.detectors.change_novelty import ChangeNovelty
from napari_spatial_ar.normative.detectors.surroundings_bank import describe
from napari_spatial_ar.normative.model import NormativeModel


def parts_of(model: NormativeModel) -> dict[str, Callable[[], object]]:
    """Name the parts of scoring a slice, each ready to be called."""
    volume, seen = sample_volume(), model.header.preprocessing
    image, ends = volume.slice(12), resolve(seen.window, volume)
    unit = apply_window(image, *ends)
    shown = seen(unit)[None]
    grid, detector, scoring = model.backbone.embed(shown), model.detector, model.header.scoring
    patches, divisor = detector.score(grid), detector.heatmap_divisor
    found: dict[str, Callable[[], object]] = {
        "whole slice": lambda: model.score_slice(image, window=ends),
        "window": lambda: apply_window(image, *ends),
        "resize and normalise": lambda: seen(unit),
        "backbone": lambda: model.backbone.embed(shown),
        "method": lambda: detector.all_scores(grid),
    }
    if isinstance(detector, ChangeNovelty):
        change, novelty = detector.change, detector.other
        described = describe(grid)
        ours, theirs = (part.whitening.of_described(described) for part in (change, novelty))
        found |= {
            "method: describe": lambda: describe(grid),
            "method: whiten, twice": lambda: [
                part.whitening.of_described(described) for part in (change, novelty)
            ],
            "method: change": lambda: change.odds(ours),
            "method: bank": lambda: novelty.distances(theirs),
        }
    return found | {"smooth and enlarge": lambda: scoring.maps(patches, unit.shape, divisor)}


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    models = {name: nsar.load_model(name, device="cpu") for name in said.models}
    works = {name: parts_of(model) for name, model in models.items()}
    seconds: dict[tuple[str, str], list[float]] = {}
    with torch.inference_mode():
        for number in range(said.repeats + 2):
            for name, parts in works.items():
                for part, work in parts.items():
                    begin = time.perf_counter()
                    work()
                    if number > 1:
                        taken = time.perf_counter() - begin
                        seconds.setdefault((name, part), []).append(taken)
    ms = {
        name: {part: round(1000 * statistics.median(seconds[name, part]), 2) for part in parts}
        for name, parts in works.items()
    }
    for parts in ms.values():
        parts["whole over backbone"] = round(parts["whole slice"] / parts["backbone"], 3)
    text = json.dumps({"threads": torch.get_num_threads(), "ms": ms}, indent=2)
    print(text)  # noqa: T201
    if said.json:
        said.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
