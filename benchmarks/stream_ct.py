"""Memory and time of scoring a CT of 512 x 512 x 300 voxels, a generated DICOM series.

python benchmarks/stream_ct.py MODEL [--slices 12] [--scan-slices 300] [--side 512] [--json FILE]

The series is read slice by slice. `--slices` are scored, from the middle on: once memory has
stopped growing with them and a slice takes as long as the one before, all the others would tell
the same. Results are those of the whole scan all the same, with the scores of one of these in
every other slice, so what holding and writing them takes is in the largest resident memory. It
is that of one process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
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
import pydicom
import torch
from ct_series import ct_slice
from pydicom.uid import generate_uid

import napari_spatial_ar as nsar
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.windows import resolve
from napari_spatial_ar.review.outputs import write_scan_outputs

FIRST_MOST_S = 0.2  # beyond the time of one slice
PEAK_MOST_MB = 3000


def peak_mb() -> int:
    """Largest resident memory of this process so far, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage counts the parent's too
        (peak,) = (n for n in status.read_text().splitlines() if n.startswith("VmHWM"))
        return round(int(peak.split()[1]) * 1024 / 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))


def write_ct(folder: Path, slices: int, side: int) -> None:
    """Write a body with lungs, spine and noise in Hounsfield units, one file a slice."""
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 18, (side, side))
    uids = generate_uid(), generate_uid()

    def disc(y: float, x: float, height: float, width: float) -> npt.NDArray[np.bool_]:
        return np.asarray(((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1)

    for z in range(slices):
        size = 0.8 + 0.2 * np.sin(np.pi * z / slices)
        plane = np.full((side, side), -1000.0)
        plane[disc(0, 0, 0.3 * size, 0.42 * size)] = 45
        for x in (-0.18, 0.18):
            plane[disc(-0.02, x, 0.16 * size, 0.12 * size)] = -850
        plane[disc(0.2, 0, 0.05, 0.05)] = 400
        plane += np.roll(noise, rng.integers(0, side, 2).tolist(), axis=(0, 1))
        stored = np.clip(np.rint(plane + 1024), 0, 4095).astype(np.uint16)
        corner = (-200, -200, -200 + 1.5 * z)
        dataset = ct_slice(stored, z, uids, corner=corner, spacing=0.8, thickness=1.5)
        pydicom.dcmwrite(folder / f"IM{z:05}", dataset, enforce_file_format=True)


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--slices", type=int, default=12, help="slices to score (4 or more)")
    parser.add_argument("--scan-slices", type=int, default=300, help="slices of the scan")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of a slice")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not 4 <= arguments.slices <= arguments.scan_slices:
        parser.error("--slices must be from 4 to --scan-slices")
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder, "ct")
        scan.mkdir()
        # In a process of its own: what it needs is not to be counted.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_ct, args=(scan, arguments.scan_slices, arguments.side)
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            parser.exit(1, "The scan could not be written.\n")
        result = measure(arguments.model, scan, Path(folder, "out"), arguments.slices)
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")


def measure(name: str, scan: Path, out: Path, count: int) -> dict[str, Any]:
    """Time each part, and see how much memory was needed."""
    model = nsar.load_model(name, device="cpu")
    middle = model.backbone.patch * 16
    model.score_slice(np.random.default_rng(0).random((middle, middle), np.float32))  # loads all
    at_start, load = peak_mb(), os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    start = time.perf_counter()
    (found,) = find_scans(scan).scans
    volume = found.read(lazy=True)
    listed = time.perf_counter() - start
    slices = volume.geometry.slice_count
    order = range((slices - count) // 2, (slices - count) // 2 + count)

    volume.slice(slices // 2)  # as whoever looks at it has seen one before it is scored
    # What the first heatmap needs beside one slice: the window, from slices all over the scan. The
    # Review dock has it before anyone can press a button: it compares the scan with the model.
    start, at_work = time.perf_counter(), time.process_time()
    resolve(model.header.preprocessing.window, volume)
    window, window_cpu = time.perf_counter() - start, time.process_time() - at_work

    times, peaks, start = [], [], time.perf_counter()

    def scored(*_: object) -> None:
        times.append(time.perf_counter())
        peaks.append(peak_mb())

    score = model.score_volume(volume, order, scored)
    seconds = np.diff([start, *times]).tolist()
    one, first = statistics.median(seconds[1:]), window + seconds[0]
    # Memory that nobody has written to is none yet: every slice gets the scores of one of them.
    for index in set(range(slices)) - set(order):
        score.nll[index] = score.nll[order[index % count]]
    full = peak_mb()
    start = time.perf_counter()
    write_scan_outputs(
        out,
        volume,
        score,
        model,
        threshold=model.threshold_for_fpr(0.01),
        fpr=0.01,
        montage_too=True,
    )
    written = time.perf_counter() - start
    half = len(peaks) // 2
    return {
        "machine": platform.processor() or platform.machine(),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "load_average_at_start": None if load is None else round(load, 1),
        "model": Path(name).name,
        "backbone": model.backbone.spec.name,
        "engine": model.engine,
        "shape_zyx": list(volume.geometry.shape),
        "slices_scored": count,
        "list_s": round(listed, 2),
        "one_slice_s": round(one, 3),
        "one_slice_s_least_and_most": [round(f(seconds[1:]), 3) for f in (min, max)],
        "window_s": round(window, 3),
        "window_cpu_s": round(window_cpu, 3),
        "first_heatmap_s": round(first, 3),
        "first_heatmap_times_one_slice": round(first / one, 2),
        "first_heatmap_in_time": first <= one + FIRST_MOST_S,
        "first_heatmap_where_the_window_is_known_s": round(seconds[0], 3),
        "all_slices_would_take_s": round(first + one * (slices - 1)),
        "write_s": round(written, 1),
        "peak_mb_before_the_scan": at_start,
        "peak_mb_first_slice": peaks[0],
        "peak_mb_half_of_the_slices": peaks[half],
        "peak_mb_scored": peaks[-1],
        "peak_mb_scores_of_all_slices": full,
        "peak_mb_with_results_written": peak_mb(),
        "peak_in_bounds": peak_mb() < PEAK_MOST_MB,
    }


if __name__ == "__main__":
    main()
