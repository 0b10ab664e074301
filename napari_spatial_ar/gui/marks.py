"""What stands around a scan on the canvas: the patient's sides, the slice, a scale bar.

And the right way up, for every scan in a viewer.
"""

from __future__ import annotations

import gc
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Layer
from qtpy.QtCore import QTimer

from napari_spatial_ar.gui.directions import Edges, axis_directions, edge_letters
from napari_spatial_ar.gui.layers import KEY, is_scan
from napari_spatial_ar.gui.viewer import (
    camera_of,
    keep_upright,
    plane_in_view,
    slice_in_view,
)
from napari_spatial_ar.imaging.geometry import Geometry, slice_number

__all__ = ["PatientMarks", "attend"]

_PLACES = {
    "left": "middle_left",
    "right": "middle_right",
    "top": "top_center",
    "bottom": "bottom_center",
}
_FONT_SIZE = 15
_SMALL_FONT_SIZE = 11
_MOVES = ("scale", "rotate", "shear", "affine", "visible")


class PatientMarks:
    """Keeps letters, slice number, scale bar and the way up in step with what a viewer shows.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer; not kept alive by this.
    """

    def __init__(self, viewer: Any):
        self._viewer = ref(viewer)
        self._chosen: Layer | None = None
        self._followed: Layer | None = None
        self._held = False
        self._overlays = _text_overlays(viewer)
        #: Units of layers that were given others, as they came.
        self._units: WeakKeyDictionary[Layer, tuple[Any, ...]] = WeakKeyDictionary()
        self.edges: Edges | None = None
        #: "Slice 4 of 12", in the plane in view and in file order; "" where no slice of it is seen.
        self.place = ""
        # napari holds these by weak reference.
        viewer.dims.events.order.connect(self._on_order)
        viewer.dims.events.point.connect(self._on_point)
        viewer.dims.events.ndisplay.connect(self._on_ndisplay)
        viewer.dims.events.axis_labels.connect(self.refresh)
        camera_of(viewer).events.orientation.connect(self.refresh)
        viewer.layers.events.inserting.connect(self._hold)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.selection.events.active.connect(self.refresh)
        for layer in viewer.layers:
            self._watch(layer)
        self.refresh()

    def follow(self, layer: Layer | None) -> None:
        """Show the letters of this scan while it is in view; None: of the selected layer."""
        self._chosen = layer
        self.refresh()

    def _on_order(self, event: Any = None) -> None:
        viewer = self._viewer()
        if viewer is not None:
            keep_upright(viewer)
            self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Bring letters and scale bar up to date."""
        viewer = self._viewer()
        if viewer is None:
            return
        layer = self._scan_in_view(viewer)
        if layer is not self._followed:
            self._followed = layer
            self._show_guides()
        self._agree_on_units(viewer, layer)
        self.edges = self._edges(viewer, layer)
        self._draw(viewer)
        self._on_point()

    def _agree_on_units(self, viewer: Any, scan: Layer | None) -> None:
        """Let all layers count in the unit of the scan in view.

        Where one counts in millimetres and another in pixels, as a picture does, or what another
        plugin adds, napari warns of it and draws no scale. Lengths are the same, only what they
        are called: what is not in view need not be called right.
        """
        if scan is None:
            return
        seen = self._units.get(scan, scan.units)
        wanted = (seen[0],) * (3 - len(seen)) + tuple(seen)[-3:]  # of a picture, as if of a stack
        for layer in viewer.layers:
            own = self._units.get(layer, tuple(layer.units))
            asked = wanted[-len(own) :]
            pairs = zip(own[-3:], asked, strict=True)
            fits = all(mine.dimensionality == theirs.dimensionality for mine, theirs in pairs)
            units = own if fits else (*own[:-3], *asked)
            if tuple(layer.units) != units:
                self._units[layer] = own
                layer.units = units

    def _on_point(self, event: Any = None) -> None:
        """Write which slice is in view, counted as on a scanner and as in the docks."""
        viewer = self._viewer()
        if viewer is None:
            return
        self.place = _place(viewer, self._followed)
        if self._overlays is not None:
            # A text that is set is drawn anew, also where it is the same.
            overlay = self._overlays["slice"]
            if self.place and overlay.text != self.place:
                overlay.text = self.place
            overlay.visible = bool(self.place)

    def _scan_in_view(self, viewer: Any) -> Layer | None:
        """Scan that the letters speak of: the chosen, else the selected, else the topmost."""
        wanted = [self._chosen, viewer.layers.selection.active, *reversed(list(viewer.layers))]
        for layer in wanted:
            if layer is not None and layer in viewer.layers and layer.visible and is_scan(layer):
                return layer
        return None

    def _watch(self, layer: Layer) -> None:
        for name in _MOVES:
            getattr(layer.events, name).connect(self.refresh)

    def _hold(self, event: Any = None) -> None:
        """Let napari draw a layer that comes not before it agrees with the others on units."""
        viewer = self._viewer()
        if viewer is not None and len(viewer.layers) and hasattr(viewer.layers, "batched_update"):
            self._held = True
            viewer.layers.events.begin_batch()
            # Also where something else fails in between.
            QTimer.singleShot(0, self._release)

    def _release(self) -> None:
        viewer = self._viewer()
        if viewer is None or not self._held:
            return
        self._held = False
        # napari collects garbage here, for layers that went: half a second where torch is loaded.
        thawed = gc.get_freeze_count() == 0
        if thawed:
            gc.freeze()
        viewer.layers.events.end_batch()
        if thawed:
            gc.unfreeze()

    def _on_inserted(self, event: Any) -> None:
        self._watch(event.value)
        self.refresh()
        self._release()

    def _on_removed(self, event: Any) -> None:
        for name in _MOVES:
            getattr(event.value.events, name).disconnect(self.refresh)
        self.refresh()

    def _on_ndisplay(self, event: Any = None) -> None:
        self.refresh()
        self._show_guides()

    def _show_guides(self) -> None:
        """Show a scale bar where there are millimetres; in 3-D, arrows in place of letters."""
        viewer, geometry = self._viewer(), _geometry_of(self._followed)
        if viewer is None or geometry is None:
            return
        canvas = getattr(viewer, "canvas", None)
        if canvas is None:  # napari before 0.9
            bar, axes = viewer.scale_bar, viewer.axes
        else:
            bar, axes = canvas.overlays.scale_bar, canvas.overlays.axes
        bar.visible = geometry.measurable
        bar.position = "bottom_left"  # napari's notifications are on the right
        axes.colored = False
        axes.visible = geometry.spacing_known and viewer.dims.ndisplay == 3

    def _edges(self, viewer: Any, layer: Layer | None) -> Edges | None:
        geometry = _geometry_of(layer)
        dims = viewer.dims
        if layer is None or geometry is None or not geometry.spacing_known or dims.ndisplay != 2:
            return None
        displayed = [axis - (dims.ndim - 3) for axis in dims.order[-2:]]
        if layer.ndim != 3 or min(displayed) < 0 or not _straight(layer):
            return None
        vertical, horizontal = camera_of(viewer).orientation2d
        way = (str(vertical), str(horizontal))
        return edge_letters(axis_directions(geometry), displayed, way)

    def _draw(self, viewer: Any) -> None:
        edges = self.edges
        if self._overlays is None:  # napari before 0.9 has one text for all
            text = viewer.text_overlay
            text.position = "top_center"
            text.text = (
                "" if edges is None else f"left {edges.left}, right {edges.right}, top {edges.top}"
            )
            text.visible = edges is not None
            return
        for side in _PLACES:
            overlay = self._overlays[side]
            if edges is not None:
                overlay.text = getattr(edges, side)
            overlay.visible = edges is not None


def _text_overlays(viewer: Any) -> dict[str, Any] | None:
    canvas = getattr(viewer, "canvas", None)
    if canvas is None or not hasattr(canvas, "overlays"):
        return None
    from napari.components.overlays import TextOverlay

    # "gridded": in each of two views side by side.
    made = {
        side: TextOverlay(position=place, font_size=_FONT_SIZE, gridded=True)
        for side, place in _PLACES.items()
    }
    made["slice"] = TextOverlay(position="top_left", font_size=_SMALL_FONT_SIZE, gridded=True)
    for side, overlay in made.items():
        canvas.overlays[f"patient_{side}"] = overlay
    return made


def _geometry_of(layer: Layer | None) -> Geometry | None:
    return None if layer is None else layer.metadata.get(KEY, {}).get("geometry")


def _place(viewer: Any, layer: Layer | None) -> str:
    geometry, plane = _geometry_of(layer), plane_in_view(viewer)
    if layer is None or geometry is None or plane is None or layer.ndim != 3:
        return ""
    if plane != geometry.plane and not geometry.measurable:
        return ""
    seen = geometry.along(plane)
    number = slice_number(slice_in_view(viewer, layer, seen))
    return f"Slice {number} of {seen.slice_count}"


def _straight(layer: Layer) -> bool:
    """Whether a layer is still drawn along its own axes, not turned or mirrored by the user."""
    turned = layer.affine.affine_matrix[:-1, :-1] @ layer.rotate
    return bool(
        np.allclose(turned, np.eye(layer.ndim))
        and np.allclose(layer.shear, 0)
        and (np.asarray(layer.scale) > 0).all()
    )


_attended: WeakKeyDictionary[Any, PatientMarks] = WeakKeyDictionary()


def attend(viewer: Any) -> PatientMarks:
    """Return a viewer's marks, made when first asked for; they last as long as the viewer."""
    if viewer not in _attended:
        _attended[viewer] = PatientMarks(viewer)
    return _attended[viewer]
