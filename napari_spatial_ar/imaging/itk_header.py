"""Text headers of NRRD and MetaImage files: what SimpleITK does not report, and what is unsafe.

SimpleITK is given a file only if its header is consistent: some headers crash the process in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.inflate import MOST_COMPRESSION

__all__ = ["DAMAGED", "ITK_SUFFIXES", "ItkHeader", "is_itk_head", "read_itk_header"]

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DAMAGED = (
    "is not an NRRD or MetaImage file that can be read: it is cut short, damaged or of another kind"
)
_HEADER_BYTES = 2**20
_MOST_LINES = 10_000
_META_START = re.compile(rb"\s*(ObjectType|Comment|NDims|ObjectSubType)\s*[=:]")
_SPACES = {
    *("right-anterior-superior", "ras", "left-anterior-superior", "las"),
    *("left-posterior-superior", "lps"),
}
_MM_PER_UNIT = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters"), 1000.0),
}
# Maximum bytes of voxels for each byte of a file, by compression.
_MOST_COMPRESSION = {"raw": 1, "text": 8, "gzip": MOST_COMPRESSION}
# Axes of a supported scan: three of space, one of time, and one of the components of a voxel.
_MOST_AXES = {"NRRD": 5, "MetaImage": 4}
_LARGEST = 2**31 - 1
_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8"), 1),
    **dict.fromkeys(("uint8_t", "met_char", "met_uchar"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16"), 2),
    **dict.fromkeys(("int16_t", "ushort", "unsigned short", "unsigned short int", "uint16"), 2),
    **dict.fromkeys(("uint16_t", "met_short", "met_ushort"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int"), 4),
    **dict.fromkeys(("uint32", "uint32_t", "float", "met_int", "met_uint", "met_float"), 4),
    **dict.fromkeys(("long long", "long long int", "signed long long", "int64", "int64_t"), 8),
    **dict.fromkeys(("signed long long int", "longlong", "ulonglong", "unsigned long long"), 8),
    **dict.fromkeys(("unsigned long long int", "uint64", "uint64_t", "double"), 8),
    **dict.fromkeys(("met_long_long", "met_ulong_long", "met_double"), 8),
    **dict.fromkeys(("met_long", "met_ulong"), 4),  # of MetaIO, on every machine
}
# Fields of MetaImage with one number per axis, and those with a matrix.
_PER_AXIS = ("elementspacing", "elementsize", "offset", "origin", "position", "centerofrotation")
_MATRICES = ("transformmatrix", "rotation", "orientation")
_FIX = "Export or copy it again"
_ENCODINGS = {
    **dict.fromkeys(("txt", "text", "ascii", "hex"), "text"),
    **dict.fromkeys(("gz", "gzip"), "gzip"),
}


@dataclass(frozen=True)
class ItkHeader:
    """Contents of the text header of a file.

    Parameters
    ----------
    kind : str
        ``"NRRD"`` or ``"MetaImage"``.
    files : tuple of Path
        The file itself, and the one with the voxels if it is a separate file.
    axes : int
        Number of axes, including that of the components of a voxel.
    claimed : int
        Bytes of voxels.
    start : int
        Offset of the voxels in their file, in bytes.
    packing : {"raw", "text", "gzip"}
        How the voxels are stored; "gzip" includes zlib's format.
    located : bool
        Whether it states the orientation of the axes in the patient.
    spacing_known : bool
        Whether it states the voxel size.
    mm : float, optional
        Its unit of length in mm; None if the unit is unknown.
    """

    kind: str
    files: tuple[Path, ...]
    axes: int
    claimed: int
    start: int
    packing: str
    located: bool
    spacing_known: bool
    mm: float | None


def is_itk_head(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is NRRD or MetaImage."""
    if head.startswith(b"NRRD000"):
        return True
    return path.suffix.lower() in (".mha", ".mhd") and _META_START.match(head) is not None


def read_itk_header(path: Path) -> ItkHeader:
    """Read the text header.

    Raises
    ------
    InputError
        If it is missing or damaged, or its voxels are in a file that is missing or outside its
        folder, or in one file per slice.
    """
    with guard(path, DAMAGED):
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
        return _nrrd(head, path) if head.startswith(b"NRRD000") else _metaimage(head, path)


