"""Three views of one threshold agree with each other."""

from __future__ import annotations

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.review.threshold_scales import (
    PercentileScale,
    Scale,
    ScoreCounts,
    ShareScale,
    UnitScale,
)


def calibration() -> Calibration:
    return Calibration((0.5, 0.1, 0.01), (1.0, 2.0, 5.0), (1.0, 2.0), slices=30, patients=4)


def share_scale() -> ShareScale:
    made = calibration()
    anchors = dict(zip(made.fpr, made.thresholds, strict=True))
    return ShareScale(anchors, made.threshold_for_fpr, made.fpr_for_threshold)


def percentile_scale() -> PercentileScale:
    counts = ScoreCounts(1)
    counts.put(0, np.random.default_rng(0).gamma(2, 1, 100_000))
    return PercentileScale(counts.edges, counts.shares_above())


@pytest.mark.parametrize("scale", [share_scale(), UnitScale(0.5, 6.0), percentile_scale()])
def test_numbers_and_places_lead_back_to_the_threshold(scale: Scale) -> None:
    places = []
    for threshold in np.linspace(1.7, 4.9, 9):
        sign, number = scale.shown(threshold)
        assert sign == ""
        assert scale.threshold(number) == pytest.approx(threshold, abs=1e-6)
        places.append(scale.place(threshold))
        assert scale.at(places[-1]) == pytest.approx(threshold, abs=1e-6)
    assert (np.diff(places) > 0).all()  # to the right is higher, whatever is shown
    assert (scale.place(-1e9), scale.place(1e9)) == pytest.approx((0, 1))


def test_the_share_is_that_of_the_calibration_on_a_logarithmic_slider() -> None:
    scale = share_scale()
    assert scale.shown(2.0) == ("", pytest.approx(10))
    assert scale.at(0) == pytest.approx(1.0)
    assert scale.at(1) == pytest.approx(5.0)
    middle = scale.at(0.5)
    assert calibration().fpr_for_threshold(middle) == pytest.approx(np.sqrt(0.5 * 0.01))
    assert scale.shown(7.0) == ("<", pytest.approx(1))
    assert scale.shown(0.2) == (">", pytest.approx(50))


@pytest.mark.parametrize("percent", [0.0, 0.5, 60])
def test_a_share_that_was_not_calibrated_is_refused(percent: float) -> None:
    with pytest.raises(InputError, match=r"not calibrated for this model \(30 slices of 4"):
        share_scale().threshold(percent)


def test_the_percentile_is_that_of_the_scan() -> None:
    values = np.random.default_rng(0).gamma(2, 1, 100_000)
    scale = percentile_scale()
    for number in (10, 50, 99, 99.9):
        assert scale.threshold(number) == pytest.approx(np.percentile(values, number), abs=0.02)
    with pytest.raises(InputError, match="not a percentile"):
        scale.threshold(101)
