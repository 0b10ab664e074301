"""Sending a scan's results to an archive, with real clicks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass
class Sending:
    """The dialog of a scored scan."""

    scored: Any
    qtbot: Any
    wait: Wait
    now: Any = None

    def open(self) -> None:
        self.qtbot.mouseClick(self.scored.export.send_button, LEFT)
        self.now = self.scored.exporter.dialog
        self.wait(lambda: self.now.choice.name == "Clinic")

    def close(self) -> None:
        if self.now is not None:
            self.now.close()
            self.now = None
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    def press_send(self) -> None:
        self.qtbot.mouseClick(self.now.send_button, LEFT)

    def send(self) -> None:
        self.press_send()
        self.wait(self.now.send_button.isEnabled)

    @property
    def note(self) -> str:
        return str(self.now.note.text())

    @property
    def answers(self) -> dict[str, str]:
        tree = self.now.answers
        items = [tree.topLevelItem(at) for at in range(tree.topLevelItemCount())]
        return {item.text(0): item.text(1) for item in items}


@pytest.fixture
def dialog(
    scored: Any, archive: FakeArchive, saved: str, questions: list[str], qtbot: Any, wait: Wait
) -> Iterator[Sending]:
    """The dialog that sends a scored scan's results, open; to an archive that is saved."""
    made = Sending(scored, qtbot, wait)
    made.open()
    yield made
    made.close()


def test_results_are_sent_once_and_the_answers_are_shown(
    dialog: Sending,
    archive: FakeArchive,
    questions: list[str],
    notes: list[str],
    tmp_path: Path,
) -> None:
    assert dialog.now.where.text() == "Goes to DICOMweb at https://pacs.example:443/dicom-web"
    assert dialog.now.objects.chosen() == ("seg", "sr", "capture")
    dialog.send()
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
    assert dialog.answers == stored
    assert dialog.note.startswith("7 of 7 objects were stored in Clinic.")
    assert notes == ["7 of 7 objects were stored in Clinic."]
    assert len(archive.received) == 7
    source = pydicom.dcmread(next(iter((tmp_path / "scan").iterdir())))
    assert {one.study_uid for one in archive.received.values()} == {source.StudyInstanceUID}
    # Twice, nothing is there twice.
    dialog.send()
    assert set(dialog.answers.values()) == {"there already, not sent again"}
    assert "0 of 7 objects were stored in Clinic, 7 were there already." in dialog.note
    assert len(archive.received) == 7


def test_a_later_reading_supersedes_what_was_sent(
    dialog: Sending, scored: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers: dict[str, Any] = {}
    store = FakeArchive.store

    def keep(self: FakeArchive, files: Any) -> Any:
        for file in files:
            headers[file.sop_uid] = pydicom.dcmread(file.path)
        return store(self, files)

    monkeypatch.setattr(FakeArchive, "store", keep)
    for kind in ("seg", "capture"):
        dialog.now.objects.kinds[kind].setChecked(False)
    dialog.send()
    first = next(one for one in headers.values() if one.Modality == "SR")
    dialog.close()
    scored.threshold.slider.setValue(8.0)
    finish(scored)
    dialog.open()
    assert dialog.now.objects.chosen() == ("seg", "sr")
    dialog.send()
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
    dialog: Sending, archive: FakeArchive
) -> None:
    archive.refuses = "out of space"
    dialog.send()
    assert set(dialog.answers.values()) == {"refused: out of space"}
    assert "7 were refused" in dialog.note
    archive.refuses = ""
    archive.error = ArchiveUnreachable("https://pacs.example did not answer")
    dialog.send()
    assert dialog.note == "https://pacs.example did not answer."
    assert dialog.now.answers.isHidden()


def test_sending_is_cancelled_and_closing_is_clean(
    dialog: Sending, scored: Any, archive: FakeArchive, qtbot: Any, wait: Wait
) -> None:
    archive.gate = threading.Event()
    dialog.press_send()
    wait(lambda: dialog.note.startswith("Sending to Clinic"))
    qtbot.mouseClick(dialog.now.cancel_button, LEFT)
    archive.gate.set()
    wait(dialog.now.send_button.isEnabled)
    assert dialog.note.startswith("Stopped.")
    archive.gate = threading.Event()
    dialog.press_send()
    wait(lambda: dialog.note.startswith("Sending to Clinic"))
    dialog.close()
    archive.gate.set()
    assert pool().waitForDone(10_000)
    QApplication.processEvents()
    assert len(archive.received) <= 1
    assert scored.exporter.dialog is None


def test_without_a_yes_nothing_is_sent(
    dialog: Sending, archive: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    no = QMessageBox.StandardButton.Cancel
    monkeypatch.setattr(QMessageBox, "question", lambda *a: no)
    dialog.press_send()
    assert dialog.now.send_button.isEnabled()
    assert archive.opened_with == []


def test_de_identified_objects_are_asked_about_as_such(
    dialog: Sending, questions: list[str]
) -> None:
    pytest.importorskip("dicomanonymizer")
    dialog.now.objects.de_identify.setChecked(True)
    dialog.now.objects.kinds["capture"].setChecked(False)
    dialog.send()
    assert "pseudonym in place of the patient's identity" in questions[0]
    assert "stored" in dialog.answers["Structured report"]


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
    dialog: Sending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen: list[int] = []
    result_files = sending.result_files

    def look(folder: Path) -> Any:
        seen.append(len(list((tmp_path / "temporary").rglob("*.dcm"))))
        return result_files(folder)

    monkeypatch.setattr(sending, "result_files", look)
    dialog.send()
    assert seen == [7]
    assert not list((tmp_path / "temporary").rglob("*.dcm"))
