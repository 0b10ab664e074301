"""Each detector's numbers against an independent implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import digamma
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors import (
    Dinomaly,
    DirichletMixture,
    FitContext,
    HierarchicalMatching,
    MemoryBank,
    PatchGaussian,
)
from napari_spatial_ar.normative.detectors.dinomaly import DinomalyNetwork, hard_mining_loss
from napari_spatial_ar.normative.detectors.dpmm import MixtureState
from napari_spatial_ar.normative.detectors.memory_bank import k_centres
from napari_spatial_ar.normative.detectors.optimizers import StableAdamW
from napari_spatial_ar.steps import finish


def grids(count: int, seed: int, channels: int = 6) -> list[torch.Tensor]:
    """Correlated patches around a mean far from zero."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(count, 5, 7, channels, generator=generator) @ mix
    return list((noise + 20).permute(0, 3, 1, 2).split(1))


def rows(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.cat(parts).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()


def cosine_nearest(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
    found = NearestNeighbors(n_neighbors=1, metric="cosine").fit(bank)
    return found.kneighbors(queries)[0][:, 0]


def test_k_centres_takes_the_farthest_each_time() -> None:
    points = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    chosen = [5]
    while len(chosen) < 12:
        distance = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1)
        chosen.append(int(distance.argmax()))
    assert list(k_centres(torch.from_numpy(points), 12, 5)) == chosen
    everything = list(k_centres(torch.from_numpy(points), 99, 0))
    assert sorted(everything) == list(range(60))
    # Far from zero, squares differ by less than they are rounded.
    assert len(set(k_centres(torch.from_numpy(1000 + points / 1000), 60, 0))) == 60


def test_coreset_covers_better_than_a_random_draw() -> None:
    normal = grids(10, seed=0)
    bank = MemoryBank.fit(normal, coreset=0.1, projection=6)
    assert len(bank.bank) == 35
    everything = rows(normal)
    unit = everything / np.linalg.norm(everything, axis=1, keepdims=True)
    kept = bank.bank.double().numpy()
    assert np.allclose(cosine_nearest(kept, unit), 0, atol=1e-5), "the coreset is of the patches"
    drawn = np.random.default_rng(0).choice(len(unit), 35, replace=False)
    assert cosine_nearest(unit, kept).max() < cosine_nearest(unit, unit[drawn]).max()
    few = MemoryBank.fit(normal, coreset=0.5, candidates=40)
    assert len(few.bank) == 20


@pytest.mark.usefixtures("bfloat16")
def test_memory_bank_is_sklearns_nearest_neighbour() -> None:
    normal, query = grids(20, seed=0), grids(3, seed=1)
    bank = MemoryBank.fit(normal)
    found = bank.score(torch.cat(query)).flatten()
    asked = torch.nn.functional.normalize(torch.from_numpy(rows(query)))
    exact = (1 - (asked @ bank.bank.double().T).amax(dim=1)).clamp_min(0)
    np.testing.assert_allclose(found, exact, atol=1e-6)
    # The bank is float16.
    np.testing.assert_allclose(found, cosine_nearest(rows(query), rows(normal)), atol=5e-4)


@pytest.mark.parametrize("components", [0, 3])
def test_global_gaussian_is_sklearns_ledoit_wolf(components: int) -> None:
    normal, query = grids(4, seed=0), grids(2, seed=1)
    points, asked = rows(normal), rows(query)
    if components:
        turn = PCA(components, svd_solver="full").fit(points)
        points, asked = turn.transform(points), turn.transform(asked)
    expected = np.sqrt(LedoitWolf().fit(points).mahalanobis(asked))
    found = PatchGaussian.fit(normal, components=components).score(torch.cat(query))
    np.testing.assert_allclose(found.flatten(), expected, rtol=2e-3)


def test_shrinkage_matters_where_patches_are_few() -> None:
    normal = [grids(1, seed=0, channels=30)[0][:, :, :5, :5]]
    estimate = LedoitWolf().fit(rows(normal))
    assert estimate.shrinkage_ > 0.05
    query = grids(1, seed=1, channels=30)
    expected = np.sqrt(estimate.mahalanobis(rows(query)))
    found = PatchGaussian.fit(normal).score(query[0])
    np.testing.assert_allclose(found.flatten(), expected, rtol=2e-3)


def test_gaussian_a_position_against_numpy() -> None:
    normal, query = grids(30, seed=0), grids(1, seed=1)
    found = PatchGaussian.fit(normal, position="patch", cells=2, components=6)
    points = torch.cat(normal).permute(0, 2, 3, 1).double().numpy()
    variance = np.trace(np.cov(rows(normal).T, bias=True)) / 6
    asked = query[0][0].permute(1, 2, 0).double().numpy()
    expected = np.empty((5, 7))
    for i in range(5):
        for j in range(7):
            inside = points[:, [n for n in range(5) if n * 2 // 5 == i * 2 // 5]][
                :, :, [n for n in range(7) if n * 2 // 7 == j * 2 // 7]
            ].reshape(-1, 6)
            covariance = np.cov(inside.T, bias=True) + 0.01 * variance * np.eye(6)
            away = asked[i, j] - inside.mean(axis=0)
            expected[i, j] = np.sqrt(away @ np.linalg.solve(covariance, away))
    np.testing.assert_allclose(found.score(query[0])[0], expected, rtol=2e-3)
    with pytest.raises(InputError, match="does not fill 6 x 6 cells"):
        PatchGaussian.fit(normal, position="patch", cells=6)
    larger = torch.nn.functional.interpolate(query[0], scale_factor=2)
    np.testing.assert_allclose(found.score(larger)[0, ::8, ::12], expected[::4, ::6], rtol=2e-3)


def test_image_score_is_sklearns_nearest_neighbours_of_pooled_features() -> None:
    normal, query = grids(12, seed=0), grids(3, seed=1)
    found = PatchGaussian.fit(normal, neighbours=3).image_scores(torch.cat(query))
    pooled, asked = (torch.cat(g).mean(dim=(2, 3)).numpy() for g in (normal, query))
    nearest = NearestNeighbors(n_neighbors=3, metric="cosine").fit(pooled)
    expected = nearest.kneighbors(asked)[0].mean(axis=1)
    assert found is not None
    # The pooled features are kept in float16.
    np.testing.assert_allclose(found, expected, atol=5e-4)


def test_mixture_update_against_sklearn_and_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 4, generator=generator).double()
    state = MixtureState(rows, 6, 2.0, generator)
    sticks = state.sticks.numpy().copy()
    weights = sticks * np.concatenate([[1], np.cumprod(1 - sticks)[:-1]])
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(state.log_weights().exp(), weights, rtol=1e-6)
    plain = GaussianMixture(6, covariance_type="diag")
    plain.weights_, plain.means_ = weights, state.means.numpy()
    plain.precisions_cholesky_ = 1 / np.sqrt(state.variances.numpy())
    plain.covariances_ = state.variances.numpy()
    joint = state.log_joint(rows)
    np.testing.assert_allclose(joint.logsumexp(dim=1), plain.score_samples(rows.numpy()))
    share = plain.predict_proba(rows.numpy())

    state.update(rows, 0.5)
    counts = share.sum(axis=0)
    means = share.T @ rows.numpy() / counts[:, None]
    spread = [
        np.average((rows.numpy() - mean) ** 2, axis=0, weights=column)
        for mean, column in zip(means, share.T, strict=True)
    ]
    np.testing.assert_allclose(state.means, means, rtol=1e-4)
    np.testing.assert_allclose(state.variances, np.array(spread) + 1e-6, rtol=1e-4)
    # Averages begin at zero, so that the first batch counts by half.
    half = counts / len(rows) / 2
    after = np.array([half[k + 1 :].sum() for k in range(6)])
    np.testing.assert_allclose(state.sticks, half / (half + after + 1 / 300), rtol=1e-3)
    grown = digamma(300 * (half + after) + 3) - digamma(300 * after + 2)
    assert state.concentration == pytest.approx(5 / grown[:-1].sum(), rel=1e-3)


def test_mixture_finds_the_clusters_and_idle_components_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]])
    which = torch.randint(3, (24, 5, 7), generator=generator)
    noise = 0.1 * torch.randn(24, 5, 7, 3, generator=generator)
    normal = list((centres[which] + noise).permute(0, 3, 1, 2).split(1))
    detector = DirichletMixture.fit(normal, components=20, passes=100)
    assert 3 <= len(detector.means) < 20
    assert detector.weights.sum() == pytest.approx(1, abs=1e-4)
    assert cosine_nearest(np.eye(3), detector.means.numpy()).max() < 0.01
    query = torch.randn(1, 3, 5, 7, generator=generator)
    expected = cosine_nearest(rows([query]), detector.means.double().numpy())
    np.testing.assert_allclose(detector.score(query).flatten(), expected, atol=1e-5)


