"""The cache of retrieved series: what it keeps, what makes room, and how it is emptied."""

from __future__ import annotations

import os
from pathlib import Path

from napari_spatial_ar.archive.access import Access
from napari_spatial_ar.archive.cache import StudyCache
from napari_spatial_ar.archive.incoming import Incoming
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.retrieval import the_series
from napari_spatial_ar.steps import finish
from tests.archive.conftest import write_series
from tests.archive.fake_web import FakeWeb


def test_the_least_recently_used_series_make_room(
    web: FakeWeb, tmp_path: Path, quick: Access
) -> None:
    archive = open_archive(web.url, quick)
    cache = StudyCache(tmp_path / "cache", limit=10**9)
    folders = []
    for number in range(3):
        one = write_series(tmp_path / str(number))
        web.add(*one.files)
        got = finish(cache.get(archive, the_series(archive, one.series_uid)))
        os.utime(got.folder, (number, number))
        folders.append(got.folder)
    (tmp_path / "cache" / "not ours").mkdir()
    sizes = [sum(path.stat().st_size for path in folder.iterdir()) for folder in folders]
    assert cache.size() == sum(sizes)
    StudyCache(cache.folder, limit=sum(sizes) - 1).trim()
    assert [folder.is_dir() for folder in folders] == [False, True, True]
    StudyCache(cache.folder, limit=0).trim(keep=[folders[1]])
    assert [folder.is_dir() for folder in folders] == [False, True, False]
    with Incoming.reserve(folders[1]):
        assert cache.clear() == 0  # in use
    assert cache.clear() == sizes[1]
    assert [path.name for path in cache.folder.iterdir()] == ["not ours"]
    assert cache.size() == 0


def test_what_is_in_the_cache_is_not_sent_again(
    web: FakeWeb, tmp_path: Path, quick: Access
) -> None:
    archive = open_archive(web.url, quick)
    one = write_series(tmp_path / "source")
    web.add(*one.files)
    cache = StudyCache(tmp_path / "cache", limit=1)  # the one asked for stays
    entry = the_series(archive, one.series_uid)
    assert finish(cache.get(archive, entry)).fetched == 4
    assert finish(cache.get(archive, entry)).fetched == 0
