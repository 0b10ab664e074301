"""Visibility of a viewer's layers: one scan and what belongs to it, never two patients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet, ref

import numpy as np
from napari.components.dims import RangeTuple
from napari.layers import Image, Labels, Layer, Shapes
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QTimer, Signal

from napari_spatial_ar.gui.layers import geometry_of, is_scan, kind_of, scan_behind
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.viewer import camera_of, fit_view, look_at, plane_in_view, show_plane
from napari_spatial_ar.imaging.geometry import Plane

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.utils.events import Event


__all__ = ["LayerVisibility"]

_RESULTS = ("nll", "mask", "unseen")
# Attribute of two views side by side, which control visibility themselves.
_PLACES = ("twin", "spacer")
# Two scans cover the same region if their edges are no farther apart than this share of them.
_ALIKE = 0.25


@dataclass(frozen=True)
class _View:
    """Position of the view when a scan was left."""

    point: tuple[float, ...]
    order: tuple[int, ...]
    center: tuple[float, ...]
    zoom: float


class LayerVisibility(QObject):
    """The one place that shows and hides layers.

    The chosen scan is visible, with the results of the chosen model and plane if they are drawn.
    What the user drew or added while a scan was chosen belongs to that scan and is visible with it.
    Everything else is hidden. The view stays inside the chosen scan: the sliders reach from its
    first slice to its last, and a scan elsewhere in space is brought into view. If a scan is
    deleted, its results are deleted too; what was drawn on it remains, hidden.

    Visibility set by hand in napari's own layer list is followed: the signal `wanted` asks the dock
    to choose what the layer belongs to. Selecting a layer there has no effect.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    sessions : callable
        Returns the existing sessions, whose layers are results.
    parent : QObject
        The owner.
    """

    #: Something not chosen was shown by hand: the layer of the scan, and the session or None.
    wanted = Signal(object, object)
    #: The heatmap or mask of the chosen scan was shown or hidden by hand.
    drawn_by_hand = Signal()
    #: A layer of the user was shown by hand, and now belongs to the chosen scan.
    given = Signal()

    def __init__(
        self, viewer: ViewerModel, sessions: Callable[[], Iterable[Session]], parent: QObject
    ):
        super().__init__(parent)
        self._viewer = viewer
        self._sessions = sessions
        self._scan: Image | None = None
        self._session: Session | None = None
        self._drawn = {"scan": True, "nll": True, "mask": True, "unseen": True}
        # Layers of the user or of other plugins: the scan they belong to, those hidden here.
        self._owners: WeakKeyDictionary[Layer, ref[Image]] = WeakKeyDictionary()
        self._hidden: WeakSet[Layer] = WeakSet()
        self._left: WeakKeyDictionary[Image, _View] = WeakKeyDictionary()
        self._working = self._suspended = False
        self._leaving: list[Layer] = []
        self._tidier = QTimer(self)
        self._tidier.setSingleShot(True)
        self._tidier.timeout.connect(self._tidy)
        # napari holds these by weak reference.
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.range.connect(self._hold_range)
        viewer.events.reset_view.connect(self._on_reset_view)
        for layer in viewer.layers:
            layer.events.visible.connect(self._on_visible)
        scans = [layer for layer in viewer.layers if is_scan(layer)]
        if len(scans) == 1:
            for layer in viewer.layers:
                self._give(layer, scans[0])

    # ------------------------------------------------------------------ what is chosen

    def show(self, scan: Image | None, session: Session | None) -> None:
        """Show a scan and the results of a session of it; None for none."""
        before, self._scan, self._session = self._scan, scan, session
        if scan is not before:
            if before is not None and not self._suspended:
                self._left[before] = self._view()
            self._drawn["scan"] = True
        self._arrange(before)

    def draw(self, *, heatmap: bool, mask: bool) -> None:
        """Set which results are drawn over the scan."""
        self._drawn |= {"nll": heatmap, "mask": mask, "unseen": heatmap or mask}
        self._arrange(self._scan)

    @property
    def drawn(self) -> tuple[bool, bool]:
        """Whether heatmaps are drawn, and whether masks are."""
        return self._drawn["nll"], self._drawn["mask"]

    def set_suspended(self, suspended: bool) -> None:
        """Leave all layers to napari until the dock is resumed."""
        self._suspended = suspended
        if suspended:
            self._set_range(list(self._viewer.layers))
        else:
            self._arrange(None)

    def belongs(self, layer: Layer) -> bool:
        """Whether a layer of the user belongs to the chosen scan, or to none."""
        if layer not in self._owners:
            return True
        return self._scan is not None and self._owner(layer) is self._scan

    # ------------------------------------------------------------------ showing and hiding

    def _wanted(self, layer: Layer) -> bool | None:
        """Whether a layer should be visible; None if that is up to the user."""
        if self._is_chosen(layer):
            return self._drawn[_kind(layer)]
        if is_scan(layer) or self._session_of(layer) is not None:
            return False
        if not self.belongs(layer):
            return False
        return True if layer in self._hidden else None

    def _is_chosen(self, layer: Layer) -> bool:
        """Whether a layer is the chosen scan, or its heatmap or mask by the chosen model."""
        session = self._session
        results = () if session is None else session.results
        return any(layer is mine for mine in (self._scan, *results))

    def _session_of(self, layer: Layer) -> Session | None:
        """Session that made a layer; None for a copy that the user made of one."""
        return next((s for s in self._sessions() if any(layer is mine for mine in s.results)), None)

    def _arrange(self, before: Image | None) -> None:
        if self._suspended or self._working:
            return
        with self._own_changes():
            layers = list(self._viewer.layers)
            # Hide first and show last: of a large scan only the slice in view is then read.
            for layer in layers:
                if layer.visible and self._wanted(layer) is False:
                    layer.visible = False
                    self._hidden.add(layer)
            if self._scan is not before and self._scan in layers:
                self._bring_into_view(before)
            for layer in layers:
                if not layer.visible and self._wanted(layer):
                    layer.visible = True
                    self._hidden.discard(layer)
        # Deferred: napari may be deleting the selected layers one after the other.
        self._tidier.start(0)

    @contextmanager
    def _own_changes(self) -> Iterator[None]:
        """Distinguish changes made here from those made by a person."""
        before, self._working = self._working, True
        try:
            yield
        finally:
            self._working = before

    def _on_visible(self, event: Event) -> None:
        if self._working or self._suspended:
            return
        layer, session = event.source, self._session_of(event.source)
        with suppress(RuntimeError):  # Qt may delete the dock before its Python half
            if self._is_chosen(layer):
                self._drawn[_kind(layer)] = layer.visible
                self.drawn_by_hand.emit()
            elif not layer.visible:
                self._hidden.discard(layer)
            elif session is not None:
                self._drawn[_kind(layer)] = True
                self.wanted.emit(session.layer, session)
            elif is_scan(layer):
                self.wanted.emit(layer, None)
            else:
                self._owners.pop(layer, None)
                self._give(layer, self._scan)
                self.given.emit()

    # ------------------------------------------------------------------ layers come and go

    def _owner(self, layer: Layer) -> Image | None:
        held = self._owners.get(layer)
        return None if held is None else held()

    def _give(self, layer: Layer, scan: Image | None) -> None:
        """Assign a layer that is neither a scan nor made by this plugin to a scan."""
        made = kind_of(layer) in _PLACES or self._session_of(layer) is not None
        if scan is not None and not is_scan(layer) and not made:
            self._owners[layer] = ref(scan)

    def _on_inserted(self, event: Event) -> None:
        layer = event.value
        layer.events.visible.connect(self._on_visible)
        if self._suspended:
            return
        self._give(layer, self._scan)
        with suppress(RuntimeError):
            if is_scan(layer) and layer.visible and layer is not self._scan:
                self.wanted.emit(layer, None)
            self._arrange(self._scan)

    def _on_removed(self, event: Event) -> None:
        gone = event.value
        gone.events.visible.disconnect(self._on_visible)
        layers = self._viewer.layers
        regions = [x for x in layers if isinstance(x, Labels | Shapes) and self._owner(x) is gone]
        if regions:
            names = ", ".join(f"'{layer.name}'" for layer in regions)
            show_info(f"Drawn on the scan that was deleted, kept hidden among the layers: {names}.")
        results = [x for x in layers if kind_of(x) in _RESULTS and scan_behind(x) is gone]
        self._remove(results, event.index)

    def _remove(self, made: list[Layer], index: int) -> None:
        """Remove layers from the list, after another was removed at an index."""
        layers = self._viewer.layers
        for layer in made:
            # napari may be iterating over its selection, or down through its list.
            if layer in layers.selection or layers.index(layer) < index:
                with self._own_changes():
                    layer.visible = False
                self._leaving.append(layer)
                self._tidier.start(0)
            else:
                layers.remove(layer)

    def _tidy(self) -> None:
        """Delete what remains of a scan, and select what is visible: brush and limits act on it."""
        layers, (leaving, self._leaving) = self._viewer.layers, (self._leaving, [])
        for layer in leaving:
            if layer in layers:
                layers.remove(layer)
        active = layers.selection.active
        hidden = active is not None and not active.visible and not self._is_chosen(active)
        if hidden and not self._suspended and self._scan is not None and self._scan in layers:
            layers.selection = {self._scan}

    # ------------------------------------------------------------------ the view

    def _view(self) -> _View:
        dims, camera = self._viewer.dims, camera_of(self._viewer)
        return _View(tuple(dims.point), tuple(dims.order), tuple(camera.center), float(camera.zoom))

    def _bring_into_view(self, before: Image | None) -> None:
        """Turn to a plane, slice and part of the chosen scan with something visible.

        Scans of the same region, as of one patient, keep slice and zoom; one elsewhere returns to
        where it was left.
        """
        viewer, scan = self._viewer, self._scan
        assert scan is not None
        dims, left = viewer.dims, self._left.get(scan)
        point = self._point_inside(scan, left)
        geometry = geometry_of(scan)
        plane: Plane = "axial" if geometry is None else geometry.plane
        turned = dims.ndisplay == 2 and plane_in_view(viewer) not in (plane, None)
        if turned:
            show_plane(viewer, plane)
        self._hold_range()
        first = dims.ndim - len(point)
        dims.set_point(range(first, dims.ndim), point)
        if left is not None and left.order == tuple(dims.order):
            if turned or before is None or not _at_one_place(before, scan):
                look_at(viewer, left.center)
                camera_of(viewer).zoom = left.zoom
        elif turned or before is not None or not scan.visible:
            fit_view(viewer, scan)
        if not self._in_view(scan):
            fit_view(viewer, scan)
        self._left[scan] = self._view()

    def _in_view(self, scan: Image) -> bool:
        """Whether the middle of the canvas shows a part of a scan."""
        dims = self._viewer.dims
        axes = [axis - dims.ndim for axis in dims.displayed if axis - dims.ndim >= -scan.ndim]
        center = camera_of(self._viewer).center[-len(dims.displayed) :]
        low, high = np.asarray(scan.extent.world)[:, axes]
        return bool(((low <= center) & (center <= high)).all())

    def _point_inside(self, scan: Image, left: _View | None) -> list[float]:
        """Return the viewer's point, or, outside of a scan, the one where that was left."""
        dims, ndim = self._viewer.dims, scan.ndim
        now = list(dims.point[-ndim:])
        low, high = np.asarray(scan.extent.world)
        amid = scan.data_to_world([size // 2 for size in scan.data.shape[:ndim]])
        known = amid if left is None or len(left.point) < ndim else left.point[-ndim:]
        if dims.ndim < ndim:
            return [float(value) for value in known]
        return [
            float(now[axis] if low[axis] <= now[axis] <= high[axis] else known[axis])
            for axis in range(ndim)
        ]

    def _hold_range(self, event: Event | None = None) -> None:
        """Restrict napari's sliders to the chosen scan; by default they reach hidden ones."""
        scan = self._scan
        if not self._suspended and scan is not None and scan in self._viewer.layers:
            self._set_range([scan])

    def _set_range(self, layers: Sequence[Layer]) -> None:
        """Let the sliders reach from the first slice of layers to the last."""
        dims = self._viewer.dims
        extent = self._viewer.layers.get_extent(layers)
        ranges = list(zip(*extent.world, extent.step, strict=True))
        if not layers or dims.ndim < len(ranges):
            return
        wanted = [*dims.range[: dims.ndim - len(ranges)], *ranges]
        if not np.array_equal(np.asarray(dims.range), np.asarray(wanted)):
            dims.range = tuple(RangeTuple(*each) for each in wanted)

    def _on_reset_view(self, event: Event | None = None) -> None:
        """Fit the chosen scan after napari has fitted all layers, including hidden ones."""
        scan = self._scan
        if self._working or self._suspended:
            return
        if scan is None or scan not in self._viewer.layers:
            return
        with self._own_changes():
            fit_view(self._viewer, scan)


def _kind(layer: Layer) -> str:
    """Identify the kind of a drawn layer; scans opened by another plugin are scans too."""
    return kind_of(layer) or "scan"


def _at_one_place(a: Image, b: Image) -> bool:
    """Whether two scans cover about the same region of space."""
    if a.ndim != b.ndim:
        return False
    first, second = (np.asarray(layer.extent.world) for layer in (a, b))
    sizes = np.maximum(second[1] - second[0], np.asarray(b.scale))
    return bool((np.abs(first - second) <= _ALIKE * sizes).all())
