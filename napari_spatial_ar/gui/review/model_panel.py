"""The model that scores, and which slices it sees."""

from __future__ import annotations

from typing import get_args

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_spatial_ar.gui.library.button import LibraryButton
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.widgets.fold import folding
from napari_spatial_ar.gui.widgets.forms import Note, combo
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import Plane

__all__ = ["ModelPanel"]


class ModelPanel(QWidget):
    """List of models, what is known of the chosen one, and the plane of the slices."""

    def __init__(self) -> None:
        super().__init__()
        self.box = combo(tooltip("model.model"), "Model")
        self.library_button = LibraryButton()
        self.note = Note()
        self.weights = WeightsRow()
        self.weights.hide()
        self.plane_box = combo(
            tooltip("model.slices"),
            "Slices that the model sees",
        )
        self.plane_box.addItem("Slices as acquired", None)
        for plane in get_args(Plane):
            self.plane_box.addItem(f"{plane.capitalize()} slices", plane)
        parts = [self.box, self.note, self.weights, self.plane_box]
        self.fold = folding("Model", parts, key="model", beside=[self.library_button])
        self.fold.set_summary(self.box.currentText)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self.fold)
