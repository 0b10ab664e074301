"""NIfTI headers, checked before any voxel is read."""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import orientation
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.inflate import MOST_COMPRESSION
from napari_spatial_ar.imaging.nifti_voxels import DAMAGED, content_size, first_bytes, is_packed

__all__ = ["UNEVEN", "NiftiHeader", "is_nifti_head", "pair_header", "read_header", "unpacked_head"]

#: Description of a file whose slices have no valid affine: they are the scan's slices, in order.
UNEVEN = b"slices unevenly spaced: no valid affine"
_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 540  # of NIfTI-2, the longer of the two
_HEAD_BYTES = 4096
_MOST_VOLUMES = 10_000
# By rounding, a unit quaternion may be longer than 1, but by less than this.
_ROUNDED_QUATERNION = 0.01
_NIBABEL_ALLOWS = 3 * float(np.finfo(np.float32).eps)
_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}  # all others are mm or unknown


def unpacked_head(head: bytes) -> bytes:
    """First bytes of a file's content, decompressed, given its first bytes."""
    if not head.startswith(_GZIP):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
    except zlib.error:
        return b""


def is_nifti_head(head: bytes) -> bool:
    """Whether a file that starts with these bytes (4096 or all) is a NIfTI scan or its header."""
    head = unpacked_head(head)
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def pair_header(path: Path) -> Path | None:
    """Header (.hdr) of the two-file scan whose voxels a file (.img) holds, or None."""
    for end in (".img", ".img.gz"):
        if path.name.lower().endswith(end):
            stem = path.name[: -len(end)]
            for name in (f"{stem}.hdr", f"{stem}.hdr.gz", f"{stem}.HDR"):
                if path.with_name(name).is_file():
                    return path.with_name(name)
    return None


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The content of a NIfTI header, checked against the file."""

    header: Any
    voxel_file: Path
    packed: bool
    #: Offset of the voxels in their file, in bytes.
    offset: int
    #: Spacing (i, j, k) as written; in ``header`` nibabel has replaced 0 by 1.
    written_spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    #: Whether the file has a qform that is not a rotation; it is removed from ``header``.
    without_qform: bool = False
    #: Warnings on values that were corrected.
    remarks: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along (i, j, k, ...)."""
        return tuple(int(n) for n in self.header.get_data_shape())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type."""
        stored: np.dtype[Any] = self.header.get_data_dtype()
        return stored

    @property
    def count(self) -> int:
        """Number of 3-D volumes."""
        return math.prod(self.shape[3:])

    @property
    def size(self) -> tuple[int, int, int]:
        """Size of one volume along (i, j, k)."""
        i, j, k = (*self.shape, 1)[:3]
        return i, j, k

    @property
    def uneven(self) -> bool:
        """Whether its slices form an irregular stack without positions, as marked by `UNEVEN`."""
        placed = int(self.header["sform_code"]) > 0 or int(self.header["qform_code"]) > 0
        return not placed and self.header["descrip"].item().startswith(UNEVEN)

    @property
    def coloured(self) -> bool:
        """Whether voxels are colours (RGB, or RGB and alpha)."""
        return self.dtype.names is not None

    @property
    def window(self) -> tuple[float, float] | None:
        """Display window (cal_min, cal_max), if there is one."""
        low, high = float(self.header["cal_min"]), float(self.header["cal_max"])
        return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None

    @property
    def scaling(self) -> tuple[float, float] | None:
        """Slope and intercept; 1 and 0 if there are none (a slope of 0 or NaN, or colours).

        None if the slope is a number and the intercept is not.
        """
        if self.coloured:
            return 1.0, 0.0
        try:
            slope, inter = self.header.get_slope_inter()
        except nib.spatialimages.HeaderDataError:
            return None
        return (1.0, 0.0) if slope is None else (float(slope), float(inter))

    @property
    def spacing_known(self) -> bool:
        """Whether a spacing is given: by an sform, or for every axis longer than one voxel."""
        if self.header.get_sform(coded=True)[0] is not None:
            return True
        return all(s != 0 for s, n in zip(self.written_spacing, self.size, strict=True) if n > 1)

    def affine(self) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
        """Map from (i, j, k) to RAS mm by nibabel's rule (sform, else qform), and warnings."""
        warnings = []
        qform, sform = self.header.get_qform(coded=True)[0], self.header.get_sform(coded=True)[0]
        affine = self.header.get_best_affine().astype(np.float64)
        if self.without_qform:
            warnings.append("The file's qform is not a rotation; its sform is used.")
        elif qform is None and sform is None:
            warnings.append(
                "The file does not state the patient's orientation: left and right are assumed "
                "to be in radiological order, and may be wrong."
            )
        elif qform is not None and sform is not None:
            if not np.isfinite(orientation(sform)).all() and np.isfinite(orientation(qform)).all():
                warnings.append("The file's sform is not invertible; its qform is used.")
                affine = qform.astype(np.float64)
            else:
                corners = np.array(np.meshgrid(*([0, n - 1] for n in self.size))).reshape(3, 8)
                apart = np.abs((qform - sform)[:3] @ np.vstack((corners, np.ones(8)))).max()
                if apart > 1e-2:
                    warnings.append(
                        f"The file's two positions (qform and sform) differ by up to "
                        f"{apart:.2f} mm; the sform is used."
                    )
        unit = self.header.get_xyzt_units()[0]
        if unit in _MM_PER_UNIT:
            affine[:3] *= _MM_PER_UNIT[unit]
            warnings.append(f"The file's lengths are in {unit}s and were converted to mm.")
        return affine, tuple(warnings)


