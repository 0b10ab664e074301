"""Buttons that turn the view to axial, coronal and sagittal slices."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QWidget

from napari_spatial_ar.gui.viewer import plane_in_view, show_plane
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import Geometry, Plane

__all__ = ["PlaneButtons"]

_KEYS: dict[Plane, str] = {"axial": "Alt+1", "coronal": "Alt+2", "sagittal": "Alt+3"}


class PlaneButtons(QWidget):
    """One button a plane, the one in view pressed; hidden where the patient's axes are unknown."""

    def __init__(self, viewer: Any):
        super().__init__()
        self._viewer = viewer
        self._group = QButtonGroup(self)
        # Not exclusive: in 3-D display none is pressed.
        self._group.setExclusive(False)
        self.buttons: dict[Plane, QPushButton] = {}
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for plane, key in _KEYS.items():
            made = QPushButton(plane.capitalize())
            made.setCheckable(True)
            made.setShortcut(QKeySequence(key))
            made.clicked.connect(partial(self._on_clicked, plane))
            self._group.addButton(made)
            layout.addWidget(made)
            self.buttons[plane] = made
        viewer.dims.events.order.connect(self._show)
        viewer.dims.events.ndisplay.connect(self._show)
        self.set_geometry(None)

    def set_geometry(self, geometry: Geometry | None) -> None:
        """Offer the planes of a scan; None hides the buttons."""
        known = geometry is not None and geometry.spacing_known
        self.setVisible(known)
        for plane, made in self.buttons.items():
            # A hidden button would still take its key.
            made.setEnabled(known)
            key = _KEYS[plane]
            made.setToolTip(
                tooltip("scan.planes", plane=plane, key=key)
                if geometry is None
                else tooltip("scan.planes.of_a_scan", plane=plane, key=key, seen=geometry.plane)
            )
        self._show()

    def _on_clicked(self, plane: Plane, *_: Any) -> None:
        show_plane(self._viewer, plane)
        self._show()

    def _show(self, event: Any = None) -> None:
        shown = plane_in_view(self._viewer)
        for plane, made in self.buttons.items():
            made.setChecked(plane == shown)
