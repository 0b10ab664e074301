"""From a mask to findings that a reader can go through.

Slices are counted along the acquired axis, from 0, in the order of the file.

A status is stored with the voxels that the region had when it was given (a `Mark`). A region of
any later mask inherits the marks that it overlaps, so that moving the threshold there and back
changes nothing:

- A region that grows, shrinks or splits keeps its status; one that vanishes has it again when it
  returns.
- If several marked regions merge, "keep" wins, then "unsure"; between "reject" and unread regions,
  whichever has more voxels. `ReviewedFinding.note` reports it, and comments are joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_text, strict_json
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.json_schemas import FindingsFile, stamped
from napari_spatial_ar.normative.scoring_model import Calibrated
from napari_spatial_ar.normative.units import is_nll
from napari_spatial_ar.review.masks import make_mask, voxel_volume_mm3
from napari_spatial_ar.review.p_values import NormalRank, extent_of, normal_rank
from napari_spatial_ar.review.provenance import RESEARCH_USE
from napari_spatial_ar.review.strokes import Refined
from napari_spatial_ar.review.tables import csv_text

__all__ = [
    "MIDLINE_MM",
    "Finding",
    "FindingsList",
    "Mark",
    "ReviewedFinding",
    "Side",
    "Status",
    "find_findings",
    "findings_to_csv",
    "findings_to_json",
    "label_components",
    "list_findings",
    "make_mask",
    "voxel_volume_mm3",
    "write_findings_csv",
    "write_findings_json",
]

Side = Literal["left", "right", "midline", "unknown"]


#: A centroid this close to the middle of the volume (along left-right, in mm) is "midline".
MIDLINE_MM = 5.0


# Voxels that touch by a face, an edge or a corner belong together.
_NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Finding:
    """One connected region (26 neighbours) of the mask.

    Parameters
    ----------
    rank : int
        The finding's number: 1 for the region with the highest peak score.
    label : int
        The region's number in `label_components` of the same mask. In exports, the value of its
        voxels in the map of findings: its rank, or 0 if it is rejected.
    side : {"left", "right", "midline", "unknown"}
        The patient's side, from the centroid relative to the middle of the volume along
        left-right (which is not RAS x = 0); "midline" within `MIDLINE_MM`, "unknown" if the
        scan's orientation is unknown.
    centroid_ras_mm : (float, float, float) or None
        Unweighted centre in patient space (x to the right, y to anterior, z to superior), mm;
        None without a known spacing or for slices that have no common affine.
    centroid_zyx : (float, float, float)
        The same centre in voxels of ``Scan.data``, axes (Z, Y, X).
    first_slice, last_slice, peak_slice : int
        Acquired slices, from 0: the range, and the one with the highest score.
    voxels : int
        Number of voxels.
    volume_ml : float or None
        None if ``centroid_ras_mm`` is None.
    largest_area_mm2 : float or None
        Largest area within a slice; None without a known spacing.
    longest_diameter_mm : float or None
        Largest caliper (Feret) diameter within an acquired slice, over all slices; one pixel
        measures one pixel. None without a known spacing.
    longest_diameter_px : float
        The same in pixels.
    perpendicular_diameter_mm : float or None
        Caliper diameter at right angles to the longest diameter, in the slice of that; of several
        equal ones, the first. None without a known spacing.
    peak_zyx : (int, int, int)
        The voxel of ``Scan.data`` with the highest score; the first if there are several.
    peak_score, mean_score : float
        Highest and mean score in the region, in the model's unit.
    """

    rank: int
    label: int
    side: Side
    centroid_ras_mm: tuple[float, float, float] | None
    centroid_zyx: tuple[float, float, float]
    first_slice: int
    last_slice: int
    peak_slice: int
    voxels: int
    volume_ml: float | None
    largest_area_mm2: float | None
    longest_diameter_mm: float | None
    longest_diameter_px: float
    peak_zyx: tuple[int, int, int]
    peak_score: float
    mean_score: float
    perpendicular_diameter_mm: float | None = None


def label_components(mask: npt.NDArray[np.bool_ | np.uint8]) -> npt.NDArray[np.int32]:
    """Label the connected regions (26 neighbours) of a mask from 1; 0 is outside."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask != 0, structure=_NEIGHBOURS_26, output=labels)
    return labels


