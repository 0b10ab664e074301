"""How a method explains the score of one patch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Explanation", "Quantity"]


@dataclass(frozen=True)
class Quantity:
    """A number that contributes to a score, with its name and unit for users ("" for none)."""

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
        Those of this patch, before any smoothing.
    """

    meaning: str
    quantities: tuple[Quantity, ...]
