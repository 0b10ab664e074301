"""How rare findings, slices and whole scans are among the normal patients of the calibration.

Patients are counted, not tissue: only patients are exchangeable. Two properties of a finding are
compared with those of each patient: its highest voxel, and its largest part within a slice with
regions of that size (see `napari_spatial_ar.normative.calibration.calibration`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.selection import place_in_stack
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.calibration import Calibration, largest_part
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import Calibrated, ScoringModel
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.masks import MaskSettings

__all__ = [
    "Extent",
    "NormalRank",
    "PValues",
    "extent_of",
    "normal_rank",
    "p_note",
    "p_values",
    "regions_note",
    "share_note",
]


@dataclass(frozen=True)
class Extent:
    """Largest part of a finding within a slice.

    Parameters
    ----------
    pixels : int
        Its area.
    level : float
        Its lowest score; for a mask that is only thresholded, just above the threshold.
    """

    pixels: int
    level: float


def extent_of(planes: npt.NDArray[np.bool_], nll_planes: npt.NDArray[np.floating]) -> Extent:
    """Measure a region, and its scores, in slices (N, rows, columns) that it touches."""
    largest, level = 0, np.inf
    for inside, nll in zip(planes, nll_planes, strict=True):
        if np.count_nonzero(inside) <= largest:
            continue
        part = largest_part(inside)
        pixels = int(np.count_nonzero(part))
        if pixels > largest:
            largest, level = pixels, float(nll[part].min())
    return Extent(largest, level)


@dataclass(frozen=True)
class NormalRank:
    """How rare a finding is among the normal patients a model was calibrated on.

    Parameters
    ----------
    patients : int
        Number of calibration patients, n; 0 if the model does not record it.
    reaching : int
        How many of them score as high as the finding's highest voxel; an upper limit if ``exact``
        is False.
    exact : bool
        False for models that do not store each patient's highest score: these know only who
        reaches the highest calibrated threshold below the score.
    as_large : int or None
        How many of them have a region as large within a slice that scores as high throughout as
        the finding's largest part; None if that was not measured.
    reason : str
        Why the rank is unknown; "" if it is known.
    """

    patients: int = 0
    reaching: int = 0
    exact: bool = True
    as_large: int | None = None
    reason: str = ""

    @property
    def share(self) -> float | None:
        """Share of normal patients, (1 + reaching) / (1 + n): never finer than 1 / (n + 1)."""
        return (1 + self.reaching) / (1 + self.patients) if self.patients else None

    @property
    def one_in(self) -> int | None:
        """N of "1 in N normal patients", rounded towards the more common."""
        return (1 + self.patients) // (1 + self.reaching) if self.patients else None

    @property
    def count(self) -> str:
        """Shortest form, for a table: "0 of 12", "at most 4 of 12", "unknown"."""
        if not self.patients:
            return "unknown"
        return f"{'' if self._certain else 'at most '}{self.reaching} of {self.patients}"

    @property
    def _certain(self) -> bool:
        return self.exact or not self.reaching

    @property
    def sentence(self) -> str:
        """A sentence for the reader."""
        if not self.patients:
            return f"How rare this is among normal patients is unknown: {self.reason}."
        whom = f"{self.patients} normal patients" if self.patients > 1 else "the 1 normal patient"
        if not self._certain:
            return (
                f"Scores as high in at most {self.reaching} of {whom}: this model does not store "
                "how high they score (calibrate it again to know)."
            )
        if self.reaching:
            text = f"Scores as high in {self.reaching} of {whom}"
        else:
            text = f"Scores higher than in {'any of ' if self.patients > 1 else ''}{whom}"
        if self.as_large is None:
            return f"{text}."
        have = "has" if self.as_large < 2 else "have"
        return f"{text}; {self.as_large or 'none'} {have} a region as large at this threshold."


def normal_rank(
    model: Calibrated | None, peak: float, extent: Extent | None = None, body: int | None = None
) -> NormalRank:
    """Rank of a finding among normal patients.

    Parameters
    ----------
    model : ScoringModel, optional
        The model that scored it.
    peak : float
        The finding's highest score, in the model's unit.
    extent : Extent, optional
        The finding's largest part.
    body : int, optional
        Pixels of the body in the scored slice with the most of it. Since calibration uses each
        slice's own body, a region counts as smaller rather than larger here, and so as less rare.

    Returns
    -------
    NormalRank
        With ``reason`` if the model has no calibration by patient.
    """
    calibration = None if model is None else model.header.calibration
    if calibration is None:
        return NormalRank(reason="the model is not calibrated")
    peaks = calibration.peaks
    if peaks is not None:
        as_large = None
        if extent is not None and body:
            as_large = peaks.reaching(extent.level, extent.pixels / body)
        return NormalRank(len(peaks.scores), peaks.reaching(peak), as_large=as_large)
    shares = calibration.fpr_of_patients(peak)
    if not shares:
        return NormalRank(reason="the model was calibrated without distinguishing patients")
    return NormalRank(len(shares), sum(share > 0 for share in shares), exact=False)


@dataclass(frozen=True)
class PValues:
    """Conformal p-values, see `Calibration`.

    Parameters
    ----------
    scan : float or None
        P-value of the whole scan; None if slices with enough body are not scored.
    slices : tuple of float or None
        One per slice; None if it is not scored, has too little body, is outside the part of the
        stack that the model is for, or is unlike the training slices, since such slices were not
        used in calibration. Each is about
        this slice alone: among many normal slices some are low.
    patients : int
        Number of normal patients that they are based on.
    smallest : float
        The smallest possible p-value, 1 / (patients + 1).
    """

    scan: float | None
    slices: tuple[float | None, ...] = field(repr=False)
    patients: int
    smallest: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "slices": list(self.slices)}


def p_values(
    model: ScoringModel, volume: Scan, score: ScanScores, body: Body | None = None
) -> PValues | None:
    """P-values of a scored scan.

    Parameters
    ----------
    model : NormativeModel
        The model that scored it.
    volume, score : Scan, ScanScores
        The scan and its scores.
    body : Body, optional
        The body, if it was determined already.

    Returns
    -------
    PValues or None
        None if the model was calibrated without them.
    """
    calibration = model.header.calibration
    if calibration is None or calibration.smallest_p is None:
        return None
    body = body or Body(volume, model)
    selection, left_out = model.header.selection, score.left_out

    def counts(index: int) -> bool:
        if left_out[index] or not selection.holds(place_in_stack(volume.geometry, index)):
            return False
        return bool(body.plane(index).mean() >= selection.min_body)

    scored, number = score.scored, len(score.scored)
    used = [i for i in range(number) if scored[i] and counts(i)]
    whole = bool(used) and not any(not scored[i] and counts(i) for i in range(number))
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
    """One sentence on how rare a whole scan is; empty if it has no p-value."""
    if found is None or found.scan is None:
        return ""
    reached = round(found.scan * (found.patients + 1)) - 1
    whom = "the 1 normal patient" if found.patients == 1 else f"{found.patients} normal patients"
    if reached:
        compared = f"as high in {reached} of {whom}"
    else:
        compared = f"higher than in {'any of ' if found.patients > 1 else ''}{whom}"
    return (
        f"Whole scan (95th percentile of its slices): scores {compared} (p = {found.scan:.2g}; "
        f"none can be below {found.smallest:.2g})."
    )


def regions_note(
    calibration: Calibration, threshold: float, settings: MaskSettings | None = None
) -> str:
    """How many regions a threshold flags, such as "about 0.4 regions a normal scan".

    A minimum size in the calibration's own unit is taken into account; with other settings of the
    mask the note is about the threshold alone, and says so.

    Returns
    -------
    str
        Clause without a full stop; "" if it is unknown.
    """
    regions, chosen = calibration.regions, settings or MaskSettings()
    if regions is None:
        return ""
    in_mm3 = regions.unit == "mm3"
    rest = replace(chosen, min_size_mm3=0.0) if in_mm3 else replace(chosen, min_voxels=0)
    alone = rest != MaskSettings()
    size = 0.0 if alone else chosen.min_size_mm3 if in_mm3 else chosen.min_voxels
    count = regions.count(threshold, size)
    if count is None:
        return ""
    what, scans = f"normal {regions.per}", regions.scans
    if count:
        number = f"{count:.0f}" if count >= 9.5 else f"{count:.2g}"
        text = f"about {number} {'region' if number == '1' else 'regions'} a {what}"
    else:
        text = f"no region in {f'any of {scans} {what}s' if scans > 1 else f'the 1 {what}'}"
    return f"{text} (by the threshold alone)" if alone else text


def share_note(
    calibration: Calibration, threshold: float, settings: MaskSettings | None = None
) -> str:
    """One or two sentences on what a threshold flags in normal scans, and their basis.

    Parameters
    ----------
    calibration : Calibration
        The model's.
    threshold : float
        In the model's unit.
    settings : MaskSettings, optional
        How the voxels above the threshold become the mask; see `regions_note`.
    """
    regions = regions_note(calibration, threshold, settings)
    more = f" It flags {regions}." if regions else ""
    share, patients = calibration.fpr_for_threshold(threshold), calibration.patients
    low, high = calibration.thresholds[0], calibration.thresholds[-1]
    beyond = "less than " if threshold > high else "more than " if threshold < low else ""
    whom = "1 normal patient" if patients == 1 else f"{patients} normal patients"
    text = f"The threshold flags {beyond}{share:.2%} of the tissue of {whom}"
    shares, bound = calibration.fpr_of_patients(threshold), calibration.fpr_bound(threshold)
    if bound is None:
        return f"{text}.{more}"
    return (
        f"{text} ({min(shares):.2%} to {max(shares):.2%} from one to another); with this many, "
        f"at most {bound:.2%} can be promised on average for the next one.{more}"
    )
