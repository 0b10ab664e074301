"""The report of a folder, written while its scans are scored, or from a worklist's store."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_bytes, atomic_write_text
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.findings import list_findings
from napari_spatial_ar.review.masks import MaskSettings, make_mask
from napari_spatial_ar.review.report.data import (
    IN_A_FOLDER,
    REPORT_FILE,
    FolderEntry,
    FolderReport,
    ScanReport,
    report_message,
    report_steps,
    scan_report,
)
from napari_spatial_ar.review.report.html import folder_page
from napari_spatial_ar.review.report.pdf import PDF_FILE, Paper, pdf_of
from napari_spatial_ar.review.results import gather_results
from napari_spatial_ar.review.worklist.entries import Entry
from napari_spatial_ar.review.worklist.scoring import MaskRule
from napari_spatial_ar.review.worklist.store import WorklistStore, model_key
from napari_spatial_ar.steps import mapped

__all__ = ["FolderReports", "kept_report", "worklist_steps"]


class FolderReports:
    """Collects the reports on the scans of a run.

    Parameters
    ----------
    folder : Path
        Folder for the reports.
    overwrite : bool
        Replace those of an earlier run.
    html : bool
        Write ``report.html``.
    pdf : {"A4", "Letter"}, optional
        Write ``report.pdf`` on this paper.

    Raises
    ------
    InputError
        If there is one and ``overwrite`` is False.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overwrite: bool = False,
        html: bool = True,
        pdf: Paper | None = None,
    ) -> None:
        self.entries: list[FolderEntry] = []
        self._html = folder / REPORT_FILE if html else None
        self._pdf = folder / PDF_FILE if pdf else None
        self._paper: Paper = pdf or "A4"
        if not overwrite and any(p is not None and p.exists() for p in (self._html, self._pdf)):
            raise InputError(
                "a report of an earlier run is in this folder",
                path=folder,
                fix="Choose another folder, or overwrite it",
            )

    def add(self, report: ScanReport) -> None:
        """Add a scan."""
        self.entries.append(FolderEntry(report.title, report.shortened()))

    def fail(self, error: Exception, number: int, name: str = "") -> None:
        """Add a scan that could not be read or scored.

        Parameters
        ----------
        error : Exception
            The reason.
        number : int
            Number of the input in which it was found, from 0.
        name : str
            Name that its folder would have had; "" if only its file has a name, which may contain
            a patient's.
        """
        label = f"Input {number + 1}" + (f", {name}" if name else "")
        self.entries.append(FolderEntry(label, trouble=report_message(error)))

    def write(self, left_out: Sequence[str] = ()) -> dict[str, str]:
        """Write the requested files, each completely or not at all, and return their paths.

        Returns
        -------
        dict of str to str
            "report" and "report_pdf": those that were requested.

        Raises
        ------
        StorageError
            If one could not be written.
        """
        page = folder_page(FolderReport(tuple(self.entries), tuple(left_out)))
        written = {}
        if self._html is not None:
            atomic_write_text(self._html, page)
            written["report"] = str(self._html)
        if self._pdf is not None:
            atomic_write_bytes(self._pdf, pdf_of(page, paper=self._paper))
            written["report_pdf"] = str(self._pdf)
        return written


def kept_report(
    provenance: Mapping[str, Any],
    nll: Path,
    volume: Scan,
    model: ScoringModel,
    *,
    threshold: float,
    fpr: float | None,
    settings: MaskSettings | None,
) -> ScanReport:
    """Compile the report on results that `score` wrote earlier, without scoring again.

    Parameters
    ----------
    provenance : mapping
        Their ``provenance.json``.
    nll : Path
        Their heatmap.
    volume, model : Scan, NormativeModel
        The scan, with the slices that were scored, and the model.
    threshold, fpr, settings
        Those of the results.

    Raises
    ------
    InputError
        If the results are damaged.
    """
    geometry = volume.geometry
    try:
        found = np.asarray(nib.load(nll).dataobj, np.float32).T  # type: ignore[attr-defined]
        image_scores = np.array(provenance["run"]["image_scores"], np.float32)
        strange = np.array(provenance["run"].get("unfamiliarity", []), np.float32)
        warnings = tuple(map(str, provenance["summary"]["warnings"]))
    except (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error) as error:
        raise InputError("can no longer be read", path=nll, fix="Score it again") from error
    count = geometry.slice_count
    on_grid = found.shape == geometry.shape and image_scores.shape == (count,)
    if not on_grid or strange.shape not in ((0,), (count,)):
        raise InputError("is not on the grid of its scan", path=nll, fix="Score it again")
    score = ScanScores(
        np.array(found), geometry, np.ones(count, bool), image_scores, unfamiliarity=strange
    )
    results = gather_results(volume, score, model, threshold=threshold, fpr=fpr, settings=settings)
    # Warnings from that time, including the domain shift, which needs the backbone.
    return replace(
        scan_report(results, model), record=provenance, warnings=tuple(dict.fromkeys(warnings))
    )


