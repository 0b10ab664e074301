"""From patch scores to a heatmap and an image score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.normative.scores import SliceScore

__all__ = ["Scoring"]


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
