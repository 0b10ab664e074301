"""Body and air."""

from __future__ import annotations

import time

import numpy as np
import pytest

from napari_spatial_ar.imaging.tissue import tissue_mask


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


def test_it_is_fast_enough_for_every_slice() -> None:
    image = np.random.default_rng(0).random((512, 512)) * 0.06 + disc(512, 200) * 0.5
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        tissue_mask(image)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.05  # 10 ms on an idle machine
