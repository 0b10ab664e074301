"""NIfTI scans in, masks and heatmaps out on the same grid."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_path
from napari_spatial_ar.imaging.geometry import Geometry, orientation
from napari_spatial_ar.imaging.grey import COLOUR_WARNING, WIDE_WARNING, is_wide
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.nifti_header import UNEVEN, NiftiHeader, read_header
from napari_spatial_ar.imaging.nifti_voxels import DAMAGED, NiftiVoxels, StoredVoxels
from napari_spatial_ar.imaging.scan import Scan, is_large
from napari_spatial_ar.imaging.series import Intensity, Series
from napari_spatial_ar.imaging.signatures import is_nifti

__all__ = ["Content", "find_nifti", "is_nifti", "read_nifti", "slice_axis_of", "write_nifti"]

# Voxels outside these sizes (mm) are more likely a wrong unit than a scan of a patient.
_SMALLEST_MM, _LARGEST_MM = 1e-4, 100.0
_GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True)
class Content:
    """Description of a file's voxels, as stored in its header. It never names a patient.

    Parameters
    ----------
    name : str
        NIfTI's ``intent_name``: its first 15 characters are kept.
    about : str
        NIfTI's ``descrip``: its first 79 characters are kept.
    intent : {"none", "estimate", "label"}
        NIfTI's ``intent_code``: 0, 1001 (a parameter estimated in each voxel) or 1002 (the number
        of what the voxel belongs to).
    """

    name: str
    about: str = ""
    intent: Literal["none", "estimate", "label"] = "none"

    @classmethod
    def scan(cls, scan: Scan) -> Content:
        """Return the description of a scan's own voxels."""
        kind = "scan" if scan.modality == "unknown" else f"{scan.modality.upper()} scan"
        return cls("scan", f"{kind} in {scan.unit}" if scan.unit else kind)

    def write(self, header: Any) -> None:
        """Add it to a header, after any existing description."""
        existing = header["descrip"].item()
        about = b"; ".join(filter(None, (existing, self.about.encode("ascii", "replace"))))
        header["descrip"] = about[:79]
        name = self.name.encode("ascii", "replace")[:15].decode()
        header.set_intent({"label": 1002, "estimate": 1001, "none": 0}[self.intent], (), name)


def _geometry(found: NiftiHeader, path: Path) -> tuple[Geometry, tuple[str, ...]]:
    """Grid of a file's volumes, and what is odd about it."""
    with guard(path, DAMAGED):
        affine, warnings = found.affine()
    warnings = (*found.remarks, *warnings)
    try:
        geometry = Geometry(found.size[::-1], affine, spacing_known=found.spacing_known)
    except InputError as error:
        raise InputError(error.what, path=path, fix="Correct its sform or qform") from None
    spacing = geometry.spacing
    if not geometry.spacing_known:
        warnings += ("The file gives a spacing of 0 mm: lengths are in pixels.",)
    if min(spacing) < _SMALLEST_MM or max(spacing) > _LARGEST_MM:
        sizes = " x ".join(f"{s:g}" for s in reversed(spacing))
        warnings += (
            f"According to the file, a voxel is {sizes} mm, which is not likely: no length in mm "
            "is to be trusted.",
        )
    return replace(geometry, slice_axis=slice_axis_of(geometry)), warnings


def slice_axis_of(geometry: Geometry) -> int:
    """Guess the axis of (Z, Y, X) with the slices: the short one, the thick one, else axial."""
    fewest, next_fewest, _ = sorted(geometry.shape)
    if 4 * fewest <= next_fewest:
        return geometry.shape.index(fewest)
    next_thickest, thickest = sorted(geometry.spacing)[1:]
    if thickest > 1.2 * next_thickest:
        return geometry.spacing.index(thickest)
    return 2 - int(np.flatnonzero(orientation(geometry.affine)[:, 0] == 2)[0])


def find_nifti(path: str | Path) -> list[Scan]:
    """Find the volumes of a NIfTI file by its header, without reading voxels.

    Parameters
    ----------
    path : path-like
        A .nii, .nii.gz or .hdr file (NIfTI-1 or -2; detected by content). A 2-D image is a scan of
        one slice; of a 4-D file (time points, b-values, channels) each 3-D volume is a scan.

    Returns
    -------
        In file order. Of an uncompressed file only what is requested is read. A compressed one is
        unpacked completely; if slices are requested, it then stays in memory, as stored.

    Raises
    ------
    InputError
        If the file is missing, damaged, Analyze 7.5 (which leaves left and right open), has
        complex voxels, or its header claims more than it can hold.
    """
    path = Path(path)
    found = read_header(path)
    geometry, warnings = _geometry(found, path)
    if found.scaling is None:
        raise InputError(
            "its scaling (scl_slope, scl_inter) is not a number, so its values are undefined",
            path=path,
            fix="Export it again",
        )
    slope, inter = found.scaling
    if found.coloured:
        warnings += (COLOUR_WARNING,)
    if found.dtype.kind == "f" and is_large(math.prod(geometry.shape)):
        warnings += ("A voxel that is not a finite number is shown as the lowest finite value.",)
    wide = is_wide(found.dtype) and not found.coloured
    if wide and is_large(math.prod(geometry.shape)):
        warnings += (WIDE_WARNING,)
    plain = found.dtype == np.uint8 and (slope, inter) == (1.0, 0.0)
    intensity: Intensity = "grey8" if plain or found.coloured else "arbitrary"
    files = tuple(dict.fromkeys((path, found.voxel_file)))
    size = " x ".join(map(str, found.size))
    stored = StoredVoxels(
        path=found.voxel_file,
        offset=found.offset,
        dtype=found.dtype,
        shape=(found.count, *geometry.shape),
        packed=found.packed,
    )

    def scan(number: int) -> Scan:
        place = f", volume {number + 1} of {found.count}" if found.count > 1 else ""
        return Scan(
            voxels=NiftiVoxels(stored, number, slope, inter, geometry.slice_axis),
            geometry=geometry,
            modality="unknown",
            series=Series(label=f"NIfTI scan {size}{place}", files=files),
            intensity=intensity,
            window=found.window,
            warnings=warnings,
        )

    return [scan(number) for number in range(found.count)]


