"""OCT volumes in the manufacturers' own formats, detected by content."""

from __future__ import annotations

import importlib
import io
import math
import re
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.memory import check_fits
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series

__all__ = [
    "DAMAGED",
    "OCT_SUFFIXES",
    "ZEISS_SHAPES",
    "Eye",
    "OctImage",
    "find_e2e",
    "find_oct",
    "find_topcon",
    "find_vol",
    "find_zeiss",
    "is_oct_head",
]

DAMAGED = "is not an OCT file that can be read: it is cut short, damaged or of another kind"


Eye = Literal["right", "left", ""]


@dataclass(frozen=True, eq=False)
class OctImage:
    """One stack of B-scans in a file.

    Parameters
    ----------
    shape : (N, rows, columns)
        B-scans, samples in depth, A-scans.
    read : callable
        Reads the B-scans as an array of that shape, uint8 or uint16.
    spacing : (float, float, float), optional
        Distance between B-scans, in depth and between A-scans in mm; None if the file does not
        state it.
    eye : {"right", "left", ""}
        Which eye; "" if the file does not state it.
    parallel : bool
        Whether B-scans are parallel (not a star, a circle or a cross).
    upside_down, mirrored : bool
        Whether rows are stored from the deepest upwards, and columns from the patient's left.
    display : bool
        Whether values are 8-bit grey for display.
    """

    shape: tuple[int, int, int]
    read: Callable[[], npt.NDArray[np.generic]] = field(repr=False)
    spacing: tuple[float, float, float] | None
    eye: Eye
    parallel: bool = True
    upside_down: bool = False
    mirrored: bool = False
    display: bool = True


_HEADER_BYTES = 15


_MOST_CHUNKS = 10_000


_PACKED = "@IMG_JPEG"  # JPEG 2000, concatenated


_PLAIN = ("@IMG_MOT_COMP_03", "@IMG_SCAN_03")


_PARALLEL_MODES = (2,)  # 3: star, 4: cross


_CUBE_EYES: dict[int, Eye] = {0: "right", 1: "left"}


# Bytes of a cube, and its B-scans, depth and A-scans.
ZEISS_SHAPES = {math.prod(shape): shape for shape in ((128, 1024, 512), (200, 1024, 200))}


