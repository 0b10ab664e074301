"""Slices unlike the training slices, with a stand-in for the stored embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.batching import BatchScorer, Prepared
from napari_spatial_ar.normative.calibration import seen_slices
from napari_spatial_ar.normative.calibration.domain_shift import SeenSlices
from napari_spatial_ar.normative.calibration.seen_slices import (
    SliceComparison,
    body_of_patches,
    learn_seen_slices,
)
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.normative.tiling import Tiling
from napari_spatial_ar.steps import finish
from tests.tiny import draw_normal_slices

SIDE, CHANNELS = 12, 20
_RNG = np.random.default_rng(5)
TISSUES = torch.from_numpy(_RNG.normal(size=(5, CHANNELS)).astype(np.float32)) * 3


def head(seed: int, mix: tuple[int, ...] = (0, 1, 2)) -> tuple[Tensor, Tensor]:
    """Embeddings (D, h, w) of a round slice with these tissues around its centre, and its body."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    radius = ((rows - SIDE / 2 + 0.5) ** 2 + (columns - SIDE / 2 + 0.5) ** 2).sqrt()
    ring = (radius / (SIDE / 2) * len(mix)).long().clamp_max(len(mix) - 1)
    noise = torch.randn((SIDE, SIDE, CHANNELS), generator=generator)
    # A scanner of its own.
    grid = TISSUES[torch.tensor(mix)][ring] + 0.5 * noise + 0.05 * noise[0, 0]
    body = (radius < SIDE / 2).float()
    return torch.where(body[..., None] > 0, grid, grid * 0).movedim(-1, 0), body


def learned(monkeypatch: pytest.MonkeyPatch, patients: int = 8, slices: int = 4) -> SeenSlices:
    def stored(store: object, refs: list[Any]) -> Iterator[tuple[Any, Tensor, Tensor]]:
        for ref in refs:
            grid, body = head(ref.seed)
            yield ref, grid.flatten(1).T, body.flatten()

    monkeypatch.setattr(seen_slices, "_stored", stored)
    refs: Any = [
        SimpleNamespace(group=f"p{patient}", seed=10 * patient + number)
        for patient in range(patients)
        for number in range(slices)
    ]
    found = finish(learn_seen_slices(None, refs))  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> SeenSlices:
    return learned(monkeypatch)


def unfamiliarity(seen: SeenSlices, grid: Tensor, body: Tensor) -> float:
    compare = SliceComparison(seen, torch.device("cpu"))
    return float(compare.of_grids(grid[None], body[None])[0])


def test_slices_of_other_patients_are_known_and_other_parts_of_the_body_are_not(
    seen: SeenSlices,
) -> None:
    for seed in range(900, 920):
        assert unfamiliarity(seen, *head(seed)) < 1
    # One of three tissues is another; none is new; only one is left.
    assert unfamiliarity(seen, *head(900, (0, 3, 2))) > 1
    assert unfamiliarity(seen, *head(900, (2, 1, 0))) > 1
    assert unfamiliarity(seen, *head(900, (1,))) > 1


def test_a_lesion_does_not_make_a_slice_unseen(seen: SeenSlices) -> None:
    grid, body = head(901)
    before = unfamiliarity(seen, grid, body)
    lesion = grid.clone()
    lesion[:, 3:6, 4:7] += 50  # as far from all tissue as one likes
    assert before <= unfamiliarity(seen, lesion, body) < 1


def test_a_slice_with_next_to_no_body_is_unseen(seen: SeenSlices) -> None:
    grid, body = head(902)
    speck = torch.zeros_like(body)
    speck[5:7, 5:7] = 1
    assert unfamiliarity(seen, grid, speck) > 2
    assert unfamiliarity(seen, grid, torch.zeros_like(body)) > 2


def test_skipped_patches_have_no_part(seen: SeenSlices) -> None:
    grid, body = head(903)
    skipped = torch.where(body > 0, grid, torch.nan)
    assert unfamiliarity(seen, skipped, body) == unfamiliarity(seen, grid, body)


def test_few_patients_are_no_basis() -> None:
    few: Any = [SimpleNamespace(group=f"p{number % 4}", seed=number) for number in range(40)]
    assert finish(learn_seen_slices(None, few)) is None  # type: ignore[arg-type]


def test_it_is_stored_and_the_same_every_time(
    seen: SeenSlices, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert learned(monkeypatch) == seen
    assert from_plain(seen.to_dict(), SeenSlices) == seen


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> NormativeModel:
    from tests.tiny import make_backbone, make_spec

    folder = tmp_path_factory.mktemp("seen")
    backbone: Backbone = make_backbone(make_spec())
    scans = draw_normal_slices(folder / "scans")
    for picture in draw_normal_slices(folder / "more", 4).iterdir():
        picture.rename(scans / f"other_{picture.name}")
    return nsar.fit(
        scans,
        out=folder / "model",
        modality="mri",
        backbone=backbone,
        method="memory-bank",
        patient_pattern="(.*patient[0-9])",
        size=(64, 64),
    )


def test_a_fit_learns_it_and_the_file_keeps_it(fitted: NormativeModel) -> None:
    looks = fitted.header.looks
    assert looks is not None
    assert looks.seen is not None
    assert looks.seen.limit > 0
    assert fitted.folder is not None
    again = load_model(fitted.folder)
    assert again.header.looks == looks


def test_slices_alone_and_in_batches_agree(fitted: NormativeModel) -> None:
    rng = np.random.default_rng(2)
    units = [np.zeros((40, 40), np.float32) for _ in range(3)]
    for number, unit in enumerate(units):
        unit[8:30, 6 : 20 + 5 * number] = rng.uniform(0.2, 1, size=(22, 14 + 5 * number))
    alone = [fitted._score(Prepared(unit)).unfamiliarity for unit in units]
    assert np.isfinite(alone).all()
    assert len(set(alone)) == 3
    tiling = Tiling.of(fitted.header.preprocessing, fitted.backbone.patch)
    scorer = BatchScorer(fitted._maps, fitted._score, torch.device("cpu"))
    shown = [Prepared(unit, body=body_of_patches(unit, tiling.grid)) for unit in units]
    together = [scorer.one(one).unfamiliarity for one in shown]
    assert together == pytest.approx(alone, rel=1e-4)


def test_without_a_basis_nothing_is_unseen(fitted: NormativeModel, tmp_path: Path) -> None:
    old = NormativeModel(
        "old", replace(fitted.header, looks=None), fitted.detector, backbone=fitted.backbone
    )
    unit = np.zeros((40, 40), np.float32)
    unit[8:30, 6:30] = 0.5
    unit[10:20, 10:20] = 0.9
    score = old._score(Prepared(unit))
    assert np.isnan(score.unfamiliarity)
    assert np.array_equal(score.nll, fitted._score(Prepared(unit)).nll)


def test_what_is_known_of_another_backbone_is_damage(fitted: NormativeModel) -> None:
    looks = fitted.header.looks
    assert looks is not None
    assert looks.seen is not None
    seen = replace(looks.seen, centre=(0.0,), axes=tuple((1.0,) for _ in looks.seen.axes))
    header = replace(fitted.header, looks=replace(looks, seen=seen))
    forged = NormativeModel("forged", header, fitted.detector, backbone=fitted.backbone)
    with pytest.raises(ModelFileError, match=r"damaged.* channels"):
        forged._score(Prepared(np.eye(40, dtype=np.float32)))
