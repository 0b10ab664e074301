"""DICOM series as scans, found from their headers, or the reason why they are not scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.classes import class_name
from napari_spatial_ar.imaging.dicom.copies import without_copies
from napari_spatial_ar.imaging.dicom.frames import (
    Frame,
    is_dicom,
    patient_key,
    read_frames,
    series_key,
)
from napari_spatial_ar.imaging.dicom.grid import patient_grid, plain_grid
from napari_spatial_ar.imaging.dicom.header import DAMAGED, read_whole_header
from napari_spatial_ar.imaging.dicom.mosaic import find_tiles
from napari_spatial_ar.imaging.dicom.reader import FrameReader
from napari_spatial_ar.imaging.dicom.stacks import Stack, alike, differences, find_stacks
from napari_spatial_ar.imaging.dicom.words import role_of
from napari_spatial_ar.imaging.gather import attempt, gather, left_out, safe_name
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan, VoxelReader
from napari_spatial_ar.imaging.series import Intensity, Modality, Series

__all__ = [
    "find_series",
    "group_series",
    "is_dicom",
    "is_unread",
    "patient_key",
    "read_dicom",
    "read_series",
    "warn_of_unread",
]

# Wider than any scanner's bore or field of view; composed images are longer, but not wider.
_BORE_MM = 850.0
_HEAD_BYTES = 2**16
_IN_A_BORE = frozenset({"CT", "MR", "PT"})
_MODALITIES: dict[str, Modality] = {"CT": "ct", "MR": "mri", "OPT": "oct", "OCT": "oct"}


def group_series(files: Sequence[str | Path]) -> list[tuple[Path, ...]]:
    """Group files by series (study, patient and UID), in the order the series are met.

    A file that cannot be read is a group by itself: reading it reports the reason.
    """
    groups: dict[tuple[str, ...], list[Path]] = {}
    for number, path in enumerate(map(Path, files)):
        try:
            key = series_key(path)
        except InputError:
            key = (f"unreadable {number}",)
        groups.setdefault(key, []).append(path)
    return [tuple(group) for group in groups.values()]


def is_unread(path: Path) -> bool:
    """Whether not even the header of a DICOM file can be read."""
    try:
        series_key(path)
    except InputError:
        return True
    return False


def warn_of_unread(scans: Sequence[Scan], files: Sequence[Path]) -> list[Scan]:
    """Warn on DICOM scans if a file in their folder cannot be read: it may be one of their slices.

    Parameters
    ----------
    scans : sequence of Scan
        Of any format.
    files : sequence of Path
        DICOM files with unreadable headers. One that contains a scan's UID belongs to that scan;
        any other may belong to any scan in its folder.
    """
    warned = list(scans)
    for path in files:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        beside = [
            n
            for n, scan in enumerate(scans)
            if scan.series.uid and any(own.parent == path.parent for own in scan.series.files)
        ]
        own = [n for n in beside if scans[n].series.uid.encode() in head]
        name = safe_name(path) or "its name is not shown"
        for n in own or beside:
            warned[n] = warned[n].warn(
                f"A slice may be missing: a DICOM file in the folder of the others ({name}) cannot "
                "be read."
            )
    return warned


def read_dicom(files: Sequence[str | Path]) -> list[Scan]:
    """Read DICOM files of any number of series, in any order (see `find_series`).

    Raises
    ------
    InputError
        The first series' error, if none of them can be read.
    """
    return gather(partial(read_series, group) for group in group_series(files))


def read_series(files: Sequence[str | Path]) -> list[Scan]:
    """Read the DICOM files of one series (see `find_series`).

    Raises
    ------
    InputError
        As `find_series`, or if pixels are damaged.
    """

    def read(scan: Scan) -> list[Scan]:
        return [scan.read()]

    return gather(partial(read, scan) for scan in find_series(files))


def find_series(files: Sequence[str | Path]) -> list[Scan]:
    """Find the volumes of one series from its headers, single-frame or multi-frame, in any order.

    Parameters
    ----------
    files : sequence of path-like
        All files with one SeriesInstanceUID.

    Returns
    -------
    list of Scan
        One, or one for each image type, echo, time point, b-value, run, orientation, size and
        pixel spacing in the series (see `find_stacks`). Slices are sorted along their normal;
        voxels (Z, Y, X) = (slice, row, column) are rescaled (Hounsfield units in a CT).
        ``warnings`` report what was set apart, and irregular geometry.

    Raises
    ------
    InputError
        If the slices are not a volume (most at one position, or around an axis), a file is damaged,
        or none contains an image.
    """
    paths = [Path(file) for file in files]
    found = [read_frames(path) for path in paths]
    frames, remarks = without_copies([frame for of_file in found for frame in of_file])
    if not frames:
        raise _no_image(paths)
    stacks = find_stacks(frames)
    alone = all(len(s.frames) == 1 and _is_slice(s.first) for s in stacks)
    if alone and len(stacks) > 3 and not all(alike(stacks[0].first, s.first) for s in stacks):
        raise InputError(
            f"the {len(stacks)} slices have {len(stacks)} different orientations, sizes or types: "
            "they are not one volume",
            path=paths[0].parent,
            fix="Open the slices one by one",
        )
    scans, errors = attempt(partial(_scan, stack) for stack in stacks)
    if errors:
        scans[0] = scans[0].warn(*left_out(errors))
    scans[0] = scans[0].warn(*remarks)
    without = sum(not of_file for of_file in found)
    if without:
        are = "1 file of the series is" if without == 1 else f"{without} files of the series are"
        scans[0] = scans[0].warn(f"{are} no image (but a report, a segmentation or the like).")
    if len(stacks) > 1:
        sizes = ", ".join(str(len(stack.frames)) for stack in stacks)
        if len(stacks) > 8:
            sizes = f"{min(len(s.frames) for s in stacks)} to {max(len(s.frames) for s in stacks)}"
        by = differences(stacks)
        apart = f"The series holds {len(stacks)} stacks ({sizes} slices), which were set apart" + (
            f" by {', '.join(by)}." if by else "."
        )
        scans = [scan.warn(apart) for scan in scans]
    return scans


def _no_image(paths: Sequence[Path]) -> InputError:
    """Describe a series that is not an image."""
    name = ""
    if paths:
        with guard(paths[0], DAMAGED):
            header = read_whole_header(paths[0], ["SOPClassUID"])
            name = class_name(str(header.get("SOPClassUID") or ""))
    what = f"but a {name} object" if name else "but a report, a plan, a segmentation or a map"
    return InputError(f"holds no image of a patient ({what})", path=paths[0] if paths else None)


def _with_one_background(frames: tuple[Frame, ...]) -> tuple[tuple[Frame, ...], float | None]:
    """Frames whose padding all has the same value, and that value; None if they have no padding."""
    paddings = [frame.values.padding for frame in frames if frame.values.padding is not None]
    if not paddings:
        return frames, None
    least = min(padding.background for padding in paddings)

    def padded(frame: Frame) -> Frame:
        padding = frame.values.padding
        if padding is None or padding.background == least:
            return frame
        padding = replace(padding, background=least)
        return replace(frame, values=replace(frame.values, padding=padding))

    return tuple(map(padded, frames)), least


def _is_slice(frame: Frame) -> bool:
    return frame.located and not frame.sheet


def _check_is_slice(frame: Frame) -> None:
    """Refuse an image that cannot be one slice of a patient (`InputError`)."""
    if frame.axes is not None and frame.position is None:
        raise InputError(
            "its header states its orientation but not its position: it may be a sheet of slices "
            "and is not read as one",
            path=frame.file,
            fix="Export the series as single images, or as enhanced DICOM",
        )
    measured = frame.modality in _IN_A_BORE and not frame.storage.display
    if frame.spacing is None or not measured:
        return
    height, width = (n * s for n, s in zip(frame.shape, frame.spacing, strict=True))
    if min(height, width) > _BORE_MM:
        raise InputError(
            f"it would be {width:.0f} x {height:.0f} mm, more than fits into a scanner: it seems "
            "to be a sheet of slices and is not read as one",
            path=frame.file,
            fix="Export the series as single images, or as enhanced DICOM",
        )


def _scan(stack: Stack) -> Scan:
    frames, background = _with_one_background(stack.frames)
    first = frames[0]
    voxels: VoxelReader
    if first.sheet:
        voxels, geometry, odd = find_tiles(first)
        numbers: tuple[int, ...] = ()
    else:
        _check_is_slice(first)
        path = first.file.parent if len(frames) > 1 else first.file
        geometry, odd = patient_grid(frames, path) if first.located else plain_grid(frames)
        voxels, numbers = FrameReader(frames), tuple(frame.number for frame in frames)
    files = tuple(frame.file for frame in frames)
    modality = _MODALITIES.get(first.modality, "other")
    middle = frames[len(frames) // 2].values
    role = "derived" if first.modality == "RTDOSE" else role_of(first.kind.image_type)
    return Scan(
        voxels=voxels,
        geometry=geometry,
        modality=modality,
        series=Series(
            label=", ".join(part for part in (first.label, stack.words) if part),
            files=files if len(set(files)) > 1 else files[:1],
            uid=first.series,
            description=first.description,
            frames=numbers,
            acquired=first.acquisition,
        ),
        intensity=_intensity(frames, modality),
        unit=middle.unit,
        window=middle.window,
        role=role,
        background=background,
        warnings=(*odd, *_remarks(stack, role == "localizer")),
    )


def _intensity(frames: Sequence[Frame], modality: Modality) -> Intensity:
    first = frames[0]
    if first.storage.display and all(frame.values.as_stored for frame in frames):
        return "grey8"
    hounsfield = modality == "ct" and all(frame.values.unit == "HU" for frame in frames)
    return "hu" if hounsfield else "arbitrary"


def _remarks(stack: Stack, localizer: bool) -> list[str]:
    """Sentences for the user on everything but the geometry."""
    of_frames = (r for frame in stack.frames for r in (*frame.remarks, *frame.values.remarks))
    remarks = [*stack.remarks, *dict.fromkeys(of_frames)]
    if localizer:
        remarks.append("This is a localizer (scout) image, not a scan.")
    if stack.first.storage.coloured:
        remarks.append("The file is in colour and is read as grey (luminance).")
    units = {frame.values.unit for frame in stack.frames}
    if len(units) > 1:
        remarks.append("Its slices do not all have the same unit.")
    return remarks
