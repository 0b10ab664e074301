"""The list of scans: image layers of the viewer, followed as they come, go and change names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari.layers import Image
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QComboBox

from napari_spatial_ar.gui.layers import KEY, is_scan
from napari_spatial_ar.gui.scan_names import parts_that_differ, path_of
from napari_spatial_ar.gui.widgets.forms import select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["ScanList"]

_TOOLTIP = Qt.ItemDataRole.ToolTipRole


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
        for layer, text in zip(scans, _texts(scans), strict=True):
            self._box.addItem(text, layer)
            where = path_of(layer)
            self._box.setItemData(self._box.count() - 1, where and str(where), _TOOLTIP)
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
        where = self._box.currentData(_TOOLTIP)
        self._box.setToolTip(f"{tooltip('scan.scan')}\n{where}" if where else tooltip("scan.scan"))
        if layer is not self._current:
            self._current = layer
            self.chosen.emit(layer)


def _texts(scans: Sequence[Image]) -> list[str]:
    """Names of scans, those of one label with the part of their paths in which they differ."""
    texts = [str(layer.name) for layer in scans]
    alike: dict[str, list[tuple[int, Path]]] = {}
    for index, layer in enumerate(scans):
        where = path_of(layer)
        if where is not None:
            label = layer.metadata[KEY]["volume"].series.label
            alike.setdefault(label, []).append((index, where))
    for found in alike.values():
        parts = parts_that_differ([where for _, where in found]) if len(found) > 1 else [""]
        for (index, _), part in zip(found, parts, strict=True):
            texts[index] += f": {part}" if part else ""
    return texts
