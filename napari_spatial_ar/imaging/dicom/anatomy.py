"""The examined part of the body, as stated by a DICOM header: its code and its side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

__all__ = ["ExaminedRegion", "HeaderSide", "examined_region"]

HeaderSide = Literal["R", "L", ""]

_SCT = codes.SCT
# Defined terms of Body Part Examined (PS3.16 annex L) whose left and right halves a whole image
# shows. The side of a place in them is that of the midline on which it lies.
_BOTH_SIDES = {
    "ABDOMEN": _SCT.Abdomen,
    "ABDOMENPELVIS": _SCT.AbdomenAndPelvis,
    "BRAIN": _SCT.Brain,
    "CHEST": _SCT.Chest,
    "CHESTABDOMEN": _SCT.ChestAndAbdomen,
    "CHESTABDPELVIS": _SCT.ChestAbdomenAndPelvis,
    "HEAD": _SCT.Head,
    "HEADNECK": _SCT.HeadAndNeck,
    "NECK": _SCT.Neck,
    "PELVIS": _SCT.Pelvis,
    "SKULL": _SCT.Skull,
    "WHOLEBODY": _SCT.EntireBody,
}
# Others: single organs off the midline or on it, and parts of which there are two.
_OTHERS = {
    "ANKLE": _SCT.AnkleJoint,
    "BREAST": _SCT.Breast,
    "CSPINE": _SCT.CervicalSpine,
    "ELBOW": _SCT.ElbowJoint,
    "EYE": _SCT.Eye,
    "FOOT": _SCT.Foot,
    "HAND": _SCT.Hand,
    "HEART": _SCT.Heart,
    "HIP": _SCT.HipJoint,
    "KIDNEY": _SCT.Kidney,
    "KNEE": _SCT.Knee,
    "LEG": _SCT.LowerLeg,
    "LIVER": _SCT.Liver,
    "LSPINE": _SCT.LumbarSpine,
    "LUNG": _SCT.Lung,
    "PANCREAS": _SCT.Pancreas,
    "PROSTATE": _SCT.Prostate,
    "SHOULDER": _SCT.Shoulder,
    "SPINE": _SCT.Spine,
    "THIGH": _SCT.Thigh,
    "TSPINE": _SCT.ThoracicSpine,
    "WRIST": _SCT.WristJoint,
}
_NAMED = {**_BOTH_SIDES, **_OTHERS}
_SIDES: dict[str, HeaderSide] = {"R": "R", "L": "L"}
_BOTH_CODES = {code.value for code in _BOTH_SIDES.values()}


@dataclass(frozen=True)
class ExaminedRegion:
    """The examined part of the body.

    Parameters
    ----------
    code : Code
        SNOMED CT code.
    both_sides : bool
        Whether it has a left and a right half on either side of the midline.
    side : {"R", "L", ""}
        The patient's side of which it is, as stated by the header; "" if that is not stated.
    """

    code: Code
    both_sides: bool
    side: HeaderSide = ""


def examined_region(header: Dataset, frame: int = 0) -> ExaminedRegion | None:
    """Read it from the header of an image: codes before names, the frame's before the image's.

    Parameters
    ----------
    header : Dataset
        Of a file.
    frame : int
        Index of the frame in the file, from 0.

    Returns
    -------
    ExaminedRegion or None
        None if it is not stated, or not by a code or a defined term known here. Free text is not
        used.
    """
    groups = [
        *header.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1],
        *header.get("SharedFunctionalGroupsSequence", [])[:1],
    ]
    frames = [item for group in groups for item in group.get("FrameAnatomySequence", [])[:1]]
    stated = [str(item.get("FrameLaterality") or "") for item in frames]
    stated += [str(header.get(name) or "") for name in ("ImageLaterality", "Laterality")]
    first = next((word for word in stated if word), "")
    side = _SIDES.get(first, "")
    for level in (*frames, header):
        for item in level.get("AnatomicRegionSequence", [])[:1]:
            value = str(item.get("CodeValue") or "")
            scheme = str(item.get("CodingSchemeDesignator") or "")
            given = Code(value, scheme, "")
            for code in _NAMED.values():
                if code == given:  # older SNOMED codes are equal to those that replaced them
                    return ExaminedRegion(code, code.value in _BOTH_CODES, side)
            return None
    name = "".join(filter(str.isalnum, str(header.get("BodyPartExamined") or "").upper()))
    code = _NAMED.get(name)
    return None if code is None else ExaminedRegion(code, name in _BOTH_SIDES, side)
