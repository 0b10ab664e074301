"""Outlines that are fitted to edges of the image, on blobs whose edges are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from napari_spatial_ar.errors import Cancelled
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative.cancellation import cancel_when
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.review.findings import label_components
from napari_spatial_ar.review.refining import RefineSettings, Unrefined, refine_all, refine_region
from napari_spatial_ar.review.strokes import Strokes

SHAPE = (16, 72, 64)
SPACING = (3.0, 1.0, 1.0)


def geometry(spacing: tuple[float, float, float] = SPACING, shape: Any = SHAPE) -> Geometry:
    z, y, x = spacing
    return Geometry(shape, np.diag([-x, -y, z, 1.0]))


def ball(centre: tuple[int, int, int], radius: float, shape: Any = SHAPE) -> np.ndarray:
    """Voxels within a radius in mm."""
    steps = [
        (at - middle) * step
        for at, middle, step in zip(np.indices(shape), centre, SPACING, strict=True)
    ]
    return np.asarray(sum(step**2 for step in steps) <= radius**2)


def image(lesion: np.ndarray, of: float = 160.0) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 8, lesion.shape)
    return (np.where(lesion, of, 100.0) + noise).astype(np.float32)


def scores(lesion: np.ndarray) -> np.ndarray:
    """As coarse as patches: highest in the middle, above 1 some 6 mm around the lesion."""
    away = ndimage.distance_transform_edt(~lesion, sampling=SPACING)
    within = ndimage.distance_transform_edt(lesion, sampling=SPACING)
    return np.asarray(2 + 0.1 * within - away / 6, np.float32)


def refine(voxels: np.ndarray, heat: np.ndarray, mask: np.ndarray, label: int = 1, **more: Any):
    region = np.flatnonzero(label_components(mask).ravel() == label)
    grid = more.pop("grid", geometry(shape=mask.shape))
    found = refine_region(voxels, heat, mask, region, grid, **more)
    after = mask.copy()
    after.flat[found.removed] = False
    after.flat[found.added] = True
    assert set(found.kept) | set(found.removed) == set(region)
    return after


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("grey", [160.0, 40.0], ids=["bright", "dark"])
def test_a_generous_outline_is_fitted_in_3d(grey: float) -> None:
    lesion = ball((8, 34, 30), 14)
    heat = scores(lesion)
    mask = heat > 1
    assert dice(mask, lesion) < 0.75
    after = refine(image(lesion, grey), heat, mask)
    assert dice(after, lesion) > 0.97
    assert np.array_equal(after, refine(image(lesion, grey), heat, mask))


def test_an_outline_that_is_too_small_grows_within_the_margin() -> None:
    lesion = ball((8, 34, 30), 14)
    small = ball((8, 34, 30), 12)
    after = refine(image(lesion), scores(lesion), small)
    assert dice(after, lesion) > dice(small, lesion)
    assert not (after & ~lesion).any()
    small = ball((8, 34, 30), 10)
    away = ndimage.distance_transform_edt(~small, sampling=SPACING)
    after = refine(image(lesion), scores(lesion), small, settings=RefineSettings(around_mm=8))
    assert 0 < away[after].max() <= RefineSettings().margin_mm
    with pytest.raises(Unrefined, match="no clear edge"):
        refine(image(lesion), scores(lesion), ball((8, 34, 30), 6))


def test_slices_far_apart_are_not_entered() -> None:
    lesion = np.zeros(SHAPE, bool)
    lesion[4:12, 20:44, 20:44] = True
    mask = np.zeros(SHAPE, bool)
    mask[6:10, 16:48, 16:48] = True
    near = refine(image(lesion), scores(lesion), mask, grid=geometry((1.5, 1.0, 1.0)))
    far = refine(image(lesion), scores(lesion), mask, grid=geometry((5.0, 1.0, 1.0)))
    assert np.flatnonzero(near.any(axis=(1, 2))).tolist() == [5, 6, 7, 8, 9, 10]
    assert np.flatnonzero(far.any(axis=(1, 2))).tolist() == [6, 7, 8, 9]
    assert dice(far[6:10], lesion[6:10]) > 0.95


def test_a_neighbour_is_neither_entered_nor_touched() -> None:
    lesion = ball((8, 34, 22), 12) | ball((8, 34, 40), 12)
    mask = np.zeros(SHAPE, bool)
    mask[4:13, 18:50, 8:29] = True
    mask[4:13, 18:50, 33:56] = True
    after = refine(image(lesion), scores(lesion), mask)
    assert np.array_equal(after[..., 31:], mask[..., 31:])
    assert label_components(after).max() == 2
    assert (after & lesion)[..., :31].sum() > 0.9 * lesion[..., :31].sum()


def test_a_region_in_one_slice_stays_in_it() -> None:
    lesion = ball((8, 34, 30), 14)
    heat = scores(lesion)
    mask = heat > 1
    mask[:8], mask[9:] = False, False
    after = refine(image(lesion), heat, mask)
    assert np.flatnonzero(after.any(axis=(1, 2))).tolist() == [8]
    assert dice(after[8], lesion[8]) > 0.97


def test_strokes_and_the_body_are_respected() -> None:
    lesion = ball((8, 34, 30), 14)
    heat = scores(lesion)
    mask = heat > 1
    voxels, body = image(lesion), np.zeros(SHAPE, bool)
    body[:, :, :36] = True
    beside = np.ravel_multi_index(([8, 8], [34, 34], [46, 47]), SHAPE)  # outside of the lesion
    middle = np.ravel_multi_index(([8, 8], [34, 34], [29, 30]), SHAPE)
    assert mask.flat[beside].all()
    after = refine(voxels, heat, mask, painted=beside, erased=middle)
    assert after.flat[beside].all()
    assert not after.flat[middle].any()
    assert not (refine(voxels, heat, mask, allowed=body) & ~body).any()


def test_of_two_parts_the_one_with_the_core_remains() -> None:
    lesion = ball((8, 34, 22), 8)
    other = ball((8, 34, 44), 4)
    mask = np.zeros(SHAPE, bool)
    mask[6:11, 25:43, 13:50] = True
    after = refine(image(lesion | other), scores(lesion), mask)
    assert label_components(after).max() == 1
    assert dice(after[6:11], lesion[6:11]) > 0.9


def test_without_an_edge_the_outline_stays_as_it_is() -> None:
    lesion = ball((8, 34, 30), 14)
    heat = scores(lesion)
    for voxels in (image(np.zeros(SHAPE, bool)), np.full(SHAPE, 7.0), np.full(SHAPE, np.nan)):
        with pytest.raises(Unrefined, match=r"no clear edge .* left as it is"):
            refine(voxels.astype(np.float32), heat, heat > 1)
    nowhere = np.zeros(SHAPE, bool)
    with pytest.raises(Unrefined, match="no clear edge"):
        refine(image(lesion), heat, heat > 1, allowed=nowhere)


def test_a_large_region_is_sampled_down_and_a_larger_one_refused() -> None:
    lesion = ball((8, 34, 30), 14)
    heat = scores(lesion)
    few = replace(RefineSettings(), most_voxels=15_000)
    after = refine(image(lesion), heat, heat > 1, settings=few)
    assert dice(after, lesion) > 0.9
    with pytest.raises(Unrefined, match=r"too large to refine: .* Raise the threshold"):
        refine(image(lesion), heat, heat > 1, settings=replace(few, most_voxels=1000))


def scored(lesion: np.ndarray) -> tuple[Scan, ScanScores]:
    grid = geometry()
    score = ScanScores(scores(lesion), grid, np.ones(SHAPE[0], bool), np.ones(SHAPE[0], np.float32))
    return Scan(image(lesion), grid, "mri", Series("a")), score


def test_several_regions_and_what_became_of_them() -> None:
    lesion = ball((8, 20, 20), 9)
    scan, score = scored(lesion)
    mask = score.nll > 1
    mask[2:14, 40:70, 40:60] = True  # nothing is there
    labels = label_components(mask).ravel()
    regions = [(number, np.flatnonzero(labels == number)) for number in (1, 2)]
    steps = refine_all(scan, score, np.flatnonzero(mask), regions, body=np.ones(SHAPE, bool))
    lines = []
    while True:
        try:
            lines.append(next(steps))
        except StopIteration as end:
            result = end.value
            break
    assert lines == ["Refining outline 1 of 2...", "Refining outline 2 of 2..."]
    after = Strokes(refined=result.refined).apply(mask) > 0
    assert dice(after[:, :40, :40], lesion[:, :40, :40]) > 0.85
    assert np.array_equal(after[:, 40:, 40:], mask[:, 40:, 40:])
    assert result.sentence.startswith("1 outlines refined. 1 left as they were (region 1): the im")


def test_slices_without_a_score_are_not_entered_and_work_can_be_cancelled() -> None:
    scan, score = scored(ball((8, 34, 30), 14))
    score.visited[10:] = False
    mask = score.nll > 1
    mask[10:] = False
    regions = [(1, np.flatnonzero(mask))]
    steps = refine_all(scan, score, regions[0][1], regions, body=np.ones(SHAPE, bool))
    with pytest.raises(StopIteration) as end:
        next(steps)
    (found,) = end.value.value.refined
    assert np.unravel_index(found.inside, SHAPE)[0].max() == 9
    steps = refine_all(scan, score, regions[0][1], regions, body=np.ones(SHAPE, bool))
    with cancel_when(lambda: True), pytest.raises(Cancelled):
        next(steps)
