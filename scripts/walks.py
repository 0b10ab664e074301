"""Count the modules of this package that run on three walks through it.

    python scripts/walks.py [WALK] [--list]

A module runs on a walk if one of its functions is called; being imported does not count. The
walks are the three that a newcomer to the code takes first:

- ``drop``: a file dropped on the Review dock, until its layer is there;
- ``score``: *Score whole volume* pressed in the Review dock, until mask and findings are there;
- ``fit``: ``napari-spatial-ar fit FOLDER``, until the model is written.

The first two open a window and need a display (``xvfb-run`` gives one).
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import nibabel as nib
import numpy as np

import napari_spatial_ar
from napari_spatial_ar.imaging.samples import sample_path

ROOT = Path(napari_spatial_ar.__file__).parent
SECONDS = 300.0


class Walk:
    """The package's modules whose functions are called while it is on, in any thread."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.on = False

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        # The bodies of modules and classes run on import.
        if self.on and event == "call" and frame.f_code.co_flags & inspect.CO_NEWLOCALS:
            self.files.add(frame.f_code.co_filename)

    def start(self) -> None:
        """Watch this thread, those started from now on, and the workers of Qt's pool."""
        from superqt.utils import WorkerBase

        run = WorkerBase.run

        def watched(worker: WorkerBase) -> None:
            sys.setprofile(self._called)
            run(worker)

        WorkerBase.run = watched
        threading.setprofile(self._called)
        self.on = True
        sys.setprofile(self._called)

    def modules(self) -> list[str]:
        """Give the names of the modules, without the package's own."""
        self.on = False
        sys.setprofile(None)
        inside = [Path(name) for name in self.files if Path(name).is_relative_to(ROOT)]
        return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in inside)


def wait(until: Callable[[], bool]) -> None:
    """Run Qt's events until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + SECONDS
    while not until():
        if time.monotonic() > end:
            raise SystemExit("This walk did not come to its end.")
        QApplication.processEvents()
        time.sleep(0.01)


def review_dock() -> tuple[Any, Any]:
    """Open napari with the Review dock, and let both settle."""
    import napari

    viewer = napari.Viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-spatial-ar", "Review")
    wait(lambda: dock.model_box.count() > 0)
    return viewer, dock


def drop(walk: Walk) -> None:
    """Drop the sample on the Review dock."""
    from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
    from qtpy.QtGui import QDropEvent

    viewer, dock = review_dock()
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(sample_path()))])
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    walk.start()
    dock.dropEvent(QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, data, buttons, keys))
    wait(lambda: len(viewer.layers) > 0)


def score(walk: Walk) -> None:
    """Open the sample and press *Score whole volume*."""
    from qtpy.QtWidgets import QPushButton

    viewer, dock = review_dock()
    viewer.open(str(sample_path()), plugin="napari-spatial-ar")
    button = next(b for b in dock.findChildren(QPushButton) if b.text() == "Score whole volume")
    wait(button.isEnabled)
    finished: list[Any] = []
    dock.scorer.finished.connect(finished.append)
    walk.start()
    button.click()
    wait(lambda: bool(finished) and dock.masks.settled)


def fit(walk: Walk) -> None:
    """Fit a model to the sample, one epoch long."""
    from typer.testing import CliRunner

    from napari_spatial_ar.cli import app

    with tempfile.TemporaryDirectory() as folder:
        normal = Path(folder, "normal")
        normal.mkdir()
        scan = nib.load(sample_path())
        for number in (1, 2, 3):
            voxels = scan.get_fdata(dtype=np.float32) * (1 + number / 100)
            patient = nib.Nifti1Image(voxels, scan.affine)
            nib.save(patient, normal / f"patient{number}.nii.gz")
        options = ["--out", str(Path(folder, "model")), "--epochs", "1", "--modality", "mri"]
        walk.start()
        result = CliRunner().invoke(app, ["fit", str(normal), *options])
        walk.on = False
        if result.exit_code:
            raise SystemExit(result.output)


WALKS = {"drop": drop, "score": score, "fit": fit}


def main() -> None:
    """Take each walk in a process of its own, and say what ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("walk", nargs="?", choices=WALKS, help="one of them; all by default")
    parser.add_argument("--list", action="store_true", help="name the modules")
    chosen = parser.parse_args()
    if chosen.walk is None:
        for name in WALKS:
            more = ["--list"] if chosen.list else []
            subprocess.run([sys.executable, __file__, name, *more], check=True)
        return
    walk = Walk()
    WALKS[chosen.walk](walk)
    modules = walk.modules()
    print(f"{chosen.walk}: {len(modules)} modules")  # noqa: T201
    if chosen.list:
        print("\n".join(f"    {module}" for module in modules))  # noqa: T201
    sys.stdout.flush()
    os._exit(0)  # a window that is still open need not be taken apart


if __name__ == "__main__":
    main()
