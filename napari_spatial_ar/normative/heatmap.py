"""From patch scores to a heatmap and an image score."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.normative.scores import SliceScore

__all__ = ["Scoring", "mean_around"]


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
    smoothing_z : float
        Standard deviation in mm of the Gaussian by which patch scores are averaged over the slices
        of a volume, before ``smoothing``; 0 for none. See
        `napari_spatial_ar.normative.slice_smoothing`. Single slices are not changed.
    """

    smoothing: int = 1
    top_share: float = 0.0
    smoothing_z: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``smoothing_z`` only if slices are averaged."""
        values = asdict(self)
        if not self.smoothing_z:
            del values["smoothing_z"]
        return values

    def smooth(self, scores: Tensor) -> Tensor:
        """Mean-filter patch scores (B, Hp, Wp).

        The filter shrinks at the edges of the slice and of skipped air, which stays NaN.
        """
        return scores if self.smoothing == 1 else mean_around(scores[:, None], self.smoothing)[:, 0]

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
            smooth[:, None].nan_to_num(0.0), size=shape, mode="bilinear", align_corners=False
        )[:, 0]
        return heatmaps, self.image_scores(smooth)

    def image_scores(self, smooth: Tensor) -> Tensor:
        """Mean of the largest of smoothed patch scores, (B, Hp, Wp) to (B,)."""
        count = max(1, round(self.top_share * smooth[0].numel()))
        largest = smooth.flatten(1).nan_to_num(-torch.inf).topk(count).values
        # Of a slice with next to no body there may be fewer.
        there = largest.isfinite()
        return largest.where(there, 0).sum(dim=1) / there.sum(dim=1)


def mean_around(values: Tensor, side: int) -> Tensor:
    """Mean of the values in a square around each place, edges and NaN excluded.

    Parameters
    ----------
    values : (B, C, Hp, Wp) float
        NaN in all channels of a place where there is nothing.
    side : int
        Odd side of the square.

    Returns
    -------
    (B, C, Hp, Wp) float
        NaN where ``values`` are.
    """
    missing = values[:, :1].isnan()
    filled = values.masked_fill(missing, 0.0)

    def pooled(grid: Tensor) -> Tensor:
        return functional.avg_pool2d(grid, side, 1, side // 2, count_include_pad=False)

    share = pooled((~missing).to(values.dtype))
    return (pooled(filled) / share).masked_fill(missing, torch.nan)
