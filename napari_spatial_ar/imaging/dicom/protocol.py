"""How a DICOM image was acquired: the weighting of an MR from its timing, the kernel of a CT.

Timing has precedence, since names are free text that may be wrong. Names of protocol, series and
sequence decide what timing leaves open; if the two contradict each other, the result is unknown.
The limits are those of clinical scanners of 1 to 3 tesla.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from napari_spatial_ar.imaging.acquisition import Acquisition, Kernel, SequenceName, words_of
from napari_spatial_ar.imaging.dicom.groups import Groups
from napari_spatial_ar.imaging.dicom.values import Header

__all__ = ["acquisition_of"]

# AcquisitionContrast (0008,9209) of enhanced MR images, PS3.3 C.8.13.3.1.1.
_CONTRASTS: dict[str, SequenceName] = {
    **{"DIFFUSION": "DWI", "FLUID_ATTENUATED": "FLAIR", "PERFUSION": "perfusion"},
    **{"PROTON_DENSITY": "PD", "STIR": "STIR", "T1": "T1", "T2": "T2", "T2_STAR": "T2*"},
    "TOF": "TOF",
}
# A diffusion image with a lower b-value counts as not diffusion-weighted.
_LEAST_B = 50.0
# A name may be more specific than the first of these, which comes from timing.
_CLOSER: dict[SequenceName, set[SequenceName]] = {
    "T2": {"FLAIR"},  # if the header has no inversion time
    "T2*": {"SWI", "BOLD", "perfusion", "DWI", "TOF"},
    "T1": {"TOF", "perfusion"},
    "DWI": {"ADC"},
}
_NO_AGENT = {"", "NO", "NONE", "N", "0", "NO CONTRAST"}


def acquisition_of(header: Header, groups: Groups) -> Acquisition:
    """Read the acquisition from the header of a frame.

    Parameters
    ----------
    header : Header
        The file's attributes.
    groups : Groups
        Functional groups of the frame.
    """
    modality = str(header.get("Modality") or "")
    if modality not in ("MR", "CT"):
        return Acquisition()
    names = (header.get(k) for k in ("SeriesDescription", "ProtocolName", "SequenceName"))
    named = words_of(" / ".join(str(name) for name in (*names, header.get("PulseSequenceName"))))
    agent = _agent(header)
    found = replace(named, contrast_agent=named.contrast_agent if agent is None else agent)
    if modality == "CT":
        kernel = _kernel(groups.get("CTReconstructionSequence", "ConvolutionKernel"))
        return replace(found, sequence="", kernel=kernel, modality="")
    return replace(found, sequence=_agreed(_weighting(header, groups), named.sequence), modality="")


def _agreed(by_times: SequenceName, by_name: SequenceName) -> SequenceName:
    if not by_times or by_times == by_name:
        return by_name
    if not by_name or (by_name == "T2" and by_times in ("FLAIR", "STIR", "T2*")):
        return by_times
    return by_name if by_name in _CLOSER.get(by_times, ()) else ""


def _weighting(header: Header, groups: Groups) -> SequenceName:
    """Weighting from measured and enumerated values; "" if they leave it open."""
    image_type = groups.get("MRImageFrameTypeSequence", "FrameType") or header.get("ImageType")
    types = {value.upper() for value in _texts(image_type)}
    if "ADC" in types:
        return "ADC"
    contrast = groups.get("MRImageFrameTypeSequence", "AcquisitionContrast")
    named = _CONTRASTS.get(str(contrast or "").strip().upper(), "")
    if named or types & {"DIFFUSION", "TRACEW"} or (groups.b_value or 0.0) >= _LEAST_B:
        return named or "DWI"
    return _by_times(header, groups)


def _by_times(header: Header, groups: Groups) -> SequenceName:
    echo = groups.number("MREchoSequence", "EffectiveEchoTime")
    echo = groups.number("", "EchoTime") if echo is None else echo
    repetition = groups.number("MRTimingAndRelatedParametersSequence", "RepetitionTime")
    inversion = groups.number("MRModifierSequence", "InversionTimes")
    inversion = groups.number("", "InversionTime") if inversion is None else inversion
    technique = set(_texts(header.get("ScanningSequence")))
    variant = set(_texts(header.get("SequenceVariant")))
    if not echo or not repetition:
        return ""
    if inversion and inversion > 0:
        return _inverted(inversion, echo)
    if "IR" in technique or "EP" in technique:
        return ""
    if "GR" in technique:
        if echo >= 12:
            return "T2*"
        # Unspoiled steady-state sequences are neither.
        return "T1" if echo <= 8 and ("SS" not in variant or variant & {"SP", "MP"}) else ""
    if echo <= 30:
        return "T1" if repetition <= 1200 else "PD" if repetition >= 1800 else ""
    return "T2" if echo >= 70 and repetition >= 1800 else ""


def _inverted(inversion: float, echo: float) -> SequenceName:
    """Weighting after an inversion pulse, times in ms: fluid, fat or neither is suppressed."""
    if inversion >= 1500:
        return "FLAIR" if echo >= 60 else ""
    if inversion <= 260:
        return "STIR"
    return "T1" if 300 <= inversion <= 1300 and echo <= 30 else ""


def _agent(header: Header) -> bool | None:
    """Whether a contrast agent was given; an empty attribute means no, a missing one is unknown."""
    if "ContrastBolusAgent" not in header:
        return None
    return str(header["ContrastBolusAgent"] or "").strip().upper() not in _NO_AGENT


def _kernel(value: Any) -> Kernel:
    """Classify kernels by their manufacturers' names."""
    names = _texts(value)
    name = names[0].upper() if names else ""
    siemens = re.fullmatch(r"[A-Z]{1,2}(\d\d)[A-Z]?(?:\d)?", name)
    canon = re.fullmatch(r"FC(\d\d)(?:-.*)?", name)
    if canon:
        return "soft" if int(canon[1]) < 30 else "sharp"
    if siemens:
        return "soft" if int(siemens[1]) <= 45 else "sharp" if int(siemens[1]) >= 50 else ""
    if name in ("STANDARD", "STND", "SOFT", "A", "B", "C", "UA", "UB", "SB", "IMR1"):
        return "soft"
    sharp = ("BONE", "BONEPLUS", "LUNG", "EDGE", "ULTRA", "D", "E", "L", "YC", "YD", "YE")
    return "sharp" if name in sharp else ""


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(v).strip() for v in ([value] if isinstance(value, str) else value))
