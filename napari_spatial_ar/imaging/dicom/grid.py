"""Grid of a DICOM stack, with the reason if it is not regular."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.frames import Frame
from napari_spatial_ar.imaging.dicom.groups import SIGNS
from napari_spatial_ar.imaging.dicom.places import uneven
from napari_spatial_ar.imaging.dicom.stacks import same_place_of
from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["LPS_TO_RAS", "affine_of", "patient_grid", "plain_grid"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_TILT_DEGREES = 0.5
_NOT_REGULAR = "The geometry is not regular: nothing is measured in mm."
_SHEARED = (
    "The geometry is not regular: volumes and sizes in a slice are measured, nothing across slices."
)


def affine_of(
    frame: Frame, step: npt.NDArray[np.float64], origin: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Voxel (column, row, slice) to RAS mm, from the step between slices and the first position."""
    assert frame.axes is not None
    assert frame.spacing is not None
    affine = np.eye(4)
    affine[:3, 0] = LPS_TO_RAS @ frame.axes[0] * frame.spacing[1]
    affine[:3, 1] = LPS_TO_RAS @ frame.axes[1] * frame.spacing[0]
    affine[:3, 2] = LPS_TO_RAS @ step
    affine[:3, 3] = LPS_TO_RAS @ origin
    return affine


def plain_grid(frames: Sequence[Frame]) -> tuple[Geometry, tuple[str, ...]]:
    """Grid of images without a position: upright, and in mm only if all distances are known."""
    shape = (len(frames), *frames[0].shape)
    spacing, thickness = frames[0].spacing, frames[0].thickness
    warning = (
        "The file does not state where the image is in the patient: which side is left is not "
        "known.",
    )
    if spacing is None or min(spacing) <= 0 or (thickness is None and len(frames) > 1):
        return Geometry.without_spacing(shape), warning
    return Geometry(shape, np.diag([-spacing[1], -spacing[0], thickness or 1.0, 1.0])), warning


def patient_grid(frames: Sequence[Frame], path: Path) -> tuple[Geometry, tuple[str, ...]]:
    """Grid of slices sorted along their normal, and warnings if it is not regular.

    Raises
    ------
    InputError
        If there is no pixel spacing, or most slices share their position with another.
    """
    first = frames[0]
    if first.axes is None or first.spacing is None:
        raise InputError("the DICOM header has no pixel spacing", path=path)
    if min(first.spacing) <= 0:
        rows, columns = first.spacing
        raise InputError(
            f"its PixelSpacing is {rows:g} x {columns:g} mm, which is impossible", path=path
        )
    shape = (len(frames), *first.shape)
    positions = np.array([frame.position for frame in frames])
    if len(frames) == 1:
        affine = affine_of(first, first.normal * (first.thickness or 1.0), positions[0])
        return _geometry(shape, affine, path), ()
    same = same_place_of(frames)
    if np.ptp(positions @ first.normal) <= same and _is_film(frames):
        film = f"All {len(frames)} images are at one position: they are a film, not a volume."
        return Geometry.without_spacing(shape), (film,)
    sentences = (
        _repeated(positions, first.normal, same, path),
        uneven(positions, first.normal, same),
    )
    odd = [sentence for sentence in sentences if sentence]
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    tilted = _tilted(step, first.normal)
    affine = affine_of(first, step, positions[0])
    if not odd and not tilted:
        return _geometry(shape, affine, path), ()
    geometry = Geometry(
        shape=shape,
        affine=affine,
        regular=False,
        sheared=not odd,
        slice_positions=positions @ LPS_TO_RAS if odd else None,
    )
    return geometry, (*tilted, *odd, _NOT_REGULAR if odd else _SHEARED)


def _is_film(frames: Sequence[Frame]) -> bool:
    """Whether images at one position are a time series: frames of a file, or cardiac phases."""
    phases = {frame.signs[SIGNS.index("trigger time")] for frame in frames}
    times = {frame.kind.time for frame in frames}
    return frames[0].storage.frames > 1 or len(frames) in (len(phases), len(times))


def _geometry(shape: tuple[int, int, int], affine: npt.NDArray[np.float64], path: Path) -> Geometry:
    try:
        return Geometry(shape, affine)
    except InputError as error:
        raise InputError(error.what, path=path) from None


def _repeated(
    positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], same: float, path: Path
) -> str:
    """Report slices at one position; refuse a stack that has more of them than positions."""
    along = positions @ normal
    again = np.diff(along) <= same
    count = int(np.count_nonzero(again))
    if not count:
        return ""
    what = (
        f"{count} of its {len(positions)} slices are at the same position as another (the first at "
        f"{along[int(again.argmax())]:.2f} mm along the normal)"
    )
    if 2 * count >= len(positions):
        raise InputError(
            f"{what}, and nothing distinguishes them: they are not one volume",
            path=path,
            fix="Open one time point or reconstruction at a time",
        )
    return what[0].upper() + what[1:] + "."


def _tilted(step: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> list[str]:
    length = float(np.linalg.norm(step))
    if not length:
        return []
    tilt = float(np.degrees(np.arccos(min(1.0, float(step @ normal) / length))))
    if tilt <= _TILT_DEGREES:
        return []
    return [
        f"The gantry was tilted by {tilt:.1f} degrees: the slices are not straight above each "
        "other."
    ]
