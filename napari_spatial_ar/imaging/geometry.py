"""Positions of voxels in the patient, and orientation of a scan for people and for models.

Three orders of the same voxels are used, and converted only here:

source
    ``Scan.data`` (Z, Y, X): the axes as stored in the file, reversed to NumPy order, so
    ``data[z, y, x]`` is NIfTI voxel ``(i, j, k) = (x, y, z)``. All exports use it.
display
    (S, P, L): index 0 grows to superior, 1 to posterior, 2 to the patient's left. napari
    draws it as a radiologist expects (patient's left on the right of the screen).
slices
    (N, rows, columns): acquired slices one by one, in file order, each turned upright the
    radiological way. This is what a model sees.

All three are views of one array: writing through one writes the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.acquisition import Plane

__all__ = ["Geometry", "Plane", "orientation", "slice_number", "slice_range"]

_PLANE_OF_WORLD_AXIS: dict[int, Plane] = {0: "sagittal", 1: "coronal", 2: "axial"}
# No scan is that large; much larger numbers overflow when lengths are computed from them.
_FARTHEST_MM = 1e13
# Signs that convert RAS millimetres (x, y, z) to display millimetres (S, P, L).
_RAS_TO_SPL = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])

Voxel = TypeVar("Voxel", bound=np.generic)


def slice_number(index: int) -> int:
    """Return the number of slice ``index`` as shown to users: from 1, as on a scanner.

    Python, and all files for machines, count from 0.
    """
    return index + 1


def slice_range(first: int, last: int, to: str = " to ") -> str:
    """Format a range of slices as users count: "4 to 9", or "4" for one."""
    ends = f"{slice_number(first)}", f"{slice_number(last)}"
    return ends[0] if first == last else to.join(ends)


def orientation(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RAS axis (0 R, 1 A, 2 S) closest to each of (i, j, k), and its sign: (3, 2)."""
    closest: npt.NDArray[np.float64] = nib.io_orientation(affine)  # type: ignore[no-untyped-call]
    return closest


