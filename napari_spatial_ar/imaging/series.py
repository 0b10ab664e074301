"""What a series of images is, without identifying the patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from napari_spatial_ar.imaging.acquisition import Acquisition, acquisition_of_files

__all__ = ["Intensity", "Modality", "Role", "Series"]

Modality = Literal["mri", "ct", "oct", "other", "unknown"]
# "grey8": 8-bit display values 0..255. "hu": Hounsfield units. "arbitrary": a scanner's own scale.
Intensity = Literal["grey8", "hu", "arbitrary"]
# "localizer": a scout image. "derived": computed from other images (a projection, a map).
Role = Literal["original", "derived", "localizer"]


@dataclass(frozen=True)
class Series:
    """What identifies a series without identifying the patient.

    Parameters
    ----------
    label : str
        Short name safe to show and to write, such as ``"MR series 4"``: never a patient's
        name, ID or date, and not taken from free text that may hold them.
    files : tuple of Path
        The files the volume was read from, in slice order: one for each slice, or one for all.
    uid : str
        SeriesInstanceUID, or "" if there is none.
    description : str
        Description by whoever acquired the scan, without dates and the patient's name and ID if
        these are known. Free text: for the screen of the person who opens the scan, never for a
        layer name, a log, a report or a file.
    frames : tuple of int
        DICOM only: for each slice, the index of its frame in its file, counted from 0. Empty
        if slices are not frames of their own (a mosaic, any other format). See
        `napari_spatial_ar.imaging.dicom.sources.dicom_sources`.
    acquired : Acquisition or None
        How it was acquired, according to the header; None if the format has no field for it.
    """

    label: str
    files: tuple[Path, ...] = field(default=(), repr=False)
    uid: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    frames: tuple[int, ...] = field(default=(), repr=False)
    acquired: Acquisition | None = field(default=None, repr=False)

    @property
    def acquisition(self) -> Acquisition:
        """How it was acquired, according to the header, or else to the file's name."""
        return acquisition_of_files(self.files) if self.acquired is None else self.acquired
