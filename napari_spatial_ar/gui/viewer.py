"""Which slice is in view, and the right way up."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import numpy as np
from napari.layers import Image, Layer

from napari_spatial_ar.gui.layers import AXES, KEY
from napari_spatial_ar.imaging.geometry import Geometry, Plane

__all__ = [
    "camera_of",
    "fit_view",
    "go_to_slice",
    "go_to_voxel",
    "keep_upright",
    "plane_in_view",
    "show_acquired_plane",
    "show_plane",
    "show_scan",
    "shows_slices",
    "slice_in_view",
    "view_index",
    "viewer_itself",
]

# Axis shown across the screen last: sagittal slices show anterior on the left.
_ORDER: dict[Plane, tuple[int, int, int]] = {
    "axial": (0, 1, 2),
    "coronal": (1, 0, 2),
    "sagittal": (2, 0, 1),
}


def viewer_itself(viewer: Any) -> Any:
    """Return the viewer behind the proxy that napari hands plugins.

    What it gives are proxies too: a layer that was added by it is not the layer in the viewer.
    """
    return getattr(viewer, "__wrapped__", viewer)


def camera_of(viewer: Any) -> Any:
    """Return the viewer's camera."""
    # napari 0.9 moved the camera into the scene.
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def fit_view(viewer: Any, layer: Layer) -> None:
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
    camera.center = (*(0.0,) * (3 - len(axes)), *((low + high) / 2))
    # The canvas is at least as large as what was fitted.
    canvas = np.maximum(camera.zoom * (all_high - all_low), _canvas_size(viewer, len(axes)))
    camera.zoom = float((canvas / size).min())


def _canvas_size(viewer: Any, ndim: int) -> Any:
    """Height and width that a layer may take, in pixels; 0 where napari does not tell."""
    known = getattr(getattr(viewer, "canvas", None), "size", None)
    return np.zeros(ndim) if known is None or ndim != 2 else 0.95 * np.asarray(known)


def _index_along(viewer: Any, layer: Image, axis: int) -> int:
    """Index of the viewer's point along a layer axis, clipped to the layer."""
    point = viewer.dims.point[-layer.ndim :]
    index = round(float(layer.world_to_data(point)[axis]))
    return min(max(index, 0), layer.data.shape[axis] - 1)


def view_index(viewer: Any, layer: Image) -> tuple[int, int] | None:
    """Layer axis and index that are in view; None in 3-D display."""
    hidden = [a - (viewer.dims.ndim - layer.ndim) for a in viewer.dims.not_displayed]
    hidden = [a for a in hidden if a >= 0]
    if viewer.dims.ndisplay != 2 or len(hidden) != 1:
        return None
    return hidden[0], _index_along(viewer, layer, hidden[0])


def slice_in_view(viewer: Any, layer: Image, geometry: Geometry) -> int:
    """Acquired slice (from 0, file order) at the viewer's point."""
    if layer.ndim != 3:
        return 0
    # Counting backwards twice is counting forwards: slice_position is its own inverse.
    return geometry.slice_position(_index_along(viewer, layer, geometry.display_slice_axis))


def shows_slices(viewer: Any, layer: Image, geometry: Geometry, indices: Collection[int]) -> bool:
    """Whether anything of acquired slices ``indices`` is in view."""
    view = view_index(viewer, layer)
    if view is None or view[0] != geometry.display_slice_axis:
        return bool(indices)
    return geometry.slice_position(view[1]) in indices


def go_to_slice(viewer: Any, layer: Image, geometry: Geometry, index: int) -> None:
    """Show acquired slice ``index``."""
    if layer.ndim != 3:
        return
    axis = geometry.display_slice_axis
    at = [0.0, 0.0, 0.0]
    at[axis] = geometry.slice_position(index)
    offset = viewer.dims.ndim - 3
    viewer.dims.set_point(offset + axis, float(layer.data_to_world(at)[axis]))


def go_to_voxel(viewer: Any, layer: Any, at: tuple[int, int, int]) -> None:
    """Show a voxel of a layer with axes (S, P, L) in the plane in view, in the middle of it."""
    world = [float(value) for value in layer.data_to_world(at)]
    first = viewer.dims.ndim - 3
    viewer.dims.set_point(range(first, first + 3), world)
    shown = [world[axis - first] for axis in viewer.dims.displayed]
    camera_of(viewer).center = (*(0.0,) * (3 - len(shown)), *shown)


def show_acquired_plane(viewer: Any, geometry: Geometry) -> None:
    """Turn a 2-D view to the plane the slices were acquired in, and fit it to the window."""
    if viewer.dims.ndisplay == 2:
        show_plane(viewer, geometry.plane)


def show_scan(viewer: Any, layer: Image) -> None:
    """Show a hidden scan in the plane of its slices, where no Review dock does.

    In this order: of a large scan, only the slice in view is read, and no other plane of it.
    """
    geometry = layer.metadata.get(KEY, {}).get("geometry")
    if geometry is not None:
        show_acquired_plane(viewer, geometry)
    layer.visible = True


def show_plane(viewer: Any, plane: Plane) -> None:
    """Show slices of a plane in 2-D, at the point that is in view, fitted to the window."""
    dims = viewer.dims
    if dims.ndim < 3:
        return
    dims.ndisplay = 2
    offset = dims.ndim - 3
    dims.order = (*range(offset), *(offset + axis for axis in _ORDER[plane]))
    keep_upright(viewer)
    viewer.reset_view()


def plane_in_view(viewer: Any) -> Plane | None:
    """Plane that is in view, whichever way it is turned; None in 3-D display."""
    dims = viewer.dims
    if dims.ndisplay != 2 or dims.ndim < 3:
        return None
    hidden = dims.order[-3] - (dims.ndim - 3)
    return next((plane for plane, order in _ORDER.items() if order[0] == hidden), None)


def keep_upright(viewer: Any) -> None:
    """Draw superior at the top, whatever plane is shown; napari counts downwards."""
    dims = viewer.dims
    # Of the layers: before napari 0.9 the viewer's own axes did not take their names.
    if dims.ndim < 3 or not any(tuple(layer.axis_labels) == AXES for layer in viewer.layers):
        return
    vertical = dims.order[-2] - (dims.ndim - 3)
    camera_of(viewer).orientation2d = ("up" if vertical == AXES.index("S") else "down", "right")
