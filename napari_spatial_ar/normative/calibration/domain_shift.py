"""Whether a scan resembles a model's training scans: a check of the input, not of the findings.

Held-out normal patients show how much scans of the same kind vary: in spacing, in the share of a
slice that is body, in the brightness of tissue in the model's window, and in the mean patch
embedding of the body. A patient counts by the median of their slices. Values well outside the range
of all patients are reported in words; nothing is corrected, and nothing is refused.

The distance of a patient's slices is the cosine distance of each slice's mean embedding from the
mean over the *other* patients, so that it represents a patient not seen before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

__all__ = [
    "GREYS",
    "Appearance",
    "DomainShift",
    "NormalAppearance",
    "SeenSlices",
    "compare_appearance",
    "sum_up",
]

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Measures of `Appearance.measures` that are intensities: percentile within the body.
GREYS = {"dark": 25, "middle": 50, "bright": 75}
# From this number of patients on, the highest of them approximates what a next one may have.
_ENOUGH = 5
# How many times as far as any normal patient is too far; more for the spacing of slices, which the
# model does not see.
_TIMES = {
    "distance": 1.4,
    "body": 1.6,
    "field_of_view": 1.5,
    "pixel_spacing": 1.5,
    "slice_spacing": 2.0,
}
_GREY_MARGIN = 0.10
_MOST_LISTED = 3


@dataclass(frozen=True)
class Appearance:
    """Appearance of one slice to a model, or the median of several.

    Parameters
    ----------
    measures : mapping of str to float
        ``body`` (share of the slice), ``dark``, ``middle``, ``bright`` (quartiles of the body's
        intensities in the model's window, 0..1) and, in mm if known, ``slice_spacing``,
        ``pixel_spacing``, ``field_of_view``.
    embedding : (D,) float32 or None
        Mean over the body's patches, of the stored channels.
    """

    measures: Mapping[str, float]
    embedding: npt.NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SeenSlices:
    """What the training slices are made of; stored in the model file.

    Parameters
    ----------
    centre : (C,)
        Mean of the patch embeddings, of the channels used.
    axes : (d, C)
        Their principal axes.
    kinds : (K, d)
        Means of kinds of patches along these axes.
    softness : float
        Difference of squared distances by which one kind is e times as likely as another.
    slices : (n, K)
        Square roots of the shares of kinds in training slices, thinned evenly.
    limit : float
        Squared distance from the nearest of them up to which a slice counts as seen.
    least_body : float
        Share of a slice that must be body.
    """

    centre: tuple[float, ...] = field(repr=False)
    axes: tuple[tuple[float, ...], ...] = field(repr=False)
    kinds: tuple[tuple[float, ...], ...] = field(repr=False)
    softness: float
    slices: tuple[tuple[float, ...], ...] = field(repr=False)
    limit: float
    least_body: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form, stored in the model file."""
        return {
            "centre": list(self.centre),
            "axes": [list(row) for row in self.axes],
            "kinds": [list(row) for row in self.kinds],
            "softness": self.softness,
            "slices": [list(row) for row in self.slices],
            "limit": self.limit,
            "least_body": self.least_body,
        }


@dataclass(frozen=True)
class NormalAppearance:
    """Appearance of normal scans to a model; stored in its file.

    Parameters
    ----------
    patients, slices : int
        Numbers measured on.
    quantiles : mapping of str to (float, ...)
        Lowest, quartiles and highest over patients, of the measures of `Appearance` and of
        ``distance``, which needs two patients.
    embedding : tuple of float
        Mean over patients.
    seen : SeenSlices or None
        What whole slices of the training scans are made of; None if it was not learned.
    """

    patients: int
    slices: int
    quantiles: Mapping[str, tuple[float, ...]]
    embedding: Annotated[tuple[float, ...], Field(validation_alias="mean_embedding")] = field(
        default=(), repr=False
    )
    seen: Annotated[SeenSlices | None, Field(validation_alias="seen_slices")] = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form, stored in the model file."""
        return {
            "patients": self.patients,
            "slices": self.slices,
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
            "mean_embedding": list(self.embedding),
            **({"seen_slices": self.seen.to_dict()} if self.seen else {}),
        }


@dataclass(frozen=True)
class DomainShift:
    """How a scan compares with a model's training scans.

    Parameters
    ----------
    reasons : tuple of str
        How it differs, one clause each, the most important first; empty if nothing was found.
    measured : mapping of str to float
        The measures compared, including ``distance``.
    complete : bool
        False if the model's file does not contain the appearance of its training scans, or memory
        did not suffice for the comparison.
    topics : tuple of str
        Subject of each reason in one to three words, for places too small for reasons.
    """

    reasons: tuple[str, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)
    complete: bool = False
    topics: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """One or two sentences for the user; "" if nothing was found."""
        if not self.reasons:
            return ""
        more = len(self.reasons) - _MOST_LISTED
        listed = "; ".join(self.reasons[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")
        return (
            f"This scan differs from those the model was trained on: {listed}. Normal tissue in it "
            "may score high."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for the record of a result."""
        return {
            "unlike": list(self.reasons),
            "measured": {name: round(value, 4) for name, value in self.measured.items()},
            "complete": self.complete,
        }


def _distance(embedding: npt.NDArray[Any], mean: npt.NDArray[Any]) -> float:
    lengths = float(np.linalg.norm(embedding) * np.linalg.norm(mean))
    return 1.0 - float(embedding @ mean) / lengths if lengths else 1.0


def sum_up(looks: Sequence[Appearance], groups: Sequence[str]) -> NormalAppearance | None:
    """Summarise slices of normal patients.

    Parameters
    ----------
    looks : sequence of Appearance
        One per slice.
    groups : sequence of str
        Patient of each slice; not stored.

    Returns
    -------
    NormalAppearance or None
        None without any slice.
    """
    if not looks:
        return None
    of_patient: dict[str, list[Appearance]] = {}
    for look, group in zip(looks, groups, strict=True):
        of_patient.setdefault(group, []).append(look)
    patients = list(of_patient.values())
    values: dict[str, list[float]] = {}
    for slices in patients:
        for name in slices[0].measures:
            of_slices = [s.measures[name] for s in slices if name in s.measures]
            values.setdefault(name, []).append(float(np.median(of_slices)))
    means = [
        np.mean([s.embedding for s in slices if s.embedding is not None], axis=0)
        for slices in patients
        if any(s.embedding is not None for s in slices)
    ]
    if len(means) == len(patients) > 1:
        for number, slices in enumerate(patients):
            other = np.mean([mean for n, mean in enumerate(means) if n != number], axis=0)
            far = [_distance(s.embedding, other) for s in slices if s.embedding is not None]
            values.setdefault("distance", []).append(float(np.median(far)))
    mean = np.mean(means, axis=0) if means else np.empty(0)
    return NormalAppearance(
        patients=len(patients),
        slices=len(looks),
        quantiles={
            name: tuple(float(f"{q:.5g}") for q in np.quantile(found, _QUANTILES))
            for name, found in values.items()
        },
        embedding=tuple(float(f"{value:.4g}") for value in mean),
    )


def compare_appearance(normal: NormalAppearance, looks: Sequence[Appearance]) -> DomainShift:
    """Compare slices of a scan with normal ones.

    Parameters
    ----------
    normal : NormalAppearance
        That of the model.
    looks : sequence of Appearance
        Slices in the middle of the scan.

    Returns
    -------
    DomainShift
    """
    if not looks:
        reason = "the model finds no body in its middle slices"
        return DomainShift((reason,), {}, False, ("no body found",))
    measured = {
        name: float(np.median([look.measures[name] for look in looks]))
        for name in looks[0].measures
    }
    mean = np.array(normal.embedding)
    embedded = [
        look.embedding
        for look in looks
        if look.embedding is not None and look.embedding.shape == mean.shape
    ]
    if embedded and "distance" in normal.quantiles:
        measured["distance"] = float(np.median([_distance(e, mean) for e in embedded]))
    clauses = {name: _clause(name, measured[name], normal) for name in _TOPICS if name in measured}
    greys = [name for name in GREYS if clauses.get(name)]
    for name in greys:
        if name != ("middle" if "middle" in greys else greys[0]):
            clauses[name] = ""  # the same difference once more
    outside = [name for name, clause in clauses.items() if clause]
    return DomainShift(
        tuple(clauses[name] for name in outside),
        measured,
        bool(embedded),
        tuple(_TOPICS[name] for name in outside),
    )


# The most important first.
_TOPICS = {
    "distance": "appearance",
    "middle": "brightness",
    "bright": "brightness",
    "dark": "brightness",
    "body": "share of body",
    "field_of_view": "field of view",
    "pixel_spacing": "pixel size",
    "slice_spacing": "slice spacing",
}


def _clause(name: str, value: float, normal: NormalAppearance) -> str:
    """Describe how a measure is outside the normal range; "" if it is not, or it is unknown."""
    quantiles = normal.quantiles.get(name)
    if quantiles is None:
        return ""
    low, high = quantiles[0], quantiles[-1]
    few = normal.patients < _ENOUGH
    if name in GREYS:
        margin = (_GREY_MARGIN + (high - low) / 2) * (2 if few else 1)
        outside = not low - margin <= value <= high + margin
    else:
        times = _TIMES[name] ** (2 if few else 1)
        outside = value > high * times or (name != "distance" and value < low / times)
    if not outside:
        return ""
    whom = "the normal patient" if normal.patients == 1 else f"{normal.patients} normal patients"
    if name == "distance":
        return (
            f"its patches are {value / high:.1f} times as far from normal as those of any of {whom}"
        )
    if name in GREYS:
        which = {"dark": "the darkest quarter", "middle": "half", "bright": "three quarters"}[name]
        return (
            f"{which} of its tissue is below {value:.0%} of the grey scale "
            f"({_range(low, high, '.0%')} in {whom})"
        )
    if name == "body":
        return f"the body fills {value:.0%} of a slice ({_range(low, high, '.0%')} in {whom})"
    what = {
        "field_of_view": "its field of view is",
        "pixel_spacing": "its pixels measure",
        "slice_spacing": "its slice spacing is",
    }[name]
    return f"{what} {value:.3g} mm ({_range(low, high, '.3g')} mm in {whom})"


def _range(low: float, high: float, form: str) -> str:
    ends = f"{low:{form}}", f"{high:{form}}"
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