def test_matching_against_numpy() -> None:
    """One centre a patch leaves plain nearest neighbours in the retrieved slices."""
    generator = torch.Generator().manual_seed(0)
    normal = list(torch.randn(6, 8, 4, 4, generator=generator).split(1))
    detector = HierarchicalMatching.fit(normal, blocks=2, clusters=16, references=2)
    query = normal[3] + 0.2 * torch.randn(1, 8, 4, 4, generator=generator)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def matched(asked: np.ndarray, others: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        similarity = [
            (
                unit(asked.mean((1, 2))) @ unit(o.mean((1, 2)))
                + unit(asked.ravel()) @ unit(o.ravel())
            )
            / 2
            for o in others
        ]
        best = np.argsort(similarity)[-2:]
        distances = np.stack(
            [
                [
                    cosine_nearest(
                        asked[s : s + 4].reshape(4, -1).T, others[r][s : s + 4].reshape(4, -1).T
                    )
                    for r in best
                ]
                for s in (0, 4)
            ]
        )  # stage, reference, patch
        return distances.min(axis=1), distances.std(axis=1)

    arrays = [grid[0].double().numpy() for grid in normal]
    alone = [
        matched(asked, [o for m, o in enumerate(arrays) if m != n])
        for n, asked in enumerate(arrays)
    ]
    usual = np.mean([m for m, _ in alone], axis=(0, 2))
    usual_spread = np.mean([s for _, s in alone], axis=(0, 2))
    maps, spread = matched(query[0].double().numpy(), arrays)
    weights = np.exp(-spread / usual_spread[:, None])
    weights /= weights.sum(axis=0)
    expected = (weights * maps / usual[:, None]).sum(axis=0)
    np.testing.assert_allclose(detector.score(query).flatten(), expected, atol=5e-3)


def test_stable_adamw_against_numpy() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=(3, 4))
    parameter = torch.nn.Parameter(torch.from_numpy(value.copy()))
    optimizer = StableAdamW([parameter], lr=0.01, weight_decay=0.1)
    mean, square, largest = (np.zeros((3, 4)) for _ in range(3))
    clipped = []
    for step in range(1, 30):
        # A gradient that jumps, so that the clipping is put to use, and falls again.
        gradient = rng.normal(size=(3, 4)) * (50.0 if step == 10 else 1.0)
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        largest = np.maximum(largest, square)
        scale = np.sqrt(largest) / np.sqrt(1 - 0.999**step) + 1e-10
        clipped.append(max(1.0, np.sqrt(np.mean((gradient / scale) ** 2))))
        value = value * (1 - 0.01 * 0.1) - 0.01 / clipped[-1] / (1 - 0.9**step) * mean / scale
    assert max(clipped) > 2
    np.testing.assert_allclose(parameter.detach(), value, rtol=1e-10)


