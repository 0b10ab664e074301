"""Files of OCT scanners: Heidelberg .vol and .e2e, Topcon .fda and .fds, Zeiss Cirrus .img."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.memory import check_fits
from napari_spatial_ar.imaging.oct_cubes import ZEISS_SHAPES, find_topcon, find_zeiss
from napari_spatial_ar.imaging.oct_files import DAMAGED, OctImage
from napari_spatial_ar.imaging.oct_heidelberg import find_e2e, find_vol
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.volume import Series

__all__ = ["OCT_SUFFIXES", "find_oct", "is_oct_head"]

OCT_SUFFIXES = (".vol", ".e2e", ".fda", ".fds")
_STARTS: dict[bytes, Callable[[Path], list[OctImage]]] = {
    b"HSF-OCT-": find_vol,
    b"CMDb": find_e2e,
    b"FOCT": find_topcon,
}
_PLACE_WARNING = (
    "The file does not say where in the patient the scan lies: rows are taken to run backwards "
    "(deeper) and columns to the patient's left, as in a horizontal B-scan, and B-scans upwards. "
    "Above and below, and in a vertical B-scan the columns, may be wrong."
)


def _finder(head: bytes, path: Path) -> Callable[[Path], list[OctImage]] | None:
    for start, find in _STARTS.items():
        if head.startswith(start):
            return find
    return find_zeiss if path.suffix.lower() == ".img" else None


def is_oct_head(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is of an OCT scanner.

    Zeiss writes bare voxels: those are told by their name (.img) and size.
    """
    find = _finder(head, path)
    return find is not None and (find is not find_zeiss or path.stat().st_size in ZEISS_SHAPES)


@dataclass(eq=False)
class _OctVoxels:
    """Reader of a stack of B-scans (see `napari_spatial_ar.imaging.scan`), read all at once."""

    path: Path
    image: OctImage
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _kept: npt.NDArray[Any] | None = field(default=None, repr=False)

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All B-scans."""
        with guard(self.path, DAMAGED), self._lock:
            stored = self._read() if self._kept is None else self._kept
            return stored.astype(np.float32), ()

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """One B-scan; the others stay in memory, as stored."""
        with guard(self.path, DAMAGED), self._lock:
            if self._kept is None:
                self._kept = self._read()
            plane: npt.NDArray[np.float32] = self._kept[index].astype(np.float32)
            return plane

    def _read(self) -> npt.NDArray[Any]:
        check_fits(2 * math.prod(self.image.shape), self.path)
        stored = self.image.read()
        if stored.shape != self.image.shape:
            raise ValueError(f"B-scans of shape {stored.shape}, not {self.image.shape}")
        return stored


def find_oct(path: str | Path) -> list[Scan]:
    """Find the stacks of B-scans in a file of an OCT scanner.

    Parameters
    ----------
    path : path-like
        Heidelberg .vol or .e2e, Topcon .fda or .fds, told by content; Zeiss Cirrus .img.

    Returns
    -------
    list of Scan
        Modality ``"oct"``. Slices are B-scans in file order; upright, depth runs down. In mm
        where the file says how far apart B-scans, samples and A-scans are.

    Raises
    ------
    InputError
        If the file is missing, damaged or of another kind, claims more than it holds, or the
        library that reads it is not installed.
    """
    path = Path(path)
    with guard(path, DAMAGED):
        with open(path, "rb") as file:
            head = file.read(16)
        find = _finder(head, path)
        if find is None:
            raise ValueError("no OCT file")
        images = find(path)
    return [_scan(path, image, number, len(images)) for number, image in enumerate(images)]


def _scan(path: Path, image: OctImage, number: int, count: int) -> Scan:
    warnings = [_PLACE_WARNING]
    if image.spacing is None:
        warnings.append("The file does not say how large a voxel is: lengths are in pixels.")
    if not image.parallel:
        warnings.append(
            "Geometry not regular: the B-scans do not lie side by side (a star, circle or cross)."
        )
    step, deep, wide = image.spacing or (1.0, 1.0, 1.0)
    affine = np.diag(
        [wide if image.mirrored else -wide, deep if image.upside_down else -deep, step, 1.0]
    )
    eye = f", {image.eye} eye" if image.eye else ""
    place = f", scan {number + 1} of {count}" if count > 1 else ""
    return Scan(
        voxels=_OctVoxels(path, image),
        geometry=Geometry(
            image.shape,
            affine,
            spacing_known=image.spacing is not None,
            regular=image.parallel,
        ),
        modality="oct",
        series=Series(label=f"OCT{eye}{place}", files=(path,)),
        intensity="grey8" if image.display else "arbitrary",
        warnings=tuple(warnings),
    )
