"""Colours of heatmaps."""

from __future__ import annotations

import numpy as np
import pytest

from napari_spatial_ar.review.drawing import DEFAULT_COLOURS, HEAT_COLOURS, INFERNO


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours in [0, 1]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


@pytest.mark.parametrize("name", HEAT_COLOURS)
def test_colours_fade_in_from_transparent(name: str) -> None:
    rgba = HEAT_COLOURS[name].rgba
    assert rgba.shape == (256, 4)
    assert rgba.min() >= 0
    assert rgba.max() <= 1
    assert rgba[0, 3] == 0
    assert (np.diff(rgba[:, 3]) > 0).all()


@pytest.mark.parametrize("name", ["inferno", "viridis", "cividis"])
def test_lightness_rises_evenly(name: str) -> None:
    steps = np.diff(lightness(HEAT_COLOURS[name].rgba[:, :3])[::15])
    assert (steps > 0).all()
    assert steps.max() < 2 * np.median(steps)


def test_the_default_is_inferno() -> None:
    assert np.array_equal(HEAT_COLOURS[DEFAULT_COLOURS].rgba[:, :3], INFERNO)