def test_hard_mining_leaves_the_value_and_turns_down_the_easy_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = [torch.randn(2, 10, 3, generator=generator) for _ in range(2)]
    start = [w + 0.5 * torch.randn(2, 10, 3, generator=generator) for w in wanted]

    def run(share: float) -> tuple[float, list[torch.Tensor]]:
        found = [s.clone().requires_grad_() for s in start]
        loss = hard_mining_loss(wanted, found, share)
        loss.backward()
        return loss.item(), [f.grad for f in found if f.grad is not None]

    plain = np.mean(
        [
            1
            - np.sum(w.numpy() * s.numpy(), axis=(1, 2))
            / (np.linalg.norm(w.flatten(1), axis=1) * np.linalg.norm(s.flatten(1), axis=1))
            for w, s in zip(wanted, start, strict=True)
        ]
    )
    (all_loss, all_grads), (loss, grads) = run(0.0), run(0.9)
    assert all_loss == pytest.approx(plain, abs=1e-6)
    assert loss == pytest.approx(plain, abs=1e-6)
    for before, after, w, s in zip(all_grads, grads, wanted, start, strict=True):
        ratio = (after / before).mean(dim=-1)
        distance = 1 - torch.nn.functional.cosine_similarity(w, s, dim=-1)
        hard = distance >= distance.flatten().sort(descending=True).values[1]
        torch.testing.assert_close(ratio, torch.where(hard, 1.0, 0.1))


