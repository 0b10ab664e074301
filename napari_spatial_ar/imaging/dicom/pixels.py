"""Decoding the pixels of DICOM files, whatever their transfer syntax, to grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import gdcm
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGExtended12Bit

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.header import opened
from napari_spatial_ar.imaging.dicom.storage import Storage
from napari_spatial_ar.imaging.guard import guard

__all__ = ["decode"]

_DAMAGED_PIXELS = "its pixels cannot be decoded: the file is cut short or damaged"
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def decode(path: Path, storage: Storage, number: int | None = None) -> npt.NDArray[Any]:
    """Decode one frame, or all of them, to grey stored values.

    Parameters
    ----------
    path : Path
        The file.
    storage : Storage
        How its pixels are stored.
    number : int, optional
        Index of the frame; nothing else is decoded, and where pixels are not compressed nothing
        else is read. All frames where left out.

    Returns
    -------
    (frames, rows, columns) array
        In the stored type; float32 luminance, 0 to 255 in 8 bits, where the file is in colour.

    Raises
    ------
    InputError
        If the pixels are cut short or damaged, or no decoder for their compression is there.
    """
    with guard(path, _DAMAGED_PIXELS):
        with opened(path, storage.most_bytes) as (file, known):
            array = _pixels(file, path, storage, number)
            if storage.photometric == "PALETTE COLOR":
                file.seek(0)
                header = pydicom.dcmread(file, stop_before_pixels=True, force=known)
                array = _through_palette(array, header)
        if not storage.coloured:
            return array.reshape(-1, storage.rows, storage.columns)
        colours = array.reshape(-1, storage.rows, storage.columns, 3)
        grey: npt.NDArray[Any] = colours.astype(np.float32) @ _LUMINANCE
        return grey


def _pixels(file: BinaryIO, path: Path, storage: Storage, number: int | None) -> npt.NDArray[Any]:
    """Decode stored values, YBR turned into RGB."""
    syntax = storage.syntax
    if syntax == JPEGExtended12Bit and storage.bits > 8:
        return _through_gdcm(path, storage, number)
    try:
        array: npt.NDArray[Any] = pixel_array(file, index=number, transfer_syntax_uid=syntax)
    except (NotImplementedError, RuntimeError) as error:
        if not isinstance(error, NotImplementedError) and "missing" not in str(error):
            raise
        raise InputError(
            f"its pixels are compressed as {syntax.name}, for which no decoder is installed",
            path=path,
            fix="Export the series uncompressed, or as JPEG 2000",
        ) from error
    return array


def _through_gdcm(path: Path, storage: Storage, number: int | None) -> npt.NDArray[Any]:
    """Decode JPEG of 12 bits: no decoder that pydicom calls does, but GDCM's own reader does."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise InputError(_DAMAGED_PIXELS, path=path, fix="Export or copy it again")
    # GDCM's binding gives bytes as text; what is no UTF-8 comes as surrogates.
    raw = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    dtype = np.int16 if storage.signed else np.uint16
    frames = np.frombuffer(raw, dtype).reshape(storage.frames, -1)
    return frames if number is None else frames[number]


def _through_palette(array: npt.NDArray[Any], header: pydicom.Dataset) -> npt.NDArray[Any]:
    """Colours of a palette image, 0 to 255."""
    if not header.original_encoding[1]:
        # pydicom takes the tables for little-endian.
        for colour in ("Red", "Green", "Blue"):
            table = header[f"{colour}PaletteColorLookupTableData"]
            table.value = np.frombuffer(table.value, "<u2").byteswap().tobytes()
    colours = apply_color_lut(array, header)
    return colours.astype(np.float32) * np.float32(255 / np.iinfo(colours.dtype).max)
