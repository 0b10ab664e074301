"""The choice of the display window of a scan's layer."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import numpy as np
from napari.layers import Image
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_spatial_ar.gui import display_windows
from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.widgets.forms import combo, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.volume import Volume

__all__ = ["WindowBox"]

_BY_HAND = "by hand"


class WindowBox(QWidget):
    """Combo box that sets a layer's contrast limits and nothing else."""

    def __init__(self, tasks: TaskHost):
        super().__init__()
        self._tasks = tasks
        self._layer: Image | None = None
        self.box = combo(
            tooltip("scan.display_window"),
            "Display window",
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        name = QLabel("Display window")
        name.setToolTip(self.box.toolTip())
        layout.addWidget(name)
        layout.addWidget(self.box, 1)
        self.box.activated.connect(self._on_activated)
        self.set_layer(None)

    def set_layer(self, layer: Image | None) -> None:
        """Follow another layer; hidden for layers that this plugin did not open."""
        if self._layer is not None:
            self._layer.events.contrast_limits.disconnect(self._show)
        volume = _volume_of(layer)
        self._layer = layer if volume is not None else None
        self.box.clear()
        if volume is not None and layer is not None:
            for key, text in display_windows.choices(volume).items():
                self.box.addItem(text, key)
            layer.events.contrast_limits.connect(self._show)
        self._show()
        self.setVisible(volume is not None)

    def _show(self, event: Any = None) -> None:
        """Show which choice gave the limits that are drawn now."""
        if self._layer is None:
            return
        drawn = tuple(float(v) for v in self._layer.contrast_limits)
        choice = _choice_of(self._layer, drawn)
        at = self.box.findData(_BY_HAND)
        if choice == _BY_HAND and at < 0:
            self.box.addItem("Set by hand", _BY_HAND)
        elif choice != _BY_HAND and at >= 0:
            self.box.removeItem(at)
        select_data(self.box, choice)

    def _on_activated(self, index: int) -> None:
        choice, layer = self.box.itemData(index), self._layer
        volume = _volume_of(layer)
        if layer is None or volume is None or choice == _BY_HAND:
            return
        if not display_windows.needs_voxels(choice):
            self._draw(layer, volume, choice, display_windows.limits_of(volume, choice))
            return

        def work(stop: threading.Event) -> Generator[None, None, Any]:
            yield
            return display_windows.limits_of(volume, choice)

        task = self._tasks.start(work)
        task.returned.connect(lambda limits: self._draw(layer, volume, choice, limits))
        task.failed.connect(lambda error: report(error, "Finding the display window"))

    def _draw(self, layer: Image, volume: Volume, choice: str, limits: Any) -> None:
        display_windows.remember_choice(volume, choice)
        layer.metadata[KEY]["drawn"] = display_windows.Drawn(choice, limits)
        layer.contrast_limits = limits
        self._show()


def _volume_of(layer: Image | None) -> Volume | None:
    return None if layer is None else layer.metadata.get(KEY, {}).get("volume")


def _choice_of(layer: Image, drawn: tuple[float, ...]) -> str:
    """Choice that gives the drawn limits, as far as that is known without reading voxels."""
    volume = _volume_of(layer)
    assert volume is not None
    last: display_windows.Drawn | None = layer.metadata[KEY].get("drawn")
    if last is not None and np.allclose(drawn, last.limits):
        return last.choice
    for choice in display_windows.choices(volume):
        if not display_windows.needs_voxels(choice) and np.allclose(
            drawn, display_windows.limits_of(volume, choice)
        ):
            return choice
    return _BY_HAND
