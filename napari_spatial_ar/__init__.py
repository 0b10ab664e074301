"""Shows where an MRI, CT or OCT scan departs from normal. For research use, not for diagnosis."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_spatial_ar.imaging.reading import read
    from napari_spatial_ar.normative.backbones.loading import load_backbone
    from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
    from napari_spatial_ar.normative.fitting.fit import fit
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.normative.reference_checkpoint import load_reference_checkpoint

try:
    __version__ = version("napari-spatial-ar")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"

__all__ = [
    "SpatialAR",
    "__version__",
    "fit",
    "load_backbone",
    "load_model",
    "load_reference_checkpoint",
    "read",
]

if sys.platform == "darwin":
    # torch reads this when it is imported: operations that Apple's GPUs lack are then computed on
    # the CPU instead of raising an error.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

_HOME = {
    "read": "napari_spatial_ar.imaging.reading",
    "fit": "napari_spatial_ar.normative.fitting.fit",
    "load_model": "napari_spatial_ar.normative.model",
    "load_backbone": "napari_spatial_ar.normative.backbones.loading",
    "SpatialAR": "napari_spatial_ar.normative.detectors.ar_network",
    "load_reference_checkpoint": "napari_spatial_ar.normative.reference_checkpoint",
}


if not TYPE_CHECKING:  # to which it would make any name an attribute

    def __getattr__(name: str) -> object:
        """Import on first use: torch takes seconds, and listing plugins must not."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Names for completion, including those that are not imported yet."""
    return sorted(__all__)
