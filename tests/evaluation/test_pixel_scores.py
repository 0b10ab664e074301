"""The external sort gives back exactly what was put in, whatever the sizes of runs and pieces."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.evaluation import metrics
from napari_spatial_ar.evaluation.metrics import PixelScores
from napari_spatial_ar.imaging import files

scores_and_labels = st.tuples(
    arrays(np.float32, (6, 7), elements=st.floats(-3, 3, width=16) | st.just(-0.0)),
    arrays(np.bool_, (6, 7)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(scores_and_labels, min_size=1, max_size=5), st.sampled_from([1, 50, 1000]))
def test_blocks_are_the_sorted_counts(
    images: list[tuple[np.ndarray, np.ndarray]], run: int
) -> None:
    with PixelScores(run=run) as pixels:
        for number, (score, label) in enumerate(images):
            pixels.add(score, label, "ab"[number % 2])
        blocks = list(pixels.descending(piece=1))
        totals = pixels.totals
    score = np.concatenate([s.ravel() for s, _ in images]).astype(float)
    label = np.concatenate([b.ravel() for _, b in images])
    values, place = np.unique(-score, return_inverse=True)
    np.testing.assert_array_equal(np.concatenate([b.score for b in blocks]), -values)
    normal = np.bincount(place, ~label)
    np.testing.assert_array_equal(np.concatenate([b.normal for b in blocks]), normal)
    abnormal = np.bincount(place, label)
    np.testing.assert_array_equal(np.concatenate([b.abnormal for b in blocks]), abnormal)
    assert (totals.normal, totals.abnormal) == ((~label).sum(), label.sum())
    assert sum(b.share.sum() for b in blocks) == pytest.approx(totals.regions)


def test_many_pieces_meet_without_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_SAMPLE", 16)
    rng = np.random.default_rng(0)
    score = np.round(rng.normal(size=(40, 50, 50)), 2).astype(np.float32)
    with PixelScores(run=3000) as pixels:
        for image in score:
            pixels.add(image, image > 1.5)
        blocks = list(pixels.descending(piece=64))
    assert len(blocks) > 20
    values, counts = np.unique(score, return_counts=True)
    np.testing.assert_array_equal(np.concatenate([b.score for b in blocks])[::-1], values)
    both = np.concatenate([b.normal + b.abnormal for b in blocks])
    np.testing.assert_array_equal(both[::-1], counts)


def test_counts_of_each_patient() -> None:
    rng = np.random.default_rng(0)
    score = np.round(rng.normal(size=(6, 9, 8)), 1).astype(np.float32)
    label = rng.random(score.shape) < 0.2
    owners = ["b", "b", "a", "a", "b", "a"]
    thresholds = np.unique(score)[::-3]
    with PixelScores() as pixels:
        for owner, one, where in zip(owners, score, label, strict=True):
            pixels.add(one, where, owner)
        patients, normal, abnormal, share = pixels.per_patient(thresholds)
        lowest = pixels.per_patient(np.array([-99], np.float32))[3]
        regions = pixels.totals.regions
    assert patients == ["b", "a"]
    for row, patient in enumerate(patients):
        mine = np.array([owner == patient for owner in owners])
        for column, threshold in enumerate(thresholds):
            found = score[mine] >= threshold
            assert normal[row, column] == (found & ~label[mine]).sum()
            assert abnormal[row, column] == (found & label[mine]).sum()
    assert lowest.sum() == pytest.approx(regions)
    assert (np.diff(share, axis=1) >= 0).all()


def test_a_heatmap_that_cannot_be_ordered() -> None:
    with PixelScores() as pixels:
        with pytest.raises(InputError, match="not finite"):
            pixels.add(np.full((2, 2), np.nan, np.float32), np.zeros((2, 2), bool))
        with pytest.raises(InputError, match=r"\(2, 3\)"):
            pixels.add(np.zeros((2, 2), np.float32), np.zeros((2, 3), bool))


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="could not be written"):
        PixelScores(tmp_path / "absent")

    class Full:
        def write(self, data: bytes) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        def seek(self, *place: int) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda dir: Full())
    with PixelScores() as pixels:
        pixels.add(np.ones((2, 2), np.float32), np.zeros((2, 2), bool))
        with pytest.raises(StorageError, match="disk is full"):
            list(pixels.descending())
