"""Reads reports as PDF, whoever wrote them, and makes one that has a long table."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.review.findings import list_findings
from napari_spatial_ar.review.report.data import ScanReport, scan_report
from napari_spatial_ar.review.results import gather_results

pypdf = pytest.importorskip("pypdf")


def pages_of(data: bytes) -> list[str]:
    """Give the text of each page."""
    return [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages]


def drawn(page: Any) -> int:
    """Count the pictures on a page; pages share a list of all that the file holds."""
    images = page["/Resources"].get("/XObject", {})
    steps = pypdf.generic.ContentStream(page.get_contents(), page.pdf).operations
    named = [operands[0] for operands, operator in steps if operator == b"Do"]
    return sum(images[name].get_object()["/Subtype"] == "/Image" for name in named)


def many_findings(scan: Scan, scores: Any, model: Any, comment: str) -> ScanReport:
    """Report a table of some pages: comments begin and end with their finding's number."""
    mask = np.zeros(scan.data.shape, np.uint8)
    mask[:4, ::4, ::7] = 1
    scores.nll[mask > 0] = np.linspace(2.5, 3, int(mask.sum()))
    listed = list_findings(mask, scores.nll, scan.geometry, model=model)
    for item in listed.items:
        rank = item.finding.rank
        text = f"begin{rank} {comment} end{rank}"
        listed = listed.decide(item.finding.label, status="keep", comment=text)
    results = gather_results(scan, scores, model, threshold=2.0, mask=mask, reviewed=listed)
    return scan_report(results, model)


def check_whole(data: bytes, report: ScanReport, size_mm: tuple[float, float]) -> list[str]:
    """Check that no row and no picture of `many_findings` is cut; give the text of each page.

    Each page has the size, its number and how many there are; the table's heading is repeated.
    """
    reader = pypdf.PdfReader(io.BytesIO(data))
    texts = [" ".join(text.split()) for text in pages_of(data)]
    assert len(texts) >= 4
    for number, (page, text) in enumerate(zip(reader.pages, texts, strict=True), 1):
        millimetres = [float(side) * 25.4 / 72 for side in page.mediabox[2:]]
        assert millimetres == pytest.approx(size_mm, abs=0.2)
        assert f"Page {number} of {len(texts)}" in text
    for rank in range(1, len(report.items) + 1):
        (at,) = [n for n, text in enumerate(texts) if re.search(rf"\bbegin{rank}\b", text)]
        assert re.search(rf"\bend{rank}\b", texts[at])
    with_rows = [text for text in texts if "begin" in text]
    assert len(with_rows) > 1
    assert all("Diameter" in text for text in with_rows)
    shown = [drawn(page) for page in reader.pages]
    assert sum(shown) == len(report.pictures) + 1
    for picture in report.pictures:
        caption = picture.caption.split(":")[0]
        on = [n for n, text in enumerate(texts) if f"{caption}:" in text]
        assert len(on) == 1
        assert shown[on[0]]
    return texts
