"""The files written for a scored scan; DICOM objects, images and more on request."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging.dicom.deidentify import (
    check_nothing_burnt_in,
    need_deidentification,
)
from napari_spatial_ar.imaging.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    locked,
    storage_error,
    work_folder,
)
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.segments import (
    UNEVEN_SLICES,
    write_label_descriptions,
    write_seg_nrrd,
)
from napari_spatial_ar.json_schemas import ProvenanceFile, stamped
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.contents import findings_content, mask_content, scores_content
from napari_spatial_ar.review.dicom_objects import (
    DICOM_FILES,
    MORE_DICOM_FILES,
    chosen_objects,
    earlier_reading,
    write_dicom_objects,
)
from napari_spatial_ar.review.drawing import write_png
from napari_spatial_ar.review.findings import (
    Finding,
    FindingsList,
    write_findings_csv,
    write_findings_json,
)
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.p_values import PValues
from napari_spatial_ar.review.pictures import montage, write_overlays
from napari_spatial_ar.review.report.data import REPORT_FILE, ScanReport, scan_report
from napari_spatial_ar.review.report.html import scan_page
from napari_spatial_ar.review.report.pdf import PDF_FILE, Paper, pdf_of
from napari_spatial_ar.review.results import ScanResults, gather_results

__all__ = [
    "DICOM_FILES",
    "MONTAGE",
    "OUTPUT_FILES",
    "OVERLAYS",
    "REPORT",
    "REPORT_PDF",
    "ScanOutputs",
    "earlier_files",
    "facts_of",
    "finish_interrupted",
    "in_folder",
    "refuse_earlier",
    "scan_folder_name",
    "write_scan_outputs",
]

#: File names by their key in the result of `write_scan_outputs`.
OUTPUT_FILES = {
    "score": "score.nii.gz",
    "nll": "nll.nii.gz",  # the same heatmap under its earlier name, for one more release
    "mask": "mask.nii.gz",
    "findings": "findings.nii.gz",
    "findings_csv": "findings.csv",
    "findings_json": "findings.json",
    "provenance": "provenance.json",
}
MONTAGE = "montage"
_SEGMENT_FILES = {"seg_nrrd": "findings.seg.nrrd", "itksnap": "findings.label"}
OVERLAYS = "overlays"
REPORT = "report"
REPORT_PDF = "report_pdf"
_REPORTS = {REPORT: REPORT_FILE, REPORT_PDF: PDF_FILE}
_OPTIONAL = {
    **{MONTAGE: "montage.png", OVERLAYS: "overlays"},
    **_REPORTS,
    **DICOM_FILES,
    **MORE_DICOM_FILES,
    **_SEGMENT_FILES,
}
# Name of the folder with complete results that are being moved into place.
_READY = ".napari-spatial-ar-ready"


@dataclass(frozen=True)
class ScanOutputs:
    """The files written for a scan.

    Parameters
    ----------
    files : dict of str to Path
        Keys as in `OUTPUT_FILES`, and on request ``"montage"``, ``"overlays"`` (a folder) and
        those of `DICOM_FILES` and `MORE_DICOM_FILES`.
    findings : tuple of Finding
        Highest peak first, including rejected ones (label 0).
    mask : (Z, Y, X) uint8
        The mask as written.
    warnings : tuple of str
        Why a requested file is missing, or what to know about it.
    p_values : PValues or None
        None if the model was calibrated without them.
    shift_warnings : tuple of str
        Warnings about a domain shift, and about slices that the model has not seen.
    report : ScanReport or None
        Contents of ``report.html`` and ``report.pdf``, if one was written.
    summary : dict
        Summary of the results, as printed by ``score``; ``files`` by their names in the folder.
    """

    files: dict[str, Path]
    findings: tuple[Finding, ...]
    mask: npt.NDArray[np.uint8] = field(repr=False)
    warnings: tuple[str, ...] = ()
    p_values: PValues | None = None
    shift_warnings: tuple[str, ...] = ()
    report: ScanReport | None = field(default=None, repr=False)
    summary: dict[str, Any] = field(default_factory=dict, repr=False)


def scan_folder_name(volume: Scan, taken: Collection[str] = ()) -> str:
    """Folder name for a scan's outputs, from the series label, which contains no patient name.

    Parameters
    ----------
    volume : Scan
        The scan.
    taken : collection of str
        Names in use: a number is added until the name is unique.

    Returns
    -------
    str
        Lower-case letters, digits and hyphens, such as ``"mr-series-4"``.
    """
    name = re.sub(r"[^a-z0-9]+", "-", volume.series.label.lower()).strip("-")[:60] or "scan"
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def write_scan_outputs(
    out_dir: str | Path,
    volume: Scan,
    score: ScanScores,
    model: ScoringModel,
    *,
    threshold: float,
    fpr: float | None = None,
    settings: MaskSettings | None = None,
    region: npt.NDArray[np.bool_] | None = None,
    mask: npt.NDArray[np.bool_ | np.uint8] | None = None,
    reviewed: FindingsList | None = None,
    keep_uids: bool = False,
    overwrite: bool = False,
    montage_too: bool = False,
    dicom: bool | Collection[str] = False,
    signed_by: str = "",
    de_identify: bool = False,
    png: bool = False,
    png_heat: bool = False,
    report: bool = False,
    pdf: Paper | None = None,
    seg_nrrd: bool = False,
    itksnap: bool = False,
    shift: DomainShift | None = None,
    run: Mapping[str, str] | None = None,
) -> ScanOutputs:
    """Write scores, mask, findings and provenance of one scan into one folder.

    The folder is locked meanwhile. Everything is written into a hidden folder in it and moved into
    place at the end, the record last. Files of an earlier run are set aside before that and
    restored if a move fails; if the process is killed in between, whoever writes to the folder next
    completes the moves. So it contains one run's files or the other's; other files in it are left
    alone.

    Memory: scores and mask are held in memory, 5 bytes a voxel, and each while it is written up to
    3 times more; the scan itself is read slice by slice if it is large.

    Parameters
    ----------
    out_dir : path-like
        The scan's own folder; created if it does not exist.
    volume, score, model : Scan, ScanScores, NormativeModel
        The scan, its scores and the model that computed them.
    threshold : float
        In the model's unit.
    fpr : float or None
        Share of normal tissue that the threshold flags, for the record.
    settings, region : MaskSettings, (Z, Y, X) bool, optional
        As for `make_mask`.
    mask : (Z, Y, X) integer, optional
        The mask to write instead of the thresholded one: one that a person edited.
    reviewed : FindingsList, optional
        A person's verdicts on the findings of the mask. Rejected ones are excluded from masks and
        images and stay in the tables, marked as rejected, with label 0.
    keep_uids : bool
        As for `provenance`.
    overwrite : bool
        Replace files of an earlier run.
    montage_too : bool
        Also write ``montage.png``, a figure of the highest-scoring slices.
    dicom : bool or collection of {"seg", "pm", "sr", "capture", "gsps"}
        Also write DICOM objects for a scan that came from DICOM; for any other, ``warnings`` state
        the reason. True means "seg" and "pm". "seg": ``mask.dcm`` (a segmentation) and
        ``findings.dcm`` (another, with a segment for each finding, if there are any). "pm":
        ``nll.dcm``, a parametric map of the scores. "sr": ``report.dcm``, a structured report of
        the findings; it brings "seg", to which it refers. "capture": the folder ``captures``, the
        flagged slices with outlines burnt in. "gsps": ``outlines.dcm``, outlines that a viewer
        draws. They contain the patient's identity, copied from the scan, by which a PACS files
        them: they are not anonymous. In place of an earlier result that found something else, they
        are another reading that supersedes it, see `write_dicom_objects`.
    signed_by : str
        Name of the person who signed the structured report, "" if nobody did.
    de_identify : bool
        Remove the patient's identity from DICOM objects (see `deidentified`), and replace UIDs
        consistently in all files. Excludes ``keep_uids``.
    png : bool
        Also write the folder ``overlays``: images of the slices that the mask touches with its
        outline, or of the highest-scoring ones if it is empty.
    png_heat : bool
        Overlay the scores on these images.
    report : bool
        Also write ``report.html``, see `napari_spatial_ar.review.report.data`.
    pdf : {"A4", "Letter"}, optional
        Also write it as ``report.pdf``, on this paper; see `need_pdf`.
    seg_nrrd : bool
        Also write ``findings.seg.nrrd``, the findings with names and colours for 3D Slicer; not
        for unevenly spaced slices, which the format cannot represent: see ``warnings``.
    itksnap : bool
        Also write ``findings.label``, the same names and colours for ITK-SNAP.
    shift : DomainShift, optional
        How the scan compares with the model's training scans, if that was checked. Differences are
        in ``shift_warnings`` and in the record, and so is a share of flagged tissue that is
        implausible within the training domain.
    run : mapping, optional
        Identifies scan, settings and command, for the record.

    Returns
    -------
    ScanOutputs
        ``score.nii.gz`` is float32 (in the model's unit, 0 in slices not scored; slices that
        are left out of the findings, because they are unlike the training slices, keep theirs) and
        ``mask.nii.gz`` uint8; ``findings.nii.gz`` has the rank of each finding in its voxels. All
        are on the scan's own grid. ``nll.nii.gz`` is the same file as ``score.nii.gz``, which is a
        negative log-likelihood only if the method is Spatial AR: the header states what it is.

    Raises
    ------
    InputError
        If there is no DICOM object of a name, the scan cannot be de-identified, the folder has
        results and ``overwrite`` is False, or is a file, or another process writes to it, or the
        mask does not match.
    StorageError
        If the disk is full or write-protected.
    """
    out_dir = Path(out_dir)
    objects = chosen_objects(dicom)
    if de_identify:
        if keep_uids:
            raise InputError("UIDs cannot be kept in de-identified results")
        if objects:
            need_deidentification()
        check_nothing_burnt_in(volume.series.files)
    with locked(out_dir):
        finish_interrupted(out_dir)
        if not overwrite:
            refuse_earlier(out_dir)
        earlier = earlier_reading(out_dir / OUTPUT_FILES["provenance"])
        results = gather_results(
            volume,
            score,
            model,
            threshold=threshold,
            fpr=fpr,
            settings=settings,
            region=region,
            mask=mask,
            reviewed=reviewed,
            keep_uids=keep_uids,
            de_identify=de_identify,
            shift=shift,
        )
        final, findings, record, unit = (
            results.mask,
            results.findings,
            results.record,
            results.unit,
        )
        score = results.score
        listed, more, geometry = results.listed, results.more, volume.geometry
        warnings: tuple[str, ...] = ()
        written_up: ScanReport | None = None
        with work_folder(out_dir) as hidden:
            work = hidden / "results"
            try:
                made = {key: work / name for key, name in OUTPUT_FILES.items()}
                like = _nifti_source(volume)
                # All that was measured; only masks and findings leave out unseen slices.
                whole = score.counting_unseen(True)
                heat = np.asarray(whole.nll, np.float32)
                content = scores_content(unit, model.name)
                write_nifti(made["score"], heat, geometry, like=like, content=content)
                _write_again(made["score"], made["nll"])
                content = mask_content(model.name)
                write_nifti(made["mask"], final, geometry, like=like, content=content)
                numbers, segments = listed.numbered(geometry.shape), results.kept_segments
                content = findings_content(model.name)
                write_nifti(made["findings"], numbers, geometry, like=like, content=content)
                write_findings_csv(made["findings_csv"], findings, more, unit=unit)
                write_findings_json(
                    made["findings_json"], findings, record["p_values"], unit=unit, more=more
                )
                # A scan without a known slice is shown all the same.
                drawn = score if score.scored.any() else whole
                if montage_too:
                    picture = montage(
                        volume,
                        drawn.nll,
                        drawn.image_scores,
                        final,
                        threshold=threshold,
                        fpr=fpr,
                        unit=unit,
                        title=f"{volume.series.label}, model {model.name}",
                    )
                    made[MONTAGE] = work / _OPTIONAL[MONTAGE]
                    write_png(made[MONTAGE], picture)
                if png:
                    made[OVERLAYS] = work / _OPTIONAL[OVERLAYS]
                    scores = drawn.nll, drawn.image_scores, final
                    write_overlays(
                        made[OVERLAYS], volume, *scores, threshold=threshold, heat=png_heat
                    )
                # Without new objects, the earlier ones are still those to be superseded.
                record["dicom"] = None if de_identify or earlier is None else asdict(earlier)
                if objects:
                    written = write_dicom_objects(
                        work,
                        results,
                        model,
                        heat,
                        objects=objects,
                        earlier=earlier,
                        signed_by=signed_by,
                    )
                    made |= written.files
                    warnings += written.warnings
                    record["dicom"] = written.record or record["dicom"]
                if itksnap:
                    made["itksnap"] = work / _SEGMENT_FILES["itksnap"]
                    write_label_descriptions(made["itksnap"], segments)
                if seg_nrrd and geometry.slice_positions is not None:
                    warnings += (f"No .seg.nrrd was written: {UNEVEN_SLICES}.",)
                elif seg_nrrd:
                    made["seg_nrrd"] = work / _SEGMENT_FILES["seg_nrrd"]
                    write_seg_nrrd(made["seg_nrrd"], numbers, geometry, segments)
                if report or pdf:
                    written_up = scan_report(results, model, warnings=warnings)
                    page = scan_page(written_up)
                if report:
                    made[REPORT] = work / _OPTIONAL[REPORT]
                    atomic_write_text(made[REPORT], page)
                if pdf:
                    made[REPORT_PDF] = work / _OPTIONAL[REPORT_PDF]
                    atomic_write_bytes(made[REPORT_PDF], pdf_of(page, paper=pdf))
                summary = _summary(results, model, shift, warnings)
                summary["files"] = {key: path.name for key, path in made.items()}
                record |= {"summary": summary, "files": _facts_under(work)}
                if run is not None:
                    record["run"] = {
                        **run,
                        "image_scores": [float(value) for value in whole.image_scores],
                        "unfamiliarity": [float(value) for value in whole.unfamiliarity],
                    }
                atomic_write_json(made["provenance"], stamped(ProvenanceFile, record))
                # From here on the new results remain, whatever happens to this process.
                os.replace(work, out_dir / _READY)
                finish_interrupted(out_dir)
            except OSError as error:
                raise storage_error(error, out_dir) from error
            except StorageError as error:
                # Without the hidden folder's name, which users do not know.
                raise StorageError(error.what, path=out_dir, fix=error.fix) from error
    files = {key: out_dir / path.name for key, path in made.items()}
    return ScanOutputs(
        files,
        findings,
        final,
        warnings,
        results.p_values,
        results.shift_warnings,
        written_up,
        summary,
    )


def _summary(
    results: ScanResults,
    model: ScoringModel,
    shift: DomainShift | None,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Summarise the results of a scan, without file names and patient data."""
    scores, found = results.score.image_scores, results.p_values
    any_scored = bool(results.score.scored.any())
    return {
        "series": results.volume.series.label,
        "slices_scored": int(np.count_nonzero(results.score.scored)),
        "unseen_slices": np.flatnonzero(results.score.unseen).tolist(),
        "highest_slice": int(np.nanargmax(scores)) if any_scored else None,
        "highest_image_score": float(np.nanmax(scores)) if any_scored else None,
        "unit": results.unit,
        "p_value": found.scan if found else None,
        "p_value_patients": found.patients if found else None,
        "findings": len(results.findings),
        "flagged_voxels": int(np.count_nonzero(results.mask)),
        "unlike": list(shift.reasons) if shift else [],
        "warnings": [
            *results.shift_warnings,
            *results.volume.warnings,
            *warnings,
            *model.notes,
        ],
    }


