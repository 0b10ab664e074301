"""The bank of patches with their surroundings: its equations, its draw, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.detectors import kmeans
from napari_spatial_ar.normative.detectors.base import detector_from_tensors
from napari_spatial_ar.normative.detectors.surroundings_bank import SurroundingsBank, describe

CHANNELS, ROWS, COLUMNS = 6, 8, 9
PATTERN = torch.randn(1, CHANNELS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))


def slices(count: int, seed: int) -> list[torch.Tensor]:
    """Patches follow a pattern of the position, with some noise."""
    noise = torch.randn(
        count, CHANNELS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)
    )
    return list((PATTERN + 0.2 * noise).split(1))


def test_description_is_the_patch_and_the_mean_around_it() -> None:
    grid = slices(1, seed=0)[0]
    described = describe(grid).reshape(ROWS, COLUMNS, 2 * CHANNELS)
    torch.testing.assert_close(described[4, 5, :CHANNELS], grid[0, :, 4, 5])
    torch.testing.assert_close(described[4, 5, CHANNELS:], grid[0, :, 2:7, 3:8].mean(dim=(1, 2)))
    # At a corner only what is there counts.
    torch.testing.assert_close(described[0, 0, CHANNELS:], grid[0, :, :3, :3].mean(dim=(1, 2)))


@pytest.mark.usefixtures("bfloat16")
def test_score_is_what_the_equations_say() -> None:
    train, grid = slices(12, seed=0), slices(1, seed=1)[0]
    detector = SurroundingsBank.fit(train, components=7)
    rows = torch.cat([describe(g) for g in train]).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    basis = vectors[:, ::-1][:, :7] * (values[::-1][:7] + 1e-3) ** -0.35

    def whitened(described: np.ndarray) -> np.ndarray:
        z = (described - rows.mean(axis=0)) @ basis
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    expected = 1 - (whitened(describe(grid).double().numpy()) @ whitened(rows).T).max(axis=1)
    found = detector.score(grid).flatten().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)  # the bank is float16
    assert np.corrcoef(found, expected)[0, 1] > 0.999


def test_finds_a_foreign_region_and_survives_a_file() -> None:
    detector = SurroundingsBank.fit(slices(20, seed=0))
    grid = slices(2, seed=1)
    odd = torch.cat(grid)
    odd[1, :, 2:6, 3:7] = odd[1, :, 2:6, 3:7].roll(3, dims=0)
    scores = detector.score(odd)
    assert scores.shape == (2, ROWS, COLUMNS)
    assert scores[1, 2:6, 3:7].min() > scores[0].max()
    again = detector_from_tensors(
        detector.name, detector.parameters(), load(save(detector.tensors()))
    )
    assert torch.equal(again.score(odd), scores)
    assert again.parameters() == {"rows": 20 * ROWS * COLUMNS, "components": 2 * CHANNELS}


def test_draws_rows_of_all_slices_by_the_seed() -> None:
    train = slices(20, seed=0)
    one, same, other = (SurroundingsBank.fit(train, rows=100, seed=s).bank for s in (0, 0, 1))
    assert len(one) == 100
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    whole = SurroundingsBank.fit(train)
    drawn = (one.float() @ whole.bank.float().T).argmax(dim=1)
    assert len(drawn.unique()) == 100
    assert len((drawn // (ROWS * COLUMNS)).unique()) > 15


def test_means_stand_for_the_patches_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_PART", 100)  # rows of many parts
    train = slices(20, seed=0)
    whole = SurroundingsBank.fit(train).bank.float()
    one, same, other = (SurroundingsBank.fit(train, means=60, seed=s).bank for s in (0, 0, 1))
    assert one.shape == (60, whole.shape[1])
    assert one.dtype == torch.float16
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.float().norm(dim=1), torch.ones(60), atol=2e-3, rtol=0)
    similarity = whole @ one.float().T
    drawn = SurroundingsBank.fit(train, rows=60).bank.float()
    assert similarity.amax(dim=1).mean() > (whole @ drawn.T).amax(dim=1).mean() + 0.02
    # Each is the direction of the mean of those that it is nearest to, but for the last move.
    nearest = similarity.argmax(dim=1)
    moved = torch.stack([whole[nearest == n].mean(dim=0) for n in nearest.unique()])
    moved = torch.nn.functional.normalize(moved)
    assert (moved * one[nearest.unique()].float()).sum(dim=1).mean() > 0.99


def test_means_are_for_more_patches_than_these() -> None:
    train = slices(3, seed=0)
    kept = SurroundingsBank.fit(train).bank
    assert torch.equal(SurroundingsBank.fit(train, means=len(kept)).bank, kept)
    with pytest.raises(InputError, match="means must be at least 0, not -1"):
        SurroundingsBank.fit(train, means=-1)


def test_refuses_what_does_not_fit() -> None:
    detector = SurroundingsBank.fit(slices(3, seed=0), components=5)
    with pytest.raises(InputError, match="rows must be at least 1, not 0"):
        SurroundingsBank.fit(slices(3, seed=0), rows=0)
    with pytest.raises(InputError, match="fitted on 6"):
        detector.score(torch.zeros(1, CHANNELS + 1, ROWS, COLUMNS))
    whole = detector.tensors()
    for broken, words in (
        (
            {**whole, "bank": whole["bank"][:, :4]},
            r"'bank' is torch.float16 of \d+ x 4, not .* N x 5",
        ),
        ({**whole, "mean": whole["mean"][:4]}, "'basis' is torch.float32 of 12 x 5, not .* 4 x N"),
        ({k: t for k, t in whole.items() if k != "bank"}, "lacks its 'bank', of N x 5"),
    ):
        with pytest.raises(ModelFileError, match=words):
            detector_from_tensors(detector.name, detector.parameters(), broken)
