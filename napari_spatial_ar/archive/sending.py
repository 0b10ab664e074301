"""Send files to an archive: each once, and with an answer on each."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_spatial_ar.archive.entries import SeriesEntry
from napari_spatial_ar.archive.interface import Archive, SentFile, ToSend, Transfer
from napari_spatial_ar.archive.jobs import back_off
from napari_spatial_ar.errors import ArchiveDenied, ArchiveError, ArchiveUnreachable, InputError
from napari_spatial_ar.imaging.dicom.header import is_dicom, read_whole_header

__all__ = ["Outgoing", "files_to_send", "send", "to_send"]

_KEYWORDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_FIX = "Leave it out"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What of some files and folders can be sent.

    Parameters
    ----------
    files : tuple of ToSend
        DICOM files, each instance once.
    skipped : int
        Files in the folders that are not DICOM.
    """

    files: tuple[ToSend, ...]
    skipped: int


def files_to_send(paths: Iterable[str | Path]) -> Outgoing:
    """Find the DICOM files to send; nothing is sent if one of them cannot be.

    Parameters
    ----------
    paths : iterable of path-like
        Files, which must be DICOM, and folders, in which others are skipped.

    Raises
    ------
    InputError
        If there is no such file, a file is not DICOM or lacks what identifies it, two different
        files have the same UID, or there is nothing to send.
    """
    found: dict[str, ToSend] = {}
    skipped = 0
    named = [Path(path) for path in paths]
    for path in named:
        if not path.exists():
            raise InputError("there is no such file or folder", path=path)
        within = _files_under(path) if path.is_dir() else [path]
        for file in within:
            if path.is_dir() and not is_dicom(file):
                skipped += 1
                continue
            one = to_send(file)
            other = found.setdefault(one.sop_uid, one)
            if other is not one and _digest(other.path) != _digest(file):
                raise InputError(
                    f"has the same SOP Instance UID as {other.path}, but differs from it",
                    path=file,
                    fix=_FIX,
                )
    if not found:
        raise InputError("there is no DICOM file to send", path=named[0] if named else None)
    return Outgoing(tuple(found.values()), skipped)


def _files_under(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def to_send(path: Path) -> ToSend:
    """Read what is needed to send a file.

    Raises
    ------
    InputError
        If it is not DICOM, or lacks what identifies it.
    """
    if not path.is_file() or not is_dicom(path):
        raise InputError("is not a DICOM file and cannot be sent", path=path, fix=_FIX)
    header = read_whole_header(path, _KEYWORDS)
    uids = {keyword: str(header.get(keyword) or "") for keyword in _KEYWORDS}
    syntax = str(header.file_meta.get("TransferSyntaxUID") or "")
    lacking = [keyword for keyword, uid in uids.items() if not uid]
    if not syntax or not _has_preamble(path):
        lacking.append("File Meta Information")
    if lacking:
        raise InputError(
            f"lacks {', '.join(lacking)}, without which no archive takes it", path=path, fix=_FIX
        )
    return ToSend(
        path=path,
        study_uid=uids["StudyInstanceUID"],
        series_uid=uids["SeriesInstanceUID"],
        sop_uid=uids["SOPInstanceUID"],
        sop_class=uids["SOPClassUID"],
        syntax=syntax,
        size=path.stat().st_size,
        consistent=all(
            str(header.file_meta.get(f"MediaStorage{keyword}") or "") == uids[keyword]
            for keyword in ("SOPClassUID", "SOPInstanceUID")
        ),
    )


def _has_preamble(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def send(
    archive: Archive, files: Sequence[ToSend]
) -> Generator[Transfer, None, tuple[SentFile, ...]]:
    """Store files in an archive, but not those that it has.

    What fails for a passing reason is tried again, with growing pauses, after asking the archive
    what arrived. If it cannot be asked, nothing is tried again.

    Parameters
    ----------
    archive : Archive
        The archive.
    files : sequence of ToSend
        See `files_to_send`.

    Returns
    -------
    tuple of SentFile
        The answer on each file, in their order.

    Raises
    ------
    ArchiveError
        If the archive cannot be reached, or fails. What it has stored until then is stated.
    """
    answers: dict[str, SentFile] = {}
    left = list(files)
    attempt, sent_bytes = 0, 0
    while left:
        before = len(answers)
        storing = asked = False
        try:
            there = _present(archive, left)
            asked = there is not None
            for file in left:
                if there and file.sop_uid in there:
                    # After a failure, they are those whose answer was lost.
                    answers[file.sop_uid] = SentFile(file, "stored" if attempt else "there")
            left = [file for file in left if file.sop_uid not in answers]
            yield Transfer(len(answers), len(files), sent_bytes)
            storing = True
            for answer in archive.store(left):
                if answer is not None:
                    answers[answer.file.sop_uid] = answer
                    sent_bytes += answer.file.size
                yield Transfer(len(answers), len(files), sent_bytes)
            break
        except ArchiveUnreachable as error:
            left = [file for file in left if file.sop_uid not in answers]
            attempt = 1 if len(answers) > before else attempt + 1
            if attempt > archive.retries or (storing and not asked):
                raise _stopped(error, answers, len(files)) from None
            yield from (Transfer(len(answers), len(files), sent_bytes) for _ in back_off(attempt))
        except ArchiveError as error:
            raise _stopped(error, answers, len(files)) from None
    return tuple(answers[file.sop_uid] for file in files)


def _present(archive: Archive, files: Sequence[ToSend]) -> set[str] | None:
    """Those of the files that the archive has; None if it cannot be asked."""
    found: set[str] = set()
    for study_uid, series_uid in dict.fromkeys((file.study_uid, file.series_uid) for file in files):
        try:
            listed = archive.find_instances(SeriesEntry(study_uid, series_uid))
        except (ArchiveUnreachable, ArchiveDenied):
            raise
        except ArchiveError:
            return None  # one that only stores
        found |= {entry.sop_uid for entry in listed}
    return found


def _stopped(error: ArchiveError, answers: dict[str, SentFile], total: int) -> ArchiveError:
    """Return the error, with what was stored before it."""
    stored = sum(answer.state != "refused" for answer in answers.values())
    if not stored:
        return error
    return type(error)(
        f"{error.what}, after {stored} of {total} files were stored",
        fix="Send the same again: what is there is not sent twice",
    )
