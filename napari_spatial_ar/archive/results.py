"""Which files of a scan's results go back to an archive."""

from __future__ import annotations

from pathlib import Path

from napari_spatial_ar.archive.interface import ToSend
from napari_spatial_ar.archive.sending import files_to_send
from napari_spatial_ar.errors import InputError

__all__ = ["result_files"]


def result_files(folder: Path) -> tuple[ToSend, ...]:
    """DICOM objects in the folder of a scan's results, whatever their kind; none: ().

    Masks, maps, reports and captures are found by content, so every kind of object that is
    written there is sent.

    Raises
    ------
    InputError
        If one of them lacks what identifies it, or two have the same UID.
    """
    if not any(path.is_file() for path in folder.rglob("*.dcm")):
        return ()
    try:
        return files_to_send([folder]).files
    except InputError as error:
        if error.path == folder:  # none of them is DICOM
            return ()
        raise