def _nrrd(head: bytes, path: Path) -> ItkHeader:
    parts = re.split(rb"\r?\n\r?\n", head, maxsplit=1)
    text = parts[0].decode("latin-1")
    lines = [line for line in text.splitlines()[1:] if not line.startswith("#")]
    fields = _Fields(path, (line.split(": ", 1) for line in lines))
    directions, spacings = fields.get("space directions"), fields.get("spacings")
    units = fields.get("space units" if directions else "units")
    # In quotes; empty for an axis that is not a length.
    named = {unit.strip() for unit in re.findall(r'"([^"]*)"', units)} - {"", "none", "???"}
    data = fields.get("data file", "datafile")
    encoding = fields.get("encoding").lower() or "raw"
    if encoding in ("bz2", "bzip2"):
        raise InputError(
            "is compressed with bzip2",
            path=path,
            fix="Save it with gzip",
        )
    axes = fields.numbers("dimension", 1)[0]
    _check_axes("NRRD", axes, path)
    sizes = fields.numbers("sizes", axes)
    for name in ("kinds", "centers", "centerings", "thicknesses", "axis mins", "axis maxs"):
        fields.check_count(name, axes)
    fields.check_count("spacings", axes)
    packing = _ENCODINGS.get(encoding, "raw")
    files = _voxel_files(path, data)
    skipped = fields.number("byte skip", "byteskip"), fields.number("line skip", "lineskip")
    attached = not data
    start = len(head) - len(parts[1]) if attached and len(parts) == 2 else 0
    start = _after_lines(files[-1], start, skipped[1])
    claimed = _claimed(sizes, fields.get("type"), path)
    if packing == "raw":
        # -1: the voxels are at the end of the file.
        start = (
            max(start, files[-1].stat().st_size - claimed) if skipped[0] < 0 else start + skipped[0]
        )
    return _checked(
        ItkHeader(
            "NRRD",
            files,
            axes=axes,
            claimed=claimed,
            start=start,
            packing=packing,
            located=bool(directions) and fields.get("space").lower() in _SPACES,
            spacing_known=bool(directions) or re.search(r"[1-9]", spacings) is not None,
            mm=_mm(named),
        )
    )


def _metaimage(head: bytes, path: Path) -> ItkHeader:
    end = re.search(rb"(?m)^\s*ElementDataFile\s*[=:][^\n]*\n?", head)
    if end is None:
        raise InputError(DAMAGED, path=path, fix=_FIX)
    text = head[: end.end()].decode("latin-1")
    fields = _Fields(
        path, (re.split(r"\s*[=:]\s*", line, maxsplit=1) for line in text.splitlines())
    )
    data = fields.get("elementdatafile")
    local = data.upper() == "LOCAL"
    axes = fields.numbers("ndims", 1)[0]
    _check_axes("MetaImage", axes, path)
    sizes = fields.numbers("dimsize", axes)
    for name in _PER_AXIS:
        fields.check_count(name, axes)
    for name in _MATRICES:
        fields.check_count(name, axes**2)
    channels = fields.number("elementnumberofchannels", default=1)
    packing = "raw"
    if fields.get("compresseddata").lower().startswith("t"):
        packing = "gzip"
    elif fields.get("binarydata").lower().startswith("f"):
        packing = "text"
    files = _voxel_files(path, "" if local else data)
    claimed = _claimed((*sizes, channels), fields.get("elementtype"), path)
    start, skipped = end.end() if local else 0, fields.number("headersize")
    if packing == "raw" and skipped:
        start = files[-1].stat().st_size - claimed if skipped < 0 else start + skipped
    return _checked(
        ItkHeader(
            "MetaImage",
            files,
            axes=axes,
            claimed=claimed,
            start=max(start, 0),
            packing=packing,
            located=any(fields.get(name) for name in _MATRICES),
            spacing_known=any(fields.get(name) for name in ("elementspacing", "elementsize")),
            mm=_mm({fields.get("distanceunits")} - {""}),
        )
    )


