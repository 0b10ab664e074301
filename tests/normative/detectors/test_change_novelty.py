"""Changes and novelty in one score: what it is made of, a file, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.detectors.base import (
    FitContext,
    check_options,
    detector_from_tensors,
    score_grid,
)
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.normative.detectors.change_novelty import ChangeNovelty
from napari_spatial_ar.normative.detectors.surroundings_bank import SurroundingsBank
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.steps import finish
from tests.tiny import learn_changes_briefly

CHANNELS, ROWS, COLUMNS = 12, 7, 9
DIRECTION = 3 * torch.randn(CHANNELS, generator=torch.Generator().manual_seed(1))


PATTERN = torch.randn(1, CHANNELS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))


def normals(count: int, seed: int) -> list[torch.Tensor]:
    """Slices whose patches follow a pattern of the position, with some noise."""
    noise = torch.randn(
        count, CHANNELS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)
    )
    return list((PATTERN + 0.3 * noise).split(1))


def changed(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = []
    for grid in normals(count, seed):
        labels = torch.zeros(1, ROWS, COLUMNS, dtype=torch.int8)
        labels[0, 3, 4] = 1
        grid[0, :, 3, 4] += DIRECTION
        pairs.append((grid, labels))
    return pairs


def fitted(valid: list[torch.Tensor], **options: Any) -> ChangeNovelty:
    setup = FitContext(valid=valid, normals=normals(10, seed=5))
    with pytest.MonkeyPatch.context() as patch:
        learn_changes_briefly(patch)
        return finish(ChangeNovelty.learn(changed(20), setup, rows=200, **options)).detector


@pytest.fixture(scope="module")
def held_out() -> list[torch.Tensor]:
    return normals(8, seed=9)


@pytest.fixture(scope="module")
def detector(held_out: list[torch.Tensor]) -> ChangeNovelty:
    return fitted(held_out, weight=0.25)


def parts_of(detector: ChangeNovelty) -> tuple[ChangeDetector, SurroundingsBank]:
    """Both parts, rebuilt from what a file would hold of them."""
    tensors, said = detector.tensors(), detector.parameters()
    own = {
        name: {
            key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(name)
        }
        for name in ("change", "novelty")
    }
    return (
        ChangeDetector.from_tensors(said["change"], own["change"]),
        SurroundingsBank.from_tensors(said["novelty"], own["novelty"]),
    )


def test_heatmap_is_the_sum_in_units_of_held_out_normals(
    detector: ChangeNovelty, held_out: list[torch.Tensor]
) -> None:
    change, novelty = parts_of(detector)
    usual = torch.cat(held_out)
    grid = torch.cat([pair[0] for pair in changed(3, seed=11)])
    expected = change.score(grid) / change.score(usual).std(correction=0)
    expected += 0.25 * novelty.score(grid) / novelty.score(usual).std(correction=0)
    torch.testing.assert_close(detector.score(grid), expected, rtol=1e-4, atol=1e-4)


def test_image_score_counts_both_parts_from_held_out_normals(
    detector: ChangeNovelty, held_out: list[torch.Tensor]
) -> None:
    grid = torch.cat([pair[0] for pair in changed(3, seed=11)])

    def highest(part: Any, grids: torch.Tensor) -> torch.Tensor:
        # The largest 1 % of 63 patches is one patch.
        scores = part.score(grids)[:, None]
        smooth = torch.nn.functional.avg_pool2d(scores, 3, 1, 1, count_include_pad=False)
        return smooth.flatten(1).amax(dim=1)

    expected = torch.zeros(3)
    for part in parts_of(detector):
        usual = highest(part, torch.cat(held_out))
        expected += (highest(part, grid) - usual.mean()) / usual.std(correction=0)
    torch.testing.assert_close(detector.image_scores(grid), expected, rtol=1e-3, atol=1e-3)
    of_normals = detector.image_scores(torch.cat(held_out))
    assert of_normals.mean().item() == pytest.approx(0, abs=1e-4)
    assert of_normals.std() > 0.1


def test_finds_a_change_and_what_no_change_resembles(detector: ChangeNovelty) -> None:
    grid = normals(1, seed=21)[0]
    usual = detector.score_both(grid)
    imitated, foreign = grid.clone(), grid.clone()
    imitated[0, :, 3, 4] += DIRECTION
    other = torch.randn(CHANNELS, 1, 1, generator=torch.Generator().manual_seed(2))
    foreign[0, :, 1:6, 2:7] = 3 * other
    assert detector.score_both(imitated)[0, 0, 3, 4] > usual[0].max()
    assert detector.score_both(foreign)[1, 0, 3, 4] > 3 * usual[1, 0, 3, 4]
    assert detector.score(imitated)[0, 3, 4] > detector.score(grid).max()
    assert detector.image_scores(imitated) > detector.image_scores(grid)


def test_a_slice_is_looked_at_once(
    detector: ChangeNovelty, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    parts = detector.score_both
    monkeypatch.setattr(detector, "score_both", lambda grid: calls.append(1) or parts(grid))
    grid = normals(1, seed=21)[0]
    score = score_grid(detector, Scoring(smoothing=3), grid, (70, 90))
    assert len(calls) == 1
    assert score.image_score == pytest.approx(float(detector.image_scores(grid)))
    assert score.nll.shape == (70, 90)


def test_survives_a_file(detector: ChangeNovelty) -> None:
    grid = normals(2, seed=30)
    again = detector_from_tensors(
        detector.name, detector.parameters(), load(save(detector.tensors()))
    )
    assert again.parameters() == detector.parameters()
    assert torch.equal(again.score(grid[0]), detector.score(grid[0]))
    own = again.image_scores(grid[1])
    assert own is not None
    assert torch.equal(own, detector.image_scores(grid[1]))


def test_without_held_out_normals_those_learned_from_say_what_is_usual() -> None:
    assert torch.equal(fitted([]).usual, fitted(normals(10, seed=5)).usual)


def test_same_seed_same_detector(detector: ChangeNovelty, held_out: list[torch.Tensor]) -> None:
    again = fitted(held_out, weight=0.25).tensors()
    assert all(torch.equal(tensor, again[key]) for key, tensor in detector.tensors().items())


def test_refuses_what_does_not_fit(detector: ChangeNovelty) -> None:
    with pytest.raises(InputError, match="weight must be at least 0, not -1"):
        check_options(ChangeNovelty, {"weight": -1.0})
    with pytest.raises(InputError, match="fitted on 12"):
        detector.score(torch.zeros(1, CHANNELS + 1, ROWS, COLUMNS))
    whole, said = detector.tensors(), detector.parameters()
    for broken in (
        {key: t for key, t in whole.items() if not key.startswith("novelty")},
        {**whole, "usual": torch.ones(2, 2)},
        {**whole, "novelty.mean": torch.zeros(6), "novelty.basis": torch.zeros(6, 24)},
    ):
        with pytest.raises(ModelFileError, match=r"two parts|its 'mean'|its 'usual'"):
            detector_from_tensors(detector.name, said, broken)
    with pytest.raises(ModelFileError, match="change is missing"):
        detector_from_tensors(detector.name, {"weight": 0.5}, whole)


def test_its_bank_holds_means_unless_told_otherwise() -> None:
    valid = normals(4, seed=9)
    assert ChangeNovelty.options()["means"] == 2048
    means, rows = fitted(valid, means=20), fitted(valid, means=0)
    assert parts_of(means)[1].parameters()["rows"] == 20
    assert parts_of(rows)[1].parameters()["rows"] == 200
    of_bank = SurroundingsBank.fit(normals(10, seed=5), rows=200, means=20)
    assert torch.equal(parts_of(means)[1].bank, of_bank.bank)
