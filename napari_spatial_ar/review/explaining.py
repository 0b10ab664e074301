"""Why a patch scores as it does: in words, and beside similar normal patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.scoring_model import Calibrated
from napari_spatial_ar.review.drawing import BACKGROUND, PanelSize, grey_picture, to_image
from napari_spatial_ar.review.p_values import normal_rank

if TYPE_CHECKING:  # its package imports torch
    from napari_spatial_ar.normative.detectors.explanation import Explanation

__all__ = ["patch_row", "quantity_lines", "score_sentence", "share_sentence"]

_BOX = (255, 205, 40)
_GAP = 4


class PictureLike(Protocol):
    """The parts of `PatchPicture` used here."""

    @property
    def image(self) -> npt.NDArray[np.float32]:
        """(rows, columns), in [0, 1]."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First row and column of the patch, and the row and column after its last."""


def score_sentence(score: float, unit: str) -> str:
    """State the score of the heatmap at a point."""
    return f"Score here: {score:.3g} {unit}"


def share_sentence(model: Calibrated, score: float) -> str:
    """State how much of normal tissue scores as high, according to the calibration.

    Parameters
    ----------
    model : NormativeModel
        Has the calibration.
    score : float
        Value of the heatmap.
    """
    try:
        share = float(model.fpr_for_threshold(score))
    except InputError:
        return "How much of normal tissue scores as high is unknown: the model is not calibrated."
    try:
        end = float(model.threshold_for_fpr(share))
    except InputError:
        end = score
    # The share is clamped to the calibrated range.
    slack = 1e-3 * max(1.0, abs(score))
    held = (
        "less than " if score > end + slack else "more than " if score < end - slack else "about "
    )
    sentence = f"Of normal tissue, {held}{100 * share:.2g} % scores as high."
    patients = normal_rank(model, score)
    # Beyond the lowest calibrated share only patients can be counted.
    if held == "less than " and patients.patients and patients.exact:
        return f"{sentence} {patients.sentence}"
    return sentence


def quantity_lines(explanation: Explanation) -> list[str]:
    """Lines with the numbers of an explanation, each with its unit."""
    return [f"{one.name}: {one.value:.3g} {one.unit}".rstrip() for one in explanation.quantities]


def patch_row(pictures: Sequence[PictureLike], side: int) -> Image.Image:
    """Images of patches side by side, each patch in a box; RGB.

    Parameters
    ----------
    pictures : sequence of PatchPicture
        The patch itself, then similar ones.
    side : int
        Height and width of each in pixels.
    """
    width = len(pictures) * (side + _GAP) - _GAP
    page = Image.new("RGB", (max(1, width), side), BACKGROUND)
    for number, picture in enumerate(pictures):
        rows, columns = picture.image.shape
        panel = to_image(grey_picture(picture.image, PanelSize(side, side)))
        top, left, bottom, right = picture.box
        ends = (left * side / columns, top * side / rows)
        others = (right * side / columns - 1, bottom * side / rows - 1)
        ImageDraw.Draw(panel).rectangle((ends, others), outline=_BOX)
        page.paste(panel, (number * (side + _GAP), 0))
    return page
