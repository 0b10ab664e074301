"""A scan in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.acquisition import Acquisition, acquisition_of_files
from napari_spatial_ar.imaging.geometry import Geometry, Plane

__all__ = ["Intensity", "Modality", "Role", "Sample", "Series", "Volume", "check_voxels"]

Modality = Literal["mri", "ct", "oct", "other", "unknown"]
# "grey8": 8-bit display values 0..255. "hu": Hounsfield units. "arbitrary": a scanner's own scale.
Intensity = Literal["grey8", "hu", "arbitrary"]
# "localizer": a scout image. "derived": computed from other images (a projection, a map).
Role = Literal["original", "derived", "localizer"]


# Percentiles of more voxels than this are taken on a sample of this size: off by under 0.1 %.
_SAMPLE = 1_000_000
# A scan that is read slice by slice has its percentiles from this many of them.
_SLICES_LOOKED_AT = 32


@dataclass(frozen=True)
class Series:
    """What identifies a series without identifying the patient.

    Parameters
    ----------
    label : str
        Short name safe to show and to write, such as ``"MR series 4"``: never a patient's
        name, ID or date, and not taken from free text that may hold them.
    files : tuple of Path
        The files the volume was read from, in slice order: one for each slice, or one for all.
    uid : str
        SeriesInstanceUID, or "" where there is none.
    description : str
        What whoever made the scan called it, dates and the patient's name and ID taken out where
        they are known. Free text: for the screen of the person who opens the scan, never for a
        layer name, a log, a report or a file.
    frames : tuple of int
        DICOM only: for each slice, the index of its frame in its file, counted from 0. Empty
        where slices are no frames of their own (a mosaic, any other format). See
        `napari_spatial_ar.imaging.dicom.sources.dicom_sources`.
    acquired : Acquisition or None
        What the header says of how it was acquired; None where the format has no place for it.
    """

    label: str
    files: tuple[Path, ...] = field(default=(), repr=False)
    uid: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    frames: tuple[int, ...] = field(default=(), repr=False)
    acquired: Acquisition | None = field(default=None, repr=False)

    @property
    def acquisition(self) -> Acquisition:
        """How it was acquired, as far as the header, or else the file's name, says."""
        return acquisition_of_files(self.files) if self.acquired is None else self.acquired


def check_voxels(
    voxels: npt.NDArray[np.float32], *, path: Path | None = None
) -> tuple[float, float]:
    """Refuse an image that holds nothing to look at.

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
    """Voxels that stand for all of an image where its percentiles are asked for.

    Parameters
    ----------
    minimum, maximum : float
        Of the image; of its slices looked at where it is read slice by slice.
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
        """Look at voxels, of which lowest and highest value may be known; seeded.

        Those of the value ``background`` are left out.
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
        # What is filled up with may lie above what a scan shows.
        voxels = voxels if background is None else voxels[voxels != background]
        return cls(minimum, maximum, voxels[voxels > minimum])


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan: voxels and where they are.

    Parameters
    ----------
    data : (Z, Y, X) float32
        Voxels in source order (see `napari_spatial_ar.imaging.geometry`). A large scan is a
        ``dask.array`` with one acquired slice a chunk, read when it is needed.
    geometry : Geometry
        Where the voxels are in the patient.
    modality : {"mri", "ct", "oct", "other", "unknown"}
        ``"unknown"`` where the file does not say (NIfTI, PNG).
    series : Series
        Which series this is.
    intensity : {"grey8", "hu", "arbitrary"}
        The unit of the voxels.
    unit : str
        The unit's name where the file has one: "HU", "BQML" (becquerel per ml, a PET), else "".
    window : (float, float), optional
        Voxel values that whoever made the scan wants drawn black and white.
    role : {"original", "derived", "localizer"}
        What the scan is for.
    warnings : tuple of str
        One sentence for each thing the user should know about this scan.
    background : float, optional
        Value of voxels that only fill the picture up and show nothing (padding): no statistics
        count them.

    Raises
    ------
    InputError
        If data is not a (Z, Y, X) array on the geometry's grid or, where it is in memory, is not
        finite or the same everywhere.
    """

    data: npt.NDArray[np.float32] = field(repr=False)
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
        if self.data.shape != self.geometry.shape:
            raise InputError(
                f"voxels of shape {self.data.shape} do not fit the grid {self.geometry.shape}",
                path=self.path,
            )
        if not self.lazy:
            # Known from here on: looking through a large scan takes a tenth of a second.
            vars(self)["extremes"] = check_voxels(self.data, path=self.path)

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest voxel value; of a scan that is read slice by slice, all are read."""
        return float(self.data.min()), float(self.data.max())

    @cached_property
    def sample(self) -> Sample:
        """Its voxels for percentiles; read once, from 32 slices, where it is read slice by slice.

        Raises
        ------
        InputError
            If they are read now and a file is damaged or gone.
        """
        if not self.lazy:
            return Sample.of(self.data, self.extremes, self.background)
        count = self.geometry.slice_count
        chosen = np.unique(np.linspace(0, count - 1, _SLICES_LOOKED_AT).round().astype(int))
        # All at once: one by one, they take longer to be asked for than to be read.
        return Sample.of(np.asarray(self.slices[chosen]), background=self.background)

    @property
    def lazy(self) -> bool:
        """Whether voxels are read when they are needed (``data`` is a dask array)."""
        return not isinstance(self.data, np.ndarray)

    @property
    def slices(self) -> npt.NDArray[np.float32]:
        """Upright slices (N, rows, columns), a view: what the model sees one by one."""
        return self.geometry.to_slices(self.data)

    def along(self, plane: Plane | None) -> Volume:
        """Return the same scan with the slices of another plane; None for those acquired.

        Raises
        ------
        InputError
            If its geometry is not known or not regular, or it is read slice by slice, where a
            slice of another plane would be all of them.
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
        """Upright slice ``index``, (rows, columns) float32 in memory.

        Raises
        ------
        InputError
            If it is read now and its file is damaged or gone.
        """
        return np.asarray(self.slices[index])

    @property
    def path(self) -> Path | None:
        """First file of the series."""
        return self.series.files[0] if self.series.files else None
