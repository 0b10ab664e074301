"""Selection of slices for training: their plane, position in the stack, and body in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.acquisition import Plane

if TYPE_CHECKING:
    from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["AS_ACQUIRED", "Selection", "SlicePlane", "place_in_stack", "read_range"]

SlicePlane = Literal["as-acquired", "axial", "coronal", "sagittal"]
AS_ACQUIRED: SlicePlane = "as-acquired"


@dataclass(frozen=True)
class Selection:
    """Which slices of the scans are used.

    Parameters
    ----------
    plane : {"as-acquired", "axial", "coronal", "sagittal"}
        Plane of the slices. Images have no plane: with one of the last three, they are excluded.
    slice_range : (float, float)
        Part of each volume's stack, both ends included, see `place_in_stack`; also as text:
        ``"0.2:0.8"``. Images are not in a stack and are always used.
    min_body : float
        Slices are excluded if body covers a smaller share of them.

    Raises
    ------
    InputError
        If one of them is out of range.
    """

    plane: SlicePlane = AS_ACQUIRED
    slice_range: tuple[float, float] = (0.0, 1.0)
    min_body: float = 0.10

    def __post_init__(self) -> None:
        if self.plane not in get_args(SlicePlane):
            raise InputError(
                f"there is no plane '{self.plane}'",
                fix=f"Choose from {', '.join(get_args(SlicePlane))}",
            )
        object.__setattr__(self, "slice_range", read_range(self.slice_range))
        if not 0 <= self.min_body < 1:
            raise InputError(f"min_body must be a share from 0 to less than 1, not {self.min_body}")

    @property
    def cut(self) -> Plane | None:
        """Plane along which volumes are sliced; None for the acquired plane of each."""
        return None if self.plane == AS_ACQUIRED else cast(Plane, self.plane)

    def holds(self, place: float | None) -> bool:
        """Whether the range contains a position in the stack; None is that of an image."""
        low, high = self.slice_range
        return place is None or low <= place <= high

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "slice_range": list(self.slice_range)}


def place_in_stack(geometry: Geometry, index: int) -> float:
    """Position of the middle of slice ``index`` between the two ends of its stack, 0 and 1.

    It is measured in the patient, whatever the order in the file: from inferior to superior in
    axial slices, from anterior to posterior in coronal ones, from right to left in sagittal ones.
    """
    return (geometry.slice_position(index) + 0.5) / geometry.slice_count


def read_range(text: str | Sequence[float]) -> tuple[float, float]:
    """Read the ends of a part of the stack, from ``"0.2:0.8"`` or (0.2, 0.8).

    Raises
    ------
    InputError
        If they are not two shares, the first below the second.
    """
    parts = re.split(":", text) if isinstance(text, str) else text
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not 0 <= low < high <= 1:
        given = text if isinstance(text, str) else ":".join(map(str, _listed(text)))
        raise InputError(
            f"'{given}' is not a part of a stack of slices",
            fix="Write two shares from 0 to 1, such as 0.2:0.8",
        )
    return low, high


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) else [value]
