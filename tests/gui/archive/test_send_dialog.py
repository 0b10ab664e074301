"""Sending a scan's results to an archive, with real clicks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QApplication, QMessageBox

from napari_spatial_ar.errors import ArchiveUnreachable, InputError
from napari_spatial_ar.gui.archive import find_dialog, sending
from napari_spatial_ar.gui.jobs import pool
from tests.gui.archive.conftest import FakeArchive
from tests.gui.test_open_scan import series

LEFT = Qt.MouseButton.LeftButton
Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture
def scored(dock: Any, finish: Any, qtbot: Any, wait: Wait, tmp_path: Path) -> Any:
    """A dock with a scored DICOM scan whose left front corner is found."""
    series(tmp_path / "scan", 4)
    made = dock(scan=False)
    made.scan.opener.open([str(tmp_path / "scan")])
    wait(lambda: made.scan.layer is not None)
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    made.threshold.slider.setValue(5.0)
    finish(made)
    return made


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user was asked, and said yes to."""
    asked: list[str] = []

    def ask(*arguments: Any) -> Any:
        asked.append(arguments[2])
        return QMessageBox.StandardButton.Yes

    monkeypatch.setattr(QMessageBox, "question", ask)
    return asked


def open_dialog(scored: Any, qtbot: Any, wait: Wait) -> Any:
    qtbot.mouseClick(scored.export.send_button, LEFT)
    dialog = scored.exporter.dialog
    wait(lambda: dialog.choice.name == "Clinic")
    return dialog


def send(dialog: Any, qtbot: Any, wait: Wait) -> None:
    qtbot.mouseClick(dialog.send_button, LEFT)
    wait(dialog.send_button.isEnabled)


def answers(dialog: Any) -> dict[str, str]:
    items = [dialog.answers.topLevelItem(at) for at in range(dialog.answers.topLevelItemCount())]
    return {item.text(0): item.text(1) for item in items}


def classes(archive: FakeArchive) -> list[str]:
    return sorted(pydicom.uid.UID(one.sop_class).name for one in archive.received.values())


def close(dialog: Any) -> None:
    dialog.close()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def test_results_are_sent_once_and_the_answers_are_shown(
    scored: Any,
    archive: FakeArchive,
    saved: str,
    questions: list[str],
    qtbot: Any,
    wait: Wait,
    notes: list[str],
    tmp_path: Path,
) -> None:
    dialog = open_dialog(scored, qtbot, wait)
    assert dialog.where.text() == "Goes to DICOMweb at https://pacs.example:443/dicom-web"
    assert dialog.objects.chosen() == ("seg", "sr", "capture")
    send(dialog, qtbot, wait)
    (question,) = questions
    assert question.startswith(
        "Segmentations, structured report and captures of this scan go to Clinic "
        "(DICOMweb at https://pacs.example:443/dicom-web). They carry the patient's identity"
    )
    stored = {
        "Segmentation: mask": "stored",
        "Segmentation: flagged regions": "stored",
        "Structured report": "stored",
        "Captures (4)": "stored",
    }
    assert answers(dialog) == stored
    assert dialog.note.text().startswith("7 of 7 objects were stored in Clinic.")
    assert notes == ["7 of 7 objects were stored in Clinic."]
    assert len(archive.received) == 7
    source = pydicom.dcmread(next(iter((tmp_path / "scan").iterdir())))
    assert {one.study_uid for one in archive.received.values()} == {source.StudyInstanceUID}
    # Twice, nothing is there twice.
    send(dialog, qtbot, wait)
    assert set(answers(dialog).values()) == {"there already, not sent again"}
    assert "0 of 7 objects were stored in Clinic, 7 were there already." in dialog.note.text()
    assert len(archive.received) == 7
    close(dialog)


