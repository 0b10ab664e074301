"""Training slices: where each is, its patient, its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.acquisition import Acquisition, acquisition_of_files
from napari_spatial_ar.imaging.geometry import Geometry, Plane
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.reading import Source, scans_in
from napari_spatial_ar.imaging.windows import Window, resolve

__all__ = [
    "SliceRef",
    "SliceSet",
    "acquisition_of",
    "check_fractions",
    "content_key",
    "file_digest",
    "geometry_of",
    "iter_slices",
    "split_by_group",
    "split_slices",
]

# Grows when readers count the volumes of a source, or their slices, in another order.
_ORDER = 2


@dataclass(frozen=True)
class SliceRef:
    """Location of one upright slice.

    Parameters
    ----------
    path : Path
        The file the slice is in.
    index : int or None
        Index of the slice in its volume (`Scan.slices`), cut along ``plane``; None for an image.
    group : str
        The patient, according to the files. May be part of a file name: do not show it.
    source : Source
        The files that are read together to get the volume.
    volume : int
        Index of the volume in source.
    plane : {"axial", "coronal", "sagittal"}, optional
        Plane along which its volume is sliced, if it is not the acquired one.
    """

    path: Path
    index: int | None
    group: str = field(repr=False)
    source: Source = field(repr=False)
    volume: int = 0
    plane: Plane | None = None


@dataclass(frozen=True)
class SliceSet:
    """Slices of a folder: for training, and for validation (empty if the folder defines none).

    ``warnings`` has one sentence for each exclusion; ``calibration`` is empty if the validation
    slices are used for it.
    """

    train: tuple[SliceRef, ...]
    valid: tuple[SliceRef, ...] = ()
    warnings: tuple[str, ...] = ()
    calibration: tuple[SliceRef, ...] = ()


def iter_slices(
    refs: Sequence[SliceRef], window: Window
) -> Iterator[tuple[SliceRef, npt.NDArray[np.float32], tuple[float, float]]]:
    """Read slices, opening each volume once.

    Parameters
    ----------
    refs : sequence of SliceRef
        Slices to read. Slices of one volume are consecutive, whatever their order here.
    window : Window
        The model's window.

    Yields
    ------
    ref : SliceRef
        The slice.
    image : (rows, columns) float32
        Its voxels, upright, in stored units.
    ends : (float, float)
        Values that the window maps to 0 and 1, from the whole volume or picture.

    Raises
    ------
    InputError
        If a file can no longer be read, or is not an image with any contrast.
    """
    together: dict[tuple[Source, int, Plane | None], list[SliceRef]] = {}
    for ref in refs:
        together.setdefault((ref.source, ref.volume, ref.plane), []).append(ref)
    for (source, number, plane), slices in together.items():
        picture = slices[0].index is None
        volume = None if picture else scans_in(source)[number].read().along(plane)
        ends = None if volume is None else resolve(window, volume)
        for ref in slices:
            if volume is None or ends is None or ref.index is None:
                image, intensity = read_raster(ref.path)
                yield ref, image, resolve(window, image, intensity)
            else:
                yield ref, volume.slice(ref.index), ends


@lru_cache(maxsize=64)
def _head(source: Source, number: int, plane: Plane | None) -> tuple[Geometry, Acquisition]:
    scan = scans_in(source)[number]
    geometry = scan.geometry if plane is None else scan.geometry.along(plane)
    return geometry, scan.series.acquisition


def geometry_of(ref: SliceRef) -> Geometry | None:
    """Grid of the volume that a slice belongs to, from its headers; None for an image.

    Raises
    ------
    InputError
        If a file can no longer be read.
    """
    return None if ref.index is None else _head(ref.source, ref.volume, ref.plane)[0]


def acquisition_of(ref: SliceRef) -> tuple[Plane | None, Acquisition]:
    """Plane of a slice, None if unknown, and how its scan was acquired.

    Raises
    ------
    InputError
        If a file can no longer be read.
    """
    if ref.index is None:
        return None, acquisition_of_files((ref.path,))
    geometry, found = _head(ref.source, ref.volume, ref.plane)
    return geometry.plane if geometry.spacing_known else None, found


def split_by_group(
    refs: Sequence[SliceRef], fraction: float, seed: int, *, keep: int = 1
) -> tuple[tuple[SliceRef, ...], tuple[SliceRef, ...]]:
    """Split slices into (train, valid) so that no patient is in both.

    Parameters
    ----------
    refs : sequence of SliceRef
        Slices of at least two groups.
    fraction : float
        Share of the slices for validation, in (0, 1); reached or exceeded by less than one
        group, and each side gets at least one.
    seed : int
        The same seed and slices give the same split.
    keep : int
        Minimum number of groups for training.

    Raises
    ------
    InputError
        If there is only one group.
    """
    sizes: dict[str, int] = {}
    for ref in refs:
        sizes[ref.group] = sizes.get(ref.group, 0) + 1
    if len(sizes) < 2:
        raise InputError(
            f"all {len(refs)} slices seem to be of one patient, so none can be kept for validation",
            fix="Put each patient's files in a folder of their own, or give a patient pattern",
        )
    names = sorted(sizes)
    np.random.default_rng(seed).shuffle(names)
    chosen: set[str] = set()
    count = 0
    for name in names[:-keep]:
        chosen.add(name)
        count += sizes[name]
        if count >= fraction * len(refs):
            break
    return (
        tuple(ref for ref in refs if ref.group not in chosen),
        tuple(ref for ref in refs if ref.group in chosen),
    )


def check_fractions(valid: float, calibration: float) -> None:
    """Check that shares for validation and calibration leave something to train on.

    Raises
    ------
    InputError
        If they do not.
    """
    if not 0 < valid < 1:
        raise InputError(f"valid_fraction must be a share between 0 and 1, not {valid}")
    if not 0 <= calibration < 1 - valid:
        raise InputError(
            f"calibration_fraction must be a share from 0 to less than {1 - valid:g}, so that "
            f"something is left to train on, not {calibration}"
        )


def split_slices(
    slices: SliceSet, valid_fraction: float, calibration_fraction: float, seed: int
) -> SliceSet:
    """Split into training, validation and calibration so that no patient is in two of them.

    Parameters
    ----------
    slices : SliceSet
        What was found; a validation set defined by the folder is kept.
    valid_fraction : float
        Share of the slices for validation, in (0, 1), see `split_by_group`.
    calibration_fraction : float
        Share of the slices used for neither; 0 for none.
    seed : int
        The same seed and slices give the same split.

    Raises
    ------
    InputError
        If there are too few patients.
    """
    train, valid = slices.train, slices.valid
    calibration: tuple[SliceRef, ...] = ()
    if calibration_fraction:
        seen = {ref.group for ref in valid}
        free = [ref for ref in train if ref.group not in seen]
        patients, needed = len({ref.group for ref in free}), 2 if valid else 3
        if patients < needed:
            raise InputError(
                f"training, validation and calibration need {needed} patients between them that "
                f"are in no other part, and the folder has {patients}",
                fix="Set the share for calibration to 0, or add scans of more patients",
            )
        share = calibration_fraction * len(train) / len(free)
        _, calibration = split_by_group(free, share, seed, keep=needed - 1)
        own = {ref.group for ref in calibration}
        train = tuple(ref for ref in train if ref.group not in own)
    if not valid:
        share = valid_fraction * len(slices.train) / len(train)
        train, valid = split_by_group(train, share, seed)
    return SliceSet(train, valid, slices.warnings, calibration)


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    del size, changed_ns  # only there to make a changed file another cache entry
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Sha256 hex digest of a file's content, cached until the file changes.

    Raises
    ------
    InputError
        If it no longer exists.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError("can no longer be read", path=path) from error


def content_key(ref: SliceRef) -> str:
    """Sha256 hex digest of everything a slice's voxels come from: file contents and position.

    Raises
    ------
    InputError
        If a file no longer exists.
    """
    cut = "" if ref.plane is None else f" {ref.plane}"
    key = hashlib.sha256(f"{_ORDER} {ref.volume}/{ref.index}{cut}".encode())
    for path in ref.source.files:
        key.update(file_digest(path).encode())
    return key.hexdigest()
