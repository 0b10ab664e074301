"""A viewer's current slice, its orientation, and the letters R, L, A, P, S, I at its edges."""

from __future__ import annotations

import gc
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Layer
from napari.utils.camera_orientations import HorizontalAxisOrientation, VerticalAxisOrientation
from qtpy.QtCore import QTimer

from napari_spatial_ar.gui.layers import AXES, geometry_of, is_scan
from napari_spatial_ar.imaging.geometry import Geometry, Plane, orientation, slice_number

if TYPE_CHECKING:
    from napari.components import Camera, ViewerModel
    from napari.components.overlays import TextOverlay
    from napari.utils.events import Event
    from pint import Unit


__all__ = [
    "Edges",
    "PatientMarks",
    "axis_directions",
    "camera_of",
    "edge_letters",
    "fit_view",
    "go_to_slice",
    "go_to_voxel",
    "keep_upright",
    "look_at",
    "patient_marks",
    "plane_in_view",
    "show_acquired_plane",
    "show_plane",
    "show_scan",
    "shows_slices",
    "slice_in_view",
    "view_index",
    "viewer_itself",
]

V = TypeVar("V")

# Axis shown across the screen last: sagittal slices have anterior on the left.
_ORDER: dict[Plane, tuple[int, int, int]] = {
    "axial": (0, 1, 2),
    "coronal": (1, 0, 2),
    "sagittal": (2, 0, 1),
}


def viewer_itself(viewer: V) -> V:
    """Return the viewer behind the proxy that napari passes to plugins.

    The proxy returns proxies too: a layer added through it is not the layer in the viewer.
    """
    own: V = getattr(viewer, "__wrapped__", viewer)
    return own


def camera_of(viewer: ViewerModel) -> Camera:
    """Return the viewer's camera."""
    # napari 0.9 moved the camera into the scene.
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def look_at(viewer: ViewerModel, point: Sequence[float] | npt.NDArray[np.float64]) -> None:
    """Put a point, in world coordinates of the last axes displayed, in the middle of the canvas."""
    depth, vertical, horizontal = [0.0] * (3 - len(point)) + [float(value) for value in point]
    camera_of(viewer).center = (depth, vertical, horizontal)


def fit_view(viewer: ViewerModel, layer: Layer) -> None:
    """Fit a layer to the window, whatever other layers there are."""
    dims, camera = viewer.dims, camera_of(viewer)
    with suppress(TypeError):  # napari before 0.9 takes no layers
        if layer.ndim == dims.ndim:  # it cannot do pictures beside volumes
            viewer.reset_view(layers=[layer])
            return
    viewer.reset_view()
    axes = [axis - dims.ndim for axis in dims.displayed if axis - dims.ndim >= -layer.ndim]
    low, high = np.asarray(layer.extent.world)[:, axes]
    all_low, all_high = np.asarray(viewer.layers.extent.world)[:, axes]
    size = np.maximum(high - low, np.asarray(layer.scale)[axes])
    look_at(viewer, (low + high) / 2)
    # The canvas is at least as large as what was fitted.
    canvas = np.maximum(camera.zoom * (all_high - all_low), _canvas_size(viewer, len(axes)))
    camera.zoom = float((canvas / size).min())


def _canvas_size(viewer: ViewerModel, ndim: int) -> npt.NDArray[np.float64]:
    """Maximum height and width of a layer in pixels; 0 if napari does not state it."""
    known = getattr(getattr(viewer, "canvas", None), "size", None)
    return np.zeros(ndim) if known is None or ndim != 2 else 0.95 * np.asarray(known)


def _index_along(viewer: ViewerModel, layer: Layer, axis: int) -> int:
    """Index of the viewer's point along a layer axis, clipped to the layer."""
    point = viewer.dims.point[-layer.ndim :]
    index = round(float(layer.world_to_data(point)[axis]))
    return int(min(max(index, 0), layer.data.shape[axis] - 1))


