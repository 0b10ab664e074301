"""Time of the GUI thread for a step of the threshold: the mask of the slice in view, in napari.

QT_API=pyqt6 xvfb-run -a python benchmarks/mask_drag.py [--size 512] [--slices 48] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.review.mask import MaskController
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.review.masks import MaskSettings

SETTINGS = {
    "threshold alone": MaskSettings(),
    "hysteresis": MaskSettings(hysteresis=3.0),
    "smoothing 1.5 mm": MaskSettings(smoothing_mm=1.5),
    "fill holes": MaskSettings(fill_holes=True),
    "everything": MaskSettings(
        body_only=True,
        hysteresis=3.0,
        smoothing_mm=1.5,
        fill_holes=True,
        min_area_mm2=20,
        min_size_mm3=100,
    ),
}


def scored_scan(viewer: napari.Viewer, slices: int, size: int) -> Session:
    """Make a session of a disc of tissue whose scores have many regions, holes and bridges."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    disc = (rows**2 + columns**2 < 0.2).astype(np.float32)
    data = disc * random.uniform(100, 200, (slices, 1, 1)).astype(np.float32)
    volume = Scan(data, Geometry(data.shape, np.diag([-0.5, -0.5, 3, 1.0])), "mri", Series("a"))
    layer = viewer.add_image(**volume_layer_kwargs(volume))
    session = Session(viewer, layer, load_model("brain-flair-focus"))  # scores are put in by hand
    noise = ndimage.gaussian_filter(random.normal(size=data.shape), (0, 10, 10))
    session.score.nll[...] = disc * (1.2 + noise / noise.std())
    session.score.visited[:] = True
    session.score.image_scores[:] = 1
    return session


def main() -> None:
    """Parse arguments, drag, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--machine", default="2 cores, AVX512-BF16, no GPU")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    viewer = napari.Viewer()
    session = scored_scan(viewer, arguments.slices, arguments.size)
    owner = QObject()
    masks = MaskController(viewer, TaskHost(owner), owner, lambda session: None)
    masks.set_session(session)
    result: dict[str, object] = {
        "machine": arguments.machine,
        "load_average": round(os.getloadavg()[0], 1),  # other work slows it: compare CPU ms
        "slices": arguments.slices,
        "size": arguments.size,
        "steps": arguments.steps,
    }
    times: dict[str, dict[str, float]] = {}
    for name, settings in SETTINGS.items():
        masks.set_settings(settings)
        viewer.dims.set_point(0, arguments.slices // 2 * 3.0)
        while not masks.settled:
            QApplication.processEvents()
        spent = []
        for threshold in np.linspace(0.5, 2.5, arguments.steps):
            begin, worked = time.perf_counter(), time.thread_time()
            masks.set_threshold(float(threshold))
            taken = time.perf_counter() - begin, time.thread_time() - worked
            QApplication.processEvents()
            spent.append(np.multiply(1000, (*taken, time.thread_time() - worked)))
        begin = time.perf_counter()
        while not masks.settled:
            QApplication.processEvents()
        whole = time.perf_counter() - begin
        wall, cpu, drawn = zip(*spent, strict=True)
        times[name] = {
            "mask_ms_fastest": round(min(wall), 1),
            "mask_ms_median": round(statistics.median(wall), 1),
            "mask_cpu_ms_median": round(statistics.median(cpu), 1),
            "mask_and_events_cpu_ms_median": round(statistics.median(drawn), 1),
            "volume_follows_after_s": round(whole, 2),
        }
    result["ms"] = times
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")
    viewer.close()


if __name__ == "__main__":
    main()
