"""Watching an archive: what is new is scored once and sent once, whatever breaks off in between."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from napari_spatial_ar.archive.access import Access
from napari_spatial_ar.archive.entries import SeriesEntry, StudyQuery
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.sending import files_to_send, send
from napari_spatial_ar.archive.watching import Entry, Ledger, Watched, watch
from napari_spatial_ar.errors import ArchiveUnreachable, InputError, InUseError
from napari_spatial_ar.steps import finish
from tests.archive.conftest import ROOT, Orthanc, free_port, write_series
from tests.archive.fake_web import FakeWeb
from tests.archive.watcher import score, watching
from tests.json_check import check

STUDIES = 6


@pytest.fixture
def studies(orthanc: Orthanc, tmp_path: Path) -> Orthanc:
    """An archive of some studies of two images each."""
    for number in range(STUDIES):
        write_series(tmp_path / "studies" / str(number), 2, PatientID=f"P-{number}")
    files = files_to_send([tmp_path / "studies"]).files
    finish(send(open_archive(orthanc.dimse), files))
    return orthanc


def scored(folder: Path) -> Counter[str]:
    """How often each series was scored."""
    return Counter((folder / "scored").read_text().split())


def until(steps: Iterator[Watched], reached: Any, seconds: float = 60.0) -> Watched:
    end = time.monotonic() + seconds
    for news in steps:
        if reached(news):
            return news
        assert time.monotonic() < end, "it never came"
    raise AssertionError("the watch ended")


def all_sent(folder: Path, news: Watched | None = None) -> bool:
    return [entry.state for entry in Ledger(folder).entries()] == ["sent"] * STUDIES


def test_each_series_is_scored_and_its_results_sent_once(studies: Orthanc, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    for _ in range(2):
        for _ in watching(studies.web, folder, once=True):
            pass
        assert all_sent(folder)
        assert set(scored(folder).values()) == {1}
        assert studies.count("OT") == STUDIES
    assert not list((folder / "series").glob("*"))  # images do not stay
    for path in (folder / "ledger").iterdir():
        text = path.read_text()
        check(__import__("json").loads(text), "archive-watch-entry")
        assert "P-" not in text
        assert "Doe" not in text


def test_a_server_that_is_killed_and_restarted_in_the_middle(
    studies: Orthanc, tmp_path: Path
) -> None:
    folder = tmp_path / "ledger"
    steps = watching(studies.web, folder)
    try:
        for state in ("sent", "scored"):
            until(steps, lambda news, state=state: news.entry and news.entry.state == state)
        studies.stop()
        trouble = until(steps, lambda news: news.trouble).trouble
        assert "refused" in trouble or "closed" in trouble
        studies.start()
        until(steps, lambda news: all_sent(folder))
    finally:
        steps.close()
    assert set(scored(folder).values()) == {1}
    assert studies.count("OT") == STUDIES


def test_a_watch_that_is_killed_goes_on(studies: Orthanc, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    for states in (1, 2, 3):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.archive.watcher", studies.dimse, str(folder)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ) as process:
            assert process.stdout is not None
            for _ in range(states):
                process.stdout.readline()
            process.kill()
    for _ in watching(studies.dimse, folder, once=True):
        pass
    assert all_sent(folder)
    # Whoever is killed between scoring and the ledger scores that one again.
    assert sum(scored(folder).values()) <= STUDIES + 3
    assert studies.count("OT") == STUDIES


def test_an_answer_that_was_lost_is_asked_for(web: FakeWeb, tmp_path: Path) -> None:
    web.add(*write_series(tmp_path / "a", 2).files)
    lost = []

    def lose(method: str, path: str) -> Any:
        if method == "POST" and not lost:
            lost.append(path)
            web.add(next((tmp_path / "ledger" / "results").rglob("*.dcm")))
            return 503, "text/plain", b""
        return None

    web.before = lose
    for _ in watching(web.url, tmp_path / "ledger", once=True):
        pass
    (entry,) = Ledger(tmp_path / "ledger").entries()
    assert entry.state == "sent"
    assert sum(method == "POST" for method, _ in web.asked) == 1


# ---------------------------------------------------------------- what is scored, and when


def run(web: FakeWeb, folder: Path, **options: Any) -> list[Watched]:
    archive = open_archive(web.url, Access(timeout=5.0, retries=0))
    settings: dict[str, Any] = {"admits": lambda series: True, "settle": 0.0, "once": True}
    scorer = options.pop("score", score)
    return list(watch(archive, archive, StudyQuery, folder, scorer, **settings | options))


def states(folder: Path) -> list[tuple[str, str]]:
    return [(entry.state, entry.reason) for entry in Ledger(folder).entries()]


@pytest.mark.parametrize("counts", [True, False])
def test_a_series_that_grows_waits(web: FakeWeb, tmp_path: Path, counts: bool) -> None:
    series = write_series(tmp_path / "a", 4)
    web.add(*series.files[:2])
    web.counts = counts
    archive = open_archive(web.url)
    steps = watch(
        archive,
        archive,
        StudyQuery,
        tmp_path / "ledger",
        score,
        admits=lambda entry: entry.modality == "MR",
        interval=0.1,
        settle=0.8,
    )
    try:
        until(steps, lambda news: news.polls == 3)
        assert states(tmp_path / "ledger") == []
        web.add(*series.files[2:])
        news = until(steps, lambda news: news.entry)
    finally:
        steps.close()
    assert news.entry is not None
    assert news.entry.instances == 4


def entry_of(folder: Path) -> Entry:
    """The one entry of a ledger."""
    (entry,) = Ledger(folder).entries()
    return entry


@pytest.mark.parametrize("counts", [True, False])
def test_a_series_that_grew_is_scored_again(web: FakeWeb, tmp_path: Path, counts: bool) -> None:
    series = write_series(tmp_path / "a", 4)
    folder = tmp_path / "ledger"
    web.counts = counts
    seen: list[tuple[int, int]] = []

    def count(images: Path, out: Path) -> str:
        seen.append((len(list(images.iterdir())), len(list(out.glob("*.dcm")))))
        return score(images, out)

    for files in (series.files[:2], [], series.files[2:], []):
        web.add(*files)
        run(web, folder, score=count, admits=lambda series: series.modality == "MR")
    # The second reading finds the results of the first, which it supersedes.
    assert seen == [(2, 0), (4, 1)]
    assert (entry_of(folder).state, entry_of(folder).instances) == ("sent", 4)
    assert len(web.stored) == 5


def test_what_nobody_has_seen_is_not_superseded(web: FakeWeb, tmp_path: Path) -> None:
    series = write_series(tmp_path / "a", 4)
    folder = tmp_path / "ledger"
    there: list[bool] = []

    def keep_back(images: Path, out: Path) -> str:
        there.append(out.exists())
        score(images, out)
        return "it is outside the model's training domain"

    for files in (series.files[:2], series.files[2:]):
        web.add(*files)
        run(web, folder, score=keep_back)
    assert there == [False, False]
    assert (entry_of(folder).state, entry_of(folder).instances) == ("left out", 4)


def test_what_was_sent_stays_known_if_more_images_cannot_be_scored(
    web: FakeWeb, tmp_path: Path
) -> None:
    series = write_series(tmp_path / "a", 4)
    folder = tmp_path / "ledger"
    only = {"admits": lambda series: series.modality == "MR"}
    web.add(*series.files[:2])
    run(web, folder, **only)
    sent = entry_of(folder).sent
    assert set(sent.values()) == {"stored"}

    def fail(images: Path, out: Path) -> str:
        raise InputError("the slices are of different sizes")

    web.add(*series.files[2:])
    run(web, folder, score=fail, **only)
    assert (entry_of(folder).state, entry_of(folder).sent) == ("failed", sent)


def test_a_study_that_is_deleted_before_it_is_retrieved(web: FakeWeb, tmp_path: Path) -> None:
    series = write_series(tmp_path / "a", 2)
    folder = tmp_path / "ledger"
    web.add(*series.files)

    def delete(method: str, path: str) -> None:
        if "/instances" in path:
            web.stored.clear()

    web.before = delete
    news = run(web, folder)
    assert sum("no longer has this series" in one.trouble for one in news) == 1
    assert Ledger(folder).entries() == []
    # Sent again by whoever deleted it, it is another one.
    web.before = lambda method, path: None
    web.add(*series.files)
    run(web, folder, admits=lambda series: series.modality == "MR")
    assert entry_of(folder).state == "sent"


def test_each_poll_asks_anew_what_to_look_for(web: FakeWeb, tmp_path: Path) -> None:
    archive = open_archive(web.url)
    days = iter(["20260101", "20260102", "20260103"])
    steps = watch(
        archive,
        archive,
        lambda: StudyQuery.of(date=next(days)),
        tmp_path / "ledger",
        score,
        admits=lambda series: True,
        interval=0.0,
    )
    until(steps, lambda news: news.polls == 3)
    steps.close()
    first, second, *_ = web.paths("StudyDate=")
    assert "20260101" in first
    assert "20260102" in second


def test_a_scan_that_cannot_be_scored_is_told_and_left(web: FakeWeb, tmp_path: Path) -> None:
    web.add(*write_series(tmp_path / "a", 2).files)
    tries = []

    def fail(folder: Path, out: Path) -> None:
        tries.append(folder)
        raise InputError("the slices are of different sizes", path=folder)

    for _ in range(2):
        run(web, tmp_path / "ledger", score=fail)
    assert states(tmp_path / "ledger") == [("failed", "the slices are of different sizes")]
    assert len(tries) == 1


def test_what_is_no_acquired_series_is_left_out(web: FakeWeb, tmp_path: Path) -> None:
    web.add(*write_series(tmp_path / "a", 2, ImageType=["DERIVED", "SECONDARY"]).files)
    web.add(*write_series(tmp_path / "b", 2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]).files)
    run(web, tmp_path / "ledger")
    assert {state for state, _ in states(tmp_path / "ledger")} == {"left out"}
    assert not (tmp_path / "ledger" / "scored").exists()


def test_results_in_the_same_study_are_not_scored_again(web: FakeWeb, tmp_path: Path) -> None:
    web.add(*write_series(tmp_path / "a", 2).files)
    for _ in range(2):
        run(web, tmp_path / "ledger")  # of any modality
    assert sorted(state for state, _ in states(tmp_path / "ledger")) == ["left out", "sent"]
    assert len(web.stored) == 3


def test_a_target_that_is_away_is_waited_for(web: FakeWeb, tmp_path: Path) -> None:
    web.add(*write_series(tmp_path / "a", 2).files)
    away = f"http://127.0.0.1:{free_port()}/dicom-web"
    source = open_archive(web.url)
    target = open_archive(away, Access(retries=0))
    folder = tmp_path / "ledger"
    options: dict[str, Any] = {"admits": lambda series: True, "settle": 0.0, "once": True}
    with pytest.raises(ArchiveUnreachable, match="refused"):
        list(watch(source, target, StudyQuery, folder, score, **options))
    assert states(folder) == [("scored", "")]
    list(watch(source, source, StudyQuery, folder, score, **options))
    assert ("sent", "") in states(folder)
    assert set(scored(folder).values()) == {1}


def test_one_watch_at_a_time(web: FakeWeb, tmp_path: Path) -> None:
    steps = watching(web.url, tmp_path / "ledger")
    next(steps)
    with pytest.raises(InUseError):
        next(watching(web.url, tmp_path / "ledger"))
    steps.close()


def test_a_damaged_entry_is_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    entry = ledger.add(replace(ledger_entry(), state="scored"))
    assert ledger.entry("e") == entry
    (tmp_path / "ledger" / "e.json").write_text("{")
    assert ledger.entry("e") is None
    assert SeriesEntry("1", "2").instances is None


def ledger_entry() -> Any:
    from napari_spatial_ar.archive.watching import Entry

    return Entry("e", "sent")