def view_index(viewer: ViewerModel, layer: Layer) -> tuple[int, int] | None:
    """Layer axis and index in view; None in 3-D display."""
    hidden = [a - (viewer.dims.ndim - layer.ndim) for a in viewer.dims.not_displayed]
    hidden = [a for a in hidden if a >= 0]
    if viewer.dims.ndisplay != 2 or len(hidden) != 1:
        return None
    return hidden[0], _index_along(viewer, layer, hidden[0])


def slice_in_view(viewer: ViewerModel, layer: Layer, geometry: Geometry) -> int:
    """Acquired slice (from 0, file order) at the viewer's point."""
    if layer.ndim != 3:
        return 0
    # Reversing twice is the identity: slice_position is its own inverse.
    return geometry.slice_position(_index_along(viewer, layer, geometry.display_slice_axis))


def shows_slices(
    viewer: ViewerModel, layer: Layer, geometry: Geometry, indices: Collection[int]
) -> bool:
    """Whether any part of acquired slices ``indices`` is in view."""
    view = view_index(viewer, layer)
    if view is None or view[0] != geometry.display_slice_axis:
        return bool(indices)
    return geometry.slice_position(view[1]) in indices


def go_to_slice(viewer: ViewerModel, layer: Image, geometry: Geometry, index: int) -> None:
    """Show acquired slice ``index``."""
    if layer.ndim != 3:
        return
    axis = geometry.display_slice_axis
    at = [0.0, 0.0, 0.0]
    at[axis] = geometry.slice_position(index)
    offset = viewer.dims.ndim - 3
    viewer.dims.set_point(offset + axis, float(layer.data_to_world(at)[axis]))


def go_to_voxel(viewer: ViewerModel, layer: Layer, at: tuple[int, int, int]) -> None:
    """Show a voxel of a layer with axes (S, P, L) in the current plane, centred."""
    world = [float(value) for value in layer.data_to_world(at)]
    first = viewer.dims.ndim - 3
    viewer.dims.set_point(range(first, first + 3), world)
    shown = [world[axis - first] for axis in viewer.dims.displayed]
    look_at(viewer, shown)


def show_acquired_plane(viewer: ViewerModel, geometry: Geometry) -> None:
    """Turn a 2-D view to the plane of acquisition, and fit it to the window."""
    if viewer.dims.ndisplay == 2:
        show_plane(viewer, geometry.plane)


def show_scan(viewer: ViewerModel, layer: Layer) -> None:
    """Show a hidden scan in the plane of its slices, if there is no Review dock to do it.

    The order matters: of a large scan, only the slice in view is read, and no other plane.
    """
    geometry = geometry_of(layer)
    if geometry is not None:
        show_acquired_plane(viewer, geometry)
    layer.visible = True


def show_plane(viewer: ViewerModel, plane: Plane) -> None:
    """Show slices of a plane in 2-D, at the current point, fitted to the window."""
    dims = viewer.dims
    if dims.ndim < 3:
        return
    dims.ndisplay = 2
    offset = dims.ndim - 3
    dims.order = (*range(offset), *(offset + axis for axis in _ORDER[plane]))
    keep_upright(viewer)
    viewer.reset_view()


def plane_in_view(viewer: ViewerModel) -> Plane | None:
    """Plane in view, in any orientation; None in 3-D display."""
    dims = viewer.dims
    if dims.ndisplay != 2 or dims.ndim < 3:
        return None
    hidden = dims.order[-3] - (dims.ndim - 3)
    return next((plane for plane, order in _ORDER.items() if order[0] == hidden), None)


