"""Text headers of NRRD and MetaImage files: what SimpleITK does not tell, and what is not safe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.guard import guard

__all__ = ["DAMAGED", "ITK_SUFFIXES", "ItkHeader", "is_itk_head", "read_itk_header"]

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DAMAGED = (
    "is not an NRRD or MetaImage file that can be read: it is cut short, damaged or of another kind"
)
_HEADER_BYTES = 2**20
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
# Bytes of voxels that one byte of a file may hold, by how it is packed.
_MOST_COMPRESSION = {"raw": 1, "text": 8, "gzip": 1100}
_ENCODINGS = {
    **dict.fromkeys(("txt", "text", "ascii", "hex"), "text"),
    **dict.fromkeys(("gz", "gzip"), "gzip"),
}


@dataclass(frozen=True)
class ItkHeader:
    """What the text header of a file says.

    Parameters
    ----------
    kind : str
        ``"NRRD"`` or ``"MetaImage"``.
    files : tuple of Path
        The file itself, and the one with the voxels where it is another.
    most_bytes : int
        More bytes of voxels than this the files cannot hold.
    located : bool
        Whether it says how the axes lie in the patient.
    spacing_known : bool
        Whether it says how large a voxel is.
    mm : float, optional
        Its unit of length in mm; None if it is none that is known.
    """

    kind: str
    files: tuple[Path, ...]
    most_bytes: int
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
        If it is missing or damaged, or its voxels are in files that are not beside it, not in
        its folder, or one for each slice.
    """
    with guard(path, DAMAGED):
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
        return _nrrd(head, path) if head.startswith(b"NRRD000") else _metaimage(head, path)


def _nrrd(head: bytes, path: Path) -> ItkHeader:
    text = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("latin-1")
    pairs = (line.split(": ", 1) for line in text.splitlines()[1:] if not line.startswith("#"))
    fields = {pair[0].strip().lower(): pair[1].strip() for pair in pairs if len(pair) == 2}
    directions, spacings = fields.get("space directions", ""), fields.get("spacings", "")
    units = fields.get("space units" if directions else "units", "")
    # In quotes; none for an axis that is no length.
    named = {unit.strip() for unit in re.findall(r'"([^"]*)"', units)} - {"", "none", "???"}
    data = fields.get("data file", fields.get("datafile", ""))
    encoding = fields.get("encoding", "raw").lower()
    if encoding in ("bz2", "bzip2"):
        raise InputError("is packed by bzip2, which is not read", path=path, fix="Save it by gzip")
    packing = _ENCODINGS.get(encoding, "raw")
    return ItkHeader(
        "NRRD",
        *_voxel_files(path, data, packing),
        located=bool(directions) and fields.get("space", "").lower() in _SPACES,
        spacing_known=bool(directions) or re.search(r"[1-9]", spacings) is not None,
        mm=_mm(named),
    )


def _metaimage(head: bytes, path: Path) -> ItkHeader:
    end = re.search(rb"(?m)^\s*ElementDataFile\s*[=:][^\n]*", head)
    if end is None:
        raise InputError(DAMAGED, path=path, fix="Export or copy it again")
    text = head[: end.end()].decode("latin-1")
    pairs = (re.split(r"\s*[=:]\s*", line, maxsplit=1) for line in text.splitlines())
    fields = {pair[0].strip().lower(): pair[1].strip() for pair in pairs if len(pair) == 2}
    data = fields["elementdatafile"]
    packing = "raw"
    if fields.get("compresseddata", "").lower().startswith("t"):
        packing = "gzip"
    elif fields.get("binarydata", "true").lower().startswith("f"):
        packing = "text"
    return ItkHeader(
        "MetaImage",
        *_voxel_files(path, "" if data.upper() == "LOCAL" else data, packing),
        located=any(name in fields for name in ("transformmatrix", "rotation", "orientation")),
        spacing_known=any(name in fields for name in ("elementspacing", "elementsize")),
        mm=_mm({fields["distanceunits"]} if "distanceunits" in fields else set()),
    )


def _mm(units: set[str]) -> float | None:
    """Length of the unit in mm; mm where none is named, None where it is not known."""
    lengths = {_MM_PER_UNIT.get(unit.lower()) for unit in units} or {1.0}
    return lengths.pop() if len(lengths) == 1 else None


def _voxel_files(path: Path, data: str, packing: str) -> tuple[tuple[Path, ...], int]:
    """Files of a scan, and the most bytes of voxels they can hold."""
    files: tuple[Path, ...] = (path,)
    if data:
        if data.upper().startswith("LIST") or "%" in data:
            raise InputError(
                "its voxels are in one file for each slice, which is not read",
                path=path,
                fix="Save it as one file",
            )
        folder = path.resolve().parent
        file = (folder / data).resolve()
        # A header names what lies beside it, and nothing else on this machine.
        if not file.is_relative_to(folder):
            raise InputError(
                "says that its voxels are in a file outside of its folder, which is not read",
                path=path,
                fix="Put both files into one folder and correct the header",
            )
        if not file.is_file():
            raise InputError(
                "is a header, and the file with its voxels is not beside it",
                path=path,
                fix="Copy both files",
            )
        files = (path, path.parent / data)
    return files, files[-1].stat().st_size * _MOST_COMPRESSION[packing]
