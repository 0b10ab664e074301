"""Where a fit stands, in words."""

from __future__ import annotations

import pytest

from napari_spatial_ar.gui.training import dock
from napari_spatial_ar.gui.training.dock import StepText
from napari_spatial_ar.normative.fitting.plan import FitProgress


def test_words_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(dock.time, "monotonic", lambda: now)
    say = StepText()
    assert say(FitProgress("features", 4, 40)) == "Embedding slices: 4 of 40"
    now += 8
    step = FitProgress("features", 8, 40, images_per_second=0.5, message="Embedding with it")
    assert say(step) == (
        "Embedding with it: 8 of 40, about 64 s left for this step, 0.5 images a second"
    )
    whole = FitProgress(
        "training", 30, 90, 3, 9, (2.0,) * 3, (2.0, 1.0, 1.5), 1, 12.34, 350.0, "Training"
    )
    assert say(whole) == (
        "Training: 30 of 90, about 6 min left in total, 12.3 images a second, best epoch 2 of 3"
    )
    assert say(FitProgress("features", 0, 0, message="Looking")) == "Looking"


def test_a_pause_does_not_slow_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(dock.time, "monotonic", lambda: now)
    say = StepText()
    say(FitProgress("features", 0, 20))
    now += 10
    assert "about 10 s left" in say(FitProgress("features", 10, 20))
    now += 10_000
    say.restart()
    say(FitProgress("features", 11, 20))
    now += 4
    assert "about 5 s left" in say(FitProgress("features", 15, 20))
