"""An archive in memory, and those of the tests of `archive`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from napari_spatial_ar.archive.access import Access
from napari_spatial_ar.archive.address import Address
from napari_spatial_ar.archive.entries import InstanceEntry, SeriesEntry, StudyEntry, StudyQuery
from napari_spatial_ar.archive.interface import Found, Receive, SentFile, ToSend
from napari_spatial_ar.archive.saved import SavedArchive, save_archive
from napari_spatial_ar.archive.sending import files_to_send
from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.gui.archive import asking
from tests.archive.conftest import (  # noqa: F401
    dcmtk,
    kept_secrets,
    make_orthanc,
    no_network,
    one_orthanc,
    orthanc,
    own_home,
    sockets_closed,
)


@dataclass
class FakeArchive:
    """An archive that has what is in a folder of DICOM files, kept against `Archive` by mypy."""

    url: str = "https://pacs.example:443/dicom-web"
    retries: int = 0
    studies: list[StudyEntry] = field(default_factory=list)
    series: list[SeriesEntry] = field(default_factory=list)
    files: dict[str, list[ToSend]] = field(default_factory=dict)
    received: dict[str, ToSend] = field(default_factory=dict)
    #: Raised by the next request, until it is taken away.
    error: SpatialARError | None = None
    #: What was asked for.
    asked: list[StudyQuery] = field(default_factory=list)
    #: Where set, every request waits for it.
    gate: threading.Event | None = None
    refuses: str = ""
    more: bool = False
    closed: int = 0
    opened_with: list[tuple[Address, Access | None]] = field(default_factory=list)

    def add(self, folder: Path, **about: Any) -> None:
        """Take a folder with one series in."""
        files = list(files_to_send([folder]).files)
        study, series = files[0].study_uid, files[0].series_uid
        known = {
            "modality": "MR",
            "description": "FLAIR",
            "number": len(self.series) + 1,
            "instances": len(files),
        }
        self.series.append(SeriesEntry(study, series, **known | about))
        if study not in {one.study_uid for one in self.studies}:
            self.studies.append(
                StudyEntry(study, "Doe^Jane", "P-1", "A-1", "20260102", "101112", "Head", ("MR",))
            )
        self.files[series] = files

    def _answer(self) -> None:
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.error is not None:
            raise self.error

    def echo(self) -> None:
        self._answer()

    def find_studies(self, query: StudyQuery, *, limit: int = 500) -> Found:
        self.asked.append(query)
        self._answer()
        return Found(tuple(one for one in self.studies if query.admits(one)), self.more)

    def find_series(self, study_uid: str = "", series_uid: str = "") -> tuple[SeriesEntry, ...]:
        self._answer()
        return tuple(
            one
            for one in self.series
            if study_uid in ("", one.study_uid) and series_uid in ("", one.series_uid)
        )

    def find_instances(self, series: SeriesEntry) -> tuple[InstanceEntry, ...]:
        self._answer()
        known = self.files.get(series.series_uid, [])
        known = known + [f for f in self.received.values() if f.series_uid == series.series_uid]
        return tuple(InstanceEntry(one.sop_uid, one.sop_class) for one in known)

    def thumbnail(self, series: SeriesEntry) -> bytes | None:
        self._answer()
        data = BytesIO()
        Image.new("L", (128, 96), 200).save(data, "JPEG")
        return data.getvalue()

    def fetch(
        self,
        series: SeriesEntry,
        wanted: Sequence[InstanceEntry],
        receive: Receive,
        *,
        whole: bool,
    ) -> Generator[None, None, None]:
        names = {one.sop_uid for one in wanted}
        for file in self.files[series.series_uid]:
            self._answer()
            if file.sop_uid in names:
                with receive() as out:
                    out.write(file.path.read_bytes())
            yield

    def store(self, files: Sequence[ToSend]) -> Generator[SentFile | None, None, None]:
        for file in files:
            self._answer()
            if self.refuses:
                yield SentFile(file, "refused", self.refuses)
            else:
                self.received[file.sop_uid] = file
                yield SentFile(file, "stored")

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> FakeArchive:
    """The archive that is found under every address."""
    made = FakeArchive()

    def open_it(url: Any, access: Access | None = None) -> FakeArchive:
        made.opened_with.append((url, access))
        return made

    monkeypatch.setattr(asking, "open_archive", open_it)
    return made


@pytest.fixture
def saved(own_home: Path) -> str:  # noqa: F811
    """Name of an archive that is saved."""
    save_archive("Clinic", SavedArchive(url="https://pacs.example/dicom-web"))
    return "Clinic"


@pytest.fixture
def wait(qtbot: Any) -> Callable[[Callable[[], bool]], None]:
    def until(true: Callable[[], bool]) -> None:
        qtbot.waitUntil(true, timeout=20_000)

    return until
