"""Reports as a browser reads them: alone in their file, harmless, and equal to the tables."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging import files
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.review.findings import FindingsList, list_findings
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import write_scan_outputs
from napari_spatial_ar.review.provenance import RESEARCH_USE
from napari_spatial_ar.review.report.data import (
    FolderEntry,
    FolderReport,
    report_message,
    report_steps,
    scan_report,
)
from napari_spatial_ar.review.report.folder import FolderReports
from napari_spatial_ar.review.report.html import folder_page, scan_page
from napari_spatial_ar.review.report.pictures import chosen_slices
from napari_spatial_ar.review.results import gather_results
from tests.fake_model import fake_header
from tests.page import Page

EVIL = "</td><script>alert('x')</script><img src=x onerror=alert(1)> \"&amp; 'quoted'"


@pytest.fixture
def mask(scores: Any) -> np.ndarray:
    """Three regions: one that peaks at 3 in slice 1, one at 2.9 in slice 3, one at 2.8 in 0."""
    scores.nll[1, 6, 5] = 3
    scores.nll[3, 20:24, 10:14] = 2.9
    scores.nll[0, 27:29, 15:18] = 2.8
    return np.asarray(scores.nll > 2, np.uint8)


@pytest.fixture
def listed(mask: np.ndarray, scan: Scan, scores: Any, model: Any) -> FindingsList:
    """The first unread, the second kept with a comment full of markup, the third rejected."""
    found = list_findings(mask, scores.nll, scan.geometry, model=model)
    second, third = (item.finding.label for item in found.items[1:])
    return found.decide(second, status="keep", comment=EVIL).decide(third, status="reject")


def test_a_report_stands_alone_and_its_numbers_are_those_of_the_tables(
    tmp_path: Path, scan: Scan, scores: Any, model: Any, mask: Any, listed: FindingsList
) -> None:
    written = write_scan_outputs(
        tmp_path / "out",
        scan,
        scores,
        model,
        threshold=2.0,
        fpr=0.01,
        mask=mask,
        reviewed=listed,
        report=True,
    )
    page = Page(written.files["report"].read_text(encoding="utf-8"))
    page.check_alone()
    findings = json.loads(written.files["findings_json"].read_text())["findings"]
    (head,) = [at for at, row in enumerate(page.rows) if row[:2] == ["No.", "Side"]]
    rows = page.rows[head + 1 : head + 1 + len(findings)]
    values = page.values[head + 1 : head + 1 + len(findings)]
    assert len(findings) == 3
    for finding, row, numbers in zip(findings, rows, values, strict=True):
        assert (row[0], row[1]) == (str(finding["rank"]), finding["side"])
        # People count from 1, files from 0.
        slices = sorted({finding["first_slice"] + 1, finding["last_slice"] + 1})
        assert row[3] == " to ".join(map(str, slices))
        assert numbers == [
            *finding["centroid_ras_mm"],
            finding["volume_ml"],
            finding["longest_diameter_mm"],
            finding["peak_score"],
            finding["mean_score"],
        ]
        assert float(row[6]) == pytest.approx(finding["peak_score"], rel=1e-3)
        microlitres = 1000 * finding["volume_ml"]
        assert row[4] == f"{microlitres:g} µl"
    assert [row[9] for row in rows] == ["not read", "kept", "rejected"]
    assert [row[10] for row in rows] == ["", EVIL, ""]
    facts = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert facts["Flagged regions"] == "3 (1 not read, 1 kept, 1 rejected)"
    assert facts["Threshold"].startswith("2 nats per dimension. It flags 1.00% of normal tissue")
    assert facts["Spacing (Z, Y, X)"] == "3 x 2 x 1 mm"
    assert facts["Voxels (Z, Y, X)"] == "5 x 30 x 20"
    assert (facts["Name"], facts["sha256"]) == (model.name, model.sha256)
    assert facts["Slices scored"] == "4 of 5"
    assert page.text.count(RESEARCH_USE) == 2
    record = json.loads(written.files["provenance"].read_text())
    assert record["created"] in page.text
    assert f"numpy {np.__version__}" in page.text


def test_a_report_says_how_the_mask_was_made(scan: Scan, scores: Any, model: Any) -> None:
    settings = MaskSettings(
        hysteresis=2.25, min_pixels=3, smoothing_pixels=1.5, min_voxels=7, fill_holes=True
    )
    results = gather_results(scan, scores, model, threshold=2.0, settings=settings)
    page = Page(scan_page(scan_report(results, model)))
    facts = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert facts["Mask"] == (
        "regions that reach 2.25, of at least 7 voxels, of at least 3 pixels in a slice, smoothed "
        "by 1.5 pixels, holes filled"
    )


def test_text_of_a_reader_or_a_header_is_harmless(
    scan: Scan, scores: Any, model: Any, mask: Any, listed: FindingsList
) -> None:
    model.name = EVIL
    named = replace(scan, series=replace(scan.series, label=EVIL), warnings=(EVIL,))
    results = gather_results(named, scores, model, threshold=2.0, mask=mask, reviewed=listed)
    report = scan_report(results, model, warnings=[EVIL + "2"])
    told = FolderReport((FolderEntry(EVIL, report), FolderEntry(EVIL, None, EVIL, EVIL)), (EVIL,))
    for html in (scan_page(report), folder_page(told)):
        page = Page(html)
        page.check_alone()  # no <script>, no onerror
        assert page.text.count(EVIL) >= 4


def test_pictures_show_findings_where_they_are(
    scan: Scan, scores: Any, model: Any, mask: Any, listed: FindingsList, said: list[str]
) -> None:
    results = gather_results(scan, scores, model, threshold=2.0, mask=mask, reviewed=listed)
    page = Page(scan_page(scan_report(results, model)))
    page.check_alone()
    (legend, _), *slices = page.pictures
    assert "threshold 2 (nats per dimension)" in legend
    # Kept before unread; none of what was rejected, then the highest-scoring slices.
    assert [alt.split(" of ")[0] for alt, _ in slices] == [f"Slice {i}" for i in (4, 2, 3, 1)]
    assert "outline of region 2, at the midline." in slices[0][0]
    assert "outline of region 1" in slices[1][0]
    assert "3" not in said[: said.index("slice 3")]
    assert {"R", "L", "1", "2"} <= set(said)
    height, width = slices[0][1].shape[:2]
    cyan = (slices[0][1][..., 2] > 150) & (slices[0][1][..., 0] < 90)
    ys, xs = np.nonzero(cyan[:, 2 * width // 3 :])
    # Rows 20 to 23 of 30; the region's own half of the upright slice.
    pixel = (height - 24) / 30
    upright = scan.geometry.to_slices(mask)[3]
    rows, columns = np.nonzero(upright)
    assert rows.min() * pixel - 20 < ys.min()
    assert ys.max() < (rows.max() + 1) * pixel + 4
    panel = width / 3
    assert xs.min() > columns.min() * panel / 20 - 6
    assert not cyan[:, : 2 * width // 3].any()


def test_where_there_are_many_findings_those_kept_have_their_pictures(
    scan: Scan, scores: Any, model: Any, mask: Any, listed: FindingsList
) -> None:
    results = gather_results(scan, scores, model, threshold=2.0, mask=mask, reviewed=listed)
    chosen = chosen_slices(results, 2, highest=1)
    assert [index for index, _ in chosen] == [3, 1]
    assert [item.finding.rank for item in chosen[0][1]] == [2]
    report = scan_report(results, model, most=1)
    assert report.without_picture == 1
    assert "1 more region has no image here." in Page(scan_page(report)).text
    whole = scan_report(results, model)
    assert len(whole.shortened(2).pictures) == 2


def test_a_report_can_be_cancelled_between_pictures(
    scan: Scan, scores: Any, model: Any, mask: Any, listed: FindingsList
) -> None:
    results = gather_results(scan, scores, model, threshold=2.0, mask=mask, reviewed=listed)
    steps = report_steps(results, model)
    assert sum(1 for _ in steps) == len(chosen_slices(results, 16)) == 4


def test_calibration_p_value_and_warnings_are_told(scan: Scan, scores: Any, model: Any) -> None:
    calibration = Calibration(
        fpr=(0.5, 0.1, 0.01),
        thresholds=(0.5, 1.0, 2.0),
        image_scores=(1.0, 2.0, 3.0),
        slices=3,
        patients=3,
    )
    model = replace(model, header=fake_header(calibration=calibration))
    shift = DomainShift(("it is CT, the model was trained on MRI",))
    results = gather_results(scan, scores, model, threshold=2.0, shift=shift)
    page = Page(scan_page(scan_report(results, model)))
    assert "The threshold flags 1.00% of the tissue of 3 normal patients." in page.text
    assert "differs from those the model was trained on: it is CT" in page.text


@pytest.mark.parametrize("keep", [False, True])
def test_no_patient_is_named_and_uids_only_on_request(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any, keep: bool
) -> None:
    written = write_scan_outputs(
        tmp_path / "out",
        dicom_scan,
        scores,
        model,
        threshold=2.0,
        report=True,
        keep_uids=keep,
    )
    html = written.files["report"].read_text(encoding="utf-8")
    page = Page(html)
    assert not re.search(r"(?i)poison|19991231|31\.12\.99|1999", page.text)
    assert not re.search(r"(?i)poison", html)
    uid = dicom_scan.series.uid
    assert uid
    assert (uid in page.text) is keep
    assert ("sha256:" in page.text) is not keep


def test_a_folder_is_ranked_and_says_what_failed_without_its_file(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    reports = FolderReports(tmp_path)
    for label, factor in (("low", 1.0), ("high", 2.0)):
        image_scores = scores.image_scores * factor
        these = replace(scores, image_scores=image_scores)
        named = replace(scan, series=replace(scan.series, label=label))
        results = gather_results(named, these, model, threshold=2.0)
        reports.add(scan_report(results, model))
    reports.fail(InputError("is damaged", path="/data/DOE_JANE.nii", fix="Copy it again"), 2)
    written = reports.write(["MR series 1 is a localizer and was excluded."])
    assert written == {"report": str(tmp_path / "report.html")}
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    page.check_alone()
    (head,) = [at for at, row in enumerate(page.rows) if row[:2] == ["No.", "Image"]]
    first, second, third = page.rows[head + 1 : head + 4]
    assert (first[2], second[2]) == ("high", "low")
    score = np.nanquantile(scores.image_scores.astype(float), 0.95)
    assert page.values[head + 1][0] == pytest.approx(2 * score)
    assert first[5] == "1 (1 not read)"
    assert third[2:] == ["Input 3", "Is damaged. Copy it again."]
    assert "DOE" not in page.text
    assert "MR series 1 is a localizer" in page.text
    assert len(page.named("details")) == 2
    assert "Threshold: 2 nats per dimension" in page.text
    thumbnails = [p for p in page.named("img") if p.get("class") == "thumb"]
    assert len(thumbnails) == 2
    with pytest.raises(InputError, match="earlier run"):
        FolderReports(tmp_path)
    FolderReports(tmp_path, overwrite=True)


def test_a_full_disk_leaves_the_earlier_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        FolderReports(tmp_path, overwrite=True).write()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_scan_without_findings_or_scores_has_a_report(
    scan: Scan, scores: Any, model: Any
) -> None:
    results = gather_results(scan, scores, model, threshold=9.0)
    page = Page(scan_page(scan_report(results, model)))
    page.check_alone()
    assert "Nothing is above the threshold." in page.text
    assert len(page.pictures) == 5  # the colours and the four scored slices
    scores.visited[:] = False
    scores.image_scores[:] = np.nan
    results = gather_results(scan, scores, model, threshold=9.0)
    page = Page(scan_page(scan_report(results, model)))
    page.check_alone()
    assert page.pictures == []


def test_unforeseen_errors_are_told_by_their_kind() -> None:
    assert report_message(ValueError("DOE_JANE.nii")) == (
        "It stopped because of an unexpected problem (ValueError)."
    )


def test_reports_need_neither_torch_nor_qt_and_html_no_weasyprint() -> None:
    code = (
        "import sys; from napari_spatial_ar.review.report import folder, html;"
        "print([m for m in ('torch', 'qtpy', 'napari', 'weasyprint') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
