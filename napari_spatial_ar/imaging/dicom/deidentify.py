"""De-identification of the headers that DICOM objects are derived from.

By PS3.15's Basic Application Level Confidentiality Profile, with the package dicom-anonymizer, the
extra ``deidentify``. The sources' headers are de-identified before anything is derived from them,
so nothing that identifies the patient gets into an object, and references between objects hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.derived import SourceSlice, content_uid
from napari_spatial_ar.imaging.dicom.header import is_dicom, read_whole_header

__all__ = [
    "check_nothing_burnt_in",
    "deidentified",
    "need_deidentification",
    "research_uid",
]

# Edition of the profile's table.
_EDITION = "dicomfields_2026c"
_EMPTIED = ("DA", "DT", "TM", "AE", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
# Group of the modules on clinical trials, which are optional, and of de-identification.
_TRIAL = 0x0012
_METHOD = "PS3.15 basic profile (dicom-anonymizer)"


def need_deidentification() -> None:
    """Check that headers can be de-identified, before any work is done for it.

    Raises
    ------
    InputError
        If the package is missing; states what to install.
    """
    _library()


def check_nothing_burnt_in(files: Sequence[Path]) -> None:
    """Check that no image states that something is burnt into its pixels, which may be a name.

    Parameters
    ----------
    files : sequence of Path
        Files of a scan; nothing is stated by files that are not DICOM.

    Raises
    ------
    InputError
        If one does.
    """
    if not files or not files[0].is_file() or not is_dicom(files[0]):
        return
    for path in files:
        header = read_whole_header(path, ["BurnedInAnnotation"])
        if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
            raise InputError(
                "its header states that something is burnt into its pixels, which may identify "
                "the patient, so it cannot be de-identified",
                path=path,
                fix="Blank it in the images first",
            )


def _library() -> Any:
    try:
        from dicomanonymizer import simpledicomanonymizer
    except ImportError as error:
        raise InputError(
            "de-identifying DICOM objects needs the package dicom-anonymizer",
            fix='Install it with: pip install "napari-spatial-ar[deidentify]"',
        ) from error
    return simpledicomanonymizer


def research_uid(uid: str) -> str:
    """UID in place of another: the same for the same, so that references hold; "" for ""."""
    return content_uid("de-identified", uid) if uid else ""


def deidentified(slices: Sequence[SourceSlice]) -> list[SourceSlice]:
    """Source slices without the patient's identity.

    Dates, names, numbers, free text and private elements are removed, UIDs replaced by
    `research_uid`. Name and ID of the patient become a pseudonym of the study, as archives file by
    them.

    Parameters
    ----------
    slices : sequence of SourceSlice
        Those of one scan.

    Raises
    ------
    InputError
        If the package is missing.
    """
    library = _library()
    return [_without_identity(source, library) for source in slices]


def _without_identity(source: SourceSlice, library: Any) -> SourceSlice:
    header = deepcopy(source.header)
    rules = partial(library.initialize_actions, _EDITION)
    by_uid = {
        tag: _replace_uid
        for tag, action in rules().items()
        if action is library.replace_UID and len(tag) == 2
    }
    library.anonymize_dataset(
        header, extra_anonymization_rules=by_uid, delete_private_tags=True, base_rules_gen=rules
    )
    for element in list(header):
        # No invented dates, and none of the free text that the profile leaves.
        if element.tag.group == _TRIAL:
            del header[element.tag]
        elif element.VR in _EMPTIED:
            element.value = ""
    study = hashlib.sha256(str(header.StudyInstanceUID).encode()).hexdigest()
    header.PatientID = header.PatientName = f"ANON-{study[:8].upper()}"
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = _METHOD
    profile = Dataset()
    code = codes.DCM.BasicApplicationConfidentialityProfile
    profile.CodeValue, profile.CodingSchemeDesignator = code.value, code.scheme_designator
    profile.CodeMeaning = code.meaning
    header.DeidentificationMethodCodeSequence = [profile]
    header.LongitudinalTemporalInformationModified = "REMOVED"
    return replace(source, header=header, sop_instance=research_uid(source.sop_instance))


def _replace_uid(header: Dataset, tag: Any) -> None:
    element = header.get(tag)
    if element is not None and element.value:
        element.value = research_uid(str(element.value))
