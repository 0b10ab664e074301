"""DICOM series as volumes on a regular grid, or a sentence that says why they are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom_frames import (
    Frame,
    is_dicom,
    patient_key,
    read_frames,
    read_pixels,
    series_uid,
)
from napari_spatial_ar.imaging.gather import gather
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.volume import Intensity, Modality, Series, Volume

__all__ = ["find_series", "group_series", "is_dicom", "patient_key", "read_dicom", "read_series"]

_MODALITIES: dict[str, Modality] = {"CT": "ct", "MR": "mri", "OPT": "oct", "OCT": "oct"}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_SAME_AXES = 1e-3
_SAME_PLACE_MM = 1e-4
# Positions may be rounded to 0.1 mm: a slice may so lie this far from its place, but never more
# than this share of the distance between slices.
_UNEVEN_MM = 0.1
_UNEVEN_SHARE = 0.25
_TILT_DEGREES = 0.5


def group_series(files: Sequence[str | Path]) -> list[tuple[Path, ...]]:
    """Group files by SeriesInstanceUID, in the order the series are met.

    A file that cannot be read is a group by itself: reading it says why.
    """
    groups: dict[str, list[Path]] = {}
    for number, path in enumerate(map(Path, files)):
        try:
            uid = series_uid(path)
        except InputError:
            uid = f"unreadable {number}"
        groups.setdefault(uid, []).append(path)
    return [tuple(group) for group in groups.values()]


def read_dicom(files: Sequence[str | Path]) -> list[Volume]:
    """Read DICOM files of any number of series, in any order (see `read_series`).

    Raises
    ------
    InputError
        The first series' error, if none of them can be read.
    """
    return gather(partial(read_series, group) for group in group_series(files))


def read_series(files: Sequence[str | Path]) -> list[Volume]:
    """Read the DICOM files of one series, single-frame or multi-frame, in any order.

    Parameters
    ----------
    files : sequence of path-like
        All files with one SeriesInstanceUID.

    Returns
    -------
    list of Volume
        One, or one for each image type, echo, time point, stack, orientation and size in the
        series. Slices are sorted along their normal; voxels (Z, Y, X) = (slice, row, column)
        are rescaled (Hounsfield units in a CT). ``warnings`` say what was set apart.

    Raises
    ------
    InputError
        If the slices are no regular volume (at one place, unevenly spaced, of a tilted
        gantry, around an axis), a file is damaged, or none holds an image.
    """
    paths = [Path(file) for file in files]
    frames = [frame for path in paths for frame in read_frames(path)]
    if not frames:
        raise InputError("holds no image", path=paths[0] if paths else None)
    stacks = _stacks(frames)
    if len(stacks) > 3 and all(len(stack) == 1 and stack[0].located for stack in stacks):
        raise InputError(
            f"the {len(stacks)} slices have {len(stacks)} different orientations, sizes or types: "
            "they are not one volume",
            path=paths[0].parent,
            fix="Open the slices one by one",
        )
    volumes = gather(partial(_read_stack, stack) for stack in stacks)
    if len(stacks) > 1:
        sizes = ", ".join(str(len(stack)) for stack in stacks)
        sentence = (
            f"The series holds {len(stacks)} stacks ({sizes} slices) of different orientation, "
            "size, type or time, which were set apart."
        )
        volumes = [replace(v, warnings=(*v.warnings, sentence)) for v in volumes]
    return volumes


def find_series(files: Sequence[str | Path]) -> list[Scan]:
    """Volumes of one series, by its headers; see `read_series`."""
    return [Scan.of(volume) for volume in read_series(files)]


def _stacks(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames that may be slices of one volume, by kind, size and orientation."""
    stacks: list[list[Frame]] = []
    for frame in frames:
        for stack in stacks:
            if _together(stack[0], frame):
                stack.append(frame)
                break
        else:
            stacks.append([frame])
    return stacks


def _together(one: Frame, other: Frame) -> bool:
    if (one.kind, one.shape, one.located) != (other.kind, other.shape, other.located):
        return False
    if one.axes is None or other.axes is None:
        return True
    return bool(np.abs(one.axes - other.axes).max() <= _SAME_AXES)


