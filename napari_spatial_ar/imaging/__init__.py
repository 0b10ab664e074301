"""Scans in and out: reading, geometry, windows, masks. No torch, no Qt."""

from napari_spatial_ar.imaging.dicom.series import read_dicom
from napari_spatial_ar.imaging.files import (
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    storage_error,
)
from napari_spatial_ar.imaging.geometry import Geometry, Plane
from napari_spatial_ar.imaging.nifti import read_nifti, write_nifti
from napari_spatial_ar.imaging.raster import read_label, read_raster, read_stack
from napari_spatial_ar.imaging.reading import (
    Found,
    Source,
    find_scans,
    find_sources,
    read,
    read_source,
)
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.volume import Intensity, Modality, Series, Volume, check_voxels
from napari_spatial_ar.imaging.windows import Window, apply_window, default_window, resolve

__all__ = [
    "Found",
    "Geometry",
    "Intensity",
    "Modality",
    "Plane",
    "Scan",
    "Series",
    "Source",
    "Volume",
    "Window",
    "apply_window",
    "atomic_path",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "check_voxels",
    "default_window",
    "find_scans",
    "find_sources",
    "read",
    "read_dicom",
    "read_label",
    "read_nifti",
    "read_raster",
    "read_source",
    "read_stack",
    "resolve",
    "storage_error",
    "tissue_mask",
    "write_nifti",
]
