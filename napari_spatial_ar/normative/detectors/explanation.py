"""What a method says of one patch, beside its score."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Explanation", "Quantity"]


@dataclass(frozen=True)
class Quantity:
    """A number that a score is made from, with its name and unit in words ("" for none)."""

    name: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Explanation:
    """Why a patch scores as it does.

    Parameters
    ----------
    meaning : str
        What a score of this method means, in a sentence or two.
    quantities : tuple of Quantity
        That of this patch, before any smoothing.
    """

    meaning: str
    quantities: tuple[Quantity, ...]
