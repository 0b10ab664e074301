"""Muon: its numbers against torch's own and numpy's, and what it does to masked weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.detectors.optimizers import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_singular_values_come_out_alike_and_their_vectors_stay(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    left, before, right = torch.linalg.svd(matrix, full_matrices=False)
    after = left.T @ orthogonalized(matrix) @ right.T
    sizes = after.diagonal()
    assert float((after - torch.diag(sizes)).abs().max()) < 1e-6
    assert 0.6 < float(sizes.min()) <= float(sizes.max()) < 1.3
    assert float(before.max() / before.min()) > 1.5 * float(sizes.max() / sizes.min())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
def test_steps_are_those_of_torch() -> None:
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.normal(size=(24, 60))).float()
    own, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    steps = [
        Muon([own], lr=0.01),
        torch.optim.Muon(
            [theirs], lr=0.01, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
    ]
    for _ in range(8):
        gradient = torch.from_numpy(rng.normal(size=(24, 60))).float()
        own.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in steps:
            optimizer.step()
    moved, expected = own.detach() - start, theirs.detach() - start
    # Torch's computes in bfloat16.
    assert float((moved - expected).norm() / expected.norm()) < 0.03


def test_a_convolution_is_the_matrix_of_its_filters_and_a_bias_goes_with_adam() -> None:
    rng = np.random.default_rng(1)
    weight = torch.from_numpy(rng.normal(size=(6, 5, 2, 3)))
    bias = torch.from_numpy(rng.normal(size=6))
    filters, matrix = nn.Parameter(weight.clone()), nn.Parameter(weight.flatten(1).clone())
    plain, adam = nn.Parameter(bias.clone()), nn.Parameter(bias.clone())
    filters.data = filters.data.contiguous(memory_format=torch.channels_last)
    optimizers = [Muon([filters, plain], lr=0.1), Muon([matrix], lr=0.1)]
    optimizers.append(torch.optim.Adam([adam], lr=0.1))
    for _ in range(4):
        filters.grad = torch.from_numpy(rng.normal(size=weight.shape))
        matrix.grad = filters.grad.flatten(1)
        plain.grad = torch.from_numpy(rng.normal(size=6))
        adam.grad = plain.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    np.testing.assert_allclose(filters.detach().flatten(1), matrix.detach(), rtol=1e-12)
    np.testing.assert_allclose(plain.detach(), adam.detach(), rtol=1e-12)


def test_masked_weights_stay_zero_while_the_loss_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(4, 16, 10, 10, generator=generator).cumsum(2)
    torch.manual_seed(0)
    network = SpatialAR(16, hidden=16, layers=3, dilation=1)
    optimizer = Muon(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = network.nll(grid).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]
    for layer in network.net[::2]:
        assert not layer.weight[:, :, layer.mask == 0].any()
        assert layer.weight[:, :, layer.mask == 1].all()


def test_a_fit_says_what_stepped(
    normal_slices: Path, tmp_path: Path, tiny_backbone: Backbone
) -> None:
    settings = {"backbone": tiny_backbone, "size": (64, 64), "epochs": 1, "batch_size": 4}
    settings |= {"method": "spatial-ar", "device": "cpu"}
    usual = nsar.fit(normal_slices, out=tmp_path / "a", **settings)
    other = nsar.fit(normal_slices, out=tmp_path / "b", options={"optimizer": "muon"}, **settings)
    assert usual.header.training["optimizer"] == "AdamW"
    assert other.header.training["optimizer"] == "Muon"
    assert usual.sha256 != other.sha256
    with pytest.raises(InputError, match="must be adamw, adamw-cycle or muon, not 'sgd'"):
        nsar.fit(normal_slices, out=tmp_path / "c", options={"optimizer": "sgd"}, **settings)
