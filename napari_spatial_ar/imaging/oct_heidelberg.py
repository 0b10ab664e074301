"""Heidelberg Spectralis OCT files (.vol, .e2e), through eyepy (the extra ``oct``)."""

from __future__ import annotations

import importlib
import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.oct_files import Eye, OctImage

__all__ = ["find_e2e", "find_vol"]

_EYES: dict[str, Eye] = {"OD": "right", "R": "right", "OS": "left", "L": "left"}
_CIRCLE, _STAR = 2, 5
_VOL_HEADER_BYTES = 2048
# Types of parts of an .e2e file, and of its images.
_LATERALITY, _IMAGE, _B_SCAN = 11, 2**30, 35652097


def _eyepy(name: str, path: Path) -> Any:
    """Return a module of eyepy, which is an optional dependency."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            "Heidelberg OCT files are read through eyepy, which is not installed",
            path=path,
            fix='Run: pip install "napari-spatial-ar[oct]"',
        ) from None


def find_vol(path: Path) -> list[OctImage]:
    """Find the B-scans of a .vol file by its header.

    Raises
    ------
    InputError
        If it claims more than it holds, or eyepy is not installed. Any other error: it is damaged.
    """
    with open(path, "rb") as file:
        head = file.read(_VOL_HEADER_BYTES)
    columns, count, rows, wide, step, deep = struct.unpack_from("<3I3d", head, 12)
    slo_columns, slo_rows = struct.unpack_from("<2I", head, 48)
    pattern, header_bytes = struct.unpack_from("<iI", head, 96)
    side = head[84:88].split(b"\0")[0].decode("ascii").strip()
    claimed = slo_columns * slo_rows + count * (header_bytes + 4 * rows * columns)
    size = path.stat().st_size
    if min(count, rows, columns) < 1 or _VOL_HEADER_BYTES + claimed > size:
        raise InputError(
            f"its header claims {claimed} bytes of images but the file has {size} bytes",
            path=path,
            fix="Export or copy it again",
        )
    reader = _eyepy("eyepy.io.he.vol_reader", path)
    grey = _eyepy("eyepy.core.utils", path).from_vol_intensity
    step = wide if count == 1 else step  # one B-scan has no next one
    steps = step, deep, wide
    good = all(math.isfinite(s) and s > 0 for s in steps)

    def read() -> npt.NDArray[Any]:
        scans = reader.HeVolReader(str(path)).parsed_file.bscans
        return np.stack([grey(np.array(scan.data)) for scan in scans])

    return [
        OctImage(
            shape=(count, rows, columns),
            read=read,
            spacing=steps if good else None,
            eye=_EYES.get(side, ""),
            parallel=pattern not in (_CIRCLE, _STAR),
        )
    ]


def find_e2e(path: Path) -> list[OctImage]:
    """Find the stacks of B-scans of an .e2e file.

    It says how large a voxel is in depth, but not between A-scans or B-scans.

    Raises
    ------
    InputError
        If it holds none, or eyepy is not installed. Any other error: it is damaged.
    """
    module = _eyepy("eyepy.io.he.e2e_reader", path)
    _check_chain(path)
    images = []
    with module.HeE2eReader(str(path)) as reader:
        for place, series in enumerate(reader.series):
            scans = _b_scans(series)
            if not scans:
                continue
            meta = series.get_bscan_meta()
            pattern = meta[0]["scan_pattern"] if meta else 0
            sides = [parts for kind, parts in series.folders.items() if int(kind) == _LATERALITY]
            eye = _EYES.get(chr(int(sides[0][0].data.laterality)), "") if sides else ""
            first = scans[0].data
            images.append(
                OctImage(
                    shape=(len(scans), int(first.height), int(first.width)),
                    read=partial(_read_e2e, path, place),
                    spacing=None,
                    eye=eye,
                    parallel=pattern not in (_CIRCLE, _STAR),
                )
            )
    if not images:
        raise InputError("holds no B-scans that can be read", path=path)
    return images


def _b_scans(series: Any) -> list[Any]:
    """Parts of a series that are B-scans, in order."""
    found = []
    for _, piece in sorted(series.slices.items()):
        images = [
            part for kind in piece.folders if int(kind) == 2**30 for part in piece.folders[kind]
        ]
        found += [part for part in images if part.data.type == _B_SCAN][:1]
    return found


def _read_e2e(path: Path, place: int) -> npt.NDArray[Any]:
    module = _eyepy("eyepy.io.he.e2e_reader", path)
    grey = _eyepy("eyepy.core.utils", path).from_e2e_intensity
    with module.HeE2eReader(str(path)) as reader:
        scans = _b_scans(reader.series[place])
        return np.stack([grey(np.array(scan.data.data, np.float32)) for scan in scans])


def _check_chain(path: Path) -> None:
    """Follow a file's chunks as eyepy will, which has no end where one leads back."""
    size = path.stat().st_size
    at = 36 + 52
    with open(path, "rb") as file:
        while at < size:
            file.seek(at + 36)
            count = struct.unpack("<I", file.read(4).ljust(4, b"\0"))[0]
            file.seek(at + 52 + 44 * (count - 1))
            last = file.read(12)
            if count < 1 or len(last) < 12:
                return
            _, start, length = struct.unpack("<3I", last)
            if start + length + 60 <= at:
                raise InputError("its parts lead round in a circle: it is damaged", path=path)
            at = start + length + 60