def find_findings(
    mask: npt.NDArray[np.bool_ | np.uint8],
    nll: npt.NDArray[np.floating],
    geometry: Geometry,
    *,
    labels: npt.NDArray[np.int32] | None = None,
) -> list[Finding]:
    """Measure each connected region of a mask.

    Parameters
    ----------
    mask : (Z, Y, X) integer or bool
        Nonzero inside, in source order.
    nll : (Z, Y, X) floating
        Scores in source order, in the model's unit.
    geometry : Geometry
        The scan's grid.
    labels : (Z, Y, X) int32, optional
        Result of `label_components` for the mask, if available.

    Returns
    -------
    list of Finding
        Highest peak score first.

    Raises
    ------
    InputError
        If mask or scores are not on the grid.
    """
    for what, array in (("mask", mask), ("scores", nll)):
        if array.shape != geometry.shape:
            raise InputError(f"a {what} array of {array.shape} is not on the grid {geometry.shape}")
    if labels is None:
        labels = label_components(mask)
    found = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == label
        origin = tuple(int(part.start) for part in box)
        found.append(_measure(label, inside, nll[box], origin, geometry))
    found.sort(key=lambda finding: (-finding.peak_score, -finding.voxels, finding.label))
    return [replace(finding, rank=rank) for rank, finding in enumerate(found, 1)]


def _measure(
    label: int,
    inside: npt.NDArray[np.bool_],
    nll: npt.NDArray[np.floating],
    origin: tuple[int, ...],
    geometry: Geometry,
) -> Finding:
    # By counts along each axis: a list of a region's voxels can take more memory than the scan.
    axis, shape = geometry.slice_axis, inside.shape
    along = [inside.sum(axis=tuple({0, 1, 2} - {a}), dtype=np.int64) for a in range(3)]
    voxels = int(along[0].sum())
    centre = np.array([np.arange(n) @ c for n, c in zip(shape, along, strict=True)]) / voxels
    centre += origin
    slices = np.flatnonzero(along[axis])
    planes, of_planes = np.moveaxis(inside, axis, 0), np.moveaxis(nll, axis, 0)
    peaks, total = np.full(shape[axis], -np.inf), 0.0
    for index in slices:
        scores = of_planes[index][planes[index]]
        peaks[index] = scores.max()
        total += float(scores.sum(dtype=np.float64))
    top = int(peaks.argmax())
    scores = np.where(planes[top], of_planes[top], -np.inf)
    place = [int(at) for at in np.unravel_index(int(scores.argmax()), scores.shape)]
    place.insert(axis, top)
    z, y, x = (at + start for at, start in zip(place, origin, strict=True))
    voxel = voxel_volume_mm3(geometry)
    to_mm = _in_plane_matrix(geometry)
    sizes = _largest_in_plane(planes, to_mm)
    ras = geometry.affine[:3, :3] @ centre[::-1] + geometry.affine[:3, 3]
    return Finding(
        rank=0,
        label=label,
        side=_side(float(ras[0]), geometry),
        centroid_ras_mm=None if voxel is None else (float(ras[0]), float(ras[1]), float(ras[2])),
        centroid_zyx=(float(centre[0]), float(centre[1]), float(centre[2])),
        first_slice=int(slices[0]) + origin[axis],
        last_slice=int(slices[-1]) + origin[axis],
        peak_slice=top + origin[axis],
        voxels=voxels,
        volume_ml=None if voxel is None else voxels * voxel / 1000,
        largest_area_mm2=sizes.area_px * _pixel_area(to_mm) if geometry.exact else None,
        longest_diameter_mm=sizes.longest_mm if geometry.exact else None,
        longest_diameter_px=sizes.longest_px,
        peak_zyx=(z, y, x),
        peak_score=float(peaks.max()),
        mean_score=total / voxels,
        perpendicular_diameter_mm=sizes.perpendicular_mm if geometry.exact else None,
    )


