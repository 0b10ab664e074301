"""Strokes of the brush outlive the mask that they were made on."""

from __future__ import annotations

import numpy as np

from napari_spatial_ar.review.strokes import Refined, Strokes


def stroke(
    strokes: Strokes, voxels: list[int], inside: bool, computed: bool, **how: bool
) -> Strokes:
    count = len(voxels)
    return strokes.with_stroke(
        np.array(voxels), np.full(count, inside), np.full(count, computed), **how
    )


def test_strokes_are_applied_to_any_mask() -> None:
    strokes = stroke(Strokes(), [1, 2], True, False)
    strokes = stroke(strokes, [5], False, True)
    for mask in (
        np.zeros((1, 2, 4)),
        np.ones((1, 2, 4), bool),
        np.ones((2, 1, 4)).transpose(1, 0, 2),
    ):
        out = strokes.apply(mask)
        assert out.ravel()[[1, 2, 5]].tolist() == [1, 1, 0]
        others = [0, 3, 4, 6, 7]
        assert np.array_equal(out.ravel()[others], mask.ravel()[others] != 0)
        assert out.dtype == np.uint8
    assert strokes.sentence == "By hand: 2 voxels painted, 1 erased."
    assert not Strokes()
    assert Strokes().sentence == ""


def test_the_last_stroke_over_a_voxel_counts() -> None:
    strokes = stroke(stroke(Strokes(), [1, 2, 3], True, False), [2], False, False)
    assert strokes.painted.tolist() == [1, 3]
    assert strokes.erased.tolist() == [2]
    again = stroke(strokes, [2], True, False)
    assert again.painted.tolist() == [1, 2, 3]
    assert not len(again.erased)


def test_an_undone_stroke_leaves_the_voxel_to_the_score() -> None:
    painted = stroke(Strokes(), [1, 2], True, False)
    assert not stroke(painted, [1, 2], False, False, undone=True)
    # The threshold has been lowered since: the score alone has the voxels in the mask.
    assert not stroke(painted, [1, 2], False, True, undone=True)
    erased = stroke(Strokes(), [4], False, True)
    assert not stroke(erased, [4], True, True, undone=True)
    redone = stroke(Strokes(), [4], False, True, undone=True)
    assert redone.erased.tolist() == [4]
    # Painted, erased again, and that erasing undone.
    both = stroke(painted, [1], False, False)
    assert stroke(both, [1], True, False, undone=True).painted.tolist() == [1, 2]


def refined() -> Refined:
    return Refined(np.array([3, 4]), np.array([5]), np.array([1, 2]))


def test_a_refined_outline_holds_at_any_threshold_and_strokes_count_more() -> None:
    strokes = Strokes(refined=(refined(),))
    strokes = stroke(stroke(strokes, [4], False, True), [2], True, False)
    for mask in (np.zeros((1, 2, 4)), np.ones((1, 2, 4))):
        out = strokes.apply(mask).ravel()
        assert out[[2, 3, 5]].tolist() == [1, 1, 1]
        assert out[[1, 4]].tolist() == [0, 0]
    assert strokes.sentence == "By hand: 1 voxels painted, 1 erased. Outlines refined: 1."


def test_a_refined_outline_is_undone_and_redone_as_a_whole() -> None:
    one = refined()
    strokes = Strokes(refined=(one,))
    changed = np.array([1, 2, 5])
    gone = strokes.with_stroke(
        changed, np.array([True, True, False]), np.array([False, False, True]), undone=True
    )
    assert not gone
    assert gone.undone == (one,)
    back = gone.with_stroke(
        changed, np.array([False, False, True]), np.array([True, True, False]), undone=True
    )
    assert back.refined == (one,)
    assert not back.undone
    assert not len(back.painted)
    # A stroke over part of it, undone, is no undo of the outline.
    dab = stroke(stroke(back, [5], False, True), [5], True, True, undone=True)
    assert dab.refined == (one,)
    assert not len(dab.painted) + len(dab.erased)
    assert not back.without_refined(np.array([3]))
    assert back.without_refined(np.array([7])) is back
