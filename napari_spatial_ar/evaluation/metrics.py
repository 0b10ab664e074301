"""Detection metrics over pixels and images; scores of pixels are stored on disk, sorted.

An external merge sort: the pixels of a patient are sorted in memory, with equal scores counted
together, and written as a run to a temporary file; at the end the runs are cut at common scores and
merged piece by piece. The result is exact, including ties; memory is limited by the size of a run
and of a piece, whatever the number of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from skimage.measure import label as label_regions

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import ScratchFile

__all__ = [
    "PRO_MAX_FPR",
    "Block",
    "Curve",
    "PixelFigures",
    "PixelScores",
    "Totals",
    "average_precision",
    "dice",
    "pixel_figures",
    "roc_auc",
]

Floats = npt.NDArray[np.float64]


# A normal pixel adds only to a count, an abnormal one also its share of its region.
_NORMAL = np.dtype([("score", "<f4"), ("count", "<u4")])


_ABNORMAL = np.dtype([("score", "<f4"), ("count", "<u4"), ("share", "<f8")])


_RUN = 4_000_000


_PIECE = 4_000_000


# Every n-th record of a run is held in memory, to choose where pieces end.
_SAMPLE = 1024


class Block(NamedTuple):
    """Distinct scores, falling, and the number of pixels with each: all (n,).

    ``share`` is the sum, over these abnormal pixels, of 1 / size of the region of each.
    """

    score: npt.NDArray[np.float32]
    normal: Floats
    abnormal: Floats
    share: Floats


@dataclass(frozen=True)
class Totals:
    """Number of pixels of each kind, and of connected abnormal regions."""

    normal: int
    abnormal: int
    regions: int


class _Runs:
    """Records sorted by score, run after run, in one temporary file."""

    def __init__(self, dtype: np.dtype[Any], folder: Path | None) -> None:
        self.dtype = dtype
        self._file = ScratchFile(folder)
        self.ends = [0]
        self.samples: list[npt.NDArray[np.float32]] = []

    def append(self, records: npt.NDArray[Any]) -> None:
        """Write a run, which may be empty."""
        self._file.append(records.tobytes())
        self.ends.append(self.ends[-1] + len(records))
        self.samples.append(records["score"][_SAMPLE // 2 :: _SAMPLE].copy())

    def read(self, first: int, last: int) -> npt.NDArray[Any]:
        """Return records first to last - 1 of the file."""
        size = self.dtype.itemsize
        return np.frombuffer(self._file.read(first * size, (last - first) * size), self.dtype)

    def cuts(self, splitters: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Where each run exceeds each splitter: (runs, pieces + 1) record numbers."""
        cuts = []
        for first, last in zip(self.ends[:-1], self.ends[1:], strict=True):
            inner = np.searchsorted(self.read(first, last)["score"], splitters, side="right")
            cuts.append(np.concatenate([[first], first + inner, [last]]))
        return np.stack(cuts)

    def close(self) -> None:
        """Release the disk space."""
        self._file.close()


