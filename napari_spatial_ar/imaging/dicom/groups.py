"""Attributes of one frame in a DICOM header's functional groups, and what distinguishes frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from napari_spatial_ar.imaging.dicom import private
from napari_spatial_ar.imaging.dicom.values import Header, numbers
from napari_spatial_ar.imaging.dicom.words import names_component

__all__ = ["CLOCKS", "SIGNS", "TIMES", "Groups", "Kind", "axes_of", "kind_of", "signs_of"]

#: Attributes that may distinguish images at one position, most specific first (see `signs_of`).
SIGNS = (
    *("image type", "series number", "temporal position", "b-value and gradient direction"),
    *("echo time", "inversion time", "flip angle", "repetition time", "tube voltage"),
    *("slice thickness", "reconstruction kernel", "label or control", "sequence name"),
    *("receive coil", "acquisition number", "cardiac phase", "trigger time"),
    *("frame reference time", "acquisition time", "content time"),
)
#: Those that may differ between the slices of one volume because it took time to acquire.
TIMES = frozenset({"trigger time", "frame reference time", "acquisition time", "content time"})
#: Those by which images can be sorted in time, and whether the nth image at each position belongs
#: to the nth volume whatever the order of positions: true for a time of measurement, not for a
#: count.
CLOCKS = {
    "trigger time": True,
    "frame reference time": True,
    "acquisition time": True,
    "content time": False,
    "temporal position": False,
    "acquisition number": False,
}
_DECIMALS = 4


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
        """Diffusion weighting, rounded to s/mm2, from the header or the private elements."""
        found = self.number("MRDiffusionSequence", "DiffusionBValue")
        if found is None:
            found = private.b_value(self._header)
        return None if found is None else round(found)  # the same weighting may differ as a float

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
        return private.gradient(self._header) if found is None else tuple(found.tolist())


@dataclass(frozen=True, slots=True)
class Kind:
    """What distinguishes volumes in one series.

    ``alone`` is the file (or concatenation) if it is a volume by itself: multi-frame, or without a
    position. ``component`` is the part of ``image_type`` that never varies in a volume: its first
    three values and, of the others, which are implementation-specific (PS3.3 C.7.6.1.1.2), those
    that name a component of the signal or a computed map. ``echo``, ``time`` and ``b_value`` are
    None if the header does not state them.
    """

    alone: str
    image_type: tuple[str, ...]
    component: tuple[str, ...]
    stack: str
    sop_class: str
    echo: float | None = None
    time: int | None = None
    b_value: float | None = None

    @property
    def firm(self) -> tuple[str, tuple[str, ...], str, str]:
        """Frames that differ in it never share a volume."""
        return self.alone, self.component, self.stack, self.sop_class

    @property
    def weighting(self) -> tuple[float | None, float | None]:
        """Frames that differ in it share a volume only if a scanner counts it slice by slice."""
        return self.echo, self.b_value


def kind_of(header: Header, groups: Groups, alone: str) -> Kind:
    """Find what distinguishes a frame from others of its series."""
    image_type = groups.get("MRImageFrameTypeSequence", "FrameType")
    if image_type is None:
        image_type = groups.get("CTImageFrameTypeSequence", "FrameType") or header.get("ImageType")
    if isinstance(image_type, str) or image_type is None:
        image_type = [image_type or ""]
    stated = tuple(str(value) for value in image_type)
    echo = groups.number("MREchoSequence", "EffectiveEchoTime")
    if echo is None:
        echo = groups.number("", "EchoNumbers")
    time = groups.number("FrameContentSequence", "TemporalPositionIndex")
    if time is None:
        time = groups.number("", "TemporalPositionIdentifier")
    component = (
        *stated[:3],
        *(value for value in stated[3:] if names_component(value)),
        str(groups.get("MRImageFrameTypeSequence", "ComplexImageComponent") or ""),
        private.complex_part(header),
    )
    return Kind(
        alone=alone,
        image_type=stated,
        component=component,
        stack=str(groups.get("FrameContentSequence", "StackID") or ""),
        sop_class=str(header.get("SOPClassUID") or ""),
        echo=echo,
        time=None if time is None else int(time),
        b_value=groups.b_value,
    )


def signs_of(header: Header, groups: Groups, kind: Kind) -> tuple[Any, ...]:
    """Values in the order of `SIGNS`; None if the header does not state them."""
    gradient = groups.gradient
    content, heart = "FrameContentSequence", "CardiacSynchronizationSequence"
    timing = "MRTimingAndRelatedParametersSequence"

    def number(*places: tuple[str, str]) -> float | None:
        for sequence, keyword in places:
            found = groups.number(sequence, keyword)
            if found is not None:
                return round(found, _DECIMALS)
        return None

    label = groups.get("MRArterialSpinLabelingSequence", "ASLContext")
    phase = number((heart, "NominalPercentageOfCardiacPhase"))
    if phase is None:
        phase = private.phase(header)
    return (
        kind.image_type,
        number(("", "SeriesNumber")),
        kind.time,
        None
        if kind.b_value is None and gradient is None
        else (kind.b_value or 0.0, tuple(round(part, _DECIMALS) for part in gradient or ())),
        number(("MREchoSequence", "EffectiveEchoTime"), ("", "EchoTime")),
        number(("MRModifierSequence", "InversionTimes"), ("", "InversionTime")),
        number((timing, "FlipAngle")),
        number((timing, "RepetitionTime")),
        number(("CTXRayDetailsSequence", "KVP")),
        number(("PixelMeasuresSequence", "SliceThickness")),
        _text(groups.get("CTReconstructionSequence", "ConvolutionKernel")),
        _text(label or private.label_or_control(header)),
        _text(header.get("SequenceName")),
        _text(private.receive_coil(header)),
        number((content, "FrameAcquisitionNumber"), ("", "AcquisitionNumber")),
        phase,
        number((heart, "NominalCardiacTriggerDelayTime"), ("", "TriggerTime")),
        number(("", "FrameReferenceTime")),
        _moment(
            groups.get(content, "FrameAcquisitionDateTime")
            or groups.get("", "AcquisitionDateTime"),
            groups.get("", "AcquisitionDate"),
            groups.get("", "AcquisitionTime"),
        ),
        _moment(
            groups.get(content, "FrameReferenceDateTime"),
            groups.get("", "ContentDate"),
            groups.get("", "ContentTime"),
        ),
    )


def _moment(both: object, date: object, time: object) -> str | None:
    """Date and time as text in chronological sort order; None without a time."""
    if both not in (None, ""):
        return str(both)
    return None if time in (None, "") else f"{date or ''}{str(time).replace(':', '')}"


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)


def axes_of(value: object) -> npt.NDArray[np.float64] | None:
    """Two orthogonal unit vectors from ImageOrientationPatient, if it holds such."""
    flat = numbers(value, 6)
    if flat is None:
        return None
    axes = flat.reshape(2, 3)
    return axes if np.allclose(axes @ axes.T, np.eye(2), atol=1e-2) else None
