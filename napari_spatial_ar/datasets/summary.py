"""Summary of the data of a fit: counts, ranges, and what the split by patient can promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.selection import AS_ACQUIRED, Selection
from napari_spatial_ar.datasets.slices import SliceRef, SliceSet, split_slices
from napari_spatial_ar.datasets.survey import BINS, REASONS, Reason, Survey, SurveyedSeries
from napari_spatial_ar.errors import InputError

__all__ = ["DataSummary", "Side", "kind_of"]

_MODALITIES = {"mri": "MRI", "ct": "CT", "oct": "OCT", "other": "another modality"}
# Thresholds from fewer held-out patients than this are rough.
_FEW = 5
# The default share of normal tissue that a mask may flag.
_USUAL_SHARE = 0.01
_SIDES = ("training", "validation", "calibration")
_BARS = "▁▂▃▄▅▆▇█"
_SPREAD = 8  # bins of a histogram of sizes


@dataclass(frozen=True)
class Side:
    """One side of the split: numbers of slices and patients."""

    slices: int
    patients: int

    @classmethod
    def of(cls, refs: Sequence[SliceRef]) -> Side:
        """Count."""
        return cls(len(refs), len({ref.group for ref in refs}))


@dataclass(frozen=True)
class DataSummary:
    """A survey in numbers and sentences, without any path or name that may be a patient's.

    Parameters
    ----------
    survey : Survey
        What was found.
    excluded : frozenset of str
        Keys of series that the user has excluded.
    selection : Selection
        What the survey was made with.
    valid_fraction, calibration_fraction, seed
        Of the split by patient, as for a fit.
    """

    survey: Survey = field(repr=False)
    excluded: frozenset[str] = frozenset()
    selection: Selection = field(default_factory=Selection)
    valid_fraction: float = 0.2
    calibration_fraction: float = 0.0
    seed: int = 0

    def without(self, keys: Collection[str]) -> DataSummary:
        """Summarise the same survey with other series excluded."""
        return replace(self, excluded=frozenset(keys))

    def choosing(self, selection: Selection, calibration_fraction: float) -> DataSummary:
        """Summarise the same survey with other slices of the same plane, split another way."""
        return replace(
            self,
            survey=self.survey.chosen(selection),
            selection=selection,
            calibration_fraction=calibration_fraction,
        )

    @cached_property
    def used(self) -> tuple[SurveyedSeries, ...]:
        """Series of which at least one slice is used."""
        return tuple(s for s in self.survey.series if s.refs and s.key not in self.excluded)

    @cached_property
    def total(self) -> Side:
        """All slices used."""
        return Side.of([ref for series in self.used for ref in series.refs])

    @cached_property
    def left_out(self) -> dict[Reason, int]:
        """Excluded slices, by reason."""
        counts: Counter[Reason] = Counter()
        for series in self.survey.series:
            counts.update(series.left_out)
            if series.key in self.excluded:
                counts["excluded"] += len(series.refs)
        return {reason: counts[reason] for reason in REASONS if counts[reason]}

    @cached_property
    def unreadable(self) -> dict[str, int]:
        """Files and series that cannot be read, by reason."""
        return dict(Counter(error.what for error in self.survey.errors))

    @cached_property
    def split(self) -> tuple[Side, ...] | None:
        """Training, validation, and calibration if it has patients of its own.

        A model is calibrated on the last one. None if there are too few patients.
        """
        refs, held_out = (
            tuple(ref for s in self.used if s.held_out == valid for ref in s.refs)
            for valid in (False, True)
        )
        if not refs:
            return None
        fractions = self.valid_fraction, self.calibration_fraction
        try:
            made = split_slices(SliceSet(refs, held_out), *fractions, self.seed)
        except InputError:
            return None
        return tuple(Side.of(part) for part in (made.train, made.valid, made.calibration) if part)

    @property
    def least_share(self) -> float:
        """Smallest share of a new patient's tissue that thresholds can be promised to flag.

        With n patients held out it is 1 / (n + 1): each of the n + 1 is as likely as any other to
        be the one with the highest scores (conformal risk control, Angelopoulos et al., 2024).
        """
        return 1.0 if self.split is None else 1 / (self.split[-1].patients + 1)

    @property
    def histogram(self) -> npt.NDArray[np.int64]:
        """(BINS,) body pixels by grey value, from the window's black to its white."""
        counts = np.zeros(BINS, np.int64)
        for series in self.used:
            counts += series.histogram
        return counts

    def promise(self) -> str:
        """State what the split cannot promise; "" if there are enough patients."""
        if not self.used:
            return "There is nothing to learn from."
        if self.split is None and self.calibration_fraction and self.total.patients > 1:
            return (
                f"{_count(self.total.patients, 'patient')} are too few for training, validation "
                "and calibration: a model cannot be fitted. Set the share for calibration to 0."
            )
        if self.split is None:
            return (
                "All slices seem to be of one patient, so none can be held out: a model "
                "cannot be fitted. Put each patient's files in a folder of their own."
            )
        patients, share = self.split[-1].patients, self.least_share
        if share <= _USUAL_SHARE:
            return ""
        held = "Only 1 patient is" if patients == 1 else f"{patients} patients are"
        purpose = "calibration" if len(self.split) > 2 else "validation"
        few = " That is few: thresholds will be rough." if patients < _FEW else ""
        return (
            f"{held} held out for {purpose}: a threshold that flags less than "
            f"{100 * share:.0f} % of a new patient's normal tissue cannot be promised.{few}"
        )

    def lines(self) -> list[str]:
        """Describe the data, one line each; `promise` is the last if there is one."""
        parts = [
            f"{_count(self.total.slices, 'slice')} of {_count(self.total.patients, 'patient')} "
            f"in {len(self.used)} series."
        ]
        if self.used:
            parts += [f"{self._kinds()}.", f"{self._sizes()}.", f"{self._greys()}."]
            parts += self._planes()
        parts += [
            f"Excluded: {_count(count, 'slice')}, {REASONS[reason]}."
            for reason, count in self.left_out.items()
        ]
        parts += [
            f"Cannot be read: {_count(count, 'file')} ({what})."
            for what, count in self.unreadable.items()
        ]
        if self.split is not None:
            sides = zip(_SIDES, self.split, strict=False)
            named = ", ".join(
                f"{name} on {_count(side.slices, 'slice')} of {_count(side.patients, 'patient')}"
                for name, side in sides
            )
            parts.append(f"{named.capitalize()}.")
        return [*parts, self.promise()] if self.promise() else parts

    def _kinds(self) -> str:
        kinds = Counter(kind_of(series) for series in self.used)
        named = "; ".join(f"{name} ({count})" for name, count in sorted(kinds.items()))
        return f"Kinds of series: {named}"

    @cached_property
    def usual_plane(self) -> str:
        """Plane of acquisition of most of the used series; "" if none is known."""
        planes = Counter(series.plane for series in self.used if series.plane)
        return planes.most_common(1)[0][0] if planes else ""

    def _planes(self) -> list[str]:
        if self.selection.plane != AS_ACQUIRED:
            return [f"Volumes are cut into {self.selection.plane} slices."]
        others = Counter(s.plane for s in self.used if s.plane not in ("", self.usual_plane))
        if not others:
            return []
        named = ", ".join(f"{plane} ({count})" for plane, count in sorted(others.items()))
        return [f"Acquired in another plane than most, which are {self.usual_plane}: {named}."]

    def _sizes(self) -> str:
        sizes = {size for series in self.used for size in series.sizes}
        rows, columns = (_range([size[axis] for size in sizes]) for axis in (0, 1))
        text = f"Slices of {columns} x {rows} pixels"
        spacings = [series.spacing for series in self.used if series.spacing]
        if not spacings:
            return f"{text}; spacing unknown"
        text += f", {_spread([s for spacing in spacings for s in spacing[1:]])} mm a pixel"
        apart = [spacing[0] for spacing in spacings if spacing[0] is not None]
        return f"{text}, {_spread(apart)} mm apart" if apart else text

    def _greys(self) -> str:
        counts = self.histogram
        coarse = counts.reshape(-1, 2).sum(axis=1)
        white = counts[-1] / max(int(counts.sum()), 1)
        return f"Intensities: {_bars(coarse)} ({100 * white:.0f} % white)"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        sides = self.split or ()
        return {
            "slices": self.total.slices,
            "patients": self.total.patients,
            "series": [_entry(series, self.excluded) for series in self.survey.series],
            "left_out": {str(reason): count for reason, count in self.left_out.items()},
            "unreadable": self.unreadable,
            "histogram": self.histogram.tolist(),
            "selection": self.selection.to_dict(),
            **{
                name: {"slices": side.slices, "patients": side.patients} if side else None
                for name, side in zip_longest(("train", "valid", "calibration"), sides)
            },
            "least_share": self.least_share,
            "promise": self.promise(),
        }


