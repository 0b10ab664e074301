"""What the headers of the NIfTI files that are written say is in them."""

from __future__ import annotations

from napari_spatial_ar.imaging.nifti import Content
from napari_spatial_ar.normative.units import is_nll

__all__ = ["findings_content", "mask_content", "scores_content"]


def scores_content(unit: str, model: str) -> Content:
    """Heatmap in the unit of the model of that name; only a log-likelihood is called one."""
    name = "NLL" if is_nll(unit) else "score"
    return Content(name, f"{name} in {unit}, not for diagnosis; model {model}", "estimate")


def mask_content(model: str) -> Content:
    """Mask that the model of that name gives."""
    return Content("mask", f"Flagged regions, not for diagnosis; model {model}", "label")


def findings_content(model: str) -> Content:
    """Map of findings by number, of a mask that the model of that name gives."""
    about = f"Flagged regions by number, not for diagnosis; model {model}"
    return Content("findings", about, "label")
