"""A reader's edits of a computed mask, stored apart from it: the brush, and refined outlines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["Refined", "Strokes"]

Voxels = npt.NDArray[np.int64]


def _none() -> Voxels:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Refined:
    """What the refined outline of a region changes in a mask.

    Parameters
    ----------
    kept, added, removed : (n,) int64
        Flat indices of the scan's (Z, Y, X) grid, rising: voxels of the region that are inside the
        refined outline, others inside it, and voxels of the region outside of it.
    """

    kept: Voxels = field(repr=False)
    added: Voxels = field(repr=False)
    removed: Voxels = field(repr=False)

    @property
    def inside(self) -> Voxels:
        """Flat indices of the refined region, rising."""
        return np.union1d(self.kept, self.added)

    def _turned(self, entered: Voxels, left: Voxels) -> bool:
        """Whether all that this changes in a mask entered and left it."""
        return bool(len(self.added) + len(self.removed)) and bool(
            np.isin(self.added, entered).all() and np.isin(self.removed, left).all()
        )


@dataclass(frozen=True)
class Strokes:
    """An overlay that is applied to every newly computed mask.

    Parameters
    ----------
    painted, erased : (n,) int64
        Voxels as flat indices of the scan's (Z, Y, X) grid, rising; none is in both.
    refined : tuple of Refined
        Refined outlines; what was painted and erased counts more.
    undone : tuple of Refined
        Refined outlines that were undone, and come back with a redo.
    """

    painted: Voxels = field(default_factory=_none)
    erased: Voxels = field(default_factory=_none)
    refined: tuple[Refined, ...] = ()
    undone: tuple[Refined, ...] = ()

    def __bool__(self) -> bool:
        return bool(len(self.painted) or len(self.erased) or self.refined)

    @cached_property
    def inside(self) -> Voxels:
        """Flat indices of voxels that are in the mask whatever their score, rising."""
        inside, _ = self._of_outlines
        return np.union1d(np.setdiff1d(inside, self.erased), self.painted)

    @cached_property
    def outside(self) -> Voxels:
        """Flat indices of voxels that are not in the mask whatever their score, rising."""
        _, outside = self._of_outlines
        return np.union1d(np.setdiff1d(outside, self.painted), self.erased)

    @cached_property
    def _of_outlines(self) -> tuple[Voxels, Voxels]:
        inside, outside = _none(), _none()
        for one in self.refined:  # of two that overlap, the later counts
            inside = np.union1d(np.setdiff1d(inside, one.removed), one.inside)
            outside = np.union1d(np.setdiff1d(outside, one.inside), one.removed)
        return inside, outside

    def apply(self, mask: npt.NDArray[np.bool_ | np.uint8]) -> npt.NDArray[np.uint8]:
        """Mask (Z, Y, X) with the strokes in it; a copy."""
        out = np.array(mask != 0, dtype=np.uint8, order="C")
        out.flat[self.inside] = 1
        out.flat[self.outside] = 0
        return out

    def with_refined(self, found: Sequence[Refined]) -> Strokes:
        """Strokes with further refined outlines."""
        return replace(self, refined=(*self.refined, *found))

    def without_refined(self, region: Voxels) -> Strokes:
        """Strokes without the refined outlines that share voxels with a region."""
        gone = {id(one) for one in self.refined if np.isin(one.inside, region).any()}
        return self._undo(gone)

    def _undo(self, gone: Collection[int]) -> Strokes:
        """Strokes without the refined outlines of these ids."""
        if not gone:
            return self
        kept = tuple(one for one in self.refined if id(one) not in gone)
        undone = tuple(one for one in self.refined if id(one) in gone)
        return replace(self, refined=kept, undone=(*self.undone, *undone))

    def _with_undo(self, entered: Voxels, left: Voxels) -> tuple[Strokes, Voxels]:
        """Undo or redo the refined outlines that account for a change, and what these changed."""
        gone = [one for one in self.refined if one._turned(left, entered)]
        back = [one for one in self.undone if one._turned(entered, left)]
        strokes = self._undo({id(one) for one in gone})
        if back:
            away = tuple(one for one in strokes.undone if all(one is not it for it in back))
            strokes = replace(strokes, refined=(*strokes.refined, *back), undone=away)
        done = [part for one in (*gone, *back) for part in (one.added, one.removed)]
        return strokes, np.unique(np.concatenate([_none(), *done]))

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
            Whether each would be by its score alone, or by a refined outline.
        undone : bool
            The change was an undo (or redo) rather than a stroke: where it reverts a stroke, the
            voxel follows the score again, whatever the threshold is by now.

        Returns
        -------
        Strokes
            A stroke is retained even if the mask agrees with it at this threshold.
        """
        if undone:
            strokes, done = self._with_undo(changed[inside], changed[~inside])
            if strokes is not self:
                rest = ~np.isin(changed, done)
                return strokes.with_stroke(changed[rest], inside[rest], computed[rest], undone=True)
        painted, erased = inside, ~inside
        if undone:
            earlier = np.isin(changed, np.union1d(self.painted, self.erased), assume_unique=True)
            painted, erased = inside & ~(earlier & computed), erased & ~earlier
        return replace(
            self,
            painted=np.union1d(np.setdiff1d(self.painted, changed), changed[painted]),
            erased=np.union1d(np.setdiff1d(self.erased, changed), changed[erased]),
        )

    @property
    def sentence(self) -> str:
        """How much was painted, erased and refined; "" if nothing was."""
        parts = []
        if len(self.painted) or len(self.erased):
            parts = [f"By hand: {len(self.painted)} voxels painted, {len(self.erased)} erased."]
        if self.refined:
            parts.append(f"Outlines refined: {len(self.refined)}.")
        return " ".join(parts)
