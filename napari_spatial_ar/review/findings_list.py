"""The list a reader goes through: findings with a status and a comment that stay with them.

A status is kept with the voxels that the region had when it was given (a `Mark`). A region of
any later mask takes the marks that it overlaps, so that moving the threshold there and back
changes nothing:

- A region that grows, shrinks or splits keeps its status; one that vanishes gets it back when
  it returns.
- Where several marked regions merge, "keep" wins, then "unsure"; between "reject" and regions
  not yet read, whichever holds more voxels. `ReviewedFinding.note` says so, and comments are
  joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.review.findings import Finding, find_findings, label_components
from napari_spatial_ar.review.rarity import Rarity, extent_of, rarity

__all__ = ["FindingsList", "Mark", "ReviewedFinding", "Status", "list_findings"]

Status = Literal["unread", "keep", "unsure", "reject"]

_Voxels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mark:
    """What a reader said of a region, and where it was then.

    Parameters
    ----------
    voxels : (n,) int64
        Flat indices of the (Z, Y, X) grid, rising. No two marks share one.
    status : {"unread", "keep", "unsure", "reject"}
        "unread" for a region that stood beside one that was read: it counts when they merge.
    comment : str
        Free text.
    """

    voxels: _Voxels = field(repr=False)
    status: Status = "unread"
    comment: str = ""


@dataclass(frozen=True)
class ReviewedFinding:
    """A finding with what is said of it.

    Parameters
    ----------
    finding : Finding
        Its measures.
    rarity : Rarity
        How many normal patients score as high.
    status, comment : str
        As in `Mark`.
    note : str
        A sentence where the region merged from several; else "".
    """

    finding: Finding
    rarity: Rarity
    status: Status = "unread"
    comment: str = ""
    note: str = ""

    @property
    def columns(self) -> dict[str, Any]:
        """What the tables have of it besides its measures."""
        return {
            "status": self.status,
            "comment": self.comment,
            "review_note": self.note,
            "normal_patients_as_high": self.rarity.reaching if self.rarity.patients else None,
            "normal_patients_as_large": self.rarity.as_large,
            "normal_patients": self.rarity.patients or None,
            "one_in_normal_patients": self.rarity.one_in,
            "rarity": self.rarity.sentence,
        }


@dataclass(frozen=True)
class FindingsList:
    """Findings of one mask, and the marks that they take their status from.

    Parameters
    ----------
    items : tuple of ReviewedFinding
        Highest peak first.
    marks : tuple of Mark
        Those of regions that are not in the mask now, too.
    voxels, labels : (n,) int64 and (n,) int32
        Flat indices of the mask's voxels, rising, and the `Finding.label` of each.
    """

    items: tuple[ReviewedFinding, ...] = ()
    marks: tuple[Mark, ...] = ()
    voxels: _Voxels = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    labels: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32), repr=False)

    def region(self, label: int) -> _Voxels:
        """Flat indices of a finding's voxels, rising."""
        return np.asarray(self.voxels[self.labels == label])

    @property
    def rejected(self) -> _Voxels:
        """Flat indices of all voxels of rejected findings."""
        gone = [item.finding.label for item in self.items if item.status == "reject"]
        return np.asarray(self.voxels[np.isin(self.labels, gone)])

    @property
    def kept(self) -> tuple[Finding, ...]:
        """Findings that are not rejected."""
        return tuple(item.finding for item in self.items if item.status != "reject")

    @property
    def exported(self) -> tuple[Finding, ...]:
        """All findings, labelled as in `numbered`: by their rank, a rejected one by 0."""
        return tuple(
            replace(item.finding, label=0 if item.status == "reject" else item.finding.rank)
            for item in self.items
        )

    def numbered(self, shape: tuple[int, int, int]) -> npt.NDArray[np.uint16 | np.int32]:
        """Map of findings: their rank in their voxels; 0 outside, and in rejected ones.

        Parameters
        ----------
        shape : (int, int, int)
            Of the grid, (Z, Y, X).

        Returns
        -------
        (Z, Y, X) uint16, or int32 where there are more findings than that counts
        """
        wide = len(self.items) > np.iinfo(np.uint16).max
        ranks = np.zeros(len(self.items) + 1, np.int32 if wide else np.uint16)
        for item in self.items:
            ranks[item.finding.label] = 0 if item.status == "reject" else item.finding.rank
        numbers = np.zeros(shape, ranks.dtype)
        numbers.flat[self.voxels] = ranks[self.labels]
        return numbers

    def without_rejected(self, mask: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Mask (Z, Y, X) that is exported; a copy."""
        out = np.array(mask != 0, dtype=np.uint8, order="C")
        out.flat[self.rejected] = 0
        return out

    def decide(
        self, label: int, *, status: Status | None = None, comment: str | None = None
    ) -> FindingsList:
        """Give a finding a status, a comment or both; None leaves what was.

        Raises
        ------
        KeyError
            If there is no finding of that label.
        """
        items = {item.finding.label: item for item in self.items}
        mine, region = items[label], self.region(label)
        said = Mark(
            region,
            mine.status if status is None else status,
            mine.comment if comment is None else comment,
        )
        others = [replace(m, voxels=np.setdiff1d(m.voxels, region)) for m in self.marks]
        marks = [*(mark for mark in others if len(mark.voxels)), said]
        marked = {number for mark in marks for number in self._overlaps(mark)}
        marks += [Mark(self.region(number)) for number in items if number not in marked]
        return self.with_marks(tuple(marks))

    def _overlaps(self, mark: Mark) -> dict[int, int]:
        """Voxels that each region shares with a mark, by label."""
        _, here, _ = np.intersect1d(self.voxels, mark.voxels, True, return_indices=True)
        numbers, counts = np.unique(self.labels[here], return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def heir(self, old: FindingsList, label: int) -> int | None:
        """Label here of the finding that has most voxels of one of another list; None for none."""
        shared = self._overlaps(Mark(old.region(label)))
        return max(shared, key=shared.__getitem__) if shared else None

    def keep_comment(self, old: FindingsList, label: int, comment: str) -> FindingsList:
        """List in which a comment on a finding of another list waits for its voxels to come back.

        Raises
        ------
        KeyError
            If the other list has no finding of that label.
        """
        return self.with_marks(old.decide(label, comment=comment).marks)

    def with_marks(self, marks: tuple[Mark, ...]) -> FindingsList:
        """List with the status and comment that other marks give."""
        met: dict[int, list[tuple[Mark, int]]] = {}
        for mark in marks:
            for number, shared in self._overlaps(mark).items():
                met.setdefault(number, []).append((mark, shared))
        items = tuple(_merged(item, met.get(item.finding.label, [])) for item in self.items)
        return replace(self, items=items, marks=marks)


def _merged(item: ReviewedFinding, met: list[tuple[Mark, int]]) -> ReviewedFinding:
    """Give a finding what the marks that it overlaps say together."""
    if not met:
        return replace(item, status="unread", comment="", note="")
    shared: dict[Status, int] = dict.fromkeys(get_args(Status), 0)
    for mark, count in met:
        shared[mark.status] += count
    status: Status = "reject" if shared["reject"] > shared["unread"] else "unread"
    if shared["keep"] or shared["unsure"]:
        status = "keep" if shared["keep"] else "unsure"
    comments = dict.fromkeys(mark.comment for mark, _ in met if mark.comment)
    note = ""
    if len(met) > 1:
        counts = {s: sum(mark.status == s for mark, _ in met) for s in shared}
        parts = ", ".join(f"{count} {s}" for s, count in counts.items() if count)
        note = f"Merged from {len(met)} regions ({parts}): now {status}."
    return replace(item, status=status, comment="; ".join(comments), note=note)


def list_findings(
    mask: npt.NDArray[Any],
    nll: npt.NDArray[np.floating],
    geometry: Geometry,
    *,
    model: object = None,
    body: int | None = None,
    marks: Sequence[Mark] = (),
) -> FindingsList:
    """Measure a mask's regions and give each the status that its voxels were given before.

    Parameters
    ----------
    mask, nll, geometry : (Z, Y, X) array, (Z, Y, X) floating, Geometry
        As for `find_findings`.
    model : NormativeModel, optional
        Whose calibration says how rare a finding is.
    body : int, optional
        See `rarity`: without it, sizes are not compared with those in normal patients.
    marks : sequence of Mark
        Of an earlier list on the same grid.

    Raises
    ------
    InputError
        If mask or scores are not on the grid.
    """
    labels = label_components(mask)
    boxes = ndimage.find_objects(labels)
    items = []
    for finding in find_findings(mask, nll, geometry, labels=labels):
        box = boxes[finding.label - 1]
        inside = np.moveaxis(labels[box] == finding.label, geometry.slice_axis, 0)
        extent = extent_of(inside, np.moveaxis(nll[box], geometry.slice_axis, 0))
        items.append(ReviewedFinding(finding, rarity(model, finding.peak_score, extent, body)))
    flat = labels.ravel()
    voxels = np.flatnonzero(flat)
    return FindingsList(tuple(items), (), voxels, flat[voxels]).with_marks(tuple(marks))
