"""Changes made to normal slices: within the body, visible, reproducible, of each kind."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors.patch_labels import (
    CHANGED,
    IGNORED,
    UNCHANGED,
    patch_labels,
)
from napari_spatial_ar.normative.fitting import synthetic_anomalies
from napari_spatial_ar.normative.fitting.synthetic_anomalies import KINDS, change

SHAPE = (96, 120)


@pytest.fixture
def body() -> npt.NDArray[np.bool_]:
    rows, columns = np.indices(SHAPE)
    return np.hypot((rows - 48) / 40, (columns - 60) / 50) < 1


@pytest.fixture
def image(body: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Two tissues with a fine texture, on black."""
    texture = 0.03 * np.random.default_rng(0).standard_normal(SHAPE)
    tissue = np.where(np.arange(SHAPE[1]) < 60, 0.35, 0.6) + texture
    return (tissue * body).clip(0, 1).astype(np.float32)


def only(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(synthetic_anomalies, "KINDS", {kind: (1.0, KINDS[kind][1])})


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_a_part_of_the_body(
    kind: str,
    image: npt.NDArray[np.float32],
    body: npt.NDArray[np.bool_],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, kind)
    before = image.copy()
    others = [image.T.copy(), np.full((50, 60), 0.9, np.float32)]
    visible, outside = [], 0.0
    for seed in range(20):
        changed, magnitude = change(image, body, np.random.default_rng(seed), others)
        assert changed.dtype == magnitude.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1
        np.testing.assert_array_equal(magnitude, np.abs(changed - image))
        visible.append((magnitude[body] > 0.04).mean())
        outside = max(outside, magnitude[~ndimage.binary_dilation(body, iterations=3)].max())
    np.testing.assert_array_equal(image, before)
    assert sum(share > 0.002 for share in visible) > 8
    # Three regions of at most 15 % each, stretched or ragged by a little.
    assert max(visible) < 0.6
    assert outside < 1e-3 or kind == "warp"


def test_same_seed_same_change(image: npt.NDArray[np.float32], body: npt.NDArray[np.bool_]) -> None:
    pictures = [change(image, body, np.random.default_rng(seed))[0] for seed in (4, 4, 5)]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_another_grey_keeps_the_texture(
    image: npt.NDArray[np.float32],
    body: npt.NDArray[np.bool_],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, "tissue")
    similarity, steps = [], []
    for seed in range(20):
        changed, magnitude = change(image, body, np.random.default_rng(seed))
        inside = ndimage.binary_erosion(magnitude > 0.05, iterations=2)
        if inside.sum() < 30:
            continue
        fine = [picture - ndimage.gaussian_filter(picture, 1.5) for picture in (image, changed)]
        similarity.append(np.corrcoef(fine[0][inside], fine[1][inside])[0, 1])
        steps.append((changed - image)[inside].mean())
    assert np.median(similarity) > 0.7
    assert min(steps) < -0.05
    assert max(steps) > 0.05


def test_pieces_come_from_the_other_slices(
    image: npt.NDArray[np.float32],
    body: npt.NDArray[np.bool_],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, "foreign")
    white = np.ones((30, 44), np.float32)
    changed, magnitude = change(image, body, np.random.default_rng(1), [white])
    assert magnitude.max() > 0.1
    assert (changed >= image - 1e-6).all()  # only lighter: all that can come in is white


def test_regions_are_of_many_sizes(
    image: npt.NDArray[np.float32],
    body: npt.NDArray[np.bool_],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, "shift")
    monkeypatch.setattr(synthetic_anomalies, "_REGIONS", (1, 1))
    shares = np.array(
        [
            (change(image, body, np.random.default_rng(seed))[1][body] > 0.01).mean()
            for seed in range(60)
        ]
    )
    assert (shares < 0.01).sum() > 5
    assert (shares > 0.06).sum() > 5


def test_nothing_to_change_and_nonsense(image: npt.NDArray[np.float32]) -> None:
    rng = np.random.default_rng(0)
    changed, magnitude = change(image, np.zeros(SHAPE, bool), rng)
    np.testing.assert_array_equal(changed, image)
    assert not magnitude.any()
    with pytest.raises(InputError, match="have one shape"):
        change(image, np.ones((4, 4), bool), rng)
    with pytest.raises(InputError, match="have one shape"):
        change(image[None], np.ones((1, *SHAPE), bool), rng)


def test_patches_are_labelled_by_their_area() -> None:
    magnitude = np.zeros((20, 30), np.float32)
    magnitude[:5, :10] = 0.5  # a patch, whole
    magnitude[5:10, 10:13] = 0.5  # 30 % of one
    magnitude[10:15, 10:14] = 0.5  # 40 %
    magnitude[15:, :] = 0.003  # too little to tell
    magnitude[15:, 20:] = 0.02  # invisible, but something
    expected = [
        [CHANGED, UNCHANGED, UNCHANGED],
        [UNCHANGED, IGNORED, UNCHANGED],
        [UNCHANGED, CHANGED, UNCHANGED],
        [UNCHANGED, UNCHANGED, IGNORED],
    ]
    np.testing.assert_array_equal(patch_labels(magnitude, (4, 3)), expected)
    # Where pixels lie across patches, against pictures enlarged until they do not.
    magnitude = (np.random.default_rng(0).random((10, 14)) < 0.3).astype(np.float32)
    enlarged = magnitude.repeat(4, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(patch_labels(magnitude, (8, 6)), patch_labels(enlarged, (8, 6)))
