"""Which DICOM objects are images of a patient: by SOP class (PS3.4 B.5) and modality."""

from __future__ import annotations

from pydicom.uid import UID

from napari_spatial_ar.imaging.dicom.values import Header

__all__ = ["CAPTURE", "class_name", "is_image", "object_remarks"]

_STANDARD = "1.2.840.10008."
# Registrations, segmentations and the like: those to come too (pydicom does not know all).
_DERIVED_DATA = "1.2.840.10008.5.1.4.1.1.66."
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
#: Secondary capture, all of its classes begin so.
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Images whose class is not called "... Image Storage".
_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.6.2": "Enhanced US Volume",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",  # a grid of numbers on the patient
}
# Their frames are tiles of one picture; luggage; workpieces.
_NOT_SLICES = ("Whole Slide", "Tiled Pyramidal", "DICOS", "Eddy Current")
# Modalities of what was not acquired as an image (PS3.3 C.7.3.1.1.1).
_NO_IMAGES = {
    *("SEG", "SR", "KO", "PR", "DOC", "REG", "FID", "RWV", "PLAN", "ANN", "ASMT", "SMR", "M3D"),
    *("RTSTRUCT", "RTPLAN", "RTRECORD", "RTINTENT", "RTRAD", "RTSEGANN", "TEXTUREMAP", "STAIN"),
    *("ECG", "EEG", "EMG", "EOG", "EPS", "HD", "RESP", "POS", "AU", "TG"),
    *("AR", "KER", "LEN", "SRF", "VA", "IOL", "OAM", "OPM", "OPV", "OPTBSV", "OSS"),
    *("CTPROTOCOL", "XAPROTOCOL"),
}


def is_image(sop_class: str, modality: str) -> bool:
    """Whether an object may be slices of a patient: not a segmentation, a report, a map, a slide.

    Parameters
    ----------
    sop_class : str
        SOPClassUID; a maker's own class, or none, counts as an image.
    modality : str
        Modality, which decides where the class does not.
    """
    if modality.strip().upper() in _NO_IMAGES or sop_class.startswith(_DERIVED_DATA):
        return False
    name = _registered_name(sop_class)
    if not name or sop_class in _IMAGES or not sop_class.startswith(_STANDARD):
        return True
    return "Image Storage" in name and not any(words in name for words in _NOT_SLICES)


def class_name(sop_class: str) -> str:
    """Name a class as the standard does, "" where it is not registered."""
    if sop_class == _LABEL_MAP:
        return "Label Map Segmentation"
    return _registered_name(sop_class).replace(" Storage", "")


def _registered_name(sop_class: str) -> str:
    name = UID(sop_class).name
    return "" if name == sop_class else str(name)


def object_remarks(header: Header) -> tuple[str, ...]:
    """Sentences on an image that is not what a scanner acquired, or is written over."""
    remarks = []
    if str(header.get("SOPClassUID") or "").startswith(CAPTURE):
        remarks.append(
            "This is a secondary capture (a screen shot or a converted picture): what is drawn or "
            "written into it counts as image."
        )
    if str(header.get("Modality") or "") == "RTDOSE":
        remarks.append("This is a radiotherapy dose, which was computed, not an image.")
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        remarks.append(
            "The header says that text is burnt into the image: it may name the patient."
        )
    return tuple(remarks)
