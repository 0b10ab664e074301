"""Exports of a scan that came from DICOM, from the dock."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_spatial_ar.gui.review import export_panel
from napari_spatial_ar.review.outputs import scan_folder_name
from napari_spatial_ar.review.results import gather_results
from tests.gui.test_open_scan import series
from tests.page import Page

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def scored(dock: Any, finish: Any, qtbot: Any, tmp_path: Path) -> Any:
    """A dock with a scored DICOM scan whose left front corner is found."""
    series(tmp_path / "scan", 4)
    made = dock(scan=False)
    made.scan.opener.open([str(tmp_path / "scan")])
    qtbot.waitUntil(lambda: made.scan.layer is not None, timeout=10_000)
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    made.threshold.slider.setValue(5.0)
    finish(made)
    return made


def test_the_mask_goes_out_as_dicom_seg_where_the_scan_was_dicom(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    offered: list[str] = []

    def choose(*arguments: Any) -> tuple[str, str]:
        offered.append(arguments[3])
        # The suggested name, with the other kind picked.
        return str(tmp_path / "mask.nii.gz"), arguments[3].split(";;")[1]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) >= 1, timeout=20_000)
    assert "DICOM segmentation (*.dcm)" in offered[0]
    assert notes[0].startswith("The mask is saved in mask.dcm.")
    made = hd.seg.segread(tmp_path / "mask.dcm")
    volume = made.get_volume(combine_segments=True)
    where = volume.map_indices_to_reference(np.argwhere(volume.array > 0)).mean(axis=0)
    # Columns 12..19 of 1 mm from x = -10, rows 0..4 of 1.5 mm from y = -8 (LPS).
    assert where == pytest.approx([5.5, -5.0, 7.5])


def test_a_name_that_gets_its_ending_from_us_is_not_overwritten_unasked(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any
) -> None:
    (tmp_path / "m.nii.gz").write_text("old")
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *a: (str(tmp_path / "m"), "NIfTI (*.nii.gz *.nii)")
    )
    no = QMessageBox.StandardButton.No
    monkeypatch.setattr(QMessageBox, "question", lambda *a: no)
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    assert (tmp_path / "m.nii.gz").read_text() == "old"
    yes = QMessageBox.StandardButton.Yes
    monkeypatch.setattr(QMessageBox, "question", lambda *a: yes)
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    qtbot.waitUntil(lambda: (tmp_path / "m.nii.gz").stat().st_size > 10, timeout=10_000)
    assert np.asarray(nib.load(tmp_path / "m.nii.gz").dataobj).sum() == 4 * 5 * 8


def test_of_a_scan_deleted_since_everything_but_dicom_is_exported(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    shutil.rmtree(tmp_path / "scan")
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(out / "mask.dcm"), ""))
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=20_000)
    assert "not read from DICOM files that still exist" in notes[0]
    assert not list(out.iterdir())
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a: str(out))
    qtbot.mouseClick(scored.export.all_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) == 2, timeout=30_000)
    assert notes[1].startswith("Heatmap, mask, flagged regions and provenance are saved")
    (folder,) = out.iterdir()
    assert np.asarray(nib.load(folder / "mask.nii.gz").dataobj).sum() == 4 * 5 * 8


def test_export_all_takes_dicom_and_pictures_along(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a: str(out))
    assert not scored.export.dicom.isChecked()
    scored.export.dicom.click()
    scored.export.png.click()
    scored.export.seg_nrrd.click()
    scored.export.itksnap.click()
    wanted = {"dicom": True, "png": True, "seg_nrrd": True, "itksnap": True}
    assert scored.export.extras() == wanted
    qtbot.mouseClick(scored.export.all_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) >= 1, timeout=30_000)
    (folder,) = out.iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"mask.nii.gz", "nll.nii.gz", "mask.dcm", "nll.dcm", "overlays"} <= names
    assert {"findings.nii.gz", "findings.dcm", "findings.seg.nrrd", "findings.label"} <= names
    assert list((folder / "overlays").glob("*.png"))


def test_the_dicom_objects_are_chosen_and_remembered(
    scored: Any, dock: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    panel = scored.export
    choice = panel.objects
    assert choice.fold.isHidden(), "nothing to choose without DICOM"
    panel.dicom.click()
    assert not choice.fold.isHidden()
    assert choice.chosen() == ("seg", "pm")
    qtbot.mouseClick(choice.fold.heading, LEFT)
    for box in choice.kinds.values():
        assert box.toolTip()
    for kind in ("pm", "sr", "capture"):
        choice.kinds[kind].click()
    qtbot.keyClicks(choice.signed_by, "Roe^Richard")
    assert panel.extras()["dicom"] == ("seg", "sr", "capture")
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a: str(out))
    qtbot.mouseClick(panel.all_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) >= 1, timeout=30_000)
    (folder,) = out.iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"mask.dcm", "findings.dcm", "report.dcm", "captures"} <= names
    assert not {"nll.dcm", "outlines.dcm"} & names
    report = pydicom.dcmread(folder / "report.dcm")
    people = [item.PersonName for item in report.ContentSequence if item.ValueType == "PNAME"]
    assert people == ["Roe^Richard"]
    choice.de_identify.click()
    extras = panel.extras()
    assert extras["de_identify"] is True
    assert "signed_by" not in extras
    panel.dicom.click()
    assert panel.extras()["dicom"] is False
    assert "de_identify" not in panel.extras()
    panel.set_scan(scored.session.volume)
    assert choice.signed_by.text() == "", "another scan is not signed"
    again = dock().export
    assert again.objects.chosen() == ("seg", "sr", "capture")
    assert again.objects.signed_by.text() == ""


def click_and_answer(
    made: Any, qtbot: Any, monkeypatch: Any, button: Any, answer: Any
) -> list[tuple[Any, ...]]:
    """Press a button that exports, answer what it asks, and give what it asked."""
    asked: list[tuple[Any, ...]] = []

    def question(parent: Any, *arguments: Any) -> Any:
        asked.append(arguments)
        return answer

    monkeypatch.setattr(QMessageBox, "question", question)
    qtbot.mouseClick(button, LEFT)
    return asked


def test_a_report_of_the_scan_is_written_and_opened_on_request(
    scored: Any, finish: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    label = scored.session.listed.items[0].finding.label
    scored.masks.decide(label, status="keep", comment="<script>old</script>")
    offered: list[str] = []

    def choose(*arguments: Any) -> tuple[str, str]:
        offered.append(arguments[2])
        return str(tmp_path / "a"), arguments[3]

    opened: list[str] = []
    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    qtbot.mouseClick(scored.export.report_button, LEFT)
    qtbot.waitUntil(lambda: "The report is saved in a.html." in notes, timeout=20_000)
    qtbot.waitUntil(lambda: scored.export.report_button.text() == "Export report...")
    assert opened == []
    assert "PoisonName" not in offered[0]
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    page.check_alone()
    assert "<script>old</script>" in page.text
    (finding,) = scored.session.listed.kept
    (row,) = [values for values in page.values if len(values) == 7]
    assert row[-2:] == [finding.peak_score, finding.mean_score]
    assert len(page.pictures) == 1 + 4

    (tmp_path / "a.html").write_text("old")
    buttons = QMessageBox.StandardButton
    click = scored.export.report_button
    (asked,) = click_and_answer(scored, qtbot, monkeypatch, click, buttons.Cancel)
    assert asked[0] == "Export report"
    assert "a.html" in asked[1]
    assert asked[3] == buttons.Cancel
    assert (tmp_path / "a.html").read_text() == "old"
    scored.export.open_report.click()
    click_and_answer(scored, qtbot, monkeypatch, click, buttons.Yes)
    qtbot.waitUntil(lambda: len(opened) == 1, timeout=20_000)
    assert Path(opened[0]) == tmp_path / "a.html"


def test_a_report_is_a_pdf_where_that_is_the_kind_chosen(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    pypdf = pytest.importorskip("pypdf")
    pytest.importorskip("weasyprint", exc_type=(ImportError, OSError))
    offered: list[tuple[Any, ...]] = []

    def choose(*arguments: Any) -> tuple[str, str]:
        offered.append(arguments[2:5])
        # The name offered, with another kind picked.
        return str(tmp_path / Path(arguments[2]).name), "PDF, Letter (*.pdf)"

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    qtbot.mouseClick(scored.export.report_button, LEFT)
    out = tmp_path / Path(offered[0][0]).with_suffix(".pdf").name
    qtbot.waitUntil(lambda: f"The report is saved in {out.name}." in notes, timeout=30_000)
    qtbot.waitUntil(lambda: scored.export.report_button.text() == "Export report...")
    page = pypdf.PdfReader(out).pages[0]
    assert page.mediabox[2] == pytest.approx(8.5 * 72)
    assert "Flagged regions" in page.extract_text()
    # The kind is remembered, and said first where it cannot be had any more.
    out.unlink()
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    qtbot.mouseClick(scored.export.report_button, LEFT)
    assert offered[1] == (str(out), offered[0][1], "PDF, Letter (*.pdf)")
    qtbot.waitUntil(lambda: any("napari-spatial-ar[pdf]" in note for note in notes))
    qtbot.waitUntil(lambda: scored.export.report_button.text() == "Export report...")
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "kind", "path", "paper"),
    [
        ("a", "HTML (*.html)", "a.html", None),
        ("a.htm", "HTML (*.html)", "a.htm", None),
        ("a.b", "HTML (*.html)", "a.b.html", None),
        ("a.pdf", "HTML (*.html)", "a.pdf", "A4"),
        ("a.PDF", "", "a.PDF", "A4"),
        ("a.html", "PDF, Letter (*.pdf)", "a.pdf", "Letter"),
        ("a.b", "PDF, A4 (*.pdf)", "a.b.pdf", "A4"),
    ],
)
def test_name_and_kind_say_what_a_report_is(name: str, kind: str, path: str, paper: Any) -> None:
    assert export_panel.ReportFile.of(name, kind) == export_panel.ReportFile(Path(path), paper)


def test_a_report_that_is_cancelled_writes_nothing(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(tmp_path / "a.html"), a[3]))
    at, go = threading.Event(), threading.Event()

    def slow(*_: Any) -> Any:
        at.set()
        assert go.wait(10)
        return gather_results(*_, threshold=5.0)

    monkeypatch.setattr(export_panel, "gather_results", lambda *a, **_: slow(*a))
    button = scored.export.report_button
    qtbot.mouseClick(button, LEFT)
    qtbot.waitUntil(at.is_set, timeout=10_000)
    assert button.text() == "Cancel report"
    assert button.isEnabled()
    qtbot.mouseClick(button, LEFT)
    go.set()
    qtbot.waitUntil(lambda: button.text() == "Export report...", timeout=10_000)
    assert any("cancelled" in note for note in notes)
    assert not (tmp_path / "a.html").exists()


def test_one_question_says_how_many_files_are_replaced_and_which(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a: str(tmp_path))
    folder = tmp_path / scan_folder_name(scored.session.volume)
    folder.mkdir()
    for name in ("mask.nii.gz", "findings.csv", "montage.png"):
        (folder / name).write_text("old")
    buttons = QMessageBox.StandardButton
    everything = scored.export.all_button
    (asked,) = click_and_answer(scored, qtbot, monkeypatch, everything, buttons.Cancel)
    assert asked[1].startswith("3 files of an earlier export will be replaced: ")
    assert all(name in asked[1] for name in ("mask.nii.gz", "findings.csv", "montage.png"))
    assert asked[3] == buttons.Cancel
    assert {path.read_text() for path in folder.iterdir()} == {"old"}
    click_and_answer(scored, qtbot, monkeypatch, everything, buttons.Yes)
    qtbot.waitUntil(lambda: len(notes) >= 1, timeout=20_000)
    assert (folder / "findings.json").is_file()
    assert not (folder / "montage.png").exists()  # of the earlier export
    heat = np.asarray(nib.load(folder / "nll.nii.gz").dataobj)
    assert np.array_equal(heat.T, scored.session.score.nll)
    found = json.loads((folder / "findings.json").read_text())["findings"]
    rows = list(csv.DictReader((folder / "findings.csv").read_text().splitlines()))
    assert [int(row["voxels"]) for row in rows] == [item["voxels"] for item in found]
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj)
    assert sum(item["voxels"] for item in found) == mask.sum()


def test_dicom_is_not_offered_for_other_scans(dock: Any, finish: Any, qtbot: Any) -> None:
    made = dock()
    qtbot.mouseClick(made.slice_button, LEFT)
    finish(made)
    made.export.dicom.setChecked(True)
    assert not made.export.dicom.isEnabled()
    assert made.export.extras()["dicom"] is False
