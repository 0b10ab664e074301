"""What scoring gives, per slice and per scan on the scan's own grid. No torch."""

from __future__ import annotations

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
        Heatmap at the slice's own size, in the model's unit. Only where the method is Spatial AR
        is it a negative log-likelihood; `scores` is the same array for any method.
    grid : (Hp, Wp) float32 or None
        Patch scores as the method gives them, unsmoothed: of Spatial AR, A_ij in nats. NaN where
        a patch of air is skipped (``nll`` is 0 there); None if they were not stored.
    image_score : float
        One number for the slice, in the unit of ``nll``; NaN for a slice with nothing in it,
        which is not scored.
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    grid: npt.NDArray[np.float32] | None = field(repr=False)
    image_score: float

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """``nll`` by the name that is true for every method."""
        return self.nll

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> SliceScore:
        """Of a slice of (rows, columns) pixels that shows no body."""
        nothing = np.zeros(shape, np.float32)
        return cls(nll=nothing, grid=nothing[:1, :1], image_score=float("nan"))


@dataclass(frozen=True)
class Example:
    """A slice with its heatmap, for a picture. Nothing says whose it is.

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
    """How unusual each voxel of a scan is, as far as its slices are scored.

    Parameters
    ----------
    nll : (Z, Y, X) float32
        On the scan's source grid, in the model's unit, 0 where not scored; see `SliceScore`.
    geometry : Geometry
        The scan's, with the slices that the model sees.
    visited : (N,) bool
        Slices that the model has seen.
    image_scores : (N,) float32
        One number a slice; NaN where not seen, or where there was nothing to see.
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    visited: npt.NDArray[np.bool_] = field(repr=False)
    image_scores: npt.NDArray[np.float32] = field(repr=False)

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
        """``nll`` by the name that is true for every method."""
        return self.nll

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(N,), slices with a score: seen, and not empty."""
        return np.asarray(self.visited & np.isfinite(self.image_scores))

    @property
    def left(self) -> list[int]:
        """Slices that the model has not seen."""
        return [int(index) for index in np.flatnonzero(~self.visited)]

    def put(self, index: int, score: SliceScore) -> None:
        """Fill in one slice, counted along ``geometry.slice_axis``."""
        self.geometry.to_slices(self.nll)[index] = score.nll
        self.image_scores[index] = score.image_score
        self.visited[index] = True

    def slice_score(self, index: int) -> SliceScore:
        """Score of a slice that was seen, without its patch scores."""
        nll = np.asarray(self.geometry.to_slices(self.nll)[index])
        return SliceScore(nll, None, float(self.image_scores[index]))

    def copy(self) -> ScanScores:
        """Scores as they stand, of which nothing changes any more."""
        return ScanScores(
            self.nll.copy(), self.geometry, self.visited.copy(), self.image_scores.copy()
        )
