"""Saving the settings of a training form as a recipe, and taking up a saved one."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.gui import services, settings
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.widgets.forms import Note, button, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["RecipeRow"]

_FILTER = "Recipe (*.toml)"


class RecipeRow(QWidget):
    """Two buttons, and what came from a recipe without having a field in the form.

    Parameters
    ----------
    form : TrainingForm
        Gives and takes recipes: ``recipe()``, ``set_recipe()``.
    """

    def __init__(self, form: Any):
        super().__init__()
        # A cycle would leave the widgets to the garbage collector, which may run in a worker's
        # thread, where deleting widgets ends the process.
        self._form = weakref.proxy(form)
        #: Settings of a fit that a recipe brought and that the form has no field for.
        self.others: dict[str, Any] = {}
        self.save_button = button(
            "Save recipe...",
            tooltip("training.save_recipe"),
        )
        self.load_button = button("Load recipe...", tooltip("training.load_recipe"))
        self.note = Note()
        self.drop_button = button("Drop these", tooltip("training.drop_these"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addLayout(row(self.load_button, self.save_button))
        layout.addWidget(self.note)
        layout.addWidget(self.drop_button)
        self.save_button.clicked.connect(self.save)
        self.load_button.clicked.connect(self.load)
        self.drop_button.clicked.connect(self.drop)
        self.set_others({})

    def set_others(self, others: dict[str, Any]) -> None:
        """Keep settings that the form has no field for, and show them."""
        self.others = others
        said = ", ".join(f"{name.replace('_', ' ')} {_said(v)}" for name, v in others.items())
        self.note.say(f"From the recipe: {said}" if said else "")
        self.drop_button.setVisible(bool(others))

    def drop(self) -> None:
        """Forget the settings that the form has no field for."""
        self.set_others({})

    def save(self) -> None:
        """Ask for a file and write the settings as they stand."""
        try:
            config = self._form.recipe()
            start = Path(settings.last_folder("recipe")) / "recipe.toml"
            chosen, _ = QFileDialog.getSaveFileName(self, "Save recipe", str(start), _FILTER)
            if chosen:
                path = Path(chosen)
                services.write_recipe(path, config)
                settings.remember_folder("recipe", path.parent)
        except SpatialARError as error:
            report(error, "Saving the recipe")

    def load(self) -> None:
        """Ask for a file and set the form as it says."""
        start = settings.last_folder("recipe")
        chosen, _ = QFileDialog.getOpenFileName(self, "Load recipe", start, _FILTER)
        if not chosen:
            return
        settings.remember_folder("recipe", Path(chosen).parent)
        try:
            self._form.set_recipe(services.read_recipe(chosen))
        except SpatialARError as error:
            report(error, "Loading the recipe")


def _said(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
