"""Results of scoring, per slice and per scan on the scan's own grid. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["Example", "ScanScores", "SliceScore"]


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
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    grid: npt.NDArray[np.float32] | None = field(repr=False)
    image_score: float
    parts: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict, repr=False)

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
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    visited: npt.NDArray[np.bool_] = field(repr=False)
    image_scores: npt.NDArray[np.float32] = field(repr=False)
    parts: dict[int, Mapping[str, npt.NDArray[np.float32]]] = field(
        default_factory=dict, repr=False
    )

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
        """(N,), slices with a score: visited, and not empty."""
        return np.asarray(self.visited & np.isfinite(self.image_scores))

    @property
    def left(self) -> list[int]:
        """Slices not visited yet."""
        return [int(index) for index in np.flatnonzero(~self.visited)]

    def put(self, index: int, score: SliceScore) -> None:
        """Fill in one slice, counted along ``geometry.slice_axis``."""
        self.geometry.to_slices(self.nll)[index] = score.nll
        self.image_scores[index] = score.image_score
        self.visited[index] = True
        if score.parts:
            self.parts[index] = score.parts

    def slice_score(self, index: int) -> SliceScore:
        """Scores of a visited slice, without its patch scores."""
        nll = np.asarray(self.geometry.to_slices(self.nll)[index])
        parts = self.parts.get(index, {})
        return SliceScore(nll, None, float(self.image_scores[index]), parts)

    def copy(self) -> ScanScores:
        """Return a read-only snapshot of the scores."""
        return ScanScores(
            self.nll.copy(),
            self.geometry,
            self.visited.copy(),
            self.image_scores.copy(),
            dict(self.parts),
        )
