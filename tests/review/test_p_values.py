"""P-values of a scored scan: which slices have one, and when the scan does."""

from __future__ import annotations

import numpy as np
import pytest

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.calibration.calibration import Calibration, calibrate
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.review.p_values import p_note, p_values, share_note
from tests.fake_model import FakeModel, fake_header

TISSUE = np.linspace(0, 1, 1000, dtype=np.float32)
CALIBRATION = calibrate([TISSUE, TISSUE + 1, TISSUE], [1.0, 2.0, 3.0], ["a", "b", "c"])


@pytest.fixture
def scan() -> Scan:
    """Four slices: body, next to no body, body, nothing."""
    data = np.zeros((4, 20, 20), np.float32)
    data[[0, 2], 5:15, 5:15] = 200
    data[1, 9:11, 9:11] = 200
    geometry = Geometry(data.shape, np.diag([-1.0, -1.0, 2.0, 1.0]))
    return Scan(data, geometry, "mri", Series("MR series 1"), intensity="grey8")


def model(calibration: Calibration | None = CALIBRATION) -> FakeModel:
    shown = Preprocessing(Window("full8"))
    return FakeModel(header=fake_header(calibration=calibration, preprocessing=shown))


def scored(scan: Scan, *image_scores: float) -> ScanScores:
    score = ScanScores.empty(scan.geometry)
    score.image_scores[:] = image_scores
    score.visited[:] = ~np.isnan(score.image_scores)
    return score


def test_slices_with_enough_body_have_one(scan: Scan) -> None:
    """The slice with next to no body scores highest, and counts neither alone nor in the scan."""
    found = p_values(model(), scan, scored(scan, 2.5, 99.0, 1.5, np.nan))
    assert found is not None
    assert found.slices == (0.5, None, 0.75, None)
    assert found.scan == 0.5
    assert (found.patients, found.smallest) == (3, 0.25)
    assert found.to_dict()["slices"] == [0.5, None, 0.75, None]


def test_a_scan_that_is_not_wholly_scored_has_none(scan: Scan) -> None:
    found = p_values(model(), scan, scored(scan, 2.5, np.nan, np.nan, np.nan))
    assert found is not None
    assert found.slices == (0.5, None, None, None)
    assert found.scan is None
    found = p_values(model(), scan, scored(scan, 2.5, np.nan, 1.5, np.nan))
    assert found is not None
    assert found.scan == 0.5


def test_older_calibrations_have_none(scan: Scan) -> None:
    score = scored(scan, 2.5, 1.0, 1.5, np.nan)
    old = Calibration((0.1, 0.01), (1.0, 2.0), (1.0,), slices=1, patients=1)
    assert p_values(model(old), scan, score) is None
    assert p_values(model(None), scan, score) is None
    assert share_note(old, 1.0) == "The threshold flags 10.00% of the tissue of 1 normal patient."


def test_the_note_says_how_patients_differ() -> None:
    note = share_note(CALIBRATION, CALIBRATION.threshold_for_fpr(0.1))
    assert "10.00% of the tissue of 3 normal patients (0.00% to 30.0" in note
    assert "at most 32.5" in note
    assert "flags less than 0.50%" in share_note(CALIBRATION, 99.0)
    assert "flags more than 50.00%" in share_note(CALIBRATION, -1.0)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((2.5, 99.0, 1.5, np.nan), "scores as high in 1 of 3 normal patients (p = 0.5;"),
        ((9.0, 99.0, 9.0, np.nan), "scores higher than in any of 3 normal patients (p = 0.25;"),
        ((0.5, 99.0, 0.5, np.nan), "scores as high in 3 of 3 normal patients (p = 1;"),
    ],
)
def test_a_scan_is_told_in_one_sentence(scan: Scan, scores: tuple[float, ...], said: str) -> None:
    assert said in p_note(p_values(model(), scan, scored(scan, *scores)))
    assert "none can be below 0.25" in p_note(p_values(model(), scan, scored(scan, *scores)))


def test_without_a_p_value_nothing_is_told(scan: Scan) -> None:
    assert p_note(None) == ""
    assert p_note(p_values(model(), scan, scored(scan, 2.5, np.nan, np.nan, np.nan))) == ""
