"""The five files that a scored scan gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_text, storage_error
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.review.findings import (
    Finding,
    find_findings,
    make_mask,
    write_findings_csv,
    write_findings_json,
)
from napari_spatial_ar.review.montage import montage, write_montage
from napari_spatial_ar.review.provenance import ModelLike, provenance

__all__ = [
    "MONTAGE",
    "OUTPUT_FILES",
    "ScanOutputs",
    "ScoreLike",
    "scan_folder_name",
    "write_scan_outputs",
]

#: Key in the result of `write_scan_outputs`: file name.
OUTPUT_FILES = {
    "nll": "nll.nii.gz",
    "mask": "mask.nii.gz",
    "findings_csv": "findings.csv",
    "findings_json": "findings.json",
    "provenance": "provenance.json",
}
MONTAGE = "montage"


class ScoreLike(Protocol):
    """What is needed of a `VolumeScore` here."""

    @property
    def nll(self) -> npt.NDArray[np.float32]:
        """(Z, Y, X), nats per dimension, source order."""

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(N,), which acquired slices are scored."""

    @property
    def image_scores(self) -> npt.NDArray[np.float32]:
        """(N,), one score a slice, NaN where not scored."""


@dataclass(frozen=True)
class ScanOutputs:
    """What was written for a scan.

    Parameters
    ----------
    files : dict of str to Path
        Keys as in `OUTPUT_FILES`, and ``"montage"`` where asked for.
    findings : tuple of Finding
        Highest peak first.
    mask : (Z, Y, X) uint8
        The mask as written.
    """

    files: dict[str, Path]
    findings: tuple[Finding, ...]
    mask: npt.NDArray[np.uint8] = field(repr=False)


def scan_folder_name(volume: Volume, taken: Collection[str] = ()) -> str:
    """Folder name for a scan's outputs, from the series label, which names no patient.

    Parameters
    ----------
    volume : Volume
        The scan.
    taken : collection of str
        Names that are in use: a number is added until the name is new.

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
    volume: Volume,
    score: ScoreLike,
    model: ModelLike,
    *,
    threshold: float,
    fpr: float | None = None,
    min_size_mm3: float = 0.0,
    min_voxels: int = 0,
    mask: npt.NDArray[Any] | None = None,
    keep_uids: bool = False,
    overwrite: bool = False,
    montage_too: bool = False,
) -> ScanOutputs:
    """Write scores, mask, findings and provenance of one scan into one folder.

    Everything is written beside the folder first and moved in at the end, so that an error
    leaves nothing half-written.

    Parameters
    ----------
    out_dir : path-like
        The scan's own folder; made where it does not exist.
    volume, score, model : Volume, VolumeScore, NormativeModel
        The scan, its scores and the model that gave them.
    threshold : float
        Nats per dimension.
    fpr : float or None
        Share of normal tissue that the threshold flags, for the record.
    min_size_mm3, min_voxels : float, int
        As for `make_mask`.
    mask : (Z, Y, X) integer, optional
        The mask to write instead of the one that the threshold gives: one that a person edited.
    keep_uids : bool
        As for `provenance`.
    overwrite : bool
        Replace files of an earlier run.
    montage_too : bool
        Also write ``montage.png``, a picture of the highest-scoring slices.

    Returns
    -------
    ScanOutputs
        ``nll.nii.gz`` is float32 (nats per dimension, 0 in slices not scored) and
        ``mask.nii.gz`` uint8, both on the scan's own grid.

    Raises
    ------
    InputError
        If the folder holds results and ``overwrite`` is False, or is a file, or the mask does
        not fit.
    StorageError
        If the disk is full or the place may not be written to.
    """
    out_dir = Path(out_dir)
    names = OUTPUT_FILES | ({MONTAGE: "montage.png"} if montage_too else {})
    targets = {key: out_dir / name for key, name in names.items()}
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError("this is a file, not a folder", path=out_dir, fix="Choose another place")
    if not overwrite and any(path.exists() for path in targets.values()):
        raise InputError(
            "results of an earlier run are in this folder",
            path=out_dir,
            fix="Choose another folder, or ask for them to be overwritten",
        )
    settings: dict[str, Any] = {"min_size_mm3": min_size_mm3, "min_voxels": min_voxels}
    geometry = volume.geometry
    computed = make_mask(score.nll, threshold, geometry=geometry, scored=score.scored, **settings)
    final = computed if mask is None else (np.asarray(mask) != 0).astype(np.uint8)
    if final.shape != geometry.shape:
        raise InputError(f"a mask of {final.shape} is not on the scan's grid {geometry.shape}")
    findings = find_findings(final, score.nll, geometry)
    record = provenance(
        model,
        volume,
        threshold=threshold,
        fpr=fpr,
        scored=int(np.count_nonzero(score.scored)),
        mask_edited=not np.array_equal(final, computed),
        keep_uids=keep_uids,
        **settings,
    )
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the move stays on one disk.
        work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    except OSError as error:
        raise storage_error(error, out_dir) from error
    try:
        parts = {key: work / name for key, name in names.items()}
        like = _nifti_source(volume)
        write_nifti(parts["nll"], np.asarray(score.nll, np.float32), geometry, like=like)
        write_nifti(parts["mask"], final, geometry, like=like)
        write_findings_csv(parts["findings_csv"], findings)
        write_findings_json(parts["findings_json"], findings)
        atomic_write_text(parts["provenance"], json.dumps(record, indent=2, allow_nan=False) + "\n")
        if montage_too:
            title = f"{volume.series.label}, model {model.name}"
            picture = montage(
                volume,
                score.nll,
                score.image_scores,
                final,
                threshold=threshold,
                fpr=fpr,
                title=title,
            )
            write_montage(parts[MONTAGE], picture)
        if out_dir.exists():
            for key, part in parts.items():
                os.replace(part, targets[key])
        else:
            # mkdtemp makes a private folder; results get the user's usual permissions.
            mask_bits = os.umask(0)
            os.umask(mask_bits)
            work.chmod(0o777 & ~mask_bits)
            os.replace(work, out_dir)
    except OSError as error:
        raise storage_error(error, out_dir) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ScanOutputs(targets, tuple(findings), final)


def _nifti_source(volume: Volume) -> Path | None:
    path = volume.path
    if path is None or not path.name.lower().endswith((".nii", ".nii.gz")):
        return None
    return path if path.is_file() else None
