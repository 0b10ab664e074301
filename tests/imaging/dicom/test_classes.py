"""What is no image of a patient is no scan, whatever pixels it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.classes import is_image
from napari_spatial_ar.imaging.reading import find_scans

Build = Callable[..., Dataset]
Write = Callable[..., list[Path]]

PREFIX = "1.2.840.10008.5.1.4.1.1."


def save(dataset: Dataset, path: Path) -> Path:
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("sop_class", "modality", "name"),
    [
        (PREFIX + "66.4", "SEG", "Segmentation"),
        (PREFIX + "66.7", "SEG", "Label Map Segmentation"),
        (PREFIX + "66.9", "MR", ""),  # of its kind, to come
        (PREFIX + "66", "MR", "Raw Data"),
        (PREFIX + "30", "MR", "Parametric Map"),
        (PREFIX + "11.1", "MR", "Grayscale Softcopy Presentation State"),
        (PREFIX + "104.1", "MR", "Encapsulated PDF"),
        (PREFIX + "88.22", "MR", "Enhanced SR"),
        (PREFIX + "481.3", "MR", "RT Structure Set"),
        (PREFIX + "9.1.1", "MR", "12-lead ECG Waveform"),
        (PREFIX + "4.2", "MR", "MR Spectroscopy"),
        (PREFIX + "77.1.6", "SM", "VL Whole Slide Microscopy Image"),
        (PREFIX + "7", "SEG", "Secondary Capture Image"),
        ("1.3.12.2.1107.5.9.1", "KO", ""),
    ],
)
def test_an_object_that_is_no_image(
    tmp_path: Path, dicom_image: Build, sop_class: str, modality: str, name: str
) -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    path = save(dicom_image(pixels, SOPClassUID=sop_class, Modality=modality), tmp_path / "a")
    said = f"but a {name} object" if name else "but a report, a plan, a segmentation or a map"
    with pytest.raises(InputError, match="holds no image of a patient") as caught:
        find_scans(path)
    assert said in caught.value.what


@pytest.mark.parametrize(
    "sop_class",
    [
        *(PREFIX + end for end in ("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "7.3", "128")),
        *(PREFIX + end for end in ("130", "20", "6.2", "481.2", "77.1.5.4", "1.1", "12.1.1")),
        "1.3.46.670589.11.0.0.12.1",  # a maker's own
        PREFIX + "4.99",  # of a standard to come
        "",
    ],
)
def test_an_image(sop_class: str) -> None:
    assert is_image(sop_class, "MR")


def test_a_file_of_a_series_that_is_no_image_is_named(
    tmp_path: Path, dicom_image: Build, write_series: Write, voxels: np.ndarray
) -> None:
    paths = write_series(voxels)
    save(dicom_image(voxels[0], SOPClassUID=PREFIX + "66.4"), paths[0].parent / "seg")
    (scan,) = find_scans(paths[0].parent).scans
    assert scan.geometry.shape == voxels.shape
    assert any("1 file of the series is no image" in w for w in scan.warnings)


def test_what_was_not_acquired_is_said(
    tmp_path: Path, dicom_image: Build, voxels: np.ndarray
) -> None:
    capture = dicom_image(voxels[0], SOPClassUID=PREFIX + "7", BurnedInAnnotation="YES")
    (scan,) = find_scans(save(capture, tmp_path / "a")).scans
    assert any("secondary capture" in w for w in scan.warnings)
    assert any("may name the patient" in w for w in scan.warnings)
    dose = dicom_image(voxels[0], SOPClassUID=PREFIX + "481.2", Modality="RTDOSE", DoseUnits="GY")
    (scan,) = find_scans(save(dose, tmp_path / "b")).scans
    assert (scan.role, scan.unit) == ("derived", "GY")
    assert any("radiotherapy dose" in w for w in scan.warnings)