def _chunks(file: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Offset and length of each chunk; the first one if several share a name."""
    places: dict[str, tuple[int, int]] = {}
    file.seek(_HEADER_BYTES)
    for _ in range(_MOST_CHUNKS):
        length = file.read(1)
        if not length or length == b"\0":
            break
        name = file.read(length[0]).decode("latin-1")
        (count,) = struct.unpack("<I", file.read(4))
        if file.tell() + count > size:
            raise ValueError("a chunk extends past the end of the file")
        places.setdefault(name, (file.tell(), count))
        file.seek(count, io.SEEK_CUR)
    return places


def find_topcon(path: Path) -> list[OctImage]:
    """Find the B-scans of a Topcon file.

    Raises
    ------
    InputError
        If there are none. Any other error means that the file is damaged.
    """
    with open(path, "rb") as file:
        places = _chunks(file, path.stat().st_size)

        def start(name: str, count: int) -> bytes:
            """First bytes of a chunk; empty if there is no such chunk."""
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
            eye=_CUBE_EYES.get(eye[0], "") if eye else "",
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
                raise ValueError("a B-scan extends past the end of the file")
            with Image.open(io.BytesIO(file.read(length)), formats=("JPEG2000", "JPEG")) as image:
                if image.size != shape[:0:-1]:
                    raise ValueError(f"a B-scan of {image.size} pixels")
                slices.append(np.asarray(image.convert("L") if image.mode == "RGB" else image))
    return np.stack(slices)


def find_zeiss(path: Path) -> list[OctImage]:
    """Find the B-scans of a Zeiss Cirrus cube: raw voxels, 512 x 128 or 200 x 200 A-scans.

    The file has no header; the eye is taken from the name given by the scanner.

    Raises
    ------
    InputError
        If its size is not that of a cube.
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


_EYES: dict[str, Eye] = {"OD": "right", "R": "right", "OS": "left", "L": "left"}


_CIRCLE, _STAR = 2, 5


_VOL_HEADER_BYTES = 2048


# Types of the parts of an .e2e file, and of its images.
_LATERALITY, _IMAGE, _B_SCAN = 11, 2**30, 35652097


def _eyepy(name: str, path: Path) -> Any:
    """Import a module of eyepy, an optional dependency."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            "Heidelberg OCT files are read with eyepy, which is not installed",
            path=path,
            fix='Run: pip install "napari-spatial-ar[oct]"',
        ) from None


def find_vol(path: Path) -> list[OctImage]:
    """Find the B-scans of a .vol file by its header.

    Raises
    ------
    InputError
        If the header claims more than the file holds, or eyepy is not installed. Any other error
        means that the file is damaged.
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
    step = wide if count == 1 else step  # a single B-scan has no distance to the next
    steps = step, deep, wide
    good = all(math.isfinite(s) and s > 0 for s in steps)

    def read() -> npt.NDArray[np.generic]:
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

    It states the voxel size in depth, but not the distance between A-scans or B-scans.

    Raises
    ------
    InputError
        If there are none, or eyepy is not installed. Any other error means that the file is
        damaged.
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
    """B-scans among the parts of a series, in order."""
    found = []
    for _, piece in sorted(series.slices.items()):
        images = [
            part for kind in piece.folders if int(kind) == 2**30 for part in piece.folders[kind]
        ]
        found += [part for part in images if part.data.type == _B_SCAN][:1]
    return found


def _read_e2e(path: Path, place: int) -> npt.NDArray[np.generic]:
    module = _eyepy("eyepy.io.he.e2e_reader", path)
    grey = _eyepy("eyepy.core.utils", path).from_e2e_intensity
    with module.HeE2eReader(str(path)) as reader:
        scans = _b_scans(reader.series[place])
        return np.stack([grey(np.array(scan.data.data, np.float32)) for scan in scans])


def _check_chain(path: Path) -> None:
    """Follow a file's chunks as eyepy does, which never ends if they form a loop."""
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
                raise InputError("its parts form a loop: the file is damaged", path=path)
            at = start + length + 60


OCT_SUFFIXES = (".vol", ".e2e", ".fda", ".fds")


_STARTS: dict[bytes, Callable[[Path], list[OctImage]]] = {
    b"HSF-OCT-": find_vol,
    b"CMDb": find_e2e,
    b"FOCT": find_topcon,
}


_PLACE_WARNING = (
    "The file does not state where the scan is in the patient: rows are assumed to run backwards "
    "(deeper) and columns to the patient's left, as in a horizontal B-scan, and B-scans upwards. "
    "Above and below, and in a vertical B-scan the columns, may be wrong."
)


def _finder(head: bytes, path: Path) -> Callable[[Path], list[OctImage]] | None:
    for start, find in _STARTS.items():
        if head.startswith(start):
            return find
    return find_zeiss if path.suffix.lower() == ".img" else None


def is_oct_head(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes comes from an OCT scanner.

    Zeiss writes raw voxels without a header: its files are recognised by suffix (.img) and size.
    """
    find = _finder(head, path)
    return find is not None and (find is not find_zeiss or path.stat().st_size in ZEISS_SHAPES)


@dataclass(eq=False)
class _OctVoxels:
    """Reader of a stack of B-scans (see `napari_spatial_ar.imaging.scan`), all of them together."""

    path: Path
    image: OctImage
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _kept: npt.NDArray[np.generic] | None = field(default=None, repr=False)

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

    def _read(self) -> npt.NDArray[np.generic]:
        check_fits(2 * math.prod(self.image.shape), self.path)
        stored = self.image.read()
        if stored.shape != self.image.shape:
            raise ValueError(f"B-scans of shape {stored.shape}, not {self.image.shape}")
        return stored


def find_oct(path: str | Path) -> list[Scan]:
    """Find the stacks of B-scans in a file from an OCT scanner.

    Parameters
    ----------
    path : path-like
        Heidelberg .vol or .e2e, Topcon .fda or .fds, detected by content; Zeiss Cirrus .img.

    Returns
    -------
    list of Scan
        Modality ``"oct"``. Slices are B-scans in file order; upright, depth runs down. In mm if the
        file states the distances between B-scans, samples and A-scans.

    Raises
    ------
    InputError
        If the file is missing, damaged or of another kind, claims more than it holds, or the
        library for it is not installed.
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
        warnings.append("The file does not state the voxel size: lengths are in pixels.")
    if not image.parallel:
        warnings.append(
            "The geometry is not regular: the B-scans are not parallel (a star, circle or cross)."
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
