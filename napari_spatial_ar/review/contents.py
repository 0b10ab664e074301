"""Descriptions for the headers of NIfTI files that are written."""

from __future__ import annotations

from napari_spatial_ar.imaging.nifti import Content
from napari_spatial_ar.normative.units import is_nll

__all__ = ["findings_content", "mask_content", "scores_content"]


def scores_content(unit: str, model: str) -> Content:
    """Describe a model's heatmap in its unit; it is named NLL only if it is a log-likelihood."""
    name = "NLL" if is_nll(unit) else "score"
    return Content(name, f"{name} in {unit}, not for diagnosis; model {model}", "estimate")


def mask_content(model: str) -> Content:
    """Describe a mask of the model with this name."""
    return Content("mask", f"Flagged regions, not for diagnosis; model {model}", "label")


def findings_content(model: str) -> Content:
    """Describe a map of findings by number, of a mask of the model with this name."""
    about = f"Flagged regions by number, not for diagnosis; model {model}"
    return Content("findings", about, "label")