def read_header(path: Path) -> NiftiHeader:
    """Read a header (of a .nii, .nii.gz or .hdr file) and check what it claims.

    Raises
    ------
    InputError
        If it is missing, damaged or of another kind; if it claims more voxels than the file can
        hold, or voxels that cannot be read.
    """
    with guard(path, DAMAGED):
        head = first_bytes(path, _HEADER_BYTES)
        _refuse_analyze(head, path)
        second = head[4:8] in (b"n+2\0", b"ni2\0")
        kind: Any = nib.Nifti2Header if second else nib.Nifti1Header
        # Without its extensions, which may claim to be of any size.
        header = kind(head[: kind.sizeof_hdr], _byte_order(head, kind.sizeof_hdr), check=False)
        spacing = tuple(float(s) for s in header["pixdim"][1:4])
        paired = header["magic"].item()[:3] in (b"ni1", b"ni2")
        voxel_file = _voxel_file(path) if paired else path
        if paired:
            content_size(path, _HEAD_BYTES)  # verifies its checksum, not the voxels'
        _check_numbers(header, path)
        remarks = _settle_sizes(header)
        offset, odd = _offset(header, voxel_file, paired=paired)
        header["vox_offset"] = 0  # which nibabel does not check
        header.check_fix()
        without = not _settle_qform(header, path)
        packed = is_packed(voxel_file)
        found = NiftiHeader(header, voxel_file, packed, offset, spacing, without)
        return replace(found, remarks=(*remarks, *odd, *_check_claims(found, path)))


def _settle_sizes(header: Any) -> tuple[str, ...]:
    """Replace a size of 0 beyond the third axis by 1, as nifti1_io.c, FSL and ITK do."""
    axes = [n for n in range(4, int(header["dim"][0]) + 1) if header["dim"][n] == 0]
    if not axes:
        return ()
    header["dim"][axes] = 1
    names = ", ".join(f"dim[{n}]" for n in axes)
    return (f"The header gives a size of 0 along {names}, which is read as 1.",)


def _byte_order(head: bytes, size: int) -> str | None:
    """Byte order, by the header size in the first four bytes; None if neither order gives it."""
    orders = (o for o in "<>" if len(head) >= 4 and struct.unpack_from(f"{o}i", head)[0] == size)
    return next(orders, None)


def _check_numbers(header: Any, path: Path) -> None:
    """Refuse an impossible value (`InputError`), naming its field."""
    axes, *sizes = (int(n) for n in header["dim"])
    code = int(header["datatype"])
    wrong = [f"dim[0] is {axes}"] if not 1 <= axes <= len(sizes) else []
    wrong += [
        f"dim[{n}] is {size}"
        for n, size in enumerate(sizes[: max(axes, 0)], 1)
        if size < 0 or (size == 0 and n <= 3)
    ]
    if code not in nib.nifti1.data_type_codes.value_set("code"):
        wrong.append(f"datatype is {code}")
    if wrong:
        raise InputError(
            f"according to its header, {wrong[0]}, which is impossible",
            path=path,
            fix="Export or copy it again",
        )


