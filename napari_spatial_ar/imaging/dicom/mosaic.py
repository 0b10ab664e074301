"""Siemens mosaics: a volume whose slices are tiles of one picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.frames import Frame
from napari_spatial_ar.imaging.dicom.grid import affine_of
from napari_spatial_ar.imaging.dicom.header import read_whole_header
from napari_spatial_ar.imaging.dicom.pixels import decode
from napari_spatial_ar.imaging.dicom.reader import finite
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.guard import guard

__all__ = ["MosaicReader", "find_mosaic"]


@dataclass(frozen=True, eq=False)
class MosaicReader:
    """Slices that are tiles of one frame, row by row; ``shape`` is (slices, rows, columns)."""

    frame: Frame = field(repr=False)
    shape: tuple[int, int, int]

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels."""
        picture = decode(self.frame.file, self.frame.storage, self.frame.number)[0]
        count, rows, columns = self.shape
        down, across = picture.shape[0] // rows, picture.shape[1] // columns
        tiles = picture.reshape(down, rows, across, columns).transpose(0, 2, 1, 3)
        stored = tiles.reshape(-1, rows, columns)[:count]
        return finite(np.ascontiguousarray(self.frame.values(stored)), self.frame.file)

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """One slice; the whole picture is decoded."""
        data: npt.NDArray[np.float32] = self.whole()[0][index]
        return data


def find_mosaic(frame: Frame) -> tuple[MosaicReader, Geometry]:
    """Tiles of a mosaic and where they lie, from the scanner's private header (CSA).

    Raises
    ------
    InputError
        If that header is not there, as after some de-identifications, or makes no sense.
    """
    without = "is a Siemens mosaic without the private header that says where its slices lie"
    with guard(frame.file, without):
        # Not at the top: importing it warns that it is experimental.
        from nibabel.nicom.dicomwrappers import MosaicWrapper

        header = MosaicWrapper(read_whole_header(frame.file))  # type: ignore[no-untyped-call]
        across = math.ceil(math.sqrt(int(header.n_mosaic)))
        shape = (
            int(header.n_mosaic),
            frame.storage.rows // across,
            frame.storage.columns // across,
        )
        position = np.asarray(header.image_position, dtype=np.float64)
        step = np.asarray(header.slice_normal, dtype=np.float64) * float(header.voxel_sizes[2])
    if frame.axes is None or frame.spacing is None:
        raise InputError(without, path=frame.file)
    if (shape[1] * across, shape[2] * across) != frame.shape:
        rows, columns = frame.shape
        raise InputError(
            f"is a Siemens mosaic of {shape[0]} slices, but its {rows} x {columns} pixels do not "
            f"divide into {across} x {across} tiles",
            path=frame.file,
        )
    return MosaicReader(frame, shape), Geometry(shape, affine_of(frame, step, position))
