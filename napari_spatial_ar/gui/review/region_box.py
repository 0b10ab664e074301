"""The list of drawn regions that a mask can be restricted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from napari.layers import Labels, Layer, Shapes
from qtpy.QtCore import QSignalBlocker, Signal

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.widgets.forms import Combo
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.review.regions import ellipse_outline, outlined_voxels

__all__ = ["RegionBox"]

_CLOSED = {"polygon", "rectangle", "ellipse"}


class RegionBox(Combo):
    """Chooses a Shapes or Labels layer, and gives its inside on a scan's grid."""

    #: Another region was chosen, or the chosen one was drawn on.
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._viewer: Any = None
        self._watched: Any = None
        self._scan: Any = None
        self._belongs: Callable[[Layer], bool] = lambda layer: True
        self._chosen: WeakKeyDictionary[Layer, Layer | None] = WeakKeyDictionary()
        self.setToolTip(tooltip("mask.within"))
        self.addItem("Whole scan", None)
        self.currentIndexChanged.connect(self._on_chosen)

    def set_viewer(self, viewer: Any) -> None:
        """List the layers of a viewer, and follow them."""
        self._viewer = viewer
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self._on_layers)
        self._on_layers()

    def set_scan(self, scan: Layer | None, belongs: Callable[[Layer], bool]) -> None:
        """List the regions of another scan, of which one may have been chosen before.

        Parameters
        ----------
        scan : napari.layers.Layer or None
            The scan.
        belongs : callable
            Tells of a layer whether it goes with the chosen scan.
        """
        if self._scan is not None:
            self._chosen[self._scan] = self.layer
        self._scan, self._belongs = scan, belongs
        self._fill(wanted=None if scan is None else self._chosen.get(scan))

    @property
    def layer(self) -> Any:
        """The chosen layer; None for the whole scan."""
        return self.currentData()

    def inside(self, session: Session) -> npt.NDArray[np.bool_] | None:
        """(Z, Y, X) of the scan's grid inside the region; None for the whole scan.

        Raises
        ------
        InputError
            If the layer does not lie on the scan's grid, or holds no outline.
        """
        layer, geometry = self.layer, session.geometry
        if layer is None:
            return None
        if isinstance(layer, Labels):
            on_grid = layer.data.shape == geometry.display_shape and all(
                np.allclose(getattr(layer, name), getattr(session.layer, name))
                for name in ("scale", "translate")
            )
            if not on_grid:
                raise InputError(
                    "the labels do not lie on the scan's grid",
                    fix="Draw them in a Labels layer made for this scan",
                )
            return np.asarray(geometry.from_display(np.asarray(layer.data) > 0))
        outlines = [
            _on_grid(ellipse_outline(corners) if kind == "ellipse" else corners, layer, session)
            for corners, kind in zip(layer.data, layer.shape_type, strict=True)
            if kind in _CLOSED
        ]
        return geometry.from_display(outlined_voxels(geometry.display_shape, outlines))

    def reset(self) -> None:
        """Choose the whole scan."""
        self.setCurrentIndex(0)

    def _on_layers(self, event: Any = None) -> None:
        self._fill(wanted=self.layer)

    def _fill(self, wanted: Layer | None) -> None:
        chosen = self.layer
        with QSignalBlocker(self):
            self.clear()
            self.addItem("Whole scan", None)
            for layer in self._viewer.layers:
                drawn = isinstance(layer, Labels | Shapes) and KEY not in layer.metadata
                if drawn and self._belongs(layer):
                    self.addItem(layer.name, layer)
                    if layer is wanted:
                        self.setCurrentIndex(self.count() - 1)
        if self.layer is not chosen:
            self._on_chosen()

    def _on_chosen(self, *_: Any) -> None:
        if self._watched is not None:
            for event in _changes(self._watched):
                event.disconnect(self._on_drawn)
        self._watched = self.layer
        if self._watched is not None:
            for event in _changes(self._watched):
                event.connect(self._on_drawn)
        self.changed.emit()

    def _on_drawn(self, event: Any) -> None:
        # A shape that is being drawn is reported before it is there, too.
        if str(getattr(event, "action", "")).lower().rsplit(".", 1)[-1] not in _BEFORE:
            self.changed.emit()


_BEFORE = {"adding", "changing", "removing"}


def _changes(layer: Any) -> list[Any]:
    """Events of a layer that tell that something was drawn."""
    events = layer.events
    return [events.data, events.paint] if isinstance(layer, Labels) else [events.data]


def _on_grid(corners: npt.NDArray[Any], layer: Any, session: Session) -> npt.NDArray[np.float64]:
    """Corners in voxels of the scan as it is displayed; of two axes where the layer has two."""
    target = session.layer
    if layer.ndim == 2:
        offset = np.asarray(target.translate)[-2:], np.asarray(target.scale)[-2:]
        world = np.array([layer.data_to_world(tuple(corner)) for corner in corners])
        return np.asarray((world - offset[0]) / offset[1], np.float64)
    return np.array(
        [target.world_to_data(layer.data_to_world(tuple(corner))) for corner in corners]
    )
