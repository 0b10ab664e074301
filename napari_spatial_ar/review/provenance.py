"""Where a result comes from: enough to reproduce it, nothing that identifies the patient."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasChoices, BaseModel, Field

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.deidentify import research_uid
from napari_spatial_ar.imaging.dicom.derived import REMARK, Algorithm, source_uids
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.windows import display_limits, resolve
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.normative.units import is_nll
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.refining import RefineSettings

__all__ = [
    "RESEARCH_USE",
    "dicom_algorithm",
    "model_summary",
    "model_window",
    "provenance",
    "recorded_algorithm",
    "recorded_threshold",
    "versions",
    "voxels_sha256",
]

#: Appears in every dock, image and file of this package.
RESEARCH_USE = REMARK

_PACKAGES = (
    *("napari-spatial-ar", "torch", "transformers", "numpy", "scipy"),
    *("nibabel", "pydicom", "highdicom"),
)
# Loss histories and lists by slice or patient are only in the model's own file.
_LEFT_OUT = (
    *("history", "losses", "slice_keys", "mean_embedding", "seen_slices"),
    *("image_scores", "image_patients", "patient_fpr", "patient_peaks"),
    "normal_regions",
)


def versions() -> dict[str, str]:
    """Versions of Python, this package and the packages a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def model_summary(model: ScoringModel) -> dict[str, Any]:
    """Return the model's name and its file's header as plain data, without its loss history."""
    return {"name": model.name, "sha256": model.sha256, **_plain(model.header.to_dict())}


