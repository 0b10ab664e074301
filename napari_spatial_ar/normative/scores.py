"""What scoring gives: per slice, and per volume on the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["Example", "Scoring", "SliceScore", "VolumeScore"]


@dataclass(frozen=True)
class SliceScore:
    """How unusual one slice is.

    Parameters
    ----------
    nll : (Y, X) float32
        Heatmap at the slice's own size, in the model's unit. Only where the method is Spatial AR
        is it a negative log-likelihood; `scores` is the same array for any method.
    grid : (Hp, Wp) float32
        Patch scores as the method gives them, unsmoothed: of Spatial AR, A_ij in nats.
    image_score : float
        One number for the slice, in the unit of ``nll``; NaN for a slice with nothing in it,
        which is not scored.
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    grid: npt.NDArray[np.float32] = field(repr=False)
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


@dataclass
class VolumeScore:
    """How unusual each voxel of a volume is.

    Parameters
    ----------
    nll : (Z, Y, X) float32
        On the volume's source grid, in the model's unit, 0 where not scored; see `SliceScore`.
    geometry : Geometry
        The volume's.
    scored : (N,) bool
        Which acquired slices have been scored.
    image_scores : (N,) float32
        One number a slice; NaN where not scored.
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    scored: npt.NDArray[np.bool_] = field(repr=False)
    image_scores: npt.NDArray[np.float32] = field(repr=False)

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """``nll`` by the name that is true for every method."""
        return self.nll

    @classmethod
    def empty(cls, geometry: Geometry) -> VolumeScore:
        """Nothing scored yet."""
        slices = geometry.shape[geometry.slice_axis]
        return cls(
            nll=np.zeros(geometry.shape, np.float32),
            geometry=geometry,
            scored=np.zeros(slices, bool),
            image_scores=np.full(slices, np.nan, np.float32),
        )

    def put(self, index: int, score: SliceScore) -> None:
        """Fill in one slice, counted along ``geometry.slice_axis``."""
        self.geometry.to_slices(self.nll)[index] = score.nll
        self.image_scores[index] = score.image_score
        self.scored[index] = not np.isnan(score.image_score)


@dataclass(frozen=True)
class Scoring:
    """From patch scores to a heatmap and an image score; saved in the model file.

    Parameters
    ----------
    smoothing : int
        Odd side of the mean filter over patch scores; 1 for none.
    top_share : float
        The image score is the mean of this share of the largest smoothed patch scores; 0 for
        the largest alone.
    """

    smoothing: int = 1
    top_share: float = 0.0

    def smooth(self, scores: Tensor) -> Tensor:
        """Mean-filter patch scores (B, Hp, Wp); the filter shrinks at the edges."""
        if self.smoothing == 1:
            return scores
        return functional.avg_pool2d(
            scores[:, None],
            self.smoothing,
            stride=1,
            padding=self.smoothing // 2,
            count_include_pad=False,
        )[:, 0]

    def __call__(self, scores: Tensor, shape: tuple[int, int], divisor: float) -> SliceScore:
        """Heatmap and image score of one slice.

        Parameters
        ----------
        scores : (Hp, Wp) float
            Patch scores of a detector.
        shape : (int, int)
            Rows and columns of the slice.
        divisor : float
            `Detector.heatmap_divisor`.
        """
        heatmaps, image_scores = self.maps(scores[None], shape, divisor)
        return SliceScore(
            nll=heatmaps[0].cpu().numpy(),
            grid=scores.float().cpu().numpy(),
            image_score=image_scores.item(),
        )

    def maps(self, scores: Tensor, shape: tuple[int, int], divisor: float) -> tuple[Tensor, Tensor]:
        """Heatmaps and image scores of slices, where the scores are.

        Parameters
        ----------
        scores : (B, Hp, Wp) float
            Patch scores of a detector.
        shape, divisor
            As for one slice.

        Returns
        -------
        (B, rows, columns) float32, (B,) float32
        """
        smooth = self.smooth(scores.float()) / divisor
        heatmaps = functional.interpolate(
            smooth[:, None], size=shape, mode="bilinear", align_corners=False
        )[:, 0]
        count = max(1, round(self.top_share * smooth[0].numel()))
        return heatmaps, torch.topk(smooth.flatten(1), count).values.mean(dim=1)