def worklist_steps(
    listed: Sequence[tuple[Entry, Scan | None]],
    model: ScoringModel,
    store: WorklistStore,
    rule: MaskRule,
    *,
    fpr: float | None = None,
) -> Generator[int, None, FolderReport]:
    """Compile the report of a worklist from its store, with one scan in memory at a time.

    Parameters
    ----------
    listed : sequence of (Entry, Scan or None)
        The scans; None for a file without a scan.
    model : NormativeModel
        The model that scored them.
    store : WorklistStore
        Where scores, status, comments and manual edits are stored.
    rule : MaskRule
        Defines findings; its threshold is known.
    fpr : float, optional
        Share of normal tissue that the threshold flags.

    Yields
    ------
    int
        Scans done, several times for each; stop iterating to cancel.
    """
    entries = []
    for done, (entry, scan) in enumerate(listed):
        yield done
        if scan is None or entry.state == "failed":
            why = entry.reason or "It could not be read or scored."
            entries.append(FolderEntry(entry.label, None, why, entry.reading))
            continue
        try:
            report = yield from _kept_steps(done, entry, scan, model, store, rule, fpr)
        except InputError as error:
            entries.append(FolderEntry(entry.label, None, report_message(error), entry.reading))
            continue
        why = "" if report else f"{entry.done} of {entry.slices} slices are scored so far."
        entries.append(FolderEntry(entry.label, report, why, entry.reading))
    yield len(listed)
    return FolderReport(tuple(entries))


def _kept_steps(
    done: int,
    entry: Entry,
    scan: Scan,
    model: ScoringModel,
    store: WorklistStore,
    rule: MaskRule,
    fpr: float | None,
) -> Generator[int, None, ScanReport | None]:
    """Compile the report of a scan if all its scores are stored; else None."""
    if entry.state != "scored" or rule.threshold is None:
        return None
    volume, by = scan.read().along(model.plane), model_key(model)
    geometry = volume.geometry
    scores = store.load_scores(entry.key, by, geometry)
    if scores is None or scores.left:
        return None
    yield done
    kept, settings = store.load_marks(entry.key, by, geometry.shape), rule.settings_for(geometry)
    scores.count_unseen(settings.unseen_slices)
    body = Body(volume, model)
    computed = make_mask(
        scores.nll,
        rule.threshold,
        settings,
        geometry=geometry,
        scored=scores.scored,
        body=body.whole(scores.scored) if settings.body_only else None,
    )
    mask = kept.strokes.apply(computed)
    reviewed = list_findings(
        mask,
        scores.nll,
        geometry,
        model=model,
        body=body.largest(scores.scored),
        marks=kept.marks,
        refined=kept.strokes.refined,
    )
    results = gather_results(
        volume,
        scores,
        model,
        threshold=rule.threshold,
        fpr=fpr,
        settings=settings,
        mask=mask,
        reviewed=reviewed,
        shift=(yield from _domain_shift_steps(done, model, volume)),
    )
    steps = report_steps(results, model, most=IN_A_FOLDER)
    return (yield from mapped(steps, lambda _: done))


def _domain_shift_steps(
    done: int, model: ScoringModel, volume: Scan
) -> Generator[int, None, DomainShift]:
    # Imported only here: it imports torch.
    from napari_spatial_ar.normative.calibration.appearance import domain_shift_steps

    return (yield from mapped(domain_shift_steps(model, volume), lambda _: done))