def _read_stack(frames: Sequence[Frame]) -> list[Volume]:
    folder = frames[0].file.parent if len(frames) > 1 else frames[0].file
    if frames[0].located:
        frames = sorted(frames, key=attrgetter("height"))
        geometry = _patient_geometry(frames, folder)
    else:
        geometry = _plain_geometry(frames)
    data, display, coloured = _voxels(frames)
    warnings = []
    if not frames[0].located:
        warnings.append("The file does not say where in the patient the image lies.")
    if "LOCALIZER" in frames[0].kind[1] or "SURVIEW" in frames[0].kind[1]:
        warnings.append("This is a localizer (scout) image, not a scan.")
    if coloured:
        warnings.append("Colour was turned into grey (luminance).")
    modality = _MODALITIES.get(frames[0].modality, "other")
    intensity: Intensity = "hu" if modality == "ct" else "arbitrary"
    rescaled = any((frame.slope, frame.intercept) != (1.0, 0.0) for frame in frames)
    if display and not rescaled:
        intensity = "grey8"
    return [
        Volume(
            data=data,
            geometry=geometry,
            modality=modality,
            series=Series(
                label=frames[0].label,
                files=tuple(dict.fromkeys(frame.file for frame in frames)),
                uid=frames[0].series,
            ),
            intensity=intensity,
            warnings=tuple(warnings),
        )
    ]


def _voxels(frames: Sequence[Frame]) -> tuple[npt.NDArray[np.float32], bool, bool]:
    """Rescaled (slice, row, column) float32; whether 8-bit for display; whether in colour."""
    data = np.empty((len(frames), *frames[0].shape), dtype=np.float32)
    display, coloured = True, False
    places: dict[Path, list[int]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame.file, []).append(place)
    for file, wanted in places.items():
        pixels = read_pixels(file)
        display &= pixels.display
        coloured |= pixels.coloured
        for place in wanted:
            frame = frames[place]
            data[place] = pixels.grey[frame.number]
            if (frame.slope, frame.intercept) != (1.0, 0.0):
                data[place] = pixels.grey[frame.number] * frame.slope + frame.intercept
    return data, display, coloured


def _plain_geometry(frames: Sequence[Frame]) -> Geometry:
    """Grid of images without a position: upright, in mm only where all distances are given."""
    shape = (len(frames), *frames[0].shape)
    spacing, thickness = frames[0].spacing, frames[0].thickness
    if spacing is None or (thickness is None and len(frames) > 1):
        return Geometry.without_spacing(shape)
    return Geometry(shape, np.diag([-spacing[1], -spacing[0], thickness or 1.0, 1.0]))


def _patient_geometry(frames: Sequence[Frame], path: Path) -> Geometry:
    """Grid of slices sorted along their normal, or an InputError that says why there is none."""
    first = frames[0]
    if first.axes is None or first.spacing is None or min(first.spacing) <= 0:
        raise InputError("the DICOM header has no pixel spacing", path=path)
    positions = np.array([frame.position for frame in frames])
    if len(frames) == 1:
        step = first.normal * (first.thickness or 1.0)
    else:
        _check_regular(positions, first.normal, path)
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
    affine = np.eye(4)
    affine[:3, 0] = _LPS_TO_RAS @ first.axes[0] * first.spacing[1]
    affine[:3, 1] = _LPS_TO_RAS @ first.axes[1] * first.spacing[0]
    affine[:3, 2] = _LPS_TO_RAS @ step
    affine[:3, 3] = _LPS_TO_RAS @ positions[0]
    try:
        return Geometry((len(frames), *first.shape), affine)
    except InputError as error:
        raise InputError(error.what, path=path) from None


def _check_regular(
    positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], path: Path
) -> None:
    """Refuse slice positions (N, 3), sorted along the normal, that are on no regular grid."""
    along = positions @ normal
    gaps = np.diff(along)
    same = int(np.count_nonzero(gaps < _SAME_PLACE_MM))
    if same:
        raise InputError(
            f"{same} of its {len(positions)} slices lie at the same place as another (the first at "
            f"{along[int(gaps.argmin())]:.2f} mm along the normal): they are not one volume",
            path=path,
            fix="Open one time point or reconstruction at a time",
        )
    usual = float(np.median(gaps))
    off = np.abs(along - np.linspace(along[0], along[-1], len(along))).max()
    if off > min(_UNEVEN_MM, _UNEVEN_SHARE * usual):
        worst = int(np.abs(gaps - usual).argmax())
        raise InputError(
            f"the slices are unevenly spaced: {gaps[worst]:.2f} mm between slices {worst + 1} and "
            f"{worst + 2}, where {usual:.2f} mm is usual",
            path=path,
            fix="See whether slices are missing, and export the whole series",
        )
    step = positions[-1] - positions[0]
    tilt = float(np.degrees(np.arccos(min(1.0, step @ normal / np.linalg.norm(step)))))
    if tilt > _TILT_DEGREES:
        raise InputError(
            f"the gantry was tilted by {tilt:.1f} degrees: the slices do not lie straight above "
            "each other",
            path=path,
            fix="Resample it to a regular volume first",
        )
