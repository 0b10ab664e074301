"""UTRAD: windows and levels, what is hidden, losses, and training in portions and after a stop."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors import FitContext, Utrad, utrad
from napari_spatial_ar.normative.detectors.utrad import UtradNetwork
from napari_spatial_ar.steps import finish
from tests.normative.detectors.test_numbers import grids


def network(rows: int = 6, columns: int = 9, **more: Any) -> UtradNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UtradNetwork(6, rows, columns, width=8, depth=1, **more).eval()


def airy(count: int = 3) -> Tensor:
    """Grids with two columns of air, a window of air and, in the second slice, air alone."""
    generator = torch.Generator().manual_seed(1)
    grid = torch.randn(count, 6, 6, 9, generator=generator)
    grid[..., -2:] = torch.nan
    grid[0, :, :4, 4:] = torch.nan
    grid[1] = torch.nan
    return grid


@pytest.mark.parametrize(
    ("rows", "columns", "levels"), [(32, 32, 3), (28, 28, 3), (4, 3, 1), (1, 1, 1), (5, 17, 3)]
)
def test_levels_go_on_until_one_token_is_left(rows: int, columns: int, levels: int) -> None:
    assert len(network(rows, columns).levels) == levels
    rebuilt, expected = network(rows, columns)(torch.randn(2, 6, rows, columns))
    assert rebuilt.shape == (2, rows, columns, 6)
    assert expected.shape == (2, rows, columns)


def test_windows_hold_neighbours_and_return_to_their_places() -> None:
    grid = torch.arange(2 * 6 * 9.0).reshape(2, 6, 9)
    windows = utrad._cut(grid, -1.0)
    assert windows.shape == (2, 2, 3, 16)
    assert torch.equal(windows[0, 0, 1].reshape(4, 4), grid[0, :4, 4:8])
    assert torch.equal(windows[1, 1, 2].reshape(4, 4)[:2, :1], grid[1, 4:, 8:])
    assert (windows[1, 1, 2] == -1).sum() == 14
    assert torch.equal(utrad._joined(windows[..., None])[:, :6, :9, 0], grid)


def test_a_level_is_a_transformer_of_a_window() -> None:
    level = network().levels[0]
    tokens, hidden = torch.randn(5, 16, 8), torch.zeros(5, 16, dtype=torch.bool)
    summaries, skipped = level.encode(tokens, hidden)
    first = torch.cat([torch.zeros(5, 1, 8), tokens + level.position], dim=1)
    encoded = level.encoder(first)
    torch.testing.assert_close(summaries, encoded[:, 0])
    torch.testing.assert_close(skipped, level.bottleneck(encoded[:, 1:]))
    assert level.bottleneck[0].out_features == 8
    found = level.decode(summaries, skipped, hidden)
    memory = torch.cat([summaries[:, None], skipped], dim=1)
    torch.testing.assert_close(found, level.decoder(level.queries.expand(5, -1, -1), memory))


def test_skipped_patches_have_no_part_in_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    net, grid = network(), airy()
    there = ~grid[:, 0].isnan()
    before = [each[there] for each in net.errors(grid)]
    # Whatever stands in the place of air, attention does not see it.
    monkeypatch.setattr(utrad, "without_air", lambda grid: grid.nan_to_num(7.0))
    after = [each[there] for each in net.errors(grid)]
    torch.testing.assert_close(before, after)
    assert net.errors(grid[1:2])[0].isfinite().all()


def test_windows_of_air_may_be_computed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    net, grid = network(), airy()
    there = ~grid[:, 0].isnan()
    few = [each[there] for each in net.errors(grid)]
    monkeypatch.setattr(utrad, "_used", lambda empty: slice(None))
    torch.testing.assert_close(few, [each[there] for each in net.errors(grid)])


def test_score_is_the_error_relative_to_the_expected_one() -> None:
    net, grid = network(), torch.randn(2, 6, 6, 9)
    with torch.no_grad():
        rebuilt, expected = net(grid)
        error = (rebuilt - grid.permute(0, 2, 3, 1)).norm(dim=-1) / 6**0.5
    torch.testing.assert_close(Utrad(net).score(grid), error / expected.abs().clamp_min(1e-3))
    explained = Utrad(net).explain(grid[:1], 2, 3).quantities
    assert explained[0].value == pytest.approx(explained[1].value / abs(explained[2].value))


def test_grids_of_another_size_are_scored() -> None:
    detector = Utrad(network())
    assert detector.score(torch.randn(1, 6, 11, 4)).shape == (1, 11, 4)


def gradients(net: UtradNetwork, batch: Tensor, size: int) -> tuple[float, dict[str, Tensor]]:
    optimizer = torch.optim.Adam(net.parameters())
    loss = utrad._gradients(net, optimizer, batch, FitContext(), size)
    return loss, {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


def test_losses_are_means_over_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # Float32 products, so that they can be compared.
    monkeypatch.setattr(utrad, "precision", lambda device: torch.autocast("cpu", enabled=False))
    net, batch = network(), airy()
    there = ~batch[:, 0].isnan()
    whole, expected = gradients(net, batch, 3)
    error, guess = net.errors(batch)
    assert whole == pytest.approx(error[there].square().mean().item(), rel=1e-5)
    net.zero_grad()
    (guess[there] - error[there].detach()).square().mean().backward()
    for name, parameter in net.named_parameters():
        ours = parameter.grad
        assert (ours is not None) == name.startswith("expected"), name
        if ours is not None:
            torch.testing.assert_close(ours, expected[name], rtol=1e-3, atol=1e-6)
    apart, found = gradients(net, batch, 1)
    assert apart == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_a_step_that_is_too_large_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    compute = utrad._gradients

    def scarce(*arguments: Any) -> float:
        sizes.append(arguments[-1])
        if arguments[-1] > 2:
            raise MemoryError
        return compute(*arguments)

    monkeypatch.setattr(utrad, "_gradients", scarce)
    steps = Utrad.learn(
        grids(8, seed=0), FitContext(), iterations=2, batch_size=8, width=8, depth=1
    )
    messages: list[str] = []
    learned = finish(steps, lambda step: messages.append(step.message))
    assert sizes == [8, 4, 2, 2]
    assert messages[0].endswith("(memory ran short: at most 2 at once)")
    assert learned.summary["warnings"] == ["Training: memory ran short: at most 2 at once."]


@pytest.mark.parametrize("stop_after", [3, 4, 7])
def test_stopped_and_resumed_is_the_same(tmp_path: Path, stop_after: int) -> None:
    normal = grids(8, seed=0)

    def steps(name: str, seed: int = 0):  # type: ignore[no-untyped-def]
        setup = FitContext(seed=seed, checkpoint=tmp_path / name)
        return Utrad.learn(normal, setup, iterations=8, batch_size=4, width=8, depth=1)

    learned = finish(steps("whole"))
    whole = learned.detector.tensors()
    assert learned.summary["steps"] == 8
    stopped = steps("stopped")
    for _ in range(stop_after):
        next(stopped)
    stopped.close()
    again = steps("stopped")
    first, resumed = next(again), finish(again).detector.tensors()
    assert first.done == stop_after // 2 * 2 + 1
    for key, tensor in whole.items():
        assert torch.equal(tensor, resumed[key]), key
    anew = steps("stopped", seed=1)
    fresh, other = next(anew), finish(anew).detector.tensors()
    assert fresh.done == 1, "a checkpoint of another seed is not resumed"
    assert any(not torch.equal(tensor, other[key]) for key, tensor in whole.items())


def test_sizes_out_of_range_are_refused() -> None:
    for wrong in ({"rows": 0}, {"depth": 0}, {"dropout": 1.0}):
        settings = {"channels": 6, "rows": 4, "columns": 4, "width": 8, **wrong}
        with pytest.raises(InputError, match="must be at least 1"):
            partial(UtradNetwork, **settings)()
