"""A scan: found by its headers, with voxels read on demand or held in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import dask.array as da
import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry, Plane
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.memory import check_fits, fits
from napari_spatial_ar.imaging.series import Intensity, Modality, Role, Series

__all__ = ["Sample", "Scan", "VoxelReader", "check_voxels", "is_large"]

_LARGE_BYTES = 512 * 2**20
# Percentiles of more voxels than this are taken on a sample of this size: off by under 0.1 %.
_SAMPLE = 1_000_000
# A scan that is read slice by slice has its percentiles from this many of them.
_SAMPLED_SLICES = 32


def is_large(voxels: int) -> bool:
    """Whether this many voxels are read slice by slice on demand, not all together.

    The limit is 512 MiB of float32 (512 slices of 512 x 512), or the number of MiB in the
    environment variable NAPARI_SPATIAL_AR_LAZY_MB.
    """
    setting = os.environ.get("NAPARI_SPATIAL_AR_LAZY_MB", "")
    limit = int(setting) * 2**20 if setting.isdecimal() else _LARGE_BYTES
    return voxels * np.dtype(np.float32).itemsize > limit


def check_voxels(
    voxels: npt.NDArray[np.float32], *, path: Path | None = None
) -> tuple[float, float]:
    """Refuse an image without any contrast.

    Returns
    -------
    (float, float)
        The lowest and the highest value.

    Raises
    ------
    InputError
        If there are no voxels, some are not finite, or all have the same value; ``path`` is
        the file named.
    """
    if voxels.size == 0:
        raise InputError("there are no voxels", path=path)
    low, high = float(voxels.min()), float(voxels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
        raise InputError(
            f"{count} of {voxels.size} voxels are not finite numbers (NaN or infinity)",
            path=path,
            fix="Replace them, for instance by the background value, and read it again",
        )
    if low == high:
        raise InputError(
            f"all voxels have the same value, {low:g}: there is nothing to see", path=path
        )
    return low, high


@dataclass(frozen=True, eq=False)
class Sample:
    """Voxels that represent all of an image for percentiles.

    Parameters
    ----------
    minimum, maximum : float
        Of the image; of its sampled slices if it is read slice by slice.
    foreground : (N,) number
        Values above the minimum (the background), at most a million of them, drawn at random.
    """

    minimum: float
    maximum: float
    foreground: npt.NDArray[Any] = field(repr=False)

    @classmethod
    def of(
        cls,
        voxels: npt.NDArray[Any],
        extremes: tuple[float, float] | None = None,
        background: float | None = None,
    ) -> Sample:
        """Sample voxels, of which lowest and highest value may be known; seeded.

        Voxels with the value ``background`` are excluded.
        """
        if background is not None:
            shown = voxels != background
            if shown.any():
                low, high = np.float32(np.inf), np.float32(-np.inf)
                low = voxels.min(where=shown, initial=low)
                high = voxels.max(where=shown, initial=high)
                extremes = float(low), float(high)
        minimum, maximum = extremes or (float(voxels.min()), float(voxels.max()))
        if voxels.size > _SAMPLE:
            voxels = voxels.reshape(-1)[np.random.default_rng(0).integers(0, voxels.size, _SAMPLE)]
        # The padding value may be above the values of the scan.
        voxels = voxels if background is None else voxels[voxels != background]
        return cls(minimum, maximum, voxels[voxels > minimum])


@runtime_checkable
class VoxelReader(Protocol):
    """Reads voxels of one scan, in source order and in the scan's unit."""

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels (Z, Y, X), and warnings that only reading could show.

        Raises
        ------
        InputError
            If a file is damaged or missing.
        """

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """Acquired slice ``index``: (Z, Y, X) without the slice axis.

        Raises
        ------
        InputError
            If a file is damaged or missing.
        """


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan: voxels and their positions in the patient.

    One class for all stages of a scan: as found, by headers only (``voxels`` is a reader); as
    returned by `read`, in memory or slice by slice; and as computed (``voxels`` is the array).

    Parameters
    ----------
    voxels : VoxelReader or (Z, Y, X) float32 array
        The reader, or the voxels: a NumPy array, or a ``dask.array`` that is read on demand.
    geometry : Geometry
        Positions of the voxels in the patient.
    modality : {"mri", "ct", "oct", "other", "unknown"}
        ``"unknown"`` if the file does not state it (NIfTI, PNG).
    series : Series
        Which series this is.
    intensity : {"grey8", "hu", "arbitrary"}
        The unit of the voxels.
    unit : str
        The unit's name if the file has one: "HU", "BQML" (becquerel per ml, a PET), else "".
    window : (float, float), optional
        Voxel values to be displayed black and white, from the scan's header.
    role : {"original", "derived", "localizer"}
        Purpose of the scan.
    warnings : tuple of str
        One sentence for each thing the user should know about this scan.
    background : float, optional
        Value of padding voxels, which are excluded from statistics.

    Raises
    ------
    InputError
        If an array is not (Z, Y, X) on the geometry's grid or, if it is in memory, is not
        finite or is constant.
    """

    voxels: VoxelReader | npt.NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    modality: Modality
    series: Series
    intensity: Intensity = "arbitrary"
    unit: str = ""
    window: tuple[float, float] | None = None
    role: Role = "original"
    warnings: tuple[str, ...] = ()
    background: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.voxels, VoxelReader):
            return
        if self.voxels.shape != self.geometry.shape:
            raise InputError(
                f"voxels of shape {self.voxels.shape} do not fit the grid {self.geometry.shape}",
                path=self.path,
            )
        if not self.lazy:
            # Cached: computing it for a large scan takes a tenth of a second.
            vars(self)["extremes"] = check_voxels(self.voxels, path=self.path)

    @property
    def path(self) -> Path | None:
        """First file of the series."""
        return self.series.files[0] if self.series.files else None

    @property
    def size(self) -> int:
        """Number of voxels."""
        z, y, x = self.geometry.shape
        return z * y * x

    @property
    def lazy(self) -> bool:
        """Whether voxels are read on demand (``data`` is a dask array)."""
        return not isinstance(self.voxels, np.ndarray)

    @property
    def data(self) -> npt.NDArray[np.float32]:
        """Voxels (Z, Y, X) in source order (see `napari_spatial_ar.imaging.geometry`).

        A ``dask.array`` with one acquired slice per chunk if the scan is `lazy`.
        """
        return self._delayed(self.voxels) if isinstance(self.voxels, VoxelReader) else self.voxels

    @property
    def slices(self) -> npt.NDArray[np.float32]:
        """Upright slices (N, rows, columns), a view: what the model sees one by one."""
        return self.geometry.to_slices(self.data)

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest voxel value; for a scan read slice by slice, all slices are read."""
        return float(self.data.min()), float(self.data.max())

    @cached_property
    def sample(self) -> Sample:
        """Its voxels for percentiles; sampled once, from 32 slices if it is read slice by slice.

        Raises
        ------
        InputError
            If they are read now and a file is damaged or missing.
        """
        if not self.lazy:
            return Sample.of(self.data, self.extremes, self.background)
        count = self.geometry.slice_count
        chosen = np.unique(np.linspace(0, count - 1, _SAMPLED_SLICES).round().astype(int))
        # All together: one by one, requesting them takes longer than reading them.
        return Sample.of(np.asarray(self.slices[chosen]), background=self.background)

    def warn(self, *sentences: str) -> Scan:
        """Return the same scan with more warnings."""
        return replace(self, warnings=(*self.warnings, *sentences))

    def along(self, plane: Plane | None) -> Scan:
        """Return the same scan with the slices of another plane; None for those acquired.

        Raises
        ------
        InputError
            If its geometry is unknown or not regular, or it is read slice by slice, since a
            slice of another plane would need all of them.
        """
        if plane is None or plane == self.geometry.plane:
            return self
        if self.lazy:
            raise InputError(
                f"{plane} slices cannot be made of a scan of this size, which is read one "
                f"{self.geometry.plane} slice at a time",
                path=self.path,
                fix="Raise NAPARI_SPATIAL_AR_LAZY_MB if there is memory for all of it",
            )
        return replace(self, geometry=self.geometry.along(plane))

    def slice(self, index: int) -> npt.NDArray[np.float32]:
        """Upright slice ``index``, (rows, columns) float32 in memory; nothing else is read.

        Raises
        ------
        InputError
            If there is no such slice, or it is read now and its file is damaged or missing.
        """
        if not 0 <= index < self.geometry.slice_count:
            raise InputError(f"there is no slice {index}: it has {self.geometry.slice_count}")
        if not isinstance(self.voxels, VoxelReader):
            return np.asarray(self.slices[index])
        shape = list(self.geometry.shape)
        shape[self.geometry.slice_axis] = 1
        alone = replace(self.geometry, shape=cast(tuple[int, int, int], tuple(shape)))
        return np.asarray(alone.to_slices(self._acquired(self.voxels, index))[0])

    def read(self, *, lazy: bool | None = None) -> Scan:
        """Return the same scan with its voxels read, or read slice by slice.

        Parameters
        ----------
        lazy : bool, optional
            Whether to read slices only on demand; by default if the scan `is_large`, or larger
            than the free memory. Voxels in memory stay there.

        Raises
        ------
        InputError
            If a file is damaged or missing, memory does not suffice for all voxels, or all have
            the same value.
        """
        if not self.lazy:
            return self
        if lazy is None:
            lazy = is_large(self.size) or not fits(4 * self.size)
        if lazy:
            return replace(self, voxels=self.data)
        check_fits(4 * self.size, self.path)
        data, found = self.whole()
        return replace(self, voxels=data, warnings=(*self.warnings, *found))

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels (Z, Y, X) in memory, even if constant, and warnings that reading showed.

        Raises
        ------
        InputError
            If a file is damaged or missing.
        """
        if not isinstance(self.voxels, VoxelReader):
            return np.asarray(self.voxels), ()
        with guard(self.path):
            return self.voxels.whole()

    def _acquired(self, voxels: VoxelReader, index: int) -> npt.NDArray[np.float32]:
        """Slice ``index`` (Z, Y, X), the slice axis of length 1."""
        with guard(self.path):
            return np.expand_dims(voxels.plane(index), self.geometry.slice_axis)

    def _delayed(self, voxels: VoxelReader) -> npt.NDArray[np.float32]:
        axis = self.geometry.slice_axis
        chunks = tuple((1,) * n if a == axis else (n,) for a, n in enumerate(self.geometry.shape))

        def block(block_info: Any = None) -> npt.NDArray[np.float32]:
            return self._acquired(voxels, block_info[None]["chunk-location"][axis])

        data: Any = da.map_blocks(block, chunks=chunks, dtype=np.float32)  # type: ignore[no-untyped-call]
        return cast(npt.NDArray[np.float32], data)