def kind_of(series: SurveyedSeries) -> str:
    """Modality and plane in words."""
    if series.modality == "unknown":
        return f"{series.plane}, modality unknown" if series.plane else "images"
    return f"{_MODALITIES[series.modality]} {series.plane}".rstrip()


def _entry(series: SurveyedSeries, excluded: Collection[str]) -> dict[str, Any]:
    return {
        "key": series.key,
        "label": series.label,
        "patient": series.patient,
        "modality": series.modality,
        "plane": series.plane or None,
        "slice_sizes": sorted(series.sizes),
        "spacing_mm": series.spacing,
        "slices": len(series.refs),
        "left_out": dict(series.left_out),
        "excluded": series.key in excluded,
        "held_out": series.held_out,
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bars(counts: npt.NDArray[np.int64]) -> str:
    """Draw a histogram as one word."""
    top = max(int(counts.max()), 1)
    return "".join(_BARS[int((len(_BARS) - 1) * count / top)] for count in counts)


def _spread(values: Sequence[float]) -> str:
    """Format a range, with a histogram of the values in it."""
    text = _range(values)
    return f"{text} ({_bars(np.histogram(values, _SPREAD)[0])})" if " " in text else text


def _range(values: Sequence[float]) -> str:
    low, high = (f"{end:.3g}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
