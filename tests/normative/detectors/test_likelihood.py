"""Conditionals of direction: exact, trained by greatest likelihood, and the same after a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch.nn import functional

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.detectors import (
    FitContext,
    SpatialARDetector,
    StoredGrids,
    detector_from_tensors,
)
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.detectors.von_mises_fisher import concentration
from napari_spatial_ar.steps import finish

D = 24


def network(kappa: float = 40.0) -> SpatialAR:
    torch.manual_seed(0)
    made = SpatialAR(D, hidden=16, dilation=1, likelihood="von-mises-fisher")
    made.kappa.fill_(kappa)
    return made


def grid(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, D, 6, 7, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_nll_is_that_of_the_density_of_the_direction() -> None:
    net, values = network(), grid()
    found = net.nll(values)
    mean = functional.normalize(net(values), dim=1)
    unit = functional.normalize(values, dim=1)
    with mpmath.workdps(30):
        order = mpmath.mpf(D) / 2 - 1
        log_c = order * mpmath.log(40) - (order + 1) * mpmath.log(2 * mpmath.pi)
        log_c -= mpmath.log(mpmath.besseli(order, 40))
    expected = -float(log_c) - 40 * (unit * mean).sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert net.least_nll == pytest.approx(-float(log_c) - 40, abs=1e-6)
    assert (found >= net.least_nll - 1e-4).all()


@torch.inference_mode()
def test_length_has_no_part_in_it_and_no_later_patch_either() -> None:
    net, values = network(), grid(1)
    longer = values.clone()
    longer[0, :, 3, 4] *= 5
    before, after = net.nll(values), net.nll(longer)
    assert after[0, 3, 4] == pytest.approx(float(before[0, 3, 4]), abs=1e-4)
    other = values.clone()
    other[0, :, 3, 4] += 1
    changed = (net.nll(other) - before)[0].abs() > 1e-6
    assert changed[3, 4]
    raster = changed.flatten()
    assert not raster[: 3 * 7 + 4].any()


def test_training_finds_the_concentration_of_greatest_likelihood() -> None:
    generator = torch.Generator().manual_seed(3)
    # Directions around a constant mean, which a network predicts from its biases alone.
    centre = functional.normalize(torch.randn(D, generator=generator), dim=0)
    values = 3 * centre[:, None, None] + torch.randn(8, D, 6, 7, generator=generator)
    net = network(2.4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = net.loss(values)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 5
    with torch.inference_mode():
        nll = net.nll(values).mean().item()
        cosine = functional.cosine_similarity(values, net(values), dim=1).mean().item()
    assert float(net.kappa) == pytest.approx(concentration(D, cosine), rel=0.06)  # it follows
    assert nll == pytest.approx(losses[-1], abs=0.2)
    with torch.inference_mode():
        net.kappa.mul_(1.5)
        assert net.nll(values).mean() > nll


def test_the_papers_model_is_stored_as_before() -> None:
    assert "likelihood" not in SpatialAR(D).settings
    assert "kappa" not in SpatialAR(D).state_dict()
    assert SpatialAR(D).least_nll == pytest.approx(D / 2 * math.log(2 * math.pi))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="must be 'gaussian' or 'von-mises-fisher', not 'cauchy'"):
        SpatialAR(D, likelihood="cauchy")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="directions need at least 8 channels, not 4"):
        SpatialAR(4, likelihood="von-mises-fisher")
    detector = SpatialARDetector(network())
    tensors = detector.tensors()
    del tensors["kappa"]
    with pytest.raises(ModelFileError, match="do not match"):
        detector_from_tensors("spatial-ar", detector.parameters(), tensors)


def test_a_fit_by_directions(tiny_backbone: Backbone, normal_slices: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"likelihood": "von-mises-fisher", "epochs": 4, "dilation": 1}
    model = nsar.fit(
        normal_slices,
        out=tmp_path / "model",
        backbone=tiny_backbone,
        method="spatial-ar",
        options=options,
        size=(64, 64),
        patient_pattern="(patient[0-9])",
    )
    history = model.header.training["history"]["valid_nll"]
    assert history[-1] < history[0]
    assert model.header.format_version == 4
    again = nsar.load_model(tmp_path / "model")
    again.backbone = tiny_backbone
    image = torch.rand(48, 40, generator=torch.Generator().manual_seed(0)).numpy()
    score, same = model.score_slice(image), again.score_slice(image)
    assert (score.nll == same.nll).all()
    assert score.nll.min() >= 0
    assert float(again.detector.network.kappa) > 0
    assert again.detector.meaning.endswith("0 is a perfect prediction.")


def around(grid: torch.Tensor) -> torch.Tensor:
    """Mean over the 3 x 3 patches around each."""
    found = torch.empty_like(grid)
    for row in range(grid.shape[2]):
        for column in range(grid.shape[3]):
            near = grid[:, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            found[:, :, row, column] = near.mean(dim=(2, 3))
    return found


@torch.inference_mode()
def test_both_judges_direction_and_distance() -> None:
    torch.manual_seed(0)
    net, values = SpatialAR(D, hidden=16, dilation=1), grid()
    kappa, share = 30.0, 0.2
    detector = SpatialARDetector(net, pool=torch.tensor([kappa, share]))
    mean, seen = around(net(values)), around(values)
    cosine = (functional.normalize(seen, dim=1) * functional.normalize(mean, dim=1)).sum(dim=1)
    distance = (seen - mean).square().sum(dim=1)
    expected = kappa * (1 - cosine) + share * distance / 2
    torch.testing.assert_close(detector.score(values), expected, rtol=1e-5, atol=1e-4)
    again = detector_from_tensors("spatial-ar", detector.parameters(), detector.tensors())
    assert torch.equal(again.score(values), detector.score(values))
    assert again.parameters()["likelihood"] == "both"
    assert again.explain(values, 2, 3).quantities[0].value == pytest.approx(
        float(expected[0, 2, 3]) / D, rel=1e-4
    )


def test_distance_counts_a_quarter_of_direction(tmp_path: Path) -> None:
    grids = []
    for number in range(12):
        path = tmp_path / f"{number}.npy"
        generator = torch.Generator().manual_seed(number)
        np.save(path, torch.randn(6, 7, D, generator=generator).half().numpy())
        grids.append(path)
    stored = StoredGrids(grids)
    setup = FitContext(valid=stored, checkpoint=tmp_path / "checkpoint")
    options: dict[str, Any] = {"epochs": 2, "dilation": 1, "hidden": 16, "batch_size": 4}
    found = finish(SpatialARDetector.learn(stored, setup, likelihood="both", **options)).detector
    assert found.pool is not None
    kappa, share = found.pool.tolist()
    with torch.inference_mode():
        mean = around(torch.cat([found.network(grid) for grid in stored]))
    values = around(torch.cat(list(stored)))
    cosine = functional.cosine_similarity(values, mean, dim=1)
    distance = (values - mean).square().sum(dim=1) / 2
    assert kappa == pytest.approx(concentration(D, cosine.mean().item()), rel=1e-3)
    assert share * distance.std() == pytest.approx(float(kappa * cosine.std() / 4), rel=1e-3)
    # The network is that of the Gaussian.
    plain = finish(SpatialARDetector.learn(stored, setup, **options)).detector
    assert torch.equal(plain.network.net[0].weight, found.network.net[0].weight)
