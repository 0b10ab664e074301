"""Detectors on embedding grids, all with one interface; `DETECTORS` lists them by name."""

from napari_spatial_ar.normative.backbones.pixels import PixelBackbone
from napari_spatial_ar.normative.detectors.base import (
    DETECTORS,
    Detector,
    FitContext,
    Option,
    check_options,
    detector_from_tensors,
    score_grid,
)
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.normative.detectors.change_novelty import ChangeNovelty
from napari_spatial_ar.normative.detectors.dinomaly import Dinomaly
from napari_spatial_ar.normative.detectors.dpmm import DirichletMixture
from napari_spatial_ar.normative.detectors.grids import StoredGrids
from napari_spatial_ar.normative.detectors.himatch import HierarchicalMatching
from napari_spatial_ar.normative.detectors.memory_bank import MemoryBank
from napari_spatial_ar.normative.detectors.patch_gaussian import PatchGaussian
from napari_spatial_ar.normative.detectors.spatial_ar import SpatialARDetector
from napari_spatial_ar.normative.detectors.spatial_ar_change import SpatialARChange
from napari_spatial_ar.normative.detectors.surroundings_bank import SurroundingsBank
from napari_spatial_ar.normative.detectors.utrad import Utrad

__all__ = [
    "DETECTORS",
    "ChangeDetector",
    "ChangeNovelty",
    "Detector",
    "Dinomaly",
    "DirichletMixture",
    "FitContext",
    "HierarchicalMatching",
    "MemoryBank",
    "Option",
    "PatchGaussian",
    "PixelBackbone",
    "SpatialARChange",
    "SpatialARDetector",
    "StoredGrids",
    "SurroundingsBank",
    "Utrad",
    "check_options",
    "detector_from_tensors",
    "score_grid",
]
