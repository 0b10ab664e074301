"""Whether a scan's scores, taken together, are those of a scan like the model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.scoring_model import Calibrated
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.threshold_scales import ScoreCounts

__all__ = ["flagged_warning", "scan_counts", "shift_headline", "shift_record"]

# Where so large a part of a scan lies above the threshold for so small a share of normal tissue,
# it is no lesion: three scans with gliomas reached a quarter at most, a FLAIR scan without a skull,
# two T1 scans and a CT more than half.
_LEVEL, _PART = 0.05, 0.5
_NAMED = 0.01
# A few slices through a lesion are no scan.
_ENOUGH_SLICES = 5
_TOPICS_SAID = 2


def flagged_warning(
    model: Calibrated, share_above: Callable[[float], float], *, slices: int, whole: bool
) -> str:
    """Say that far more of a scan is flagged than calibration promises; "" where it is not.

    Parameters
    ----------
    model : NormativeModel
        What scored it.
    share_above : callable
        Gets a threshold in the model's unit and gives the share of the scored tissue above it.
    slices : int
        How many slices are scored; of fewer than five of a scan nothing is said.
    whole : bool
        Whether there are no more.
    """
    if not (whole or slices >= _ENOUGH_SLICES):
        return ""
    try:
        share = share_above(model.threshold_for_fpr(_LEVEL))
    except InputError:  # it is not calibrated, or not for this share
        return ""
    if share < _PART:
        return ""
    level = _LEVEL
    with suppress(InputError):
        share, level = share_above(model.threshold_for_fpr(_NAMED)), _NAMED
    where = "the whole scan" if whole else f"the {slices} slices scored"
    return (
        f"{share:.0%} of the tissue of {where} lies above the threshold that {level:.0%} of "
        "normal tissue exceeds: more likely the scan is outside the training domain than "
        "that so much is abnormal."
    )


def scan_counts(
    volume: Scan, body: Body, nll: npt.NDArray[np.float32], scored: npt.NDArray[np.bool_]
) -> ScoreCounts:
    """Count the scores (Z, Y, X) of the body in the slices (N,) that are scored."""
    counts = ScoreCounts(len(scored))
    planes = np.moveaxis(nll, volume.geometry.slice_axis, 0)
    for index in np.flatnonzero(scored):
        counts.put(int(index), planes[index][body.plane(int(index))])
    return counts


def shift_headline(likeness: DomainShift | None, flagged: str) -> str:
    """Sum up in one short sentence what `DomainShift.warning` and `flagged_warning` say in full.

    Parameters
    ----------
    likeness : DomainShift or None
        What was found before the scan was scored.
    flagged : str
        What `flagged_warning` said of its scores.

    Returns
    -------
    str
        "" where there is nothing to warn of.
    """
    if likeness is None or not likeness.reasons:
        return "More is flagged than is likely to be abnormal." if flagged else ""
    # Several reasons can be about the same.
    topics = list(dict.fromkeys([*likeness.topics, *(["share flagged"] if flagged else [])]))
    if not topics:
        return "Outside the training domain."
    # One more is shorter said than counted.
    most = len(topics) if len(topics) == _TOPICS_SAID + 1 else _TOPICS_SAID
    more = len(topics) - most
    said = ", ".join(topics[:most]) + (f" and {more} more" if more > 0 else "")
    return f"Outside the training domain: {said}."


def shift_record(likeness: DomainShift | None, flagged: str) -> Mapping[str, Any]:
    """JSON form of what was found before a scan was scored and after."""
    found = {} if likeness is None else likeness.to_dict()
    return {**found, "flagged": flagged or None}
