"""Workers that write the DICOM objects of a scan's results and send them to an archive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from napari_spatial_ar.archive.incoming import short_hash
from napari_spatial_ar.archive.interface import SentFile
from napari_spatial_ar.archive.results import result_files
from napari_spatial_ar.archive.sending import send
from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.gui.archive.asking import opened
from napari_spatial_ar.imaging.dicom.deidentify import (
    check_nothing_burnt_in,
    need_deidentification,
)
from napari_spatial_ar.imaging.files import atomic_write_json
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.paths import sent_readings_dir
from napari_spatial_ar.review.dicom_objects import (
    DicomObject,
    DicomWritten,
    earlier_reading,
    write_dicom_objects,
)
from napari_spatial_ar.review.results import ScanResults
from napari_spatial_ar.steps import run_until_stopped

__all__ = ["Parcel", "Progress", "Sent", "UnderReview", "send_steps"]


@dataclass(frozen=True)
class Parcel:
    """What to send.

    Parameters
    ----------
    objects : tuple of str
        From `chosen_objects`.
    de_identify : bool
        Whether to remove the patient's identity.
    signed_by : str
        See `write_report`.
    """

    objects: tuple[DicomObject, ...]
    de_identify: bool = False
    signed_by: str = ""


@dataclass(frozen=True)
class UnderReview:
    """A scan under review.

    Parameters
    ----------
    volume, score, model : Scan, ScanScores, ScoringModel
        The scan, its scores and the model that computed them.
    gather : callable
        Computes its results, de-identified or not; called in a worker.
    """

    volume: Scan
    score: ScanScores
    model: ScoringModel
    gather: Callable[[bool], ScanResults]


@dataclass(frozen=True)
class Progress:
    """How far it is: a line, and ``done`` of ``total`` objects; a total of 0 is not known yet."""

    line: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Sent:
    """What became of it: the archive's answers, and what to know about the objects."""

    answers: tuple[SentFile, ...]
    warnings: tuple[str, ...]


def send_steps(
    stop: threading.Event, place: str, reviewed: UnderReview, parcel: Parcel
) -> Generator[Progress, None, Sent | None]:
    """Write the objects into a temporary folder, and send them; yields `Progress`.

    The same results have the same UIDs and are sent once. If others of this scan were sent from
    this machine before, the new ones supersede them.

    Returns
    -------
    Sent or None
        None if it was stopped.

    Raises
    ------
    InputError
        If nothing can be written for this scan.
    ArchiveError
        If the archive cannot be reached, or fails.
    """
    yield Progress("Writing the DICOM objects...")
    with TemporaryDirectory(prefix="napari-spatial-ar-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        record = _record_of(reviewed.volume, parcel.de_identify)
        written = _written(folder, reviewed, parcel, record)
        files = result_files(folder)
        if not files:
            raise InputError(" ".join(written.warnings) or "there is nothing to send")
        if stop.is_set():
            return None
        yield Progress(f"Sending to {place}...", 0, len(files))
        noted = record is None
        with opened(stop, place) as archive:
            steps = run_until_stopped(stop, send(archive, files))
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    answers = end.value
                    break
                if step.done and not noted:
                    noted = True
                    _note(record, written)
                line = f"Sending to {place}: {step.done} of {step.total}..."
                yield Progress(line, step.done, step.total)
        if answers is None:
            return None
        if not noted and any(answer.state != "refused" for answer in answers):
            _note(record, written)
    return Sent(answers, written.warnings)


def _written(
    folder: Path, reviewed: UnderReview, parcel: Parcel, record: Path | None
) -> DicomWritten:
    if parcel.de_identify:
        need_deidentification()
        check_nothing_burnt_in(reviewed.volume.series.files)
    scores = reviewed.score.counting_unseen(True).nll  # all that was measured
    return write_dicom_objects(
        folder,
        reviewed.gather(parcel.de_identify),
        reviewed.model,
        np.asarray(scores, np.float32),
        objects=parcel.objects,
        earlier=None if record is None else earlier_reading(record),
        signed_by=parcel.signed_by,
    )


def _record_of(volume: Scan, de_identify: bool) -> Path | None:
    """File that notes which reading of a scan was sent last; None if its series is not known."""
    uid = volume.series.uid
    if not uid:
        return None
    kind = "research" if de_identify else "clinical"
    return sent_readings_dir() / f"{short_hash(uid, str(volume.geometry.shape), kind)}.json"


def _note(record: Path | None, written: DicomWritten) -> None:
    if record is not None and written.record is not None:
        with suppress(StorageError):  # the next reading is then merely the first again
            record.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_json(record, {"dicom": written.record})
