"""Stored results and verdicts of scans that were scored and read, so that nothing is done twice.

Each scan has a folder named by a hash of its content: a file or folder that is moved or renamed
keeps its state, and nothing there names a patient or a file. It contains

- ``reading.json``: the reader's progress with the scan;
- ``MODEL.npz``: the scores by a model, of some slices or of all;
- ``MODEL.json``: a summary of the scores;
- ``MODEL.failed.json``: why it could not be read or scored, in one sentence;
- ``MODEL.marks.json``: the reader's verdicts on findings, and manual edits.

MODEL is the start of the model's sha256. Every file is written completely or not at all; an invalid
one is ignored. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from napari_spatial_ar.datasets.slices import file_digest
from napari_spatial_ar.errors import InputError, InUseError, StorageError
from napari_spatial_ar.imaging.files import (
    atomic_path,
    atomic_write_json,
    locked,
    storage_error,
)
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.findings import Mark, Status
from napari_spatial_ar.review.strokes import Refined, Strokes
from napari_spatial_ar.review.worklist.entries import Reading, Summary

__all__ = ["Marks", "Record", "WorklistStore", "model_key", "scan_key"]

FORMAT = 1
_KEY_DIGITS = 24
_WHOLE_DIGITS = 16
_LONG_KEY = _KEY_DIGITS + 1 + _WHOLE_DIGITS
_MODEL_DIGITS = 16
_PEEK_BYTES = 65_536
_PEEKED_FILES = 5


def scan_key(scan: Scan) -> str:
    """Identify a scan by its content.

    The hash covers its grid, its position in its files, the sizes of all of them and the first and
    last 64 KiB of up to five, but neither names nor locations. If that may not distinguish two
    patients (uncompressed voxels, whose ends may be air), a hash of the complete content follows
    after a hyphen.

    Raises
    ------
    InputError
        If a file is missing or cannot be read.
    """
    geometry, series = scan.geometry, scan.series
    digest = hashlib.sha256()
    facts = (geometry.shape, geometry.slice_axis, series.label, series.uid, series.frames)
    digest.update(repr(facts).encode())
    digest.update(np.round(np.asarray(geometry.affine, float), 4).tobytes())
    files = series.files
    peeked = {round(i) for i in np.linspace(0, len(files) - 1, min(len(files), _PEEKED_FILES))}
    tells = True
    for number, path in enumerate(files):
        try:
            size = path.stat().st_size
            digest.update(size.to_bytes(8, "little"))
            if number in peeked:
                with open(path, "rb") as file:
                    start = file.read(_PEEK_BYTES)
                    digest.update(start)
                    tells &= size <= 2 * _PEEK_BYTES or _is_telling(start, series.uid)
                    file.seek(max(0, size - _PEEK_BYTES))
                    digest.update(file.read(_PEEK_BYTES))
        except OSError as error:
            raise InputError("cannot be read", path=path, fix="Is it still there?") from error
    key = digest.hexdigest()[:_KEY_DIGITS]
    if tells:
        return key
    whole = hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()
    return f"{key}-{whole[:_WHOLE_DIGITS]}"


def _is_telling(start: bytes, uid: str) -> bool:
    """Whether files of this type, detected by its start, always differ between patients at an end.

    DICOM files have UIDs, unless these were emptied; others end with a checksum, or with compressed
    voxels, so that each depends on those before it.
    """
    if start[128:132] == b"DICM":
        return bool(uid)
    return start.startswith((b"\x1f\x8b", b"\x89PNG", b"\xff\xd8\xff"))


def model_key(model: ScoringModel) -> str:
    """Identify a model by its content; one that was never saved, by its name."""
    sha = model.sha256 or hashlib.sha256(model.name.encode()).hexdigest()
    return sha[:_MODEL_DIGITS]


@dataclass(frozen=True)
class Marks:
    """A reader's verdicts on findings, and manual edits of the mask."""

    marks: tuple[Mark, ...] = ()
    strokes: Strokes = field(default_factory=Strokes)


@dataclass(frozen=True)
class Record:
    """What is known about a scan without reading its scores.

    Parameters
    ----------
    reading : {"unread", "seen", "done"}
        The reader's progress with the scan, whatever the model.
    done : int
        Number of slices scored or found empty.
    summary : Summary or None
        None until all are scored.
    failure : str
        Why the last attempt failed: a sentence without the file's name; "" if it did not.
    """

    reading: Reading = "unread"
    done: int = 0
    summary: Summary | None = None
    failure: str = ""


