"""A scored scan without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import ImageDraw

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.nifti import read_nifti, write_nifti
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.scores import ScanScores
from tests.fake_model import FakeModel, fake_header
from tests.scans import build_image


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    """Scan read from a file whose name holds a patient's name."""
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    data = np.arange(5 * 30 * 20, dtype=np.float32).reshape(5, 30, 20)
    path = tmp_path / "DOE_JANE.nii.gz"
    write_nifti(path, data, Geometry(data.shape, affine))
    return read_nifti(path)


@pytest.fixture
def dicom_scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """The same grid from DICOM, whose headers and file names are full of the patient."""
    folder = tmp_path_factory.mktemp("PoisonName_Jane")
    data = np.arange(5 * 30 * 20, dtype=np.uint16).reshape(5, 30, 20)
    for k, pixels in enumerate(data):
        dataset = build_image(
            pixels,
            PatientName="PoisonName^Jane",
            PatientID="PoisonID",
            PatientBirthDate="19991231",
            PatientComments="",
            SeriesDescription="PoisonText T2",
            StudyDescription="head 31.12.99",
            StudyDate="19991231",
            AccessionNumber="PoisonNumber",
            InstitutionName="PoisonText",
            ProtocolName="PoisonText",
            OperatorsName="PoisonText",
            ImageComments="PoisonText",
            FrameOfReferenceUID="1.2.9",
            WindowCenter=50,
            WindowWidth=100,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 3 * k],
            PixelSpacing=[2, 1],
            SliceThickness=3,
        )
        pydicom.dcmwrite(folder / f"PoisonName_{k}.dcm", dataset, enforce_file_format=True)
    (volume,) = read(folder)
    return volume


@pytest.fixture
def scores(scan: Scan) -> ScanScores:
    nll = np.ones(scan.data.shape, np.float32)
    nll[1:3, 5:12, 4:9] = 2.5
    nll[4] = 0
    scored = np.array([True, True, True, True, False])
    return ScanScores(nll, scan.geometry, scored, np.array([1, 2.5, 2.4, 1, np.nan], np.float32))


@pytest.fixture
def model() -> FakeModel:
    header = fake_header(method="spatial-ar", training={"history": [1.0], "seed": 7})
    return FakeModel("brain", header, "ab" * 32, calibrated=False)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is written into a picture."""
    texts: list[str] = []
    write = ImageDraw.ImageDraw.text

    def listen(self: Any, xy: Any, text: str, *args: Any, **options: Any) -> None:
        texts.append(text)
        write(self, xy, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", listen)
    return texts