def read_nifti(path: str | Path, index: int | None = None) -> Scan:
    """Read a NIfTI scan (see `find_nifti`).

    Parameters
    ----------
    path : path-like
        The file.
    index : int, optional
        Which 3-D volume of a 4-D file, from 0.

    Returns
    -------
    Scan
        Voxels (Z, Y, X) float32 in file order, scaled by the file's slope and intercept;
        modality ``"unknown"``; what is odd about the file in ``warnings``. Voxels that are no
        finite numbers have the lowest finite value.

    Raises
    ------
    InputError
        As for `find_nifti`; if there are several volumes and none was chosen, or the chosen one
        does not exist; if the voxels are truncated, all the same, or none is a finite number.
    """
    scans = find_nifti(path)
    if index is None and len(scans) > 1:
        size = " x ".join(map(str, reversed(scans[0].geometry.shape)))
        raise InputError(
            f"holds {len(scans)} scans of {size} voxels, not one", path=path, fix="Choose one"
        )
    if not 0 <= (index or 0) < len(scans):
        raise InputError(f"has no volume {index}: it holds {len(scans)}", path=path)
    return scans[index or 0].read(lazy=False)


def write_nifti(
    path: str | Path,
    array: npt.NDArray[np.generic],
    geometry: Geometry,
    *,
    like: str | Path | None = None,
    content: Content = Content("image"),
) -> None:
    """Write an array on a scan's grid, so that it coincides with the scan.

    Parameters
    ----------
    path : path-like
        The .nii or .nii.gz to write, completely or not at all.
    array : (Z, Y, X) float32, uint8, uint16, int32 or bool
        In source order. Its type is kept; bool becomes uint8.
    geometry : Geometry
        The scan's. If its slices are unevenly spaced there is no valid affine: none is written
        (sform and qform codes 0, unit unknown), and the header's description begins with that.
    like : path-like, optional
        The file the scan was read from. If it is a NIfTI file, its sform, qform, their codes
        and its unit are copied bit by bit.
    content : Content
        What the array is.

    Raises
    ------
    InputError
        If the name, the type or the shape is invalid, or ``like`` is on another grid.
    StorageError
        If the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError("a NIfTI file's name must end in .nii or .nii.gz", path=path)
    array = array.astype(np.uint8) if array.dtype == bool else array
    if array.dtype not in (np.float32, np.uint8, np.uint16, np.int32):
        raise InputError(
            f"cannot write {array.dtype} voxels, only float32, uint8, uint16 and int32"
        )
    if array.shape != geometry.shape:
        raise InputError(f"an array of shape {array.shape} is not on the grid {geometry.shape}")
    if like is not None and is_nifti(Path(like)):
        image = _image_like(Path(like), array, geometry)
    else:
        image = _new_image(array, geometry)
    content.write(image.header)
    packed = path.suffix.lower() == ".gz"
    # As a stream: a large scan would be in memory three times more otherwise.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if packed:
            with gzip.GzipFile("", "wb", 1, file, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(file)


def _new_image(array: npt.NDArray[np.generic], geometry: Geometry) -> Any:
    kind: Any = nib.Nifti1Image
    if geometry.slice_positions is not None:
        image = kind(array.T, None)
        image.header["pixdim"][1:4] = geometry.spacing[::-1]
        image.header["descrip"] = UNEVEN
        return image
    image = kind(array.T, geometry.affine)
    image.header.set_xyzt_units("mm" if geometry.spacing_known else "unknown")
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1)
    if not np.allclose(image.get_qform(), geometry.affine, atol=1e-3):
        image.set_qform(None, code=0)  # a qform cannot hold sheared axes
    return image


def _image_like(like: Path, array: npt.NDArray[np.generic], geometry: Geometry) -> Any:
    """Image with all the header fields of a file that determine the positions of its voxels."""
    found = read_header(like)
    with guard(like, DAMAGED):
        affine, _ = found.affine()
    if found.size != geometry.shape[::-1] or not np.allclose(affine, geometry.affine, atol=1e-3):
        raise InputError("is on another grid than the array to write", path=like)
    kind: Any = nib.Nifti1Image
    image = kind(array.T, found.header.get_best_affine())
    for field in _GEOMETRY_FIELDS:
        image.header[field] = found.header[field]
    image.header["pixdim"][:4] = found.header["pixdim"][:4]
    return image
