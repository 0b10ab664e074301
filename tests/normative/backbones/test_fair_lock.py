"""Threads that share a backbone: each gets what it would have got alone, and waits one slice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_spatial_ar.errors import Cancelled
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative.backbones import fastest_engine
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.engines import ENGINES, Float32
from napari_spatial_ar.normative.backbones.fair_lock import FairLock
from napari_spatial_ar.normative.backbones.fastest_engine import trials
from napari_spatial_ar.normative.batching import BatchScorer, Prepared
from napari_spatial_ar.normative.cancellation import cancel_when
from napari_spatial_ar.normative.explaining import embed_plane
from tests.normative.test_model import build

WAIT = 10


@pytest.fixture
def volume() -> Scan:
    data = np.random.default_rng(0).uniform(0, 255, (10, 40, 48)).astype(np.float32)
    return Scan(data, Geometry(data.shape, np.eye(4)), "mri", Series("scan"))


@pytest.fixture
def shared_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine with one buffer for inputs and results, as OpenVINO's and CUDA graphs have."""

    class Buffered(Float32):
        name = "buffered"

        def __call__(self, images: Tensor) -> Tensor:
            self.given = images
            time.sleep(0.002)
            self.result = super().__call__(self.given)
            time.sleep(0.002)
            return self.result.clone()

    monkeypatch.setitem(ENGINES, "buffered", Buffered)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def together(*works: Callable[[], Any]) -> list[Any]:
    start = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        start.wait(WAIT)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(WAIT * 6) for future in [pool.submit(begin, w) for w in works]]


@pytest.mark.usefixtures("shared_buffer")
def test_scoring_and_explaining_at_once_give_what_each_gives_alone(
    tiny_backbone: Backbone, volume: Scan
) -> None:
    model = build(tiny_backbone)
    model.use_engine("buffered")
    places = [(index, (3, 2)) for index in range(10)]

    def score() -> list[Any]:
        return [(index, found.nll) for index, found in model.iter_volume(volume)]

    def explain() -> list[Any]:
        made = [(embed_plane(model, volume, index), at) for index, at in reversed(places)]
        return [(slice_.grids, slice_.explain(model, at).quantities) for slice_, at in made]

    scores, told = score(), explain()
    scores_too, told_too = together(score, explain)
    for (index, nll), (same, again) in zip(scores, scores_too, strict=True):
        assert index == same
        np.testing.assert_array_equal(nll, again)
    for (grids, number), (grids_too, number_too) in zip(told, told_too, strict=True):
        assert torch.equal(grids, grids_too)
        assert number == number_too


def test_engines_that_are_tried_are_not_what_others_compute_with(
    tiny_backbone: Backbone, volume: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Float32):
        name = "wrong"

        def __call__(self, images: Tensor) -> Tensor:
            time.sleep(0.01)
            return super().__call__(images) + 1

    monkeypatch.setitem(ENGINES, "wrong", Wrong)
    monkeypatch.setattr(fastest_engine, "available", lambda device: ("float32", "wrong"))
    model = build(tiny_backbone)
    alone = [score.nll for _, score in model.iter_volume(volume)]
    tried, scored = together(
        lambda: list(trials(model)),
        lambda: [score.nll for _ in range(3) for _, score in model.iter_volume(volume)],
    )
    assert [trial.engine for trial in tried] == ["float32", "wrong"]
    for nll, expected in zip(scored, alone * 3, strict=True):
        np.testing.assert_array_equal(nll, expected)


def test_each_stops_for_itself_also_while_it_waits() -> None:
    lock, inside, go = FairLock(), threading.Event(), threading.Event()

    def holds() -> str:
        with cancel_when(lambda: False), lock.held():
            inside.set()
            assert go.wait(WAIT)
        return "done"

    def waits() -> str:
        assert inside.wait(WAIT)
        with cancel_when(lambda: True), pytest.raises(Cancelled), lock.held():
            pass
        go.set()  # the other one holds it still
        return "cancelled"

    assert together(holds, waits) == ["done", "cancelled"]
    with lock.held(), lock.held():  # and it is free, for the same thread more than once
        pass


def test_who_waits_comes_next() -> None:
    lock, order, asked = FairLock(), [], threading.Event()

    def slices() -> None:
        for number in range(50):
            with lock.held():
                order.append(number)
                if number == 0:
                    assert asked.wait(WAIT)
                    until(lambda: bool(lock._waiting))

    def explains() -> None:
        until(lambda: bool(order))
        asked.set()
        with lock.held():
            order.append("explained")

    together(slices, explains)
    assert order.index("explained") == 1


def test_a_batch_is_copied_out_before_the_next_uses_its_buffers() -> None:
    buffer = torch.zeros(1, 4, 4)

    def maps(given: Tensor, kept: None) -> tuple[Tensor, Tensor, Tensor]:
        buffer.copy_(given)
        time.sleep(0.002)
        result = buffer.clone()
        return result, result[:, None], result.flatten(1).mean(dim=1)

    lock = FairLock()
    scorer = BatchScorer(maps, lambda unit: None, torch.device("cpu"), lock=lock)  # type: ignore[arg-type, return-value]

    def score(value: int) -> list[float]:
        shown = Prepared(np.full((4, 4), value, np.float32))
        return [scorer.one(shown).image_score for _ in range(20)]

    assert together(lambda: score(1), lambda: score(2)) == [[1.0] * 20, [2.0] * 20]