def keep_upright(viewer: ViewerModel) -> None:
    """Draw superior at the top in every plane; napari's axes point down."""
    dims = viewer.dims
    # Set on the layers: before napari 0.9 the viewer's own axes did not adopt their names.
    if dims.ndim < 3 or not any(tuple(layer.axis_labels) == AXES for layer in viewer.layers):
        return
    vertical = dims.order[-2] - (dims.ndim - 3)
    camera = camera_of(viewer)
    up, down = VerticalAxisOrientation.UP, VerticalAxisOrientation.DOWN
    camera.orientation2d = (
        up if vertical == AXES.index("S") else down,
        HorizontalAxisOrientation.RIGHT,
    )


# Letters for the negative and positive direction of each RAS axis.
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


# RAS axis and sign of each axis of (S, P, L).
_GROWS = ((2, 1.0), (1, -1.0), (0, -1.0))


# A second letter marks slices tilted by more than about 20 degrees.
_TILT = 0.35


@dataclass(frozen=True)
class Edges:
    """Letters (R, L, A, P, S, I, or two of them in oblique slices) of the four edges."""

    left: str
    right: str
    top: str
    bottom: str


def axis_directions(geometry: Geometry) -> npt.NDArray[np.float64]:
    """Directions of the axes of a scan's layer in the patient.

    Parameters
    ----------
    geometry : Geometry
        The scan's grid.

    Returns
    -------
    (3, 3) float64
        Row a is the RAS unit vector along which display axis a (of S, P, L) grows.
    """
    closest = orientation(geometry.affine)
    steps = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    rows = []
    for world, wanted in _GROWS:
        voxel = int(np.flatnonzero(closest[:, 0] == world)[0])
        rows.append(steps[:, voxel] * closest[voxel, 1] * wanted)
    return np.array(rows)


def _letters(direction: npt.NDArray[np.float64]) -> str:
    """Letters of a RAS unit vector, the closest axis first."""
    strongest = [int(axis) for axis in np.argsort(-np.abs(direction), kind="stable")]
    return "".join(
        _LETTERS[axis][int(direction[axis] > 0)]
        for place, axis in enumerate(strongest)
        if place == 0 or abs(direction[axis]) > _TILT
    )


def edge_letters(
    directions: npt.NDArray[np.float64],
    displayed: Sequence[int],
    orientation2d: tuple[str, str] = ("down", "right"),
) -> Edges:
    """Letters for the edges of a 2-D view.

    Parameters
    ----------
    directions : (3, 3) float64
        From `axis_directions`.
    displayed : (int, int)
        Axis of (S, P, L) drawn along the screen's vertical, and along its horizontal.
    orientation2d : (str, str)
        Directions of the two axes on the screen: "down" or "up", "right" or "left", as set in
        the camera.

    Returns
    -------
    Edges
        An axial slice in the usual orientation has R on the left and A at the top.
    """
    vertical, horizontal = (directions[axis] for axis in displayed)
    down, right = _letters(vertical), _letters(horizontal)
    up, left = _letters(-vertical), _letters(-horizontal)
    if orientation2d[0] == "up":
        up, down = down, up
    if orientation2d[1] == "left":
        left, right = right, left
    return Edges(left=left, right=right, top=up, bottom=down)


_PLACES = {
    "left": "middle_left",
    "right": "middle_right",
    "top": "top_center",
    "bottom": "bottom_center",
}


_FONT_SIZE = 15


_SMALL_FONT_SIZE = 11


# In a smaller view, in pixels, the items in the corners would cover the letters.
_NARROW = 370


_CLEARANCE = "letter_clearance"


_MOVES = ("scale", "rotate", "shear", "affine", "visible")


