"""How long a fit will take: what is counted, what is remembered, and that nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.detectors import DETECTORS, SpatialARDetector
from napari_spatial_ar.normative.fitting import estimate as fit_estimate
from napari_spatial_ar.normative.fitting.estimate import FitEstimate
from napari_spatial_ar.normative.fitting.plan import FitPlanned, FitProgress, format_duration
from napari_spatial_ar.paths import speeds_file
from tests.tiny import estimate, fit_steps


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(tmp_path / "home"))


@pytest.fixture
def settings(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(fit_estimate, "_SECONDS", 0.2)
    return {"backbone": tiny_backbone, "size": (64, 64), "device": "cpu"}


class Clock:
    """Stands for the machine's: what takes time says so, and being asked takes a microsecond."""

    def __init__(self, tick: float = 1e-6) -> None:
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.perf_counter", made)
    return made


def plan_of(folder: Path, **settings: Any) -> Any:
    return next(s for s in fit_steps(folder, **settings) if isinstance(s, FitPlanned)).plan


def test_slices_that_are_stored_are_not_counted(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings |= {"method": "memory-bank"}
    before = estimate(normal_slices, **settings)
    assert (before.to_embed, before.stored) == (12, 0)
    assert before.embedding_seconds > 0
    assert before.learning_seconds > 0
    assert not (tmp_path / "home" / "features").exists(), "an estimate embeds nothing to keep"
    steps = fit_steps(normal_slices, out=tmp_path / "m", **settings)
    for step in steps:
        if step.stage == "features" and step.done == 5:
            break
    steps.close()
    between = estimate(normal_slices, **settings)
    assert (between.to_embed, between.stored) == (7, 5)
    assert between.embedding_seconds == pytest.approx(before.embedding_seconds * 7 / 12)
    assert str(between).startswith("About ")
    assert ": 7 slices to embed, 5 are stored; learning about " in str(between)
    nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    after = estimate(normal_slices, out=tmp_path / "m", **settings)
    assert (after.to_embed, after.stored, after.embedding_seconds) == (0, 12, 0.0)


def test_changed_slices_count_too(normal_slices: Path, settings: dict[str, Any]) -> None:
    settings |= {"method": "change-novelty", "options": {"slices": 6, "rows": 64}}
    assert estimate(normal_slices, **settings).to_embed == 12 + 6


def slow_embedding(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float
) -> list[int]:
    calls: list[int] = []
    embed = backbone.embed

    def slowly(images: torch.Tensor) -> torch.Tensor:
        clock.pass_by(seconds)
        calls.append(len(images))
        return embed(images)

    monkeypatch.setattr(backbone, "embed", slowly)
    return calls


def test_the_backbone_is_timed_once_for_a_size(
    normal_slices: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    calls = slow_embedding(settings["backbone"], monkeypatch, clock, 0.05)
    settings |= {"method": "memory-bank"}
    first = estimate(normal_slices, **settings)
    assert first.embedding_seconds == pytest.approx(12 * 0.05, rel=1e-3)
    assert len(calls) == 4
    again = estimate(normal_slices, **settings)
    assert again == first
    assert len(calls) == 4
    estimate(normal_slices, **{**settings, "size": (80, 80)})
    assert len(calls) == 8


def test_training_is_timed_in_a_few_steps(
    normal_slices: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A step that takes a known time a slice gives that time, times slices, times epochs."""
    settings |= {"method": "spatial-ar", "options": {"epochs": 1000, "dilation": 1}}
    done = 0
    zero_grad = torch.optim.AdamW.zero_grad

    def slowly(self: torch.optim.AdamW, set_to_none: bool = True) -> None:
        nonlocal done
        done += 1
        clock.pass_by(0.08)
        zero_grad(self, set_to_none)

    monkeypatch.setattr(torch.optim.AdamW, "zero_grad", slowly)
    found = estimate(normal_slices, **settings)
    passes = 1000 * (9 + 3 / 3)
    assert SpatialARDetector.passes(
        {**SpatialARDetector.options(), **settings["options"]}, 9, 3
    ) == int(passes)
    assert done == 4  # until more than 0.2 s have passed since the first
    assert found.learning_seconds == pytest.approx(0.02 * passes, rel=1e-3)
    twice = estimate(
        normal_slices, **{**settings, "options": {**settings["options"], "raster": "both"}}
    )
    assert twice.learning_seconds == pytest.approx(2 * found.learning_seconds, rel=1e-3)


@pytest.mark.parametrize("method", sorted(DETECTORS))
def test_every_method_is_timed(normal_slices: Path, settings: dict[str, Any], method: str) -> None:
    settings["options"] = {"clusters": 4} if method == "himatch-ad" else {}
    found = estimate(normal_slices, method=method, **settings)
    assert found.learning_seconds > 0
    plan = plan_of(normal_slices, method=method, **settings)
    assert speeds.recall(plan.learning_key) == pytest.approx(found.learning_seconds / 9)


def test_a_training_that_takes_long_is_told_from_its_part(
    normal_slices: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """synthetic-change trains in steps between its walks: cut short, the rest is reckoned."""
    monkeypatch.setattr("time.perf_counter", Clock(tick=0.01))
    done: list[int] = []
    step = torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW) -> None:
        done.append(1)
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    whole = {"method": "synthetic-change", "options": {"steps": 40_000, "hidden": 8}}
    found = estimate(normal_slices, **settings, **whole)
    assert 0 < len(done) < 4000
    # It was run for 0.4 s.
    assert found.learning_seconds == pytest.approx(0.4 * 40_000 / len(done), rel=0.2)


def test_a_fit_remembers_what_it_took(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
) -> None:
    slow_embedding(settings["backbone"], monkeypatch, clock, 0.03)
    settings |= {"method": "spatial-ar", "options": {"epochs": 2, "batch_size": 4, "dilation": 1}}
    steps: list[FitProgress] = []
    nsar.fit(normal_slices, out=tmp_path / "m", progress=steps.append, **settings)
    plan = plan_of(normal_slices, out=tmp_path / "m", overwrite=True, **settings)
    assert speeds.recall(plan.embedding_key) == pytest.approx(0.03, rel=1e-3)
    assert (speeds.recall(plan.learning_key) or 0) > 0
    # What it took is known for the next one, which so can tell its whole time at once.
    assert all(step.seconds_left is None for step in steps if step.stage == "features")
    again: list[FitProgress] = []
    settings |= {"size": (80, 80)}  # nothing is stored
    monkeypatch.setattr(speeds, "recall", lambda key: 7.0 if key[0] == "learning" else None)
    nsar.fit(normal_slices, out=tmp_path / "n", progress=again.append, **settings)
    features = [s for s in again if s.stage == "features" and s.done]
    assert features[-1].seconds_left == pytest.approx(9 * 7.0)
    assert features[0].seconds_left == pytest.approx(9 * 7.0 + 11 * 0.03, abs=1e-3)
    training = [s.seconds_left for s in again if s.stage == "training" and s.done]
    assert training[-1] == pytest.approx(0.0)
    assert all(left is not None and left < 9 * 7.0 for left in training)


def test_time_between_steps_is_not_the_fits(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    kept: list[float] = []
    monkeypatch.setattr(speeds, "remember", lambda key, seconds: kept.append(seconds))
    for _ in fit_steps(normal_slices, out=tmp_path / "m", method="memory-bank", **settings):
        now += 1000.0  # paused
    assert kept == [0.0, 0.0]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": "b"}', '{"a": -1.0}', '{"a": NaN}'])
def test_a_damaged_file_of_speeds_is_none(content: str) -> None:
    speeds_file().parent.mkdir(parents=True, exist_ok=True)
    speeds_file().write_text(content.replace('"a"', json.dumps(json.dumps(["a"]))))
    assert speeds.recall(["a"]) is None
    speeds.remember(["a"], 2.0)
    assert speeds.recall(["a"]) == 2.0


def test_bad_settings_are_refused_as_by_a_fit(
    normal_slices: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="raster must be"):
        estimate(normal_slices, method="spatial-ar", options={"raster": "up"}, **settings)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "1 s"), (40.2, "40 s"), (350, "6 min"), (12_600, "3.5 h")]
)
def test_times_as_people_say_them(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_the_sentence() -> None:
    found = FitEstimate(40, 12, 240.0, 120.0)
    assert str(found) == ("About 6 min: 40 slices to embed, 12 are stored; learning about 2 min.")


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
