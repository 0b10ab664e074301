"""How unusual a scan and its slices are among the normal scans a model was calibrated on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.selection import Selection, place_in_stack
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.review.body import Body

__all__ = ["PValues", "p_note", "p_values", "share_note"]


class ScoresLike(Protocol):
    """What is needed of a `VolumeScore` here."""

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(N,), which acquired slices are scored."""

    @property
    def image_scores(self) -> npt.NDArray[np.float32]:
        """(N,), one score a slice, NaN where not scored."""


@dataclass(frozen=True)
class PValues:
    """Conformal p-values, see `Calibration`.

    Parameters
    ----------
    scan : float or None
        Of the scan as a whole; None where slices with enough body in them are not scored.
    slices : tuple of float or None
        One a slice; None where it is not scored, shows too little body or lies outside the part
        of the stack that the model is for, as such slices were not calibrated on. Each speaks of
        this slice alone: of many normal slices some are low.
    patients : int
        Normal patients that they rest on.
    smallest : float
        The smallest that there can be, 1 / (patients + 1).
    """

    scan: float | None
    slices: tuple[float | None, ...] = field(repr=False)
    patients: int
    smallest: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "slices": list(self.slices)}


def p_values(
    model: Any, volume: Volume, score: ScoresLike, body: Body | None = None
) -> PValues | None:
    """P-values of a scored scan.

    Parameters
    ----------
    model : NormativeModel
        What scored it.
    volume, score : Volume, VolumeScore
        The scan and its scores.
    body : Body, optional
        Where the body is, if somebody has looked already.

    Returns
    -------
    PValues or None
        None where the model was calibrated without them.
    """
    calibration = getattr(getattr(model, "header", None), "calibration", None)
    if not isinstance(calibration, Calibration) or calibration.smallest_p is None:
        return None
    body = body or Body(volume, model)
    selection: Selection = model.header.selection

    def counts(index: int) -> bool:
        if not selection.holds(place_in_stack(volume.geometry, index)):
            return False
        return bool(body.plane(index).mean() >= selection.min_body)

    number = len(score.scored)
    used = [i for i in range(number) if score.scored[i] and counts(i)]
    whole = bool(used) and not any(not score.scored[i] and counts(i) for i in range(number))
    slices: list[float | None] = [None] * number
    for index in used:
        slices[index] = calibration.slice_p(float(score.image_scores[index]))
    return PValues(
        scan=calibration.scan_p(score.image_scores[used]) if whole else None,
        slices=tuple(slices),
        patients=calibration.patients,
        smallest=calibration.smallest_p,
    )


def p_note(found: PValues | None) -> str:
    """One sentence on how rare a whole scan is; nothing where it has no p-value."""
    if found is None or found.scan is None:
        return ""
    reached = round(found.scan * (found.patients + 1)) - 1
    whom = "the 1 normal patient" if found.patients == 1 else f"{found.patients} normal patients"
    if reached:
        said = f"as high in {reached} of {whom}"
    else:
        said = f"higher than in {'any of ' if found.patients > 1 else ''}{whom}"
    return (
        f"Whole scan (95th percentile of its slices): scores {said} (p = {found.scan:.2g}; none "
        f"can be below {found.smallest:.2g})."
    )


def share_note(calibration: Calibration, threshold: float) -> str:
    """One sentence on the share of normal tissue above a threshold, and what it rests on."""
    share, patients = calibration.fpr_for_threshold(threshold), calibration.patients
    low, high = calibration.thresholds[0], calibration.thresholds[-1]
    beyond = "less than " if threshold > high else "more than " if threshold < low else ""
    whom = "1 normal patient" if patients == 1 else f"{patients} normal patients"
    text = f"The threshold flags {beyond}{share:.2%} of the tissue of {whom}"
    shares, bound = calibration.fpr_of_patients(threshold), calibration.fpr_bound(threshold)
    if bound is None:
        return f"{text}."
    return (
        f"{text} ({min(shares):.2%} to {max(shares):.2%} from one to another); so few promise at "
        f"most {bound:.2%} on average for the next one."
    )
