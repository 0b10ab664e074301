"""Decoding the pixels of DICOM files to grey, for all transfer syntaxes.

Decoders are given what was found in the file, and their output is checked against it: size, bits
and sign are handled in one place for all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import gdcm
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.codestream import Codestream, read_codestream
from napari_spatial_ar.imaging.dicom.encoding import parse
from napari_spatial_ar.imaging.dicom.header import opened
from napari_spatial_ar.imaging.dicom.storage import Storage
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.memory import check_fits

__all__ = ["Decoded", "decode"]

_DAMAGED_PIXELS = "its pixels cannot be decoded: the file is cut short or damaged"
_FIX = "Export or copy it again"
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
# One decoder per syntax, so that a frame does not depend on which of several fails first.
_PLUGINS = {
    JPEGBaseline8Bit: "pillow",
    JPEGLosslessSV1: "gdcm",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    RLELossless: "pydicom",
}
_ITEM = b"\xfe\xff\x00\xe0"
# In all of these, a frame has its own header.
_WITH_HEADER = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}


class Decoded(NamedTuple):
    """Grey stored values (frames, rows, columns), and warnings about them."""

    frames: npt.NDArray[np.generic]
    notes: tuple[str, ...]


def decode(path: Path, storage: Storage, number: int | None = None) -> Decoded:
    """Decode one frame, or all of them, to grey stored values.

    Parameters
    ----------
    path : Path
        The file.
    storage : Storage
        How its pixels are stored.
    number : int, optional
        Index of the frame; nothing else is decoded, and if pixels are uncompressed nothing else is
        read. All frames by default.

    Returns
    -------
    Decoded
        In a type that holds `Storage.limits`; float32 luminance, 0 to 255 for 8 bits, if the file
        is in colour.

    Raises
    ------
    InputError
        If the pixels are truncated or damaged, do not match the header, or there is no decoder for
        their compression.
    """
    with guard(path, _DAMAGED_PIXELS):
        check_fits(storage.most_bytes // (1 if number is None else storage.frames), path)
        with opened(path, storage.most_bytes) as (file, _):
            notes = set(storage.notes)
            if storage.packed:
                frames = [
                    _decompressed(frame, storage, path, notes)
                    for frame in _compressed_frames(file, storage, number)
                ]
            else:
                file.seek(storage.start)
                frames = [_native(file, storage, number, path, notes)]
            array = np.concatenate([f.reshape(-1, *f.shape[-_axes(storage) :]) for f in frames])
            if len(array) != (storage.frames if number is None else 1):
                raise ValueError("fewer frames than stated in its header")
            if storage.photometric == "PALETTE COLOR":
                array = _through_palette(array, parse(file))
        if storage.coloured:
            array = array.astype(np.float32) @ _LUMINANCE
        return Decoded(array, tuple(sorted(notes)))


def _axes(storage: Storage) -> int:
    """Axes of one frame as returned by decoders."""
    return 2 if storage.samples == 1 else 3


def _options(storage: Storage, frames: int, found: Codestream | None = None) -> dict[str, Any]:
    """Options for pydicom's decoders; bits and sign are handled here, not by them."""
    allocated, bits = storage.allocated, storage.bits
    if found is not None:
        bits = found.precision
        allocated = 8 if bits <= 8 else 16 if bits <= 16 else 32
    return {
        "rows": storage.rows,
        "columns": storage.columns,
        "number_of_frames": frames,
        "samples_per_pixel": storage.samples,
        "photometric_interpretation": storage.photometric,
        "planar_configuration": int(storage.planar),
        "pixel_representation": int(storage.signed),
        "bits_allocated": allocated,
        "bits_stored": bits,
        "pixel_keyword": storage.keyword,
        "correct_unused_bits": False,
        "apply_jls_sign_correction": False,
        "apply_j2k_sign_correction": False,
        "allow_excess_frames": False,
    }


def _native(
    file: BinaryIO, storage: Storage, number: int | None, path: Path, notes: set[str]
) -> npt.NDArray[np.generic]:
    """Uncompressed values of one frame, or of all."""
    options = {**_options(storage, storage.frames), "pixel_vr": storage.vr or "OW"}
    array, found = get_decoder(storage.syntax).as_array(file, index=number, raw=True, **options)
    if not storage.floating and storage.allocated > 1:
        array = _in_words(array, storage, path, notes)
    return _as_rgb(array, str(found["photometric_interpretation"]))


