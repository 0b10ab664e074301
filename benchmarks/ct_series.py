"""Slices of a generated CT as DICOM, for benchmarks of reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def ct_slice(
    stored: npt.NDArray[np.uint16],
    number: int,
    uids: tuple[str, str],
    *,
    corner: tuple[float, float, float],
    spacing: float,
    thickness: float,
) -> Any:
    """Make one slice of a series (DICOM PS3.3 A.3, CT Image IOD).

    Parameters
    ----------
    stored : (Y, X) uint16
        Stored values, 0..4095: Hounsfield units + 1024.
    number : int
        Of the slice, from 0.
    uids : (str, str)
        Of study and series.
    corner : (3,) float
        Middle of the first voxel, mm, in the patient's L, P, S.
    spacing, thickness : float
        Between pixels and of the slice, mm.

    Returns
    -------
    pydicom.Dataset
        With file meta information, ready to be written.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesNumber, dataset.InstanceNumber = 2, number + 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = list(corner)
    dataset.PixelSpacing, dataset.SliceThickness = [spacing, spacing], thickness
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = stored.tobytes()
    return dataset
