"""Meaning of the stored values of a DICOM frame: rescale, real world values, unit, window."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from napari_spatial_ar.imaging.dicom.storage import Storage
from napari_spatial_ar.imaging.dicom.units import known_unit

__all__ = ["Header", "Padding", "Table", "Values", "numbers", "read_values"]

Get = Callable[[str, str], Any]
#: Top-level attributes of a file by keyword, private ones by (group, element).
Header = Mapping[Any, Any]
_MOST_TIMES_RANGE = 2.0
_WHOLE_NUMBERS = 2**24  # float32 represents all integers up to this
# Slightly below air in a CT: nothing in a body has this value.
_AIR_HU = -1024.0
_UNKNOWN_UNIT = "The unit in the header is not one of DICOM's: the unit of the values is unknown."
_NO_RESCALE = (
    "The header of this CT has no usable Rescale Slope and Intercept: its values are as stored, "
    "not in Hounsfield units."
)


def numbers(value: Any, count: int | None = None) -> npt.NDArray[np.float64] | None:
    """Finite numbers of an attribute, exactly as many as requested, else None.

    Numeric text is accepted whatever the value representation: some writers use one that does not
    split values at backslashes (UT, LT), or UN.
    """
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, str):
        value = value.strip("\0 ").split("\\")
    if value is None:
        return None
    values = list(value) if hasattr(value, "__len__") else [value]
    if not values or (count is not None and len(values) != count):
        return None
    try:
        array = np.array([float(v) for v in values])
    except (TypeError, ValueError):
        return None
    return array if np.isfinite(array).all() else None


def _number(value: Any) -> float | None:
    found = numbers(value)
    return None if found is None else float(found[0])


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """A lookup table whose first entry is for the stored value ``first``."""

    first: float
    entries: npt.NDArray[np.float64] = field(repr=False)

    def __call__(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Look up stored values; those outside the table map to its nearest end."""
        place = np.clip(stored - self.first, 0, len(self.entries) - 1)
        found: npt.NDArray[Any] = self.entries[place.astype(np.intp)]
        return found


