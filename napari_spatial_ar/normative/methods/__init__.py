"""Detectors on embedding grids, all behind one interface; `DETECTORS` lists them by name."""

from napari_spatial_ar.normative.methods.base import (
    DETECTORS,
    Detector,
    FitSetup,
    Option,
    check_options,
    detector_from_tensors,
    score_grid,
)
from napari_spatial_ar.normative.methods.change_detector import ChangeDetector
from napari_spatial_ar.normative.methods.change_novelty import ChangeNovelty
from napari_spatial_ar.normative.methods.dinomaly import Dinomaly
from napari_spatial_ar.normative.methods.dpmm import DirichletMixture
from napari_spatial_ar.normative.methods.grids import StoredGrids
from napari_spatial_ar.normative.methods.himatch import HierarchicalMatching
from napari_spatial_ar.normative.methods.memory_bank import MemoryBank
from napari_spatial_ar.normative.methods.patch_gaussian import PatchGaussian
from napari_spatial_ar.normative.methods.pixels import PixelBackbone
from napari_spatial_ar.normative.methods.spatial_ar import SpatialARDetector
from napari_spatial_ar.normative.methods.surroundings_bank import SurroundingsBank

__all__ = [
    "DETECTORS",
    "ChangeDetector",
    "ChangeNovelty",
    "Detector",
    "Dinomaly",
    "DirichletMixture",
    "FitSetup",
    "HierarchicalMatching",
    "MemoryBank",
    "Option",
    "PatchGaussian",
    "PixelBackbone",
    "SpatialARDetector",
    "StoredGrids",
    "SurroundingsBank",
    "check_options",
    "detector_from_tensors",
    "score_grid",
]
