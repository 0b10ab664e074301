"""The network trained on synthetic changes: finds them, is the same again, refuses nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.detectors.base import FitContext, detector_from_tensors
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.steps import finish

CHANNELS, ROWS, COLUMNS = 12, 7, 9
SMALL: dict[str, Any] = {"components": 16, "hidden": 16, "steps": 120, "samples": 500}

Pair = tuple[torch.Tensor, torch.Tensor]


def changed_grids(count: int, seed: int = 0) -> list[Pair]:
    """Noise, with some patches moved along one direction; their neighbours are not judged."""
    direction = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        grid = torch.randn(1, CHANNELS, ROWS, COLUMNS, generator=generator)
        row, column = (
            int(torch.randint(1, n - 1, (), generator=generator)) for n in (ROWS, COLUMNS)
        )
        grid[0, :, row, column] += 3 * direction
        labels = torch.zeros(1, ROWS, COLUMNS, dtype=torch.int8)
        labels[0, row, column] = 1
        labels[0, row - 1, column] = -1
        pairs.append((grid, labels))
    return pairs


def test_finds_planted_changes_and_survives_a_file() -> None:
    detector = ChangeDetector.fit(changed_grids(40), **SMALL)
    pairs = changed_grids(30, seed=7)
    grid, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    scores = detector.score(grid)
    assert scores.shape == labels.shape
    assert scores.dtype == torch.float32
    assert scores.min() >= 0
    assert scores[labels == 1].median() > scores[labels == 0].quantile(0.98)
    # Counted from the least suspicious of unchanged patches, not cut off above them.
    assert (scores[labels == 0] > 0).float().mean() > 0.95

    tensors = load(save(detector.tensors()))
    again = detector_from_tensors(detector.name, detector.parameters(), tensors)
    assert torch.equal(again.score(grid), scores)
    assert again.parameters() == detector.parameters()
    assert torch.equal(again.to(torch.device("cpu")).score(grid), scores)
    assert again.heatmap_divisor == 1
    for wrong in (torch.zeros(1, CHANNELS + 1, ROWS, COLUMNS), grid[0], grid[:0]):
        with pytest.raises(InputError, match=r"must be \(B, D, Hp, Wp\)|fitted on 12"):
            detector.score(wrong)


def test_score_is_what_the_equations_say() -> None:
    detector = ChangeDetector.fit(changed_grids(20), **SMALL)
    grid = changed_grids(1, seed=3)[0][0]
    t = {key: tensor.double().numpy() for key, tensor in detector.tensors().items()}
    around = grid[0, :, 0:5, 2:7].mean(dim=(1, 2))
    patch = np.concatenate([grid[0, :, 2, 4], around])
    z = (patch - t["mean"]) @ t["basis"]
    z *= np.sqrt(len(z)) / np.linalg.norm(z)
    hidden = torch.from_numpy(t["network.hidden.weight"] @ z + t["network.hidden.bias"])
    odds = t["network.out.weight"][0] @ functional.gelu(hidden).numpy() + t["network.out.bias"][0]
    expected = max(0.0, odds - detector.parameters()["zero"])
    assert detector.score(grid)[0, 2, 4].item() == pytest.approx(expected, abs=1e-4)


def test_surroundings_count() -> None:
    detector = ChangeDetector.fit(changed_grids(20), **SMALL)
    grid = changed_grids(1, seed=3)[0][0]
    other = grid.clone()
    other[0, :, 0, 0] += 1
    moved = (detector.score(grid) != detector.score(other))[0]
    # Those whose 5 x 5 neighbourhood holds the patch, and no others.
    assert not moved[3:].any()
    assert not moved[:, 3:].any()
    assert moved[:3, :3].sum() > 5


def test_same_seed_same_tensors_whatever_else_is_drawn() -> None:
    options = {**SMALL, "samples": 30, "steps": 20}
    torch.manual_seed(0)
    first = ChangeDetector.fit(changed_grids(8), seed=3, **options)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    second = ChangeDetector.fit(changed_grids(8), seed=3, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = ChangeDetector.fit(changed_grids(8), seed=4, **options)
    for key, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[key]), key
    assert first.parameters() == second.parameters()
    weight = "network.hidden.weight"
    assert not torch.equal(first.tensors()[weight], other.tensors()[weight])


def test_grids_are_read_one_at_a_time_and_no_more_of_them_than_asked_for() -> None:
    pairs = changed_grids(9)
    reads: list[int] = []

    class Stored:
        def __iter__(self) -> Any:
            for number, pair in enumerate(pairs):
                reads.append(number)
                yield pair

    detector = ChangeDetector.fit(Stored(), slices=5, **SMALL)
    assert set(reads) == set(range(5))
    for key, tensor in ChangeDetector.fit(pairs[:5], **SMALL).tensors().items():
        assert torch.equal(tensor, detector.tensors()[key]), key


def test_mean_and_components_are_those_of_unchanged_patches() -> None:
    pairs = changed_grids(12)
    detector = ChangeDetector.fit(pairs, **{**SMALL, "steps": 1})
    rows = []
    for grid, labels in pairs:
        for row, column in zip(*np.nonzero(labels[0].numpy() == 0), strict=True):
            window = grid[0, :, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            rows.append(np.concatenate([grid[0, :, row, column], window.mean(dim=(1, 2))]))
    expected = np.mean(rows, axis=0)
    tensors = detector.tensors()
    np.testing.assert_allclose(tensors["mean"], expected, atol=1e-5)
    values = np.linalg.eigvalsh(np.cov(np.array(rows, np.float64).T, bias=True))[::-1][:16]
    spread = ((np.array(rows) - expected) @ tensors["basis"].numpy()).var(axis=0)
    np.testing.assert_allclose(spread, values * (values + 1e-3) ** -0.7, rtol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    pairs = changed_grids(3)
    grid, labels = pairs[0]
    with pytest.raises(InputError, match="at least one normal slice"):
        ChangeDetector.fit([])
    with pytest.raises(InputError, match="read more than once"):
        ChangeDetector.fit(iter(pairs))
    with pytest.raises(InputError, match="pairs of embeddings and patch labels"):
        ChangeDetector.fit([grid])
    with pytest.raises(InputError, match=r"labels of \(1, 7, 8\) do not fit"):
        ChangeDetector.fit([(grid, labels[..., :-1])])
    with pytest.raises(InputError, match="must be 1"):
        ChangeDetector.fit([(grid, labels + 1)])
    with pytest.raises(InputError, match="fitted on 12"):
        ChangeDetector.fit([*pairs, (torch.zeros(1, 13, ROWS, COLUMNS), labels)])
    for label, counts in ((0, "0 and 63"), (1, "63 and 0"), (-1, "0 and 0")):
        with pytest.raises(InputError, match=f"are {counts}"):
            ChangeDetector.fit([(grid, torch.full_like(labels, label))])
    for option in ChangeDetector.options():
        with pytest.raises(InputError, match="at least 1"):
            ChangeDetector.fit(pairs, **{option: 0})
    with pytest.raises(InputError, match="no option 'epochs'"):
        ChangeDetector.fit(pairs, epochs=3)


def test_damaged_model_is_refused() -> None:
    detector = ChangeDetector.fit(changed_grids(4), **{**SMALL, "steps": 1})
    tensors, parameters = detector.tensors(), detector.parameters()
    for key, tensor in tensors.items():
        without = {k: v for k, v in tensors.items() if k != key}
        for damaged in (without, {**without, key: tensor[None]}, {**without, key: tensor[:-1]}):
            with pytest.raises(ModelFileError):
                detector_from_tensors(detector.name, parameters, damaged)
    with pytest.raises(ModelFileError):
        detector_from_tensors(detector.name, {}, tensors)


def test_says_how_far_it_is_and_can_be_stopped() -> None:
    steps = ChangeDetector.learn(changed_grids(4), FitContext(), **SMALL)
    said = [(step.done, step.message) for step in steps]
    assert said[:4] == [(n, "Measuring unchanged patches") for n in (1, 2, 3, 4)]
    assert said[4:8] == [(n, "Drawing patches") for n in (1, 2, 3, 4)]
    assert [done for done, _ in said[8:]] == [50, 100, 120]
    assert all("cross-entropy" in message for _, message in said[8:])


def test_normal_slices_count_as_unchanged() -> None:
    pairs = changed_grids(20)
    grid, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    alone = finish(ChangeDetector.learn(pairs, FitContext(), **SMALL))
    # Normal slices that contain what the changes look like.
    setup = FitContext(normals=[one.clone() for one, _ in pairs])
    found = finish(ChangeDetector.learn(pairs, setup, **SMALL))
    added = found.summary["unchanged_patches"] - alone.summary["unchanged_patches"]
    assert added == labels.numel()
    assert found.summary["changed_patches"] == alone.summary["changed_patches"] == len(pairs)
    changed, before = (one.detector.score(grid)[labels == 1] for one in (found, alone))
    assert changed.median() < 0.8 * before.median()
    with pytest.raises(InputError, match=r"channels|must be"):
        finish(ChangeDetector.learn(pairs, FitContext(normals=[grid[:, :5]]), **SMALL))
