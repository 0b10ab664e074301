"""NIfTI scans in, masks and heatmaps out on the same grid."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.imaging.geometry import Geometry, orientation
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.volume import Intensity, Series, Volume

__all__ = ["find_nifti", "is_nifti", "read_nifti", "write_nifti"]

_GZIP = b"\x1f\x8b"
# Deflate cannot pack more than 1032 bytes into one: a header that claims more is lying.
_MOST_COMPRESSION = 1100
_HEADER_BYTES = 540  # of NIfTI-2, the longer one
_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}  # the others are mm or not known
_DAMAGED = "is not a NIfTI file that can be read: it is cut short, damaged or of another kind"
_GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def _open(path: Path) -> BinaryIO:
    """Bytes of a file, unpacked where it is gzip by content."""
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else open(path, "rb")


def _unread_image(stream: BinaryIO) -> Any:
    """NIfTI-1 or -2 image whose voxels are not read yet."""
    head = stream.read(_HEADER_BYTES)
    stream.seek(0)
    kind: Any = nib.Nifti2Image if head[4:8] == b"n+2\0" else nib.Nifti1Image
    return kind.from_stream(stream)


def is_nifti(path: Path) -> bool:
    """Whether a file says inside that it is a one-file NIfTI scan, packed or not."""
    try:
        with _open(path) as stream:
            head = stream.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def _check_claims(image: Any, path: Path) -> None:
    """Refuse what is no scan, before any memory is taken for its voxels."""
    shape, dtype = image.shape, image.header.get_data_dtype()
    size = path.stat().st_size
    with open(path, "rb") as file:
        limit = size * _MOST_COMPRESSION if file.read(2) == _GZIP else size
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if claimed > limit:
        raise InputError(
            f"its header claims {claimed} bytes of voxels but the file has {size} bytes",
            path=path,
            fix="Export or copy it again",
        )
    if dtype.kind not in "iuf":
        raise InputError(
            "holds colour or complex voxels, not one number for each voxel",
            path=path,
            fix="Convert it to a grey-scale scan",
        )
    if len(shape) < 2 or min(shape) < 1 or any(n > 1 for n in shape[3:]):
        raise InputError(
            f"has the shape {' x '.join(map(str, shape))}, which is not one 2-D or 3-D scan",
            path=path,
            fix="Split it into 3-D scans, one for each time point or channel",
        )


def _affine(image: Any) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Map from (i, j, k) to RAS mm by nibabel's rule (sform, else qform), and what is odd."""
    header = image.header
    warnings = []
    qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    if qform is None and sform is None:
        warnings.append(
            "The file does not say how the patient lies: left and right are assumed to be "
            "stored the radiological way, and may be wrong."
        )
    elif qform is not None and sform is not None:
        corners = np.array(np.meshgrid(*([0, n - 1] for n in (*image.shape, 1)[:3]))).reshape(3, 8)
        apart = np.abs((qform - sform)[:3] @ np.vstack((corners, np.ones(8)))).max()
        if apart > 1e-2:
            warnings.append(
                f"The file's two positions (qform and sform) differ by up to {apart:.2f} mm; "
                "the sform is used."
            )
    unit = header.get_xyzt_units()[0]
    affine = image.affine.astype(np.float64)
    if unit in _MM_PER_UNIT:
        affine[:3] *= _MM_PER_UNIT[unit]
        warnings.append(f"The file's lengths are in {unit}s and were turned into mm.")
    return affine, tuple(warnings)


def _slice_axis(geometry: Geometry) -> int:
    """Axis of (Z, Y, X) with the slices: of few slices, of thick ones, else the axial one."""
    fewest, next_fewest, _ = sorted(geometry.shape)
    if 4 * fewest <= next_fewest:
        return geometry.shape.index(fewest)
    next_thickest, thickest = sorted(geometry.spacing)[1:]
    if thickest > 1.2 * next_thickest:
        return geometry.spacing.index(thickest)
    return 2 - int(np.flatnonzero(orientation(geometry.affine)[:, 0] == 2)[0])


def _intensity(image: Any) -> Intensity:
    # The header's own slope is gone once nibabel has taken it over into the array proxy.
    unscaled = (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0)
    return "grey8" if image.get_data_dtype() == np.uint8 and unscaled else "arbitrary"


