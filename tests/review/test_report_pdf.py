"""Reports as PDF, read back by another program than the one that wrote them."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.review.findings_list import list_findings
from napari_spatial_ar.review.outputs import write_scan_outputs
from napari_spatial_ar.review.provenance import RESEARCH_USE
from napari_spatial_ar.review.report import FolderEntry, FolderReport, scan_report
from napari_spatial_ar.review.report_html import folder_page, scan_page
from napari_spatial_ar.review.report_pdf import PAPERS, need_pdf, pdf_of
from napari_spatial_ar.review.results import gather_results

pypdf = pytest.importorskip("pypdf")


@pytest.fixture
def pdf() -> None:
    try:
        need_pdf()
    except InputError as error:
        pytest.skip(str(error))


def pages_of(data: bytes) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages]


def drawn(page: Any) -> int:
    """Pictures that stand on a page; pages share a list of all that the file holds."""
    images = page["/Resources"]["/XObject"]
    steps = pypdf.generic.ContentStream(page.get_contents(), page.pdf).operations
    named = [operands[0] for operands, operator in steps if operator == b"Do"]
    return sum(images[name].get_object()["/Subtype"] == "/Image" for name in named)


def many_findings(scan: Volume, scores: Any, model: Any, comment: str) -> Any:
    """A report with a table of some pages: comments begin and end with their finding's rank."""
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


@pytest.mark.usefixtures("pdf")
@pytest.mark.parametrize("paper", PAPERS)
def test_rows_and_pictures_are_whole_and_each_page_says_its_number(
    scan: Volume, scores: Any, model: Any, paper: Any
) -> None:
    report = many_findings(scan, scores, model, "word " * 30)
    count = len(report.items)
    assert count > 16
    data = pdf_of(scan_page(report), paper=paper)
    reader = pypdf.PdfReader(io.BytesIO(data))
    size = {"A4": (210, 297), "Letter": (215.9, 279.4)}[paper]
    texts = [" ".join(page.extract_text().split()) for page in reader.pages]
    assert len(texts) >= 4
    for number, (page, text) in enumerate(zip(reader.pages, texts, strict=True), 1):
        millimetres = [float(side) * 25.4 / 72 for side in page.mediabox[2:]]
        assert millimetres == pytest.approx(size, abs=0.1)
        assert RESEARCH_USE in text
        assert f"Page {number} of {len(texts)}" in text
    for rank in range(1, count + 1):
        (at,) = [n for n, text in enumerate(texts) if re.search(rf"\bbegin{rank}\b", text)]
        assert re.search(rf"\bend{rank}\b", texts[at])
    # The heading of the table stands above each part of it.
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
    assert reader.metadata.title == f"Report: {report.title}"


@pytest.mark.usefixtures("pdf")
def test_no_patient_is_named_and_nothing_points_out_of_the_file(
    tmp_path: Path, dicom_scan: Volume, scores: Any, model: Any
) -> None:
    made = write_scan_outputs(
        tmp_path / "out", dicom_scan, scores, model, threshold=2.0, pdf="A4"
    ).files
    assert "report" not in made
    data = made["report_pdf"].read_bytes()
    reader = pypdf.PdfReader(io.BytesIO(data))
    told = " ".join(pages_of(data)) + str(reader.metadata) + str(reader.xmp_metadata or "")
    for part in reader.outline:
        told += str(part)
    assert "MR series" in told
    assert not re.search(r"(?i)poison|19991231|31\.12\.99|1999", told)
    assert str(dicom_scan.series.uid) not in told
    assert not re.search(rb"(?i)poison", data)
    for number in range(1, len(reader.xref[0]) + 1):
        entry = reader.get_object(number)
        keys = set(entry) if isinstance(entry, dict) else set()
        assert not keys & {"/URI", "/JS", "/Launch", "/EmbeddedFiles"}


@pytest.mark.usefixtures("pdf")
def test_what_is_not_in_the_page_is_not_loaded(
    tmp_path: Path, scan: Volume, scores: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    secret = tmp_path / "secret.svg"
    secret.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"><text y="20">'
        "SECRET</text></svg>"
    )
    page = scan_page(scan_report(gather_results(scan, scores, model, threshold=2.0), model))
    before = pdf_of(page)
    outside = (
        f'<img src="{secret.as_uri()}"><img src="http://localhost:9/x.png"><img src="{secret}">'
        '<link rel="stylesheet" href="https://localhost:9/x.css">'
        f'<object data="{secret.as_uri()}"></object>'
    )
    after = pdf_of(page.replace("<h1>", f"{outside}<h1>"))
    assert asked == []
    assert "SECRET" not in " ".join(pages_of(after))
    pictures = [
        sum(map(drawn, pypdf.PdfReader(io.BytesIO(data)).pages)) for data in (before, after)
    ]
    assert pictures[0] == pictures[1] > 0


@pytest.mark.usefixtures("pdf")
def test_each_scan_of_a_folder_begins_a_page_and_can_be_jumped_to(
    scan: Volume, scores: Any, model: Any
) -> None:
    report = scan_report(gather_results(scan, scores, model, threshold=2.0), model)
    entries = [FolderEntry(f"MR series {n}", replace(report, score=n)) for n in (1, 2)]
    entries.append(FolderEntry("Input 3", trouble="It is damaged."))
    data = pdf_of(folder_page(FolderReport(tuple(entries), ("MR series 9 was left out.",))))
    texts = pages_of(data)
    assert "It is damaged." in texts[0]
    assert "MR series 9 was left out." in texts[0]
    begins = [n for n, text in enumerate(texts) if re.match(r"\d\. MR series", text)]
    assert len(begins) == 2
    assert texts[begins[0]].startswith("1. MR series 2")  # the highest score first
    assert begins[0] == 1
    reader = pypdf.PdfReader(io.BytesIO(data))

    def flat(outline: Any) -> list[Any]:
        return [e for x in outline for e in (flat(x) if isinstance(x, list) else [x])]

    marks = {mark.title: reader.get_destination_page_number(mark) for mark in flat(reader.outline)}
    assert marks["1. MR series 2"] == begins[0]
    assert marks["2. MR series 1"] == begins[1]


@pytest.mark.usefixtures("pdf")
def test_it_can_be_stopped_between_pages(scan: Volume, scores: Any, model: Any) -> None:
    page = scan_page(scan_report(gather_results(scan, scores, model, threshold=2.0), model))
    stop = threading.Event()
    asked = []

    def stopped() -> bool:
        asked.append(stop.is_set())
        if len(asked) == 3:
            stop.set()
        return stop.is_set()

    with pytest.raises(Cancelled):
        pdf_of(page, stopped=stopped)
    assert len(asked) == 3
    assert pages_of(pdf_of(page))  # and the next is whole


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raise ImportError('x')", r"WeasyPrint, which is not installed.*napari-spatial-ar\[pdf\]"),
        ("print('long advice'); raise OSError('cannot load library')", "Pango.*Install it"),
    ],
)
def test_what_is_missing_is_said_with_what_to_install(
    tmp_path: Path, fault: str, told: str
) -> None:
    (tmp_path / "weasyprint.py").write_text(fault)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "from napari_spatial_ar.review.report_pdf import need_pdf\n"
        "try:\n    need_pdf()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = run.stdout.splitlines()
    assert re.match(f"InputError a PDF needs .*{told}", line)
