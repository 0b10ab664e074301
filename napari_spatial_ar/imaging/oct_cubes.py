"""Topcon (.fda, .fds) and Zeiss Cirrus (.img) OCT files, by their published layouts.

Topcon's is at https://bitbucket.org/uocte/uocte/wiki/Topcon%20File%20Format and in OCT-Converter,
which is not used itself: its readers need a NumPy before 2.3, and OpenCV, which comes with a Qt of
its own that napari then cannot start beside.
"""

from __future__ import annotations

import io
import math
import re
import struct
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.oct_files import Eye, OctImage

__all__ = ["ZEISS_SHAPES", "find_topcon", "find_zeiss"]

_HEADER_BYTES = 15
_MOST_CHUNKS = 10_000
_PACKED = "@IMG_JPEG"  # JPEG 2000, one after the other
_PLAIN = ("@IMG_MOT_COMP_03", "@IMG_SCAN_03")
_PARALLEL_MODES = (2,)  # 3: star, 4: cross
_EYES: dict[int, Eye] = {0: "right", 1: "left"}
# Bytes of a cube, and its B-scans, depth and A-scans.
ZEISS_SHAPES = {math.prod(shape): shape for shape in ((128, 1024, 512), (200, 1024, 200))}


def _chunks(file: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Place and length of each chunk; of those with the same name, the first."""
    places: dict[str, tuple[int, int]] = {}
    file.seek(_HEADER_BYTES)
    for _ in range(_MOST_CHUNKS):
        length = file.read(1)
        if not length or length == b"\0":
            break
        name = file.read(length[0]).decode("latin-1")
        (count,) = struct.unpack("<I", file.read(4))
        if file.tell() + count > size:
            raise ValueError("a chunk ends behind the file")
        places.setdefault(name, (file.tell(), count))
        file.seek(count, io.SEEK_CUR)
    return places


def find_topcon(path: Path) -> list[OctImage]:
    """Find the B-scans of a Topcon file.

    Raises
    ------
    InputError
        If it holds none. Any other error: it is damaged.
    """
    with open(path, "rb") as file:
        places = _chunks(file, path.stat().st_size)

        def start(name: str, count: int) -> bytes:
            """First bytes of a chunk, none where there is none."""
            place, length = places.get(name, (0, 0))
            file.seek(place)
            return file.read(count) if length >= count else b""

        eye = start("@CAPTURE_INFO_02", 1) or start("@CAPTURE_INFO", 1)
        sizes = start("@PARAM_SCAN_04", 36)[12:] or start("@PARAM_SCAN_02", 45)[21:]
        plain = next((name for name in _PLAIN if name in places), None)
        if _PACKED in places:
            mode, _, _, columns, rows, count, _ = struct.unpack("<B6I", start(_PACKED, 25))
            read = partial(_read_packed, path, places[_PACKED][0] + 25, (count, rows, columns))
            least = 4 * count
            length = places[_PACKED][1]
        elif plain is not None:
            mode, columns, rows, bits, count, _, _ = struct.unpack("<B4IBI", start(plain, 22))
            if bits != 16:
                raise ValueError(f"{bits} bits for each pixel")
            read = partial(_read_plain, path, places[plain][0] + 22, (count, rows, columns))
            least = 2 * count * rows * columns
            length = places[plain][1] - 22
        else:
            raise InputError("holds no B-scans that can be read", path=path)
    if min(count, rows, columns) < 1 or least > length:
        raise InputError(
            f"its header claims {count} B-scans of {columns} x {rows}, more than the file holds",
            path=path,
            fix="Export or copy it again",
        )
    spacing = None
    if sizes:
        wide, long, deep = struct.unpack("<3d", sizes)
        steps = long / count, deep / 1000, wide / columns
        spacing = steps if all(math.isfinite(s) and s > 0 for s in steps) else None
    return [
        OctImage(
            shape=(count, rows, columns),
            read=read,
            spacing=spacing,
            eye=_EYES.get(eye[0], "") if eye else "",
            parallel=mode in _PARALLEL_MODES or count == 1,
            display=_PACKED in places,
        )
    ]


def _read_plain(path: Path, place: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint16]:
    return np.fromfile(path, "<u2", math.prod(shape), offset=place).reshape(shape)


def _read_packed(path: Path, place: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint16]:
    slices = []
    with open(path, "rb") as file:
        file.seek(place)
        for _ in range(shape[0]):
            (length,) = struct.unpack("<I", file.read(4))
            if length > path.stat().st_size:
                raise ValueError("a B-scan ends behind the file")
            with Image.open(io.BytesIO(file.read(length)), formats=("JPEG2000", "JPEG")) as image:
                if image.size != shape[:0:-1]:
                    raise ValueError(f"a B-scan of {image.size} pixels")
                slices.append(np.asarray(image.convert("L") if image.mode == "RGB" else image))
    return np.stack(slices)


def find_zeiss(path: Path) -> list[OctImage]:
    """Find the B-scans of a Zeiss Cirrus cube: bare voxels, 512 x 128 or 200 x 200 A-scans.

    The file itself says nothing; the eye is taken from the name that the scanner gave it.

    Raises
    ------
    InputError
        If its size is not one of a cube.
    """
    size = path.stat().st_size
    if size not in ZEISS_SHAPES:
        raise InputError(
            f"its {size} bytes are not those of a Zeiss Cirrus cube (512 x 128 or 200 x 200)",
            path=path,
            fix="Export the cube, or open it as DICOM",
        )
    side = re.search(r"(?<![A-Za-z])O([DS])(?![A-Za-z])", path.stem)
    eye: Eye = "" if side is None else "right" if side[1] == "D" else "left"
    shape = ZEISS_SHAPES[size]

    def read() -> npt.NDArray[np.uint8]:
        return np.fromfile(path, np.uint8).reshape(shape)

    return [OctImage(shape, read, spacing=None, eye=eye, upside_down=True, mirrored=True)]
