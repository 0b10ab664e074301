"""Slices that the model has not seen, through every output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.calibration import calibrate
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.review.domain_shift import unseen_note
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import write_scan_outputs
from napari_spatial_ar.review.p_values import p_values
from napari_spatial_ar.review.report.folder import kept_report
from napari_spatial_ar.review.worklist.scoring import MaskRule, summarise
from napari_spatial_ar.review.worklist.store import WorklistStore
from tests.fake_model import FakeModel, fake_header

ALL_TOO = MaskSettings(unseen_slices=True)


def strange(scores: ScanScores, *far: float) -> ScanScores:
    """The same scores of slices as far as this from the training slices, the last without body."""
    return replace(scores, unfamiliarity=np.array([*far, np.nan], np.float32))


@pytest.fixture
def half_seen(scores: ScanScores) -> ScanScores:
    """Of the two slices with the region, the second one is not known."""
    return strange(scores, 0.5, 0.4, 1.5, 1.3)


def test_masks_findings_and_summary_leave_them_out(
    tmp_path: Path, scan: Scan, half_seen: ScanScores, model: FakeModel
) -> None:
    raw = half_seen.counting_unseen(True).nll
    written = write_scan_outputs(tmp_path / "a", scan, half_seen, model, threshold=2.0, report=True)
    assert np.flatnonzero(written.mask.any(axis=(1, 2))).tolist() == [1]
    (finding,) = written.findings
    assert (finding.first_slice, finding.last_slice) == (1, 1)
    summary = written.summary
    assert (summary["slices_scored"], summary["unseen_slices"]) == (2, [2, 3])
    assert summary["highest_image_score"] == 2.5
    said = "The model knows slices 1 to 2 of this scan."
    assert said in summary["warnings"]
    assert said in written.files["report"].read_text()
    # The heatmap is all that was measured.
    heat = np.asarray(nib.load(written.files["score"]).dataobj).T
    np.testing.assert_array_equal(heat, raw)


def test_they_are_included_if_asked_for(
    tmp_path: Path, scan: Scan, half_seen: ScanScores, model: FakeModel
) -> None:
    written = write_scan_outputs(
        tmp_path / "b", scan, half_seen, model, threshold=2.0, settings=ALL_TOO
    )
    assert np.flatnonzero(written.mask.any(axis=(1, 2))).tolist() == [1, 2]
    assert written.summary["slices_scored"] == 4
    assert (
        "The model knows slices 1 to 2 of this scan; the others count too."
        in (written.summary["warnings"])
    )
    assert half_seen.left_out.any(), "the caller's scores are left alone"
    assert json.loads(written.files["provenance"].read_text())["threshold"]["unseen_slices"] is True


def test_a_scan_without_a_known_slice_says_so(
    tmp_path: Path, scan: Scan, scores: ScanScores, model: FakeModel
) -> None:
    none = strange(scores, 2.0, 1.5, 1.4, 9.0)
    written = write_scan_outputs(
        tmp_path / "c", scan, none, model, threshold=2.0, report=True, montage_too=True, png=True
    )
    assert not written.mask.any()
    assert (
        "None of the 4 slices scored is like those the model was trained on, so nothing in this "
        "scan is flagged."
    ) in written.summary["warnings"]


@pytest.mark.parametrize(
    ("far", "said"),
    [
        ((0.5, 0.5, 0.5, 0.5), ""),
        ((np.nan,) * 4, ""),
        ((1.5, 0.5, 0.5, 1.2), "The model knows slices 2 to 3 of this scan."),
        ((1.5, 0.5, 1.5, 1.2), "The model knows slice 2 of this scan."),
        ((0.5, 2.5, 0.5, 0.5), "The model knows slices 1 and 3 to 4 of this scan."),
    ],
)
def test_the_line_counts_as_people_do(
    scores: ScanScores, far: tuple[float, ...], said: str
) -> None:
    assert unseen_note(strange(scores, *far)) == said


def test_p_values_and_worklists_are_of_known_slices(
    scan: Scan, half_seen: ScanScores, tmp_path: Path
) -> None:
    tissue = np.linspace(1, 2, 1000, dtype=np.float32)
    images = [1.2, 2.45, 2.6]
    header = fake_header(calibration=calibrate([tissue] * 3, images, ["a", "b", "c"]))
    model = FakeModel("brain", header, "ab" * 32)
    half_seen.count_unseen(True)
    half_seen.image_scores[[2, 4]] = 9.0, 1.0
    half_seen.visited[:] = True
    half_seen.count_unseen(False)
    found, whole = (p_values(model, scan, s) for s in (half_seen, half_seen.counting_unseen(True)))
    assert found is not None
    assert whole is not None
    assert [p is None for p in found.slices] == [False, False, True, True, False]
    assert found.scan is not None
    assert whole.scan is not None
    assert found.scan > whole.scan
    rule = MaskRule(2.0)
    some = summarise(model, scan, half_seen, rule)
    every = summarise(model, scan, half_seen, MaskRule(2.0, ALL_TOO))
    assert some.score is not None
    assert every.score is not None
    assert some.score < 2.5 < every.score
    assert (some.p_value, every.p_value) == (found.scan, whole.scan)
    # On disk is everything, so that either can be had again.
    store = WorklistStore(tmp_path)
    store.save_scores("scan", "model", half_seen, some)
    read = store.load_scores("scan", "model", scan.geometry)
    assert read is not None
    assert np.array_equal(read.left_out, half_seen.left_out)
    assert np.array_equal(read.nll, half_seen.nll)
    assert read.counting_unseen(True).image_scores[2] == 9.0


def test_a_report_made_again_leaves_them_out_again(
    tmp_path: Path, scan: Scan, half_seen: ScanScores, model: FakeModel
) -> None:
    run = {"scan": "s", "settings": "t", "command": "c"}
    written = write_scan_outputs(tmp_path / "d", scan, half_seen, model, threshold=2.0, run=run)
    record = json.loads(written.files["provenance"].read_text())
    again = kept_report(
        record, written.files["nll"], scan, model, threshold=2.0, fpr=None, settings=None
    )
    assert [item.finding.last_slice for item in again.items] == [1]
    assert again.highest is not None
    assert again.highest[0] == 1
