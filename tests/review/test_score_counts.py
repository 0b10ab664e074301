"""Histograms that grow, against NumPy's over all scores at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_spatial_ar.review.threshold_scales import ScoreCounts, normal_shares

score = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(score, max_size=30), min_size=1, max_size=6))
def test_counts_are_those_of_all_scores_at_once(slices: list[list[float]]) -> None:
    counts = ScoreCounts(len(slices))
    for index, values in enumerate(slices):
        counts.put(index, np.array(values, np.float32))
    pooled = np.array([v for values in slices for v in values], np.float32)
    assert counts.total == len(pooled)
    if len(pooled):
        step = counts.edges[1] - counts.edges[0]
        assert counts.edges[0] <= pooled.min() <= pooled.max() <= counts.edges[-1] + 1e-9
        above = counts.shares_above()
        for edge, share in zip(counts.edges[::97], above[::97], strict=True):
            slack = 1e-6 * max(1, abs(edge), step)  # a score on an edge may fall on either side
            assert (pooled > edge + slack).mean() - 1e-9 <= share
            assert share <= (pooled >= edge - slack).mean() + 1e-9


def test_a_slice_scored_again_counts_once() -> None:
    counts = ScoreCounts(3)
    counts.put(0, np.array([1.0, 2.0]))
    counts.put(1, np.array([5.0, np.nan]))
    counts.put(0, np.array([-3.0]))
    assert counts.total == 2
    assert counts.shares(np.array([-4.0, 0.0, 6.0])) == pytest.approx([0.5, 0.5])


def test_nothing_scored_has_no_shares() -> None:
    assert not ScoreCounts(2).shares(np.array([0.0, 1.0, 2.0])).any()


def test_the_normal_curve_gives_back_the_calibrated_shares_and_invents_nothing() -> None:
    anchors = {0.5: 1.0, 0.1: 2.0, 0.01: 4.0, 0.001: 5.0}
    edges = np.linspace(0, 6, 61)
    shares = normal_shares(anchors, edges)
    known = (edges[:-1] > 0.99) & (edges[1:] < 5.01)
    assert np.array_equal(np.isfinite(shares), known)
    between = (edges[:-1] > 1.99) & (edges[1:] < 4.01)
    assert shares[between].sum() == pytest.approx(0.09)
    assert shares[known].sum() == pytest.approx(0.499)
    assert np.isnan(normal_shares({}, edges)).all()