class PatientMarks:
    """Keeps letters, slice number, scale bar and orientation in step with what a viewer shows.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer; held by weak reference.
    """

    def __init__(self, viewer: ViewerModel):
        self._viewer = ref(viewer)
        self._chosen: Layer | None = None
        self._followed: Layer | None = None
        self._held = False
        self._overlays = _text_overlays(viewer)
        #: Original units of layers whose units were changed.
        self._units: WeakKeyDictionary[Layer, tuple[Unit, ...]] = WeakKeyDictionary()
        self.edges: Edges | None = None
        #: "Slice 4 of 12", in the plane in view and in file order; "" if no slice of it is visible.
        self.place = ""
        # napari holds these by weak reference.
        if self._overlays is not None:
            viewer.canvas.events.size.connect(self._make_room)
            # Last: napari has to make the views of a grid first.
            viewer.canvas.grid.events.enabled.connect(self._make_room, position="last")
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

    def _on_order(self, event: Event | None = None) -> None:
        viewer = self._viewer()
        if viewer is not None:
            keep_upright(viewer)
            self.refresh()

    def refresh(self, event: Event | None = None) -> None:
        """Update letters and scale bar."""
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
        self._make_room()
        self._on_point()

    def _agree_on_units(self, viewer: ViewerModel, scan: Layer | None) -> None:
        """Set the units of all layers to that of the scan in view.

        If one layer has millimetres and another pixels, like an image or a layer from another
        plugin, napari warns and draws no scale bar. Only the name of the unit changes, not the
        lengths, so units of layers out of view need not be right.
        """
        if scan is None:
            return
        seen = self._units.get(scan, scan.units)
        wanted = (seen[0],) * (3 - len(seen)) + tuple(seen)[-3:]  # an image counts as a stack
        for layer in viewer.layers:
            own = self._units.get(layer, tuple(layer.units))
            asked = wanted[-len(own) :]
            pairs = zip(own[-3:], asked, strict=True)
            fits = all(mine.dimensionality == theirs.dimensionality for mine, theirs in pairs)
            units = own if fits else (*own[:-3], *asked)
            if tuple(layer.units) != units:
                self._units[layer] = own
                layer.units = units

    def _on_point(self, event: Event | None = None) -> None:
        """Show the number of the slice in view, counted as on a scanner and as in the docks."""
        viewer = self._viewer()
        if viewer is None:
            return
        self.place = _place(viewer, self._followed)
        if self._overlays is not None:
            # Setting a text redraws it even if it is unchanged.
            overlay = self._overlays["slice"]
            if self.place and overlay.text != self.place:
                overlay.text = self.place
            overlay.visible = bool(self.place)

    def _scan_in_view(self, viewer: ViewerModel) -> Layer | None:
        """Scan described by the letters: the chosen one, else the selected, else the topmost."""
        wanted = [self._chosen, viewer.layers.selection.active, *reversed(list(viewer.layers))]
        for layer in wanted:
            if layer is not None and layer in viewer.layers and layer.visible and is_scan(layer):
                return layer
        return None

    def _watch(self, layer: Layer) -> None:
        for name in _MOVES:
            getattr(layer.events, name).connect(self.refresh)

    def _hold(self, event: Event | None = None) -> None:
        """Keep napari from drawing a new layer before its units agree with the others."""
        viewer = self._viewer()
        if viewer is not None and len(viewer.layers) and hasattr(viewer.layers, "batched_update"):
            self._held = True
            viewer.layers.events.begin_batch()
            # Also if something else fails in between.
            QTimer.singleShot(0, self._release)

    def _release(self) -> None:
        viewer = self._viewer()
        if viewer is None or not self._held:
            return
        self._held = False
        # napari collects garbage here for removed layers: half a second if torch is loaded.
        thawed = gc.get_freeze_count() == 0
        if thawed:
            gc.freeze()
        viewer.layers.events.end_batch()
        if thawed:
            gc.unfreeze()

    def _on_inserted(self, event: Event) -> None:
        self._watch(event.value)
        self.refresh()
        self._release()

    def _on_removed(self, event: Event) -> None:
        for name in _MOVES:
            getattr(event.value.events, name).disconnect(self.refresh)
        self.refresh()

    def _on_ndisplay(self, event: Event | None = None) -> None:
        self.refresh()
        self._show_guides()

    def _show_guides(self) -> None:
        """Show a scale bar if there are millimetres; in 3-D, arrows in place of letters."""
        viewer, geometry = self._viewer(), geometry_of(self._followed)
        if viewer is None or geometry is None:
            return
        canvas = getattr(viewer, "canvas", None)
        if canvas is None:  # napari before 0.9
            bar, axes = viewer.scale_bar, viewer.axes
        else:
            bar, axes = canvas.overlays.scale_bar, canvas.overlays.axes
        bar.visible = geometry.measurable
        axes.colored = False
        axes.visible = geometry.spacing_known and viewer.dims.ndisplay == 3

    def _make_room(self, event: Event | None = None) -> None:
        """Keep items in the corners off the letters: in a narrow view, above or below them.

        napari arranges items in the same corner; items in another one may overlap them.
        """
        viewer = self._viewer()
        if viewer is None or geometry_of(self._followed) is None:
            return
        if self._overlays is None:  # napari before 0.9, with one text for all
            viewer.scale_bar.position = "bottom_left"
            return
        from napari.components.canvas import Orientation

        canvas = viewer.canvas
        columns = canvas.grid.actual_shape(viewer.layers)[1]
        narrow = canvas.size[1] / columns < _NARROW
        bar = canvas.overlays.scale_bar
        bar.position = "bottom_center" if narrow else "bottom_left"  # notifications: on the right
        bar.gridded = narrow
        self._overlays["slice"].position = "bottom_center" if narrow else "top_left"
        # Not hidden: napari cannot show a text again in the views of a grid.
        canvas.overlays[_CLEARANCE].position = "top_right" if narrow else "bottom_right"
        way = Orientation.VERTICAL if narrow else Orientation.HORIZONTAL
        canvas.overlay_tiling.top_right = way

    def _edges(self, viewer: ViewerModel, layer: Layer | None) -> Edges | None:
        geometry = geometry_of(layer)
        dims = viewer.dims
        if layer is None or geometry is None or not geometry.spacing_known or dims.ndisplay != 2:
            return None
        displayed = [axis - (dims.ndim - 3) for axis in dims.order[-2:]]
        if layer.ndim != 3 or min(displayed) < 0 or not _straight(layer):
            return None
        vertical, horizontal = camera_of(viewer).orientation2d
        way = (str(vertical), str(horizontal))
        return edge_letters(axis_directions(geometry), displayed, way)

    def _draw(self, viewer: ViewerModel) -> None:
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


