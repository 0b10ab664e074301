"""What scores are said to mean: by hand, and on many simulated sets of patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.normative.calibration.calibration import Calibration, calibrate, scan_score

TISSUE = np.linspace(0, 1, 1000, dtype=np.float32)


def of(patients: list[list[float]]) -> Calibration:
    """Calibration on patients with these image scores."""
    scores = [score for slices in patients for score in slices]
    groups = [f"p{number}" for number, slices in enumerate(patients) for _ in slices]
    return calibrate([TISSUE] * len(scores), scores, groups)


def test_p_values_by_hand() -> None:
    calibration = of([[3.0, 1.0], [2.0, 2.0, 2.0, 5.0], [0.0]])
    assert calibration.smallest_p == 1 / 4
    # Of the three patients a half, a quarter and none of the slices score 2.5 or more.
    assert calibration.slice_p(2.5) == pytest.approx((1 + 0.5 + 0.25 + 0) / 4)
    assert calibration.slice_p(2.0) == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert calibration.slice_p(9.0) == 1 / 4
    assert calibration.slice_p(-1.0) == 1
    assert scan_score([2.0, 2.0, 2.0, 5.0]) == pytest.approx(4.55)
    assert calibration.scan_p([4.0]) == pytest.approx((1 + 1) / 4)
    assert calibration.scan_p([4.0, np.nan]) == calibration.scan_p([4.0])
    assert calibration.scan_p([0.0, 0.0]) == 1
    assert from_plain(calibration.to_dict(), Calibration) == calibration


def test_p_values_keep_their_promise_for_the_next_patient() -> None:
    """Slices of a patient are alike, and patients have many slices or few."""
    rng = np.random.default_rng(0)
    runs, n = 4000, 9
    slices, pooled, scans = np.empty((3, runs))
    for run in range(runs):
        patients = []
        for _ in range(n + 1):
            own = rng.normal()
            # The more slices, the higher they score: to pool them all would promise too much.
            count = 1 + rng.integers(0, 3) ** 3
            patients.append(list(own + 0.5 * count + rng.normal(size=count)))
        *known, new = patients
        calibration, one = of_scores(known), new[rng.integers(len(new))]
        slices[run], scans[run] = calibration.slice_p(one), calibration.scan_p(new)
        everything = np.concatenate(known)
        pooled[run] = (1 + np.sum(everything >= one)) / (1 + len(everything))
    error = 3 * np.sqrt(0.25 / runs)
    for alpha in (0.1, 0.2, 0.3, 0.5):
        assert np.mean(slices <= alpha) <= alpha + error
        # One value a patient: exact at each multiple of 1 / (n + 1).
        assert np.mean(scans <= alpha + 1e-9) == pytest.approx(alpha, abs=error)
    assert np.mean(slices <= 1 / (n + 1) - 1e-9) == 0
    assert np.mean(pooled <= 0.05) > 0.02, "the case is one in which pooling is finer than n"


def of_scores(patients: list[list[float]]) -> Calibration:
    """The same without tissue, which takes most of the time."""
    scores = np.concatenate(patients)
    number = np.repeat(np.arange(len(patients)), [len(slices) for slices in patients])
    order = np.argsort(scores)
    return Calibration(
        (0.1, 0.01),
        (1.0, 2.0),
        tuple(scores[order]),
        slices=len(scores),
        patients=len(patients),
        image_patients=tuple(number[order]),
    )


@pytest.mark.parametrize(("patients", "alpha"), [(19, 0.05), (9, 0.1), (1, 0.5), (3, 0.3)])
def test_levels_that_patients_can_carry(patients: int, alpha: float) -> None:
    of_scores([[1.0]] * patients).check_alpha(alpha)


def test_a_promise_finer_than_the_patients_is_refused() -> None:
    with pytest.raises(InputError, match=r"18 normal patients .* 1/19 = 0.053.* 19 or more"):
        of_scores([[1.0, 2.0]] * 18).check_alpha(0.05)
    with pytest.raises(InputError, match="no level"):
        of_scores([[1.0]]).check_alpha(0)


def test_older_models_give_no_p_values() -> None:
    values = of([[1.0], [2.0]]).to_dict()
    for added in ("image_patients", "patient_fpr", "separate"):
        values.pop(added)
    old = from_plain(values, Calibration)
    assert old.smallest_p is None
    assert old.fpr_bound(0.5) is None
    assert old.threshold_for_fpr(0.1) == pytest.approx(0.9, abs=0.01)
    for ask in (lambda: old.slice_p(1), lambda: old.scan_p([1]), lambda: old.check_alpha(0.5)):
        with pytest.raises(InputError, match="napari-spatial-ar calibrate"):
            ask()


def test_shares_of_tissue_say_how_patients_differ() -> None:
    # All the tissue above 1 is of one of the three patients, who has two slices.
    tissue = [TISSUE, TISSUE, TISSUE, TISSUE + 1]
    calibration = calibrate(tissue, [1.0] * 4, ["a", "b", "c", "c"])
    cut = calibration.threshold_for_fpr(0.05)
    assert cut == pytest.approx(1.8, abs=0.01)
    assert calibration.fpr_of_patients(cut) == pytest.approx((0, 0, 0.1), abs=1e-3)
    assert calibration.fpr_bound(cut) == pytest.approx((1 + 0.1) / 4, abs=1e-3)
    # Beyond what was measured the share is never said to be lower than it is.
    assert calibration.fpr_of_patients(9.0)[2] >= 0
    assert calibration.fpr_of_patients(-9.0) == (1, 1, 1)
    with pytest.raises(InputError, match="4 slices of 3 patients"):
        replace(calibration, fpr=(0.5, 0.1)).threshold_for_fpr(0.001)
