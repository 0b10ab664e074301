"""Volumes whose slices are tiles of one image: Siemens mosaics and United Imaging sheets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.frames import Frame
from napari_spatial_ar.imaging.dicom.grid import affine_of, patient_grid
from napari_spatial_ar.imaging.dicom.header import read_whole_header
from napari_spatial_ar.imaging.dicom.pixels import decode
from napari_spatial_ar.imaging.dicom.private import UIH
from napari_spatial_ar.imaging.dicom.reader import finite
from napari_spatial_ar.imaging.dicom.values import numbers
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.guard import guard

__all__ = ["TileReader", "find_tiles"]

Shape = tuple[int, int, int]

_TILE_COUNT, _TILES = 0x50, 0x51


@dataclass(frozen=True, eq=False)
class TileReader:
    """Slices that are tiles of one frame, counted row by row.

    Parameters
    ----------
    frame : Frame
        The tiled image.
    shape : (int, int, int)
        Slices, rows and columns.
    order : tuple of int
        Tile of each slice.
    """

    frame: Frame = field(repr=False)
    shape: Shape
    order: tuple[int, ...]

    def whole(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """All voxels."""
        decoded = decode(self.frame.file, self.frame.storage, self.frame.number)
        picture = decoded.frames[0]
        _, rows, columns = self.shape
        down, across = picture.shape[0] // rows, picture.shape[1] // columns
        tiles = picture.reshape(down, rows, across, columns).transpose(0, 2, 1, 3)
        stored = tiles.reshape(-1, rows, columns)[list(self.order)]
        values = np.ascontiguousarray(self.frame.values(stored), dtype=np.float32)
        data, odd = finite(values, self.frame.file)
        return data, (*decoded.notes, *odd)

    def plane(self, index: int) -> npt.NDArray[np.float32]:
        """One slice; the whole image is decoded."""
        data: npt.NDArray[np.float32] = self.whole()[0][index]
        return data


def find_tiles(frame: Frame) -> tuple[TileReader, Geometry, tuple[str, ...]]:
    """Tiles of an image, their positions from the scanner's private header, and its oddities.

    Raises
    ------
    InputError
        If that header is missing, as after some de-identifications, or invalid.
    """
    return _mosaic(frame) if frame.sheet == "mosaic" else _vframe(frame)


def _tile_shape(frame: Frame, what: str, count: int, down: int, across: int) -> Shape:
    """Slices, rows and columns of a grid with this many tiles (`InputError` if there is none)."""
    rows, columns = frame.shape
    if rows % down or columns % across:
        raise InputError(
            f"is {what} of {count} slices, but its {rows} x {columns} pixels do not divide into "
            f"{down} x {across} tiles",
            path=frame.file,
        )
    return count, rows // down, columns // across


def _mosaic(frame: Frame) -> tuple[TileReader, Geometry, tuple[str, ...]]:
    without = "is a Siemens mosaic without the private header with its slices' positions"
    with guard(frame.file, without):
        # Not at the top: importing it warns that it is experimental.
        from nibabel.nicom.dicomwrappers import MosaicWrapper

        header = MosaicWrapper(read_whole_header(frame.file))  # type: ignore[no-untyped-call]
        count = int(header.n_mosaic)
        position = np.asarray(header.image_position, dtype=np.float64)
        step = np.asarray(header.slice_normal, dtype=np.float64) * float(header.voxel_sizes[2])
    if frame.axes is None or frame.spacing is None:
        raise InputError(without, path=frame.file)
    across = math.ceil(math.sqrt(count))
    shape = _tile_shape(frame, "a Siemens mosaic", count, across, across)
    reader = TileReader(frame, shape, tuple(range(count)))
    return reader, Geometry(shape, affine_of(frame, step, position)), ()


def _vframe(frame: Frame) -> tuple[TileReader, Geometry, tuple[str, ...]]:
    """(0065,xx50) is the number of tiles; (0065,xx51) has an item with the position of each."""
    without = "is a United Imaging sheet without the private header with its slices' positions"
    with guard(frame.file, without):
        block = read_whole_header(frame.file).private_block(*UIH)
        found = numbers(block[_TILE_COUNT].value)
        places = [numbers(tile.get("ImagePositionPatient"), 3) for tile in block[_TILES].value]
        count = int(found[0]) if found is not None else 0
    positions = [place for place in places if place is not None]
    if frame.axes is None or not count or not count == len(places) == len(positions):
        raise InputError(without, path=frame.file)
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    shape = _tile_shape(frame, "a United Imaging sheet", count, down, across)
    storage = replace(frame.storage, rows=shape[1], columns=shape[2])
    order = np.argsort(np.array(positions) @ frame.normal, kind="stable").tolist()
    tiles = [replace(frame, storage=storage, position=positions[k]) for k in order]
    geometry, odd = patient_grid(tiles, frame.file)
    return TileReader(frame, shape, tuple(order)), geometry, odd
