"""One loop scores the slices of a scan, into one container, and computes nothing twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative.scores import ScanScores, SliceScore
from napari_spatial_ar.normative.scoring import score_slices

DATA = np.random.default_rng(1).normal(100, 20, (6, 5, 4)).astype(np.float32)


class Model:
    """Scores a pixel grey / 100; sees nothing in the slice ``empty``."""

    def __init__(self, empty: int | None = None) -> None:
        self.asked: list[int] = []
        self.empty = empty

    def iter_volume(self, volume: Scan, slices: Sequence[int]) -> Iterator[tuple[int, SliceScore]]:
        for index in slices:
            self.asked.append(index)
            nll = volume.slice(index) / 100
            if index == self.empty:
                yield index, SliceScore.empty(nll.shape)
            else:
                yield index, SliceScore(nll, nll[:1, :1], float(nll.max()))


@pytest.fixture
def volume() -> Scan:
    return Scan(DATA, Geometry(DATA.shape, np.diag([1.0, -1.0, 3.0, 1.0])), "mri", Series("a"))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_scores_are_filled_on_the_grid_of_the_scan(volume: Scan, plane: str) -> None:
    seen = volume.along(plane)  # type: ignore[arg-type]
    scores = ScanScores.empty(seen.geometry)
    done = [index for index, _ in score_slices(Model(), seen, scores=scores)]
    assert done == list(range(seen.geometry.slice_count))
    np.testing.assert_array_equal(scores.nll, DATA / 100)
    assert scores.left == []
    assert scores.scored.all()


def test_an_empty_slice_is_seen_but_not_scored(volume: Scan) -> None:
    scores = ScanScores.empty(volume.geometry)
    order = []
    for index, _ in score_slices(Model(empty=4), volume, [4, 1], scores=scores):
        order.append(index)
        assert scores.visited[index]
    assert order == [4, 1]
    assert scores.scored.tolist() == [False, True, False, False, False, False]
    assert scores.left == [0, 2, 3, 5]


def test_stored_slices_come_first_and_are_not_computed_again(volume: Scan) -> None:
    stored = ScanScores.empty(volume.geometry)
    for index in (1, 4):
        nll = np.full(volume.slice(index).shape, index, np.float32)
        stored.put(index, SliceScore(nll, nll, 7.0))
    model, scores = Model(), ScanScores.empty(volume.geometry)
    found = list(score_slices(model, volume, [3, 4, 1, 0], scores=scores, stored=stored))
    assert [index for index, _ in found] == [4, 1, 3, 0]
    assert model.asked == [3, 0]
    assert (found[0][1].nll == 4).all()
    assert (found[0][1].image_score, found[0][1].grid) == (7.0, None)
    np.testing.assert_array_equal(scores.image_scores[[1, 4]], 7.0)


def test_a_faster_way_is_looked_for_after_the_first_slices(volume: Scan) -> None:
    model, asked = Model(), []
    list(score_slices(model, volume, speed_up=lambda: asked.append(len(model.asked))))
    assert asked == [3]
    assert model.asked == [0, 1, 2, 3, 4, 5]
    list(score_slices(model, volume, [0, 1], speed_up=lambda: asked.append(0)))
    assert asked == [3]


def test_a_copy_does_not_change_with_what_is_scored_later(volume: Scan) -> None:
    scores = ScanScores.empty(volume.geometry)
    copy = scores.copy()
    list(score_slices(Model(), volume, scores=scores))
    assert not copy.visited.any()
    assert not copy.nll.any()
    assert np.isnan(copy.image_scores).all()


def test_scores_need_no_torch() -> None:
    code = "import sys, napari_spatial_ar.normative.scoring; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