class _File(BaseModel):
    """What each JSON file has."""

    format: Literal[1]


class _ReadingFile(_File):
    reading: Reading


class _ScoresFile(_File):
    done: Annotated[int, Field(ge=0)]
    summary: Summary | None = None


class _FailureFile(_File):
    reason: str


class _MarkedVoxels(BaseModel):
    status: Status
    comment: str
    runs: list[int]


class _RefinedVoxels(BaseModel):
    kept: list[int]
    added: list[int]
    removed: list[int]


class _MarksFile(_File):
    marks: list[_MarkedVoxels] = []
    painted: list[int] = []
    erased: list[int] = []
    refined: list[_RefinedVoxels] = []


File = TypeVar("File", bound=_File)


class WorklistStore:
    """Reads and writes the files.

    Parameters
    ----------
    folder : Path
        Folder of the files; created when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, scan: str, name: str) -> Path:
        folder = self.folder / scan
        earlier = self.folder / scan.partition("-")[0]
        if len(scan) == _LONG_KEY and not folder.exists() and earlier.exists():
            self._take_over(earlier, folder)
        return folder / name

    def _take_over(self, earlier: Path, folder: Path) -> None:
        """Adopt what an earlier version, which hashed only the ends of files, stored for a scan.

        Not if that version met another scan with the same hash: then it is unknown whose it is.
        """
        if not earlier.with_name(f"{earlier.name}-2").exists():
            with suppress(OSError):  # another window was faster
                earlier.rename(folder)

    def hold(self, scan: str) -> AbstractContextManager[None]:
        """Reserve a scan's files for this window within a context.

        Raises
        ------
        InUseError
            If another window has reserved them.
        """
        self._path(scan, "")
        return _held(self.folder / scan)

    # ------------------------------------------------------------------ the reader's work

    def save_reading(self, scan: str, reading: Reading) -> None:
        """Store the reader's progress."""
        self._write(scan, "reading.json", {"reading": reading})

    def see(self, scan: str) -> Reading:
        """Store that the reader has seen a scan, unless it is done; returns what is stored."""
        known = self._read(scan, "reading.json", _ReadingFile)
        if known is not None and known.reading != "unread":
            return known.reading
        self.save_reading(scan, "seen")
        return "seen"

    def save_marks(self, scan: str, model: str, kept: Marks) -> None:
        """Store verdicts on findings, and manual edits."""
        marks = [
            {"status": mark.status, "comment": mark.comment, "runs": _runs(mark.voxels)}
            for mark in kept.marks
        ]
        strokes = {name: _runs(getattr(kept.strokes, name)) for name in ("painted", "erased")}
        refined = [
            {"kept": _runs(one.kept), "added": _runs(one.added), "removed": _runs(one.removed)}
            for one in kept.strokes.refined
        ]
        found = {"marks": marks, **strokes, "refined": refined}
        self._write(scan, f"{model}.marks.json", found)

    def load_marks(self, scan: str, model: str, shape: Sequence[int]) -> Marks:
        """Return the verdicts on a grid of this shape; none if it does not match."""
        found = self._read(scan, f"{model}.marks.json", _MarksFile)
        if found is None:
            return Marks()
        size = int(np.prod(shape))
        try:
            marks = tuple(Mark(_voxels(m.runs, size), m.status, m.comment) for m in found.marks)
            painted, erased = (_voxels(runs, size) for runs in (found.painted, found.erased))
            refined = tuple(
                Refined(*(_voxels(runs, size) for runs in (one.kept, one.added, one.removed)))
                for one in found.refined
            )
        except (ValueError, OverflowError):
            return Marks()
        return Marks(marks, Strokes(painted, erased, refined))

    # ------------------------------------------------------------------ the model's work

    def record(self, scan: str, model: str) -> Record:
        """Return the progress of reader and model."""
        there = self._path(scan, f"{model}.npz").is_file()
        reading = self._read(scan, "reading.json", _ReadingFile)
        scored = self._read(scan, f"{model}.json", _ScoresFile) if there else None
        failed = self._read(scan, f"{model}.failed.json", _FailureFile)
        summary = None if scored is None else scored.summary
        return Record(
            reading="unread" if reading is None else reading.reading,
            done=0 if scored is None else scored.done,
            summary=summary,
            # A scan scored later is no longer a failure.
            failure="" if failed is None or summary is not None else failed.reason,
        )

    def save_failure(self, scan: str, model: str, reason: str) -> None:
        """Store why a scan could not be read or scored: a sentence that names no file."""
        self._write(scan, f"{model}.failed.json", {"reason": reason})

    def forget_failure(self, scan: str, model: str) -> None:
        """Remove a stored failure, so that the scan is tried again (`StorageError`)."""
        try:
            self._path(scan, f"{model}.failed.json").unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, self.folder) from error

    def save_scores(
        self, scan: str, model: str, scores: ScanScores, summary: Summary | None = None
    ) -> None:
        """Store scores, and their summary if they are complete.

        The scores first: a summary must never exist without its scores.
        """
        path, scores = self._path(scan, f"{model}.npz"), scores.counting_unseen(True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                format=np.array(FORMAT),
                nll=scores.nll,
                visited=scores.visited,
                image_scores=scores.image_scores,
                unfamiliarity=scores.unfamiliarity,
            )
        self.save_summary(scan, model, int(scores.visited.sum()), summary)

    def save_summary(self, scan: str, model: str, done: int, summary: Summary | None) -> None:
        """Store the summary of the scores."""
        kept = None if summary is None else asdict(summary)
        self._write(scan, f"{model}.json", {"done": done, "summary": kept})

    def load_scores(self, scan: str, model: str, geometry: Geometry) -> ScanScores | None:
        """Scores of a scan on its grid; None if there are none that match."""
        path = self._path(scan, f"{model}.npz")
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
                if int(kept["format"]) != FORMAT:
                    return None
                found = ScanScores(
                    np.ascontiguousarray(kept["nll"], np.float32),
                    geometry,
                    np.asarray(kept["visited"], bool),
                    np.asarray(kept["image_scores"], np.float32),
                    unfamiliarity=_unfamiliarity(kept, geometry.slice_count),
                )
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
            return None
        shapes = (found.nll.shape, found.visited.shape, found.image_scores.shape)
        count = (geometry.slice_count,)
        return found if shapes == (geometry.shape, count, count) else None

    # ------------------------------------------------------------------ files

    def _write(self, scan: str, name: str, value: dict[str, Any]) -> None:
        try:
            atomic_write_json(self._path(scan, name), {"format": FORMAT, **value})
        except OSError as error:
            raise storage_error(error, self.folder) from error

    def _read(self, scan: str, name: str, kind: type[File]) -> File | None:
        try:
            return parse_json(self._path(scan, name).read_bytes(), kind)
        except (OSError, ValueError):
            return None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except InUseError as error:
            raise InUseError(
                "this scan is open, or being scored, in another window",
                fix="Close it there first",
            ) from error
        except StorageError:
            pass  # then nothing is stored, which every attempt to store reports
        yield


