"""Which DICOM objects are images of a patient: by SOP class (PS3.4 B.5) and modality."""

from __future__ import annotations

from pydicom.uid import UID

from napari_spatial_ar.imaging.dicom.values import Header

__all__ = ["CAPTURE", "class_name", "is_image", "object_remarks"]

_STANDARD = "1.2.840.10008."
# Registrations, segmentations and the like, including future ones unknown to pydicom.
_DERIVED_DATA = "1.2.840.10008.5.1.4.1.1.66."
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
#: Secondary capture: prefix of all its classes.
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Images whose class is not named "... Image Storage".
_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.6.2": "Enhanced US Volume",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",  # a grid of values in patient space
}
# Their frames are tiles of one image, luggage or workpieces.
_NOT_SLICES = ("Whole Slide", "Tiled Pyramidal", "DICOS", "Eddy Current")
# Modalities of objects that are not acquired images (PS3.3 C.7.3.1.1.1).
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
        SOPClassUID; a private class, or none, counts as an image.
    modality : str
        Modality, which decides if the class does not.
    """
    if modality.strip().upper() in _NO_IMAGES or sop_class.startswith(_DERIVED_DATA):
        return False
    name = _registered_name(sop_class)
    if not name or sop_class in _IMAGES or not sop_class.startswith(_STANDARD):
        return True
    return "Image Storage" in name and not any(words in name for words in _NOT_SLICES)


def class_name(sop_class: str) -> str:
    """Name of a class in the standard; "" if it is not registered."""
    if sop_class == _LABEL_MAP:
        return "Label Map Segmentation"
    return _registered_name(sop_class).replace(" Storage", "")


def _registered_name(sop_class: str) -> str:
    name = UID(sop_class).name
    return "" if name == sop_class else str(name)


def object_remarks(header: Header) -> tuple[str, ...]:
    """Warnings for an image that was not acquired by a scanner, or has text burned into it."""
    remarks = []
    if str(header.get("SOPClassUID") or "").startswith(CAPTURE):
        remarks.append(
            "This is a secondary capture (a screenshot or a converted image): what is drawn or "
            "written into it counts as part of the image."
        )
    if str(header.get("Modality") or "") == "RTDOSE":
        remarks.append("This is a radiotherapy dose, which was computed, not an image.")
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        remarks.append(
            "According to the header, text is burned into the image: it may name the patient."
        )
    return tuple(remarks)
