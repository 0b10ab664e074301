"""StableAdamW: AdamW whose step shrinks where the gradient outruns its own history.

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
from torch import nn
from torch.optim import Optimizer

__all__ = ["StableAdamW"]


class StableAdamW(Optimizer):
    """See the module.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        What is trained.
    lr, betas, eps, weight_decay : float
        As for `torch.optim.AdamW`; AMSGrad is always on.
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
