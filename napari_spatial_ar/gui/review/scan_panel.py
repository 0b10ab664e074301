"""The scan under review: which one, how it is opened, turned and drawn."""

from __future__ import annotations

from typing import Any

from napari.layers import Image, Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.marks import attend
from napari_spatial_ar.gui.opening import ScanOpener
from napari_spatial_ar.gui.review.plane_buttons import PlaneButtons
from napari_spatial_ar.gui.review.scan_list import ScanList
from napari_spatial_ar.gui.review.window_box import WindowBox
from napari_spatial_ar.gui.scan_names import name_scans
from napari_spatial_ar.gui.widgets.fold import folding
from napari_spatial_ar.gui.widgets.forms import Note, button, combo, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import Geometry

__all__ = ["ScanPanel"]

_INVITATION = "Or drop a file or folder on this dock."
_NOT_REGULAR = "Geometry not regular: nothing is measured in mm."
_SHEARED = "Geometry not regular: the gantry was tilted. Nothing is measured across slices."


class ScanPanel(QWidget):
    """List of scans, opening, planes and display window.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer whose layers are listed.
    tasks : TaskHost
        Where scans are read.
    """

    #: Another scan layer (or None) is chosen.
    chosen = Signal(object)

    def __init__(self, viewer: Any, tasks: TaskHost):
        super().__init__()
        self.box = combo(tooltip("scan.scan"), "Scan")
        self.open_button = button(
            "Open scan...",
            tooltip("scan.open_scan"),
        )
        self.worklist_button = button("Worklist...", tooltip("scan.worklist"))
        self.note = Note(_INVITATION)
        self.cancel_button = button("Cancel", tooltip("scan.cancel"))
        self.cancel_button.hide()
        self.warning = Note(strong=True)
        self.planes = PlaneButtons(viewer)
        self.window_box = WindowBox(tasks)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            self.box,
            row(self.note, self.cancel_button),
            self.warning,
            self.planes,
            self.window_box,
        ]
        beside = (self.open_button, self.worklist_button)
        self.fold = folding("Scan", parts, key="scan", beside=beside)
        self.fold.set_summary(self.box.currentText)
        layout.addWidget(self.fold)
        self._marks = attend(viewer)
        name_scans(viewer)
        self.opener = ScanOpener(viewer, tasks, self)
        self.list = ScanList(viewer, self.box)
        self.open_button.setMenu(self.opener.menu(self))
        self.cancel_button.clicked.connect(self.opener.cancel)
        # The line stays, so that what is below it stays under the cursor.
        self.opener.said.connect(lambda text: self.note.say(text or _INVITATION))
        self.opener.busy.connect(self._on_busy)
        # Of several, the first is shown; the list has the others.
        self.opener.began.connect(self.list.choose)
        self.list.chosen.connect(self._on_chosen)
        self._on_chosen(self.list.layer)

    @property
    def layer(self) -> Image | None:
        """The scan that is chosen."""
        return self.list.layer

    def _on_busy(self, busy: bool) -> None:
        self.cancel_button.setVisible(busy)
        self.open_button.setEnabled(not busy)

    def _on_chosen(self, layer: Image | None) -> None:
        geometry = _geometry_of(layer)
        irregular = geometry is not None and not geometry.regular
        sheared = geometry is not None and geometry.exact
        self.warning.say((_SHEARED if sheared else _NOT_REGULAR) if irregular else "")
        self.planes.set_geometry(geometry)
        self.window_box.set_layer(layer)
        self._marks.follow(layer)
        self.fold.tell()
        self.chosen.emit(layer)


def _geometry_of(layer: Layer | None) -> Geometry | None:
    return None if layer is None else layer.metadata.get(KEY, {}).get("geometry")
