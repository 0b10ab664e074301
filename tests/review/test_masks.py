"""Each step of the mask against the plainest way to compute it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.measure import label, regionprops
from skimage.morphology import disk, opening

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window, display_limits
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.masks import MaskSettings, make_mask, make_slice_mask
from tests.fake_model import FakeModel

SHAPE = (7, 30, 26)


def grid(slice_axis: int = 0, spacing: tuple[float, float, float] = (1, 1, 3)) -> Geometry:
    return Geometry(SHAPE, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]), slice_axis)


@pytest.fixture
def nll() -> np.ndarray:
    """Blobs of many sizes, with holes."""
    noise = np.random.default_rng(5).normal(size=SHAPE)
    return (ndimage.gaussian_filter(noise, (0.7, 1.3, 1.3)) * 5).astype(np.float32)


def flood(above: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """What is reached from seeds inside a mask, one step in all directions at a time."""
    reached = above & seeds
    while True:
        grown = ndimage.binary_dilation(reached, np.ones((3,) * above.ndim)) & above
        if np.array_equal(grown, reached):
            return reached
        reached = grown


def test_hysteresis_keeps_what_a_flood_from_above_the_higher_threshold_reaches(
    nll: np.ndarray,
) -> None:
    mask = make_mask(nll, 0.5, MaskSettings(hysteresis=2.0), geometry=grid())
    assert np.array_equal(mask, flood(nll > 0.5, nll > 2.0))
    assert mask.sum() < (nll > 0.5).sum()
    # scikit-image's has 6 neighbours, so that its regions are parts of these.
    assert not (apply_hysteresis_threshold(nll, 0.5, 2.0) & ~mask.astype(bool)).any()


def test_hysteresis_of_one_slice_looks_at_this_slice_alone(nll: np.ndarray) -> None:
    settings = MaskSettings(hysteresis=2.0)
    for plane in nll:
        mask = make_slice_mask(plane, 0.5, settings, geometry=grid())
        assert np.array_equal(mask, flood(plane > 0.5, plane > 2.0))


def test_a_score_that_is_not_scored_or_not_allowed_holds_no_region(nll: np.ndarray) -> None:
    nll = np.ones(SHAPE, np.float32)
    nll[3, 10, 10] = 9
    settings = MaskSettings(hysteresis=5.0)
    scored = np.arange(7) != 3
    assert not make_mask(nll, 0.5, settings, geometry=grid(), scored=scored).any()
    region = nll < 5
    assert not make_mask(nll, 0.5, settings, geometry=grid(), region=region).any()


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_holes_are_filled_slice_by_slice(nll: np.ndarray, slice_axis: int) -> None:
    mask = make_mask(nll, -0.5, MaskSettings(fill_holes=True), geometry=grid(slice_axis))
    above = np.moveaxis(nll > -0.5, slice_axis, 0)
    expected = np.stack([~reach_outside(~plane) for plane in above])
    assert np.array_equal(np.moveaxis(mask, slice_axis, 0), expected)
    assert mask.sum() > above.sum()


def reach_outside(air: np.ndarray) -> np.ndarray:
    """Air that is connected by sides to the edge of the slice."""
    edge = np.ones(air.shape, bool)
    edge[1:-1, 1:-1] = False
    reached = air & edge
    while True:
        grown = ndimage.binary_dilation(reached) & air
        if np.array_equal(grown, reached):
            return reached
        reached = grown


def test_smallest_area_counts_pixels_with_eight_neighbours_in_each_slice(nll: np.ndarray) -> None:
    geometry = grid(spacing=(0.5, 2, 3))  # a pixel has 1 mm2
    mask = make_mask(nll, 1.0, MaskSettings(min_area_mm2=6), geometry=geometry)
    expected = np.zeros(SHAPE, bool)
    for number, plane in enumerate(nll):
        for region in regionprops(label(plane > 1.0, connectivity=2)):
            if region.num_pixels >= 6:
                expected[number][tuple(region.coords.T)] = True
    assert np.array_equal(mask, expected)
    assert 0 < mask.sum() < (nll > 1.0).sum()


def test_area_is_that_of_the_slices_axes() -> None:
    nll = np.zeros(SHAPE, np.float32)
    nll[2:5, 4, 4:6] = 1  # 3 x 2 pixels of 3 x 0.5 mm in slices along Y
    geometry = grid(slice_axis=1, spacing=(0.5, 2, 3))
    for area, kept in ((9, 6), (9.1, 0)):
        settings = MaskSettings(min_area_mm2=area)
        assert make_mask(nll, 0.5, settings, geometry=geometry).sum() == kept


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_smoothing_is_an_opening_with_a_disc(nll: np.ndarray, radius: int) -> None:
    mask = make_mask(nll, -1.0, MaskSettings(smoothing_mm=radius), geometry=grid())
    expected = np.stack([opening(plane > -1.0, disk(radius), mode="ignore") for plane in nll])
    assert np.array_equal(mask, expected)
    assert not (mask.astype(bool) & ~(nll > -1.0)).any()
    assert 0 < mask.sum() < (nll > -1.0).sum()


def test_smoothing_is_measured_in_mm() -> None:
    nll = np.zeros(SHAPE, np.float32)
    nll[1, 5:10, 5:16] = 1  # 5 rows of 2 mm, 11 columns of 0.5 mm: room for 2.5 mm
    geometry = grid(spacing=(0.5, 2, 3))
    assert make_mask(nll, 0.5, MaskSettings(smoothing_mm=2.5), geometry=geometry).any()
    assert not make_mask(nll, 0.5, MaskSettings(smoothing_mm=3), geometry=geometry).any()
    assert not make_mask(nll, 0.5, MaskSettings(smoothing_pixels=3), geometry=geometry).any()
    assert make_mask(nll, 0.5, MaskSettings(smoothing_pixels=2), geometry=geometry).any()
    assert make_mask(nll, -0.5, MaskSettings(smoothing_mm=3), geometry=geometry).all()


def test_region_and_body_bound_the_mask_filled_holes_too() -> None:
    nll = np.zeros(SHAPE, np.float32)
    nll[2, 5:12, 5:12] = 1
    nll[2, 8, 8] = 0
    region = np.ones(SHAPE, bool)
    region[2, 8, 8] = region[2, 5] = False
    body = np.ones(SHAPE, bool)
    body[2, :, 11] = False
    settings = MaskSettings(body_only=True, fill_holes=True)
    mask = make_mask(nll, 0.5, settings, geometry=grid(), body=body, region=region)
    assert np.array_equal(mask, (nll > 0.5) & region & body)
    with pytest.raises(InputError, match="was not given"):
        make_mask(nll, 0.5, settings, geometry=grid())
    with pytest.raises(InputError, match="not on the grid"):
        make_mask(nll, 0.5, geometry=grid(), region=region[1:])


def test_one_slice_is_what_the_volume_has_there(nll: np.ndarray) -> None:
    settings = MaskSettings(smoothing_mm=1, fill_holes=True, min_area_mm2=5)
    for slice_axis, across in itertools.product((0, 1, 2), (False, True)):
        geometry = grid(slice_axis, spacing=(1, 2, 3))
        region = nll < 3 if across else None
        whole = make_mask(nll, 0.0, settings, geometry=geometry, region=region)
        index = SHAPE[slice_axis] // 2
        plane = make_slice_mask(
            np.moveaxis(nll, slice_axis, 0)[index],
            0.0,
            settings,
            geometry=geometry,
            region=None if region is None else np.moveaxis(region, slice_axis, 0)[index],
        )
        assert np.array_equal(np.moveaxis(whole, slice_axis, 0)[index], plane)


@pytest.mark.parametrize("name", ["smoothing_mm", "min_area_mm2", "min_size_mm3"])
def test_mm_without_a_known_spacing_are_refused(nll: np.ndarray, name: str) -> None:
    geometry = Geometry.without_spacing(SHAPE)
    with pytest.raises(InputError, match="pixels and voxels instead"):
        make_mask(nll, 0, MaskSettings(**{name: 1.0}), geometry=geometry)
    with pytest.raises(InputError, match="is not a valid size"):
        MaskSettings(**{name: -1.0})


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_the_body_is_found_as_when_the_model_was_calibrated(slice_axis: int) -> None:
    data = np.zeros(SHAPE, np.float32)
    data[1:6, 6:24, 5:20] = 100 + np.arange(15)
    geometry = grid(slice_axis)
    volume = Scan(data, geometry, "mri", Series("a scan"))
    body = Body(volume, FakeModel())
    window = display_limits(volume)
    planes = [tissue_mask(apply_window(volume.slice(i), *window)) for i in range(SHAPE[slice_axis])]
    whole = body.whole(np.ones(len(planes), bool))
    assert np.array_equal(geometry.to_slices(whole), np.stack(planes))
    assert np.array_equal(body.plane(3), np.moveaxis(whole, slice_axis, 0)[3])
    assert 0 < whole.sum() < whole.size
