"""Time and memory to list a folder of DICOM slices, to show the first, and to read every one.

python benchmarks/list_dicom.py [--slices 1000] [--size 512] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from ct_series import ct_slice
from pydicom.uid import generate_uid

from napari_spatial_ar.imaging.reading import find_scans


def write_folder(folder: Path, slices: int, size: int) -> None:
    """Write a CT as a scanner does: one file a slice, about 120 attributes each."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 4096, (size, size), dtype=np.uint16)
    uids = generate_uid(), generate_uid()
    for number in range(slices):
        stored = np.roll(pixels, number, axis=1)
        corner = (-180, -180, round(-500 + 0.7 * number, 2))
        dataset = ct_slice(stored, number, uids, corner=corner, spacing=0.7, thickness=0.7)
        dataset.WindowCenter, dataset.WindowWidth = [40, -600], [400, 1500]
        block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
        for element in range(0x10, 0x60):  # makers write as much again of their own
            block.add_new(element, "LO", f"value {element}")
        pydicom.dcmwrite(folder / f"IM{number:05}", dataset, enforce_file_format=True)


def peak_mb() -> float:
    """Most memory this process held, MB (Linux: getrusage would count its parent's too)."""
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(peak) / 1024, 1)


def measure(folder: Path) -> dict[str, float]:
    """List, show the first slice, read all lazily; with files in the system's cache."""
    at_start = peak_mb()
    start, at_work = time.perf_counter(), time.process_time()
    (scan,) = find_scans(folder).scans
    listed, worked = time.perf_counter() - start, time.process_time() - at_work
    mb_listed = peak_mb()
    scan.slice(0)
    shown = time.perf_counter() - start
    volume = scan.read(lazy=True)
    start = time.perf_counter()
    for index in range(volume.geometry.slice_count):
        volume.slice(index)
    return {
        "seconds_to_list": round(listed, 2),
        "cpu_seconds_to_list": round(worked, 2),
        "seconds_to_first_slice": round(shown, 2),
        "seconds_to_read_every_slice": round(time.perf_counter() - start, 2),
        "peak_rss_mb_before": at_start,
        "peak_rss_mb_listed": mb_listed,
        "peak_rss_mb_every_slice": peak_mb(),
    }


def main() -> None:
    """Parse arguments, write a folder, measure in a fresh process, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as name:
        write_folder(Path(name), arguments.slices, arguments.size)
        command = [sys.executable, __file__, "--measure", name]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            for _ in range(3)
        ]
    result = {
        "machine": platform.processor() or platform.machine(),
        "load_average": round(os.getloadavg()[0], 1),  # other work slows it: compare CPU seconds
        "slices": arguments.slices,
        "size": arguments.size,
        "whole_scan_as_float32_mb": round(arguments.slices * arguments.size**2 * 4 / 2**20, 1),
        "best_of_3": {key: min(run[key] for run in runs) for key in runs[0]},
        "runs": runs,
    }
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
