"""Several volumes in one DICOM series: what sets them apart, and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.imaging.dicom.series import find_series
from napari_spatial_ar.imaging.dicom.sources import dicom_sources

Write = Callable[..., list[Path]]
Build = Callable[..., Dataset]
Multiframe = Callable[..., Dataset]


def labels(paths: list[Path]) -> list[str]:
    return [scan.series.label for scan in find_series(paths)]


def edit(paths: list[Path], change: Callable[[Dataset], None]) -> list[Path]:
    for path in paths:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
    return paths


def test_echoes(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels, EchoNumbers=1) + write_series(voxels, folder="b", EchoNumbers=2)
    assert labels(paths) == ["MR series 4, echo 1", "MR series 4, echo 2"]


def standard(b: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset.DiffusionBValue = b

    return change


def siemens(b: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(int(b)))

    return change


def ge(b: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [str(int(b) + 10**9), "8", "0", "0"])

    return change


def foreign(b: float) -> Callable[[Dataset], None]:
    """Element of the same number by a maker who means something else."""

    def change(dataset: Dataset) -> None:
        block = dataset.private_block(0x0019, "SOMEONE ELSE", create=True)
        block.add_new(0x0C, "IS", str(int(b)))

    return change


@pytest.mark.parametrize("maker", [standard, siemens, ge])
@pytest.mark.parametrize("implicit", [False, True])
def test_b_values(
    write_series: Write, voxels: np.ndarray, maker: Callable[[float], Any], implicit: bool
) -> None:
    paths = []
    for b in (0, 1000):
        for path in edit(write_series(voxels + b, folder=str(b)), maker(b)):
            if implicit:
                dataset = pydicom.dcmread(path)
                dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
                dataset.save_as(path, implicit_vr=True, little_endian=True)
            paths.append(path)
    scans = find_series(paths)
    assert [s.series.label for s in scans] == ["MR series 4, b 0", "MR series 4, b 1000"]
    np.testing.assert_array_equal(scans[1].read().data, voxels + 1000)


def test_another_makers_element_is_no_b_value(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels)
    for number, path in enumerate(paths):
        edit([path], foreign(number // 2))
    assert labels(paths) == ["MR series 4"]


def test_diffusion_directions_of_one_b_value(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels, DiffusionBValue=0.0)
    for number, direction in enumerate(np.eye(3)):
        folder = f"d{number}"
        more = {"DiffusionGradientOrientation": direction.tolist(), "DiffusionBValue": 1000.0}
        paths += write_series(voxels + number + 1, folder=folder, **more)
    scans = find_series(paths)
    assert [s.series.label for s in scans] == [
        "MR series 4, b 0",
        *(f"MR series 4, b 1000, {n} of 3" for n in (1, 2, 3)),
    ]
    assert any("b-value and gradient direction" in w for w in scans[1].warnings)
    for number, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.read().data, voxels + number)


def test_magnitude_and_phase(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels, ImageType=["ORIGINAL", "PRIMARY", "M", "NORM"])
    paths += write_series(voxels, folder="b", ImageType=["ORIGINAL", "PRIMARY", "P", "NORM"])
    paths += write_series(voxels, folder="c", ImageType=["ORIGINAL", "PRIMARY", "DOE JOHN"])
    assert labels(paths) == ["MR series 4, magnitude", "MR series 4, phase", "MR series 4"]


def test_orientations_get_numbers(write_series: Write, voxels: np.ndarray) -> None:
    paths = write_series(voxels)
    paths += write_series(voxels, folder="b", orientation=(0, 1, 0, 0, 0, -1))
    assert labels(paths) == ["MR series 4, stack 1 of 2", "MR series 4, stack 2 of 2"]


def test_an_enhanced_file_of_times_echoes_and_stacks(
    multiframe: Multiframe, tmp_path: Path, voxels: np.ndarray
) -> None:
    axial, sagittal = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)
    frames, expected = [], {}
    for stack, axes in (("1", axial), ("2", sagittal)):
        for echo in (5.0, 80.0):
            for time in (1, 2):
                expected[stack, echo, time] = []
                for k in range(2):
                    step = np.cross(axes[:3], axes[3:]) * 3.0 * k
                    expected[stack, echo, time].append(len(frames))
                    frames.append(
                        {
                            "position": step,
                            "axes": axes,
                            "StackID": stack,
                            "echo": echo,
                            "TemporalPositionIndex": time,
                        }
                    )
    random = np.random.default_rng(3)
    pixels = random.permutation(len(frames) * 30).reshape(-1, 5, 6).astype(np.uint16)
    order = random.permutation(len(frames))
    path = tmp_path / "a"
    dataset = multiframe(pixels[order], [frames[k] for k in order])
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    scans = find_series([path])
    assert len(scans) == 8
    names = {scan.series.label for scan in scans}
    assert len(names) == 8
    assert any("echo 80 ms, time 2 of 2" in name for name in names)
    found = {scan.read().data.tobytes(): scan for scan in scans}
    for key, numbers in expected.items():
        scan = found[pixels[numbers].astype(np.float32).tobytes()]
        volume = scan.read()
        assert volume.geometry.plane == ("axial" if key[0] == "1" else "sagittal")
        sources = dicom_sources(volume)
        assert sources == tuple((path, list(order).index(n)) for n in numbers)
        np.testing.assert_array_equal(scan.slice(1), volume.slice(1))


def test_enhanced_diffusion(multiframe: Multiframe, tmp_path: Path, voxels: np.ndarray) -> None:
    weights = [(0.0, None), (1000.0, (1, 0, 0)), (1000.0, (0, 1, 0))]
    frames = [
        {"position": (0, 0, 3.0 * k), "b": b, "direction": direction}
        for b, direction in weights
        for k in range(4)
    ]
    pixels = np.concatenate([voxels, voxels + 200, voxels + 400])
    path = tmp_path / "a"
    pydicom.dcmwrite(path, multiframe(pixels, frames), enforce_file_format=True)
    scans = find_series([path])
    assert [scan.series.label for scan in scans] == [
        "MR series 4, b 0",
        "MR series 4, b 1000, 1 of 2",
        "MR series 4, b 1000, 2 of 2",
    ]
    for number, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.read().data, voxels + 200 * number)
    sources = dicom_sources(scans[2].read())
    assert sources == tuple((path, 8 + k) for k in range(4))


def test_frames_have_their_own_windows_and_maps(
    multiframe: Multiframe, tmp_path: Path, voxels: np.ndarray
) -> None:
    frames = [
        {"position": (0, 0, 3.0 * k), "window": (100 * k + 50, 100), "real_world": k + 2.0}
        for k in range(4)
    ]
    path = tmp_path / "a"
    pydicom.dcmwrite(path, multiframe(voxels, frames), enforce_file_format=True)
    (scan,) = find_series([path])
    np.testing.assert_allclose(
        scan.read().data, voxels * (np.arange(4) + 2.0)[:, None, None], rtol=1e-6
    )
    assert scan.unit == "um2/s"
    assert scan.window == pytest.approx(((250 - 50) * 4.0, (250 + 49) * 4.0))  # the middle's


def test_a_film_at_one_place_has_no_spacing(
    multiframe: Multiframe, tmp_path: Path, voxels: np.ndarray
) -> None:
    path = tmp_path / "a"
    frames = [{"position": (0, 0, 3.0), "TemporalPositionIndex": k + 1} for k in range(4)]
    pydicom.dcmwrite(path, multiframe(voxels, frames), enforce_file_format=True)
    (scan,) = find_series([path])
    assert scan.warnings == ("All 4 images are at one position: they are a film, not a volume.",)
    assert not scan.geometry.measurable
    np.testing.assert_array_equal(scan.read().slices, voxels)


def test_ophthalmic_tomography_keeps_its_anisotropic_spacing(
    multiframe: Multiframe, tmp_path: Path, voxels: np.ndarray
) -> None:
    frames = [{"position": None} for _ in range(4)]
    dataset = multiframe(voxels, frames, Modality="OPT")
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing, measures.SliceThickness = [0.0039, 0.0117], 0.123
    del dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    path = tmp_path / "a"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    (scan,) = find_series([path])
    assert scan.modality == "oct"
    assert scan.geometry.spacing == pytest.approx((0.123, 0.0039, 0.0117))
    assert scan.geometry.spacing_known
    assert any("which side is left is not known" in warning for warning in scan.warnings)


def test_a_concatenation_of_multiframe_files_is_one_volume(
    multiframe: Multiframe, tmp_path: Path, voxels: np.ndarray
) -> None:
    paths = []
    for half in (0, 1):
        frames = [{"position": (0, 0, 3.0 * (2 * half + k))} for k in range(2)]
        dataset = multiframe(voxels[2 * half : 2 * half + 2], frames, ConcatenationUID="1.2.9")
        paths.append(tmp_path / str(half))
        pydicom.dcmwrite(paths[-1], dataset, enforce_file_format=True)
    (scan,) = find_series(paths[::-1])
    volume = scan.read()
    np.testing.assert_array_equal(volume.data, voxels)
    assert dicom_sources(volume) == tuple((paths[k // 2], k % 2) for k in range(4))
