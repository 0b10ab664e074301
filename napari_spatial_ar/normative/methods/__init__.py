"""Detectors on embedding grids, all behind one interface; `DETECTORS` lists them by name."""

from napari_spatial_ar.normative.methods.base import DETECTORS, Detector, detector_from_tensors
from napari_spatial_ar.normative.methods.memory_bank import MemoryBank
from napari_spatial_ar.normative.methods.spatial_ar import SpatialARDetector

__all__ = [
    "DETECTORS",
    "Detector",
    "MemoryBank",
    "SpatialARDetector",
    "detector_from_tensors",
]
