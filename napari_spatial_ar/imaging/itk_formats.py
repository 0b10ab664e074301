"""NRRD and MetaImage scans, read with SimpleITK (the extra ``itk``)."""

from __future__ import annotations

import importlib
import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.grey import (
    COLOUR_WARNING,
    WIDE_WARNING,
    Narrowing,
    finite,
    grey_of,
    is_wide,
    span,
)
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.inflate import Inflater, Packing, read_to_the_end
from napari_spatial_ar.imaging.itk_header import (
    DAMAGED,
    ITK_SUFFIXES,
    ItkHeader,
    is_itk_head,
    read_itk_header,
)
from napari_spatial_ar.imaging.memory import check_fits
from napari_spatial_ar.imaging.nifti import slice_axis_of
from napari_spatial_ar.imaging.scan import Scan, is_large
from napari_spatial_ar.imaging.series import Series

__all__ = ["ITK_SUFFIXES", "find_itk", "is_itk_head"]

_MOST_VOLUMES = 10_000
# Writers pad: up to this many bytes may follow what the header claims.
_MOST_BEYOND = 2**26
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def _simpleitk(path: Path) -> Any:
    """Import SimpleITK, an optional dependency."""
    try:
        sitk = importlib.import_module("SimpleITK")
    except ImportError:
        raise InputError(
            "NRRD and MetaImage files are read with SimpleITK, which is not installed",
            path=path,
            fix='Run: pip install "napari-spatial-ar[itk]"',
        ) from None
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return sitk


@dataclass(eq=False)
class _Stored:
    """Voxels of a file as stored, shared by its volumes and read once.

    Parameters
    ----------
    path : Path
        The file.
    shape : (T, Z, Y, X, C)
        Number of volumes, their size, and components per voxel.
    header : ItkHeader
        Where the voxels are, and how they are compressed.
    """

    path: Path
    shape: tuple[int, int, int, int, int]
    header: ItkHeader
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _kept: npt.NDArray[np.generic] | None = field(default=None, repr=False)

    def voxels(self, *, keep: bool) -> npt.NDArray[np.generic]:
        """All voxels (T, Z, Y, X, C) of the stored type."""
        with self._lock:
            if self._kept is not None:
                return self._kept
            self._check_packed()
            sitk = _simpleitk(self.path)
            check_fits(2 * self.header.claimed, self.path)  # SimpleITK's copy and the array
            read: npt.NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(self.path)))
            read = read.reshape(self.shape)
            if keep:
                self._kept = read
            return read

    def _check_packed(self) -> None:
        """Verify the checksum of compressed voxels, which SimpleITK ignores."""
        if self.header.packing != "gzip":
            return
        voxel_file = self.header.files[-1]
        with open(voxel_file, "rb") as file:
            file.seek(self.header.start)
            packing: Packing = "gzip" if file.read(2) == b"\x1f\x8b" else "zlib"
            file.seek(self.header.start)
            most = self.header.claimed + _MOST_BEYOND
            stream = Inflater(file, packing, most_bytes=most, path=voxel_file)
            read_to_the_end(stream, voxel_file, least=self.header.claimed)


@dataclass(eq=False)
class _ItkVoxels:
    """Reader of one 3-D volume (see `napari_spatial_ar.imaging.scan`)."""

    stored: _Stored
    number: int
    coloured: bool
    slice_axis: int
    _narrow: Narrowing | None = field(default=None, repr=False)

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels (Z, Y, X)."""
        several = self.stored.shape[0] * (1 if self.coloured else self.stored.shape[4]) > 1
        return self._volume(keep=several)

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """Slice ``index``: (Z, Y, X) without the slice axis. The volume stays in memory."""
        data, _ = self._volume(keep=True, index=index)
        return data

    def _volume(
        self, *, keep: bool, index: int | None = None
    ) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        path = self.stored.path
        with guard(path, DAMAGED):
            voxels = self.stored.voxels(keep=keep)
            time, channel = divmod(self.number, 1 if self.coloured else voxels.shape[4])
            one = voxels[time] if self.coloured else voxels[time, ..., channel]
            place = (slice(None),) * self.slice_axis + (slice(None) if index is None else index,)
            if self.coloured:
                return grey_of(one[place])[0], ()
            narrow = self._narrowing(one)
            data = narrow(one[place])
            if np.isfinite(data).all():
                return data, narrow.warnings
            # A slice has the same values read alone as in its volume.
            whole = data if index is None else narrow(one)
            warnings = finite(whole, path)
            return whole if index is None else whole[place], (*narrow.warnings, *warnings)

    def _narrowing(self, voxels: npt.NDArray[np.generic]) -> Narrowing:
        """Conversion of the volume's values to float32, determined once."""
        if self._narrow is None:
            ends = span([voxels]) if is_wide(voxels.dtype) else None
            self._narrow = Narrowing.of(ends, whole=voxels.dtype.kind in "iu")
        return self._narrow


