"""Series on their way: what an interruption leaves, and what belongs to others."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_spatial_ar.archive.entries import InstanceEntry
from napari_spatial_ar.archive.incoming import Incoming, WrongInstance, short_hash
from napari_spatial_ar.errors import InUseError
from tests.archive.conftest import Written


def put(incoming: Incoming, *paths: Path) -> None:
    for path in paths:
        with incoming.receive() as file:
            file.write(path.read_bytes())


def test_a_series_is_hidden_until_it_is_finished(series: Written, tmp_path: Path) -> None:
    incoming = Incoming(tmp_path / "out", series.study_uid, series.series_uid)
    with incoming.reserved():
        put(incoming, *series.files)
        assert not incoming.folder.exists()
        assert incoming.finish() == incoming.folder
    assert incoming.folder.name == short_hash(series.study_uid, series.series_uid)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [incoming.folder.name]
    assert incoming.count == incoming.received == 4


def test_what_a_loss_of_power_cut_short_is_asked_for_again(series: Written, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = Incoming(out, series.study_uid, series.series_uid)
    with first.reserved():
        put(first, series.files[0])
    (kept,) = out.glob(".incoming-*/*.dcm")
    kept.write_bytes(kept.read_bytes()[:200])
    (kept.parent / f".partial-{'0' * 32}.dcm").write_bytes(b"")
    again = Incoming(out, series.study_uid, series.series_uid)
    with again.reserved():
        assert again.count == 0
        assert not list(out.glob(".incoming-*/.partial-*"))


def test_a_swap_that_was_killed_half_way_is_completed(series: Written, tmp_path: Path) -> None:
    incoming = Incoming(tmp_path / "out", series.study_uid, series.series_uid)
    with incoming.reserved():
        put(incoming, *series.files[:2])
        folder = incoming.finish()
    folder.rename(folder.with_name(f".replaced-{folder.name}"))
    again = Incoming(tmp_path / "out", series.study_uid, series.series_uid)
    with again.reserved():
        assert again.count == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder.name]


def test_files_of_others_in_the_folder_stay(series: Written, tmp_path: Path) -> None:
    incoming = Incoming(tmp_path / "out", series.study_uid, series.series_uid)
    with incoming.reserved():
        put(incoming, *series.files[:1])
        incoming.finish()
    (incoming.folder / "000 notes.txt").write_text("mine")
    again = Incoming(tmp_path / "out", series.study_uid, series.series_uid)
    with again.reserved():
        put(again, *series.files)
        again.finish()
    assert (incoming.folder / "000 notes.txt").read_text() == "mine"
    assert again.missing([InstanceEntry("1.2.3")]) == [InstanceEntry("1.2.3")]


def test_one_process_at_a_time(series: Written, tmp_path: Path) -> None:
    incoming = Incoming(tmp_path / "out", series.study_uid, series.series_uid)
    other = Incoming(tmp_path / "out", series.study_uid, series.series_uid)
    with incoming.reserved(), pytest.raises(InUseError), other.reserved():
        pass


@pytest.mark.parametrize("data", [b"", b"<html></html>", b"\0" * 128 + b"DICM"])
def test_what_is_no_instance_is_not_kept(series: Written, tmp_path: Path, data: bytes) -> None:
    incoming = Incoming(tmp_path / "out", series.study_uid, series.series_uid)
    with pytest.raises(WrongInstance), incoming.receive() as file:
        file.write(data)
    assert incoming.count == 0