class PixelScores:
    """Pixel scores with their labels, added image by image.

    Parameters
    ----------
    folder : Path, optional
        Folder of the temporary files; by default the system's. They take 4 to 8 bytes for each
        normal pixel and up to 16 for each abnormal one.
    run : int
        Number of pixels sorted at a time.

    Raises
    ------
    StorageError
        If the disk has no room for them.
    """

    def __init__(self, folder: Path | None = None, *, run: int = _RUN) -> None:
        self._normal = _Runs(_NORMAL, folder)
        self._abnormal = _Runs(_ABNORMAL, folder)
        self._run = run
        self._pending: list[tuple[npt.NDArray[Any], ...]] = []
        self._pending_pixels = 0
        #: Patient of each run.
        self._owners: list[str] = []
        self._patient = ""
        self._totals = Totals(0, 0, 0)

    def __enter__(self) -> PixelScores:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary files."""
        self._normal.close()
        self._abnormal.close()

    def add(
        self,
        scores: npt.NDArray[np.float32],
        label: npt.NDArray[np.bool_],
        patient: str = "",
    ) -> None:
        """Add an image.

        Parameters
        ----------
        scores : (rows, columns) float32
            Larger is more abnormal.
        label : (rows, columns) bool
            True where abnormal; regions are 8-connected.
        patient : str
            Patient of the image. Add a patient's images consecutively, for fewer and longer runs.

        Raises
        ------
        InputError
            If a score is not finite or the shapes differ.
        StorageError
            If the disk is full.
        """
        if scores.shape != label.shape:
            raise InputError(f"the label has {label.shape} pixels and its heatmap {scores.shape}")
        if not np.isfinite(scores).all():
            raise InputError("the heatmap contains values that are not finite numbers")
        if patient != self._patient or self._pending_pixels + scores.size > self._run:
            self._flush()
        self._patient = patient
        scores = np.asarray(scores, np.float32)
        share = np.empty(0)
        regions = 0
        if label.any():
            numbered, regions = label_regions(label, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
            share = 1 / np.bincount(numbered.ravel())[numbered[label]]
        found = scores[label]
        self._pending.append((scores[~label], found, share))
        self._pending_pixels += scores.size
        self._totals = Totals(
            self._totals.normal + scores.size - found.size,
            self._totals.abnormal + found.size,
            self._totals.regions + regions,
        )

    @property
    def totals(self) -> Totals:
        """Number of pixels and regions added so far."""
        return self._totals

    def _flush(self) -> None:
        if not self._pending:
            return
        normal, abnormal, share = map(np.concatenate, zip(*self._pending, strict=True))
        self._pending, self._pending_pixels = [], 0
        normal.sort()
        first = _first_of_each(normal)
        records = np.empty(len(first), _NORMAL)
        records["score"] = normal[first]
        records["count"] = np.diff(first, append=len(normal))
        self._normal.append(records)
        order = np.argsort(abnormal)
        abnormal, share = abnormal[order], share[order]
        first = _first_of_each(abnormal)
        records = np.empty(len(first), _ABNORMAL)
        records["score"] = abnormal[first]
        records["count"] = np.diff(first, append=len(abnormal))
        records["share"] = np.add.reduceat(share, first) if len(first) else 0
        self._abnormal.append(records)
        self._owners.append(self._patient)

    def descending(self, piece: int = _PIECE) -> Iterator[Block]:
        """Yield all distinct scores from high to low, in blocks of about ``piece`` or fewer."""
        self._flush()
        if not self._owners:
            return
        sample = np.sort(np.concatenate([*self._normal.samples, *self._abnormal.samples]))
        splitters = np.unique(sample[:: max(1, piece // _SAMPLE)][1:])
        cuts = [runs.cuts(splitters) for runs in (self._normal, self._abnormal)]
        for number in reversed(range(len(splitters) + 1)):
            parts = [
                np.concatenate(
                    [runs.read(a, b) for a, b in at[:, number : number + 2].tolist() if b > a]
                    or [np.empty(0, runs.dtype)]
                )
                for runs, at in zip((self._normal, self._abnormal), cuts, strict=True)
            ]
            if any(map(len, parts)):
                yield _merge(*parts)

    def per_patient(
        self, thresholds: npt.NDArray[np.float32]
    ) -> tuple[list[str], Floats, Floats, Floats]:
        """Count the pixels of each patient at or above thresholds.

        Parameters
        ----------
        thresholds : (n,) float32
            Falling.

        Returns
        -------
        patients : list of str
            In the order they were first added.
        normal, abnormal, share : (patients, n) float64
            Normal and abnormal pixels found, and the sum of their shares of their regions.
        """
        self._flush()
        patients = list(dict.fromkeys(self._owners))
        row = {patient: number for number, patient in enumerate(patients)}
        normal, abnormal, share = np.zeros((3, len(patients), len(thresholds)))
        for number, owner in enumerate(self._owners):
            part = self._normal.read(*self._normal.ends[number : number + 2])
            (found,) = _at_or_above(part, thresholds, "count")
            normal[row[owner]] += found
            part = self._abnormal.read(*self._abnormal.ends[number : number + 2])
            found, shares = _at_or_above(part, thresholds, "count", "share")
            abnormal[row[owner]] += found
            share[row[owner]] += shares
        return patients, normal, abnormal, share


def _first_of_each(rising: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Index of the first of each distinct value."""
    return np.flatnonzero(np.concatenate([[True], rising[1:] != rising[:-1]])[: len(rising)])


