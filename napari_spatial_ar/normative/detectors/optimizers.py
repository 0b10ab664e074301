"""Optimizers that torch does not include: Muon, and AdamW with stable steps.

Muon: the step of a weight matrix is its momentum with all singular values made equal.
Reference: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with
the step size of J. Liu et al., "Muon is scalable for LLM training" (2025), for which learning
rates of AdamW are suitable. A convolution's weights are a matrix, output channels by the rest.

StableAdamW: its step shrinks when the gradient exceeds its own history.
Reference: Wortsman et al., "Stable and low-precision training for large-scale vision-language
models" (NeurIPS 2023), with AMSGrad (Reddi et al., ICLR 2018) as Dinomaly uses it: the update
clipping of Adafactor is applied to each tensor by dividing its learning rate by
max(1, RMS(g / sqrt(v))).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Muon", "StableAdamW", "orthogonalized"]

# Coefficients of the Newton-Schulz iteration, as published: singular values end near 1, not at 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


_ITERATIONS = 5


_TINY = 1e-7


# Root mean square of an update of AdamW, to which that of a matrix is scaled.
_ADAMW_RMS = 0.2


class Muon(Optimizer):
    """SGD with momentum and orthogonalised steps; biases and the like are updated as by Adam.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        The parameters to train.
    lr : float
        Learning rate, on the scale of AdamW's.
    momentum : float
        Nesterov momentum of matrices.
    betas, eps : float
        For all other parameters, as in `torch.optim.Adam`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients; closures are not used."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    take = _step_matrix if parameter.ndim > 1 else _step_vector
                    take(parameter, parameter.grad, self.state[parameter], group)


def _step_matrix(
    parameter: nn.Parameter, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(parameter)
    momentum = state["momentum"].lerp_(grad, 1 - group["momentum"])
    update = orthogonalized(grad.lerp(momentum, group["momentum"]).flatten(1))
    scale = _ADAMW_RMS * math.sqrt(max(update.shape))
    parameter.sub_(update.view(parameter.shape), alpha=group["lr"] * scale)


def _step_vector(
    parameter: nn.Parameter, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    if not state:
        state["step"] = torch.tensor(0.0)
        state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    state["step"] += 1
    count, (first, second) = float(state["step"]), group["betas"]
    mean = state["mean"].lerp_(grad, 1 - first)
    square = state["square"].lerp_(grad.square(), 1 - second)
    scale = square.div(1 - second**count).sqrt_().add_(group["eps"])
    parameter.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**count))


def orthogonalized(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (M, N) near 1, without changing its singular vectors.

    Columns of zeros, such as the masked weights of a convolution, stay zero.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    found: Tensor = matrix if wide else matrix.T
    found = found / (found.norm() + _TINY)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found if wide else found.T


class StableAdamW(Optimizer):
    """AdamW with AMSGrad and the update clipping of Adafactor.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        The parameters to train.
    lr, betas, eps, weight_decay : float
        As in `torch.optim.AdamW`; AMSGrad is always on.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-10,
        weight_decay: float = 1e-4,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients; closures are not used."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("mean", "square", "largest"):
                state[name] = torch.zeros_like(parameter)
        state["step"] += 1
        count = float(state["step"])
        first, second = group["betas"]
        state["mean"].lerp_(grad, 1 - first)
        state["square"].mul_(second).addcmul_(grad, grad, value=1 - second)
        torch.maximum(state["largest"], state["square"], out=state["largest"])
        scale = state["largest"].sqrt().div_(math.sqrt(1 - second**count)).add_(group["eps"])
        clip = max(1.0, float((grad / scale).square().mean().sqrt()))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] / (1 - first**count) / clip
        parameter.addcdiv_(state["mean"], scale, value=-rate)
