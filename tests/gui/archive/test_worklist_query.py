"""A worklist of what a query finds in an archive."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import Qt

from napari_spatial_ar.archive.entries import SeriesEntry
from napari_spatial_ar.errors import ArchiveError, ArchiveUnreachable
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.archive.asking import ArchiveQuery
from napari_spatial_ar.gui.worklist import panel as worklist_panel
from napari_spatial_ar.gui.worklist.panel import WorklistPanel, last_listed
from tests.archive.conftest import write_series
from tests.gui.archive.conftest import FakeArchive

LEFT = Qt.MouseButton.LeftButton
Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture
def panel(
    dock: Any, archive: FakeArchive, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> WorklistPanel:
    """A worklist beside an archive with two MR series of one patient, and one of CT."""
    monkeypatch.setattr(worklist_panel, "worklist_dir", lambda: tmp_path / "kept")
    for name, modality, number in (("a", "MR", 1), ("b", "MR", 2), ("c", "CT", 3)):
        write_series(tmp_path / name, Modality=modality, SeriesNumber=number, size=16 + number)
        archive.add(tmp_path / name, modality=modality, description=f"series {name}")
    return WorklistPanel(dock())


def query(**texts: str) -> ArchiveQuery:
    return ArchiveQuery("Clinic", texts)


def descriptions(panel: WorklistPanel) -> list[str]:
    return [entry.description for entry in panel.rows.entries]


def scored(panel: WorklistPanel, count: int) -> Callable[[], bool]:
    return lambda: (
        not panel.folder.listing
        and len(panel.rows.entries) == count
        and {entry.state for entry in panel.rows.entries} == {"scored"}
    )


def test_series_of_the_models_modality_are_retrieved_and_scored(
    panel: WorklistPanel, archive: FakeArchive, wait: Wait, qtbot: Any, tmp_path: Path
) -> None:
    panel.set_query(query(date="20260102"))
    assert not panel.refresh_button.isHidden()
    wait(scored(panel, 2))
    assert [entry.slices for entry in panel.rows.entries] == [4, 4]
    wait(lambda: all(panel.rows.has_picture(entry.key) for entry in panel.rows.entries))
    # Asked again, it has what is new.
    write_series(tmp_path / "d")
    archive.add(tmp_path / "d")
    qtbot.mouseClick(panel.refresh_button, LEFT)
    wait(scored(panel, 3))
    panel.cancel()


def test_a_series_that_fails_is_a_row_that_says_why(
    panel: WorklistPanel,
    archive: FakeArchive,
    wait: Wait,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_instances = FakeArchive.find_instances

    def one_is_gone(self: FakeArchive, series: SeriesEntry) -> Any:
        return () if series is archive.series[0] else find_instances(self, series)

    monkeypatch.setattr(FakeArchive, "find_instances", one_is_gone)
    panel.set_query(query(date="20260102"))
    wait(lambda: not panel.folder.listing and len(panel.rows.entries) == 2)
    wait(lambda: panel.rows.entries[1].state == "scored")
    gone = panel.rows.entries[0]
    assert (gone.label, gone.state) == ("Not retrieved", "failed")
    assert "no longer has this series" in gone.trouble
    monkeypatch.setattr(FakeArchive, "find_instances", find_instances)
    qtbot.mouseClick(panel.again_button, LEFT)
    wait(scored(panel, 2))
    panel.cancel()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ArchiveUnreachable("https://pacs.example did not answer"), "did not answer."),
        (ArchiveError("https://pacs.example answered nonsense"), "answered nonsense."),
    ],
)
def test_an_archive_that_fails_is_one_sentence(
    panel: WorklistPanel, archive: FakeArchive, wait: Wait, error: Any, text: str
) -> None:
    archive.error = error
    panel.set_query(query(date="today"))
    wait(lambda: not panel.folder.listing)
    assert panel.note.text().endswith(text)
    assert panel.rows.entries == []


def test_computed_series_are_left_out(
    panel: WorklistPanel, archive: FakeArchive, wait: Wait, tmp_path: Path
) -> None:
    write_series(tmp_path / "e", ImageType=["DERIVED", "SECONDARY"])
    archive.add(tmp_path / "e")
    panel.set_query(query(date="20260102"))
    wait(scored(panel, 2))
    wait(lambda: "1 localizers and derived series are excluded." in panel.note.text())
    panel.cancel()


def test_neither_the_query_nor_the_patient_is_stored(
    panel: WorklistPanel, wait: Wait, tmp_path: Path
) -> None:
    settings.remember("worklist", str(tmp_path))
    panel.set_query(query(patient_id="P-1", name="Doe*"))
    wait(scored(panel, 2))
    panel.cancel()
    assert last_listed() == []
    kept = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    kept += [path for path in (tmp_path / "settings").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        data = path.read_bytes()
        assert b"Doe" not in data
        assert b"P-1" not in data
        assert "Doe" not in os.fspath(path.relative_to(tmp_path))


def test_the_dialog_makes_the_worklist(
    dock: Any, archive: FakeArchive, saved: str, wait: Wait, qtbot: Any, monkeypatch: Any
) -> None:
    made = dock()
    shown: list[Any] = []
    monkeypatch.setattr(
        "napari_spatial_ar.gui.review.dock.show_worklist",
        lambda dock, panel, *a, query=None: shown.append(query),
    )
    made.scan.opener.ask_archive(made)
    dialog = made.scan.opener.archive
    wait(lambda: dialog.choice.name == saved)
    dialog.form.modality.setCurrentText("CT")
    qtbot.mouseClick(dialog.worklist_button, LEFT)
    assert shown[0].archive == "Clinic"
    assert shown[0].asked().modality == "CT"


def test_more_studies_than_are_listed_are_not_scored_in_part(
    panel: WorklistPanel, archive: FakeArchive, wait: Wait
) -> None:
    archive.more = True
    panel.set_query(query(date="today"))
    wait(lambda: not panel.folder.listing)
    assert "more than 0 studies match the query. Ask for fewer." in panel.note.text()