def _merge(normal: npt.NDArray[Any], abnormal: npt.NDArray[Any]) -> Block:
    together = np.concatenate([normal["score"], abnormal["score"]])
    score, place = np.unique(together, return_inverse=True)
    at_normal, at_abnormal = place[: len(normal)], place[len(normal) :]
    return Block(
        score[::-1],
        *(
            np.bincount(where, part[column].astype(np.float64), len(score))[::-1].astype(np.float64)
            for where, part, column in (
                (at_normal, normal, "count"),
                (at_abnormal, abnormal, "count"),
                (at_abnormal, abnormal, "share"),
            )
        ),
    )


def _at_or_above(
    rising: npt.NDArray[Any], thresholds: npt.NDArray[np.float32], *columns: str
) -> list[Floats]:
    """Sum columns over the records at or above each threshold."""
    first = np.searchsorted(rising["score"], thresholds, side="left")
    sums = []
    for column in columns:
        running = np.concatenate([[0.0], np.cumsum(rising[column], dtype=np.float64)])
        sums.append(running[-1] - running[first])
    return sums


#: False-positive share at which the area under the PRO curve ends, as in the literature.
PRO_MAX_FPR = 0.3


# A curve has a point wherever one of its shares passes another of this many steps.
_STEPS = 1024


# Low false-positive shares are resolved more finely: this many points per power of ten.
_STEPS_A_DECADE = 64


