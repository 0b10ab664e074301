"""Small scans made on the spot, so that readers and all above them can be tested in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)


def build_image(pixels: np.ndarray, **tags: Any) -> Dataset:
    """DICOM data set with stored values (rows, columns[, 3]) or (frames, rows, columns)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.StudyInstanceUID = "1.2"
    dataset.PatientName = "Doe^John"
    dataset.PatientID = "ID4711"
    dataset.PatientBirthDate = "19700131"
    dataset.SeriesDescription = "brain of DOE"
    dataset.SeriesNumber = 4
    dataset.Modality = "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.shape[-1] == 3:
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        dataset.PhotometricInterpretation = "RGB"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
    elif pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


@pytest.fixture
def dicom_image() -> Callable[..., Dataset]:
    """Make a data set of stored values; keyword arguments are its other attributes."""
    return build_image


@pytest.fixture
def write_series(tmp_path: Path) -> Callable[..., list[Path]]:
    """Write (slices, rows, columns) as single-frame files, named against their order."""

    def write(
        voxels: np.ndarray,
        *,
        folder: str = "series",
        orientation: tuple[float, ...] = AXIAL,
        origin: tuple[float, ...] = (-10.0, -20.0, 30.0),
        spacing: tuple[float, float] = (1.5, 0.5),
        step: np.ndarray | None = None,
        positions: list[tuple[float, float, float]] | None = None,
        **tags: Any,
    ) -> list[Path]:
        axes = np.array(orientation, dtype=float).reshape(2, 3)
        step = 3.0 * np.cross(*axes) if step is None else step
        paths = []
        for k, pixels in enumerate(voxels):
            position = positions[k] if positions else np.array(origin) + k * step
            dataset = build_image(
                pixels,
                ImageOrientationPatient=[float(v) for v in orientation],
                ImagePositionPatient=[round(float(v), 4) for v in position],
                PixelSpacing=list(spacing),
                SliceThickness=2.5,
                InstanceNumber=7 * k % len(voxels) + 1,
                **tags,
            )
            paths.append(tmp_path / folder / f"{len(voxels) - k:03}")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            pydicom.dcmwrite(paths[-1], dataset, enforce_file_format=True)
        return paths

    return write


@dataclass(frozen=True)
class Image:
    """One image of a series of several volumes at the same places."""

    volume: int
    place: int
    dataset: Dataset = field(repr=False)


@pytest.fixture
def write_volumes(tmp_path: Path) -> Callable[..., list[Path]]:
    """Write volumes of one series that are at the same positions, as files named in no order.

    The stored values are those of `volume_voxels`. ``describe`` puts into an image what tells its
    volume; ``number`` gives its InstanceNumber (None: none). ``without`` lists the images
    (volume, place) that are not written.
    """

    def write(
        volumes: int = 3,
        places: int = 6,
        *,
        describe: Callable[[Image], None] = lambda image: None,
        number: Callable[[int, int], int | None] = lambda volume, place: None,
        without: Collection[tuple[int, int]] = (),
        folder: str = "series",
        position: Callable[[int, int], tuple[float, float, float]] = lambda volume, place: (
            *(-10.0, -20.0),
            30.0 + 3.0 * place,
        ),
        **tags: Any,
    ) -> list[Path]:
        voxels = volume_voxels(volumes, places)
        wanted = [(v, k) for v in range(volumes) for k in range(places) if (v, k) not in without]
        names = np.random.default_rng(volumes * places).permutation(len(wanted))
        paths = []
        for (v, k), name in zip(wanted, names, strict=True):
            dataset = build_image(
                voxels[v, k],
                ImageOrientationPatient=[float(n) for n in AXIAL],
                ImagePositionPatient=list(position(v, k)),
                PixelSpacing=[1.5, 0.5],
                SliceThickness=2.5,
                **tags,
            )
            count = number(v, k)
            if count is not None:
                dataset.InstanceNumber = count
            describe(Image(v, k, dataset))
            paths.append(tmp_path / folder / f"{name:03}")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            pydicom.dcmwrite(paths[-1], dataset, enforce_file_format=True)
        return sorted(paths)

    return write


def volume_voxels(volumes: int, places: int) -> np.ndarray:
    """(volumes, places, rows, columns) uint16: first pixel 100 * volume + place, others random."""
    voxels = np.random.default_rng(7).integers(0, 900, (volumes, places, 5, 6)).astype(np.uint16)
    voxels[..., 0, 0] = 100 * np.arange(volumes)[:, None] + np.arange(places)
    return voxels


def build_item(**tags: Any) -> Dataset:
    """Item of a sequence."""
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def build_groups(frame: dict[str, Any]) -> Dataset:
    """Functional groups of one frame, from what `build_multiframe` lists."""
    groups, content = Dataset(), Dataset()
    for name in ("TemporalPositionIndex", "StackID"):
        if name in frame:
            setattr(content, name, frame[name])
    groups.FrameContentSequence = [content]
    if frame.get("position") is not None:
        position = [float(v) for v in frame["position"]]
        groups.PlanePositionSequence = [build_item(ImagePositionPatient=position)]
    if "axes" in frame:
        axes = [float(v) for v in frame["axes"]]
        groups.PlaneOrientationSequence = [build_item(ImageOrientationPatient=axes)]
    if "echo" in frame:
        groups.MREchoSequence = [build_item(EffectiveEchoTime=frame["echo"])]
    if "b" in frame:
        diffusion = build_item(DiffusionBValue=frame["b"])
        if frame.get("direction") is not None:
            direction = [float(v) for v in frame["direction"]]
            gradient = build_item(DiffusionGradientOrientation=direction)
            diffusion.DiffusionGradientDirectionSequence = [gradient]
        groups.MRDiffusionSequence = [diffusion]
    if "window" in frame:
        centre, width = frame["window"]
        groups.FrameVOILUTSequence = [build_item(WindowCenter=centre, WindowWidth=width)]
    if "real_world" in frame:
        unit = build_item(CodeValue="um2/s", CodingSchemeDesignator="UCUM", CodeMeaning="x")
        groups.RealWorldValueMappingSequence = [
            build_item(
                MeasurementUnitsCodeSequence=[unit],
                RealWorldValueSlope=frame["real_world"],
                RealWorldValueIntercept=0.0,
            )
        ]
    return groups


def build_multiframe(pixels: np.ndarray, frames: list[dict[str, Any]], **tags: Any) -> Dataset:
    """Enhanced data set of stored values (frames, rows, columns).

    ``frames`` says of each frame its position, axes, StackID, TemporalPositionIndex, echo, b,
    direction, window (centre, width) and real_world (a slope): those of them that it has.
    """
    dataset = build_image(pixels, **tags)
    dataset.SharedFunctionalGroupsSequence = [
        build_item(
            PixelMeasuresSequence=[build_item(PixelSpacing=[1.5, 0.5], SliceThickness=2)],
            PlaneOrientationSequence=[build_item(ImageOrientationPatient=list(AXIAL))],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [build_groups(frame) for frame in frames]
    return dataset


@pytest.fixture
def multiframe() -> Callable[..., Dataset]:
    """Make an enhanced data set, see `build_multiframe`."""
    return build_multiframe


@pytest.fixture
def voxels() -> np.ndarray:
    """(slices, rows, columns) uint16, no two alike."""
    return np.random.default_rng(5).permutation(4 * 5 * 6).reshape(4, 5, 6).astype(np.uint16)


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder that may not be opened, for an administrator either."""
    scandir, closed = os.scandir, set()

    def refuse(path: Any) -> Any:
        if Path(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def make(folder: Path) -> None:
        folder.mkdir()
        closed.add(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    return make
