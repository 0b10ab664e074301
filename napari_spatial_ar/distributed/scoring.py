"""Score many scans, each once: what a scan needs, what is done with it, what is skipped."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from napari_spatial_ar.datasets.selection import SlicePlane
from napari_spatial_ar.distributed.cluster import Run, here, own_device
from napari_spatial_ar.distributed.ledger import Entry, Ledger
from napari_spatial_ar.distributed.storage import Storage, digests
from napari_spatial_ar.errors import (
    InputError,
    ModelFileError,
    SpatialARError,
    StorageError,
    WeightsError,
)
from napari_spatial_ar.imaging.files import locked
from napari_spatial_ar.imaging.reading import Source, find_sources, scans_in
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.backbones.fastest_engine import choose_engine
from napari_spatial_ar.normative.library import find_model
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.review.batch import Flagging, scans_to_score, score_scan
from napari_spatial_ar.review.earlier import tidy
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import scan_folder_name
from napari_spatial_ar.review.report.pdf import Paper, need_pdf

__all__ = ["ScanTask", "ScoreJob", "score_many", "score_one"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ScanTask:
    """One scan to score. Its text names no file, since schedulers log it.

    Parameters
    ----------
    key : str
        Hash of the locations, sizes and times of the scan's files, and of its index among them:
        unchanged until a file changes.
    folder : str
        For its results; from the series' label and the key, so that it does not depend on what
        else is scored.
    source, number : Source, int
        The files that are read together, and the index of the scan in them.
    """

    key: str
    folder: str
    source: Source = field(repr=False)
    number: int = field(repr=False)

    @classmethod
    def of(cls, scan: Scan, source: Source, number: int) -> ScanTask:
        """Create the task of a scan.

        Raises
        ------
        InputError
            If a file no longer exists.
        """
        digest = hashlib.sha256(str(number).encode())
        for path in source.files:
            try:
                status = path.stat()
            except OSError as error:
                raise InputError("can no longer be read", path=path) from error
            where = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
            digest.update(hashlib.sha256(where.encode(errors="surrogateescape")).digest())
        key = digest.hexdigest()[:32]
        files = tuple(path.resolve() for path in source.files)
        folder = f"{scan_folder_name(scan)}-{key[:12]}"
        return cls(key, folder, Source(source.format, files), number)


@dataclass(frozen=True)
class ScoreJob:
    """What is done with every scan of a run.

    Parameters
    ----------
    model, model_sha256 : str
        File of the model, with the same path on every machine, and its hash.
    out : str
        See `Storage.of`.
    flagging : Flagging
        Threshold, and how the voxels above it become the mask.
    plane, part, montage, keep_uids, dicom, de_identify, png, png_heat, seg_nrrd, itksnap
        See `napari_spatial_ar.review.batch.score_scans`.
    report : bool
        Also write ``report.html`` for each scan.
    pdf : {"A4", "Letter"}, optional
        Also write ``report.pdf`` for each scan, on this paper.
    weights, device : str or None, str
        See `load_model`; on every machine.
    """

    model: str
    model_sha256: str
    out: str
    flagging: Flagging
    plane: SlicePlane | None = None
    part: str | None = None
    montage: bool = True
    keep_uids: bool = False
    dicom: bool | tuple[str, ...] = False
    de_identify: bool = False
    png: bool = False
    png_heat: bool = False
    report: bool = False
    pdf: Paper | None = None
    seg_nrrd: bool = False
    itksnap: bool = False
    weights: str | None = None
    device: str = "auto"

    @property
    def digest(self) -> str:
        """Hash of everything that the results depend on, except the scan."""
        values = asdict(self)
        values["flagging"]["settings"] = self.flagging.settings and self.flagging.settings.to_dict()
        for name in ("model", "out", "weights", "device"):
            del values[name]
        for name in ("part", "report", "pdf", "seg_nrrd", "itksnap", "de_identify"):
            if not values[name]:
                del values[name]  # results finished before there were such files still count
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _model_of(
    path: str, sha256: str, weights: str | None, device: str, part: str | None
) -> NormativeModel:
    model = load_model(path, weights=weights, device=device, part=part)
    if model.sha256 != sha256:
        raise ModelFileError(
            "a worker has another model under this path than the machine that started the run",
            path=path,
            fix="Put the same model there on every machine",
        )
    # Workers on the same machine would disturb each other's measurement.
    choose_engine(model, measure=False)
    return model


def score_one(task: ScanTask, job: ScoreJob) -> Entry:
    """Score a scan, write its results and then its entry in the ledger; returns the entry.

    It may be called again at any time, in any process: finished work is not repeated.

    Raises
    ------
    InputError
        If the scan cannot be used.
    ModelFileError, WeightsError
        If the model cannot be used here.
    StorageError
        If the results cannot be written.
    """
    storage = Storage.of(job.out)
    ledger = Ledger(storage)
    finished = ledger.entry(task.key)
    if finished and finished.job == job.digest and ledger.is_whole(finished):
        return finished
    start = time.perf_counter()
    model = _model_of(job.model, job.model_sha256, job.weights, own_device(job.device), job.part)
    volume = model.cut(scans_in(task.source)[task.number].read(), job.plane)
    with storage.folder(task.folder) as folder:
        record = score_scan(
            volume,
            model,
            folder,
            threshold=job.flagging.threshold,
            fpr=job.flagging.share,
            settings=job.flagging.settings,
            montage=job.montage,
            keep_uids=job.keep_uids,
            dicom=job.dicom,
            de_identify=job.de_identify,
            png=job.png,
            png_heat=job.png_heat,
            report=job.report,
            pdf=job.pdf,
            seg_nrrd=job.seg_nrrd,
            itksnap=job.itksnap,
            overwrite=True,
        )
        files = digests(folder)
    record |= {
        "folder": task.folder,
        "files": {key: f"{task.folder}/{Path(path).name}" for key, path in record["files"].items()},
        "backbone": Path(model.backbone.source).name,
    }
    entry = Entry(
        key=task.key,
        job=job.digest,
        folder=task.folder,
        files=files,
        record=job.flagging.judged(record),
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=round(time.perf_counter() - start, 3),
        process=os.getpid(),
    )
    ledger.add(entry)
    return entry


def score_many(
    inputs: Sequence[Path],
    model: str | Path,
    out: str,
    *,
    run: Run = here,
    fpr: float = 0.01,
    threshold: float | None = None,
    alpha: float | None = None,
    settings: MaskSettings | None = None,
    hysteresis_fpr: float | None = None,
    weights: Path | None = None,
    device: str = "auto",
    every_series: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Score unfinished scans, on a cluster or here, with results in any storage.

    Called again with the same arguments after an interruption, or after some of the scans changed,
    it does the rest.

    Parameters
    ----------
    inputs, model, fpr, threshold, alpha, settings, hysteresis_fpr, weights, device, every_series
        See `napari_spatial_ar.review.batch.score_scans`.
    out : str
        See `Storage.of`.
    run : Run
        Where to run: `here`, or `Cluster.run`.
    overwrite : bool
        Whether to replace results of another model or other settings.
    progress : callable, optional
        Called with ("N scans", scans done, inputs in all as far as they have been read).
    **options
        ``plane``, ``part``, ``montage``, ``keep_uids``, ``dicom``, ``de_identify``, ``png``,
        ``png_heat``, ``report``, ``pdf``, ``seg_nrrd``, ``itksnap``.

    Returns
    -------
    dict
        As for `score_scans`, in the order of the inputs, with ``skipped``: the number of scans
        finished earlier. Folders and files are relative to ``out``.

    Raises
    ------
    SpatialARError
        If the model or the storage cannot be used, another process writes to the same folder
        (`InUseError`; for a URL this is unknown), or no input could be scored.
    """
    if options.get("pdf"):
        need_pdf()
    storage = Storage.of(out)
    if run is not here and not storage.is_shared:
        raise InputError(
            f"{storage.url} is private to each process, so results of a cluster would be lost",
            fix="Choose a location that all of its machines can reach",
        )
    with ExitStack() as held:
        if storage.local is not None:
            held.enter_context(locked(storage.local))
            tidy(storage.local)
        path = find_model(model).resolve()
        loaded = load_model(path, weights=weights, device="cpu", part=options.get("part"))
        flagging = Flagging.of(
            loaded,
            fpr=fpr,
            threshold=threshold,
            alpha=alpha,
            settings=settings,
            hysteresis_fpr=hysteresis_fpr,
        )
        job = ScoreJob(
            str(path),
            loaded.sha256,
            storage.url,
            flagging,
            weights=None if weights is None else str(weights.resolve()),
            device=device,
            **options,
        )
        plan = _Plan(inputs, Ledger(storage), job.digest, every_series, overwrite)
        done: dict[str, Entry] = {}
        for task, outcome in run(score_one, iter(plan), job):
            if isinstance(outcome, Entry):
                done[task.key] = outcome
            elif isinstance(outcome, ModelFileError | WeightsError | StorageError):
                raise outcome  # every other scan would fail in the same way
            else:
                plan.errors.append(outcome)
            if progress is not None:
                count = len(plan.skipped) + len(done)
                progress(f"{count} scans", count + len(plan.errors), plan.total)
        entries = {**plan.skipped, **done}
        records = [
            {"input": str(source), "unit": loaded.unit, **entries[key].record}
            for key, source in plan.inputs_of.items()
            if key in entries
        ]
        if not records:
            raise plan.errors[0]
        return {
            "model": loaded.name,
            "model_sha256": loaded.sha256,
            "backbone": records[0]["backbone"],
            "out": storage.url,
            "threshold": flagging.threshold,
            "unit": loaded.unit,
            "fpr": flagging.share,
            "calibration": flagging.note(loaded),
            "scans": records,
            "skipped": len(plan.skipped),
            "failed": [str(error) for error in plan.errors],
            "left_out": plan.left_out,
        }