def test_dinomaly_groups_and_linear_attention_against_plain_formulas() -> None:
    torch.manual_seed(0)
    network = DinomalyNetwork(8, 4, decoder=4).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    grid = torch.randn(2, 32, 3, 5)
    with torch.no_grad():
        encoded, decoded = network(grid)
        blocks = [grid[:, n : n + 8].flatten(2).transpose(1, 2) for n in (0, 8, 16, 24)]
        torch.testing.assert_close(encoded[0], (blocks[0] + blocks[1]) / 2)
        torch.testing.assert_close(encoded[1], (blocks[2] + blocks[3]) / 2)
        tokens = network.bottleneck(sum(blocks) / 4)
        outputs = []
        for block in network.decoder:
            normed = block.norm1(tokens)
            query, key, value = block.attention.qkv(normed).chunk(3, dim=-1)
            kernel = (torch.nn.functional.elu(query) + 1) @ (
                torch.nn.functional.elu(key) + 1
            ).transpose(1, 2)
            mixed = kernel / kernel.sum(dim=-1, keepdim=True) @ value
            tokens = tokens + block.attention.out(mixed)
            tokens = tokens + block.mlp(block.norm2(tokens))
            outputs.append(tokens)
        torch.testing.assert_close(decoded[0], (outputs[3] + outputs[2]) / 2)
        torch.testing.assert_close(decoded[1], (outputs[1] + outputs[0]) / 2)
        similar = [
            torch.nn.functional.cosine_similarity(a, b, dim=-1)
            for a, b in zip(encoded, decoded, strict=True)
        ]
        expected = (1 - (similar[0] + similar[1]) / 2).reshape(2, 3, 5)
        torch.testing.assert_close(network.distance(grid), expected)


def test_dinomaly_reads_the_middle_blocks() -> None:
    assert Dinomaly.default_layers(12) == (3, 4, 5, 6, 7, 8, 9, 10)
    assert Dinomaly.default_layers(24) == (5, 7, 9, 11, 13, 15, 17, 19)
    assert Dinomaly.default_layers(2) == (1, 2)
    assert HierarchicalMatching.default_layers(12) == (3, 6, 9, 12)


@pytest.mark.parametrize("stop_after", [3, 4, 7])
def test_dinomaly_stopped_and_resumed_is_the_same(tmp_path: Path, stop_after: int) -> None:
    normal = grids(8, seed=0)

    def steps(name: str, seed: int = 0):  # type: ignore[no-untyped-def]
        setup = FitContext(blocks=2, seed=seed, checkpoint=tmp_path / name)
        return Dinomaly.learn(normal, setup, iterations=8, batch_size=4, decoder=2)

    whole = finish(steps("whole")).detector.tensors()
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
    assert fresh.done == 1, "a checkpoint of another seed is not taken up"
    assert any(not torch.equal(tensor, other[key]) for key, tensor in whole.items())
