"""Reading the voxels of a DICOM scan, all together or slice by slice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.frames import Frame
from napari_spatial_ar.imaging.dicom.pixels import decode
from napari_spatial_ar.imaging.grey import Narrowing, span
from napari_spatial_ar.imaging.memory import check_fits

__all__ = ["FrameReader"]


@dataclass(eq=False)
class FrameReader:
    """Slices that are frames, in slice order."""

    frames: tuple[Frame, ...] = field(repr=False)
    _narrow: Narrowing | None = field(default=None, repr=False)

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels; each file is decoded once."""
        shape = (len(self.frames), *self.frames[0].shape)
        largest = max(frame.storage.most_bytes for frame in self.frames)
        check_fits(4 * math.prod(shape) + largest, self.frames[0].file)
        data = np.empty(shape, dtype=np.float32)
        notes: dict[str, None] = {}  # once each, in order
        narrow = self._narrowing()
        for place, values in self._values(notes):
            data[place] = narrow(values)
        data, odd = finite(data, self.frames[0].file)
        return data, (*notes, *narrow.warnings, *odd)

    def _values(self, notes: dict[str, None]) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
        """Index of each slice and its values, file by file."""
        places: dict[Path, list[int]] = {}
        for place, frame in enumerate(self.frames):
            places.setdefault(frame.file, []).append(place)
        for file, wanted in places.items():
            numbers = [self.frames[place].number for place in wanted]
            storage = self.frames[wanted[0]].storage
            # A few frames of a large file are not worth decoding all of it.
            if len(numbers) * 4 < storage.frames:
                decoded = {number: decode(file, storage, number) for number in numbers}
                stored = {number: one.frames[0] for number, one in decoded.items()}
                notes.update(dict.fromkeys(n for one in decoded.values() for n in one.notes))
            else:
                together = decode(file, storage)
                stored = dict(enumerate(together.frames))
                notes.update(dict.fromkeys(together.notes))
            for place, number in zip(wanted, numbers, strict=True):
                yield place, self.frames[place].values(stored[number])

    def _narrowing(self) -> Narrowing:
        """Conversion of values to float32; if it may not represent them, all frames are read."""
        if self._narrow is None:
            wide = [frame for frame in self.frames if _is_wide(frame)]
            whole = all(f.values.as_stored and not f.storage.floating for f in wide)
            ends = span(values for _, values in self._values({})) if wide else None
            self._narrow = Narrowing.of(ends, whole=whole)
        return self._narrow

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """One slice; no other frame is decoded."""
        frame = self.frames[index]
        stored = decode(frame.file, frame.storage, frame.number).frames[0]
        return finite(self._narrowing()(frame.values(stored)), frame.file)[0]


def _is_wide(frame: Frame) -> bool:
    """Whether the values of a frame may exceed the precision of float32."""
    storage = frame.storage
    wide = storage.allocated == 64 if storage.floating else storage.bits > 24
    return wide or abs(frame.values.intercept) > 2**24


def finite(
    data: npt.NDArray[np.float32], path: Path
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Replace values that are not finite by the lowest finite one, and report how many."""
    good = np.isfinite(data)
    count = data.size - int(np.count_nonzero(good))
    if not count:
        return data, ()
    if count == data.size:
        raise InputError("no pixel is a finite number", path=path)
    low = float(data[good].min())
    return np.where(good, data, np.float32(low)), (
        f"{count} of {data.size} voxels were not finite numbers and were set to {low:g}.",
    )
