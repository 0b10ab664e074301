"""What goes wrong around scoring: each is one sentence, and nothing that was done is lost."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qtpy.QtWidgets import QFileDialog

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.review import outputs

Make = Callable[..., ReviewDock]


def no_thread() -> bool:
    return pool().activeThreadCount() == 0


# ---------------------------------------------------------------------- the layer


def test_a_layer_deleted_while_it_is_scored(
    dock: Make, models: Any, lab: Any, qtbot: Any, notes: list[str]
) -> None:
    models["fake"].gate = threading.Semaphore(0)
    made = dock()
    first = made.scan.layer
    scored = made.viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    assert made.scan.layer is scored
    made.score("volume")
    models["fake"].gate.release(2)
    qtbot.waitUntil(lambda: made.session.score.visited.sum() >= 1, timeout=5000)
    made.viewer.layers.remove(scored)
    models["fake"].gate.release(1)
    qtbot.waitUntil(lambda: not made.running and no_thread(), timeout=5000)
    assert len(models["fake"].asked) < lab.shape[0]
    assert notes == []
    # The dock goes on with what is left.
    assert made.scan.layer is first
    models["fake"].gate.release(lab.shape[0])
    made.score("volume")
    qtbot.waitUntil(lambda: not made.running and made.masks.settled, timeout=10_000)
    assert made.session.score.visited.all()


def test_a_layer_renamed_while_it_is_scored(
    dock: Make, models: Any, qtbot: Any, finish: Any, notes: list[str]
) -> None:
    models["fake"].gate = threading.Semaphore(0)
    made = dock()
    made.score("volume")
    session = made.session
    made.scan.layer.name = "another name"
    models["fake"].gate.release(50)
    finish(made)
    assert made.session is session
    assert session.score.visited.all()
    assert made.scan.box.currentText() == "another name"
    assert notes == []


# ---------------------------------------------------------------------- the model's file


def test_a_model_whose_file_is_deleted_while_it_scores_scores_on(
    dock: Make, models: Any, monkeypatch: pytest.MonkeyPatch, qtbot: Any, finish: Any
) -> None:
    models["fake"].gate = threading.Semaphore(0)
    made = dock()
    made.score("volume")
    session = made.session
    models["fake"].gate.release(50)

    def gone(path: Any) -> Any:
        raise ModelFileError("there is no such model file", path=Path("fake/model.safetensors"))

    monkeypatch.setattr(model_access, "load_model", gone)
    finish(made)
    assert session.score.visited.all()


def test_a_model_whose_file_is_gone_says_so_and_keeps_what_is_scored(
    dock: Make, models: Any, lab: Any, monkeypatch: Any, qtbot: Any, finish: Any, notes: list[str]
) -> None:
    models["fake"].sha256 = "ab"
    models["gone"] = lab.Model(name="gone")
    made = dock()
    made.models.choose("fake")
    qtbot.waitUntil(lambda: made.models.model is models["fake"], timeout=5000)
    made.score("volume")
    finish(made)
    session = made.session
    load = model_access.load_model

    def gone(path: Path) -> Any:
        if Path(path).name == "gone":
            raise ModelFileError("there is no such model file", path=path)
        return load(path)

    monkeypatch.setattr(model_access, "load_model", gone)
    made.models.choose("gone")
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=5000)
    assert "there is no such model file" in notes[0]
    assert made.models.model is None
    made.models.choose("fake")
    qtbot.waitUntil(lambda: made.models.model is not None, timeout=5000)
    assert made.session is session
    assert made.session.score.visited.all()


# ---------------------------------------------------------------------- the disk


def test_a_disk_that_fills_during_an_export(
    dock: Make,
    qtbot: Any,
    finish: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    notes: list[str],
) -> None:
    made = dock()
    made.score("volume")
    finish(made)
    target = tmp_path / "out"
    target.mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(target))
    write = outputs.write_findings_json

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "write_findings_json", full)
    made.exporter.everything(made.session)
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=10_000)
    assert "the disk is full" in notes[0]
    assert "Free some space" in notes[0]
    assert list(target.iterdir()) == []
    # Nothing is lost: with room again, the same button does it.
    assert made.session.score.visited.all()
    monkeypatch.setattr(outputs, "write_findings_json", write)
    made.exporter.everything(made.session)
    qtbot.waitUntil(lambda: len(notes) == 2, timeout=10_000)
    assert len(list(target.glob("*/nll.nii.gz"))) == 1


# ---------------------------------------------------------------------- memory


@pytest.mark.usefixtures("tiny_weights")
def test_a_gpu_that_runs_out_of_memory_is_left_for_the_cpu(
    make_napari_viewer: Any,
    tiny_backbone: Any,
    normal_slices: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    models: Any,
    lab: Any,
    qtbot: Any,
) -> None:
    options: dict[str, Any] = {"method": "memory-bank", "size": 64, "device": "cpu"}
    model = nsar.fit(normal_slices, out=tmp_path / "m", backbone=tiny_backbone, **options)
    model.device = torch.device("meta")  # stands for a GPU: what is computed there fails
    embed = type(model.backbone).compute

    def short_on_the_gpu(self: Any, images: Any) -> Any:
        if model.device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return embed(self, images)

    monkeypatch.setattr(type(model.backbone), "compute", short_on_the_gpu)
    models["fake"] = model
    viewer = make_napari_viewer()
    made = ReviewDock(viewer)
    viewer.window.add_dock_widget(made, name="Review")
    volume = lab.make_volume()
    noise = np.random.default_rng(0).normal(0, 3, volume.data.shape).astype(np.float32)
    viewer.add_image(volume.data + noise, name="scan")
    qtbot.waitUntil(lambda: made.models.model is model, timeout=5000)
    made.score("volume")
    qtbot.waitUntil(lambda: not made.running and made.masks.settled, timeout=30_000)
    assert made.session.score.visited.all()
    assert model.device.type == "cpu"
    assert "ran short, so slices are scored on the CPU" in made.score_note.text()


# ---------------------------------------------------------------------- the end


def test_a_viewer_closed_while_a_scan_is_scored(
    dock: Make, models: Any, qtbot: Any, notes: list[str]
) -> None:
    models["fake"].gate = threading.Semaphore(0)
    made = dock(show=True)
    made.score("volume")
    models["fake"].gate.release(2)
    qtbot.waitUntil(lambda: made.session.score.visited.sum() >= 1, timeout=5000)
    made.viewer.close()
    models["fake"].gate.release(1)
    qtbot.waitUntil(no_thread, timeout=5000)
    assert len(models["fake"].asked) <= 4
    assert notes == []


def test_a_program_that_ends_while_a_worker_runs_ends_well() -> None:
    program = """
    import threading, time
    from qtpy.QtCore import QObject
    from qtpy.QtWidgets import QApplication
    app = QApplication([])
    from napari_spatial_ar.gui.jobs import TaskHost, pool
    began = threading.Event()

    def work(stop):
        began.set()
        while not stop.is_set():
            time.sleep(0.01)
            yield
        time.sleep(0.3)  # a part that cannot be interrupted
        print("ended", flush=True)

    owner = QObject()
    TaskHost(owner).start(work)
    began.wait(10)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ended"
    assert "Traceback" not in done.stderr