def _plain(value: object) -> Any:
    """Convert dataclasses, arrays and paths to JSON values; NaN becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if k not in _LEFT_OUT}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _hashed(uid: str) -> str:
    return "sha256:" + hashlib.sha256(uid.encode(errors="surrogatepass")).hexdigest()


def voxels_sha256(volume: Scan) -> str:
    """Sha256 of the voxels in source order, one plane in memory at a time."""
    digest = hashlib.sha256()
    for plane in volume.data:
        digest.update(np.ascontiguousarray(plane, dtype=np.float32).tobytes())
    return digest.hexdigest()


def model_window(model: ScoringModel, volume: Scan) -> tuple[float, float]:
    """Voxel values that the model sees as black and white."""
    return resolve(model.header.preprocessing.window, volume)


def dicom_algorithm(model: ScoringModel, *, threshold: float) -> Algorithm:
    """Identify the algorithm of a DICOM object: the model by name and sha256, the threshold."""
    return _algorithm(model.name, model.sha256, threshold, model.unit)


def _algorithm(name: str, sha256: str, threshold: float, unit: str) -> Algorithm:
    parameters = {"threshold": f"{threshold:.6g} {unit}".rstrip()}
    if sha256:
        parameters["model sha256"] = sha256
    return Algorithm(name=name, version=sha256[:16], parameters=parameters)


class _RecordedModel(BaseModel):
    name: str
    sha256: str


class _RecordedThreshold(BaseModel):
    # Earlier versions used the second name whatever the unit.
    score: float = Field(validation_alias=AliasChoices("score", "nats_per_dimension"))
    unit: str = ""
    mask_edited_by_hand: bool


class _Record(BaseModel):
    """The parts of ``provenance.json`` that describe how a mask was made."""

    model: _RecordedModel
    threshold: _RecordedThreshold


def recorded_threshold(record: Mapping[str, Any]) -> float:
    """Threshold in a `provenance` record of this version or an earlier one."""
    return _RecordedThreshold.model_validate(record["threshold"]).score


def recorded_algorithm(mask: Path) -> tuple[Algorithm, bool] | None:
    """Read the algorithm of a mask or map of findings from the ``provenance.json`` beside it.

    Returns
    -------
    (Algorithm, bool) or None
        The model, and whether a person edited the mask; None if there is no such record.
    """
    beside = mask.with_name("provenance.json")
    if mask.name not in ("mask.nii.gz", "findings.nii.gz") or not beside.is_file():
        return None
    try:
        record = parse_json(beside.read_bytes(), _Record)
    except (OSError, ValueError) as error:
        raise InputError(
            "is not a record of how the mask beside it was made", path=beside
        ) from error
    model, threshold = record.model, record.threshold
    algorithm = _algorithm(model.name, model.sha256, threshold.score, threshold.unit)
    return algorithm, threshold.mask_edited_by_hand


def provenance(
    model: ScoringModel,
    volume: Scan,
    *,
    threshold: float,
    fpr: float | None,
    scored: int,
    settings: MaskSettings | None = None,
    region_voxels: int | None = None,
    mask_edited: bool = False,
    refined: int = 0,
    keep_uids: bool = False,
    de_identify: bool = False,
) -> dict[str, Any]:
    """Record of how a scan was scored and masked.

    Parameters
    ----------
    model : NormativeModel
        The model that scored the scan.
    volume : Scan
        The scan.
    threshold : float
        In the model's unit.
    fpr : float or None
        Share of normal tissue that the threshold flags by the model's calibration, in [0, 1];
        None if the model has none.
    scored : int
        Number of slices scored.
    settings : MaskSettings, optional
        How the voxels above the threshold became the mask.
    region_voxels : int, optional
        Size of the drawn region to which the mask was restricted; None if there was none.
    mask_edited : bool
        Whether a person changed the mask, by hand or by refined outlines.
    refined : int
        Number of regions whose outline was refined.
    keep_uids : bool
        Write the UIDs of series, study and frame of reference themselves. Otherwise their sha256,
        by which whoever has the scan can find it again.
    de_identify : bool
        Write the UIDs that replace them in de-identified DICOM objects instead.

    Returns
    -------
    dict
        Plain data for JSON, without file names, since these may contain patients' names.
    """
    geometry = volume.geometry
    uid = volume.series.uid
    uids = {"study": "", "frame_of_reference": "", **source_uids(volume), "series": uid}
    named_by = research_uid if de_identify else str if keep_uids else _hashed
    named = {kind: named_by(found) if found else None for kind, found in uids.items()}
    return {
        "research_use": RESEARCH_USE,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model_summary(model),
        "engine": model.engine,
        "backbone_weights": dict(model.backbone_weights),
        "threshold": {
            "score": float(threshold),
            "unit": model.unit,
            # Its earlier name, for one more release, if it is correct.
            **({"nats_per_dimension": float(threshold)} if is_nll(model.unit) else {}),
            "share_of_normal_tissue_flagged": None if fpr is None else float(fpr),
            **dataclasses.asdict(settings or MaskSettings()),
            "drawn_region_voxels": region_voxels,
            "mask_edited_by_hand": bool(mask_edited),
            "outlines_refined": refined,
            "refining": RefineSettings().to_dict() if refined else None,
        },
        "scan": {
            "series": volume.series.label,
            "series_uid": named["series"],
            "study_uid": named["study"],
            "frame_of_reference_uid": named["frame_of_reference"],
            "files": len(volume.series.files),
            "voxels_sha256": voxels_sha256(volume),
            "modality": volume.modality,
            "intensity": volume.intensity,
            "unit": volume.unit or None,
            "role": volume.role,
            # Voxel values displayed as black and white, and those that the model saw as 0 and 1.
            "display_window": list(display_limits(volume)),
            "model_window": model_window(model, volume),
            "shape_zyx": list(geometry.shape),
            "spacing_zyx": list(geometry.spacing),
            "spacing_unit": "mm" if geometry.spacing_known else "pixel",
            "regular_grid": geometry.regular,
            "exact_affine": geometry.exact,
            "affine_ijk_to_ras": geometry.affine.tolist(),
            "plane": geometry.plane,
            "acquisition": dataclasses.asdict(volume.series.acquisition),
            "slices": geometry.slice_count,
            "slices_scored": int(scored),
            "warnings": list(volume.warnings),
        },
        "versions": versions(),
    }