def find_nifti(path: Path) -> list[Scan]:
    """Volumes of a NIfTI file, by its header; see `read_nifti`."""
    return [Scan.of(read_nifti(path))]


def read_nifti(path: str | Path) -> Volume:
    """Read a NIfTI scan (.nii, .nii.gz, NIfTI-1 or -2; told by content).

    Parameters
    ----------
    path : path-like
        The file. A 2-D picture becomes a scan of one slice.

    Returns
    -------
    Volume
        Voxels (Z, Y, X) float32 in file order, scaled by the file's slope and intercept;
        modality ``"unknown"``; what is odd about its position in ``warnings``.

    Raises
    ------
    InputError
        If the file is missing, damaged, cut short, 4-D, in colour, or its voxels are not
        finite or all the same.
    """
    path = Path(path)
    with guard(path, _DAMAGED), _open(path) as stream:
        image = _unread_image(stream)
        _check_claims(image, path)
        voxels = image.get_fdata(dtype=np.float32, caching="unchanged")
        affine, warnings = _affine(image)
        intensity = _intensity(image)
    voxels = voxels.reshape((*voxels.shape, 1)[:3], order="F")
    data = voxels.T
    size = " x ".join(map(str, voxels.shape))
    try:
        geometry = Geometry(data.shape, affine)
    except InputError as error:
        raise InputError(error.what, path=path, fix="Correct its sform or qform") from None
    return Volume(
        data=data,
        geometry=replace(geometry, slice_axis=_slice_axis(geometry)),
        modality="unknown",
        series=Series(label=f"NIfTI scan {size}", files=(path,)),
        intensity=intensity,
        warnings=warnings,
    )


def write_nifti(
    path: str | Path,
    array: npt.NDArray[Any],
    geometry: Geometry,
    *,
    like: str | Path | None = None,
) -> None:
    """Write an array on a scan's grid, so that it lies exactly on the scan.

    Parameters
    ----------
    path : path-like
        The .nii or .nii.gz to write, whole or not at all.
    array : (Z, Y, X) float32, uint8, int32 or bool
        In source order. Its type is kept; bool becomes uint8.
    geometry : Geometry
        The scan's.
    like : path-like, optional
        The file the scan was read from. If it is a NIfTI file, its sform, qform, their codes
        and its unit are copied bit by bit.

    Raises
    ------
    InputError
        If the name, the type or the shape does not fit, or ``like`` is on another grid.
    StorageError
        If the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError("a NIfTI file's name must end in .nii or .nii.gz", path=path)
    array = array.astype(np.uint8) if array.dtype == bool else array
    if array.dtype not in (np.float32, np.uint8, np.int32):
        raise InputError(f"cannot write {array.dtype} voxels, only float32, uint8 and int32")
    if array.shape != geometry.shape:
        raise InputError(f"an array of shape {array.shape} is not on the grid {geometry.shape}")
    if like is not None and is_nifti(Path(like)):
        image = _image_like(Path(like), array, geometry)
    else:
        image = _new_image(array, geometry)
    payload = image.to_bytes()
    packed = path.suffix.lower() == ".gz"
    atomic_write_bytes(path, gzip.compress(payload, 1, mtime=0) if packed else payload)


def _new_image(array: npt.NDArray[Any], geometry: Geometry) -> Any:
    kind: Any = nib.Nifti1Image
    image = kind(array.T, geometry.affine)
    image.header.set_xyzt_units("mm" if geometry.spacing_known else "unknown")
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1)
    if not np.allclose(image.get_qform(), geometry.affine, atol=1e-3):
        image.set_qform(None, code=0)  # a qform cannot hold sheared axes
    return image


def _image_like(like: Path, array: npt.NDArray[Any], geometry: Geometry) -> Any:
    """Image with all the header fields of a file that say where its voxels are."""
    with guard(like, _DAMAGED), _open(like) as stream:
        source = _unread_image(stream)
        affine, _ = _affine(source)
    shape = (*source.shape, 1)[:3]
    if shape != geometry.shape[::-1] or not np.allclose(affine, geometry.affine, atol=1e-3):
        raise InputError("is on another grid than the array to write", path=like)
    kind: Any = nib.Nifti1Image
    image = kind(array.T, source.affine)
    for field in _GEOMETRY_FIELDS:
        image.header[field] = source.header[field]
    image.header["pixdim"][:4] = source.header["pixdim"][:4]
    return image
