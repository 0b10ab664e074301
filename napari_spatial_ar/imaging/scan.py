"""A scan that was found by its headers; its voxels are read when they are asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import dask.array as da
import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.memory import check_fits, fits
from napari_spatial_ar.imaging.volume import Intensity, Modality, Role, Series, Volume

__all__ = ["InMemory", "Scan", "VoxelReader", "is_large"]

_LARGE_BYTES = 512 * 2**20


def is_large(voxels: int) -> bool:
    """Whether so many voxels are read slice by slice when needed, not all at once.

    The limit is 512 MiB of float32 (512 slices of 512 x 512), or as many MiB as the environment
    variable NAPARI_SPATIAL_AR_LAZY_MB says.
    """
    setting = os.environ.get("NAPARI_SPATIAL_AR_LAZY_MB", "")
    limit = int(setting) * 2**20 if setting.isdecimal() else _LARGE_BYTES
    return voxels * np.dtype(np.float32).itemsize > limit


class VoxelReader(Protocol):
    """Reads voxels of one scan, in source order and in the scan's unit."""

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels (Z, Y, X), and what only showed when they were read.

        Raises
        ------
        InputError
            If a file is damaged or gone.
        """

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """Acquired slice ``index``: (Z, Y, X) without the slice axis.

        Raises
        ------
        InputError
            If a file is damaged or gone.
        """


@dataclass(frozen=True, eq=False)
class InMemory:
    """Voxels (Z, Y, X) that are read already."""

    data: npt.NDArray[np.float32]
    slice_axis: int

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels."""
        return self.data, ()

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """One acquired slice."""
        return np.take(self.data, [index], axis=self.slice_axis).squeeze(self.slice_axis)


@dataclass(frozen=True, eq=False)
class Scan:
    """One volume among those found in files: all that `Volume` says, but for the voxels.

    Parameters
    ----------
    voxels : VoxelReader
        Reads the voxels.
    geometry, modality, series, intensity, unit, window, role, warnings, background
        As for `Volume`.
    """

    voxels: VoxelReader = field(repr=False)
    geometry: Geometry
    modality: Modality
    series: Series
    intensity: Intensity = "arbitrary"
    unit: str = ""
    window: tuple[float, float] | None = None
    role: Role = "original"
    warnings: tuple[str, ...] = ()
    background: float | None = None

    @classmethod
    def of(cls, volume: Volume) -> Scan:
        """Make a scan of a volume that is read already."""
        return cls(
            voxels=InMemory(volume.data, volume.geometry.slice_axis),
            geometry=volume.geometry,
            modality=volume.modality,
            series=volume.series,
            intensity=volume.intensity,
            unit=volume.unit,
            window=volume.window,
            role=volume.role,
            warnings=volume.warnings,
            background=volume.background,
        )

    @property
    def size(self) -> int:
        """Number of voxels."""
        z, y, x = self.geometry.shape
        return z * y * x

    def warn(self, *sentences: str) -> Scan:
        """Return the same scan with more warnings."""
        return replace(self, warnings=(*self.warnings, *sentences))

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """Upright slice ``index`` (rows, columns) float32; nothing else is read.

        Raises
        ------
        InputError
            If there is no such slice, or its file is damaged or gone.
        """
        if not 0 <= index < self.geometry.slice_count:
            raise InputError(f"there is no slice {index}: it has {self.geometry.slice_count}")
        axis = self.geometry.slice_axis
        alone = replace(
            self.geometry,
            shape=cast(
                tuple[int, int, int],
                tuple(1 if a == axis else n for a, n in enumerate(self.geometry.shape)),
            ),
        )
        upright: npt.NDArray[np.float32] = alone.to_slices(
            np.expand_dims(self._acquired(index), axis)
        )[0]
        return upright

    def _acquired(self, index: int) -> npt.NDArray[np.float32]:
        with guard(self._path):
            return self.voxels.plane(index)

    @property
    def _path(self) -> Path | None:
        return self.series.files[0] if self.series.files else None

    def read(self, *, lazy: bool | None = None) -> Volume:
        """Read the voxels.

        Parameters
        ----------
        lazy : bool, optional
            Whether to read slices only when they are needed; by default where the scan
            `is_large`, or larger than the memory that is free.

        Raises
        ------
        InputError
            If a file is damaged or gone, the memory for all voxels is not there, or all have the
            same value.
        """
        needed = 0 if isinstance(self.voxels, InMemory) else 4 * self.size
        if lazy is None:
            lazy = is_large(self.size) or not fits(needed)
        with guard(self._path):
            if lazy:
                return self._volume(self._delayed())
            check_fits(needed, self._path)
            return self._volume(*self.voxels.whole())

    def _volume(self, data: npt.NDArray[np.float32], found: tuple[str, ...] = ()) -> Volume:
        return Volume(
            data=data,
            geometry=self.geometry,
            modality=self.modality,
            series=self.series,
            intensity=self.intensity,
            unit=self.unit,
            window=self.window,
            role=self.role,
            warnings=(*self.warnings, *found),
            background=self.background,
        )

    def _delayed(self) -> npt.NDArray[np.float32]:
        axis = self.geometry.slice_axis
        chunks = tuple((1,) * n if a == axis else (n,) for a, n in enumerate(self.geometry.shape))

        def block(block_info: Any = None) -> npt.NDArray[np.float32]:
            index = block_info[None]["chunk-location"][axis]
            return np.expand_dims(self._acquired(index), axis)

        data: Any = da.map_blocks(block, chunks=chunks, dtype=np.float32)  # type: ignore[no-untyped-call]
        return cast(npt.NDArray[np.float32], data)
