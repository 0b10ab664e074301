"""The time that is left of a fit, from what its stages took so far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.fitting.plan import FitPlanned, FitProgress, _Clock
from tests.tiny import fit_steps


@pytest.fixture
def planned(
    normal_slices: Path, tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> FitPlanned:
    """The plan of a fit on 12 slices, 9 of them to learn from, none of them stored."""
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(tmp_path / "home"))
    settings: dict[str, Any] = {"method": "spatial-ar", "size": 64, "device": "cpu"}
    steps = fit_steps(normal_slices, backbone=tiny_backbone, **settings)
    return next(step for step in steps if isinstance(step, FitPlanned))


def left(clock: _Clock, stage: Any, done: int, total: int, seconds: float) -> float | None:
    step = FitProgress(stage, done, total, message=stage)
    return clock.take(step, seconds).seconds_left


def test_stages_are_told_apart(planned: FitPlanned) -> None:
    speeds.remember(planned.plan.learning_key, 20.0)
    clock = _Clock()
    assert clock.take(planned, 100.0) is planned
    assert left(clock, "features", 0, 12, 0.0) is None
    assert left(clock, "features", 1, 12, 2.0) == 11 * 2.0 + 9 * 20.0
    assert left(clock, "features", 3, 12, 8.0) == pytest.approx(9 * 10 / 3 + 9 * 20.0)
    assert left(clock, "features", 12, 12, 14.0) == 9 * 20.0
    assert left(clock, "training", 0, 40, 1.0) is None
    assert left(clock, "training", 10, 40, 29.0) == 30 * 3.0
    assert left(clock, "training", 40, 40, 60.0) == 0.0
    assert left(clock, "calibration", 1, 3, 5.0) is None
    assert left(clock, "calibration", 2, 3, 4.0) == 9.0
    # What the stages took is what is reckoned with from now on.
    assert speeds.recall(planned.plan.embedding_key) == 24.0 / 12
    assert speeds.recall(planned.plan.learning_key) == 90.0 / 9


def test_a_method_without_batches_has_what_it_took_before(planned: FitPlanned) -> None:
    from napari_spatial_ar.normative.detectors import MemoryBank

    plan = replace(planned.plan, method=MemoryBank, options=MemoryBank.options())
    clock = _Clock()
    clock.take(replace(planned, plan=plan), 0.0)
    assert left(clock, "training", 5, 5, 1.0) is None
    speeds.remember(plan.learning_key, 2.0)
    clock = _Clock()
    clock.take(replace(planned, plan=plan), 0.0)
    assert left(clock, "training", 1, 1, 4.0) == 9 * 2.0 - 4.0
    assert left(clock, "training", 2, 2, 40.0) == 0.0


def test_learning_that_went_on_from_a_stop_is_not_kept(planned: FitPlanned) -> None:
    clock = _Clock()
    clock.take(planned, 0.0)
    left(clock, "training", 30, 40, 1.0)
    left(clock, "training", 40, 40, 1.0)
    left(clock, "calibration", 1, 3, 1.0)
    assert speeds.recall(planned.plan.learning_key) is None
    assert speeds.recall(planned.plan.embedding_key) is None
