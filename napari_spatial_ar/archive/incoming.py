"""Series on their way to a folder: invisible until whole, and kept if the transfer breaks off.

A series goes to ``.incoming-KEY`` in the folder, which readers skip as hidden, and is renamed to
``KEY`` once all of its instances are there. KEY and the names of the files are hashes of UIDs. Each
file is written under a temporary name and renamed when it is whole and known to belong there, so
whatever has its final name need not be sent again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from napari_spatial_ar.archive.entries import InstanceEntry
from napari_spatial_ar.errors import ArchiveError, InputError
from napari_spatial_ar.imaging.dicom.header import is_dicom, read_whole_header
from napari_spatial_ar.imaging.files import locked, remove_partial, storage_error

__all__ = ["HIDDEN", "Incoming", "WrongInstance", "short_hash"]

HIDDEN = ".incoming-"
_BUSY = ".busy-"
_OLD = ".replaced-"
_FOLDER_NAME = re.compile(rf"({re.escape(HIDDEN)}|{re.escape(_OLD)})?[0-9a-f]{{16}}")
_IDENTITY = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "PatientName"),
)


class WrongInstance(ArchiveError):
    """An instance that arrived and does not belong to its series."""


def short_hash(*uids: str) -> str:
    """First 16 hex digits of the sha256 of UIDs: the name of their folder or file."""
    return hashlib.sha256("\n".join(uids).encode()).hexdigest()[:16]


class Incoming:
    """A series on its way to a folder.

    Parameters
    ----------
    out : Path
        The folder that gets a folder for the series.
    study_uid, series_uid : str
        The series that instances must belong to.
    durable : bool
        Whether each instance must survive a loss of power once it is received.
    """

    def __init__(self, out: Path, study_uid: str, series_uid: str, *, durable: bool = False):
        self.out = out
        self.study_uid = study_uid
        self.series_uid = series_uid
        self.folder = out / short_hash(study_uid, series_uid)
        #: Instances and bytes received, this time.
        self.received = 0
        self.bytes = 0
        self._durable = durable
        self._hidden = out / f"{HIDDEN}{self.folder.name}"
        self._lock = threading.Lock()
        self._patient: tuple[str, str] | None = None

    @staticmethod
    def owns(name: str) -> bool:
        """Whether a folder has a name that this module gives: to a series, whole or not."""
        return _FOLDER_NAME.fullmatch(name) is not None

    @staticmethod
    @contextmanager
    def reserve(folder: Path) -> Iterator[None]:
        """Reserve the folder of a series, by any of its names (`InUseError` if it is in use)."""
        key = folder.name.rpartition("-")[2]
        with locked(folder.with_name(f"{_BUSY}{key}")):
            yield

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Reserve the series for this process (`InUseError` if another is receiving it)."""
        with self.reserve(self.folder):
            self._recover()
            try:
                yield
            finally:
                with suppress(OSError):
                    self._hidden.rmdir()  # only if empty

    def _recover(self) -> None:
        """Undo or complete what a killed process was doing."""
        old = self.out / f"{_OLD}{self.folder.name}"
        if old.is_dir():
            if self.folder.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(old, self.folder)
        remove_partial(self._hidden)
        for path in (*_files(self._hidden), *_files(self.folder)):
            try:
                self._patient = _patient(read_whole_header(path, _IDENTITY))
                break
            except InputError:  # cut short by a loss of power
                if path.parent == self._hidden:
                    path.unlink(missing_ok=True)

    def missing(self, listed: Iterable[InstanceEntry]) -> list[InstanceEntry]:
        """Those of the instances that are not on the disk yet."""
        there = {path.name for path in (*_files(self._hidden), *_files(self.folder))}
        return [entry for entry in listed if _file_name(entry.sop_uid) not in there]

    @property
    def count(self) -> int:
        """Instances on the disk."""
        return len({path.name for path in (*_files(self._hidden), *_files(self.folder))})

    @property
    def is_whole(self) -> bool:
        """Whether the series is under its final name, and nothing more on its way."""
        return self.folder.is_dir() and not _files(self._hidden)

    @contextmanager
    def receive(self) -> Iterator[BinaryIO]:
        """Open a file for the next instance; it is checked and renamed when the block ends.

        Raises
        ------
        WrongInstance
            If it is not DICOM, of another series, study or patient, or unlike an instance of the
            same UID. It is not kept.
        StorageError
            If it cannot be written.
        """
        temporary = self._hidden / f".partial-{uuid.uuid4().hex}.dcm"
        try:
            self._hidden.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            self._take(temporary)
        except OSError as error:
            raise storage_error(error, self.out) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _take(self, temporary: Path) -> None:
        try:
            header = read_whole_header(temporary, _IDENTITY)
        except InputError:
            header = None
        if header is None or "SOPInstanceUID" not in header:
            if not is_dicom(temporary):
                raise WrongInstance("what the archive sent is not a DICOM file")
            raise WrongInstance("an instance arrived damaged or cut short", fix="Try again")
        sop_uid = str(header.get("SOPInstanceUID") or "")
        if not sop_uid:
            raise WrongInstance("an instance arrived without a SOP Instance UID")
        if str(header.get("SeriesInstanceUID") or "") != self.series_uid:
            raise WrongInstance(
                "an instance of another series arrived", fix="Ask its administrator"
            )
        if str(header.get("StudyInstanceUID") or "") != self.study_uid:
            raise WrongInstance(
                "two studies have a series of the same UID, so it is not clear which is meant",
                fix="Ask the archive's administrator to correct one of them",
            )
        name, patient = _file_name(sop_uid), _patient(header)
        with self._lock:
            if self._patient is None:
                self._patient = patient
            if not _same_patient(patient, self._patient):
                raise WrongInstance(
                    "the series contains images of more than one patient",
                    fix="Ask the archive's administrator to correct it",
                )
            for there in (self._hidden / name, self.folder / name):
                if there.exists():
                    if _digest(there) != _digest(temporary):
                        raise WrongInstance("two different instances have the same UID")
                    return
            self.bytes += temporary.stat().st_size
            os.replace(temporary, self._hidden / name)
            self.received += 1

    def finish(self) -> Path:
        """Give the series its final name; earlier instances of it stay.

        Raises
        ------
        StorageError
            If that is not possible.
        """
        old = self.out / f"{_OLD}{self.folder.name}"
        try:
            if not self.folder.exists():
                os.replace(self._hidden, self.folder)
            elif _files(self._hidden):
                for path in _files(self.folder):
                    if not (self._hidden / path.name).exists():
                        _link(path, self._hidden / path.name)
                os.replace(self.folder, old)
                os.replace(self._hidden, self.folder)
                shutil.rmtree(old, ignore_errors=True)
            if self._durable:
                _sync_folder(self.out)
        except OSError as error:
            raise storage_error(error, self.out) from error
        return self.folder


def _files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []


def _file_name(sop_uid: str) -> str:
    return f"{short_hash(sop_uid)}.dcm"


def _patient(header: object) -> tuple[str, str]:
    """ID and name of the patient, in one spelling."""
    get = header.get  # type: ignore[attr-defined]
    identity, name = str(get("PatientID") or ""), str(get("PatientName") or "")
    return " ".join(identity.split()), " ".join(name.replace("^", " ").split()).casefold()


def _same_patient(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two instances are of one patient: by ID, or by name if either has no ID."""
    by_id = one[0] and other[0]
    return one[0] == other[0] if by_id else one[1] == other[1]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(path: Path, target: Path) -> None:
    """Give a file a second name; a copy on a file system without links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
