"""What there is to say of a scan before it is opened, and which scans are the likely choice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from napari_spatial_ar.errors import printable
from napari_spatial_ar.imaging.scan import Scan

__all__ = ["columns", "notes", "ticked_at_first"]

_MODALITIES = {"mri": "MRI", "ct": "CT", "oct": "OCT", "other": "other", "unknown": ""}
# More scans than this are not opened unasked.
_MANY = 4


def columns(scan: Scan) -> tuple[str, ...]:
    """Label, description, modality, plane, size, spacing, what is special."""
    geometry = scan.geometry
    return (
        scan.series.label,
        printable(scan.series.description or _file_name(scan)),
        _MODALITIES[scan.modality],
        geometry.plane if geometry.spacing_known else "",
        " x ".join(str(n) for n in _columns_rows_slices(scan, geometry.display_shape)),
        _spacing(scan),
        ", ".join(_special(scan)),
    )


def _file_name(scan: Scan) -> str:
    """Name by which the user knows the file, or the folder of the pictures: for the screen only."""
    if not scan.series.files:
        return ""
    first = scan.series.files[0]
    return first.name if len(scan.series.files) == 1 else first.parent.name


def _columns_rows_slices(scan: Scan, sizes: Sequence[float]) -> list[float]:
    across = scan.geometry.display_slice_axis
    rows, width = (size for axis, size in enumerate(sizes) if axis != across)
    return [width, rows, sizes[across]]


def _spacing(scan: Scan) -> str:
    geometry = scan.geometry
    if not geometry.spacing_known:
        return "unknown"
    steps = [f"{step:.3g}" for step in _columns_rows_slices(scan, geometry.display_spacing)]
    if not geometry.regular:
        return f"{steps[0]} x {steps[1]} mm in plane"
    return " x ".join(steps) + " mm"


def _special(scan: Scan) -> list[str]:
    found: list[str] = [scan.role] if scan.role != "original" else []
    if not scan.geometry.regular:
        found.append("geometry not regular")
    if scan.warnings:
        found.append("1 warning" if len(scan.warnings) == 1 else f"{len(scan.warnings)} warnings")
    return found


def notes(scan: Scan) -> tuple[str, ...]:
    """Everything the user should know before opening a scan, a sentence each."""
    found = list(scan.warnings)
    if scan.role == "localizer":
        found.insert(0, "A scout image for planning.")
    elif scan.role == "derived":
        found.insert(0, "Computed from other images, not acquired.")
    return tuple(found)


def ticked_at_first(scans: Sequence[Scan]) -> list[bool]:
    """Which scans are opened if the user changes nothing.

    All originals; where these are many, the first of each run (time points, b-values), and where
    there are many runs, the first scan.
    """
    originals = [index for index, scan in enumerate(scans) if scan.role == "original"]
    wanted = originals or [0]
    if len(wanted) > _MANY:
        first_of: dict[Hashable, int] = {}
        for index in wanted:
            first_of.setdefault(_run(scans[index]), index)
        wanted = list(first_of.values())
    if len(wanted) > _MANY:
        wanted = wanted[:1]
    return [index in wanted for index in range(len(scans))]


def _run(scan: Scan) -> Hashable:
    """Return what scans of one run have in common: their series, or their files."""
    return scan.series.uid or scan.series.files or id(scan)