class _Fields:
    """Fields of a header by lower-case name, each at most once."""

    def __init__(self, path: Path, pairs: Iterable[list[str]]) -> None:
        self._path = path
        self._fields: dict[str, str] = {}
        for pair in pairs:
            if len(pair) == 2:
                name = pair[0].strip().lower()
                if name in self._fields and name != "comment":
                    raise self._error(f"has two values for {pair[0].strip()[:40]}")
                self._fields[name] = pair[1].strip()

    def get(self, *names: str) -> str:
        """Value of the first of these fields that exists, else ""."""
        return next((self._fields[name] for name in names if name in self._fields), "")

    def numbers(self, name: str, count: int) -> tuple[int, ...]:
        """Parse ``count`` whole numbers above 0."""
        parts = self.get(name).split()
        good = len(parts) == count and all(re.fullmatch(r"[0-9]{1,10}", part) for part in parts)
        numbers = tuple(map(int, parts)) if good else ()
        if not good or not all(0 < n <= _LARGEST for n in numbers):
            many = "a whole number" if count == 1 else f"{count} whole numbers"
            raise self._error(f"needs {many} above 0 for its {name}")
        return numbers

    def number(self, *names: str, default: int = 0) -> int:
        """Read an optional whole number."""
        text = self.get(*names)
        if text and not re.fullmatch(r"-1|[0-9]{1,10}", text):
            raise self._error(f"has no whole number for its {names[0]}")
        return int(text) if text else default

    def check_count(self, name: str, count: int) -> None:
        """Check that a field, if it exists, has a value for each axis."""
        parts = re.findall(r'"[^"]*"|\S+', self.get(name))
        if parts and len(parts) != count:
            raise self._error(f"has {len(parts)} values for its {name}, not {count}")

    def _error(self, what: str) -> InputError:
        return InputError(f"{what}: its header is damaged", path=self._path, fix=_FIX)


def _check_axes(kind: str, axes: int, path: Path) -> None:
    if not 2 <= axes <= _MOST_AXES[kind]:
        what = f"holds a {axes}-D image, which is not the dimension of a scan"
        raise InputError(what, path=path)


def _claimed(sizes: tuple[int, ...], name: str, path: Path) -> int:
    """Bytes of voxels of this size and type."""
    if name.lower() not in _BYTES:
        known = f" ({name})" if re.fullmatch(r"[\w ]{1,30}", name) else ""
        raise InputError(f"its voxels are of a type that cannot be read{known}", path=path)
    return math.prod(sizes) * _BYTES[name.lower()]


def _after_lines(file: Path, start: int, lines: int) -> int:
    """Offset after skipping this many lines."""
    if lines <= 0:
        return start
    with open(file, "rb") as stream:
        stream.seek(start)
        for _ in range(min(lines, _MOST_LINES)):
            stream.readline(_HEADER_BYTES)
        return stream.tell()


def _checked(header: ItkHeader) -> ItkHeader:
    """Refuse a header that claims more voxels than its file can hold."""
    there = max(0, header.files[-1].stat().st_size - header.start)
    if header.claimed > there * _MOST_COMPRESSION[header.packing]:
        raise InputError(
            f"its header claims {header.claimed} bytes of voxels, more than the file can hold",
            path=header.files[0],
            fix=_FIX,
        )
    return header


def _mm(units: set[str]) -> float | None:
    """Length of the unit in mm; 1 if none is named, None if it is unknown."""
    lengths = {_MM_PER_UNIT.get(unit.lower()) for unit in units} or {1.0}
    return lengths.pop() if len(lengths) == 1 else None


def _voxel_files(path: Path, data: str) -> tuple[Path, ...]:
    """Files of a scan: the header, and the voxels if they are in a separate file."""
    files: tuple[Path, ...] = (path,)
    if data:
        if data.upper().startswith("LIST") or "%" in data:
            raise InputError(
                "its voxels are in one file per slice, which is not supported",
                path=path,
                fix="Save it as one file",
            )
        folder = path.resolve().parent
        file = (folder / data).resolve()
        # A header may refer to files beside it, but to nothing else on this machine.
        if not file.is_relative_to(folder):
            raise InputError(
                "refers to voxels in a file outside its folder, which is not read",
                path=path,
                fix="Put both files into one folder and correct the header",
            )
        if not file.is_file():
            raise InputError(
                "is a header whose file of voxels is not in the same folder",
                path=path,
                fix="Copy both files",
            )
        files = (path, path.parent / data)
    return files
