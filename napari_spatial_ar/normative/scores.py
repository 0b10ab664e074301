"""Results of scoring, per slice and per scan on the scan's own grid. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["Example", "ScanScores", "SliceScore"]

# How many times the limit a slice between known ones must be from the training slices.
_FAR = 2.0


@dataclass(frozen=True)
class SliceScore:
    """How unusual one slice is.

    Parameters
    ----------
    nll : (Y, X) float32
        Heatmap at the slice's own size, in the model's unit. It is a negative log-likelihood only
        if the method is Spatial AR; `scores` is the same array for any method.
    grid : (Hp, Wp) float32 or None
        Patch scores of the method, not smoothed within the slice; for Spatial AR, A_ij in nats.
        NaN where a patch of air is skipped (``nll`` is 0 there); None if they were not stored.
    image_score : float
        One number for the slice, in the unit of ``nll``; NaN for a slice without body, which is
        not scored.
    parts : mapping of str to (Hp, Wp) float32
        As ``grid``, of each part of the method alone (`Detector.parts`), if it has any.
    unfamiliarity : float
        How far the slice as a whole is from those the model was trained on, as a multiple of the
        limit: above 1 it may be a part of the body, or an artefact, that the model has not seen.
        NaN if the model file has nothing to compare with.
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    grid: npt.NDArray[np.float32] | None = field(repr=False)
    image_score: float
    parts: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict, repr=False)
    unfamiliarity: float = float("nan")

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """``nll`` under the name that is correct for every method."""
        return self.nll

    @property
    def without_body(self) -> bool:
        """Whether the slice has no body, see `empty`."""
        return math.isnan(self.image_score)

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> SliceScore:
        """Scores of a slice of (rows, columns) pixels without body."""
        nothing = np.zeros(shape, np.float32)
        return cls(nll=nothing, grid=nothing[:1, :1], image_score=float("nan"))


@dataclass(frozen=True)
class Example:
    """A slice with its heatmap, for a figure, without anything that identifies the patient.

    Parameters
    ----------
    image : (rows, columns) float32
        Windowed, in [0, 1].
    nll : (rows, columns) float32
        As in `SliceScore`.
    image_score : float
        As in `SliceScore`.
    """

    image: npt.NDArray[np.float32] = field(repr=False)
    nll: npt.NDArray[np.float32] = field(repr=False)
    image_score: float


