"""Slices in batches: the same scores, in the same order, whatever the room."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.kept_tokens import KeptTokens
from napari_spatial_ar.normative.batching import (
    BatchScorer,
    BatchSizes,
    Prepared,
    ahead,
    scores_in_order,
)
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import SliceScore
from tests.normative.test_model import build

CPU = torch.device("cpu")


def slices(count: int) -> list[tuple[int, Prepared]]:
    rng = np.random.default_rng(0)
    return [(n, Prepared(rng.random((48, 64), dtype=np.float32))) for n in range(count)]


@pytest.fixture
def model(tiny_backbone: Backbone) -> NormativeModel:
    return build(tiny_backbone)


def scorer_of(model: NormativeModel, most: int = 99) -> tuple[BatchScorer, list[int], list[str]]:
    """One that has room for ``most`` slices; the sizes it computes, and who went alone."""
    sizes: list[int] = []
    alone: list[str] = []

    def maps(batch: Tensor, kept: KeptTokens | None) -> tuple[Tensor, Tensor, Tensor]:
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(batch))
        return model._maps(batch, kept)

    def one(shown: Prepared) -> SliceScore:
        alone.append("slice")
        return model._score(shown)

    return BatchScorer(maps, one, CPU), sizes, alone


def assert_same(found: SliceScore, expected: SliceScore) -> None:
    np.testing.assert_allclose(found.nll, expected.nll, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.grid, expected.grid, rtol=1e-4, atol=1e-3)
    assert found.image_score == pytest.approx(expected.image_score, rel=1e-4)
    assert found.nll.dtype == found.grid.dtype == np.float32


def test_sizes_double_up_to_the_largest() -> None:
    sizes, seen = BatchSizes(8), []
    for _ in range(6):
        seen.append(sizes.next)
        sizes.grow()
    assert seen == [1, 2, 4, 8, 8, 8]
    sizes.at_most(4)
    sizes.grow()
    assert sizes.next == 4


def test_batches_score_what_slices_score_alone(model: NormativeModel) -> None:
    scorer, sizes, alone = scorer_of(model)
    found = list(scorer(iter(slices(11)), BatchSizes(4)))
    assert [key for key, _ in found] == list(range(11))
    assert sizes == [1, 2, 4, 4]
    assert alone == []
    for (_, score), (_, shown) in zip(found, slices(11), strict=True):
        assert_same(score, model._score(shown))


def test_the_first_slice_is_given_out_before_more_are_asked_for(model: NormativeModel) -> None:
    asked = []

    def watched() -> Iterator[tuple[int, Prepared]]:
        for pair in slices(8):
            asked.append(pair[0])
            yield pair

    scorer, *_ = scorer_of(model)
    scores = scorer(watched(), BatchSizes())
    assert next(scores)[0] == 0
    assert asked == [0]


@pytest.mark.parametrize("most", [1, 3])
def test_less_at_once_where_memory_runs_short(model: NormativeModel, most: int) -> None:
    scorer, sizes, alone = scorer_of(model, most)
    batches = BatchSizes(8)
    found = list(scorer(iter(slices(9)), batches))
    assert [key for key, _ in found] == list(range(9))
    assert max(sizes) <= most
    assert alone == []
    assert batches.next <= most
    for (_, score), (_, shown) in zip(found, slices(9), strict=True):
        assert_same(score, model._score(shown))


def test_without_room_for_one_each_goes_alone(model: NormativeModel) -> None:
    scorer, sizes, alone = scorer_of(model, 0)
    found = list(scorer(iter(slices(3)), BatchSizes()))
    assert [key for key, _ in found] == [0, 1, 2]
    assert (sizes, len(alone)) == ([], 3)


def test_other_errors_are_raised(model: NormativeModel) -> None:
    def broken(batch: Tensor, kept: KeptTokens | None) -> tuple[Tensor, Tensor, Tensor]:
        raise RuntimeError("the kernel failed")

    scorer = BatchScorer(broken, model._score, CPU)
    with pytest.raises(RuntimeError, match="the kernel failed"):
        list(scorer(iter(slices(2)), BatchSizes()))


def test_empty_slices_keep_their_place(model: NormativeModel) -> None:
    filled = [False, True, False, False, True, True, False]
    prepared = (
        (n, replace(shown, filled=full)) for (n, shown), full in zip(slices(7), filled, strict=True)
    )
    scorer, *_ = scorer_of(model)
    found = list(scores_in_order(scorer, prepared, BatchSizes(4)))
    assert [key for key, _ in found] == list(range(7))
    assert [not np.isnan(score.image_score) for _, score in found] == filled
    assert all(not score.nll.any() for (_, score), f in zip(found, filled, strict=True) if not f)


# ---------------------------------------------------------------------- work done ahead


def test_work_is_done_ahead_in_order_and_not_too_far() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        time.sleep(0.01 * (number % 2))
        return number**2

    results = ahead(work, range(20), threads=3, most=4)
    assert next(results) == 0
    time.sleep(0.1)
    assert len(started) <= 5
    assert list(results) == [n**2 for n in range(1, 20)]


def test_what_is_raised_ahead_is_raised_in_its_place() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    results = ahead(work, range(9), threads=2, most=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_no_thread_is_left_when_it_is_closed() -> None:
    results = ahead(lambda n: n, range(100), threads=2, most=4)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


# ---------------------------------------------------------------------- on a card


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_gives_the_scores_of_the_processor(tiny_backbone: Backbone) -> None:
    expected = [build(tiny_backbone)._score(shown) for _, shown in slices(9)]
    tiny_backbone.move(torch.device("cuda"))
    model = build(tiny_backbone)
    model.device = torch.device("cuda")
    model.detector.to(model.device)
    found = [score for _, score in model._batches(iter(slices(9)), model._sizes)]
    again = model._score(slices(9)[5][1])  # replayed as a graph
    for score, wanted in zip(found, expected, strict=True):
        assert_same(score, wanted)
    assert_same(again, expected[5])
