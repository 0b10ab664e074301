"""Spherical k-means (Dhillon and Modha, Machine Learning 2001): means of rows of unit length."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ROUNDS", "spherical_kmeans"]

#: After this many iterations the means change little.
ROUNDS = 6
# Rows assigned to means at a time.
_PART = 4096


def spherical_kmeans(
    rows: Tensor, start: Tensor, *, rounds: int = ROUNDS, device: torch.device
) -> Generator[int, None, Tensor]:
    """Refine means iteratively.

    Parameters
    ----------
    rows : (N, k) float16 or float32
        Unit-length rows, on the CPU.
    start : (K, k) float16 or float32
        Initial unit-length means, on the CPU.
    rounds : int
        Number of iterations.
    device : torch.device
        Where rows are assigned to their nearest means.

    Yields
    ------
    int
        The current iteration, from 1, after each part of it.

    Returns
    -------
    (K, k) float32
        Unit-length means, on the CPU. A mean without any nearest row stays where it is.
    """
    means = start.float()
    for number in range(1, rounds + 1):
        sums, members = torch.zeros_like(means), torch.zeros(len(means))
        there = means.to(device)
        for part in torch.split(rows, _PART):
            nearest = (part.to(device).float() @ there.T).argmax(dim=1).cpu()
            # On the CPU the order of the sum, and so the result, is always the same.
            sums.index_add_(0, nearest, part.float())
            members += torch.bincount(nearest, minlength=len(means))
            yield number
        means = torch.where(members[:, None] > 0, functional.normalize(sums), means)
    return means
