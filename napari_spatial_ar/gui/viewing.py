"""Which slice is in view, and the right way up."""

from __future__ import annotations

from typing import Any

from napari.layers import Image

from napari_spatial_ar.gui.layers import AXES
from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["go_to_slice", "keep_upright", "show_acquired_plane", "slice_in_view", "view_index"]

# Axis shown across the screen last: sagittal slices show anterior on the left.
_ORDER = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}


def _camera(viewer: Any) -> Any:
    # napari 0.9 moved the camera into the scene.
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


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


def go_to_slice(viewer: Any, layer: Image, geometry: Geometry, index: int) -> None:
    """Show acquired slice ``index``."""
    if layer.ndim != 3:
        return
    axis = geometry.display_slice_axis
    at = [0.0, 0.0, 0.0]
    at[axis] = geometry.slice_position(index)
    offset = viewer.dims.ndim - 3
    viewer.dims.set_point(offset + axis, float(layer.data_to_world(at)[axis]))


def show_acquired_plane(viewer: Any, geometry: Geometry) -> None:
    """Turn a 2-D view to the plane the slices were acquired in, and fit it to the window."""
    if viewer.dims.ndim != 3 or viewer.dims.ndisplay != 2:
        return
    viewer.dims.order = _ORDER[geometry.plane]
    keep_upright(viewer)
    _mark_directions(viewer, geometry)
    viewer.reset_view()


def _mark_directions(viewer: Any, geometry: Geometry) -> None:
    """Show arrows named S, P, L and a scale bar, where the scan says how the patient lies."""
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", None)
    if overlays is None:  # napari before 0.9 keeps them elsewhere
        return
    overlays.axes.colored = False
    overlays.axes.size = 60
    overlays.axes.visible = geometry.spacing_known
    overlays.scale_bar.visible = geometry.spacing_known


def keep_upright(viewer: Any) -> None:
    """Draw superior at the top, whatever plane is shown; napari counts downwards."""
    dims = viewer.dims
    if dims.ndim < 3 or tuple(dims.axis_labels[-3:]) != AXES:
        return
    vertical = dims.axis_labels[dims.order[-2]]
    _camera(viewer).orientation2d = ("up" if vertical == "S" else "down", "right")