@dataclass(eq=False)
class ScanScores:
    """How unusual each voxel of a scan is, for the slices scored so far.

    Slices that the model has not seen (`unseen`) are left out unless they are asked for: they count
    as slices without a score, so that no mask, finding, p-value or score of the scan comes from
    them. Their scores are set aside, and can be had with `count_unseen`.

    Parameters
    ----------
    nll : (Z, Y, X) float32
        On the scan's source grid, in the model's unit, 0 where not scored; see `SliceScore`.
    geometry : Geometry
        The scan's, with the slices that the model scores.
    visited : (N,) bool
        Slices that were scored or found empty.
    image_scores : (N,) float32
        One number per slice; NaN if it was not visited, or is empty.
    parts : dict of int to mapping
        `SliceScore.parts` of each slice that has them.
    unfamiliarity : (N,) float32
        `SliceScore.unfamiliarity`; NaN for slices that were not visited, or are empty.
    unseen_counted : bool
        Whether unseen slices count like all others.
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    visited: npt.NDArray[np.bool_] = field(repr=False)
    image_scores: npt.NDArray[np.float32] = field(repr=False)
    parts: dict[int, Mapping[str, npt.NDArray[np.float32]]] = field(
        default_factory=dict, repr=False
    )
    unfamiliarity: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32), repr=False
    )
    unseen_counted: bool = False
    #: Heatmaps and image scores of slices that are left out.
    _aside: dict[int, tuple[npt.NDArray[np.float32], float]] = field(
        default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        if not len(self.unfamiliarity):
            self.unfamiliarity = np.full(len(self.visited), np.nan, np.float32)
        self._set_aside()

    @classmethod
    def empty(cls, geometry: Geometry) -> ScanScores:
        """Nothing scored yet."""
        count = geometry.slice_count
        return cls(
            nll=np.zeros(geometry.shape, np.float32),
            geometry=geometry,
            visited=np.zeros(count, bool),
            image_scores=np.full(count, np.nan, np.float32),
        )

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """``nll`` under the name that is correct for every method."""
        return self.nll

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(N,), slices with a score that counts: visited, not empty and not left out."""
        return np.asarray(self.visited & np.isfinite(self.image_scores))

    @property
    def unseen(self) -> npt.NDArray[np.bool_]:
        """(N,), slices unlike those the model was trained on, whether they count or not.

        Between slices that the model knows, a lesion is a likelier reason for a difference than
        another part of the body, so that only a slice twice as far is unseen there.
        """
        with np.errstate(invalid="ignore"):
            known, strange = self.unfamiliarity <= 1, self.unfamiliarity > 1
            between = np.logical_or.accumulate(known)
            between &= np.logical_or.accumulate(known[::-1])[::-1]
            return np.asarray(strange & (~between | (self.unfamiliarity > _FAR)))

    @property
    def left_out(self) -> npt.NDArray[np.bool_]:
        """(N,), unseen slices that do not count."""
        return np.asarray(self.unseen & (not self.unseen_counted))

    @property
    def left(self) -> list[int]:
        """Slices not visited yet."""
        return [int(index) for index in np.flatnonzero(~self.visited)]

    def put(self, index: int, score: SliceScore) -> list[int]:
        """Fill in one slice, counted along ``geometry.slice_axis``.

        Returns
        -------
        list of int
            Other slices that are left out from now on, or count again.
        """
        self._aside.pop(index, None)
        self.geometry.to_slices(self.nll)[index] = score.nll
        self.image_scores[index] = score.image_score
        self.unfamiliarity[index] = score.unfamiliarity
        self.visited[index] = True
        if score.parts:
            self.parts[index] = score.parts
        return [other for other in self._set_aside() if other != index]

    def count_unseen(self, counted: bool) -> list[int]:
        """Count unseen slices like all others, or leave them out; returns those that changed."""
        self.unseen_counted = counted
        return self._set_aside()

    def counting_unseen(self, counted: bool) -> ScanScores:
        """Return scores with unseen slices counted or left out; a copy if that differs."""
        if counted == self.unseen_counted or not self.unseen.any():
            return self
        other = self.copy()
        other.count_unseen(counted)
        return other

    def _set_aside(self) -> list[int]:
        """Set the scores of slices that are left out aside, and others back."""
        left_out, planes = self.left_out, self.geometry.to_slices(self.nll)
        changed = [int(i) for i in np.flatnonzero(left_out) if int(i) not in self._aside]
        for index in changed:
            self._aside[index] = planes[index].copy(), float(self.image_scores[index])
            planes[index] = 0.0
            self.image_scores[index] = np.nan
        back = [index for index in self._aside if not left_out[index]]
        for index in back:
            planes[index], self.image_scores[index] = self._aside.pop(index)
        return [*changed, *back]

    def slice_score(self, index: int) -> SliceScore:
        """Scores of a visited slice, without its patch scores."""
        nll, image_score = self._aside.get(
            index,
            (np.asarray(self.geometry.to_slices(self.nll)[index]), float(self.image_scores[index])),
        )
        parts = self.parts.get(index, {})
        return SliceScore(nll, None, image_score, parts, float(self.unfamiliarity[index]))

    def copy(self) -> ScanScores:
        """Return a read-only snapshot of the scores."""
        return ScanScores(
            self.nll.copy(),
            self.geometry,
            self.visited.copy(),
            self.image_scores.copy(),
            dict(self.parts),
            self.unfamiliarity.copy(),
            self.unseen_counted,
            dict(self._aside),
        )