def _side(x: float, geometry: Geometry) -> Side:
    """Patient's side of a RAS x. The scanner's x = 0 need not be the patient's midline."""
    across_slices = geometry.plane == "sagittal"
    if not geometry.spacing_known or (across_slices and not geometry.exact):
        return "unknown"
    middle_index = (np.array(geometry.shape[::-1]) - 1) / 2
    middle = float((geometry.affine[:3, :3] @ middle_index + geometry.affine[:3, 3])[0])
    if abs(x - middle) <= MIDLINE_MM:
        return "midline"
    # RAS x grows to the patient's right.
    return "right" if x > middle else "left"


def _in_plane_matrix(geometry: Geometry) -> npt.NDArray[np.float64]:
    """(2, 2) map from in-slice index steps to mm in the slice, for skewed pixels too."""
    columns = [a for a in range(3) if a != geometry.slice_axis]
    steps = geometry.affine[:3, :3][:, [2 - a for a in columns]]
    return np.asarray(np.linalg.cholesky(steps.T @ steps), dtype=np.float64)


def _pixel_area(to_mm: npt.NDArray[np.float64]) -> float:
    return float(abs(np.linalg.det(to_mm)))


@dataclass(frozen=True)
class _Sizes:
    """Largest sizes of a region in a slice: caliper distances, and area in pixels."""

    longest_mm: float = 0.0
    perpendicular_mm: float = 0.0
    longest_px: float = 0.0
    area_px: int = 0


def _largest_in_plane(planes: npt.NDArray[np.bool_], to_mm: npt.NDArray[np.float64]) -> _Sizes:
    """Sizes over slices; the perpendicular diameter is that of the slice with the longest."""
    sizes = _Sizes()
    for plane in planes:
        area = int(plane.sum())
        if not area:
            continue
        outline = _outline(plane)
        corners = outline @ to_mm
        between = pdist(corners)
        longest = float(between.max())
        longest_px = max(sizes.longest_px, float(pdist(outline).max()))
        sizes = replace(sizes, area_px=max(sizes.area_px, area), longest_px=longest_px)
        if longest > sizes.longest_mm:
            ends = np.column_stack(np.triu_indices(len(corners), 1))[between.argmax()]
            along = np.subtract(*corners[ends]) / longest
            width = float(np.ptp(corners @ (-along[1], along[0])))
            sizes = replace(sizes, longest_mm=longest, perpendicular_mm=width)
    return sizes


