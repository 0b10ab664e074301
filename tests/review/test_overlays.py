"""Pictures of single slices: which ones, how turned, and what stands on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.review.pictures import overlay_slices, overlays, write_overlays

SCORES = np.array([1.0, 3.0, np.nan, 2.0, 1.5, 1.2], np.float32)
# Rows run to posterior, columns to the patient's left: as slices are drawn. 2 mm by 1 mm.
AXIAL = Geometry((6, 20, 40), np.diag([-1.0, -2.0, 5.0, 1.0]))


@pytest.fixture
def volume() -> Scan:
    """A dark scan with one bright voxel on the patient's left, behind, in slice 1."""
    data = np.zeros(AXIAL.shape, np.float32)
    data[1, 15:18, 30:36] = 100
    return Scan(data, AXIAL, "mri", Series("MR series 4"), unit="HU", window=(0.0, 100.0))


def drawn(volume: Scan, mask: np.ndarray, *, heat: bool = False) -> dict[int, np.ndarray]:
    nll = np.ones(AXIAL.shape, np.float32)
    nll[1, :5] = 9
    pages = overlays(volume, nll, SCORES, mask, threshold=2, heat=heat, longest=400)
    return {index: np.asarray(page) for index, page in pages}


def test_slices_that_the_mask_touches_else_the_highest(volume: Scan) -> None:
    mask = np.zeros(AXIAL.shape, np.uint8)
    assert overlay_slices(volume, mask, SCORES) == [1, 3, 4, 5]
    assert overlay_slices(volume, mask, SCORES, at_least=1) == [1]
    mask[2, 3, 3] = mask[5, 0, 0] = 1
    assert overlay_slices(volume, mask, SCORES) == [2, 5]


def test_the_scan_stands_upright_in_its_window_with_square_mm(
    volume: Scan, said: list[str]
) -> None:
    mask = np.zeros(AXIAL.shape, np.uint8)
    mask[1, 2:5, 3:8] = 1
    (page,) = drawn(volume, mask).values()
    # 40 x 1 mm wide, 20 x 2 mm high: square, and the foot with its text.
    assert page.shape[1] == 400
    slice_ = page[:400]
    bright = np.argwhere((slice_ > 240).all(axis=2) & (np.arange(400)[:, None] > 260))
    np.testing.assert_allclose(bright.mean(axis=0), (330, 330), atol=8)
    outline = np.argwhere((slice_[..., 0] < 20) & (slice_[..., 2] > 240))
    np.testing.assert_allclose(outline.mean(axis=0), (70, 55), atol=5)
    assert {"R", "L", "For research use, not for diagnosis."} <= set(said)
    assert "slice 2   window 0 to 100 HU" in said  # of index 1, counted as people do
    assert page[400:].any()
    flipped = replace(volume, geometry=replace(AXIAL, affine=np.diag([1.0, -2.0, 5.0, 1.0])))
    (mirrored,) = drawn(flipped, mask).values()
    np.testing.assert_array_equal(mirrored[30:180, 30:370], slice_[30:180, ::-1][:, 30:370])


def test_heat_only_where_asked(volume: Scan) -> None:
    mask = np.zeros(AXIAL.shape, np.uint8)
    mask[1, 15, 3] = 1
    plain, hot = drawn(volume, mask)[1], drawn(volume, mask, heat=True)[1]
    assert not plain[40:60, 100:300].any()
    assert hot[40:60, 100:300].mean() > 100


def test_no_sides_where_they_are_not_known(volume: Scan, said: list[str]) -> None:
    unplaced = replace(volume, geometry=replace(AXIAL, spacing_known=False))
    assert drawn(unplaced, np.ones(AXIAL.shape))
    assert not {"R", "L"} & set(said)


def test_files_are_named_after_slices(volume: Scan, tmp_path: Path) -> None:
    mask = np.zeros(AXIAL.shape, np.uint8)
    mask[3:5] = 1
    paths = write_overlays(
        tmp_path / "o", volume, np.ones(AXIAL.shape, np.float32), SCORES, mask, threshold=2
    )
    assert [path.name for path in paths] == ["slice_003.png", "slice_004.png"]
    with Image.open(paths[0]) as picture:
        assert picture.mode == "RGB"
