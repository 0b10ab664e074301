"""Words and pictures for one patch."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.normative.calibration.calibration import Calibration, PatientPeaks
from napari_spatial_ar.normative.detectors.explanation import Explanation, Quantity
from napari_spatial_ar.normative.explaining import PatchPicture
from napari_spatial_ar.review.explaining import (
    patch_row,
    quantity_lines,
    score_sentence,
    share_sentence,
)
from tests.fake_model import FakeModel, fake_header

CALIBRATION = Calibration((0.5, 0.1, 0.01), (1.0, 2.0, 3.0), (), 9, 3)


def calibrated(calibration: Calibration) -> Any:
    return SimpleNamespace(
        header=fake_header(calibration=calibration),
        fpr_for_threshold=calibration.fpr_for_threshold,
        threshold_for_fpr=calibration.threshold_for_fpr,
    )


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.3, "more than 50 %"),
        (1.0, "about 50 %"),
        (2.0, "about 10 %"),
        (2.5, "about 3.2 %"),
        (3.0, "about 1 %"),
        (7.0, "less than 1 %"),
    ],
)
def test_the_share_of_normal_tissue_is_not_told_beyond_what_was_measured(
    score: float, words: str
) -> None:
    assert (
        share_sentence(calibrated(CALIBRATION), score)
        == f"Of normal tissue, {words} scores as high."
    )


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (3.0, "Of normal tissue, about 1 % scores as high."),
        (
            7.0,
            "Of normal tissue, less than 1 % scores as high. Scores as high in 1 of 2 normal "
            "patients.",
        ),
        (
            9.5,
            "Of normal tissue, less than 1 % scores as high. Scores higher than in any of 2 "
            "normal patients.",
        ),
    ],
)
def test_beyond_the_last_share_patients_are_counted(score: float, words: str) -> None:
    calibration = replace(CALIBRATION, peaks=PatientPeaks((0.0,), ((9.0,), (5.0,))))
    assert share_sentence(calibrated(calibration), score) == words


def test_without_calibration_the_share_is_unknown() -> None:
    assert "not calibrated" in share_sentence(FakeModel(calibrated=False), 2.0)


def test_numbers_have_units() -> None:
    assert score_sentence(6.123, "SD of normal tissue") == "Score here: 6.12 SD of normal tissue"
    parts = (Quantity("Distance", 0.12345, "cosine distance"), Quantity("Share", 2.0))
    lines = quantity_lines(Explanation("", parts))
    assert lines == ["Distance: 0.123 cosine distance", "Share: 2"]


def test_pictures_stand_in_a_row_with_their_patch_in_a_box() -> None:
    grey = np.full((70, 70), 0.5, np.float32)
    row = np.asarray(patch_row([PatchPicture(grey, (30, 30, 40, 40))] * 3, 70))
    assert row.shape == (70, 3 * 70 + 2 * 4, 3)
    yellow = (row[..., 0] > 200) & (row[..., 2] < 100)
    assert yellow[:, :70].sum() == 4 * 10 - 4
    assert yellow[30:40, 30:40].sum() == 4 * 10 - 4
    assert np.array_equal(row[:, :70], row[:, 74:144])
