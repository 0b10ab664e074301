"""Reading the voxels of a DICOM scan, at once or slice by slice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.frames import Frame
from napari_spatial_ar.imaging.dicom.pixels import decode
from napari_spatial_ar.imaging.memory import check_fits

__all__ = ["FrameReader"]


@dataclass(frozen=True, eq=False)
class FrameReader:
    """Slices that are frames, in slice order."""

    frames: tuple[Frame, ...] = field(repr=False)

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels; each file is decoded once."""
        shape = (len(self.frames), *self.frames[0].shape)
        largest = max(frame.storage.most_bytes for frame in self.frames)
        check_fits(4 * math.prod(shape) + largest, self.frames[0].file)
        data = np.empty(shape, dtype=np.float32)
        places: dict[Path, list[int]] = {}
        notes: dict[str, None] = {}  # once each, in order
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
                data[place] = self.frames[place].values(stored[number])
        data, odd = finite(data, self.frames[0].file)
        return data, (*notes, *odd)

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """One slice; no other frame is decoded."""
        frame = self.frames[index]
        stored = decode(frame.file, frame.storage, frame.number).frames[0]
        return finite(frame.values(stored), frame.file)[0]


def finite(
    data: npt.NDArray[np.float32], path: Path
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Put the lowest finite value where there is none, and say how often."""
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
