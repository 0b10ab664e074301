"""The one interface behind which archives stand, whatever protocol they speak."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from napari_spatial_ar.archive.entries import InstanceEntry, SeriesEntry, StudyEntry, StudyQuery

__all__ = ["Archive", "Found", "Receive", "SentFile", "ToSend", "Transfer"]


@dataclass(frozen=True, slots=True)
class Found:
    """Studies that match a query.

    Parameters
    ----------
    studies : tuple of StudyEntry
        At most as many as were asked for.
    more : bool
        Whether the archive has more that match.
    """

    studies: tuple[StudyEntry, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a transfer is: ``done`` of ``total`` instances, and ``bytes`` so far."""

    done: int
    total: int
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class ToSend:
    """A DICOM file to be stored in an archive.

    Parameters
    ----------
    path : Path
        The file.
    study_uid, series_uid, sop_uid, sop_class, syntax : str
        UIDs of its study, series, instance, SOP class and transfer syntax.
    size : int
        In bytes.
    consistent : bool
        Whether its File Meta Information names the same instance as its data set.
    """

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    syntax: str
    size: int
    consistent: bool = True


@dataclass(frozen=True, slots=True)
class SentFile:
    """The archive's answer on one file.

    Parameters
    ----------
    file : ToSend
        The file.
    state : {"stored", "there", "refused"}
        Stored now; in the archive already, so not sent; or refused.
    reason : str
        Why it was refused, or a warning of the archive: a clause. "" without either.
    """

    file: ToSend
    state: Literal["stored", "there", "refused"]
    reason: str = ""


class Receive(Protocol):
    """Takes one instance as it arrives: the file to write it to, which is checked at its end."""

    def __call__(self) -> AbstractContextManager[BinaryIO]:
        """Open a file for the next instance; may be called from several threads."""


class Archive(Protocol):
    """An archive of DICOM objects.

    Its methods raise `ArchiveError`, with one sentence; of those, `ArchiveUnreachable` for
    what may be tried again, and `ArchiveDenied` if credentials are missing, wrong or expired.
    Those that return a generator yield at least five times a second, so that closing it cancels
    the transfer soon.
    """

    @property
    def url(self) -> str:
        """Where it is, without secrets."""

    @property
    def retries(self) -> int:
        """How often what failed for a passing reason is tried again."""

    def echo(self) -> None:
        """Check that it answers, and lets us in."""

    def find_studies(self, query: StudyQuery, *, limit: int = 500) -> Found:
        """Find studies, in the archive's own order."""

    def find_series(self, study_uid: str = "", series_uid: str = "") -> tuple[SeriesEntry, ...]:
        """Series of a study, or of any study that has a series of this UID; none: ()."""

    def find_instances(self, series: SeriesEntry) -> tuple[InstanceEntry, ...]:
        """Instances of a series; (): it is gone."""

    def thumbnail(self, series: SeriesEntry) -> bytes | None:
        """Picture of a series, about 128 pixels wide, as JPEG or PNG; None if not offered."""

    def fetch(
        self,
        series: SeriesEntry,
        wanted: Sequence[InstanceEntry],
        receive: Receive,
        *,
        whole: bool,
    ) -> Generator[None, None, None]:
        """Have instances sent as they are stored; whether all arrived is for the caller to see.

        Parameters
        ----------
        series : SeriesEntry
            The series.
        wanted : sequence of InstanceEntry
            Those to send.
        receive : callable
            See `Receive`.
        whole : bool
            Whether that is the whole series, which is usually one request.
        """

    def store(self, files: Sequence[ToSend]) -> Generator[SentFile | None, None, None]:
        """Store files as they are, one after the other; yields each answer."""

    def close(self) -> None:
        """Close its connections."""
