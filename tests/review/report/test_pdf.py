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

import pytest

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.review.outputs import write_scan_outputs
from napari_spatial_ar.review.provenance import RESEARCH_USE
from napari_spatial_ar.review.report.data import FolderEntry, FolderReport, scan_report
from napari_spatial_ar.review.report.html import folder_page, scan_page
from napari_spatial_ar.review.report.pdf import PAPERS, need_pdf, pdf_of
from napari_spatial_ar.review.results import gather_results
from tests.paper import check_whole, drawn, many_findings, pages_of, pypdf


@pytest.fixture
def pdf() -> None:
    try:
        need_pdf()
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("pdf")
@pytest.mark.parametrize("paper", PAPERS)
def test_rows_and_pictures_are_whole_and_each_page_says_its_number(
    scan: Scan, scores: Any, model: Any, paper: Any
) -> None:
    report = many_findings(scan, scores, model, "word " * 30)
    assert len(report.items) > 16
    data = pdf_of(scan_page(report), paper=paper)
    size = {"A4": (210, 297), "Letter": (215.9, 279.4)}[paper]
    texts = check_whole(data, report, size)
    assert all(RESEARCH_USE in text for text in texts)
    reader = pypdf.PdfReader(io.BytesIO(data))
    assert reader.metadata.title == f"Report: {report.title}"


@pytest.mark.usefixtures("pdf")
def test_no_patient_is_named_and_nothing_points_out_of_the_file(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any
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
    tmp_path: Path, scan: Scan, scores: Any, model: Any, monkeypatch: pytest.MonkeyPatch
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
    scan: Scan, scores: Any, model: Any
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
def test_it_can_be_stopped_between_pages(scan: Scan, scores: Any, model: Any) -> None:
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
        "from napari_spatial_ar.review.report.pdf import need_pdf\n"
        "try:\n    need_pdf()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = run.stdout.splitlines()
    assert re.match(f"InputError a PDF needs .*{told}", line)
