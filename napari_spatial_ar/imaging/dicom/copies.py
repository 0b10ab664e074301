"""Duplicate images in a series: equal pixels at one position, whatever their UIDs.

An anonymiser may give all images of a series the same UID, and an archive may give a new UID to an
image that it receives again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.frames import Frame
from napari_spatial_ar.imaging.dicom.pixels import decode
from napari_spatial_ar.imaging.dicom.storage import Storage

__all__ = ["without_copies"]

_IMAGES_KEPT = 16_384


def without_copies(frames: Sequence[Frame]) -> tuple[list[Frame], tuple[str, ...]]:
    """Return each image once, in order, and warnings about duplicates.

    Pixels are read only for images that share a UID, or that are at one position and, according to
    the header, were acquired in the same way and at the same time.

    Parameters
    ----------
    frames : sequence of Frame
        All frames of a series.
    """
    shared = 0
    gone: set[int] = set()
    for group in _several(frames, _uid):
        copies = _copies(group, by_uid=True)
        gone |= copies
        if len(group) - len(copies) > 1:
            shared += len(group) - len(copies)
    renamed: set[int] = set()
    for group in _several([frame for frame in frames if id(frame) not in gone], _acquisition):
        renamed |= _copies(group, by_uid=False)
    gone |= renamed
    kept = [frame for frame in frames if id(frame) not in gone]
    return kept, tuple(_sentences(len(gone), len(renamed), shared))


def _sentences(copies: int, renamed: int, shared: int) -> Iterator[str]:
    if copies == 1:
        yield "1 image occurs twice and was read once."
    elif copies:
        yield f"{copies} images are copies, which were read once."
    if renamed:
        have = "1 copy has" if renamed == 1 else f"{renamed} copies have"
        yield f"{have} another SOP Instance UID than the image itself."
    if shared:
        yield (
            f"{shared} images share a SOP Instance UID but differ in pixels or position: all "
            "were read, but no DICOM mask or map can refer to them."
        )


def _several(
    frames: Sequence[Frame], key_of: Callable[[Frame], Hashable | None]
) -> list[list[Frame]]:
    """Find groups of frames that share a key and come from several files."""
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        key = key_of(frame)
        if key is not None:
            groups.setdefault(key, []).append(frame)
    return [group for group in groups.values() if len({frame.file for frame in group}) > 1]


def _uid(frame: Frame) -> Hashable | None:
    return (frame.instance, frame.number) if frame.instance else None


def _acquisition(frame: Frame) -> Hashable | None:
    """Everything that identifies an image except number and UID; None without a position."""
    kind = replace(frame.kind, alone="")
    return (_place(frame), kind, frame.signs) if frame.located else None


def _place(frame: Frame) -> Hashable:
    where = () if frame.position is None else tuple(np.round(frame.position, 3).tolist())
    turned = () if frame.axes is None else tuple(np.round(frame.axes, 4).ravel().tolist())
    values = frame.values
    return frame.shape, where, turned, frame.spacing, values.slope, values.intercept, values.unit


def _copies(group: Sequence[Frame], *, by_uid: bool) -> set[int]:
    """Object ids of frames that equal an earlier one from another file.

    Images of a single grey value are always equal: without a common UID, they must also have the
    same number.
    """
    seen: dict[Hashable, Path] = {}
    copies = set()
    for frame in group:
        digest, flat = _pixels(frame)
        key = (_place(frame), digest, None if by_uid or not flat else frame.order)
        if digest and seen.setdefault(key, frame.file) != frame.file:
            copies.add(id(frame))
    return copies


def _pixels(frame: Frame) -> tuple[str, bool]:
    """Digest of the stored values, "" if they are damaged, and whether they are constant."""
    try:
        status = frame.file.stat()
        return _digest(frame.file, status.st_size, status.st_mtime_ns, frame.number, frame.storage)
    except (InputError, OSError):  # reported when the voxels are read
        return "", False


@lru_cache(maxsize=_IMAGES_KEPT)
def _digest(
    path: Path, _size: int, _changed: int, number: int, storage: Storage
) -> tuple[str, bool]:
    stored = np.ascontiguousarray(decode(path, storage, number).frames)
    return hashlib.sha256(stored.data).hexdigest(), bool((stored == stored.flat[0]).all())
