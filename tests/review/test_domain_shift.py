"""A share of flagged tissue that calibration does not promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.domain_shift import (
    flagged_warning,
    scan_counts,
    shift_headline,
    shift_record,
)
from napari_spatial_ar.review.outputs import write_scan_outputs
from napari_spatial_ar.review.threshold_scales import ScoreCounts


def model(*levels: float) -> SimpleNamespace:
    def threshold(fpr: float) -> float:
        if fpr not in levels:
            raise InputError("not calibrated for this share")
        return -float(np.log10(fpr))

    return SimpleNamespace(threshold_for_fpr=threshold)


def above(share: float) -> Callable[[float], float]:
    return lambda threshold: share if threshold < 1.5 else share / 2


@pytest.mark.parametrize(("share", "warns"), [(0.25, False), (0.49, False), (0.5, True), (1, True)])
def test_half_of_the_tissue_is_no_lesion(share: float, warns: bool) -> None:
    said = flagged_warning(model(0.05, 0.01), above(share), slices=2, whole=True)
    assert bool(said) == warns
    if warns:
        assert said.startswith(f"{share / 2:.0%} of the tissue of the whole scan")
        assert "1% of normal tissue" in said


def test_a_model_says_it_with_the_share_that_it_is_calibrated_for() -> None:
    said = partial(flagged_warning, share_above=above(0.7), slices=9, whole=False)
    assert "5% of normal tissue" in said(model(0.05))
    assert said(model()) == ""


@pytest.mark.parametrize(
    ("slices", "said"), [(4, ""), (5, "70% of the tissue of the 5 slices scored ")]
)
def test_of_a_part_of_a_scan_only_that_part_is_said(slices: int, said: str) -> None:
    warning = flagged_warning(model(0.05), above(0.7), slices=slices, whole=False)
    assert warning.startswith(said)
    assert bool(warning) == bool(said)


def test_the_share_above_a_threshold_is_that_of_the_scores() -> None:
    counts = ScoreCounts(2)
    assert counts.share_above(0.0) == 0.0
    counts.put(0, np.linspace(0, 1, 1001, dtype=np.float32))
    assert counts.share_above(0.25) == pytest.approx(0.75, abs=2e-3)
    assert counts.share_above(2.0) == 0.0
    assert counts.share_above(-1.0) == 1.0


def test_the_record_holds_what_was_found_before_and_after() -> None:
    found = shift_record(DomainShift(("it is CT",), {"body": 0.123456}, True), "much is flagged")
    assert found == {
        "unlike": ["it is CT"],
        "measured": {"body": 0.1235},
        "complete": True,
        "flagged": "much is flagged",
    }
    assert shift_record(None, "") == {"flagged": None}


@pytest.mark.parametrize(
    ("topics", "flagged", "said"),
    [
        ((), "", ""),
        ((), "much", "More is flagged than is likely to be abnormal."),
        (("modality",), "", "Outside the training domain: modality."),
        (("modality", "brightness"), "much", ": modality, brightness, share flagged."),
        (("a", "b", "c"), "", "Outside the training domain: a, b, c."),
        (("a", "b", "c"), "much", "Outside the training domain: a, b and 2 more."),
        (("a", "b", "b"), "", "Outside the training domain: a, b."),
    ],
)
def test_the_headline_names_what_is_unlike(
    topics: tuple[str, ...], flagged: str, said: str
) -> None:
    headline = shift_headline(DomainShift(topics, {}, True, topics), flagged)
    assert headline.endswith(said)
    assert bool(headline) == bool(said)


def test_a_headline_is_short_where_topics_are_not_known() -> None:
    said = "Outside the training domain."
    assert shift_headline(DomainShift(("it is CT",)), "") == said
    assert shift_headline(None, "") == ""


def test_warnings_stand_in_the_record_and_in_what_is_said(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    scores.visited[:], scores.image_scores[4] = True, 1.0
    found = DomainShift(("it is CT, the model was trained on MRI",), {"body": 0.5}, True)
    model.threshold_for_fpr = lambda fpr: 0.1
    outputs = write_scan_outputs(tmp_path / "out", scan, scores, model, threshold=2.0, shift=found)
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())["likeness"]
    assert record["unlike"] == list(found.reasons)
    assert outputs.shift_warnings == (found.warning, record["flagged"])
    assert "% of the tissue of the whole scan is above" in record["flagged"]


def test_of_a_slice_or_two_nothing_is_concluded(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    model.threshold_for_fpr = lambda fpr: 0.1
    scores.visited[2:] = False
    outputs = write_scan_outputs(tmp_path / "out", scan, scores, model, threshold=2.0)
    assert outputs.shift_warnings == ()
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())["likeness"]
    assert record == {"flagged": None}


def test_scores_are_counted_in_the_body(scan: Scan, scores: Any, model: Any) -> None:
    counts = scan_counts(scan, Body(scan, model), scores.nll, scores.scored)
    body = Body(scan, model)
    assert counts.total == sum(int(body.plane(index).sum()) for index in range(4))
