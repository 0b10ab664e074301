"""The scan beside the same scan with its results, by napari's grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Image, Layer
from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.gui.layers import KEY, kind_of, twin_layer
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.viewer import camera_of

__all__ = ["SideBySide"]

# Layers of a view: scan, heatmap and mask.
_STRIDE = 3
_SPACING = 4  # pixels between the views
_LINKED = ("contrast_limits", "gamma", "colormap", "interpolation2d")


@dataclass(frozen=True)
class _Before:
    """What is put back."""

    order: tuple[Layer, ...]
    hidden: tuple[Layer, ...]
    grid: dict[str, Any]
    zoom: float
    center: tuple[float, ...]
    selection: frozenset[Layer]


def grid_of(viewer: Any) -> Any:
    """Return the viewer's grid."""
    # napari 0.9 moved it into the canvas.
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid


def _spacer(scan: Image) -> Layer:
    """Layer that holds a place in a view and draws nothing."""
    # Lies where the scan does: layers in other units would take the mm from the scale bar.
    place = {name: getattr(scan, name) for name in ("scale", "translate", "units", "axis_labels")}
    return Image(
        np.zeros((2,) * scan.ndim, np.float32),
        name="(place holder)",
        rgb=False,
        visible=False,
        metadata={KEY: {"kind": "spacer"}},
        **place,
    )


class SideBySide(QObject):
    """Two views with one camera and one slice: the bare scan left, scan and results right.

    napari's grid puts each run of ``stride`` layers of the list into a view, hidden ones counted.
    So the scan is made the last of its run, by layers that hold places where there are no others,
    and a second drawing of it, heatmap and mask are the next run. All is put back in the end.

    Parameters
    ----------
    viewer : napari.Viewer
        Where the layers are.
    parent : QObject
        The owner.
    """

    #: Whether the views are side by side.
    changed = Signal(bool)

    def __init__(self, viewer: Any, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._before: _Before | None = None
        self._scan: Layer | None = None
        self._made: tuple[Layer, ...] = ()
        self._stopping = False
        # napari holds this by weak reference.
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def active(self) -> bool:
        """Whether the views are side by side."""
        return self._before is not None

    @property
    def scan(self) -> Layer | None:
        """Scan that is shown so."""
        return self._scan

    def start(self, scan: Image, session: Session | None) -> None:
        """Show a scan beside itself with the results of its session."""
        viewer, layers = self._viewer, self._viewer.layers
        if self.active or scan not in layers:
            return
        grid, camera = grid_of(viewer), camera_of(viewer)
        results = [] if session is None else [session.heat, session.mask]
        results = [layer for layer in results if layer is not None and layer in layers]
        others = [layer for layer in layers if layer is not scan and layer not in results]
        self._before = _Before(
            tuple(layers),
            tuple(layer for layer in others if layer.visible),
            {name: getattr(grid, name) for name in ("enabled", "stride", "shape", "spacing")},
            float(camera.zoom),
            tuple(camera.center),
            frozenset(layers.selection),
        )
        self._scan = scan
        for layer in others:
            layer.visible = False
        scan.visible = True
        twin = twin_layer(scan)
        # Before 0.9, a view of hidden layers alone took its place in the grid.
        run = _STRIDE if hasattr(viewer, "canvas") else 2 * _STRIDE
        spacers = [_spacer(scan) for _ in range((_STRIDE - len(others) - 1) % run)]
        self._made = (twin, *spacers)
        for layer in self._made:
            viewer.add_layer(layer)
        self._arrange([*others, *spacers, scan, twin, *results])
        layers.link_layers([scan, twin], _LINKED)
        layers.selection = set(self._before.selection)
        before = self._fit()
        grid.stride, grid.shape, grid.spacing = _STRIDE, (1, 2), _SPACING
        grid.enabled = True
        # The same place, as much nearer or farther as before.
        camera.zoom = self._before.zoom * self._fit() / before
        camera.center = self._before.center
        self.changed.emit(True)

    def stop(self) -> None:
        """Put layers, grid and view back; which slice is in view stays."""
        before, self._before = self._before, None
        if before is None:
            return
        layers, grid, camera = self._viewer.layers, grid_of(self._viewer), camera_of(self._viewer)
        grid.enabled = before.grid["enabled"]
        for name in ("stride", "shape", "spacing"):
            setattr(grid, name, before.grid[name])
        twin = self._made[0]
        if twin in layers and self._scan in layers:
            layers.unlink_layers([self._scan, twin], _LINKED)
        made, self._made, self._scan = self._made, (), None
        for layer in made:
            if layer in layers:
                layers.remove(layer)
        kept = [layer for layer in before.order if layer in layers]
        self._arrange([*kept, *(layer for layer in layers if layer not in kept)])
        for layer in before.hidden:
            layer.visible = True
        layers.selection = {layer for layer in before.selection if layer in layers}
        camera.zoom, camera.center = before.zoom, before.center
        with suppress(RuntimeError):  # the dock may be gone before its Python half is
            self.changed.emit(False)

    def follow(self, scan: Layer | None) -> None:
        """Go back where another scan was chosen."""
        if self.active and scan is not self._scan:
            self.stop()

    def _fit(self) -> float:
        """Fit the view to the window, and give its zoom."""
        self._viewer.reset_view()
        return float(camera_of(self._viewer).zoom)

    def _arrange(self, wanted: Sequence[Layer]) -> None:
        layers = self._viewer.layers
        for at, layer in enumerate(wanted):
            now = layers.index(layer)
            if now != at:
                layers.move(now, at)

    def _on_removed(self, event: Any) -> None:
        if self.active and (event.value is self._scan or kind_of(event.value) == "twin"):
            self.stop()
