"""Receive what modalities and routers push (C-STORE SCP), series by series.

A push does not say how many instances a series has. It counts as whole once none has arrived for a
while; if more arrive later, they are added to it in the same way.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom

from napari_spatial_ar.archive.access import Access
from napari_spatial_ar.archive.dimse import receiver, store_status
from napari_spatial_ar.archive.incoming import HIDDEN, Incoming, WrongInstance
from napari_spatial_ar.errors import InputError, SpatialARError
from napari_spatial_ar.imaging.dicom.header import read_whole_header
from napari_spatial_ar.imaging.files import storage_error
from napari_spatial_ar.imaging.guard import guard

__all__ = ["Arrived", "listen"]

_YIELD_SECONDS = 0.2
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID")
_SUCCESS = 0x0000
_STOPPING = 0xA700


@dataclass(frozen=True, slots=True)
class Arrived:
    """News of a listener.

    Parameters
    ----------
    port : int
        Where it listens.
    series : Path or None
        Folder of a series that is whole now.
    instances : int
        How many there are.
    refused : str
        Why an instance was refused; "" if none was.
    waiting : int
        Series on their way.
    """

    port: int
    series: Path | None = None
    instances: int = 0
    refused: str = ""
    waiting: int = 0


@dataclass
class _Series:
    """A series on its way."""

    incoming: Incoming
    reserved: ExitStack
    last: float = field(default_factory=time.monotonic)
    receiving: int = 0


class _Inbox:
    """Instances as they arrive, in any number of threads."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str], _Series] = {}
        self._refused: list[str] = []

    def resume(self) -> None:
        """Take up series that were on their way when an earlier listener stopped."""
        for folder in sorted(self._out.glob(f"{HIDDEN}*")):
            for path in sorted(folder.glob("*.dcm")):
                with suppress(SpatialARError):
                    header = read_whole_header(path, _UIDS)
                    study, series = (str(header.get(keyword) or "") for keyword in _UIDS)
                    with self._lock:
                        self._series_of(study, series)
                    break

    def store(self, event: Any) -> int:
        """Handle a C-STORE request; returns its status."""
        try:
            data = event.encoded_dataset()
            series = self._begin(*_uids(data))
        except SpatialARError as error:
            return self._refuse(error)
        try:
            with series.incoming.receive() as file:
                file.write(data)
        except SpatialARError as error:
            return self._refuse(error)
        finally:
            with self._lock:
                series.receiving -= 1
                series.last = time.monotonic()
        return _SUCCESS

    def _begin(self, study_uid: str, series_uid: str) -> _Series:
        with self._lock:
            found = self._series_of(study_uid, series_uid)
            found.receiving += 1
            return found

    def _series_of(self, study_uid: str, series_uid: str) -> _Series:
        found = self._series.get((study_uid, series_uid))
        if found is None:
            incoming = Incoming(self._out, study_uid, series_uid, durable=True)
            reserved = ExitStack()
            reserved.enter_context(incoming.reserved())
            found = self._series[study_uid, series_uid] = _Series(incoming, reserved)
        return found

    def _refuse(self, error: SpatialARError) -> int:
        with self._lock:
            self._refused.append(str(error))
        return store_status(error)

    def settled(self, port: int, seconds: float) -> list[Arrived]:
        """Finish series of which nothing arrived for so long, and tell what was refused."""
        now = time.monotonic()
        with self._lock:
            news = [Arrived(port, refused=why) for why in self._refused]
            self._refused.clear()
            for key, one in list(self._series.items()):
                if not one.receiving and now - one.last >= seconds:
                    del self._series[key]
                    with one.reserved:
                        new = one.incoming.count and not one.incoming.is_whole
                        if new:
                            folder = one.incoming.finish()
                            news.append(Arrived(port, folder, one.incoming.count))
        return news

    @property
    def waiting(self) -> int:
        with self._lock:
            return len(self._series)

    def close(self) -> None:
        with self._lock:
            for one in self._series.values():
                one.reserved.close()
            self._series.clear()


def _uids(data: bytes) -> tuple[str, str]:
    """Study and series of an encoded instance (`WrongInstance` if it does not say)."""
    try:
        with guard(None):
            header = pydicom.dcmread(
                BytesIO(data), stop_before_pixels=True, specific_tags=list(_UIDS)
            )
            study, series = (str(header.get(keyword) or "") for keyword in _UIDS)
    except InputError:
        raise WrongInstance("an object arrived damaged or cut short") from None
    if not study or not series:
        raise WrongInstance("an object arrived without the UID of its study or series")
    return study, series


def listen(
    out: Path,
    access: Access,
    *,
    port: int,
    host: str = "127.0.0.1",
    allowed: Sequence[str] = (),
    settle: float = 10.0,
    secure: bool = False,
) -> Generator[Arrived, None, None]:
    """Receive series until the generator is closed; yields at least five times a second.

    Parameters
    ----------
    out : Path
        Gets a folder for each series, once it is whole. What was on its way when an earlier
        listener stopped goes on.
    access : Access
        Our AE title, certificate and time-outs.
    port, host
        Where to listen; port 0: any that is free.
    allowed : sequence of str
        AE titles that may send; without any, all may.
    settle : float
        Seconds without an instance after which a series is whole.
    secure : bool
        Be reached by TLS only, with the certificate of ``access``; with its ``ca_file``, senders
        need a certificate too.

    Raises
    ------
    InputError
        If the port is in use, a certificate is missing, or ``out`` is no folder.
    StorageError
        If nothing can be written into ``out``, or a series cannot get its final name.
    """
    tls = access.server_tls() if secure else None
    _check_inbox(out)
    inbox = _Inbox(out)
    inbox.resume()
    try:
        with receiver(access, host, port, inbox.store, allowed, tls) as bound:
            while True:
                yield from inbox.settled(bound, settle)
                yield Arrived(bound, waiting=inbox.waiting)
                time.sleep(_YIELD_SECONDS)
    finally:
        inbox.close()


def _check_inbox(out: Path) -> None:
    """Make the folder, and see that it can be written to: else every image would be refused."""
    if out.exists() and not out.is_dir():
        raise InputError("this is a file, and series need a folder", path=out, fix="Choose another")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise storage_error(error, out) from error
