"""What the readers of OCT files hand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

__all__ = ["DAMAGED", "Eye", "OctImage"]

DAMAGED = "is not an OCT file that can be read: it is cut short, damaged or of another kind"
Eye = Literal["right", "left", ""]


@dataclass(frozen=True, eq=False)
class OctImage:
    """One stack of B-scans in a file.

    Parameters
    ----------
    shape : (N, rows, columns)
        B-scans, samples in depth, A-scans.
    read : callable
        Reads them: an array of that shape, uint8 or uint16.
    spacing : (float, float, float), optional
        Distance between B-scans, in depth and between A-scans in mm; None where the file does
        not say.
    eye : {"right", "left", ""}
        Which eye; "" where the file does not say.
    parallel : bool
        Whether B-scans lie side by side (not a star, a circle or a cross).
    upside_down, mirrored : bool
        Whether rows are stored from the deepest up, and columns from the patient's left.
    display : bool
        Whether values are 8-bit grey for display.
    """

    shape: tuple[int, int, int]
    read: Callable[[], npt.NDArray[Any]] = field(repr=False)
    spacing: tuple[float, float, float] | None
    eye: Eye
    parallel: bool = True
    upside_down: bool = False
    mirrored: bool = False
    display: bool = True
