"""Finding and opening scans of an archive, with real clicks and keys."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QEvent, QSettings, Qt
from qtpy.QtWidgets import QApplication, QMessageBox, QWidget

from napari_spatial_ar.archive.entries import SeriesEntry, StudyEntry
from napari_spatial_ar.archive.saved import saved_archives
from napari_spatial_ar.errors import ArchiveDenied, ArchiveUnreachable, InputError
from napari_spatial_ar.gui.archive import asking, find_dialog
from napari_spatial_ar.gui.archive.asking import ArchiveQuery
from napari_spatial_ar.gui.archive.find_dialog import FindDialog
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.paths import studies_dir
from tests.archive.conftest import write_series
from tests.gui.archive.conftest import FakeArchive

LEFT = Qt.MouseButton.LeftButton
Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture
def dialog(archive: FakeArchive, saved: str, qtbot: Any, wait: Wait, tmp_path: Path) -> Any:
    """The dialog, with the saved archive chosen, whose archive has one study of two series."""
    study = write_series(tmp_path / "one").study_uid
    archive.add(tmp_path / "one", description="FLAIR")
    write_series(tmp_path / "two", slices=3, StudyInstanceUID=study)
    archive.add(tmp_path / "two", description="T1", instances=3)
    parent = QWidget()
    qtbot.addWidget(parent)
    made = FindDialog(parent)
    made.show()
    wait(lambda: made.choice.name == saved)
    yield made
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert pool().waitForDone(10_000)
    QApplication.processEvents()


def rows(table: Any) -> list[list[str]]:
    items = [table.topLevelItem(at) for at in range(table.topLevelItemCount())]
    return [[item.text(column) for column in range(table.columnCount())] for item in items]


def find(qtbot: Any, dialog: Any, wait: Wait) -> None:
    qtbot.keyClick(dialog.form.patient_id, Qt.Key.Key_Return)
    wait(lambda: not dialog.busy)


def test_a_query_shows_studies_series_and_thumbnails(
    dialog: Any, archive: FakeArchive, qtbot: Any, wait: Wait
) -> None:
    form = dialog.form
    qtbot.keyClicks(form.patient_id, "P-*")
    qtbot.keyClicks(form.patient_name, "Doe, Jane")
    form.date.setCurrentText("20260101-20260131")
    form.modality.setCurrentText("mr")
    find(qtbot, dialog, wait)
    (asked,) = archive.asked
    assert (asked.patient_id, asked.patient_name, asked.modality) == ("P-*", "Doe^Jane*", "MR")
    assert str(asked.dates) == "20260101-20260131"
    assert rows(dialog.studies) == [["2026-01-02", "Doe, Jane", "P-1", "A-1", "Head", "MR", "", ""]]
    wait(lambda: dialog.series.topLevelItemCount() == 2)
    assert rows(dialog.series) == [["1", "MR", "FLAIR", "", "4"], ["2", "MR", "T1", "", "3"]]
    wait(lambda: len(dialog._known) == 2)
    picture = dialog.series.topLevelItem(0).icon(0).pixmap(72, 72).toImage()
    assert picture.pixelColor(36, 36).red() == pytest.approx(200, abs=3)
    assert dialog.note.text() == "1 study"
    assert archive.closed == len(archive.opened_with)


def test_nothing_of_a_query_is_logged_or_stored(
    dialog: Any, qtbot: Any, wait: Wait, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    qtbot.keyClicks(dialog.form.patient_id, "P-1")
    qtbot.keyClicks(dialog.form.patient_name, "Doe")
    find(qtbot, dialog, wait)
    wait(lambda: bool(dialog.chosen))
    got: list[list[str]] = []
    dialog.retrieved.connect(got.append)
    qtbot.mouseClick(dialog.open_button, LEFT)
    wait(lambda: bool(got))
    assert pool().waitForDone(10_000)
    kept = [path for path in (tmp_path / "settings").rglob("*") if path.is_file()]
    kept += [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    texts = [path.read_text(errors="replace") for path in kept if path.suffix != ".dcm"]
    names = " ".join(str(path) for path in kept)
    for identity in ("Doe", "P-1", "A-1", "Head"):
        assert identity not in caplog.text
        assert identity not in names
        assert not any(identity in text for text in texts if "DICM" not in text[:200])
    store = QSettings(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, *2 * ["napari-spatial-ar"]
    )
    assert set(store.allKeys()) == {"archive", "archive_size"}
    assert store.value("archive") == "Clinic"


def test_the_chosen_series_is_retrieved_whole(
    dialog: Any, qtbot: Any, wait: Wait, tmp_path: Path
) -> None:
    got: list[list[str]] = []
    dialog.retrieved.connect(got.append)
    find(qtbot, dialog, wait)
    wait(lambda: dialog.series.topLevelItemCount() == 2)
    dialog.series.topLevelItem(0).setSelected(True)
    dialog.series.topLevelItem(1).setSelected(True)
    qtbot.mouseClick(dialog.open_button, LEFT)
    wait(lambda: bool(got))
    assert [len(list(Path(folder).glob("*.dcm"))) for folder in got[0]] == [4, 3]
    assert all(Path(folder).parent == studies_dir() for folder in got[0])


def test_a_retrieval_is_cancelled_and_resumed(
    dialog: Any, archive: FakeArchive, qtbot: Any, wait: Wait
) -> None:
    got: list[list[str]] = []
    dialog.retrieved.connect(got.append)
    find(qtbot, dialog, wait)
    wait(lambda: bool(dialog.chosen) and len(dialog._known) == 2)
    archive.gate = threading.Event()
    qtbot.mouseClick(dialog.open_button, LEFT)
    assert dialog.busy
    assert not dialog.form.find_button.isEnabled()
    qtbot.mouseClick(dialog.cancel_button, LEFT)
    archive.gate.set()
    assert pool().waitForDone(10_000)
    QApplication.processEvents()
    assert dialog.note.text().startswith("Cancelled.")
    assert not got
    archive.gate = None
    qtbot.mouseClick(dialog.open_button, LEFT)
    wait(lambda: bool(got))


def test_closing_while_a_request_runs_is_clean(
    dialog: Any, archive: FakeArchive, qtbot: Any, notes: list[str]
) -> None:
    archive.gate = threading.Event()
    qtbot.keyClick(dialog.form.patient_id, Qt.Key.Key_Return)
    assert dialog.busy
    qtbot.keyClick(dialog, Qt.Key.Key_Escape)
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    archive.gate.set()
    assert pool().waitForDone(10_000)
    QApplication.processEvents()
    assert notes == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ArchiveUnreachable("https://pacs.example did not answer"), "did not answer."),
        (ArchiveDenied("https://pacs.example wants a user", fix="Log in"), "user. Log in."),
        (InputError("a package is missing"), "a package is missing."),
    ],
)
def test_errors_are_one_sentence_in_the_dialog(
    dialog: Any,
    archive: FakeArchive,
    qtbot: Any,
    wait: Wait,
    error: Any,
    text: str,
    notes: list[str],
) -> None:
    archive.error = error
    find(qtbot, dialog, wait)
    assert dialog.note.text().endswith(text)
    qtbot.mouseClick(dialog.choice.test_button, LEFT)
    wait(dialog.choice.test_button.isEnabled)
    assert dialog.note.text().endswith(text)
    archive.error = None
    find(qtbot, dialog, wait)
    wait(lambda: bool(dialog.chosen))
    archive.error = error
    qtbot.mouseClick(dialog.open_button, LEFT)
    wait(lambda: not dialog.busy)
    assert dialog.isVisible()
    assert dialog.note.text().endswith(text)
    assert notes == []


def test_an_unexpected_error_is_a_sentence_too(
    dialog: Any, archive: FakeArchive, qtbot: Any, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeArchive, "find_studies", lambda *a, **k: 1 / 0)
    find(qtbot, dialog, wait)
    assert dialog.note.text() == (
        "Asking the archive stopped because of an unexpected problem (ZeroDivisionError); "
        "see the log."
    )


def test_what_is_not_a_query_is_said_before_anything_is_asked(
    dialog: Any, archive: FakeArchive, qtbot: Any, wait: Wait
) -> None:
    dialog.form.date.setCurrentText("last year")
    find(qtbot, dialog, wait)
    assert "'last year' is not a date" in dialog.note.text()
    assert archive.asked == []


def test_no_study_and_too_many(dialog: Any, archive: FakeArchive, qtbot: Any, wait: Wait) -> None:
    archive.more = True
    find(qtbot, dialog, wait)
    assert dialog.note.text() == "More than 1 studies match: only these are shown."
    archive.more = False
    qtbot.keyClicks(dialog.form.patient_id, "nobody")
    find(qtbot, dialog, wait)
    assert dialog.note.text() == "No study matches."
    assert rows(dialog.series) == []
    assert not dialog.open_button.isEnabled()


def test_numbers_are_sorted_as_numbers_and_text_is_printable(
    dialog: Any, archive: FakeArchive, qtbot: Any, wait: Wait
) -> None:
    archive.studies = [
        StudyEntry(f"1.{n}", "A\nB\u202e", date="20260101", instances=n) for n in (9, 100, 20)
    ]
    find(qtbot, dialog, wait)
    dialog.studies.sortItems(7, Qt.SortOrder.AscendingOrder)
    assert [row[7] for row in rows(dialog.studies)] == ["9", "20", "100"]
    assert rows(dialog.studies)[0][1] == "A\\nB\\u202e"


def test_two_series_of_one_uid_in_two_studies_have_their_own_pictures() -> None:
    first, second = SeriesEntry("1.1", "1.9"), SeriesEntry("1.2", "1.9")
    assert find_dialog._key(first) != find_dialog._key(second)


def test_a_worklist_needs_a_query(dialog: Any, qtbot: Any) -> None:
    wanted: list[ArchiveQuery] = []
    dialog.queried.connect(wanted.append)
    qtbot.mouseClick(dialog.worklist_button, LEFT)
    assert wanted == []
    assert "needs a query" in dialog.note.text()
    dialog.form.date.setCurrentText("Today")
    qtbot.mouseClick(dialog.worklist_button, LEFT)
    assert wanted[0].asked().dates is not None
    assert not dialog.isVisible()


def test_days_are_those_on_which_the_archive_is_asked() -> None:
    today = datetime.now().astimezone().date()
    asked = ArchiveQuery("Clinic", {"date": "Last 7 days"}).asked()
    assert asked.dates is not None
    assert asked.dates.first == today - timedelta(days=6)
    assert asked.dates.last is None
    assert "Doe" not in repr(ArchiveQuery("Clinic", {"name": "Doe"}))


def test_thumbnails_that_are_none_are_left_out() -> None:
    assert asking._picture(None) is None
    assert asking._picture(b"no picture") is None


def test_the_cache_is_emptied_but_for_what_is_in_use(
    dialog: Any, qtbot: Any, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[list[str]] = []
    dialog.retrieved.connect(got.append)
    monkeypatch.setattr(dialog, "accept", lambda: None)
    yes = QMessageBox.StandardButton.Yes
    monkeypatch.setattr(QMessageBox, "question", lambda *a: yes)
    find(qtbot, dialog, wait)
    wait(lambda: bool(dialog.chosen))
    qtbot.mouseClick(dialog.open_button, LEFT)
    wait(lambda: bool(got) and not dialog.busy)
    qtbot.mouseClick(dialog.empty_button, LEFT)
    wait(lambda: "freed" in dialog.note.text())
    assert dialog.note.text() == "0.0 MB were freed."
    monkeypatch.setattr(asking, "_in_use", set())
    dialog.note.set_text("")
    qtbot.mouseClick(dialog.empty_button, LEFT)
    wait(lambda: "freed" in dialog.note.text())
    assert not Path(got[0][0]).exists()


def test_an_archive_is_added_tested_changed_and_removed(
    archive: FakeArchive,
    qtbot: Any,
    wait: Wait,
    kept_secrets: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    dialog = FindDialog(parent)
    dialog.show()
    choice = dialog.choice
    assert pool().waitForDone(10_000)
    QApplication.processEvents()
    assert dialog.note.text().startswith("Add an archive first")
    assert not dialog.form.find_button.isEnabled()
    qtbot.mouseClick(choice.add_button, LEFT)
    form = choice.dialog
    assert not form.save_button.isEnabled()
    qtbot.keyClicks(form.name, "Clinic")
    qtbot.keyClicks(form.url, "http://pacs.example/dicom-web")
    qtbot.keyClicks(form.user, "me")
    qtbot.keyClicks(form.password, "secret")
    assert "unencrypted" in form.note.text()
    form.url.setText("https://pacs.example/dicom-web")
    assert form.note.text() == ""
    qtbot.mouseClick(form.test_button, LEFT)
    wait(lambda: form.note.text().endswith("answers."))
    assert archive.opened_with[-1][1].credentials.password == "secret"
    archive.error = ArchiveDenied("https://pacs.example refuses them")
    qtbot.mouseClick(form.test_button, LEFT)
    wait(lambda: form.note.text() == "https://pacs.example refuses them.")
    archive.error = None
    wait(form.save_button.isEnabled)
    qtbot.mouseClick(form.save_button, LEFT)
    wait(lambda: choice.name == "Clinic")
    assert "secret" in str(kept_secrets.kept)
    assert saved_archives()["Clinic"].url == "https://pacs.example:443/dicom-web"
    assert "https://pacs.example:443/dicom-web" in choice.box.toolTip()
    qtbot.mouseClick(choice.test_button, LEFT)
    wait(lambda: dialog.note.text() == "Clinic answers.")
    # Another one cannot have its name.
    qtbot.mouseClick(choice.add_button, LEFT)
    form = choice.dialog
    form.name.setText("Clinic")
    form.url.setText("dicom://PACS@pacs.example:104")
    assert form.login.isHidden()
    qtbot.mouseClick(form.save_button, LEFT)
    wait(lambda: "already" in form.note.text())
    assert form.note.text().endswith("Choose another name.")
    form.reject()
    # Renamed, it keeps its password.
    qtbot.mouseClick(choice.edit_button, LEFT)
    form = choice.dialog
    assert form.password.text() == ""
    form.name.setText("Hospital")
    qtbot.mouseClick(form.save_button, LEFT)
    wait(lambda: choice.name == "Hospital")
    assert list(saved_archives()) == ["Hospital"]
    assert "secret" in str(kept_secrets.kept)
    yes = QMessageBox.StandardButton.Yes
    monkeypatch.setattr(QMessageBox, "question", lambda *a: yes)
    qtbot.mouseClick(choice.remove_button, LEFT)
    wait(lambda: not choice.name)
    assert saved_archives() == {}
    assert kept_secrets.kept == {}
    dialog.close()
    assert pool().waitForDone(10_000)


def test_without_the_extra_one_sentence_says_what_to_install(
    dock: Any, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    made = dock()

    def missing() -> None:
        raise InputError("archives need keyring", fix="Run: pip install 'napari-spatial-ar[pacs]'")

    monkeypatch.setattr(find_dialog, "check_extra", missing)
    (action,) = (a for a in made.scan.open_button.menu().actions() if "archive" in a.text())
    action.trigger()
    assert made.scan.opener.archive is None
    assert notes == ["archives need keyring. Run: pip install 'napari-spatial-ar[pacs]'."]


def test_a_retrieved_series_opens_as_if_dropped(
    dock: Any, archive: FakeArchive, saved: str, qtbot: Any, wait: Wait, tmp_path: Path
) -> None:
    write_series(tmp_path / "one")
    archive.add(tmp_path / "one")
    made = dock(scan=False)
    (action,) = (a for a in made.scan.open_button.menu().actions() if "archive" in a.text())
    action.trigger()
    dialog = made.scan.opener.archive
    wait(lambda: dialog.choice.name == saved)
    find(qtbot, dialog, wait)
    wait(lambda: bool(dialog.chosen))
    qtbot.mouseClick(dialog.open_button, LEFT)
    wait(lambda: made.scan.layer is not None)
    assert made.scan.layer.data.shape == (4, 16, 16)
    assert made.scan.layer.name == "MR series 3"
    assert made.scan.opener.archive is None
