"""Body and air."""

from __future__ import annotations

import numpy as np
import pytest

from napari_spatial_ar.imaging import tissue
from napari_spatial_ar.imaging.tissue import has_tissue, tissue_mask


def disc(size: int, radius: float) -> np.ndarray:
    y, x = np.indices((size, size)) - size / 2
    return np.hypot(y, x) < radius


def test_body_without_specks_and_with_its_holes_filled() -> None:
    image = np.full((200, 200), 0.02)
    image[disc(200, 60)] = 0.5
    image[disc(200, 10)] = 0.0  # a ventricle
    image[5:9, 5:9] = 1.0  # a speck in the air
    np.testing.assert_array_equal(tissue_mask(image), disc(200, 60))


@pytest.mark.parametrize("turns", range(4))
def test_a_bay_open_to_an_edge_is_air(turns: int) -> None:
    image = np.ones((50, 50))
    image[20:30, :25] = 0.0
    image = np.rot90(image, turns)
    np.testing.assert_array_equal(tissue_mask(image), image > 0)


def test_all_air_and_all_body() -> None:
    assert not tissue_mask(np.zeros((64, 64))).any()
    assert tissue_mask(np.ones((64, 64))).all()


@pytest.mark.parametrize("seed", range(30))
def test_whether_there_is_any_is_what_the_mask_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.random((90, 70)) * rng.choice([0.049, 0.052, 0.06])
    row, column = rng.integers(0, 60, 2)
    height, width = rng.integers(0, 12, 2)  # from nothing over a speck to a spot
    image[row : row + height, column : column + width] = 1.0
    assert has_tissue(image) == tissue_mask(image).any()


def test_a_thin_line_of_body_is_found() -> None:
    image = np.zeros((100, 100))
    image[50, 10:60] = 1.0  # no square of it is bright, and it is no speck
    assert has_tissue(image)


def test_body_full_of_noise_is_found_without_labelling_the_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = np.random.default_rng(0).random((200, 200)) * 0.2  # a quarter of it is dark
    monkeypatch.setattr(tissue, "tissue_mask", pytest.fail)
    assert has_tissue(noise)
