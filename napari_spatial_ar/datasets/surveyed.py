"""What was found in folders of scans, series by series, slice by slice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.datasets.slices import SliceRef
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.volume import Modality

__all__ = [
    "BINS",
    "LEAST_SIDE",
    "REASONS",
    "Reason",
    "Survey",
    "SurveyedSeries",
    "SurveyedSlice",
    "slices_left_out",
]

Reason = Literal[
    "localizer", "derived", "modality", "plane", "small", "range", "empty", "copy", "excluded"
]

#: Bins of `SurveyedSeries.histogram`.
BINS = 32
#: A backbone's smallest patch.
LEAST_SIDE = 14

#: Why slices are left out, in words that go after "left out:".
REASONS: dict[Reason, str] = {
    "localizer": "localizer (scout) images",
    "derived": "derived series (projections, maps)",
    "modality": "another modality than the one chosen",
    "plane": "pictures and uneven stacks, which cannot be cut along the plane chosen",
    "small": f"less than {LEAST_SIDE} pixels wide or high",
    "range": "outside the range of slices chosen",
    "empty": "little body on them",
    "copy": "copies of other files",
    "excluded": "taken out by you",
}


@dataclass(frozen=True, eq=False)
class SurveyedSlice:
    """One slice that is large enough, whether it is used or not.

    Parameters
    ----------
    ref : SliceRef
        Where it is.
    place : float or None
        See `place_in_stack`; None for a picture.
    body : float
        Share of it that shows body.
    histogram : (BINS,) int32
        Its body pixels by grey value.
    """

    ref: SliceRef
    place: float | None
    body: float
    histogram: npt.NDArray[np.int32] = field(repr=False)


@dataclass(frozen=True, eq=False)
class SurveyedSeries:
    """One volume, or the pictures of one patient in one folder.

    Parameters
    ----------
    key : str
        Sha256 hex digest of its content, wherever it lies.
    label : str
        Short name that is safe to show.
    group : str
        The patient, as far as files tell. It may be part of a file name: not to be shown.
    modality : {"mri", "ct", "oct", "other", "unknown"}
        As its header says.
    plane : str
        Anatomical plane that it was acquired in; "" where the file does not tell.
    sizes : frozenset of (int, int)
        Rows and columns of its slices.
    spacing : (float or None, float, float) or None
        Millimetres between slices (None where uneven), rows and columns; None where not known.
    slices : tuple of SurveyedSlice
        What there is to choose from.
    refs : tuple of SliceRef
        Slices to train on.
    left_out : mapping of str to int
        Slices that are left out, by reason.
    histogram : (BINS,) int64
        Body pixels of ``refs`` by grey value, from the window's black to its white.
    picture : (rows, columns) uint8, optional
        The middle one of ``refs``, small, as the model sees it.
    held_out : bool
        Whether it is for validation, as the folder says.
    """

    key: str
    label: str
    group: str = field(repr=False)
    modality: Modality
    plane: str
    sizes: frozenset[tuple[int, int]]
    spacing: tuple[float | None, float, float] | None = None
    slices: tuple[SurveyedSlice, ...] = field(default=(), repr=False)
    refs: tuple[SliceRef, ...] = ()
    left_out: Mapping[Reason, int] = field(default_factory=dict)
    histogram: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(BINS, np.int64), repr=False
    )
    picture: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    held_out: bool = False

    @property
    def patient(self) -> str:
        """Name of the patient that is safe to show: the start of a hash."""
        return hashlib.sha256(self.group.encode(errors="surrogatepass")).hexdigest()[:8]

    def chosen(self, selection: Selection) -> SurveyedSeries:
        """Use other slices of the same; the selection's plane is that it was looked at in."""
        used, out = [], {k: n for k, n in self.left_out.items() if k not in ("range", "empty")}
        for one in self.slices:
            if not selection.holds(one.place):
                out["range"] = out.get("range", 0) + 1
            elif one.body < selection.min_body:
                out["empty"] = out.get("empty", 0) + 1
            else:
                used.append(one)
        return replace(
            self,
            refs=tuple(one.ref for one in used),
            left_out=out,
            histogram=np.sum([one.histogram for one in used], axis=0, dtype=np.int64)
            if used
            else np.zeros(BINS, np.int64),
        )


@dataclass(frozen=True)
class Survey:
    """What was found, and what could not be read."""

    series: tuple[SurveyedSeries, ...]
    errors: tuple[InputError, ...] = ()

    def chosen(self, selection: Selection) -> Survey:
        """Use other slices of the same series, see `SurveyedSeries.chosen`."""
        return replace(self, series=tuple(one.chosen(selection) for one in self.series))


def slices_left_out(series: Iterable[SurveyedSeries]) -> list[str]:
    """Sentences that say how many slices are left out, one for each reason."""
    counts: Counter[Reason] = Counter()
    for one in series:
        counts.update(one.left_out)
    return [
        f"{counts[reason]} slice{'s' if counts[reason] > 1 else ''} left out: {words}."
        for reason, words in REASONS.items()
        if counts[reason]
    ]
