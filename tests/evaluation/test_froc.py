"""Lesions counted as radiologists count them: by hand, and against a slow count of each region."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from skimage.measure import label as connected
from skimage.measure import regionprops

from napari_spatial_ar.evaluation.bootstrap import draw_weights
from napari_spatial_ar.evaluation.froc import (
    FALSE_POSITIVES,
    Froc,
    Heatmaps,
    SizeClass,
    free_response,
    resample_froc,
)


def froc_of(*images: tuple[np.ndarray, np.ndarray, str]) -> Froc:
    with closing(Heatmaps()) as heatmaps:
        for heat, label, scan in images:
            heatmaps.add(heat.astype(np.float32), label, scan)
        return free_response(heatmaps)


def picture(**spots: tuple[slice, slice, float]) -> np.ndarray:
    heat = np.zeros((20, 30))
    for rows, columns, height in spots.values():
        heat[rows, columns] = height
    return heat


LESION = picture(a=(slice(2, 6), slice(2, 6), 1.0)) > 0
NONE = np.zeros_like(LESION)
OTHER = slice(12, 16), slice(20, 24)


def test_a_lesion_found_before_any_false_positive() -> None:
    seen = picture(hit=(slice(3, 6), slice(3, 6), 5.0), false=(*OTHER, 1.0))
    froc = froc_of((seen, LESION, "a"), (picture(false=(*OTHER, 2.0)), NONE, "b"))
    assert froc.scans == ("a", "b")
    assert (froc.lesions, froc.area.tolist(), froc.owner.tolist()) == (1, [16], [0])
    assert froc.sensitivities() == [1.0] * 7
    assert froc.false[:, froc.threshold == 5.0].ravel().tolist() == [0, 0]
    assert froc.false[:, froc.threshold == 2.0].ravel().tolist() == [0, 1]
    assert froc.false[:, froc.threshold == 1.0].ravel().tolist() == [1, 1]


def test_false_positives_before_the_lesion_cost_sensitivity() -> None:
    seen = picture(hit=(slice(3, 6), slice(3, 6), 2.0), false=(*OTHER, 5.0))
    froc = froc_of((seen, LESION, "a"), (picture(), NONE, "b"), (picture(), NONE, "b"))
    # One false positive in two scans comes with it.
    assert froc.sensitivities() == [0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("region", "hit"),
    [
        ((slice(3, 5), slice(3, 5)), True),  # its centre is inside
        ((slice(2, 6), slice(5, 14)), False),  # 4 of 48 pixels in common
        ((slice(2, 6), slice(4, 9)), True),  # centre beside it, 8 of 28 in common
        ((slice(10, 12), slice(2, 6)), False),
    ],
)
def test_a_hit_is_a_centre_in_the_lesion_or_enough_overlap(
    region: tuple[slice, slice], hit: bool
) -> None:
    froc = froc_of((picture(a=(*region, 1.0)), LESION, "a"))
    at = froc.threshold == 1.0
    assert froc.found[0, at].tolist() == [hit]
    assert froc.false[0, at].tolist() == [float(not hit)]


def test_small_and_large_lesions_are_told_apart() -> None:
    label = picture(a=(slice(1, 2), slice(1, 3), 1), b=(slice(5, 9), slice(1, 9), 1)) > 0
    froc = froc_of((picture(b=(slice(5, 9), slice(1, 9), 3.0)), label, "a"))
    assert froc.by_size(2) == (SizeClass(2, 2, 1, 0.0), SizeClass(32, 32, 1, 1.0))
    assert froc.by_size(3) == froc.by_size(2)


def test_nothing_abnormal_has_no_sensitivity() -> None:
    froc = froc_of((picture(a=(*OTHER, 1.0)), NONE, "a"))
    assert froc.sensitivities() is None
    assert froc.by_size() == ()
    assert np.isnan(resample_froc(froc, np.ones((1, 1)))).all()


def slowly(heat: np.ndarray, label: np.ndarray, threshold: float) -> tuple[set[int], int]:
    """Lesions hit, and regions that hit none."""
    lesions = connected(label, connectivity=2)
    hit: set[int] = set()
    false = 0
    for region in regionprops(connected(heat >= threshold, connectivity=2)):
        inside = np.zeros_like(label)
        inside[tuple(region.coords.T)] = True
        row, column = (round(at) for at in region.centroid)
        mine = {int(lesions[row, column])} - {0}
        for lesion in range(1, lesions.max() + 1):
            whole = lesions == lesion
            if (whole & inside).sum() / (whole | inside).sum() > 0.1:
                mine.add(lesion)
        hit |= mine
        false += not mine
    return hit, false


def test_counts_equal_those_of_a_slow_count() -> None:
    rng = np.random.default_rng(4)
    images = []
    for number in range(6):
        heat = np.kron(rng.random((6, 8)), np.ones((4, 4))).round(2)
        label = np.kron(rng.random((12, 16)) > 0.85, np.ones((2, 2))) > 0
        images.append((heat.astype(np.float32), label, f"scan {number % 3}"))
    froc = froc_of(*images)
    before = 0
    false = np.zeros_like(froc.false)
    for heat, label, scan in images:
        count = int(connected(label, connectivity=2).max())
        for column, threshold in enumerate(froc.threshold):
            hit, missed = slowly(heat, label, threshold)
            false[froc.scans.index(scan), column] += missed
            found = np.flatnonzero(froc.found[before : before + count, column])
            assert set((found + 1).tolist()) == hit
        before += count
    np.testing.assert_array_equal(froc.false, false)
    assert before == froc.lesions


def test_draws_of_each_scan_once_give_the_figure_itself() -> None:
    rng = np.random.default_rng(1)
    images = [
        (np.kron(rng.random((5, 6)), np.ones((4, 5))) + LESION * number / 5, LESION, f"{number}")
        for number in range(5)
    ]
    froc = froc_of(*images)
    own = froc.sensitivities()
    assert own is not None
    assert resample_froc(froc, np.ones((1, 5)))[0] == pytest.approx(np.mean(own))
    drawn = resample_froc(froc, draw_weights(5, 50, seed=0))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert drawn.std() > 0
    assert len(FALSE_POSITIVES) == 7