@dataclass(frozen=True, slots=True)
class Padding:
    """Pixels that pad an image outside the acquired region (PS3.3 C.7.5.1.1.2).

    Parameters
    ----------
    first, last : float
        Range of stored values that are padding.
    background : float
        What these pixels are set to, in the scan's unit: not above any other pixel.
    """

    first: float
    last: float
    background: float

    def __call__(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which stored values are padding."""
        found: npt.NDArray[np.bool_] = (stored >= self.first) & (stored <= self.last)
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """Conversion of stored values to the scan's.

    Parameters
    ----------
    slope, intercept : float
        ``slope * stored + intercept``.
    table : Table, optional
        Used instead of slope and intercept.
    mirror : float, optional
        MONOCHROME1 without a unit: ``mirror - stored`` replaces the stored value, so that bright is
        bright.
    unit : str
        Such as "HU" or "BQML", one of DICOM's; "" if there is none or it is unknown.
    window : (float, float), optional
        Values displayed black and white.
    padding : Padding, optional
        Which stored values are padding.
    remarks : tuple of str
        Warnings on anything unexpected.
    """

    slope: float = 1.0
    intercept: float = 0.0
    table: Table | None = None
    mirror: float | None = None
    unit: str = ""
    window: tuple[float, float] | None = None
    padding: Padding | None = None
    remarks: tuple[str, ...] = ()

    @property
    def as_stored(self) -> bool:
        """Whether values are the stored ones (or mirrored)."""
        return self.table is None and (self.slope, self.intercept) == (1.0, 0.0)

    def __call__(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Convert grey stored values of any shape to the scan's.

        Returns
        -------
        array
            float32; if that may not represent the values (stored with more than 16 bits, or
            float64), float64, or the stored integer type if they are unchanged.
        """
        narrow = stored.dtype.itemsize <= 2 or stored.dtype == np.float32
        # float32 represents 16-bit integers exactly, but not 32-bit ones.
        wide = np.float32 if narrow and abs(self.intercept) <= _WHOLE_NUMBERS else float
        unchanged = self.as_stored and self.mirror is None and stored.dtype.kind in "iu"
        kept = stored.dtype.type if unchanged and not narrow else wide
        values: npt.NDArray[Any] = stored.astype(kept)
        if self.mirror is not None:
            values = wide(self.mirror) - values
        if self.table is not None:
            values = self.table(values)
        elif not self.as_stored:
            values = values * wide(self.slope) + wide(self.intercept)
        if self.padding is not None:
            values[self.padding(stored)] = self.padding.background
        return values


def _lookup_table(item: pydicom.Dataset, signed: bool) -> Table | None:
    """Modality LUT of one sequence item."""
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or data is None or len(descriptor) != 3:
        return None
    first = int(descriptor[1])
    if signed and first > 32767:
        first -= 65536
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.array(data)
    return Table(first, entries.astype(np.float64)) if entries.size else None


def _real_world(item: pydicom.Dataset) -> tuple[float, float, Table | None, str] | None:
    """Slope, intercept, table and unit of one real world value mapping."""
    codes = item.get("MeasurementUnitsCodeSequence")
    unit = str(codes[0].get("CodeValue") or "") if codes else ""
    slope, intercept = _number(item.get("RealWorldValueSlope")), item.get("RealWorldValueIntercept")
    if slope:
        return slope, _number(intercept) or 0.0, None, unit
    data = numbers(item.get("RealWorldValueLUTData"))
    first = item.get("RealWorldValueFirstValueMapped")
    if data is None or first is None or data.size < 2:
        return None
    return 1.0, 0.0, Table(float(first), data), unit


def read_values(header: Header, get: Get, storage: Storage) -> Values:
    """Meaning of one frame's values.

    Parameters
    ----------
    header : Header
        The file's attributes.
    get : callable
        ``get(sequence, keyword)``: an attribute of the frame's functional groups, or else of the
        header.
    storage : Storage
        How pixels are stored.
    """
    values = _unpadded(header, get, storage)
    padding = _padding(get, storage, values)
    if padding is None:
        return values
    remarks = values.remarks
    first, last = values(np.array([padding.first, padding.last]))
    if padding.background < min(first, last):
        same = padding.first == padding.last
        shown = f"{padding.first:g}" if same else f"{padding.first:g} to {padding.last:g}"
        remarks += (f"Pixels of the padding value {shown} are read as background.",)
    return replace(values, padding=padding, remarks=remarks)


def _padding(get: Get, storage: Storage, values: Values) -> Padding | None:
    limits = storage.limits
    if storage.coloured or limits is None:
        return None

    def stored(keyword: str) -> float | None:
        value = get("PixelValueTransformationSequence", keyword)
        if isinstance(value, bytes) and len(value) == 2:  # its type depends on other attributes
            value = int.from_bytes(value, "little")
        number = _number(value)
        if number is None:
            return None
        # Two bytes, which some writers store signed for unsigned pixels, or the reverse.
        if storage.signed and number > limits[1]:
            return number - 2**16
        return number + 2**16 if number < 0 and not storage.signed else number

    value, limit = stored("PixelPaddingValue"), stored("PixelPaddingRangeLimit")
    if value is None:
        return None
    first, last = sorted((value, value if limit is None else limit))
    least = float(values(np.array([first, last])).min())
    rising = values.table is None and values.mirror is None and values.slope > 0
    if values.unit == "HU":
        least = min(least, _AIR_HU)
    elif not (storage.signed and last <= 0 and rising):
        # Few signed images have content below 0: padding that is not above 0 is dark already.
        ends = np.array(limits) if values.table is None else values.table.entries
        least = min(least, float((values(ends) if values.table is None else ends).min()))
    return Padding(first, last, least)


def _unpadded(header: Header, get: Get, storage: Storage) -> Values:
    """Meaning of all values except padding."""
    modality = str(header.get("Modality") or "")
    slope = _number(get("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = _number(get("PixelValueTransformationSequence", "RescaleIntercept"))
    rescale_type = str(get("PixelValueTransformationSequence", "RescaleType") or "").strip()
    unit, table, window_map = "", None, (1.0, 0.0)
    rescaled = bool(slope) and intercept is not None
    if modality == "RTDOSE" and slope is None:
        slope, unit = _number(header.get("DoseGridScaling")), str(header.get("DoseUnits") or "")
    luts = header.get("ModalityLUTSequence")
    if slope is None and luts:
        table = _lookup_table(luts[0], storage.signed)
        rescale_type = str(luts[0].get("ModalityLUTType") or "").strip()
    given = slope is not None or intercept is not None
    slope = 1.0 if slope is None or slope == 0 else slope
    intercept = 0.0 if intercept is None else intercept
    maps = get("", "RealWorldValueMappingSequence")
    if not given and table is None and maps:
        found = _real_world(maps[0])
        if found is not None:
            slope, intercept, table, unit = found
            window_map = (slope, intercept)
    remarks: tuple[str, ...] = ()
    if modality == "CT" and not storage.display and not unit:
        # Some writers put "US" (unspecified) for Hounsfield units.
        unit = "HU" if rescaled and rescale_type in ("", "US") else rescale_type
        if not rescaled and table is None:
            unit, remarks = "", (_NO_RESCALE,)
    elif modality in ("PT", "NM") and not unit:
        unit = str(header.get("Units") or "")
    known = known_unit(unit)
    if known is None:
        unit, remarks = "", (_UNKNOWN_UNIT,)
    else:
        unit = known
    # Values with a unit, known or not, are never inverted; only display values are.
    mirror = None
    limits = storage.limits
    if storage.photometric == "MONOCHROME1" and not (unit or remarks) and limits is not None:
        mirror = limits[0] + limits[1]
    values = Values(slope, intercept, table, mirror, unit, remarks=remarks)
    window = _window(get)
    if window is None or table is not None or storage.coloured:
        return values
    low, high = sorted(end * window_map[0] + window_map[1] for end in window)
    if limits is not None and not _sensible((low, high), limits, slope, intercept):
        return values
    if mirror is not None:
        total = slope * mirror + 2 * intercept
        low, high = total - high, total - low
    return replace(values, window=(low, high))


def _window(get: Get) -> tuple[float, float] | None:
    """Find the ends of the first window (PS3.3 C.11.2.1.2); None if it is invalid."""
    centre = _number(get("FrameVOILUTSequence", "WindowCenter"))
    width = _number(get("FrameVOILUTSequence", "WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(get("FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
    if function == "LINEAR":
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    else:
        low, high = centre - width / 2, centre + width / 2
    return (low, high) if low < high and math.isfinite(high - low) else None


def _sensible(
    window: tuple[float, float], limits: tuple[float, float], slope: float, intercept: float
) -> bool:
    """Whether a window overlaps the values that can occur."""
    least, most = sorted(end * slope + intercept for end in limits)
    wide = window[1] - window[0] > _MOST_TIMES_RANGE * (most - least)
    return not wide and window[0] < most and window[1] > least
