"""Scans that wait for their turn, and stopping."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qtpy.QtCore import Qt

import napari_spatial_ar as nsar
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.review.scored_layer import score_steps

Make = Callable[..., ReviewDock]


@pytest.fixture
def two(dock: Make, lab: Any, models: Any) -> SimpleNamespace:
    """Two scans; the first is being scored and waits for its gate, the second is chosen."""
    models["fake"].gate = threading.Semaphore(0)
    made = dock()
    first = made.scan.layer
    made.score("volume")
    second = made.viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    made.scan.list.choose(second)
    return SimpleNamespace(dock=made, first=first, second=second, gate=models["fake"].gate)


def test_a_second_scan_waits_for_its_turn(two: Any, qtbot: Any, lab: Any, models: Any) -> None:
    made = two.dock
    assert made.volume_button.isEnabled()
    qtbot.mouseClick(made.volume_button, Qt.MouseButton.LeftButton)
    assert "1 scan in the queue" in made.score_note.text()
    assert not made.volume_button.isEnabled()  # it waits already
    made.scan.list.choose(two.first)
    assert not made.volume_button.isEnabled()  # it is being scored
    two.gate.release(2 * lab.shape[0])
    qtbot.waitUntil(lambda: len(models["fake"].asked) == 2 * lab.shape[0], timeout=20_000)
    qtbot.waitUntil(lambda: not made.running and made.masks.settled, timeout=20_000)
    for layer in (two.first, two.second):
        made.scan.list.choose(layer)
        assert made.session.score.visited.all()
    assert "waits" not in made.score_note.text()


def test_a_scan_that_waits_leaves_with_its_layer(
    two: Any, qtbot: Any, lab: Any, models: Any
) -> None:
    made = two.dock
    made.score("volume")
    made.viewer.layers.remove(two.second)
    assert made.running
    two.gate.release(lab.shape[0])
    qtbot.waitUntil(lambda: not made.running, timeout=20_000)
    assert len(models["fake"].asked) == lab.shape[0]


def test_cancel_takes_out_what_waits_and_then_stops_what_runs(
    two: Any, qtbot: Any, models: Any
) -> None:
    made = two.dock
    made.score("volume")
    qtbot.mouseClick(made.cancel_button, Qt.MouseButton.LeftButton)
    assert made.running
    assert not made.scorer.busy_with(made.session)
    assert made.volume_button.isEnabled()
    two.gate.release()
    qtbot.waitUntil(lambda: len(models["fake"].asked) == 1, timeout=5000)
    made.cancel()
    two.gate.release()
    qtbot.waitUntil(lambda: not made.running, timeout=5000)
    made.scan.list.choose(two.first)
    assert 1 <= made.session.score.visited.sum() <= 2


def test_a_scan_that_waits_is_scored_after_one_that_fails(
    two: Any, qtbot: Any, lab: Any, models: Any, notes: list[str]
) -> None:
    made, model = two.dock, models["fake"]
    made.score("volume")
    model.error = OSError(5, "Input/output error")
    two.gate.release()
    qtbot.waitUntil(lambda: len(notes) == 2, timeout=5000)  # each says so
    qtbot.waitUntil(lambda: not made.running, timeout=5000)


@pytest.mark.usefixtures("tiny_weights")
def test_stopping_does_not_wait_for_a_slow_slice(
    tiny_backbone: Any, normal_slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"method": "memory-bank", "size": 64, "device": "cpu"}
    model = nsar.fit(normal_slices, out=tmp_path / "m", backbone=tiny_backbone, **options)
    volume = nsar.read(normal_slices)[0]
    stop = threading.Event()
    begun = []

    def slow(*_: Any) -> None:
        # The first block of the second slice takes long, and meanwhile it is to stop.
        begun.append(1)
        if len(begun) == 2:
            stop.set()

    blocks = [m for m in model.backbone.modules() if type(m).__name__.endswith("Layer")]
    assert len(blocks) >= 2
    blocks[0].register_forward_hook(slow)
    after = []
    blocks[1].register_forward_hook(lambda *_: after.append(1))
    done = [index for batch in score_steps(stop, model, volume, [0, 1, 2]) for index, _ in batch]
    assert done == [0]
    assert len(begun) == 2
    assert len(after) == 1  # the second slice never reached the second block
    # Nothing of it stays with the thread: the next to compute here is not stopped.
    assert model.score_slice(volume.slices[1]).image_score > 0
