"""Scoring scans one after the other, each into a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.read_ahead import one_ahead
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.selection import AS_ACQUIRED, SlicePlane
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.normative.appearance import likeness as compare
from napari_spatial_ar.normative.engine_choice import settle
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import scan_folder_name, write_scan_outputs
from napari_spatial_ar.review.p_values import share_note
from napari_spatial_ar.review.report import ScanReport
from napari_spatial_ar.review.report_folder import FolderReports
from napari_spatial_ar.review.report_pdf import Paper, need_pdf

__all__ = ["Flagging", "scans_to_score", "score_scan", "score_scans"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Flagging:
    """What is flagged in the scans of one run.

    Parameters
    ----------
    threshold : float
        Of the mask, in the model's unit.
    share : float or None
        Of normal tissue that it flags, as far as the model was calibrated.
    settings : MaskSettings or None
        What becomes of the voxels above it.
    alpha : float or None
        Largest p-value of a scan that is called unusual.
    """

    threshold: float
    share: float | None
    settings: MaskSettings | None
    alpha: float | None

    @classmethod
    def of(
        cls,
        model: NormativeModel,
        *,
        fpr: float,
        threshold: float | None,
        alpha: float | None,
        settings: MaskSettings | None,
        hysteresis_fpr: float | None,
    ) -> Flagging:
        """Find it for a model; the parameters are those of `score_scans`.

        Raises
        ------
        InputError
            If the model's calibration cannot carry what is asked for.
        """
        cut = model.threshold_for_fpr(fpr) if threshold is None else threshold
        calibration = model.header.calibration
        share = calibration.fpr_for_threshold(cut) if calibration else None
        if hysteresis_fpr is not None:
            higher = model.threshold_for_fpr(hysteresis_fpr)
            if higher <= cut:
                raise InputError(
                    f"a hysteresis share of {hysteresis_fpr:g} gives no threshold above the mask's "
                    "own",
                    fix="Choose a share smaller than --fpr",
                )
            settings = replace(settings or MaskSettings(), hysteresis=higher)
        if alpha is not None:
            model.calibration.check_alpha(alpha)
        return cls(cut, share, settings, alpha)

    def judged(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a scan's record with ``unusual``, where a largest p-value was given."""
        if self.alpha is None:
            return record
        p = record["p_value"]
        return {**record, "unusual": None if p is None else p <= self.alpha + 1e-12}

    def note(self, model: NormativeModel) -> str | None:
        """One sentence on what the threshold rests on; None where that was never measured."""
        calibration = model.header.calibration
        return share_note(calibration, self.threshold) if calibration else None


