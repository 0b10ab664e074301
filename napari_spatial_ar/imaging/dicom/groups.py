"""Attributes of one frame among a DICOM header's functional groups, and what sets frames apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from napari_spatial_ar.imaging.dicom.values import Header, numbers

__all__ = ["SIGNS", "Groups", "Kind", "axes_of", "kind_of", "signs_of"]

#: What may tell apart images at one place, the most telling first (see `signs_of`).
SIGNS = (
    *("temporal position", "b-value and gradient direction", "echo time", "acquisition number"),
    *("trigger time", "inversion time", "flip angle", "acquisition time", "content time"),
)
_SIEMENS, _GE = (0x0019, "SIEMENS MR HEADER"), (0x0043, "GEMS_PARM_01")


class Groups:
    """Look up an attribute in a frame's functional groups, then the shared ones, then the top."""

    def __init__(self, header: Header, number: int):
        frames = header.get("PerFrameFunctionalGroupsSequence")
        shared = header.get("SharedFunctionalGroupsSequence")
        self._levels = [
            *([frames[number]] if frames and number < len(frames) else []),
            *([shared[0]] if shared else []),
        ]
        self._header = header

    def get(self, sequence: str, keyword: str) -> Any:
        """Value of an attribute in the first item of a group's sequence, "" the group itself."""
        for level in self._levels:
            items = [level] if not sequence else level.get(sequence)
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        return self._header.get(keyword)

    def number(self, sequence: str, keyword: str) -> float | None:
        """Return the first number of an attribute."""
        found = numbers(self.get(sequence, keyword))
        return None if found is None else float(found[0])

    @property
    def b_value(self) -> float | None:
        """Diffusion weighting, s/mm2, where the header or the maker's private part has it."""
        standard = self.number("MRDiffusionSequence", "DiffusionBValue")
        if standard is not None:
            return standard
        siemens = numbers(_private(self._header, _SIEMENS, 0x0C))
        if siemens is not None:
            return float(siemens[0])
        # GE adds 1e9 to it on some releases.
        ge = re.match(rb"\s*(\d+)", _private_bytes(self._header, _GE, 0x39))
        return float(int(ge.group(1)) % 100_000) if ge else None

    @property
    def gradient(self) -> tuple[float, ...] | None:
        """Direction of the diffusion gradient."""
        for level in self._levels:
            diffusion = level.get("MRDiffusionSequence")
            item = diffusion[0] if diffusion else pydicom.Dataset()
            directions = item.get("DiffusionGradientDirectionSequence")
            if directions:
                found = numbers(directions[0].get("DiffusionGradientOrientation"), 3)
                return None if found is None else tuple(found.tolist())
        found = numbers(self._header.get("DiffusionGradientOrientation"), 3)
        if found is None:
            found = numbers(_private(self._header, _SIEMENS, 0x0E), 3)
        return None if found is None else tuple(found.tolist())


def _private_element(header: Header, block: tuple[int, str], element: int) -> Any:
    group, creator = block
    owner, tag = (group, 0x0010), (group, 0x1000 + element)
    if owner not in header or tag not in header or header[owner] != creator:
        return None
    return header[tag]


def _private(header: Header, block: tuple[int, str], element: int) -> Any:
    """Value of a private element, None without it; its reader's word is checked."""
    value = _private_element(header, block, element)
    if isinstance(value, bytes):  # implicit VR: the dictionary does not know its type
        raw = value
        text = value.decode("ascii", "replace").strip("\0 ")
        value = [text] if re.fullmatch(r"[-+.\deE]+", text) else None
        if value is None and len(raw) == 24:
            value = np.frombuffer(raw, "<f8").tolist()
    return value


def _private_bytes(header: Header, block: tuple[int, str], element: int) -> bytes:
    value = _private_element(header, block, element)
    if isinstance(value, bytes):
        return value
    if hasattr(value, "__len__") and not isinstance(value, str):
        value = value[0] if len(value) else None
    return b"" if value is None else str(value).encode()


@dataclass(frozen=True, slots=True)
class Kind:
    """What sets apart the volumes that share a series.

    ``alone`` is the file (or concatenation) where it is a volume by itself: multi-frame, or
    without a position. ``echo``, ``time`` and ``b_value`` are None where the header is silent.
    """

    alone: str
    image_type: tuple[str, ...]
    stack: str
    sop_class: str
    echo: float | None = None
    time: int | None = None
    b_value: float | None = None

    @property
    def firm(self) -> tuple[str, tuple[str, ...], str, str]:
        """What never shares a volume."""
        return self.alone, self.image_type, self.stack, self.sop_class

    @property
    def soft(self) -> tuple[float | None, int | None, float | None]:
        """What is counted wrongly by some scanners, slice by slice."""
        return self.echo, self.time, self.b_value


def kind_of(header: Header, groups: Groups, alone: str) -> Kind:
    """Find what sets a frame apart from others of its series."""
    image_type = groups.get("MRImageFrameTypeSequence", "FrameType")
    if image_type is None:
        image_type = groups.get("CTImageFrameTypeSequence", "FrameType") or header.get("ImageType")
    if isinstance(image_type, str) or image_type is None:
        image_type = [image_type or ""]
    echo = groups.number("MREchoSequence", "EffectiveEchoTime")
    if echo is None:
        echo = groups.number("", "EchoNumbers")
    time = groups.number("FrameContentSequence", "TemporalPositionIndex")
    if time is None:
        time = groups.number("", "TemporalPositionIdentifier")
    return Kind(
        alone=alone,
        image_type=tuple(str(value) for value in image_type),
        stack=str(groups.get("FrameContentSequence", "StackID") or ""),
        sop_class=str(header.get("SOPClassUID") or ""),
        echo=echo,
        time=None if time is None else int(time),
        b_value=groups.b_value,
    )


def signs_of(header: Header, groups: Groups, kind: Kind) -> tuple[Any, ...]:
    """Values in the order of `SIGNS`; None where the header is silent."""
    gradient = groups.gradient
    content = "FrameContentSequence"
    when = groups.get(content, "FrameAcquisitionDateTime") or groups.get("", "AcquisitionDateTime")
    return (
        kind.time,
        None
        if kind.b_value is None and gradient is None
        else (kind.b_value or 0.0, gradient or ()),
        groups.number("MREchoSequence", "EffectiveEchoTime") or groups.number("", "EchoTime"),
        groups.number(content, "FrameAcquisitionNumber") or groups.number("", "AcquisitionNumber"),
        groups.number("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")
        or groups.number("", "TriggerTime"),
        groups.number("MRModifierSequence", "InversionTimes") or groups.number("", "InversionTime"),
        groups.number("MRTimingAndRelatedParametersSequence", "FlipAngle"),
        _text(when or groups.get("", "AcquisitionTime")),
        _text(groups.get(content, "FrameReferenceDateTime") or groups.get("", "ContentTime")),
    )


def _text(value: Any) -> str | None:
    return None if value in (None, "") else str(value)


def axes_of(value: Any) -> npt.NDArray[np.float64] | None:
    """Two unit vectors at a right angle from ImageOrientationPatient, if it holds such."""
    flat = numbers(value, 6)
    if flat is None:
        return None
    axes = flat.reshape(2, 3)
    return axes if np.allclose(axes @ axes.T, np.eye(2), atol=1e-2) else None