def _compressed_frames(file: BinaryIO, storage: Storage, number: int | None) -> Iterator[bytes]:
    """Bytes of the requested frame, or of each, from the fragments that contain it.

    Raises
    ------
    ValueError
        If the offset table contradicts the fragments, or they cannot be assigned to frames.
    """
    table, fragments = _fragments(file, storage.start)
    frames = _by_frame(file, storage, table, fragments)
    for pieces in frames if number is None else frames[number : number + 1]:
        data = b""
        for at, length in pieces:
            file.seek(at)
            data += file.read(length)
        yield data


def _fragments(file: BinaryIO, start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Offset table (PS3.5 A.4), and offset and length of each fragment after it."""
    fragments: list[tuple[int, int]] = []
    file.seek(start)
    while (head := file.read(8))[:4] == _ITEM:
        length = int.from_bytes(head[4:], "little")
        at = start + 8
        fragments.append((at, length))
        start = at + length
        file.seek(start)
    if not fragments:
        raise ValueError("no fragments")
    at, length = fragments.pop(0)
    file.seek(at)
    return file.read(length), fragments


def _by_frame(
    file: BinaryIO, storage: Storage, table: bytes, fragments: list[tuple[int, int]]
) -> list[list[tuple[int, int]]]:
    """Fragments of each frame."""
    if len(fragments) == storage.frames:
        return [[fragment] for fragment in fragments]
    if storage.frames == 1:
        return [fragments]
    first = fragments[0][0] - 8 if fragments else 0
    if table or storage.offsets:
        kind, raw = ("<u4", table) if table else ("<u8", (storage.offsets or (b"", b""))[0])
        starts = [first + int(offset) for offset in np.frombuffer(raw, kind)]
    else:
        starts = [at - 8 for at, _ in fragments if _begins_frame(file, at)]
    places = {at - 8: place for place, (at, _) in enumerate(fragments)}
    if len(starts) != storage.frames or starts[0] != first or not places.keys() >= set(starts):
        raise ValueError("fragments that cannot be assigned to frames")
    ends = [places[at] for at in starts[1:]] + [len(fragments)]
    if ends != sorted(set(ends)):
        raise ValueError("an offset table that is not in order")
    return [fragments[places[at] : end] for at, end in zip(starts, ends, strict=True)]


def _begins_frame(file: BinaryIO, at: int) -> bool:
    """Whether a fragment begins with the start of a JPEG or JPEG 2000 image."""
    file.seek(at)
    return file.read(4).startswith((b"\xff\xd8\xff", b"\xff\x4f\xff\x51"))


def _decompressed(
    frame: bytes, storage: Storage, path: Path, notes: set[str]
) -> npt.NDArray[np.generic]:
    """Values of one compressed frame, RGB if it is in colour."""
    found = read_codestream(frame)
    syntax = storage.syntax
    if found is not None:
        _check_agreement(found, storage, path)
        syntax = found.syntax
        if syntax == JPEGExtended12Bit and found.precision == 8:
            syntax = JPEGBaseline8Bit
        elif syntax == JPEGExtended12Bit and (found.precision, found.samples) == (12, 1):
            words = _through_gdcm(found.bare, storage)
            return _in_words(words, storage, path, notes, found)
        elif syntax == JPEGLosslessSV1:
            frame = found.bare  # GDCM crashes the process on some application data
    elif syntax in _WITH_HEADER:
        raise ValueError("not compressed as stated in its header")
    decoder = get_decoder(syntax) if syntax in _PLUGINS else None
    if (
        decoder is None
        or _PLUGINS[syntax] not in decoder.available_plugins
        # ... and over this
        or (found is not None and syntax == JPEGLosslessSV1 and found.precision < 8)
    ):
        raise _no_decoder(syntax, path)
    array, properties = decoder.as_array(
        encapsulate([frame], has_bot=False),
        raw=True,
        decoding_plugin=_PLUGINS[syntax],
        **_options(storage, 1, found),
    )
    array = _in_words(array, storage, path, notes, found)
    return _as_rgb(array, str(properties["photometric_interpretation"]))


def _no_decoder(syntax: UID, path: Path) -> InputError:
    # An unregistered UID could be any text.
    name = "an unknown syntax" if syntax.name == str(syntax) else syntax.name
    return InputError(
        f"its pixels are compressed as {name}, for which no decoder is installed",
        path=path,
        fix="Export the series uncompressed, or as JPEG 2000",
    )


def _check_agreement(found: Codestream, storage: Storage, path: Path) -> None:
    """Refuse a compressed frame whose size or depth differs from the header."""
    sizes = [(f.rows, f.columns, f.samples) for f in (found, storage)]
    if sizes[0] != sizes[1]:
        inside, declared = (" x ".join(map(str, size)) for size in sizes)
        raise InputError(
            f"its compressed image is of {inside} values (rows, columns, colours), its header "
            f"states {declared}",
            path=path,
            fix=_FIX,
        )
    if found.precision > storage.allocated or (
        # Values that were cut to 8 bits for JPEG have lost their scale.
        found.precision == 8 < storage.bits
        and found.syntax in (JPEGBaseline8Bit, JPEGExtended12Bit)
    ):
        raise InputError(
            f"its compressed image has {found.precision} bits per value, its header states "
            f"{storage.bits}",
            path=path,
            fix="Export the series uncompressed",
        )


def _in_words(
    array: npt.NDArray[np.generic],
    storage: Storage,
    path: Path,
    notes: set[str],
    found: Codestream | None = None,
) -> npt.NDArray[Any]:
    """Extract values from the words they are stored in: the right bits, with their sign.

    PS3.5 8.1.1: a word of BitsAllocated holds a value of BitsStored, whose uppermost bit is
    HighBit; overlays may use the other bits. Decoders return words, some signed and some not. A
    compressed frame with its own bit depth has its values in the low bits of the word.
    """
    width = 8 * array.dtype.itemsize
    bits, lowest = storage.bits, storage.lowest
    if found is not None:
        bits = min(bits, found.precision)
        lowest = lowest if found.precision > storage.bits else 0
        if found.signed and storage.signed:
            bits = width  # the decoder has extended the sign
    bits = min(bits, width - lowest)
    unsigned = array.astype(array.dtype.newbyteorder("="), copy=False).view(f"u{width // 8}")
    values = unsigned << (width - lowest - bits)
    values = values.view(f"i{width // 8}") if storage.signed else values
    values = values >> (width - bits)
    if bits < width and not storage.overlays:
        _check_other_bits(unsigned, values, bits, lowest, path, notes)
    return values


def _check_other_bits(
    words: npt.NDArray[Any],
    values: npt.NDArray[Any],
    bits: int,
    lowest: int,
    path: Path,
    notes: set[str],
) -> None:
    """Check that bits outside the value are as expected if the header counts bits correctly."""
    width = 8 * words.dtype.itemsize
    below = bool((words & ((1 << lowest) - 1)).any())
    above = words >> (lowest + bits) if lowest + bits < width else np.zeros_like(words)
    if below and not above.any():
        top = int(words.max()).bit_length()
        if top <= bits:
            raise InputError(
                f"according to its header, values are in bits {lowest} to {lowest + bits - 1} of "
                f"each word, but they are in the lowest {top}",
                path=path,
                fix="Correct HighBit, or export the series again",
            )
    # The bits above a negative value may repeat its sign; if any do, all have to.
    sign = (1 << (width - lowest - bits)) - 1
    negative = values < 0
    signs = negative & (above == sign)
    odd = ((above != 0) & ~signs).any() or (signs.any() and not signs[negative].all())
    if odd or below:
        notes.add(
            f"According to the header, {bits} bits of each word hold its value, but others are "
            "set too in some pixels; they were ignored."
        )


def _as_rgb(array: npt.NDArray[np.generic], photometric: str) -> npt.NDArray[np.generic]:
    """Colours as RGB."""
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        return convert_color_space(array, "YBR_FULL", "RGB")
    return array


def _through_gdcm(frame: bytes, storage: Storage) -> npt.NDArray[np.generic]:
    """Decode 12-bit JPEG: no decoder called by pydicom does, but GDCM's own reader does."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2"
    dataset.Rows, dataset.Columns = storage.rows, storage.columns
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "frame.dcm")
        pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(file))
        if not reader.Read():
            raise ValueError("not decoded")
        # GDCM's binding returns bytes as text; what is not UTF-8 becomes surrogates.
        raw = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(raw, "<u2").reshape(storage.rows, storage.columns)


def _through_palette(
    array: npt.NDArray[np.generic], header: pydicom.Dataset
) -> npt.NDArray[np.generic]:
    """Colours of a palette image, 0 to 255."""
    if not header.original_encoding[1]:
        # pydicom assumes that the tables are little-endian.
        for colour in ("Red", "Green", "Blue"):
            table = header[f"{colour}PaletteColorLookupTableData"]
            table.value = np.frombuffer(table.value, "<u2").byteswap().tobytes()
    colours = apply_color_lut(array, header)
    return colours.astype(np.float32) * np.float32(255 / np.iinfo(colours.dtype).max)