def _outline(plane: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Points of a region that suffice to find the longest distance: the ends of its rows.

    A pixel is measured between the middles of its edges, so that n pixels in a row measure n.
    """
    rows = np.flatnonzero(plane.any(axis=1))
    first = plane[rows].argmax(axis=1)
    last = plane.shape[1] - 1 - plane[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)]).astype(float)
    halves = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    points = (ends[:, None, :] + halves).reshape(-1, 2)
    return np.asarray(points[ConvexHull(points).vertices], dtype=np.float64)


_CSV_COLUMNS = (
    "rank",
    "label",
    "side",
    "centroid_x_mm",
    "centroid_y_mm",
    "centroid_z_mm",
    "first_slice",
    "last_slice",
    "peak_slice",
    "voxels",
    "volume_ml",
    "largest_area_mm2",
    "longest_diameter_mm",
    "longest_diameter_px",
    "peak_score",
    "mean_score",
    "unit",
    "perpendicular_diameter_mm",
)


def _row(finding: Finding, unit: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finding's fields for tables, with earlier names of scores if they are correct."""
    nll = {"peak_nll": finding.peak_score, "mean_nll": finding.mean_score} if is_nll(unit) else {}
    return {**asdict(finding), "unit": unit, **nll, **more}


def findings_to_csv(
    findings: Sequence[Finding], more: Sequence[Mapping[str, Any]] | None = None, *, unit: str
) -> str:
    """Table with one row per finding.

    Units of lengths and volumes are in the column names, that of scores is in the column ``unit``.
    Slices count from 0, centroids are RAS. Unknown values are empty. ``more`` contains further
    columns, the same for each finding. Scores in nats per dimension are repeated as ``peak_nll``
    and ``mean_nll``, as in earlier versions.
    """
    further = more or [{}] * len(findings)
    names = [*_CSV_COLUMNS, *(["peak_nll", "mean_nll"] if is_nll(unit) else [])]
    names += further[0] if further else ()
    rows: list[Sequence[Any]] = [names]
    for finding, columns in zip(findings, further, strict=True):
        row = _row(finding, unit, columns)
        for axis, value in zip("xyz", row.pop("centroid_ras_mm") or (None,) * 3, strict=True):
            row[f"centroid_{axis}_mm"] = value
        for name in ("centroid_zyx", "peak_zyx"):
            row.pop(name)
        row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        rows.append([row[name] for name in names])
    return csv_text(rows)


def findings_to_json(
    findings: Sequence[Finding],
    p_values: Mapping[str, Any] | None = None,
    *,
    unit: str,
    more: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Return the findings as a JSON object with the key ``findings``, in full precision.

    ``p_values`` is `PValues.to_dict`, or null; ``unit`` is that of scores, ``more`` as for
    `findings_to_csv`.
    """
    document = {
        "research_use": RESEARCH_USE,
        "unit": unit,
        "units": {
            "score": unit,
            **({"nll": unit} if is_nll(unit) else {}),
            "centroid_ras_mm": "mm, patient axes (right, anterior, superior)",
            "centroid_zyx": "voxels, from 0, axes (Z, Y, X) of the scan's file",
            "slices": "acquired slices, from 0, in file order",
        },
        "p_values": p_values,
        "findings": [
            _row(finding, unit, columns)
            for finding, columns in zip(findings, more or [{}] * len(findings), strict=True)
        ],
    }
    return strict_json(stamped(FindingsFile, document))


def write_findings_csv(
    path: Path,
    findings: Sequence[Finding],
    more: Sequence[Mapping[str, Any]] | None = None,
    *,
    unit: str,
) -> None:
    """Write `findings_to_csv`, completely or not at all (`StorageError`)."""
    atomic_write_text(path, findings_to_csv(findings, more, unit=unit))


def write_findings_json(
    path: Path,
    findings: Sequence[Finding],
    p_values: Mapping[str, Any] | None = None,
    *,
    unit: str,
    more: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write `findings_to_json`, completely or not at all (`StorageError`)."""
    atomic_write_text(path, findings_to_json(findings, p_values, unit=unit, more=more))


Status = Literal["unread", "keep", "unsure", "reject"]


_Voxels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mark:
    """A reader's verdict on a region, and the region's voxels at that time.

    Parameters
    ----------
    voxels : (n,) int64
        Flat indices of the (Z, Y, X) grid, rising. No two marks share one.
    status : {"unread", "keep", "unsure", "reject"}
        "unread" for a region that existed beside one that was read: it counts when they merge.
    comment : str
        Free text.
    """

    voxels: _Voxels = field(repr=False)
    status: Status = "unread"
    comment: str = ""


@dataclass(frozen=True)
class ReviewedFinding:
    """A finding with the reader's verdict.

    Parameters
    ----------
    finding : Finding
        Its measures.
    normal_rank : NormalRank
        How many normal patients score as high.
    status, comment : str
        As in `Mark`.
    note : str
        A sentence if the region merged from several; else "".
    refined : bool
        Whether its outline was refined, see `napari_spatial_ar.review.refining`.
    """

    finding: Finding
    normal_rank: NormalRank
    status: Status = "unread"
    comment: str = ""
    note: str = ""
    refined: bool = False

    @property
    def columns(self) -> dict[str, Any]:
        """Its fields for tables besides its measures."""
        rank = self.normal_rank
        return {
            "status": self.status,
            "comment": self.comment,
            "review_note": self.note,
            "normal_patients_as_high": rank.reaching if rank.patients else None,
            "normal_patients_as_large": rank.as_large,
            "normal_patients": rank.patients or None,
            "one_in_normal_patients": rank.one_in,
            "rarity": rank.sentence,
            "outline_refined": self.refined,
        }


@dataclass(frozen=True)
class FindingsList:
    """Findings of one mask, and the marks from which they inherit their status.

    Parameters
    ----------
    items : tuple of ReviewedFinding
        Highest peak first.
    marks : tuple of Mark
        Including those of regions that are not in the mask now.
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
            Shape of the grid, (Z, Y, X).

        Returns
        -------
        (Z, Y, X) uint16, or int32 if there are more findings than uint16 can count
        """
        wide = len(self.items) > np.iinfo(np.uint16).max
        ranks = np.zeros(len(self.items) + 1, np.int32 if wide else np.uint16)
        for item in self.items:
            ranks[item.finding.label] = 0 if item.status == "reject" else item.finding.rank
        numbers = np.zeros(shape, ranks.dtype)
        numbers.flat[self.voxels] = ranks[self.labels]
        return numbers

    def without_rejected(self, mask: npt.NDArray[np.bool_ | np.uint8]) -> npt.NDArray[np.uint8]:
        """Mask (Z, Y, X) for export; a copy."""
        out = np.array(mask != 0, dtype=np.uint8, order="C")
        out.flat[self.rejected] = 0
        return out

    def decide(
        self, label: int, *, status: Status | None = None, comment: str | None = None
    ) -> FindingsList:
        """Set the status, the comment or both of a finding; None leaves it unchanged.

        Raises
        ------
        KeyError
            If there is no finding with that label.
        """
        items = {item.finding.label: item for item in self.items}
        mine, region = items[label], self.region(label)
        own = Mark(
            region,
            mine.status if status is None else status,
            mine.comment if comment is None else comment,
        )
        others = [replace(m, voxels=np.setdiff1d(m.voxels, region)) for m in self.marks]
        marks = [*(mark for mark in others if len(mark.voxels)), own]
        marked = {number for mark in marks for number in self._overlaps(mark)}
        marks += [Mark(self.region(number)) for number in items if number not in marked]
        return self.with_marks(tuple(marks))

    def _overlaps(self, mark: Mark) -> dict[int, int]:
        """Count the voxels that each region shares with a mark, by label."""
        _, here, _ = np.intersect1d(self.voxels, mark.voxels, True, return_indices=True)
        numbers, counts = np.unique(self.labels[here], return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def heir(self, old: FindingsList, label: int) -> int | None:
        """Label here of the finding with the most voxels of another list's finding, or None."""
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
        """List with the status and comment from other marks."""
        met: dict[int, list[tuple[Mark, int]]] = {}
        for mark in marks:
            for number, shared in self._overlaps(mark).items():
                met.setdefault(number, []).append((mark, shared))
        items = tuple(_merged(item, met.get(item.finding.label, [])) for item in self.items)
        return replace(self, items=items, marks=marks)


def _merged(item: ReviewedFinding, met: list[tuple[Mark, int]]) -> ReviewedFinding:
    """Combine the marks that a finding overlaps."""
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
    mask: npt.NDArray[np.bool_ | np.uint8],
    nll: npt.NDArray[np.floating],
    geometry: Geometry,
    *,
    model: Calibrated | None = None,
    body: int | None = None,
    marks: Sequence[Mark] = (),
    refined: Sequence[Refined] = (),
) -> FindingsList:
    """Measure a mask's regions; each inherits the status given to its voxels before.

    Parameters
    ----------
    mask, nll, geometry : (Z, Y, X) array, (Z, Y, X) floating, Geometry
        As for `find_findings`.
    model : NormativeModel, optional
        Its calibration gives the rank of a finding among normal patients.
    body : int, optional
        See `normal_rank`: without it, sizes are not compared with those in normal patients.
    marks : sequence of Mark
        Those of an earlier list on the same grid.
    refined : sequence of Refined
        Outlines of the mask that were refined.

    Raises
    ------
    InputError
        If mask or scores are not on the grid.
    """
    labels = label_components(mask)
    boxes = ndimage.find_objects(labels)
    fitted = {int(label) for one in refined for label in np.unique(labels.flat[one.inside])}
    items = []
    for finding in find_findings(mask, nll, geometry, labels=labels):
        box = boxes[finding.label - 1]
        inside = np.moveaxis(labels[box] == finding.label, geometry.slice_axis, 0)
        extent = extent_of(inside, np.moveaxis(nll[box], geometry.slice_axis, 0))
        rank = normal_rank(model, finding.peak_score, extent, body)
        items.append(ReviewedFinding(finding, rank, refined=finding.label in fitted))
    flat = labels.ravel()
    voxels = np.flatnonzero(flat)
    return FindingsList(tuple(items), (), voxels, flat[voxels]).with_marks(tuple(marks))
