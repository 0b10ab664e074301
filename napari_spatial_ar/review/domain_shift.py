"""Whether a scan's scores as a whole are plausible for the model's training domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import slice_range
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import Calibrated
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.threshold_scales import ScoreCounts

__all__ = ["flagged_warning", "scan_counts", "shift_headline", "shift_record", "unseen_note"]

# If such a large part of a scan is above the threshold for such a small share of normal tissue, it
# is no lesion: three scans with gliomas reached at most a quarter; a FLAIR scan without a skull,
# two T1 scans and a CT more than half.
_LEVEL, _PART = 0.05, 0.5
_NAMED = 0.01
# A few slices through a lesion are not representative of the scan.
_ENOUGH_SLICES = 5
_TOPICS_SAID = 2


def flagged_warning(
    model: Calibrated, share_above: Callable[[float], float], *, slices: int, whole: bool
) -> str:
    """Warn if far more of a scan is flagged than calibration promises; "" if not.

    Parameters
    ----------
    model : NormativeModel
        The model that scored it.
    share_above : callable
        Maps a threshold in the model's unit to the share of the scored tissue above it.
    slices : int
        Number of slices scored; with fewer than five of a scan there is no warning.
    whole : bool
        Whether these are all slices.
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
        f"{share:.0%} of the tissue of {where} is above the threshold that {level:.0%} of normal "
        "tissue exceeds: the scan is more likely outside the training domain than abnormal to "
        "that extent."
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


def shift_headline(shift: DomainShift | None, flagged: str) -> str:
    """Summarise `DomainShift.warning` and `flagged_warning` in one short sentence.

    Parameters
    ----------
    shift : DomainShift or None
        Result of the check before the scan was scored.
    flagged : str
        Result of `flagged_warning`.

    Returns
    -------
    str
        "" if there is nothing to warn about.
    """
    if shift is None or not shift.reasons:
        return "More is flagged than is likely to be abnormal." if flagged else ""
    # Several reasons can have the same topic.
    topics = list(dict.fromkeys([*shift.topics, *(["share flagged"] if flagged else [])]))
    if not topics:
        return "Outside the training domain."
    # Naming one more is shorter than counting it.
    most = len(topics) if len(topics) == _TOPICS_SAID + 1 else _TOPICS_SAID
    more = len(topics) - most
    listed = ", ".join(topics[:most]) + (f" and {more} more" if more > 0 else "")
    return f"Outside the training domain: {listed}."


def unseen_note(score: ScanScores) -> str:
    """One sentence on the slices that the model has not seen; "" if there are none."""
    unseen = score.unseen
    if not unseen.any():
        return ""
    known = (score.scored & ~unseen).nonzero()[0].tolist()
    if not known:
        scored = int(np.count_nonzero(unseen))
        which = (
            f"None of the {scored} slices scored is" if scored > 1 else "The slice scored is not"
        )
        text = f"{which} like those the model was trained on"
        return (
            f"{text}, so findings in this scan mean little."
            if score.unseen_counted
            else f"{text}, so nothing in this scan is flagged."
        )
    text = f"The model knows {_listed(known, unseen)} of this scan"
    return f"{text}; the others count too." if score.unseen_counted else f"{text}."


def _listed(known: Sequence[int], unseen: npt.NDArray[np.bool_]) -> str:
    """Ranges of known slices that no unseen slice divides, such as "slices 9 to 34"."""
    runs: list[list[int]] = []
    for index in known:
        if runs and not unseen[runs[-1][1] : index].any():
            runs[-1][1] = index
        else:
            runs.append([index, index])
    parts = [slice_range(first, last) for first, last in runs]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{'slice' if len(known) == 1 else 'slices'} {text}"


def shift_record(shift: DomainShift | None, flagged: str) -> Mapping[str, Any]:
    """JSON form of the checks before and after a scan was scored."""
    found = {} if shift is None else shift.to_dict()
    return {**found, "flagged": flagged or None}
