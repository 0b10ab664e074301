"""Receiving what others push: whole series, from those who may, across restarts."""

from __future__ import annotations

import errno
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest

from napari_spatial_ar.archive import incoming
from napari_spatial_ar.archive.access import Access
from napari_spatial_ar.archive.listening import Arrived, listen
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.sending import files_to_send, send
from napari_spatial_ar.errors import ArchiveError, InputError, StorageError
from napari_spatial_ar.steps import finish
from tests.archive.conftest import Written
from tests.archive.test_dicomweb import make_certificate


@contextmanager
def listening(out: Path, **options: Any) -> Iterator[tuple[str, Any]]:
    """A listener; yields its URL, and its news."""
    access = options.pop("access", Access(timeout=20.0))
    settle = options.pop("settle", 0.3)
    steps = listen(out, access, port=0, settle=settle, **options)
    first = next(steps)
    try:
        yield f"dicom://NSAR@127.0.0.1:{first.port}", steps
    finally:
        steps.close()


def push(url: str, *paths: Path, aet: str = "SCANNER", **access: Any) -> list[str]:
    archive = open_archive(url, Access(aet=aet, timeout=20.0, retries=0, **access))
    return [answer.state for answer in finish(send(archive, files_to_send(paths).files))]


def news(steps: Iterator[Arrived], kind: Callable[[Arrived], Any]) -> Arrived:
    """The first news of a kind."""
    end = time.monotonic() + 20
    for one in steps:
        if kind(one):
            return one
        assert time.monotonic() < end, "nothing arrived"
    raise AssertionError("the listener stopped")


def visible(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if not path.name.startswith(".")]


def test_a_pushed_series_is_shown_once_it_is_whole(series: Written, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with listening(out) as (url, steps):
        assert push(url, *series.files[:3]) == ["stored"] * 3
        assert visible(out) == []
        got = news(steps, lambda one: one.series)
        assert got.instances == 3
        assert push(url, *series.files) == ["stored"] * 4  # three of them again
        again = news(steps, lambda one: one.series)
        assert (again.series, again.instances) == (got.series, 4)
    assert again.series is not None
    data = {pydicom.dcmread(path).PixelData for path in again.series.iterdir()}
    assert data == {pydicom.dcmread(path).PixelData for path in series.files}
    assert [path.name for path in out.iterdir()] == [again.series.name]


def test_other_programs_push_too(
    dcmtk: Callable[..., Any], series: Written, tmp_path: Path
) -> None:
    with listening(tmp_path / "out") as (url, steps):
        port = url.rpartition(":")[2]
        dcmtk("echoscu", "-aec", "NSAR", "127.0.0.1", port)
        dcmtk("storescu", "-aec", "NSAR", "127.0.0.1", port, *series.files)
        assert news(steps, lambda one: one.series).instances == 4


def test_what_was_on_its_way_goes_on_after_a_restart(series: Written, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with listening(out, settle=60.0) as (url, steps):
        push(url, *series.files[:2])
        assert news(steps, lambda one: one.waiting).waiting == 1
    assert visible(out) == []
    with listening(out) as (url, steps):
        push(url, *series.files[2:])
        assert news(steps, lambda one: one.series).instances == 4


def test_only_those_allowed_may_send(series: Written, tmp_path: Path) -> None:
    with listening(tmp_path / "out", allowed=["SCANNER"]) as (url, steps):
        with pytest.raises(ArchiveError, match="does not know our AE title 'OTHER'"):
            push(url, *series.files, aet="OTHER")
        with pytest.raises(ArchiveError, match="is not called 'WRONG'"):
            push(url.replace("NSAR", "WRONG"), *series.files)
        assert push(url, *series.files) == ["stored"] * 4
        assert news(steps, lambda one: one.series).instances == 4


def test_an_image_of_another_patient_is_refused(series: Written, tmp_path: Path) -> None:
    wrong = pydicom.dcmread(series.files[3])
    wrong.PatientID = "P-2"
    wrong.save_as(series.files[3])
    with listening(tmp_path / "out", settle=1.0) as (url, steps):
        assert push(url, *series.files) == ["stored"] * 3 + ["refused"]
        refused = news(steps, lambda one: one.refused).refused
        assert news(steps, lambda one: one.series).instances == 3
    assert "images of more than one patient" in refused
    assert "P-2" not in refused


def test_a_disk_that_is_full_is_told_to_the_sender(
    series: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    with listening(out) as (url, steps):
        with monkeypatch.context() as patch:
            patch.setattr(incoming.os, "replace", full)
            assert push(url, series.files[0]) == ["refused"]
        assert "the disk is full" in news(steps, lambda one: one.refused).refused
        assert push(url, *series.files) == ["stored"] * 4
        assert news(steps, lambda one: one.series).instances == 4


def test_a_port_in_use(tmp_path: Path) -> None:
    with listening(tmp_path / "a") as (url, _):
        port = int(url.rpartition(":")[2])
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            next(listen(tmp_path / "b", Access(), port=port))


def test_an_inbox_that_takes_nothing_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="this is a file, and series need a folder"):
        next(listen(file, Access(), port=0))
    with pytest.raises(StorageError):
        next(listen(file / "below", Access(), port=0))


def test_by_tls_with_certificates_of_both(series: Written, tmp_path: Path) -> None:
    own = make_certificate(tmp_path, "127.0.0.1")
    access = Access(ca_file=own, certificate=own, timeout=10.0)
    with listening(tmp_path / "out", access=access, secure=True) as (url, steps):
        secure = url.replace("dicom:", "dicoms:")
        assert push(secure, *series.files, ca_file=own, certificate=own) == ["stored"] * 4
        with pytest.raises(ArchiveError):
            push(secure, *series.files, ca_file=own)
        assert news(steps, lambda one: one.series).instances == 4
    with pytest.raises(InputError, match="a server needs a certificate"):
        next(listen(tmp_path / "out", Access(), port=0, secure=True))
    assert ssl.HAS_TLSv1_2
