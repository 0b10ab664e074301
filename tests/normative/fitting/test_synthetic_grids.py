"""Changed slices on disk: embedded once, the same after a stop, each with its patches' labels."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_spatial_ar.datasets.folders import SliceRef, find_slices, iter_slices
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import Window, apply_window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.detectors.patch_labels import patch_labels
from napari_spatial_ar.normative.fitting import synthetic_anomalies
from napari_spatial_ar.normative.fitting.synthetic_anomalies import change
from napari_spatial_ar.normative.fitting.synthetic_grids import SyntheticGrids
from napari_spatial_ar.normative.preprocessing import Preprocessing

WINDOW = Window("percentile", 0.5, 99.5)
PREPROCESSING = Preprocessing(window=WINDOW, size=(64, 64))


@pytest.fixture
def refs(normal_slices: Path) -> list[SliceRef]:
    return list(find_slices(normal_slices, modality="mri", window=WINDOW).train)


def test_each_is_a_changed_slice_as_the_backbone_sees_it(
    refs: list[SliceRef], tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With pieces of the slices before.
    kinds = {"foreign": (1.0, synthetic_anomalies.KINDS["foreign"][1])}
    monkeypatch.setattr(synthetic_anomalies, "KINDS", kinds)
    grids = SyntheticGrids(tiny_backbone, PREPROCESSING, refs, tmp_path, count=5, seed=2)
    assert len(grids) == 5
    assert len({ref.path for ref in grids.refs}) == 5
    assert grids.refs != refs[:5]
    assert list(grids.embed()) == [0, 1, 2, 3, 4, 5]
    others = []
    for number, (_, image, window) in enumerate(iter_slices(grids.refs, WINDOW)):
        unit = apply_window(image, *window)
        rng = np.random.default_rng([2, 5, number])
        changed, magnitude = change(unit, tissue_mask(unit), rng, others)
        others.append(unit)
        grid, labels = grids[number]
        expected = tiny_backbone.embed(PREPROCESSING(changed)[None]).half().float()
        assert torch.equal(grid, expected)
        assert torch.equal(labels[0], torch.from_numpy(patch_labels(magnitude, grid.shape[2:])))
    assert torch.equal(grids[-1][0], grids[4][0])
    assert [torch.equal(a[1], b[1]) for a, b in zip(grids[1:3], list(grids)[1:3], strict=True)]
    with pytest.raises(IndexError):
        grids[5]


def test_tiles_of_a_changed_slice_come_together_with_their_labels(
    refs: list[SliceRef], tiny_backbone: Backbone, tmp_path: Path
) -> None:
    tiled = replace(PREPROCESSING, size=(64, 96), tile=64)
    grids = SyntheticGrids(tiny_backbone, tiled, refs, tmp_path, count=3)
    whole = SyntheticGrids(tiny_backbone, replace(tiled, tile=0), refs, tmp_path, count=3)
    assert grids.folder != whole.folder
    assert list(grids.embed()) == list(whole.embed()) == [0, 1, 2, 3]
    for (grid, labels), (_, all_labels) in zip(grids, whole, strict=True):
        assert grid.shape == (2, 24, 4, 4)
        assert all_labels.shape == (1, 4, 6)
        assert torch.equal(labels[0], all_labels[0, :, :4])
        assert torch.equal(labels[1], all_labels[0, :, 2:])
    _, image, window = next(iter_slices(grids.refs, WINDOW))
    unit = apply_window(image, *window)
    changed, _ = change(unit, tissue_mask(unit), np.random.default_rng([0, 3, 0]), [])
    shown = tiled(changed)
    for number, pixels in enumerate((shown[..., :64], shown[..., 32:])):
        expected = tiny_backbone.embed(pixels[None])
        torch.testing.assert_close(
            grids[0][0][number], expected[0].half().float(), atol=2e-3, rtol=0
        )


def test_grids_of_an_earlier_version_are_read(
    refs: list[SliceRef], tiny_backbone: Backbone, tmp_path: Path
) -> None:
    grids = SyntheticGrids(tiny_backbone, PREPROCESSING, refs, tmp_path, count=1)
    list(grids.embed())
    grid, labels = grids[0]
    np.savez(
        grids.folder / "00000.npz",
        grid=grid[0].permute(1, 2, 0).half().numpy(),
        labels=labels[0].numpy(),
    )
    assert torch.equal(grids[0][0], grid)
    assert torch.equal(grids[0][1], labels)


def test_a_stop_leaves_no_trace(
    refs: list[SliceRef], tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_spatial_ar.normative.fitting.synthetic_grids._OTHERS", 2)
    whole = SyntheticGrids(tiny_backbone, PREPROCESSING, refs, tmp_path / "a", count=7)
    parts = SyntheticGrids(tiny_backbone, PREPROCESSING, refs, tmp_path / "b", count=7)
    assert list(whole.embed())[-1] == 7
    assert list(itertools.islice(parts.embed(), 4)) == [0, 1, 2, 3]
    (parts.folder / "00001.npz").unlink()
    assert list(parts.embed()) == [2, 3, 4, 5, 6, 7]  # grids there, not places
    assert list(parts.embed()) == [7]
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_another_seed_or_setting_is_another_folder(
    refs: list[SliceRef], tiny_backbone: Backbone, tmp_path: Path
) -> None:
    smaller = Preprocessing(window=WINDOW, size=(32, 32))
    folders = {
        SyntheticGrids(tiny_backbone, shown, which, tmp_path, count=count, seed=seed).folder
        for shown, which, count, seed in (
            (PREPROCESSING, refs, 5, 0),
            (PREPROCESSING, refs, 5, 1),
            (PREPROCESSING, refs, 6, 0),
            (PREPROCESSING, refs[1:], 5, 0),
            (smaller, refs, 5, 0),
        )
    }
    assert len(folders) == 5
    for some, count in ((refs, 0), (refs, -1), ([], 5)):
        with pytest.raises(InputError, match="are to be changed"):
            SyntheticGrids(tiny_backbone, PREPROCESSING, some, tmp_path, count=count)


@pytest.mark.parametrize(("count", "times"), [(5, 1), (17, 2), (25, 3), (600, 3)])
def test_slices_are_changed_again_only_after_all_others(
    refs: list[SliceRef], tiny_backbone: Backbone, tmp_path: Path, count: int, times: int
) -> None:
    drawn = SyntheticGrids(tiny_backbone, PREPROCESSING, refs, tmp_path, count=count).refs
    assert len(drawn) == min(count, 3 * len(refs))
    often = Counter(drawn)
    assert max(often.values()) == times
    assert max(often.values()) - min(often[ref] for ref in refs) <= 1
    first = drawn[: len(refs)]
    assert len(set(first)) == len(first)


def test_a_slice_drawn_twice_is_changed_differently(
    refs: list[SliceRef], tiny_backbone: Backbone, tmp_path: Path
) -> None:
    grids = SyntheticGrids(tiny_backbone, PREPROCESSING, refs[:1], tmp_path)
    list(grids.embed())
    labels = [label for _, label in grids]
    assert len(labels) == 3
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[1], labels[2])


def test_a_slice_smaller_than_a_patch_is_refused(
    refs: list[SliceRef], tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = SyntheticGrids(tiny_backbone, PREPROCESSING, refs, tmp_path, count=2)
    monkeypatch.setattr(type(tiny_backbone), "patch", 1000)
    with pytest.raises(InputError, match="less than one patch of 1000"):
        list(grids.embed())