@dataclass(frozen=True, eq=False)
class Geometry:
    """Grid of a volume in patient space.

    Parameters
    ----------
    shape : (int, int, int)
        Size of ``Scan.data`` along (Z, Y, X).
    affine : (4, 4) float64
        Homogeneous map from NIfTI voxel indices (i, j, k) = (x, y, z) to RAS millimetres.
    slice_axis : {0, 1, 2}
        Axis of (Z, Y, X) along which acquired slices are stacked.
    spacing_known : bool
        False if the source has no spacing (a PNG): lengths are then in pixels, not mm.
    regular : bool
        False if the slices are not stacked straight at even distances: nothing may be measured in
        mm, unless they are only sheared.
    sheared : bool
        Whether slices that are not regular are at even steps along a line oblique to them (a
        tilted gantry): the affine is then valid for every voxel.
    slice_positions : (N, 3) float64, optional
        If the affine is not valid for the slices (uneven distances): RAS millimetres of the
        first voxel of each, index 0 in the two other axes. The affine then has the mean step.

    Raises
    ------
    InputError
        If the affine is not an invertible 4 x 4 of finite numbers.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64] = field(repr=False)
    slice_axis: int = 0
    spacing_known: bool = True
    regular: bool = True
    sheared: bool = False
    slice_positions: npt.NDArray[np.float64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        # NaN is not below either.
        if affine.shape != (4, 4) or not (np.abs(affine) < _FARTHEST_MM).all():
            raise InputError(
                f"the voxel-to-patient matrix is not a finite 4 x 4: {affine.tolist()}"
            )
        if not np.isfinite(orientation(affine)).all():
            raise InputError("the voxel-to-patient matrix is singular, so voxels have no position")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        steps = " x ".join(f"{step:.4g}" for step in self.spacing)
        unit = "mm" if self.spacing_known else "pixels"
        kind = "" if self.regular else ", sheared" if self.sheared else ", irregular"
        return f"Geometry({shape} voxels (Z, Y, X), {steps} {unit}, {self.plane} slices{kind})"

    @classmethod
    def without_spacing(cls, shape: tuple[int, int, int]) -> Geometry:
        """Create the grid of images without geometry: upright axial slices, 1 x 1 x 1 pixels."""
        return cls(shape=shape, affine=np.diag([-1.0, -1.0, 1.0, 1.0]), spacing_known=False)

    @property
    def measurable(self) -> bool:
        """Whether lengths, areas and volumes in mm are meaningful, in any direction."""
        return self.spacing_known and self.regular

    @property
    def exact(self) -> bool:
        """Whether the affine is valid for every voxel: volumes and sizes in a slice make sense."""
        return self.spacing_known and (self.regular or self.sheared)

    @property
    def slice_count(self) -> int:
        """Number of acquired slices."""
        return self.shape[self.slice_axis]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along (Z, Y, X), in mm (in pixels if ``spacing_known`` is False)."""
        x, y, z = (float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, y, x

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in cubic mm (cubic pixels if ``spacing_known`` is False)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @cached_property
    def _towards(self) -> npt.NDArray[np.float64]:
        """Like the function `orientation`, cached: it is needed several times for each slice."""
        return orientation(self.affine)

    @property
    def orientation(self) -> str:
        """Closest anatomical directions of i, j and k, such as ``"LPS"``."""
        letters = (("L", "R"), ("P", "A"), ("I", "S"))
        return "".join(letters[int(axis)][int(sign > 0)] for axis, sign in self._towards)

    @property
    def plane(self) -> Plane:
        """Anatomical plane closest to the acquired slices."""
        return _PLANE_OF_WORLD_AXIS[self._world_axis_of(self.slice_axis)]

    def along(self, plane: Plane) -> Geometry:
        """Return the same grid with the slices of another plane, for example to score those.

        Raises
        ------
        InputError
            If the grid is not measurable: its voxels then cannot be cut in any direction.
        """
        if plane == self.plane:
            return self
        if not self.measurable:
            raise InputError(
                f"{plane} slices cannot be made of a scan without known and regular geometry",
                fix=f"Use its own {self.plane} slices (plane: as acquired)",
            )
        axis, _ = self._axis_towards({"axial": "S", "coronal": "A", "sagittal": "R"}[plane])
        return replace(self, slice_axis=axis)

    def _world_axis_of(self, data_axis: int) -> int:
        """RAS axis (0 R, 1 A, 2 S) closest to an axis of (Z, Y, X)."""
        return int(self._towards[2 - data_axis, 0])

    def _arrange(
        self, array: npt.NDArray[Voxel], axes: list[int], flips: list[bool]
    ) -> npt.NDArray[Voxel]:
        if array.shape[:3] != self.shape:
            raise InputError(f"an array of shape {array.shape} is not on the grid {self.shape}")
        view = array.transpose(*axes, *range(3, array.ndim))
        return view[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]

    def _axis_towards(self, direction: str) -> tuple[int, bool]:
        """Axis of (Z, Y, X) along a direction letter, and whether it is reversed."""
        world = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[direction]
        sign = 1.0 if direction in "RAS" else -1.0
        closest = self._towards
        voxel = int(np.flatnonzero(closest[:, 0] == world)[0])
        return 2 - voxel, bool(closest[voxel, 1] * sign < 0)

    def to_display(self, array: npt.NDArray[Voxel]) -> npt.NDArray[Voxel]:
        """View of a (Z, Y, X, ...) source array with axes (S, P, L, ...)."""
        axes, flips = zip(*(self._axis_towards(d) for d in "SPL"), strict=True)
        return self._arrange(array, list(axes), list(flips))

    def from_display(self, array: npt.NDArray[Voxel]) -> npt.NDArray[Voxel]:
        """View of an (S, P, L, ...) array with the source's axes (Z, Y, X, ...).

        Raises
        ------
        InputError
            If the array is not of ``display_shape``.
        """
        if array.shape[:3] != self.display_shape:
            raise InputError(
                f"an array of shape {array.shape} is not on the display grid {self.display_shape}"
            )
        axes, flips = zip(*(self._axis_towards(d) for d in "SPL"), strict=True)
        view = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
        return view.transpose(*np.argsort(axes), *range(3, array.ndim))

    def display_index(self, index: tuple[int, int, int]) -> tuple[int, int, int]:
        """Display index of the voxel at (Z, Y, X)."""
        s, p, left = (
            self.shape[axis] - 1 - index[axis] if flip else index[axis]
            for axis, flip in map(self._axis_towards, "SPL")
        )
        return s, p, left

    def to_slices(self, array: npt.NDArray[Voxel]) -> npt.NDArray[Voxel]:
        """View of a (Z, Y, X) source array as upright slices (N, rows, columns).

        Slice n is index n along ``slice_axis``, never reordered. Rows grow to posterior in
        axial slices and to inferior in the others; columns grow to the patient's left, in
        sagittal slices to posterior.
        """
        (row_axis, row_flip), (column_axis, column_flip) = self._across
        return self._arrange(
            array, [self.slice_axis, row_axis, column_axis], [False, row_flip, column_flip]
        )

    @cached_property
    def _across(self) -> list[tuple[int, bool]]:
        """Axis of (Z, Y, X), and whether it is reversed, for rows and columns of slices."""
        letters = {"axial": "PL", "coronal": "IL", "sagittal": "IP"}[self.plane]
        return [self._axis_towards(letter) for letter in letters]

    def slice_index(self, index: tuple[int, int, int]) -> tuple[int, int, int]:
        """Slice, row and column of the voxel that `to_display` puts at (S, P, L)."""
        source = [0, 0, 0]
        for at, (axis, flip) in zip(index, map(self._axis_towards, "SPL"), strict=True):
            source[axis] = self.shape[axis] - 1 - at if flip else at
        row, column = (
            self.shape[axis] - 1 - source[axis] if flip else source[axis]
            for axis, flip in self._across
        )
        return source[self.slice_axis], row, column

    @property
    def display_shape(self) -> tuple[int, int, int]:
        """Size along (S, P, L)."""
        s, p, left = (self.shape[self._axis_towards(d)[0]] for d in "SPL")
        return s, p, left

    @property
    def display_spacing(self) -> tuple[float, float, float]:
        """Voxel size along (S, P, L), in mm: napari's ``scale``."""
        s, p, left = (self.spacing[self._axis_towards(d)[0]] for d in "SPL")
        return s, p, left

    @property
    def display_translate(self) -> tuple[float, float, float]:
        """Position of display voxel (0, 0, 0) in (S, P, L) millimetres: napari's ``translate``.

        The centre of the volume is at its position in the patient; an oblique volume is drawn
        unrotated about it (napari does not draw rotated slices).
        """
        centre_index = (np.array(self.shape[::-1]) - 1) / 2
        centre = _RAS_TO_SPL @ (self.affine[:3, :3] @ centre_index + self.affine[:3, 3])
        half = (np.array(self.display_shape) - 1) / 2 * np.array(self.display_spacing)
        s, p, left = (float(v) for v in centre - half)
        return s, p, left

    def slice_position(self, index: int) -> int:
        """Index along the display axis at which slice ``index`` of ``to_slices`` is drawn."""
        direction = {"axial": "S", "coronal": "P", "sagittal": "L"}[self.plane]
        axis, flip = self._axis_towards(direction)
        return self.shape[axis] - 1 - index if flip else index

    @property
    def display_slice_axis(self) -> int:
        """Axis of (S, P, L) along which acquired slices are stacked."""
        return {"axial": 0, "coronal": 1, "sagittal": 2}[self.plane]
