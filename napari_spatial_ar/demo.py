"""The demonstration: a real brain scan, the released model, and where they disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import locked
from napari_spatial_ar.imaging.samples import sample_path, sample_volume
from napari_spatial_ar.normative.backbones.registry import BACKBONES
from napari_spatial_ar.normative.backbones.weights import source_of
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.review.batch import score_scan

__all__ = ["DEMO_MODEL", "check_modality", "run_demo"]

#: The released model that the demonstration uses.
DEMO_MODEL = "brain-flair"

# Why there is no scan of a modality to show, and what to do instead.
_NO_SCAN = {
    "ct": (
        "there is no demonstration on CT: no CT of the upper abdomen with a licence that allows it "
        "comes with the program",
        "Score a CT of your own with the released model: "
        "napari-spatial-ar score SCAN --model liver-ct --out DIR",
    ),
    "oct": (
        "there is no demonstration on OCT: neither a B-scan nor a model for OCT comes with the "
        "program",
        "Fit one on a folder of normal B-scans: "
        "napari-spatial-ar fit FOLDER --modality oct --out MODEL",
    ),
}


def check_modality(modality: str) -> None:
    """Raise `InputError` unless a scan of this modality ("mri", "ct", "oct") can be shown."""
    if modality in _NO_SCAN:
        message, fix = _NO_SCAN[modality]
        raise InputError(message, fix=fix)


def run_demo(
    *,
    headless: bool,
    out: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Score the sample scan and show it in napari, or write what ``score`` writes.

    Parameters
    ----------
    headless : bool
        Write files instead of opening napari.
    out : Path
        Folder for them; results of an earlier demonstration are replaced.
    progress : callable, optional
        Called with (what is going on, done, total).

    Returns
    -------
    dict
        Model, backbone and its source, and ``files``, the paths written.

    Raises
    ------
    InputError, StorageError
        If the folder cannot be written to, or another process writes to it.
    WeightsError
        If the backbone that comes with the package is missing or damaged.
    """
    model = load_model(DEMO_MODEL)
    backbone = model.header.backbone
    result: dict[str, Any] = {
        "model": model.name,
        "backbone": backbone.name,
        "weights": source_of(replace(BACKBONES[backbone.name], layers=backbone.layers)),
        "sample": str(sample_path()),
        "files": [],
    }
    if not headless:
        from napari_spatial_ar.gui.demo import show_demo

        show_demo(model=DEMO_MODEL)
        return result
    threshold = model.threshold_for_fpr(0.01)
    with locked(out):
        pass  # a folder that cannot be written to is reported before a minute of scoring
    record = score_scan(
        sample_volume(),
        model,
        out,
        threshold=threshold,
        fpr=0.01,
        overwrite=True,
        progress=lambda label, done, total: progress and progress(f"Scoring {label}", done, total),
    )
    return {
        **result,
        **record,
        "threshold": threshold,
        "unit": model.unit,
        "files": list(record["files"].values()),
    }
