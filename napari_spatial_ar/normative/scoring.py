"""The loop over the slices of a scan, shared by everything that scores scans. No torch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.scores import ScanScores, SliceScore
from napari_spatial_ar.normative.scoring_model import ScoringModel

__all__ = ["score_slices"]

# Slices scored before a faster engine is searched for, which may take longer than scoring them.
_AT_ONCE = 3


def score_slices(
    model: ScoringModel,
    volume: Scan,
    slices: Sequence[int] | None = None,
    *,
    scores: ScanScores | None = None,
    stored: ScanScores | None = None,
    speed_up: Callable[[], None] | None = None,
) -> Generator[tuple[int, SliceScore], None, None]:
    """Score slices of a scan one by one; close it to stop between two slices.

    To stop within a slice, see `napari_spatial_ar.normative.cancellation.cancel_when`.

    Parameters
    ----------
    model : ScoringModel
        The model.
    volume : Scan
        The scan, cut into the plane of the model (`NormativeModel.cut`).
    slices : sequence of int, optional
        Indices along ``volume.geometry.slice_axis``, in the order of scoring; all by default.
    scores : ScanScores, optional
        Filled slice by slice, each before it is yielded.
    stored : ScanScores, optional
        Scores computed earlier by this model; yielded first, not computed again.
    speed_up : callable, optional
        Called after the first few slices where more are left, to choose a faster engine.

    Yields
    ------
    (int, SliceScore)
        For a slice without body, zeros and an image score of NaN.

    Raises
    ------
    InputError
        If an index is out of range or the slices are smaller than a patch.
    MemoryShortage
        If memory does not suffice for a slice on the CPU either.
    """
    order = list(range(volume.geometry.slice_count) if slices is None else slices)

    def scored() -> Generator[tuple[int, SliceScore], None, None]:
        left = order
        if stored is not None:
            yield from ((i, stored.slice_score(i)) for i in order if stored.visited[i])
            left = [i for i in order if not stored.visited[i]]
        first = len(left) if speed_up is None else _AT_ONCE
        if left:
            yield from model.iter_volume(volume, left[:first])
        if left[first:] and speed_up is not None:
            speed_up()
            yield from model.iter_volume(volume, left[first:])

    for index, score in scored():
        if scores is not None:
            scores.put(index, score)
        yield index, score
