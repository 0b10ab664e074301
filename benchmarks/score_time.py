"""Time to score a slice with each model, against the bare backbone, on the same slices in one run.

python benchmarks/score_time.py SLICES_FOLDER MODEL... [--slices 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.imaging.raster import is_raster, read_raster
from napari_spatial_ar.imaging.windows import apply_window, resolve


def median_ms(work: Callable[[int], object], count: int) -> float:
    """Median milliseconds of a call over indices 0 to count - 1."""
    work(0)  # the first run allocates and is not counted
    seconds = []
    for index in range(count):
        start = time.perf_counter()
        work(index)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.folder.iterdir() if is_raster(p))[: arguments.slices]
    models = [nsar.load_model(name) for name in arguments.models]
    first = models[0]
    pictures = [read_raster(path) for path in paths]
    windows = [resolve(first.header.preprocessing.window, *picture) for picture in pictures]
    units = [
        apply_window(image, *window) for (image, _), window in zip(pictures, windows, strict=True)
    ]
    inputs = [first.header.preprocessing(unit)[None] for unit in units]
    bare = median_ms(lambda i: first.backbone.embed(inputs[i]), len(inputs))
    result = {
        "machine": platform.processor() or platform.machine(),
        "device": str(first.device),
        "threads": torch.get_num_threads(),
        "slices": len(inputs),
        "backbone": first.header.backbone.name,
        "bare_backbone_ms": round(bare, 1),
        "models": {},
    }
    for name, model in zip(arguments.models, models, strict=True):
        whole = median_ms(
            lambda i, m=model: m.score_slice(pictures[i][0], window=windows[i]), len(pictures)
        )
        size = sum(t.numel() * t.element_size() for t in model.detector.tensors().values())
        result["models"][Path(name).name] = {
            "method": model.header.method,
            "ms_per_slice": round(whole, 1),
            "times_bare_backbone": round(whole / bare, 3),
            "tensors_mb": round(size / 1e6, 1),
        }
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
