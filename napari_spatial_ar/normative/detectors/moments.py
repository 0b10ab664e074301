"""Mean and covariance of more rows than fit into memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Moments"]


class Moments:
    """Mean and covariance of rows, gathered slice by slice on any device."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Take (N, D) float32 in."""
        if not len(rows):
            return
        if not self.count:
            # Sums around a typical value: their difference keeps its digits.
            self._shift = rows.mean(dim=0)
            width = rows.shape[1]
            self._sum = torch.zeros(width, dtype=torch.float64)
            self._outer = torch.zeros(width, width, dtype=torch.float64)
        self.count += len(rows)
        centred = rows - self._shift
        # Products of a slice in float32, half the time; their sum over slices keeps its digits.
        self._sum += centred.sum(dim=0).cpu().double()
        self._outer += (centred.T @ centred).cpu().double()

    @property
    def mean(self) -> Tensor:
        """(D,) float64, on the CPU."""
        return self._sum / self.count + self._shift.cpu().double()

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, on the CPU."""
        off = self._sum / self.count
        return self._outer / self.count - torch.outer(off, off)