def test_a_later_reading_supersedes_what_was_sent(
    scored: Any,
    archive: FakeArchive,
    saved: str,
    questions: list[str],
    qtbot: Any,
    wait: Wait,
    finish: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    headers: dict[str, Any] = {}
    store = FakeArchive.store

    def keep(self: FakeArchive, files: Any) -> Any:
        for file in files:
            headers[file.sop_uid] = pydicom.dcmread(file.path)
        return store(self, files)

    monkeypatch.setattr(FakeArchive, "store", keep)
    dialog = open_dialog(scored, qtbot, wait)
    for kind in ("seg", "capture"):
        dialog.objects.kinds[kind].setChecked(False)
    send(dialog, qtbot, wait)
    first = next(one for one in headers.values() if one.Modality == "SR")
    close(dialog)
    scored.threshold.slider.setValue(8.0)
    finish(scored)
    dialog = open_dialog(scored, qtbot, wait)
    assert dialog.objects.chosen() == ("seg", "sr")
    send(dialog, qtbot, wait)
    close(dialog)
    second = next(
        one
        for one in headers.values()
        if one.Modality == "SR" and one.SOPInstanceUID != first.SOPInstanceUID
    )
    (before,) = second.PredecessorDocumentsSequence
    (in_series,) = before.ReferencedSeriesSequence
    (document,) = in_series.ReferencedSOPSequence
    assert document.ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_what_is_refused_or_breaks_off_is_one_sentence(
    scored: Any,
    archive: FakeArchive,
    saved: str,
    questions: list[str],
    qtbot: Any,
    wait: Wait,
) -> None:
    dialog = open_dialog(scored, qtbot, wait)
    archive.refuses = "out of space"
    send(dialog, qtbot, wait)
    assert set(answers(dialog).values()) == {"refused: out of space"}
    assert "7 were refused" in dialog.note.text()
    archive.refuses = ""
    archive.error = ArchiveUnreachable("https://pacs.example did not answer")
    send(dialog, qtbot, wait)
    assert dialog.note.text() == "https://pacs.example did not answer."
    assert dialog.answers.isHidden()
    close(dialog)


def test_sending_is_cancelled_and_closing_is_clean(
    scored: Any,
    archive: FakeArchive,
    saved: str,
    questions: list[str],
    qtbot: Any,
    wait: Wait,
) -> None:
    dialog = open_dialog(scored, qtbot, wait)
    archive.gate = threading.Event()
    qtbot.mouseClick(dialog.send_button, LEFT)
    wait(lambda: dialog.note.text().startswith("Sending to Clinic"))
    qtbot.mouseClick(dialog.cancel_button, LEFT)
    archive.gate.set()
    wait(dialog.send_button.isEnabled)
    assert dialog.note.text().startswith("Stopped.")
    archive.gate = threading.Event()
    qtbot.mouseClick(dialog.send_button, LEFT)
    wait(lambda: dialog.note.text().startswith("Sending to Clinic"))
    close(dialog)
    archive.gate.set()
    assert pool().waitForDone(10_000)
    QApplication.processEvents()
    assert len(archive.received) <= 1
    assert scored.exporter.dialog is None


def test_without_a_yes_nothing_is_sent(
    scored: Any,
    archive: FakeArchive,
    saved: str,
    qtbot: Any,
    wait: Wait,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no = QMessageBox.StandardButton.Cancel
    monkeypatch.setattr(QMessageBox, "question", lambda *a: no)
    dialog = open_dialog(scored, qtbot, wait)
    qtbot.mouseClick(dialog.send_button, LEFT)
    assert dialog.send_button.isEnabled()
    assert archive.opened_with == []
    close(dialog)


def test_de_identified_objects_are_asked_about_as_such(
    scored: Any,
    archive: FakeArchive,
    saved: str,
    questions: list[str],
    qtbot: Any,
    wait: Wait,
) -> None:
    pytest.importorskip("dicomanonymizer")
    dialog = open_dialog(scored, qtbot, wait)
    dialog.objects.de_identify.setChecked(True)
    dialog.objects.kinds["capture"].setChecked(False)
    send(dialog, qtbot, wait)
    assert "pseudonym in place of the patient's identity" in questions[0]
    assert "stored" in answers(dialog)["Structured report"]
    close(dialog)


def test_only_scans_from_dicom_are_sent(dock: Any, finish: Any, qtbot: Any) -> None:
    made = dock()
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    assert made.export.mask_button.isEnabled()
    assert not made.export.send_button.isEnabled()
    assert made.export.send_button.toolTip() == "Only for scans read from DICOM files"


def test_without_the_extra_one_sentence_says_what_to_install(
    scored: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    def missing() -> None:
        raise InputError("archives need keyring", fix="Run: pip install 'napari-spatial-ar[pacs]'")

    monkeypatch.setattr(find_dialog, "check_extra", missing)
    qtbot.mouseClick(scored.export.send_button, LEFT)
    assert scored.exporter.dialog is None
    assert notes == ["archives need keyring. Run: pip install 'napari-spatial-ar[pacs]'."]


def test_objects_on_their_way_are_on_the_disk_no_longer_than_that(
    scored: Any,
    archive: FakeArchive,
    saved: str,
    questions: list[str],
    qtbot: Any,
    wait: Wait,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen: list[int] = []
    result_files = sending.result_files

    def look(folder: Path) -> Any:
        seen.append(len(list((tmp_path / "temporary").rglob("*.dcm"))))
        return result_files(folder)

    monkeypatch.setattr(sending, "result_files", look)
    dialog = open_dialog(scored, qtbot, wait)
    send(dialog, qtbot, wait)
    assert seen == [7]
    assert not list((tmp_path / "temporary").rglob("*.dcm"))
    close(dialog)