def _text_overlays(viewer: ViewerModel) -> dict[str, TextOverlay] | None:
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
    # As high as a letter, so that in a narrow view a colour bar begins below it.
    canvas.overlays[_CLEARANCE] = TextOverlay(
        position="bottom_right",
        font_size=_FONT_SIZE,
        text=" ",
        gridded=True,
        box=False,
        visible=True,
    )
    return made


def _place(viewer: ViewerModel, layer: Layer | None) -> str:
    geometry, plane = geometry_of(layer), plane_in_view(viewer)
    if layer is None or geometry is None or plane is None or layer.ndim != 3:
        return ""
    if plane != geometry.plane and not geometry.measurable:
        return ""
    seen = geometry.along(plane)
    number = slice_number(slice_in_view(viewer, layer, seen))
    return f"Slice {number} of {seen.slice_count}"


def _straight(layer: Layer) -> bool:
    """Whether a layer is still aligned with its own axes, not rotated or mirrored by the user."""
    turned = layer.affine.affine_matrix[:-1, :-1] @ layer.rotate
    return bool(
        np.allclose(turned, np.eye(layer.ndim))
        and np.allclose(layer.shear, 0)
        and (np.asarray(layer.scale) > 0).all()
    )


_attended: WeakKeyDictionary[ViewerModel, PatientMarks] = WeakKeyDictionary()


def patient_marks(viewer: ViewerModel) -> PatientMarks:
    """Return a viewer's marks, created on first use; they last as long as the viewer."""
    if viewer not in _attended:
        _attended[viewer] = PatientMarks(viewer)
    return _attended[viewer]