def find_itk(path: str | Path) -> list[Scan]:
    """Find the volumes of an NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file from its header.

    Parameters
    ----------
    path : path-like
        The file, detected by content. Each 3-D volume of a 4-D file is a scan, and so is each
        component of multi-component voxels other than colours.

    Returns
    -------
    list of Scan
        In file order. The voxels of the file are read together; if slices or several volumes are
        requested, they then stay in memory, as stored.

    Raises
    ------
    InputError
        If SimpleITK is not installed, the file is missing, damaged or of another kind, its
        voxels are complex or in a file that is not in its folder, or its header claims more
        than the file can hold.
    """
    path = Path(path)
    header = read_itk_header(path)
    sitk = _simpleitk(path)
    with guard(path, DAMAGED):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.SetImageIO(f"{'Nrrd' if header.kind == 'NRRD' else 'Meta'}ImageIO")
        reader.ReadImageInformation()
        size = (*(int(n) for n in reader.GetSize()), 1, 1)
        channels = int(reader.GetNumberOfComponents())
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        spacing, origin = reader.GetSpacing(), reader.GetOrigin()
        direction = np.array(reader.GetDirection()).reshape(len(spacing), -1)
    if not 2 <= len(spacing) <= 4 or "complex" in kind or min(size) < 1:
        raise InputError(f"is not a scan but a {len(spacing)}-D image of {kind} voxels", path=path)
    bits = int("".join(filter(str.isdecimal, kind)) or 8)
    if math.prod(size) * channels * bits // 8 != header.claimed:
        raise InputError("its header contradicts itself", path=path, fix="Export or copy it again")
    geometry, warnings = _geometry(header, size[2::-1], spacing, origin, direction)
    coloured = channels in (3, 4) and "8-bit unsigned" in kind
    if coloured:
        warnings += (COLOUR_WARNING,)
    if bits > 32 or (bits == 32 and "float" not in kind):
        warnings += (WIDE_WARNING,) if is_large(math.prod(size[:3])) else ()
    count = size[3] * (1 if coloured else channels)
    if count > _MOST_VOLUMES:
        raise InputError(f"holds {count} volumes, more than the {_MOST_VOLUMES} listed", path=path)
    stored = _Stored(path, (size[3], *geometry.shape, channels), header)
    label = f"{header.kind} scan {' x '.join(map(str, size[:3]))}"

    def scan(number: int) -> Scan:
        place = f", volume {number + 1} of {count}" if count > 1 else ""
        return Scan(
            voxels=_ItkVoxels(stored, number, coloured, geometry.slice_axis),
            geometry=geometry,
            modality="unknown",
            series=Series(label=label + place, files=header.files),
            intensity="grey8" if "8-bit unsigned" in kind else "arbitrary",
            warnings=warnings,
        )

    return [scan(number) for number in range(count)]


def _geometry(
    header: ItkHeader,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    direction: npt.NDArray[np.float64],
) -> tuple[Geometry, tuple[str, ...]]:
    """Grid from ITK's LPS directions, spacing and origin, and warnings about it."""
    z, y, x = shape
    length = 1.0 if header.mm is None else header.mm
    axes = min(3, len(spacing))
    matrix, place = np.eye(3), np.zeros(3)
    matrix[:axes, :axes] = direction[:axes, :axes] * np.array(spacing[:axes])
    place[:axes] = origin[:axes]
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ matrix * length
    affine[:3, 3] = _LPS_TO_RAS @ place * length
    warnings = []
    if not header.spacing_known:
        warnings.append("The file does not state the voxel size: lengths are in pixels.")
    elif header.mm is None:
        warnings.append("The file's unit of length is unknown: mm is assumed.")
    elif length != 1.0:
        warnings.append(
            f"The file's lengths are in units of {length:g} mm and were converted to mm."
        )
    if not header.located or axes < 3:
        warnings.append(
            "The file does not state the patient's orientation: its axes are assumed to run to the "
            "patient's left, back and head, and left and right may be wrong."
        )
    try:
        geometry = Geometry((z, y, x), affine, spacing_known=header.spacing_known)
    except InputError as error:
        raise InputError(error.what, path=header.files[0]) from None
    return replace(geometry, slice_axis=slice_axis_of(geometry)), tuple(warnings)
