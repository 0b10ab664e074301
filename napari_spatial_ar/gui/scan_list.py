"""The list of scans: image layers of the viewer, followed as they come, go and change names."""

from __future__ import annotations

from typing import Any

from napari.layers import Image
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QComboBox

from napari_spatial_ar.gui.forms import select_data
from napari_spatial_ar.gui.layers import is_scan

__all__ = ["ScanList"]


class ScanList(QObject):
    """Keeps a combo box in step with a viewer's image layers."""

    #: Another scan (or None) is chosen.
    chosen = Signal(object)
    #: A layer left the viewer.
    removed = Signal()

    def __init__(self, viewer: Any, box: QComboBox):
        super().__init__(box)
        self._viewer = viewer
        self._box = box
        self._current: Image | None = None
        events = viewer.layers.events
        # napari lets go of these by itself when the box is deleted.
        events.inserted.connect(self._on_inserted)
        events.removed.connect(self._on_removed)
        events.reordered.connect(self._fill)
        for layer in viewer.layers:
            layer.events.name.connect(self._fill)
        box.currentIndexChanged.connect(self._on_index)
        self._fill()

    @property
    def layer(self) -> Image | None:
        """The scan that is chosen."""
        return self._current

    def choose(self, layer: Image) -> None:
        """Select a layer."""
        select_data(self._box, layer)

    def _on_inserted(self, event: Any) -> None:
        event.value.events.name.connect(self._fill)
        self._fill()

    def _on_removed(self, event: Any) -> None:
        event.value.events.name.disconnect(self._fill)
        self._fill()
        self.removed.emit()

    def _fill(self, event: Any = None) -> None:
        scans = [layer for layer in self._viewer.layers if is_scan(layer)]
        self._box.blockSignals(True)
        self._box.clear()
        for layer in scans:
            self._box.addItem(layer.name, layer)
        if not scans:
            self._box.addItem("No scan is open", None)
        self._box.setEnabled(bool(scans))
        if not select_data(self._box, self._current):
            # What is on top of the others is what is seen.
            seen = [layer for layer in scans if layer.visible]
            select_data(self._box, seen[-1] if seen else None)
        self._box.blockSignals(False)
        self._on_index()

    def _on_index(self) -> None:
        layer = self._box.currentData()
        if layer is not self._current:
            self._current = layer
            self.chosen.emit(layer)