def _unfamiliarity(kept: Mapping[str, Any], count: int) -> npt.NDArray[np.float32]:
    """`ScanScores.unfamiliarity`, which earlier versions did not store."""
    found = kept.get("unfamiliarity", np.empty(0))
    if found.shape not in ((0,), (count,)):
        raise ValueError(f"{found.shape} numbers for {count} slices")
    return np.asarray(found, np.float32)


def _runs(voxels: npt.NDArray[np.int64]) -> list[int]:
    """Encode rising indices as first, count, first, count, ..."""
    if not len(voxels):
        return []
    breaks = np.flatnonzero(np.diff(voxels) != 1) + 1
    starts = np.concatenate([[0], breaks])
    counts = np.diff(np.concatenate([starts, [len(voxels)]]))
    pairs: list[int] = np.column_stack([voxels[starts], counts]).ravel().tolist()
    return pairs


def _voxels(runs: list[int], size: int) -> npt.NDArray[np.int64]:
    """Inverse of `_runs`; ValueError if an index is outside 0..size - 1."""
    pairs = np.asarray(runs, np.int64).reshape(-1, 2)
    first, count = pairs[:, 0], pairs[:, 1]
    if (first < 0).any() or (count < 1).any() or (count > size - first).any():
        raise ValueError("voxels outside the grid")
    if (first[1:] < first[:-1] + count[:-1]).any():
        raise ValueError("voxels not rising")
    offsets = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.asarray(np.repeat(first, count) + offsets, np.int64)