def roc_auc(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float | None:
    """Area under the ROC curve; None unless both classes occur.

    Raises
    ------
    InputError
        If a score is not finite.
    """
    if labels.all() or not labels.any():
        return None
    positive, negative = _at_each_score(labels, scores)
    recall, fpr = (np.cumsum([0, *counts]) / counts.sum() for counts in (positive, negative))
    return float(np.trapezoid(recall, fpr))


def average_precision(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float | None:
    """Area under the precision-recall curve as average precision; None without positives.

    Raises
    ------
    InputError
        If a score is not finite.
    """
    if not labels.any():
        return None
    positive, negative = _at_each_score(labels, scores)
    precision = positive.cumsum() / (positive + negative).cumsum()
    return float(precision @ (positive / positive.sum()))


def _at_each_score(
    labels: npt.NDArray[Any], scores: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count positives and negatives of each distinct score, from high to low."""
    if not np.isfinite(scores).all():
        raise InputError("scores of images are not finite numbers")
    order = np.argsort(scores, axis=None)[::-1]
    falling, positive = scores.ravel()[order], labels.ravel()[order].astype(bool)
    first = _first_of_each(falling)
    count = np.diff(first, append=len(falling))
    found = np.add.reduceat(positive, first, dtype=np.int64)
    return found, count - found


def dice(found: float, false: float, abnormal: float) -> float | None:
    """Dice overlap of a mask with the label; None if both are empty.

    Parameters
    ----------
    found, false : float
        Abnormal and normal pixels in the mask.
    abnormal : float
        Pixels in the label.
    """
    total = found + false + abnormal
    return 2 * found / total if total else None


@dataclass(frozen=True)
class Curve:
    """Points of the ROC, precision-recall and PRO curves, thresholds falling; all (n,).

    Parameters
    ----------
    threshold : float32
        A pixel is found if its score is at least this.
    fpr : float64
        Share of the normal pixels found.
    recall : float64
        Share of the abnormal pixels found.
    precision : float64
        Share of the pixels found that are abnormal.
    overlap : float64
        Mean over connected abnormal regions of the share of the region found.
    """

    threshold: npt.NDArray[np.float32] = field(repr=False)
    fpr: Floats = field(repr=False)
    recall: Floats = field(repr=False)
    precision: Floats = field(repr=False)
    overlap: Floats = field(repr=False)


@dataclass(frozen=True)
class PixelFigures:
    """Exact figures over all pixels, in memory; see `pixel_figures`."""

    auroc: float
    aupr: float
    aupro: float
    best_dice: float
    best_threshold: float
    curve: Curve = field(repr=False)


def pixel_figures(scores: PixelScores, *, max_fpr: float = PRO_MAX_FPR) -> PixelFigures | None:
    """Compute every threshold-free figure in one pass over the scores from high to low.

    - AUROC: area under recall against the false-positive rate, ties as straight lines.
    - AUPR: average precision, the sum of precision times the step in recall over all distinct
      scores (scikit-learn's definition).
    - AUPRO (Bergmann et al., CVPR 2020): area under the mean overlap of connected regions against
      the false-positive rate up to ``max_fpr``, as a share of that.
    - Best Dice: the maximum over all thresholds. The threshold is chosen with the labels, so it
      is an oracle's.

    Parameters
    ----------
    scores : PixelScores
        Every pixel.
    max_fpr : float
        Upper limit of the area under the PRO curve.

    Returns
    -------
    PixelFigures or None
        None unless there are normal and abnormal pixels. The curve has at most some 2,500
        points; the areas are over all.
    """
    totals = scores.totals
    if not totals.normal or not totals.abnormal:
        return None
    auroc = aupr = area = 0.0
    best, best_threshold = 0.0, np.inf
    false = found = overlap = 0.0
    kept = []
    for block in scores.descending():
        falses = np.concatenate([[false], false + np.cumsum(block.normal)])
        founds = np.concatenate([[found], found + np.cumsum(block.abnormal)])
        overlaps = np.concatenate([[overlap], overlap + np.cumsum(block.share)])
        fpr, recall = falses / totals.normal, founds / totals.abnormal
        pro = overlaps / totals.regions
        precision = founds[1:] / (founds[1:] + falses[1:])
        auroc += float(np.trapezoid(recall, fpr))
        aupr += float(np.sum(np.diff(recall) * precision))
        if fpr[0] < max_fpr:
            inside = fpr <= max_fpr
            area += float(np.trapezoid(pro[inside], fpr[inside]))
            if not inside.all():
                last = int(np.flatnonzero(inside)[-1])
                at_end = np.interp(max_fpr, fpr[last : last + 2], pro[last : last + 2])
                area += float((max_fpr - fpr[last]) * (pro[last] + at_end) / 2)
        overlap_with_label = 2 * founds[1:] / (founds[1:] + falses[1:] + totals.abnormal)
        top = int(overlap_with_label.argmax())
        if overlap_with_label[top] > best:
            best, best_threshold = float(overlap_with_label[top]), float(block.score[top])
        at = _worth_keeping(fpr, recall)
        kept.append((block.score[at], fpr[1:][at], recall[1:][at], precision[at], pro[1:][at]))
        false, found, overlap = float(falses[-1]), float(founds[-1]), float(overlaps[-1])
    return PixelFigures(
        auroc=auroc,
        aupr=aupr,
        aupro=area / max_fpr,
        best_dice=best,
        best_threshold=best_threshold,
        curve=Curve(*(np.concatenate(column) for column in zip(*kept, strict=True))),
    )


def _worth_keeping(fpr: Floats, recall: Floats) -> npt.NDArray[np.intp]:
    """Index of the points at which a share enters another step, and of the last point."""
    low = np.log10(np.maximum(fpr, 1e-6)) * _STEPS_A_DECADE
    steps = [np.floor(values) for values in (fpr * _STEPS, recall * _STEPS, low)]
    passes = np.any([np.diff(step) != 0 for step in steps], axis=0)
    at_end = fpr[-1] == 1 and recall[-1] == 1
    if at_end:
        passes[-1] = True
    return np.flatnonzero(passes)