def in_folder(summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the ``summary`` of a record with the folder and the paths of its files."""
    files = {key: str(folder / name) for key, name in summary["files"].items()}
    return {**summary, "folder": str(folder), "files": files}


def facts_of(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, to verify later that it is unchanged."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": sha256}


def _facts_under(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): facts_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refuse_earlier(folder: Path) -> None:
    """Refuse a folder that has results (`InputError`)."""
    if earlier_files(folder):
        raise InputError(
            "results of an earlier run are in this folder",
            path=folder,
            fix="Choose another folder, or overwrite them",
        )


def earlier_files(folder: Path) -> list[Path]:
    """List the files of an earlier run in a folder."""
    # The record first: without it, the others do not count as a run's results.
    names = (OUTPUT_FILES["provenance"], *OUTPUT_FILES.values(), *_OPTIONAL.values())
    return [folder / name for name in dict.fromkeys(names) if os.path.exists(folder / name)]


def finish_interrupted(folder: Path) -> None:
    """Move complete results to where they belong.

    They are those just written by this process, or by one that was killed while it moved them.
    Files of an earlier run are removed; if a move fails, everything is as before (OSError).

    Parameters
    ----------
    folder : Path
        Locked by this process.
    """
    ready, record = folder / _READY, OUTPUT_FILES["provenance"]
    if not ready.is_dir():
        return
    moved: list[tuple[Path, Path]] = []
    with work_folder(folder) as aside:
        try:
            new = _listed(ready / record)
            if new:  # the record is last: without it, everything is in place
                for old in earlier_files(folder):
                    if old.name not in new or (ready / old.name).exists():
                        os.replace(old, aside / old.name)
                        moved.append((aside / old.name, old))
                for name in (*sorted(new), record):
                    if (ready / name).exists():
                        os.replace(ready / name, folder / name)
                        moved.append((folder / name, ready / name))
        except OSError:
            for now, before in reversed(moved):
                os.replace(now, before)
            raise
        finally:
            # In one step: a partial folder would be mistaken for files still to be moved.
            os.replace(ready, aside / _READY)


@dataclass(frozen=True)
class _Record:
    """The part of ``provenance.json`` that lists the files it was written with."""

    files: dict[str, Any]


def _listed(record: Path) -> set[str]:
    """Names of the files and folders that belong to a record; none without a record."""
    try:
        files = parse_json(record.read_bytes(), _Record).files
        return {PurePosixPath(name).parts[0] for name in files}
    except (OSError, ValueError, IndexError):
        return set()


def _write_again(path: Path, other: Path) -> None:
    """Create a hard link to a file, or a copy if the file system has no hard links."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


def _nifti_source(volume: Scan) -> Path | None:
    path = volume.path
    if path is None or not path.name.lower().endswith((".nii", ".nii.gz")):
        return None
    return path if path.is_file() else None
