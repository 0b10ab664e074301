"""Reports in the browser that readers open them with, on its screen and on its paper."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.review.findings import list_findings
from napari_spatial_ar.review.outputs import write_scan_outputs
from napari_spatial_ar.review.provenance import RESEARCH_USE
from napari_spatial_ar.review.report.data import FolderEntry, FolderReport, ScanReport
from napari_spatial_ar.review.report.html import folder_page, scan_page
from tests.browser import Browser
from tests.paper import check_whole, many_findings, pages_of, pypdf

A4 = (210, 297)
# Nowhere to break a line: what a system calls a series, or a reader pastes.
LONG = "T2_FLAIR_" + "x" * 150


@pytest.fixture
def report(scan: Scan, scores: Any, model: Any) -> ScanReport:
    """Twenty regions, the first of them rejected, each with a long comment; long warnings."""
    made = many_findings(scan, scores, model, f"{'word ' * 20} {LONG}")
    first, *others = made.items
    items = (replace(first, status="reject"), *others)
    return replace(made, title=LONG, items=items, warnings=(LONG, "Slice 3 is missing. " * 20))


def test_a_scan_can_be_read_on_any_screen_and_on_paper(
    tmp_path: Path, browser: Browser, report: ScanReport
) -> None:
    path = tmp_path / "report.html"
    path.write_text(scan_page(report), encoding="utf-8")
    browser.check_page(path)
    texts = check_whole(browser.pdf(), report, A4)
    assert all(RESEARCH_USE in text for text in texts)


def test_a_folder_is_printed_with_what_is_folded_on_the_screen(
    tmp_path: Path, browser: Browser, report: ScanReport
) -> None:
    told = [FolderEntry(LONG, replace(report, score=n), reading="unread") for n in (1.0, 2.0)]
    failed = FolderEntry("Input 3", trouble="It is damaged. " * 9, reading="unread")
    path = tmp_path / "report.html"
    path.write_text(folder_page(FolderReport((*told, failed), (LONG,))), encoding="utf-8")
    browser.check_page(path)
    folded = "document.querySelector('details:nth-of-type(2) table').checkVisibility()"
    assert not browser.run(folded)
    browser.run("document.querySelector('a[href=\"#scan-2\"]').click()")
    assert browser.run(folded)  # a link into what is folded unfolds it
    printed = " ".join(" ".join(pages_of(browser.pdf())).split())
    last = len(report.items)
    assert printed.count(f"end{last} ") == 2
    reader = pypdf.PdfReader(io.BytesIO(browser.pdf()))
    assert f"Page 1 of {len(reader.pages)}" in reader.pages[0].extract_text()


def test_findings_have_the_numbers_that_they_have_in_the_files(
    tmp_path: Path, browser: Browser, scan: Scan, scores: Any, model: Any
) -> None:
    scores.nll[1, 6, 5] = 3
    scores.nll[3, 20:24, 10:14] = 2.9
    mask = (scores.nll > 2).astype("uint8")
    listed = list_findings(mask, scores.nll, scan.geometry, model=model)
    second = listed.items[1].finding.label
    listed = listed.decide(second, status="keep", comment="seen in T1 too")
    files = write_scan_outputs(
        tmp_path,
        scan,
        scores,
        model,
        threshold=2.0,
        mask=mask,
        reviewed=listed,
        report=True,
    ).files
    browser.check_page(files["report"])
    shown = browser.run(
        "[...document.querySelectorAll('.findings tbody tr')].map((row) =>"
        "[0, 4, 6, 10].map((at) => row.cells[at].firstChild?.value ?? row.cells[at].textContent))"
    )
    with files["findings_csv"].open(newline="") as file:
        table = list(csv.DictReader(file))
    records = json.loads(files["findings_json"].read_text())["findings"]
    assert [row[0] for row in shown] == [row["rank"] for row in table] == ["1", "2"]
    assert [int(row[0]) for row in shown] == [record["rank"] for record in records]
    peaks = [float(row["peak_score"]) for row in table]
    assert [float(row[2]) for row in shown] == pytest.approx(peaks, rel=1e-6)
    assert [row[3] for row in shown] == [row["comment"] for row in table]
    numbered = np.asarray(nib.load(files["findings"]).dataobj)
    millilitres = [(numbered == int(row[0])).sum() * 0.006 for row in shown]
    assert [float(row[1]) for row in shown] == pytest.approx(millilitres)


@pytest.mark.parametrize("policy", ["with", "without"])
def test_what_a_page_would_load_is_seen_here(
    tmp_path: Path, browser: Browser, report: ScanReport, policy: str
) -> None:
    """The other tests find nothing because nothing is there, and the page's policy holds."""
    page = scan_page(report).replace("<h1>", '<img src="http://scans.invalid/x.png"><h1>')
    if policy == "without":
        page = page.replace("http-equiv", "name")
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    browser.open(path)
    assert any("x.png" in error for error in browser.errors)
    assert bool(browser.connections) == (policy == "without")
