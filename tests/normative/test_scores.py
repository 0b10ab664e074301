"""Slices that the model has not seen are left out of a scan's scores, unless they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.normative.scores import ScanScores, SliceScore

NAN = float("nan")


def filled(*strange: float, order: list[int] | None = None, **more: bool) -> ScanScores:
    """Scores of slices as far as this from the training slices, put in this order."""
    scores = ScanScores.empty(Geometry((len(strange), 2, 3), np.eye(4)))
    scores.unseen_counted = more.get("unseen_counted", False)
    for index in range(len(strange)) if order is None else order:
        heat = np.full((2, 3), index + 1.0, np.float32)
        scores.put(index, SliceScore(heat, None, index + 1.0, {}, strange[index]))
    return scores


@pytest.mark.parametrize(
    ("strange", "unseen"),
    [
        ((1.2, 0.4, 0.5, 0.3, 1.1), [0, 4]),  # a neck and a vertex
        ((0.4, 1.9, 0.5), []),  # a lesion between known slices
        ((0.4, 2.1, 0.5), [1]),  # something else between known slices
        ((1.1, NAN, 1.2), [0, 2]),  # all of them, one without body
        ((NAN, NAN, NAN), []),  # the model's file does not tell
        ((0.4, 1.0, 1.5, 1.5), [2, 3]),
    ],
)
def test_what_counts_as_unseen(strange: tuple[float, ...], unseen: list[int]) -> None:
    scores = filled(*strange)
    assert np.flatnonzero(scores.unseen).tolist() == unseen
    assert np.flatnonzero(scores.left_out).tolist() == unseen
    assert not scores.scored[unseen].any()
    assert not scores.nll[unseen].any()
    assert np.isnan(scores.image_scores[unseen]).all()
    assert scores.visited.all()


def test_the_order_of_scoring_does_not_matter() -> None:
    strange = (1.2, 1.4, 0.5, 1.5, 0.3, 1.1)
    rng = np.random.default_rng(0)
    first = filled(*strange)
    for _ in range(5):
        other = filled(*strange, order=rng.permutation(6).tolist())
        assert np.array_equal(other.nll, first.nll)
        assert np.array_equal(other.unseen, first.unseen)


def test_a_slice_comes_back_once_one_beyond_it_is_known() -> None:
    scores = ScanScores.empty(Geometry((3, 1, 1), np.eye(4)))
    one = np.ones((1, 1), np.float32)
    assert scores.put(0, SliceScore(one, None, 1.0, {}, 0.5)) == []
    assert scores.put(1, SliceScore(one, None, 1.0, {}, 1.5)) == []
    assert scores.scored.tolist() == [True, False, False]
    assert scores.put(2, SliceScore(one, None, 1.0, {}, 0.5)) == [1]
    assert scores.scored.all()
    assert scores.nll.all()


def test_they_can_be_asked_for_and_left_out_again() -> None:
    scores = filled(1.2, 0.4, 3.0)
    assert sorted(scores.count_unseen(True)) == [0, 2]
    assert scores.image_scores.tolist() == [1, 2, 3]
    assert (scores.nll == np.arange(1, 4)[:, None, None]).all()
    assert scores.unseen.tolist() == [True, False, True]
    assert not scores.left_out.any()
    assert sorted(scores.count_unseen(False)) == [0, 2]
    assert scores.scored.tolist() == [False, True, False]


def test_a_copy_that_counts_them_leaves_the_original_alone() -> None:
    scores = filled(1.2, 0.4)
    other = scores.counting_unseen(True)
    assert other.scored.all()
    assert scores.scored.tolist() == [False, True]
    assert scores.counting_unseen(False) is scores
    known = filled(0.1, 0.4)
    assert known.counting_unseen(True) is known
    assert scores.copy().count_unseen(True) == [0]


def test_their_own_scores_are_kept() -> None:
    scores = filled(1.2, 0.4)
    kept = scores.slice_score(0)
    assert kept.image_score == 1.0
    assert (kept.nll == 1.0).all()
    assert kept.unfamiliarity == pytest.approx(1.2)
    # Scored again.
    scores.put(0, kept)
    assert scores.scored.tolist() == [False, True]
    assert scores.slice_score(0).image_score == 1.0


def test_a_scan_read_from_disk_leaves_them_out_too() -> None:
    whole = filled(1.2, 0.4, 0.3, unseen_counted=True)
    assert whole.scored.all()
    read = ScanScores(
        whole.nll.copy(),
        whole.geometry,
        whole.visited,
        whole.image_scores.copy(),
        unfamiliarity=whole.unfamiliarity,
    )
    assert read.scored.tolist() == [False, True, True]
    assert read.counting_unseen(True).image_scores.tolist() == [1, 2, 3]
