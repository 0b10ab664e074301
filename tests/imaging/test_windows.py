"""Windows: which values become 0 and 1."""

from __future__ import annotations

import json
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import (
    CT_PRESETS,
    Window,
    apply_window,
    default_window,
    display_limits,
    resolve,
)


def test_grey8_is_always_0_to_255() -> None:
    image = np.array([[10, 20]], dtype=np.float32)
    for window in (Window("percentile", 1, 99), Window("fixed", -5, 5), Window("full8")):
        assert resolve(window, image, "grey8") == (0.0, 255.0)


def test_percentiles_leave_the_background_out() -> None:
    image = np.concatenate([np.full(100_000, -3.0), np.linspace(100, 200, 1001)])
    assert resolve(Window("percentile", 0, 100), image) == (100.0, 200.0)
    assert resolve(Window("percentile", 10, 90), image) == pytest.approx((110.0, 190.0))


def test_a_sample_of_a_large_scan_is_close_and_repeatable() -> None:
    voxels = np.random.default_rng(1).normal(500, 100, (40, 200, 200)).astype(np.float32)
    low, high = resolve(Window("percentile", 0.5, 99.5), voxels)
    assert (low, high) == pytest.approx(np.percentile(voxels, (0.5, 99.5)), abs=2)
    assert (low, high) == resolve(Window("percentile", 0.5, 99.5), voxels)


def test_two_values_still_give_a_window() -> None:
    assert resolve(Window("percentile", 1, 99), np.array([0.0, 0.0, 7.0])) == (0.0, 7.0)


def test_fixed_is_in_stored_units() -> None:
    assert resolve(default_window("ct"), np.array([-1000.0, 3000.0]), "hu") == (-160.0, 240.0)


def test_a_volume_brings_its_own_unit() -> None:
    data = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    geometry = Geometry.without_spacing((2, 2, 2))
    volume = Scan(data, geometry, "unknown", Series("x"), intensity="grey8")
    assert resolve(default_window("mri"), volume) == (0.0, 255.0)


@pytest.mark.parametrize("modality", ["mri", "oct", "other", "unknown"])
def test_all_but_ct_use_percentiles(modality: str) -> None:
    assert default_window(modality) == Window("percentile", 0.5, 99.5)


def test_an_image_without_contrast_is_refused() -> None:
    with pytest.raises(InputError, match="same value, 4"):
        resolve(Window("percentile", 1, 99), np.full((3, 3), 4.0))
    with pytest.raises(InputError, match="not finite"):
        resolve(Window("percentile", 1, 99), np.array([1.0, np.nan]))


def test_apply_maps_and_clips() -> None:
    unit = apply_window(np.array([-10, 0, 50, 100, 300], dtype=np.int16), 0, 100)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("window", [Window("full8"), Window("fixed", -160, 240)])
def test_a_window_goes_through_json(window: Window) -> None:
    assert from_plain(json.loads(json.dumps(window.to_dict())), Window) == window


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"kind": "auto", "low": 0, "high": 1}, "^kind: "),
        ({"kind": "fixed", "low": 5, "high": 5}, "empty"),
        ({"kind": "fixed", "low": 0, "high": float("inf")}, "empty"),
        ({"kind": "percentile", "low": -1, "high": 99}, "between 0 and 100"),
        ({"kind": "fixed", "low": "a", "high": 1}, "^low: "),
    ],
)
def test_nonsense_is_refused(values: dict[str, object], match: str) -> None:
    with pytest.raises((InputError, ValueError), match=match):
        from_plain(values, Window)


def test_the_header_decides_how_a_scan_is_drawn() -> None:
    data = np.linspace(-1000, 1000, 1000, dtype=np.float32).reshape(1, 10, 100)
    geometry = Geometry(data.shape, np.eye(4))
    ct = Scan(data, geometry, "ct", Series("CT series 1"), intensity="hu")
    assert display_limits(ct) == (-160, 240)
    assert display_limits(replace(ct, window=(0.0, 80.0))) == (0, 80)
    mri = Scan(data, geometry, "mri", Series("MR series 1"))
    assert display_limits(mri) == pytest.approx((-989, 990), abs=2)


@pytest.mark.parametrize(
    ("name", "centre", "width"),
    [
        ("brain", 40, 80),
        ("liver", 60, 160),
        ("lung", -600, 1500),
        ("bone", 300, 1500),
        ("soft tissue", 40, 400),
    ],
)
def test_presets_are_those_of_radiologists(name: str, centre: float, width: float) -> None:
    window = CT_PRESETS[name]
    assert ((window.low + window.high) / 2, window.high - window.low) == (centre, width)


def test_slices_of_a_large_scan_are_read_in_one_go() -> None:
    voxels = np.random.default_rng(0).normal(100, 20, (40, 6, 8)).astype(np.float32)
    lazy = da.from_array(voxels, chunks=(1, 6, 8))
    series, geometry = Series("CT"), Geometry(voxels.shape, np.eye(4))
    volume = Scan(lazy, geometry, "ct", series)
    asked: list[object] = []
    with Callback(start=asked.append):
        found = resolve(Window("percentile", 5, 95), volume)
        wider = resolve(Window("percentile", 1, 99), volume)
    assert len(asked) == 1
    assert wider[0] < found[0] < found[1] < wider[1]
    chosen = np.unique(np.linspace(0, 39, 32).round().astype(int))
    assert found == resolve(Window("percentile", 5, 95), voxels[chosen])