def _offset(header: Any, voxel_file: Path, *, paired: bool) -> tuple[int, tuple[str, ...]]:
    """Find where the voxels begin, and warnings about it.

    Some writers of single files leave vox_offset at 0. nifti1_io.c then reads from the end of the
    header, other programs from four bytes further on: the file size decides.

    Raises
    ------
    InputError
        If they begin inside the header, and the file size fits neither reading.
    """
    stated = float(header["vox_offset"])
    least = 0 if paired else int(header.sizeof_hdr) + 4
    if stated >= least and stated.is_integer():
        return int(stated), ()
    if not paired and stated.is_integer():
        sizes = [max(int(n), 1) for n in header["dim"][1 : 1 + int(header["dim"][0])]]
        claimed = math.prod(sizes) * header.get_data_dtype().itemsize
        start = content_size(voxel_file, least + claimed) - claimed
        if start == stated:
            return start, ()
        if start in (least - 4, least):
            return start, (
                f"According to the header, voxels begin at byte {stated:.0f}, inside it; by "
                f"the size of the file they begin at byte {start}.",
            )
    raise InputError(
        f"according to its header, voxels begin at byte {stated:g}, which is impossible",
        path=voxel_file,
        fix="Correct vox_offset, or export it again",
    )


def _settle_qform(header: Any, path: Path) -> bool:
    """Normalise a quaternion that rounding made longer than 1; drop a qform that is not a rotation.

    Readers compute the square of the component that is not stored as 1 - b^2 - c^2 - d^2
    (nifti1.h).

    Returns
    -------
    bool
        True unless a qform was dropped.

    Raises
    ------
    InputError
        If it is not a rotation, and there is no sform.
    """
    parts = np.array([float(header[f"quatern_{part}"]) for part in "bcd"])
    length = float(np.linalg.norm(parts))
    if int(header["qform_code"]) <= 0 or length**2 <= 1 + _NIBABEL_ALLOWS:
        return True
    if length <= 1 + _ROUNDED_QUATERNION:
        for part, value in zip("bcd", parts / length, strict=True):
            header[f"quatern_{part}"] = value
        return True
    if int(header["sform_code"]) <= 0:
        raise InputError(
            f"its qform is not a rotation (quaternion of length {length:.3g}) and it has no sform: "
            "the position of its voxels is unknown",
            path=path,
            fix="Correct its sform or qform",
        )
    header["qform_code"] = 0
    return False


def _refuse_analyze(head: bytes, path: Path) -> None:
    sizes = {struct.unpack_from(order + "i", head)[0] for order in "<>" if len(head) >= 348}
    if 348 in sizes and head[344:347] not in (b"n+1", b"ni1"):
        raise InputError(
            "is an Analyze 7.5 header, which does not state which side of the patient is left",
            path=path,
            fix="Convert it to NIfTI with the program that wrote it",
        )


def _voxel_file(path: Path) -> Path:
    """File with the voxels of a two-file scan, in the folder of its header."""
    stem = re.sub(r"\.hdr(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    for end in (".img", ".img.gz", ".IMG"):
        if path.with_name(f"{stem}{end}").is_file():
            return path.with_name(f"{stem}{end}")
    raise InputError(
        "is the header of a two-file scan whose .img file is not in the same folder",
        path=path,
        fix="Copy both files",
    )


def _check_claims(found: NiftiHeader, path: Path) -> tuple[str, ...]:
    """Refuse what is not a scan before memory is allocated for it; else return warnings."""
    shape = found.shape
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(
            f"has shape {' x '.join(map(str, shape))}, so it is not a 2-D or 3-D scan",
            path=path,
        )
    size = found.voxel_file.stat().st_size
    claimed = math.prod(shape) * found.dtype.itemsize
    if claimed + found.offset > size * (MOST_COMPRESSION if found.packed else 1):
        raise InputError(
            f"its header claims {claimed} bytes of voxels but the file has {size} bytes",
            path=path,
            fix="Export or copy it again",
        )
    if found.dtype.kind == "c":
        raise InputError(
            "holds complex voxels, not one number per voxel",
            path=path,
            fix="Export its magnitude",
        )
    if found.dtype.kind not in "iuf" and found.dtype.names is None:
        raise InputError(f"its voxels are of a type that cannot be read ({found.dtype})", path=path)
    if found.count > _MOST_VOLUMES:
        raise InputError(
            f"holds {found.count} volumes, more than the {_MOST_VOLUMES} that can be listed",
            path=path,
            fix="Split it",
        )
    beyond = size - claimed - found.offset
    if found.packed or beyond < math.prod(found.size[:2]) * found.dtype.itemsize:
        return ()
    return (f"The file has {beyond} bytes after the voxels described by its header.",)