def score_scans(
    inputs: Sequence[Path],
    model: str | Path,
    out: Path,
    *,
    fpr: float = 0.01,
    threshold: float | None = None,
    alpha: float | None = None,
    settings: MaskSettings | None = None,
    hysteresis_fpr: float | None = None,
    montage: bool = True,
    keep_uids: bool = False,
    weights: Path | None = None,
    device: str = "auto",
    dicom: bool = False,
    png: bool = False,
    png_heat: bool = False,
    report: bool = False,
    pdf: Paper | None = None,
    every_series: bool = False,
    plane: SlicePlane | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every scan found in the inputs, reading each while the one before it is scored.

    Parameters
    ----------
    inputs : sequence of Path
        Files or folders; each may hold several series.
    model : str or Path
        See `load_model`.
    out : Path
        Gets one folder a scan, named after its series and never after a patient or a file.
    fpr, threshold
        The mask's threshold: that which flags a share ``fpr`` of normal tissue, or a number in
        the model's unit.
    alpha : float, optional
        Call a scan unusual where its p-value is at most this.
    report : bool
        Also write ``report.html`` of each scan, and one of all of them into ``out``.
    pdf : {"A4", "Letter"}, optional
        Also write ``report.pdf`` in the same way, on this paper.
    hysteresis_fpr : float, optional
        Keep only regions that hold a voxel above the threshold for this smaller share, instead of
        ``settings.hysteresis``.
    settings, montage, keep_uids, dicom, png, png_heat, overwrite
        See `score_scan`.
    plane : {"as-acquired", "axial", "coronal", "sagittal"}, optional
        Slices that the model sees; by default those of the plane it learned from.
    every_series : bool
        Also score localizers and derived series where an input holds an original one.
    weights, device
        See `load_model`.
    progress : callable, optional
        Called with (series label, slices done, slices in all).

    Returns
    -------
    dict
        ``scans``: one record each; ``failed``: one sentence for each input that could not be
        read or scored while others could; ``left_out``: one sentence for each series that was
        not scored for what it is; ``backbone``: where its weights came from; ``engine``: what
        computed it; ``calibration``: one sentence on what the threshold rests on, None where it
        was never measured; ``report``, ``report_pdf``: the reports of all scans, None where none
        was asked for.

    Raises
    ------
    SpatialARError
        If the model cannot be used, its calibration cannot carry ``fpr`` or ``alpha``, a PDF
        cannot be written here, or no input could be scored.
    """
    if pdf:
        need_pdf()
    reports = None
    if report or pdf:
        reports = FolderReports(out, overwrite=overwrite, html=report, pdf=pdf)
    loaded = load_model(model, weights=weights, device=device)
    flagging = Flagging.of(
        loaded,
        fpr=fpr,
        threshold=threshold,
        alpha=alpha,
        settings=settings,
        hysteresis_fpr=hysteresis_fpr,
    )
    settle(loaded)
    scans: list[dict[str, Any]] = []
    errors: list[InputError] = []
    left_out: list[str] = []
    to_read = _volumes(inputs, loaded, plane, every_series, left_out)
    with closing(one_ahead(to_read)) as volumes:
        for source, name, volume in volumes:
            if isinstance(volume, InputError):
                errors.append(volume)
                if reports is not None:
                    reports.fail(volume, inputs.index(source), name)
                continue
            try:
                record = score_scan(
                    volume,
                    loaded,
                    out / name,
                    threshold=flagging.threshold,
                    fpr=flagging.share,
                    settings=flagging.settings,
                    montage=montage,
                    keep_uids=keep_uids,
                    dicom=dicom,
                    png=png,
                    png_heat=png_heat,
                    report=report,
                    pdf=pdf,
                    reported=None if reports is None else reports.add,
                    overwrite=overwrite,
                    progress=progress,
                )
            except InputError as error:
                errors.append(error)
                if reports is not None:
                    reports.fail(error, inputs.index(source), name)
                continue
            finally:
                del volume
            scans.append({"input": str(source), **flagging.judged(record)})
    if not scans:
        raise errors[0]
    written = {} if reports is None else reports.write(left_out)
    return {
        "model": loaded.name,
        "model_sha256": loaded.sha256,
        "backbone": loaded.backbone.source,
        "engine": loaded.backbone.engine,
        "threshold": flagging.threshold,
        "fpr": flagging.share,
        "calibration": flagging.note(loaded),
        "scans": scans,
        "failed": [str(error) for error in errors],
        "left_out": left_out,
        "report": written.get("report"),
        "report_pdf": written.get("report_pdf"),
    }


def _volumes(
    inputs: Sequence[Path],
    model: NormativeModel,
    plane: SlicePlane | None,
    every_series: bool,
    left_out: list[str],
) -> Iterator[tuple[Path, str, Volume | InputError]]:
    """Read the scans to score one by one: input, folder's name, and the scan or what is wrong."""
    taken: set[str] = set()
    for source in inputs:
        try:
            found = find_scans(source)
        except InputError as error:
            yield source, "", error
            continue
        for unread in found.errors:
            yield source, "", unread
        for scan in scans_to_score(found.scans, every_series, left_out):
            name = scan_folder_name(scan, taken)
            taken.add(name)
            try:
                volume = model.cut(scan.read(), plane)
            except InputError as error:
                yield source, name, error
                continue
            yield source, name, volume
            del volume


def scans_to_score(scans: Sequence[Scan], every_series: bool, left_out: list[str]) -> list[Scan]:
    """Choose the original scans of an input, or all where there is none or all are wanted.

    Parameters
    ----------
    scans : sequence of Scan
        What was found in it.
    every_series : bool
        Whether localizers and derived series are scored beside original ones.
    left_out : list of str
        Gets one sentence for each scan that is not.
    """
    original = [scan for scan in scans if scan.role == "original"]
    if every_series or not original:
        return list(scans)
    left_out += [
        f"{scan.series.label} is {'a localizer' if scan.role == 'localizer' else 'derived'} and "
        "was left out."
        for scan in scans
        if scan.role != "original"
    ]
    return original


def score_scan(
    volume: Volume,
    model: NormativeModel,
    folder: Path,
    *,
    threshold: float,
    fpr: float | None = None,
    settings: MaskSettings | None = None,
    montage: bool = True,
    keep_uids: bool = False,
    dicom: bool = False,
    png: bool = False,
    png_heat: bool = False,
    report: bool = False,
    pdf: Paper | None = None,
    reported: Callable[[ScanReport], None] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score one volume and write what comes out of it.

    Parameters
    ----------
    volume : Volume
        The scan, with the slices that the model is to see.
    model : NormativeModel
        What scores it.
    folder : Path
        See `write_scan_outputs`, as for ``threshold``, ``fpr``, ``settings``, ``keep_uids``,
        ``dicom``, ``png``, ``png_heat``, ``report``, ``pdf`` and ``overwrite``.
    montage : bool
        Also write ``montage.png`` with the highest-scoring slices.
    reported : callable, optional
        Called with what ``report.html`` or ``report.pdf`` says.
    progress : callable, optional
        Called with (series label, slices done, slices in all).

    Returns
    -------
    dict
        Series label, folder, number of findings, flagged voxels, the highest image score, the
        scan's p-value and the number of patients that it rests on (None where there is none),
        why it is unlike what the model learned from, the warnings of the scan and of its outputs,
        and the files written.
    """
    label = volume.series.label

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(label, done, total)

    likeness = compare(model, volume)
    score = model.score_volume(volume, progress=tell, plane=AS_ACQUIRED)
    outputs = write_scan_outputs(
        folder,
        volume,
        score,
        model,
        threshold=threshold,
        fpr=fpr,
        settings=settings,
        keep_uids=keep_uids,
        overwrite=overwrite,
        montage_too=montage,
        dicom=dicom,
        png=png,
        png_heat=png_heat,
        report=report,
        pdf=pdf,
        likeness=likeness,
    )
    if reported is not None and outputs.report is not None:
        reported(outputs.report)
    found = outputs.p_values
    highest = float(np.nanmax(score.image_scores)) if score.scored.any() else None
    return {
        "series": label,
        "folder": str(folder),
        "slices_scored": int(score.scored.sum()),
        "highest_slice": int(np.nanargmax(score.image_scores)) if score.scored.any() else None,
        "highest_image_score": highest,
        "p_value": found.scan if found else None,
        "p_value_patients": found.patients if found else None,
        "findings": len(outputs.findings),
        "flagged_voxels": int(np.count_nonzero(outputs.mask)),
        "unlike": list(likeness.reasons),
        "warnings": [*outputs.unlike, *volume.warnings, *outputs.warnings, *model.notes],
        "files": {key: str(path) for key, path in outputs.files.items()},
    }
