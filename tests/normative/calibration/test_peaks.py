"""Highest scores of normal patients, against brute force, and what they promise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.normative.calibration.calibration import (
    SIZES,
    Calibration,
    PatientPeaks,
    PeakCounter,
    calibrate,
    largest_part,
)


def waves(seed: int, shape: tuple[int, int] = (30, 24)) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 2).astype(np.float32)


def brute(nll: npt.NDArray[np.float32], pixels: int) -> float:
    """Highest of all scores at which so many pixels hang together."""
    for score in np.unique(nll)[::-1]:
        labels, _ = ndimage.label(nll >= score, np.ones((3, 3)))
        if np.bincount(labels.ravel())[1:].max() >= pixels:
            return float(score)
    raise AssertionError


def test_highest_regions_agree_with_brute_force_and_are_never_too_low() -> None:
    body = 500
    slices = [waves(seed) for seed in range(3)]
    meter = PeakCounter()
    for nll in slices:
        meter.add("a", nll, body)
    meter.add("b", waves(9), body)
    assert meter.peaks is not None
    (found, other) = meter.peaks.scores
    assert found[0] == max(float(nll.max()) for nll in slices)
    assert list(found) == sorted(found, reverse=True)
    assert other[0] == float(waves(9).max())
    spread = max(float(np.ptp(nll)) for nll in slices)
    for share, score in zip(SIZES[3:], found[3:], strict=True):
        exact = max(brute(nll, int(np.ceil(share * body))) for nll in slices)
        assert exact <= score <= exact + spread / 4000


def test_slices_come_in_any_order() -> None:
    def measured(order: tuple[int, ...]) -> tuple[float, ...]:
        meter = PeakCounter()
        for seed in order:
            meter.add("a", waves(seed), 500)
        assert meter.peaks is not None
        return meter.peaks.scores[0]

    assert measured((0, 1, 2)) == pytest.approx(measured((2, 1, 0)), abs=1e-3)
    assert PeakCounter().peaks is None


def test_patients_are_counted_by_size() -> None:
    peaks = PatientPeaks((0.0, 0.01, 0.1), ((9.0, 5.0, 1.0), (8.0, 6.0, 2.0)))
    assert [peaks.reaching(score) for score in (10, 9, 8.5, 8, 0)] == [0, 1, 1, 2, 2]
    assert [peaks.reaching(5.5, size) for size in (0.001, 0.01, 0.05, 0.1, 0.9)] == [2, 1, 1, 0, 0]
    assert from_plain(peaks.to_dict(), PatientPeaks) == peaks


@pytest.mark.parametrize(
    ("sizes", "scores"), [((0.0, 0.1), ((1.0,),)), ((0.1, 0.2), ()), ((0.0, 0.0), ()), ((), ())]
)
def test_damaged_peaks_are_refused(
    sizes: tuple[float, ...], scores: tuple[tuple[float, ...], ...]
) -> None:
    with pytest.raises(ValueError, match="size"):
        from_plain({"sizes": sizes, "scores": scores}, PatientPeaks)


def test_a_calibration_with_peaks_comes_back_and_one_without_stays_so() -> None:
    old = calibrate([np.linspace(0, 1, 1000, dtype=np.float32)], [1.0], ["a"])
    assert "patient_peaks" not in old.to_dict()
    assert from_plain(old.to_dict(), Calibration) == old
    peaks = {"sizes": [0.0], "scores": [[4.0]]}
    new = from_plain({**old.to_dict(), "patient_peaks": peaks}, Calibration)
    assert new.peaks == PatientPeaks((0.0,), ((4.0,),))
    assert new.to_dict()["patient_peaks"] == peaks


def test_the_next_normal_patient_is_above_all_others_once_in_n_plus_1() -> None:
    """Patients with few slices or many, some of which score higher altogether."""
    rng = np.random.default_rng(0)
    n, runs, above = 4, 100, 0
    for _ in range(runs):
        meter = PeakCounter()
        for patient in range(n + 1):
            own, count = rng.normal(), 1 + rng.integers(0, 3) ** 2
            for _ in range(count):
                nll = (own + rng.normal(size=(3, 3))).astype(np.float32)
                meter.add(str(patient), nll, 9)
        assert meter.peaks is not None
        *known, new = meter.peaks.scores
        above += PatientPeaks(SIZES, tuple(known)).reaching(new[0]) == 0
    assert above / runs == pytest.approx(1 / (n + 1), abs=3 * np.sqrt(0.16 / runs))


def test_the_largest_part_is_one_that_hangs_together() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, :3] = True
    mask[3:5, 3:5] = True
    assert np.array_equal(np.argwhere(largest_part(mask)), [[3, 3], [3, 4], [4, 3], [4, 4]])
    mask[2, 2] = mask[1, 2] = True  # by a corner
    assert largest_part(mask).sum() == mask.sum() == 9
    assert not largest_part(np.zeros((2, 2), bool)).any()
