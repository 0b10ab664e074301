"""The network against a plain evaluation of equation (2), and what it may not see."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors.ar_network import MaskedConv2d, SpatialAR

D, HIDDEN, ROWS, COLUMNS = 5, 7, 7, 6


def network(**settings: Any) -> SpatialAR:
    torch.manual_seed(0)
    return SpatialAR(D, hidden=HIDDEN, **settings).eval()


def grid(batch: int = 1) -> Tensor:
    return torch.randn(batch, D, ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))


def whole_kernels(model: SpatialAR) -> list[tuple[Tensor, Tensor]]:
    """Square, masked kernels and biases, as a plain masked convolution would have them."""
    kernels = []
    for module in model.net:
        if not hasattr(module, "mask"):
            continue
        weight = module.weight.detach()
        square = torch.zeros(*weight.shape[:2], weight.shape[3], weight.shape[3])
        square[:, :, : weight.shape[2]] = weight * module.mask
        kernels.append((square, module.bias.detach()))
    return kernels


def plain_mean(model: SpatialAR, values: Tensor, dilation: int | list[int]) -> Tensor:
    """Predict every position with loops over layers, positions and neighbours."""
    layer_in = values
    kernels = whole_kernels(model)
    for number, (weight, bias) in enumerate(kernels):
        half = weight.shape[-1] // 2
        step = dilation if isinstance(dilation, int) else dilation[number]
        out = torch.zeros(len(bias), ROWS, COLUMNS)
        for i in range(ROWS):
            for j in range(COLUMNS):
                total = bias.clone()
                for di in range(-half, half + 1):
                    for dj in range(-half, half + 1):
                        y, x = i + di * step, j + dj * step
                        if 0 <= y < ROWS and 0 <= x < COLUMNS:
                            total += weight[:, :, di + half, dj + half] @ layer_in[:, y, x]
                out[:, i, j] = total
        layer_in = out.clamp_min(0) if number < len(kernels) - 1 else out
    return layer_in


@pytest.mark.parametrize("dilation", [1, 2, 4, [1, 2, 4, 2, 1], [3, 1, 2, 1, 1]])
@pytest.mark.parametrize("context", ["causal", "bidirectional"])
def test_equals_plain_evaluation_of_equation_2(dilation: int | list[int], context: Any) -> None:
    model, values = network(dilation=dilation, context=context), grid()
    mean = plain_mean(model, values[0], dilation)
    with torch.no_grad():
        torch.testing.assert_close(model(values)[0], mean, atol=1e-5, rtol=1e-5)
        expected = torch.zeros(ROWS, COLUMNS)
        for i in range(ROWS):
            for j in range(COLUMNS):
                gaussian = torch.distributions.Normal(mean[:, i, j], 1.0)
                expected[i, j] = -gaussian.log_prob(values[0, :, i, j]).sum()
        torch.testing.assert_close(model.nll(values)[0], expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2, 4, [1, 2, 4, 2, 1], [4, 1, 1, 2, 3]])
@pytest.mark.parametrize("kernel", [3, 5])
def test_causal_network_sees_only_what_came_before(dilation: int | list[int], kernel: int) -> None:
    model, values = network(dilation=dilation, kernel=kernel), grid()
    with torch.no_grad():
        before = model(values)
        for i in range(ROWS):
            for j in range(COLUMNS):
                changed = values.clone()
                changed[0, :, i, j] += 10
                moved = (model(changed) - before)[0].abs().amax(0) > 0
                assert not moved.flatten()[: i * COLUMNS + j + 1].any(), f"({i}, {j}) leaks"


def test_mixed_dilations_leave_no_patch_out_and_are_kept_as_a_list() -> None:
    model, values = network(dilation=(1, 2, 4, 2, 1)), grid()
    assert model.settings["dilation"] == [1, 2, 4, 2, 1]
    assert [layer.dilation for layer in model.net[::2]] == [1, 2, 4, 2, 1]
    again = SpatialAR(**json.loads(json.dumps(model.settings)))
    assert again.settings == model.settings
    assert network(dilation=4).settings["dilation"] == 4
    seen = {1: 0, 4: 0}
    for dilation, mixed in ((4, network(dilation=4)), (1, model)):
        with torch.no_grad():
            before = mixed(values)
            for place in range(4 * COLUMNS + 3):
                changed = values.clone()
                changed[0, :, place // COLUMNS, place % COLUMNS] += 10
                seen[dilation] += bool((mixed(changed) - before)[0, :, 4, 3].abs().max() > 0)
    assert seen[1] >= 20 > 2 >= seen[4], "of the 27 patches before (4, 3)"


def test_causal_network_uses_its_neighbours() -> None:
    model, values = network(dilation=1), grid()
    for di, dj in ((-1, -1), (-1, 0), (-1, 1), (0, -1)):
        changed = values.clone()
        changed[0, :, 3 + di, 3 + dj] += 10
        with torch.no_grad():
            assert (model(changed) - model(values))[0, :, 3, 3].abs().max() > 0


def test_bidirectional_first_layer_hides_the_centre_and_later_layers_let_it_back() -> None:
    values = grid()
    changed = values.clone()
    changed[0, :, 3, 3] += 10
    first = network(dilation=1, context="bidirectional").net[0]
    with torch.no_grad():
        moved = (first(changed) - first(values))[0].abs().amax(0) > 0
    assert not moved[3, 3]
    assert moved[3, 4]
    assert moved[4, 2]
    whole = network(dilation=1, context="bidirectional")
    with torch.no_grad():
        assert (whole(changed) - whole(values))[0, :, 3, 3].abs().max() > 0


def test_nll_is_in_nats_with_the_constant() -> None:
    model = network()
    for parameter in model.parameters():
        parameter.data.zero_()
    zeros = torch.zeros(2, D, 3, 4)
    nll = model.nll(zeros)
    assert nll.shape == (2, 3, 4)
    assert nll.dtype == torch.float32
    assert nll[0, 0, 0].item() == pytest.approx(D / 2 * math.log(2 * math.pi))


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (8, 13)])
@pytest.mark.parametrize("dilation", [1, 4])
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("sees", ["A", "B"])
def test_a_causal_layer_equals_the_masked_square_with_its_gradients(
    sees: Any, kernel: int, dilation: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer = MaskedConv2d(5, 6, kernel=kernel, dilation=dilation, sees=sees).double()
    grid = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    square = torch.zeros(6, 5, kernel, kernel, dtype=torch.float64)
    square[:, :, : kernel // 2 + 1] = layer.weight.detach()
    square[:, :, kernel // 2, kernel // 2 + (sees == "B") :] = 0
    square.requires_grad_()
    expected = functional.conv2d(
        grid, square, layer.bias, padding=kernel // 2 * dilation, dilation=dilation
    )
    found = layer(grid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    upstream = torch.randn_like(expected)
    own = torch.autograd.grad(found, (grid, layer.weight, layer.bias), upstream)
    theirs = torch.autograd.grad(expected, (grid, square, layer.bias), upstream)
    torch.testing.assert_close(own[0], theirs[0], rtol=0, atol=1e-12)
    mine = theirs[1][:, :, : kernel // 2 + 1] * layer.mask
    torch.testing.assert_close(own[1], mine, rtol=0, atol=1e-12)
    torch.testing.assert_close(own[2], theirs[2], rtol=0, atol=1e-12)


def test_masked_weights_get_no_gradient() -> None:
    model = network(dilation=1)
    model.nll(grid()).sum().backward()
    first = model.net[0]
    assert first.weight.grad[:, :, first.mask == 0].abs().max() == 0
    assert first.weight.grad[:, :, first.mask == 1].abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"context": "sideways"}, "context must be"),
        ({"kernel": 4}, "kernel side must be odd"),
        ({"dilation": 0}, "must be at least 1"),
        ({"layers": 1}, "layers at least 2"),
        ({"dilation": [1, 0, 1, 1, 1]}, "must be at least 1"),
        ({"dilation": [1, 2, 1]}, r"3 dilations \(1-2-1\) for 5 convolutions"),
        ({"dilation": [1, 2], "layers": 3}, r"2 dilations \(1-2\) for 3 convolutions"),
        ({"dilation": []}, "0 dilations"),
        ({"dilation": "12421"}, "whole number"),
        ({"dilation": 1.5}, "whole number"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        network(**settings)
