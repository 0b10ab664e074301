"""Diffusion and sequence data in the private elements of scanners.

A manufacturer's elements are in a block reserved by its private creator element, which may be any
block of the group (PS3.5 7.8.1): an element counts only if its block has the manufacturer's
creator.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from napari_spatial_ar.imaging.dicom.values import Header, numbers

__all__ = [
    "PRIVATE_TAGS",
    "b_value",
    "complex_part",
    "gradient",
    "label_or_control",
    "phase",
    "private",
    "receive_coil",
    "rows_reversed",
]

Block = tuple[int, str]
Elements = Header | Dataset
SIEMENS: Block = (0x0019, "SIEMENS MR HEADER")
SIEMENS_CSA: Block = (0x0029, "SIEMENS CSA HEADER")
SIEMENS_TEXT: Block = (0x0051, "SIEMENS MR HEADER")
GE: Block = (0x0043, "GEMS_PARM_01")
GE_ACQUISITION: Block = (0x0019, "GEMS_ACQU_01")
PHILIPS: Block = (0x2001, "Philips Imaging DD 001")
PHILIPS_MR: Block = (0x2005, "Philips MR Imaging DD 001")
PHILIPS_MR_5: Block = (0x2005, "Philips MR Imaging DD 005")
UIH: Block = (0x0065, "Image Private Header")

_ELEMENTS = {
    0x0019: (0x0C, 0x0E, 0x9C, 0xB3, 0xBB, 0xBC, 0xBD),
    0x0029: (0x10,),
    0x0043: (0x2F, 0x39),
    0x0051: (0x0F,),
    0x0065: (0x09, 0x37, 0x50),
    0x2001: (0x03, 0x08),
    0x2005: (0x11, 0x29, 0xB0, 0xB1, 0xB2),
}
_BLOCKS = range(0x10, 0x20)
#: Private elements that are read, with their private creators.
PRIVATE_TAGS = tuple(
    group << 16 | element
    for group, elements in _ELEMENTS.items()
    for block in _BLOCKS
    for element in (block, *(block << 8 | e for e in elements))
)
_COMPLEX = ("M", "P", "R", "I")
# Canon and Toshiba: "b=1500(0.445,0.000,0.895)" in ImageComments.
_IN_COMMENT = re.compile(r"\bb=(\d+(?:\.\d+)?)\(([-\d.]+),([-\d.]+),([-\d.]+)\)")


def private(header: Elements, maker: Block, element: int) -> Any:
    """Value of a private element; None if the file does not contain it.

    With implicit VR, where the type of a private element is unknown, it is parsed as numeric text
    or doubles.
    """
    group, creator = maker
    for block in _BLOCKS:
        if _value(header, group, block) == creator:
            value = _value(header, group, block << 8 | element)
            if value is not None:
                return _plain(value) if isinstance(value, bytes) else value
    return None


def _value(header: Elements, group: int, element: int) -> Any:
    found = header.get((group, element))
    return found.value if isinstance(found, DataElement) else found


def _plain(raw: bytes) -> Any:
    text = raw.decode("ascii", "replace").strip("\0 ")
    if re.fullmatch(r"[-+.\deE\\ ]+", text):
        return [part.strip() for part in text.split("\\")]
    if re.fullmatch(r"[\x20-\x7e]*", text):
        return text
    if len(raw) % 8 == 0 and len(raw) <= 24:
        return np.frombuffer(raw, "<f8").tolist()
    return np.frombuffer(raw, "<f4").tolist() if len(raw) == 4 else raw


def _first(value: Any) -> float | None:
    if isinstance(value, str):
        value = value.split("\\")
    if hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    found = numbers(value)
    return None if found is None else float(found[0])


def _csa(header: Header) -> dict[str, Any]:
    """Tags of a Siemens CSA header, for scanners that write diffusion nowhere else."""
    raw = private(header, SIEMENS_CSA, 0x10)
    if not isinstance(raw, bytes) or b"B_value" not in raw:
        return {}
    # Not at the top: importing it warns that it is experimental.
    from nibabel.nicom import csareader

    try:
        found: dict[str, Any] = csareader.read(raw)["tags"]  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  (a damaged private element does not affect the image)
        return {}
    return found


def _commented(header: Header) -> re.Match[str] | None:
    return _IN_COMMENT.search(str(header.get("ImageComments") or ""))


def b_value(header: Header) -> float | None:
    """Diffusion weighting, s/mm2, from manufacturers' private elements."""
    ge = _first(private(header, GE, 0x39))
    if ge is not None:
        # Some releases add 1e9 to it.
        return float(int(ge) % 100_000)
    for maker, element in ((SIEMENS, 0x0C), (PHILIPS, 0x03), (UIH, 0x09)):
        found = _first(private(header, maker, element))
        if found is not None:
            return found
    values = _csa(header).get("B_value", {}).get("items")
    if values:
        return float(values[0])
    commented = _commented(header)
    return float(commented.group(1)) if commented else None


def gradient(header: Header) -> tuple[float, ...] | None:
    """Direction of the diffusion gradient in the manufacturer's own axes: only for comparison."""
    for maker, element in ((SIEMENS, 0x0E), (UIH, 0x37)):
        found = numbers(private(header, maker, element), 3)
        if found is not None:
            return tuple(found.tolist())
    for maker, elements in ((GE_ACQUISITION, (0xBB, 0xBC, 0xBD)), (PHILIPS_MR, (0xB0, 0xB1, 0xB2))):
        each = [_first(private(header, maker, element)) for element in elements]
        parts = tuple(part for part in each if part is not None)
        if len(parts) == 3:
            return parts
    found = numbers(_csa(header).get("DiffusionGradientDirection", {}).get("items"), 3)
    if found is not None:
        return tuple(found.tolist())
    commented = _commented(header)
    return tuple(float(part) for part in commented.groups()[1:]) if commented else None


def complex_part(header: Header) -> str:
    """Component of the complex signal according to private elements: M, P, R, I, or ""."""
    ge = _first(private(header, GE, 0x2F))
    if ge is not None and 0 <= ge < len(_COMPLEX):
        return _COMPLEX[int(ge)]
    philips = str(private(header, PHILIPS_MR, 0x11) or "")
    return philips if philips in _COMPLEX else ""


def phase(header: Header) -> float | None:
    """Return the number of a cardiac phase or dynamic, as counted by Philips."""
    return _first(private(header, PHILIPS, 0x08))


def label_or_control(header: Header) -> str:
    """Whether arterial blood was labelled in an image, according to Philips."""
    return str(private(header, PHILIPS_MR_5, 0x29) or "")


def rows_reversed(header: Elements) -> bool | None:
    """Whether rows are stored from last to first, contrary to the header.

    GE's sequence epi_pepolar stores images of reversed phase encoding like this (as found by
    dcm2niix): all of a series if user variable 12 is 1, every second volume if it is 2 or 3. None
    if it is unknown for which volumes.
    """
    if "epi_pepolar" not in str(private(header, GE_ACQUISITION, 0x9C) or ""):
        return False
    which = _first(private(header, GE_ACQUISITION, 0xB3))
    return {0.0: False, 1.0: True}.get(0.0 if which is None else which)


def receive_coil(header: Header) -> str:
    """Coil elements of an image, if each element has its own images."""
    return str(private(header, SIEMENS_TEXT, 0x0F) or header.get("ReceiveCoilName") or "")
