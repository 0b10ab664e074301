"""Spherical k-means (Dhillon and Modha, Machine Learning 2001): means of rows of unit length."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ROUNDS", "spherical_kmeans"]

#: After so many rounds the means change little.
ROUNDS = 6
# Rows whose nearest means are found at a time.
_PART = 4096


def spherical_kmeans(
    rows: Tensor, start: Tensor, *, rounds: int = ROUNDS, device: torch.device
) -> Generator[int, None, Tensor]:
    """Move means to the rows that each is nearest to, round after round.

    Parameters
    ----------
    rows : (N, k) float16 or float32
        Of unit length, on the CPU.
    start : (K, k) float16 or float32
        Means to begin with, of unit length, on the CPU.
    rounds : int
        How often every row is assigned anew.
    device : torch.device
        Where the nearest means are found.

    Yields
    ------
    int
        The round, from 1, after each part of it.

    Returns
    -------
    (K, k) float32
        Of unit length, on the CPU. A mean that no row is nearest to stays where it is.
    """
    means = start.float()
    for number in range(1, rounds + 1):
        sums, members = torch.zeros_like(means), torch.zeros(len(means))
        there = means.to(device)
        for part in torch.split(rows, _PART):
            nearest = (part.to(device).float() @ there.T).argmax(dim=1).cpu()
            # On the CPU, where the order of the sum, and with it the outcome, is always the same.
            sums.index_add_(0, nearest, part.float())
            members += torch.bincount(nearest, minlength=len(means))
            yield number
        means = torch.where(members[:, None] > 0, functional.normalize(sums), means)
    return means
