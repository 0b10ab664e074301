"""The mask of the chosen session: computed, drawn, and edited by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Labels
from qtpy.QtCore import QObject, QTimer, Signal

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.gui.jobs import Task, TaskHost, report
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.mask_labels import (
    IN_MASK,
    NUMBERED,
    label_colormap,
    label_features,
    label_values,
    within,
)
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.viewer import shows_slices, view_index
from napari_spatial_ar.normative.cancellation import cancel_when
from napari_spatial_ar.review.findings import Finding, FindingsList, Status, list_findings
from napari_spatial_ar.review.masks import MaskSettings, make_mask, make_slice_mask
from napari_spatial_ar.review.refining import RefinedAll, refine_all
from napari_spatial_ar.review.strokes import Strokes

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.utils.events import Event


__all__ = ["MaskController", "MaskDrawing", "Reviewed"]


class MaskDrawing(QObject):
    """Draws masks, and distinguishes brush edits from what it drew itself."""

    #: A person painted, erased, or undid an edit.
    touched = Signal()

    def __init__(self, viewer: ViewerModel, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Labels | None = None
        self._point: tuple[float, ...] = ()
        self._drawing = self._brush = self._pending = False
        self._coloured: tuple[object, ...] = ()

    def layer(self, session: Session) -> Labels:
        """Return the session's mask layer, and connect to its edits."""
        layer = session.ensure_mask()
        if layer is not self._layer:
            if self._layer is not None:
                self._layer.events.paint.disconnect(self._on_paint)
                self._layer.events.set_data.disconnect(self._on_view)
            # napari holds these by weak reference.
            layer.events.paint.connect(self._on_paint)
            layer.events.set_data.connect(self._on_view)
            self._layer, self._point = layer, self._viewer.dims.point
        return layer

    def _on_paint(self, event: Event | None = None) -> None:
        self._brush = True
        self._mark_touched()

    def _on_view(self, event: Event | None = None) -> None:
        """Detect an undo, which has no event of its own: the same slice drawn again."""
        point, self._point = self._point, self._viewer.dims.point
        if not self._drawing and point == self._point:
            self._mark_touched()

    def _mark_touched(self) -> None:
        self._pending = True
        # Qt may delete the dock before its Python half.
        with suppress(RuntimeError):
            self.touched.emit()

    def collect_strokes(self, session: Session, threshold: float, *, compare: bool = False) -> bool:
        """Add a person's changes to the session's manual edits; False if there were none.

        Parameters
        ----------
        session : Session
            The session with the layer.
        threshold : float
            The one with which the layer was drawn, in the model's unit.
        compare : bool
            Compare the layer even if no event reported a change.
        """
        if not (self._pending or compare) or session.mask not in self._viewer.layers:
            return False
        undone, self._brush, self._pending = not self._brush, False, False
        data = np.asarray(self.layer(session).data)
        if np.array_equal(data, session.drawn):
            return False
        now, before = (session.geometry.from_display(array) for array in (data, session.drawn))
        changed = np.flatnonzero((now != 0) != (before != 0))
        where = np.unravel_index(changed, now.shape)
        strokes = session.strokes
        computed = session.score.nll[where] > threshold
        fitted = Strokes(refined=strokes.refined)
        computed |= np.isin(changed, fitted.inside)
        computed &= ~np.isin(changed, fitted.outside)
        session.set_strokes(strokes.with_stroke(changed, now[where] != 0, computed, undone=undone))
        session.drawn[...] = data
        return True

    def edit(self, session: Session, mask: npt.NDArray[np.uint8]) -> None:
        """Draw a mask (Z, Y, X) as an edit that the layer's undo takes back in one step."""
        layer = self.layer(session)
        wanted = session.geometry.to_display(mask) != 0
        places = np.nonzero((np.asarray(layer.data) != 0) != wanted)
        self._drawing = True
        try:
            layer.data_setitem(places, np.where(wanted[places], IN_MASK, 0).astype(np.uint8))
        finally:
            self._drawing = False
        session.drawn[...] = layer.data

    def draw(self, session: Session, mask: npt.NDArray[np.uint8]) -> None:
        """Draw a mask (Z, Y, X) of the whole volume, including manual edits."""
        self.layer(session).data[...] = session.geometry.to_display(mask) * np.uint8(IN_MASK)
        self.overlay(session, thumbnail=True)

    def overlay(
        self, session: Session, indices: Collection[int] | None = None, *, thumbnail: bool = False
    ) -> None:
        """Apply manual edits to a new mask, number its findings and give each its colour.

        ``indices`` are the acquired slices that were drawn; None for all of them.
        """
        layer = self.layer(session)
        for index in (None,) if indices is None else indices:
            self._lay(session, layer, index)
        self._colour(session, layer)
        if indices is None or shows_slices(self._viewer, layer, session.geometry, indices):
            self.refresh(layer, thumbnail=thumbnail)

    def _lay(self, session: Session, layer: Labels, index: int | None) -> None:
        geometry, listed = session.geometry, session.listed
        data, drawn = (geometry.from_display(array) for array in (layer.data, session.drawn))
        axis = geometry.slice_axis
        part = (slice(None),) * axis + (slice(None) if index is None else index,)

        def voxels(flat: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
            found = np.unravel_index(flat, geometry.shape)
            return found if index is None else tuple(at[found[axis] == index] for at in found)

        inside = voxels(session.strokes.inside)
        data[inside] = np.where(data[inside] == 0, IN_MASK, data[inside])
        data[voxels(session.strokes.outside)] = 0
        if index is None:
            # In a single slice, which follows each step of the threshold, voxels keep their number.
            values = label_values(listed.items, session.chosen)[listed.labels]
            np.put(data, listed.voxels, values * (np.take(data, listed.voxels) != 0))
        drawn[part] = data[part]

    def _colour(self, session: Session, layer: Labels) -> None:
        """Set colours and names of findings, if they changed."""
        items, chosen = session.listed.items, session.chosen
        marks = tuple((i.finding.rank, i.finding.label, i.status) for i in items[:NUMBERED])
        coloured = (layer, marks, None if chosen is None else chosen.label)
        if coloured == self._coloured:
            return
        self._coloured = coloured
        rejected = [item for item in items if item.status == "reject"]
        values = label_values(items, chosen)[[item.finding.label for item in rejected]]
        layer.metadata[KEY]["rejected"] = sorted(set(values.tolist()))
        self._drawing = True
        try:
            layer.colormap = label_colormap(items, chosen)
            layer.features = label_features(items)
        finally:
            self._drawing = False

    def refresh(self, layer: Labels, *, thumbnail: bool = False) -> None:
        """Refresh the layer."""
        self._drawing = True
        try:
            layer.refresh(thumbnail=thumbnail, highlight=False, extent=False)
        finally:
            self._drawing = False


# The volume is updated when the slider has not moved for this long, and periodically in scoring.
_REST_MS = 150


_SCORING_MS = 1500


# The mask's layer is created this long after the heatmap's: each blocks the viewer for a while.
_FIRST_MS = 100


Bools = npt.NDArray[np.bool_]


Region = Callable[[Session], Bools | None]


Reviewed = tuple[npt.NDArray[np.uint8], FindingsList]


def reviewed(session: Session, computed: npt.NDArray[np.uint8], strokes: Strokes) -> Reviewed:
    """Mask with manual edits, including rejected findings, and the list of its findings."""
    mask, marks = strokes.apply(computed), session.listed.marks
    score, geometry = session.score.nll, session.geometry
    body = session.body.largest(session.score.scored)
    return mask, list_findings(
        mask,
        score,
        geometry,
        model=session.model,
        body=body,
        marks=marks,
        refined=strokes.refined,
    )


class MaskController(QObject):
    """Keeps a session's mask layer in step with threshold, settings and region.

    Parameters
    ----------
    viewer, tasks, parent
        The viewer, the host of workers, and the owner.
    region : callable
        Returns the region to which a session's mask is restricted, see `RegionBox.inside`.
    """

    #: list of Finding that are not rejected, for the displayed session.
    findings_changed = Signal(object)
    #: The session whose `listed`, `chosen` or `strokes` changed, or None.
    listed_changed = Signal(object)
    #: An exception raised in the worker.
    failed = Signal(object)
    #: The region that the mask is restricted to cannot be used: an InputError.
    region_refused = Signal(object)
    #: A line for the user about outlines that are being refined.
    refining = Signal(str)

    def __init__(self, viewer: ViewerModel, tasks: TaskHost, parent: QObject, region: Region):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks
        self._session: Session | None = None
        self._threshold = 0.0
        self.settings = MaskSettings()
        self._region = region
        self._inside: tuple[Session, Bools | None] | None = None
        self._busy = False
        self._again = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._compute)
        self._first = QTimer(self)
        self._first.setSingleShot(True)
        self._first.setInterval(_FIRST_MS)
        self._first.timeout.connect(self._draw_first)
        self._refining: Task | None = None
        self.drawing = MaskDrawing(viewer, self)
        self.drawing.touched.connect(self._on_touched)

    @property
    def settled(self) -> bool:
        """Whether the mask of the whole volume is up to date."""
        return not (self._busy or self._again or self._timer.isActive() or self._first.isActive())

    def set_session(self, session: Session | None) -> None:
        """Work on another scan; None to pause."""
        self._collect_strokes()
        self._session = session
        if self._ready() is not None and session is not None:
            # Painted while another scan was chosen.
            self.drawing.collect_strokes(session, self._threshold, compare=True)
        self._timer.stop()
        self.listed_changed.emit(session)

    def set_threshold(self, threshold: float) -> None:
        """Move the threshold, in the model's unit."""
        self._collect_strokes()
        self._threshold = threshold
        session = self._ready()
        if session is not None:
            self._draw_slice_in_view(session)
            self._timer.start(_REST_MS)

    def set_settings(self, settings: MaskSettings) -> None:
        """Set how the voxels above the threshold become the mask, and read the region again."""
        self._collect_strokes()
        self.settings = settings
        self._inside = None
        session = self._ready()
        if session is not None:
            self._draw_slice_in_view(session)
            self._timer.start(_REST_MS)

    def computed(self, session: Session) -> npt.NDArray[np.uint8]:
        """Mask computed from threshold, settings and region."""
        return self._computed(session, self.region(session))

    def region(self, session: Session) -> Bools | None:
        """(Z, Y, X) inside the region that the mask is restricted to; None for the whole scan."""
        if self._inside is None or self._inside[0] is not session:
            try:
                self._inside = session, self._region(session)
            except InputError as error:
                self._inside = session, None
                self.region_refused.emit(error)
                return None
        return self._inside[1]

    def _computed(self, session: Session, region: Bools | None) -> npt.NDArray[np.uint8]:
        scored = session.score.scored.copy()
        return make_mask(
            session.score.nll,
            self._threshold,
            self.settings,
            geometry=session.geometry,
            scored=scored,
            body=session.body.whole(scored) if self.settings.body_only else None,
            region=region,
        )

    def slices_scored(self, indices: list[int]) -> None:
        """Add newly scored slices to the mask."""
        session = self._ready()
        if session is None:
            return
        if session.mask not in self._viewer.layers:
            if not self._first.isActive():
                self._first.start()
            return
        self._draw_scored(session, indices)

    def _draw_first(self) -> None:
        session = self._ready()
        if session is not None:
            self._draw_scored(session, np.flatnonzero(session.score.scored).tolist())

    def _draw_scored(self, session: Session, indices: list[int]) -> None:
        self._collect_strokes()
        layer = self.drawing.layer(session)
        for index in indices:
            self._draw_slice(session, layer, index)
        self.drawing.overlay(session, indices)
        if not self._timer.isActive():
            self._timer.start(_SCORING_MS)

    def finish(self) -> None:
        """Update the whole volume now."""
        if self._ready() is not None:
            self._timer.start(0)

    def choose(self, label: int | None) -> None:
        """Outline a finding in another colour than the rest; None: none of them."""
        session = self._ready()
        if session is not None:
            self._collect_strokes()
            session.choose(label)
            self.drawing.overlay(session)

    def decide(
        self, label: int, *, status: Status | None = None, comment: str | None = None
    ) -> None:
        """Set the status or comment of a finding."""
        session = self._ready()
        if session is not None:
            self._collect_strokes()
            session.decide(label, status=status, comment=comment)
            self.drawing.overlay(session)
            self._announce(session)

    def forget_strokes(self) -> None:
        """Go back to the mask computed from the scores."""
        session = self._ready()
        if session is not None:
            self._collect_strokes()
            session.set_strokes(Strokes())
            self._timer.start(0)

    # ------------------------------------------------------------------ refined outlines

    @property
    def is_refining(self) -> bool:
        """Whether outlines are being refined."""
        return self._refining is not None

    def refine(self, label: int | None) -> None:
        """Fit the outline of a finding to the image, or undo that; None: of all findings.

        All takes those that are neither rejected nor refined yet. Only one such request runs at a
        time.
        """
        session = self._ready()
        if session is None or self._refining is not None:
            return
        if self._collect_strokes() or not self.settled:
            self._timer.start(0)
            self.refining.emit("The mask is being computed; try again in a moment.")
            return
        items = [
            item
            for item in session.listed.items
            if item.finding.label == label
            or (label is None and not item.refined and item.status != "reject")
        ]
        if not items:
            self.refining.emit("There is no outline left to refine." if label is None else "")
        elif label is not None and items[0].refined:
            region = session.listed.region(label)
            self._set_refined(session, session.strokes.without_refined(region))
            self.refining.emit(f"Region {items[0].finding.rank} has its earlier outline again.")
        else:
            self._refine(session, [item.finding for item in items])

    def _refine(self, session: Session, findings: list[Finding]) -> None:
        listed, strokes = session.listed, session.strokes
        region = self.region(session)  # layers are read on this thread

        def work(stop: threading.Event) -> Generator[str, None, RefinedAll]:
            yield f"Refining {len(findings)} outlines..." if findings[1:] else "Refining..."
            with cancel_when(stop.is_set):
                asked = [(finding.rank, listed.region(finding.label)) for finding in findings]
                body = session.body.whole(session.score.scored)
                return (
                    yield from refine_all(
                        session.volume,
                        session.score,
                        listed.voxels,
                        asked,
                        body=body,
                        region=region,
                        strokes=strokes,
                    )
                )

        task = self._tasks.start(work)
        self._refining = task
        task.progressed.connect(self._on_refining)
        task.returned.connect(partial(self._on_refined, session, listed, strokes))
        task.failed.connect(self._on_refining_failed)
        task.finished.connect(self._on_refining_finished)
        self.refining.emit("Refining...")

    def cancel_refining(self) -> None:
        """Stop soon; no outline changes."""
        if self._refining is not None:
            self._refining.stop()
            self.refining.emit("Stopping...")

    def _on_refining(self, line: str) -> None:
        if self._refining is not None and not self._refining.stopped:
            self.refining.emit(line)

    def _on_refined(
        self, session: Session, listed: FindingsList, strokes: Strokes, result: RefinedAll
    ) -> None:
        if session is not self._session or self._ready() is None:
            self.refining.emit("")
            return
        edited = self._collect_strokes() or session.strokes is not strokes
        if edited or not np.array_equal(session.listed.voxels, listed.voxels):
            self._timer.start(0)
            self.refining.emit("The mask changed meanwhile, so no outline was refined. Try again.")
            return
        self.refining.emit(result.sentence)
        if result.refined:
            self._set_refined(session, session.strokes.with_refined(result.refined))

    def _set_refined(self, session: Session, strokes: Strokes) -> None:
        session.set_strokes(strokes)
        self.drawing.edit(session, strokes.apply(self.computed(session)))
        self._timer.start(0)

    def _on_refining_failed(self, error: Exception) -> None:
        if isinstance(error, Cancelled):
            self.refining.emit("Cancelled: no outline was changed.")
        else:
            self.refining.emit(report(error, "Refining"))

    def _on_refining_finished(self) -> None:
        self._refining = None
        self.listed_changed.emit(self._session)

    def undo(self, *, again: bool = False) -> None:
        """Undo the latest edit of the mask, or redo it, whichever layer is selected."""
        session = self._ready()
        if session is not None and session.mask in self._viewer.layers:
            layer = self.drawing.layer(session)
            layer.redo() if again else layer.undo()

    def result(self, session: Session) -> Callable[[], Reviewed]:
        """Return a function that computes the current mask and its findings, with manual edits.

        It takes a while, so it runs in a worker.
        """
        self.drawing.collect_strokes(session, self._threshold, compare=True)
        return partial(reviewed, session, self.computed(session), session.strokes)

    def _collect_strokes(self) -> bool:
        session = self._ready()
        return session is not None and self.drawing.collect_strokes(session, self._threshold)

    def _on_touched(self) -> None:
        if self._ready() is not None:
            self._timer.start(_REST_MS)

    def _ready(self) -> Session | None:
        session = self._session
        return session if session is not None and session.alive and session.any_scored else None

    def _draw_slice_in_view(self, session: Session) -> None:
        layer = self.drawing.layer(session)
        view = view_index(self._viewer, layer)
        if view is None:
            return
        axis, index = view
        geometry = session.geometry
        if axis == geometry.display_slice_axis:
            at = geometry.slice_position(index)
            self._draw_slice(session, layer, at)
            self.drawing.overlay(session, [at])
        else:
            # Across acquired slices, per-slice steps wait for the volume.
            shown = np.moveaxis(geometry.to_display(session.score.nll), axis, 0)[index]
            above = shown > self._threshold
            backwards = geometry.slice_position(0) != 0
            scored = session.score.scored[::-1] if backwards else session.score.scored
            across = [1, 1, 1]
            across[geometry.display_slice_axis] = -1
            above &= scored.reshape(across).take(0, axis)
            region = self.region(session)
            if region is not None:
                above &= geometry.to_display(region).take(index, axis)
            planes = np.moveaxis(layer.data, axis, 0)
            planes[index] = within(planes[index], above)
            self.drawing.overlay(session)

    def _draw_slice(self, session: Session, layer: Labels, index: int) -> None:
        """Put acquired slice ``index`` into the layer."""
        axis = session.geometry.slice_axis
        region = self.region(session)
        mask = session.score.scored[index] and make_slice_mask(
            session.nll_planes[index],
            self._threshold,
            self.settings,
            geometry=session.geometry,
            body=session.body.plane(index) if self.settings.body_only else None,
            region=None if region is None else np.moveaxis(region, axis, 0)[index],
        )
        planes = np.moveaxis(session.geometry.from_display(layer.data), axis, 0)
        planes[index] = within(planes[index], mask)

    def _compute(self) -> None:
        session = self._ready()
        if session is None:
            return
        if self._busy:
            self._again = True
            return
        self._collect_strokes()
        self._busy, self._again = True, False
        strokes = session.strokes
        region = self.region(session)  # layers are read on this thread

        def work(stop: threading.Event) -> Generator[None, None, Reviewed]:
            yield
            return reviewed(session, self._computed(session, region), strokes)

        task = self._tasks.start(work)
        task.returned.connect(lambda result: self._show(session, result))
        task.failed.connect(self.failed)
        task.finished.connect(self._on_finished)

    def _show(self, session: Session, result: Reviewed) -> None:
        if self._again or session is not self._session or self._ready() is None:
            return
        if self._collect_strokes():
            self._timer.start(0)
            return
        mask, listed = result
        session.set_findings(listed)
        self.drawing.draw(session, mask)
        self._announce(session)

    def _announce(self, session: Session) -> None:
        self.findings_changed.emit(list(session.listed.kept))
        self.listed_changed.emit(session)

    def _on_finished(self) -> None:
        self._busy = False
        if self._again:
            self._again = False
            self._compute()
