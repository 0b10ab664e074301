"""Names of a series: safe to write, or for the screen only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from napari_spatial_ar.imaging.dicom.values import Header
from napari_spatial_ar.imaging.series import Role

__all__ = ["describe", "label_of", "names_component", "role_of", "type_words"]

_DATES = re.compile(r"\d{1,4}[-./_]\d{1,2}[-./_]\d{1,4}|\d{6,8}")
# Image modalities (PS3.3 C.7.3.1.1.1), including retired ones.
_MODALITIES = {
    *("BI", "BMD", "CD", "CF", "CR", "CS", "CT", "DD", "DF", "DG", "DM", "DMS", "DS", "DX", "EC"),
    *("ES", "FA", "FS", "GM", "HC", "IO", "IVOCT", "IVUS", "LP", "LS", "MA", "MG", "MR", "MS"),
    *("NM", "OCT", "OP", "OPT", "OPTENF", "OT", "PA", "PT", "PX", "RF", "RG", "RTDOSE", "RTIMAGE"),
    *("SC", "SM", "ST", "TG", "US", "VF", "XA", "XC"),
}
_MOST_DIGITS = 6
_LOCALIZERS = ("LOCALIZER", "SURVIEW", "SCOUT", "SCANOGRAM", "TOPOGRAM")
# Values of ImageType with which scanners and workstations mark computed images. A trace image
# (TRACEW) is not among them: it is the diffusion image that is read clinically.
_COMPUTED = {
    *("MIP", "MINIP", "MNIP", "MAX_IP", "MIN_IP", "MEAN_IP", "PROJECTION IMAGE", "PROJECTION"),
    *("VRT", "SSD", "VOLUME_RENDER", "CPR", "CURVED", "CSA 3D EDITOR"),
    *("ADC", "EADC", "FA", "EXP", "COLFA", "TENSOR", "PHASE MAP", "FIELD MAP", "SUBTRACTION"),
    *("CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "PBP", "RELCBV", "RELCBF", "RELMTT"),
    *("T1MAP", "T2MAP", "T1 MAP", "T2 MAP", "T2_STAR MAP", "R2 MAP", "R2_STAR MAP", "MAP"),
    *("FAT_FRACTION", "T_TEST", "ZMAP", "GBP"),
}
_WORDS = {
    **{"M": "magnitude", "M_FFE": "magnitude", "M_SE": "magnitude", "MAGNITUDE": "magnitude"},
    **{"P": "phase", "PHASE": "phase", "PHASE MAP": "phase", "R": "real", "I": "imaginary"},
    **{"REAL": "real", "IMAGINARY": "imaginary", "ADC": "ADC", "FA": "FA", "TRACEW": "trace"},
    **{"MIP": "MIP", "WATER": "water", "W": "water", "FAT": "fat", "F": "fat"},
    **{"IN_PHASE": "in phase", "IP": "in phase", "OPP_PHASE": "opposed phase"},
    **{"OP": "opposed phase", "LOCALIZER": "localizer", "AXIAL": "axial"},
}


def label_of(header: Header) -> str:
    """Modality and number only: any other text, or a long number, may identify the patient."""
    modality = str(header.get("Modality") or "")
    kind = modality if modality in _MODALITIES else "DICOM"
    number = re.sub("[^0-9]", "", str(header.get("SeriesNumber") or ""))
    return f"{kind} series {number if len(number) <= _MOST_DIGITS else ''}".rstrip()


def role_of(image_type: Iterable[str]) -> Role:
    """Determine the role of a scan from its ImageType.

    DERIVED alone does not count: archives set it on originals that they recompressed (DERIVED,
    PRIMARY). A scan counts as computed from other images if it has DERIVED and SECONDARY, or names
    a projection or a map.
    """
    values = {value.strip().upper() for value in image_type}
    if any(word in value for value in values for word in _LOCALIZERS):
        return "localizer"
    if {"DERIVED", "SECONDARY"} <= values or values & _COMPUTED:
        return "derived"
    return "original"


def names_component(value: str) -> bool:
    """Whether a value of ImageType names a component of the signal, a map or a localizer."""
    word = value.strip().upper()
    return word in _WORDS or word in _COMPUTED or any(part in word for part in _LOCALIZERS)


def type_words(image_type: Iterable[str]) -> str:
    """Describe a volume by its ImageType in words that cannot name a patient; else ""."""
    words = (_WORDS.get(value.strip().upper(), "") for value in tuple(image_type)[2:])
    return " ".join(dict.fromkeys(word for word in words if word))


def describe(header: Header) -> str:
    """SeriesDescription or ProtocolName without dates, the patient's name and ID."""
    text = str(header.get("SeriesDescription") or header.get("ProtocolName") or "")
    secrets = tuple(
        str(header.get(keyword) or "")
        for keyword in ("PatientName", "PatientID", "OtherPatientIDs", "AccessionNumber")
    )
    return _without(text, secrets)


@lru_cache(maxsize=256)
def _without(text: str, secrets: tuple[str, ...]) -> str:
    name, *numbers = secrets
    parts = [part for part in re.split(r"[\^=\s,.;_-]+", name) if len(part) > 1]
    for secret in (*(n for n in numbers if len(n) > 1), *parts):
        text = re.sub(re.escape(secret), " ", text, flags=re.IGNORECASE)
    text = "".join(c if c.isprintable() else " " for c in _DATES.sub(" ", text))
    return " ".join(text.split())[:80]
