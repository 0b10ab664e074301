"""Manual edits of a computed mask (painted and erased voxels), stored apart from the mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Strokes"]


@dataclass(frozen=True)
class Strokes:
    """An overlay that is applied to every newly computed mask.

    Parameters
    ----------
    painted, erased : (n,) int64
        Voxels as flat indices of the scan's (Z, Y, X) grid, rising; none is in both.
    """

    painted: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    erased: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __bool__(self) -> bool:
        return bool(len(self.painted) or len(self.erased))

    def apply(self, mask: npt.NDArray[np.bool_ | np.uint8]) -> npt.NDArray[np.uint8]:
        """Mask (Z, Y, X) with the strokes in it; a copy."""
        out = np.array(mask != 0, dtype=np.uint8, order="C")
        out.flat[self.painted] = 1
        out.flat[self.erased] = 0
        return out

    def with_stroke(
        self,
        changed: npt.NDArray[np.int64],
        inside: npt.NDArray[np.bool_],
        computed: npt.NDArray[np.bool_],
        *,
        undone: bool = False,
    ) -> Strokes:
        """Strokes after some voxels changed by hand.

        Parameters
        ----------
        changed : (n,) int64
            Flat indices of voxels that entered or left the mask, rising.
        inside : (n,) bool
            Whether each is in the mask now.
        computed : (n,) bool
            Whether each would be by its score alone.
        undone : bool
            The change was an undo (or redo) rather than a stroke: where it reverts a stroke, the
            voxel follows the score again, whatever the threshold is by now.

        Returns
        -------
        Strokes
            A stroke is retained even if the mask agrees with it at this threshold.
        """
        painted, erased = inside, ~inside
        if undone:
            earlier = np.isin(changed, np.union1d(self.painted, self.erased), assume_unique=True)
            painted, erased = inside & ~(earlier & computed), erased & ~earlier
        return Strokes(
            np.union1d(np.setdiff1d(self.painted, changed), changed[painted]),
            np.union1d(np.setdiff1d(self.erased, changed), changed[erased]),
        )

    @property
    def sentence(self) -> str:
        """How much was painted and erased; "" if nothing was."""
        if not self:
            return ""
        return f"By hand: {len(self.painted)} voxels painted, {len(self.erased)} erased."
