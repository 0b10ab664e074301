"""Scoring scans one after the other, each into a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.selection import AS_ACQUIRED, SlicePlane
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.normative.looking import likeness as compare
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import scan_folder_name, write_scan_outputs
from napari_spatial_ar.review.p_values import share_note

__all__ = ["score_scan", "score_scans"]

Progress = Callable[[str, int, int], None]


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
    every_series: bool = False,
    plane: SlicePlane | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every scan found in the inputs, one in memory at a time.

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
        not scored for what it is; ``backbone``: where its weights came from; ``calibration``:
        one sentence on what the threshold rests on, None where it was never measured.

    Raises
    ------
    SpatialARError
        If the model cannot be used, its calibration cannot carry ``fpr`` or ``alpha``, or no
        input could be scored.
    """
    loaded = load_model(model, weights=weights, device=device)
    cut = loaded.threshold_for_fpr(fpr) if threshold is None else threshold
    calibration = loaded.header.calibration
    share = calibration.fpr_for_threshold(cut) if calibration else None
    if hysteresis_fpr is not None:
        higher = loaded.threshold_for_fpr(hysteresis_fpr)
        if higher <= cut:
            raise InputError(
                f"a hysteresis share of {hysteresis_fpr:g} gives no threshold above the mask's own",
                fix="Choose a share smaller than --fpr",
            )
        settings = replace(settings or MaskSettings(), hysteresis=higher)
    if alpha is not None:
        loaded.calibration.check_alpha(alpha)
    scans: list[dict[str, Any]] = []
    errors: list[InputError] = []
    taken: set[str] = set()
    left_out: list[str] = []
    for source in inputs:
        try:
            found = find_scans(source)
        except InputError as error:
            errors.append(error)
            continue
        errors += found.errors
        chosen = list(found.scans) if every_series else _to_score(found.scans, left_out)
        for scan in chosen:
            name = scan_folder_name(scan, taken)
            taken.add(name)
            try:
                record = score_scan(
                    loaded.cut(scan.read(), plane),
                    loaded,
                    out / name,
                    threshold=cut,
                    fpr=share,
                    settings=settings,
                    montage=montage,
                    keep_uids=keep_uids,
                    dicom=dicom,
                    png=png,
                    png_heat=png_heat,
                    overwrite=overwrite,
                    progress=progress,
                )
            except InputError as error:
                errors.append(error)
                continue
            if alpha is not None:
                p = record["p_value"]
                record["unusual"] = None if p is None else p <= alpha + 1e-12
            scans.append({"input": str(source), **record})
    if not scans:
        raise errors[0]
    return {
        "model": loaded.name,
        "model_sha256": loaded.sha256,
        "backbone": loaded.backbone.source,
        "threshold": cut,
        "fpr": share,
        "calibration": share_note(calibration, cut) if calibration else None,
        "scans": scans,
        "failed": [str(error) for error in errors],
        "left_out": left_out,
    }


def _to_score(scans: Sequence[Scan], left_out: list[str]) -> list[Scan]:
    """Original scans, or all where there is none; say in ``left_out`` which are not."""
    original = [scan for scan in scans if scan.role == "original"]
    if not original:
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
        ``dicom``, ``png``, ``png_heat`` and ``overwrite``.
    montage : bool
        Also write ``montage.png`` with the highest-scoring slices.
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

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(label, done, total)

    likeness = compare(model, volume)
    score = model.score_volume(volume, progress=report, plane=AS_ACQUIRED)
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
        likeness=likeness,
    )
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
