"""One scan layer scored by one model: its scores, heatmap and mask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.layers import (
    heatmap_layer,
    layer_volume,
    mask_layer,
    unseen_layer,
    unseen_voxels,
)
from napari_spatial_ar.gui.viewer import shows_slices
from napari_spatial_ar.imaging.geometry import Geometry, Plane
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.cancellation import cancel_when
from napari_spatial_ar.normative.scores import ScanScores, SliceScore
from napari_spatial_ar.normative.scoring import score_slices
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.domain_shift import flagged_warning, unseen_note
from napari_spatial_ar.review.findings import Finding, FindingsList, Mark, Status
from napari_spatial_ar.review.strokes import Strokes
from napari_spatial_ar.review.threshold_scales import ScoreCounts

if TYPE_CHECKING:
    from napari.components import ViewerModel


__all__ = ["Session", "calibrated_thresholds", "from_slice_outward", "same_model", "score_steps"]

# Minimum interval between batches of slices for the GUI: each costs it a redraw.
_YIELD_SECONDS = 0.1
_FPRS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)

Scored = list[tuple[int, SliceScore]]


def from_slice_outward(count: int, start: int) -> list[int]:
    """Slices 0..count-1 from one slice outward."""
    return sorted(range(count), key=lambda index: (abs(index - start), index))


def score_steps(
    stop: threading.Event,
    model: ScoringModel,
    volume: Scan,
    slices: Sequence[int],
    look: Callable[[int], object] = lambda index: None,
    stored: ScanScores | None = None,
) -> Generator[Scored, None, None]:
    """Score slices in order, yielding finished ones about ten times a second.

    Stops soon after ``stop`` is set, even within a slice, which then counts as not scored; finished
    slices are still yielded. ``look`` is called in the worker with each finished slice; slices that
    are ``stored`` are not computed again.
    """
    batch: Scored = []
    last = 0.0
    speed_up = partial(model_access.choose_engine, model)
    with cancel_when(stop.is_set), suppress(Cancelled):
        for index, score in score_slices(model, volume, slices, stored=stored, speed_up=speed_up):
            look(index)
            batch.append((index, score))
            now = time.monotonic()
            if stop.is_set():
                break
            if now - last >= _YIELD_SECONDS:
                last = now
                yield batch
                batch = []
    if batch:
        yield batch


def same_model(a: ScoringModel | None, b: ScoringModel | None) -> bool:
    """Whether two models are the same, which may have been loaded twice."""
    if a is None or b is None:
        return a is b
    return a is b or bool(a.sha256 and (a.name, a.sha256) == (b.name, b.sha256))


def calibrated_thresholds(model: ScoringModel) -> dict[float, float]:
    """Thresholds by share of normal tissue flagged, in the calibrated range."""
    found: dict[float, float] = {}
    for fpr in _FPRS:
        try:
            found[fpr] = float(model.threshold_for_fpr(fpr))
        except InputError:
            continue
    return found


class Session:
    """All results of scoring a layer, and what a reader decided about them.

    Other modules read its fields; only its own methods set them.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer that holds the layer.
    layer : napari.layers.Image
        The scan. Sessions are bound to it: renaming it changes nothing.
    model : NormativeModel
        The model.
    plane : {"axial", "coronal", "sagittal"}, optional
        Plane of the slices to score; by default as acquired.

    Raises
    ------
    InputError
        If the layer is not a scan.
    """

    def __init__(
        self, viewer: ViewerModel, layer: Image, model: ScoringModel, plane: Plane | None = None
    ):
        self.viewer = viewer
        self.layer = layer
        self.model = model
        self.plane = plane
        self.volume = layer_volume(layer).along(plane)
        self.score = ScanScores.empty(self.volume.geometry)
        self.body = Body(self.volume, model)
        self.counts = ScoreCounts(self.geometry.slice_count)
        self.heatmap: Image | None = None
        self.mask: Labels | None = None
        self.shade: Image | None = None  # over slices that are left out
        self.drawn = np.zeros((0, 0, 0), np.uint8)  # the mask layer's data without manual edits
        self.strokes = Strokes()
        self.normal_rank = ""  # of the whole scan among normal ones, as a sentence
        self.unseen = ""  # which slices the model knows, as a sentence; "" for all
        self.flagged = ""  # a warning that far more of it is flagged than is plausible
        self.status = ""  # latest status of the scoring
        self.highest = -np.inf  # highest voxel score so far, in the model's unit
        self.typical_high = 0.0  # 99th percentile of the first slice that was scored
        self.listed = FindingsList()
        self.chosen: Finding | None = None
        self.on_disk = False  # whether a worklist stores what a reader does
        self._data = layer.data
        self._drawn: tuple[float, float] | None = None
        self._shaded = self.score.left_out
        self._anchors = calibrated_thresholds(model)

    @property
    def geometry(self) -> Geometry:
        """Grid of the scan."""
        return self.volume.geometry

    @property
    def nll_planes(self) -> npt.NDArray[np.float32]:
        """(N, rows, columns), a view: scores of acquired slices, axes as in (Z, Y, X)."""
        return np.moveaxis(self.score.nll, self.geometry.slice_axis, 0)

    def fits(
        self, layer: Image | None, model: ScoringModel | None, plane: Plane | None = None
    ) -> bool:
        """Whether this is the session of a layer, model and plane, and the scan is unchanged."""
        data = layer.data if layer is not None else None
        same_scan = layer is self.layer and data is self._data
        return same_scan and same_model(model, self.model) and self.plane == plane

    @property
    def alive(self) -> bool:
        """Whether the scan is still in the viewer."""
        return self.layer in self.viewer.layers

    @property
    def holds_work(self) -> bool:
        """Whether there is manual work that is stored nowhere else."""
        if self.on_disk:
            return False
        painted = self.mask is not None and not np.array_equal(self.mask.data, self.drawn)
        marked = any(mark.comment or mark.status != "unread" for mark in self.listed.marks)
        return bool(self.strokes) or painted or marked

    @property
    def any_scored(self) -> bool:
        """Whether there is anything to show or to export."""
        return bool((self.score.scored | self.score.left_out).any())

    @property
    def results(self) -> tuple[Layer | None, ...]:
        """The layers of its results; None where there is none yet."""
        return self.heatmap, self.mask, self.shade

    @property
    def highest_slice(self) -> int | None:
        """Slice with the highest score so far."""
        if not np.isfinite(self.score.image_scores).any():
            return None
        return int(np.nanargmax(self.score.image_scores))

    def put(self, batch: Scored) -> list[int]:
        """Add scored slices, draw them, and return their indices."""
        changed: list[int] = []
        for index, slice_score in batch:
            changed += [index, *self.score.put(index, slice_score)]
        indices = list(dict.fromkeys(changed))
        self._draw(indices)
        return indices

    def count_unseen(self, counted: bool) -> bool:
        """Count slices that the model has not seen, or leave them out; whether that changed any."""
        changed = self.score.count_unseen(counted)
        self.unseen = unseen_note(self.score)
        if changed:
            self._draw(changed)
        return bool(changed)

    def _draw(self, indices: list[int]) -> None:
        """Draw slices that were scored, left out or counted again."""
        for index in indices:
            plane = self.nll_planes[index] if self.score.scored[index] else np.empty((0, 0))
            self.counts.put(index, plane[self.body.plane(index)] if plane.size else plane)
            if plane.size:
                self.highest = max(self.highest, float(plane.max()))
                self.typical_high = self.typical_high or float(np.percentile(plane, 99))
        self.unseen = unseen_note(self.score)
        if self.any_scored:
            self._draw_heatmap(indices)
            self._draw_shade()

    # ------------------------------------------------------------------ decisions and comments

    def set_status(self, text: str) -> None:
        """Set the status line of the scoring."""
        self.status = text

    def set_normal_rank(self, text: str) -> None:
        """Set the sentence that compares the whole scan with normal ones."""
        self.normal_rank = text

    def judge(self) -> None:
        """Update `flagged` from the current scores."""
        self.flagged = flagged_warning(
            self.model,
            self.counts.share_above,
            slices=int(np.count_nonzero(self.score.scored)),
            whole=bool(self.score.visited.all()),
        )
        self.unseen = unseen_note(self.score)

    # ------------------------------------------------------------------ what a reader does

    def set_findings(self, listed: FindingsList) -> None:
        """Set the findings of another mask; verdicts and the chosen finding are kept."""
        old, self.listed = self.listed, listed.with_marks(self.listed.marks)
        peak = None if self.chosen is None else (self.chosen.peak_score, self.chosen.peak_slice)
        found = (item.finding for item in self.listed.items)
        same = next((f for f in found if (f.peak_score, f.peak_slice) == peak), None)
        if same is None and self.chosen is not None:
            # Its peak is gone, but part of it may not be.
            self.choose(listed.heir(old, self.chosen.label))
        else:
            self.chosen = same

    def choose(self, label: int | None) -> None:
        """Choose a finding by its label; None: none of them."""
        found = (item.finding for item in self.listed.items)
        self.chosen = next((f for f in found if f.label == label), None)

    def decide(
        self, label: int, *, status: Status | None = None, comment: str | None = None
    ) -> None:
        """Give a finding a status or a comment."""
        self.listed = self.listed.decide(label, status=status, comment=comment)

    def keep_comment(self, listed: FindingsList, label: int, comment: str) -> None:
        """Keep the comment on a finding of an earlier list that is no longer in this one."""
        self.listed = self.listed.keep_comment(listed, label, comment)

    def set_strokes(self, strokes: Strokes) -> None:
        """Set the manual edits made so far."""
        self.strokes = strokes

    def bring_back(self, marks: tuple[Mark, ...], strokes: Strokes) -> None:
        """Restore what a worklist stored, unless there are newer verdicts or edits."""
        if not self.listed.marks and not self.strokes:
            self.listed, self.strokes = self.listed.with_marks(marks), strokes

    def keep_on_disk(self) -> None:
        """Mark that a worklist stores what a reader does."""
        self.on_disk = True

    # ------------------------------------------------------------------ layers

    def ensure_heatmap(self) -> None:
        """Create the heatmap again if the user deleted it."""
        if self.any_scored and self.heatmap not in self.viewer.layers:
            self._draw_heatmap(np.flatnonzero(self.score.scored).tolist())

    def show_again(self) -> None:
        """Restore heatmap and mask in the viewer, including manual edits."""
        for layer in self.results:
            if layer is not None and layer not in self.viewer.layers:
                self._insert(layer)

    def _draw_heatmap(self, indices: Collection[int]) -> None:
        if self.heatmap is None or self.heatmap not in self.viewer.layers:
            self.heatmap = heatmap_layer(self.layer, self.volume, self.score.nll, self.model)
            self._drawn = None
            self._insert(self.heatmap)
        self._set_limits(indices)
        # Drawing is the main cost in the GUI, and most slices arrive out of view.
        if shows_slices(self.viewer, self.heatmap, self.geometry, indices):
            self.heatmap.refresh(thumbnail=False, highlight=False, extent=False)

    def _draw_shade(self) -> None:
        """Draw a grey shade over the slices that are left out, if there are or were any."""
        left_out = self.score.left_out
        if self.shade is not None and self.shade in self.viewer.layers:
            if not np.array_equal(left_out, self._shaded):
                self.shade.data = unseen_voxels(self.volume, left_out)
        elif left_out.any():
            self.shade = unseen_layer(self.layer, self.volume, left_out, self.model)
            self._insert(self.shade)
        self._shaded = left_out

    def _insert(self, layer: Layer) -> None:
        """Add a layer above the scan without changing the user's selection."""
        selection = self.viewer.layers.selection
        selected = set(selection)
        # napari selects a new layer, and would show its controls only to hide them again.
        with selection.events.blocker_all():
            self.viewer.add_layer(layer)
            self.viewer.layers.selection = selected
        if not selected:
            self.viewer.layers.selection = {self.layer}

    def _set_limits(self, indices: Iterable[int]) -> None:
        """Colours range from the median of normal tissue to the scan's high scores.

        The upper end only ever grows, so that new slices do not make it flicker; limits that the
        user changed are kept.
        """
        assert self.heatmap is not None
        shown = tuple(float(v) for v in self.heatmap.contrast_limits)
        if self._drawn is not None and not np.allclose(shown, self._drawn):
            return
        slices = self.geometry.to_slices(self.score.nll)
        if not self.score.scored.any():
            return  # all of them are left out
        new = [i for i in indices if self.score.scored[i]]
        # Every other pixel is enough for a percentile and keeps the GUI responsive.
        highs = [float(np.percentile(slices[i, ::2, ::2], 99.8)) for i in new]
        if self._anchors:
            low = max(self._anchors.values()) if 0.5 not in self._anchors else self._anchors[0.5]
            highs.append(1.5 * max(self._anchors.values()) - 0.5 * low)
        else:
            low = float(np.median(slices[self.score.scored][:, ::4, ::4]))
        if self._drawn is not None:
            highs.append(self._drawn[1])
        limits = (low, max([*highs, low + 1e-3]))
        if limits != self._drawn:
            self.heatmap.contrast_limits_range = (min(0.0, low), 2 * limits[1] - low)
            self.heatmap.contrast_limits = limits
            low, high = self.heatmap.contrast_limits
            self._drawn = (float(low), float(high))

    def ensure_mask(self) -> Labels:
        """Return the mask layer, created again if the user deleted or replaced it."""
        fits = (
            self.mask is not None
            and self.mask in self.viewer.layers
            and self.mask.data.shape == self.geometry.display_shape
        )
        if not fits:
            empty = np.zeros(self.geometry.shape, dtype=np.uint8)
            self.mask = mask_layer(self.layer, self.volume, empty, self.model)
            self.drawn = np.array(self.mask.data)
            self._insert(self.mask)
        assert self.mask is not None
        return self.mask
