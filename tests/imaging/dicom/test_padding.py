"""Pixels that only fill a picture up count nowhere (PS3.3 C.7.5.1.1.2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.datasets.survey import survey
from napari_spatial_ar.datasets.thumbnails import thumbnail
from napari_spatial_ar.imaging.dicom.series import find_series
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.tissue import has_tissue, tissue_mask
from napari_spatial_ar.imaging.windows import Window, apply_window, display_limits, resolve
from napari_spatial_ar.steps import finish

Write = Callable[..., list[Path]]
Multiframe = Callable[..., Dataset]

WINDOW = Window("percentile", 0.5, 99.5)


def body(dtype: type = np.uint16) -> np.ndarray:
    """(slices, rows, columns): noise of 100 to 900 in air of 0 to 9."""
    random = np.random.default_rng(4)
    voxels = random.integers(0, 10, (6, 40, 48))
    voxels[:, 12:30, 14:36] = random.integers(100, 900, (6, 18, 22))
    return voxels.astype(dtype)


OUTSIDE = np.zeros((6, 40, 48), bool)
OUTSIDE[:, :6] = OUTSIDE[:, -6:] = OUTSIDE[:, :, :8] = OUTSIDE[:, :, -8:] = True


def padded(voxels: np.ndarray, *values: int) -> np.ndarray:
    """The voxels with these values outside, by turns."""
    filled = voxels.copy()
    count = np.count_nonzero(OUTSIDE)
    filled[OUTSIDE] = np.resize(np.array(values).astype(voxels.dtype), count)
    return filled


def add(paths: list[Path], vr: str, value: int, limit: int | None = None) -> list[Path]:
    """Write the attributes as they are, whatever their type should be."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", vr, limit)
        dataset.save_as(path)
    return paths


def check(scan: Scan, expected: np.ndarray, background: float) -> None:
    """See that the scan shows what is inside and counts nothing else, read whole or by slices."""
    whole, slices = scan.read(lazy=False), scan.read(lazy=True)
    np.testing.assert_array_equal(slices.data, whole.data)
    np.testing.assert_allclose(whole.data[~OUTSIDE], expected[~OUTSIDE], rtol=1e-6)
    assert set(np.unique(whole.data[OUTSIDE])) == {np.float32(background)}
    assert background <= whole.data[~OUTSIDE].min()
    assert scan.background == whole.background == background
    # As of what is inside alone; air that has the value of the background goes with it.
    inside = expected[~OUTSIDE].astype(np.float32)
    inside = inside[inside != background]
    ends = np.percentile(inside[inside > inside.min()], (0.5, 99.5))
    for volume in (whole, slices):
        np.testing.assert_allclose(resolve(WINDOW, volume), ends, rtol=1e-6)
    shown = apply_window(whole.slice(3), *display_limits(whole))
    assert not shown[OUTSIDE[3]].any()
    assert not tissue_mask(shown)[OUTSIDE[3]].any()
    assert not has_tissue(np.where(OUTSIDE[3], shown, 0))
    assert thumbnail(scan)[0].max() == 0


@pytest.mark.parametrize(
    ("dtype", "vr", "value", "limit", "filled", "background"),
    [
        (np.uint16, "US", 65535, None, (65535,), 0),
        (np.uint16, "US", 65535, 65000, (65000, 65200, 65535), 0),
        (np.uint16, "US", 65000, 65535, (65000, 65200, 65535), 0),
        (np.uint16, "SS", -1, None, (65535,), 0),  # written with a sign
        (np.int16, "SS", -2000, None, (-2000,), -2000),
        (np.int16, "US", 63536, None, (-2000,), -2000),  # written without
        (np.int16, "SS", -2000, -1500, (-2000, -1700, -1500), -2000),
        (np.int16, "SS", 32767, None, (32767,), -32768),
        (np.uint16, "US", 5000, None, (5000,), 0),
    ],
)
def test_padding_of_an_mr(
    write_series: Write,
    dtype: type,
    vr: str,
    value: int,
    limit: int | None,
    filled: tuple[int, ...],
    background: float,
) -> None:
    voxels = body(dtype)
    (scan,) = find_series(add(write_series(padded(voxels, *filled)), vr, value, limit))
    check(scan, voxels, background)
    assert any("padding value" in w for w in scan.warnings) == (background not in filled)


def test_nothing_is_padding_where_the_header_names_none(write_series: Write) -> None:
    voxels = padded(body(), 65535)
    (scan,) = find_series(write_series(voxels))
    assert scan.background is None
    np.testing.assert_array_equal(scan.read().data, voxels)
    # A limit alone says nothing.
    paths = write_series(voxels, folder="b")
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingRangeLimit", "US", 65535)
        dataset.save_as(path)
    (scan,) = find_series(paths)
    assert scan.background is None


@pytest.mark.parametrize(
    ("value", "intercept", "background"), [(-2000, -1024, -3024), (0, -1024, -1024), (0, 0, -1024)]
)
def test_padding_of_a_ct_is_air(
    write_series: Write, value: int, intercept: int, background: float
) -> None:
    stored = body(np.int16) - intercept - 100
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": intercept}
    (scan,) = find_series(add(write_series(padded(stored, value), **tags), "SS", value))
    volume = scan.read()
    assert set(volume.data[OUTSIDE]) == {background}
    inside = ~OUTSIDE & (stored != value)
    np.testing.assert_array_equal(volume.data[inside], stored[inside] + intercept)
    assert any("padding value" in w for w in scan.warnings) == (background != value + intercept)


def test_an_inverted_image_is_padded_dark(write_series: Write) -> None:
    stored = 1000 - body()
    paths = write_series(padded(stored, 0), PhotometricInterpretation="MONOCHROME1")
    (scan,) = find_series(add(paths, "US", 0))
    check(scan, 65535.0 - stored, 0)


def test_slopes_that_differ_leave_one_background(write_series: Write) -> None:
    stored = body(np.int16)
    paths = []
    slopes = [0.5, 1.0, 2.0, 0.25, 1.5, 3.0]
    for k, path in enumerate(write_series(padded(stored, -5), Modality="PT", Units="BQML")):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = slopes[k], 0
        dataset.save_as(path)
        paths.append(path)
    (scan,) = find_series(add(paths, "SS", -5))
    check(scan, stored * np.array(slopes)[:, None, None], -15.0)


def test_padding_of_an_enhanced_file(multiframe: Multiframe, tmp_path: Path) -> None:
    voxels = body()
    frames = [{"position": (0, 0, 3.0 * k), "real_world": k + 2.0} for k in range(6)]
    dataset = multiframe(padded(voxels, 65535, 65530), frames)
    dataset.add_new("PixelPaddingValue", "US", 65530)
    dataset.add_new("PixelPaddingRangeLimit", "US", 65535)
    path = tmp_path / "a"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    (scan,) = find_series([path])
    check(scan, voxels * (np.arange(6) + 2.0)[:, None, None], 0)


def test_a_folder_of_padded_scans_has_the_histogram_of_plain_ones(write_series: Write) -> None:
    def histogram(paths: list[Path]) -> Any:
        (series,) = finish(survey(paths[0].parent, window=WINDOW)).series
        return series.histogram, series.picture

    plain, seen = histogram(write_series(padded(body(), 0), folder="plain"))
    paths = add(write_series(padded(body(), 60000), folder="padded"), "US", 60000)
    found, picture = histogram(paths)
    # Air of 0 counts as background in the one, as air in the other.
    assert np.abs(found - plain).sum() < 0.05 * plain.sum()
    assert np.abs(picture.astype(int) - seen).max() < 5
