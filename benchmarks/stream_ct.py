"""Memory and time of scoring a CT of 512 x 512 x 300 voxels, a generated one.

python benchmarks/stream_ct.py MODEL [--slices 300] [--side 512] [--json FILE]

Reading, the first heatmap, the whole scan and writing its results are timed apart, in one process
that does nothing else; its largest resident memory is that of all of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.review.batch import score_scan

FIRST_MOST_S = 0.2  # beyond the time of one slice
PEAK_MOST_MB = 3000
_REPEATS = 5


def peak_mb() -> int:
    """Largest resident memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))


def write_ct(path: Path, slices: int, side: int) -> None:
    """Write a body with lungs, spine and noise in Hounsfield units, one slice at a time."""
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    volume = np.empty((slices, side, side), np.float32)
    rng = np.random.default_rng(0)

    def disc(y: float, x: float, height: float, width: float) -> npt.NDArray[np.bool_]:
        return np.asarray(((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1)

    for z in range(slices):
        size = 0.8 + 0.2 * np.sin(np.pi * z / slices)
        plane = np.full((side, side), -1000.0)
        plane[disc(0, 0, 0.3 * size, 0.42 * size)] = 45
        for x in (-0.18, 0.18):
            plane[disc(-0.02, x, 0.16 * size, 0.12 * size)] = -850
        plane[disc(0.2, 0, 0.05, 0.05)] = 400
        volume[z] = plane + rng.normal(0, 18, plane.shape)
    affine = np.diag([-0.8, -0.8, 1.5, 1.0])
    write_nifti(path, np.rint(volume).astype(np.int32), Geometry(volume.shape, affine))


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scan = arguments.scan
        if scan is None:
            # In a process of its own: what it needs is not to be counted.
            import multiprocessing

            scan = Path(folder, "ct.nii.gz")
            size = arguments.slices, arguments.side
            writer = multiprocessing.get_context("spawn").Process(
                target=write_ct, args=(scan, *size)
            )
            writer.start()
            writer.join()
        result = measure(arguments.model, scan, Path(folder, "out"))
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")


def measure(name: str, scan: Path, out: Path) -> dict[str, Any]:
    """Time each part, and see how much memory was needed."""
    model = nsar.load_model(name)
    backbone = model.backbone  # loaded before anything is timed
    start = time.perf_counter()
    (volume,) = nsar.read(scan)
    read = time.perf_counter() - start
    after_reading = peak_mb()
    middle = volume.geometry.slice_count // 2

    def slice_seconds(index: int) -> float:
        begin = time.perf_counter()
        next(iter(model.iter_volume(volume, [index])))
        return time.perf_counter() - begin

    first = slice_seconds(middle)
    window_and_slice = [slice_seconds(middle + n) for n in range(1, _REPEATS + 1)]
    alone = []
    steps = model.iter_volume(volume, range(middle, middle + _REPEATS + 1))
    next(steps)  # which has found the window
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        next(steps)
        alone.append(time.perf_counter() - begin)
    steps.close()
    one = statistics.median(alone)
    scored: list[float] = []
    start = time.perf_counter()
    score_scan(
        volume,
        model,
        out,
        threshold=model.threshold_for_fpr(0.01),
        fpr=0.01,
        progress=lambda *_: scored.append(time.perf_counter()),
    )
    whole = time.perf_counter() - start
    return {
        "machine": platform.processor() or platform.machine(),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "model": Path(name).name,
        "backbone": backbone.spec.name,
        "shape_zyx": list(volume.geometry.shape),
        "read_s": round(read, 2),
        "one_slice_s": round(one, 3),
        "first_heatmap_s": round(first, 3),
        "first_heatmap_later_s": round(statistics.median(window_and_slice), 3),
        "first_heatmap_in_time": first <= one + FIRST_MOST_S,
        "score_s": round(scored[-1] - start, 1),
        "write_s": round(whole - (scored[-1] - start), 1),
        "peak_mb_after_reading": after_reading,
        "peak_mb": peak_mb(),
        "peak_in_bounds": peak_mb() < PEAK_MOST_MB,
    }


if __name__ == "__main__":
    main()