class _Plan:
    """Tasks of the unfinished scans, found while others are being scored."""

    def __init__(
        self,
        inputs: Sequence[Path],
        ledger: Ledger,
        job: str,
        every_series: bool,
        overwrite: bool,
    ) -> None:
        self.errors: list[SpatialARError] = []
        self.left_out: list[str] = []
        self.skipped: dict[str, Entry] = {}
        #: Key of a scan: its input, in the order found.
        self.inputs_of: dict[str, Path] = {}
        self._inputs = inputs
        self._ledger = ledger
        self._job = job
        self._every_series = every_series
        self._overwrite = overwrite
        self._ahead = len(inputs)

    @property
    def total(self) -> int:
        """Number of scans found so far; an input not read yet counts as one."""
        return len(self.inputs_of) + len(self.errors) + self._ahead

    def __iter__(self) -> Iterator[ScanTask]:
        for source in self._inputs:
            self._ahead -= 1
            for task in self._tasks(source):
                if task.key in self.inputs_of:
                    continue  # given twice
                self.inputs_of[task.key] = source
                entry = self._ledger.entry(task.key)
                if entry is None:
                    yield task
                elif entry.job == self._job and self._ledger.is_whole(entry):
                    self.skipped[task.key] = entry
                elif entry.job == self._job or self._overwrite:
                    yield task
                else:
                    where = self._ledger.storage.url
                    raise InputError(
                        f"results of another model or other settings are in {where}",
                        fix="Choose another location, or overwrite them",
                    )

    def _tasks(self, source: Path) -> list[ScanTask]:
        found: list[tuple[Scan, ScanTask]] = []
        try:
            sources = find_sources(source)
        except InputError as error:
            self.errors.append(error)
            return []
        for together in sources:
            try:
                scans = scans_in(together)
                found += [(s, ScanTask.of(s, together, n)) for n, s in enumerate(scans)]
            except InputError as error:
                self.errors.append(error)
        wanted = scans_to_score([scan for scan, _ in found], self._every_series, self.left_out)
        chosen = {id(scan) for scan in wanted}
        return [task for scan, task in found if id(scan) in chosen]
