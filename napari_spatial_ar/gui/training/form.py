"""The settings of a fit, as a form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLineEdit, QSpinBox, QVBoxLayout, QWidget

from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import services, settings
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.training.data_panel import FolderPanel
from napari_spatial_ar.gui.training.method_form import MethodForm
from napari_spatial_ar.gui.training.recipe_row import RecipeRow
from napari_spatial_ar.gui.training.slice_selection import SelectionForm
from napari_spatial_ar.gui.training.window_form import WindowForm
from napari_spatial_ar.gui.widgets.colours import QUIET
from napari_spatial_ar.gui.widgets.forms import Note, combo, section, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.windows import default_window
from napari_spatial_ar.normative.fitting.config import FitConfig
from napari_spatial_ar.paths import check_name_length

__all__ = ["TrainingForm"]

_FIELDS = (
    "folders",
    "exclude",
    "modality",
    "plane",
    "slice_range",
    "min_body",
    "calibration_fraction",
    "calibration_folds",
    "window",
    "backbone",
    "method",
    "options",
    "seed",
)
# Settings without a field that say what is used of the folders.
_OF_THE_LOOK = ("patient_pattern", "valid_fraction")
_MODALITIES = (("MRI", "mri"), ("CT", "ct"), ("OCT", "oct"))


class TrainingForm(QWidget):
    """Folder of normal scans and how to learn from it."""

    #: A setting changed.
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.normals = FolderPanel()
        self.selection = SelectionForm()
        self.modality = self._list(_MODALITIES, tooltip("training.modality"))
        self.window = WindowForm()
        self.backbone = combo(tooltip("training.backbone"))
        self.backbone_note = Note()
        self.weights = WeightsRow()
        self.method = MethodForm()
        self.seed = QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setToolTip(tooltip("training.seed"))
        self.recipes = RecipeRow(self)
        self.name = QLineEdit()
        self.name.setToolTip(tooltip("training.name"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(9)
        layout.addWidget(self.normals)
        layout.addWidget(section("Slices", [self.selection]))
        layout.addWidget(
            section(
                "Model",
                [
                    ("Modality", self.modality),
                    ("Model sees", self.window),
                    ("Backbone", self.backbone),
                    self.backbone_note,
                    self.weights,
                    self.method,
                    ("Seed", self.seed),
                    ("Name", self.name),
                    self.recipes,
                ],
            )
        )
        self._named_by_hand = False
        self.fill_backbones()
        select_data(self.modality, settings.recall("training_modality", ""))
        select_data(self.backbone, settings.recall("training_backbone", ""))
        self.window.set_modality(self.modality.currentData())
        self.backbone.currentIndexChanged.connect(self._on_backbone)
        services.weights_news.changed.connect(self._on_weights)
        self.weights.got.connect(self._on_got)
        self.modality.currentIndexChanged.connect(self._on_modality)
        self.method.changed.connect(self._suggest_name)
        self.name.textEdited.connect(self._on_name)
        self.normals.changed.connect(self.changed)
        self.normals.look_wanted.connect(self._look)
        self.normals.summarised.connect(self._on_summary)
        self.selection.plane_changed.connect(self.normals.look_again)
        self.selection.changed.connect(self._on_selection)
        self.window.box.currentIndexChanged.connect(self.normals.look_again)
        for spin in (self.window.low, self.window.high, self.seed):
            spin.editingFinished.connect(self.normals.look_again)
        self.recipes.drop_button.clicked.connect(self.normals.look_again)
        self._on_backbone()

    @staticmethod
    def _list(items: tuple, tooltip: str) -> Any:
        box = combo(tooltip)
        for text, value in items:
            box.addItem(text, value)
        return box

    def fill_backbones(self) -> None:
        """List backbones, saying whose weights are on this machine."""
        chosen = self.backbone.currentData()
        self.backbone.blockSignals(True)
        self.backbone.clear()
        for name, present in services.backbone_names():
            self.backbone.addItem(f"{name}  \u2713" if present else name, name)
            if not present:
                at = self.backbone.count() - 1
                self.backbone.setItemData(at, QUIET.on(self), Qt.ItemDataRole.ForegroundRole)
                missing = services.weights_missing(name)
                self.backbone.setItemData(at, missing, Qt.ItemDataRole.ToolTipRole)
        if chosen is not None:
            select_data(self.backbone, chosen)
        self.backbone.blockSignals(False)

    def _look(self) -> None:
        """Look through the folders with the settings on which it depends what is used of them."""
        try:
            self.normals.look(
                {
                    "modality": self.modality.currentData(),
                    "window": self.window.window(),
                    "selection": self.selection.selection(),
                    "calibration_fraction": self.selection.calibration_fraction,
                    "seed": self.seed.value(),
                    **{k: v for k, v in self.recipes.others.items() if k in _OF_THE_LOOK},
                }
            )
        except InputError as error:
            self.normals.note.say(str(error))

    def _on_selection(self) -> None:
        chosen = self.selection
        self.normals.choose(chosen.selection(), chosen.calibration_fraction)

    def _on_summary(self) -> None:
        try:
            window = self.window.window()
        except InputError:  # which the look tells
            window = None
        usual = default_window(self.modality.currentData())
        self.selection.show_summary(self.normals.summary, window or usual)

    def _on_modality(self) -> None:
        self.window.set_modality(self.modality.currentData())
        self.normals.look_again()
        self._suggest_name()

    def _on_weights(self, *_: object) -> None:
        self.fill_backbones()
        self._on_backbone()

    def _on_got(self, name: str) -> None:
        select_data(self.backbone, name)

    def _on_backbone(self) -> None:
        name = self.backbone.currentData() or ""
        hint = services.weights_hint(name)
        self.backbone_note.say(hint or services.default_note(name))
        # There are others to be got where this one is here.
        self.weights.mean(name if hint else "")
        self._suggest_name()

    def _on_name(self) -> None:
        self._named_by_hand = bool(self.name.text())
        self.changed.emit()

    def _suggest_name(self) -> None:
        if not self._named_by_hand:
            parts = [self.modality.currentData(), self.backbone.currentData()]
            if not self.method.is_default:
                parts.append(self.method.method.name)
            self.name.setText("-".join(parts))
            self.name.setCursorPosition(0)
        self.changed.emit()

    @property
    def target(self) -> Path:
        """Folder of the model to be made."""
        return services.user_models_dir() / self.name.text().strip()

    def config(self) -> FitConfig:
        """Return the fit that the form describes, once it can be run; its settings are remembered.

        Raises
        ------
        InputError
            If the folder, the name or the window cannot be used.
        """
        folders = self.normals.checked_folders()
        name = self.name.text().strip()
        check_name_length(name)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(
                f"'{name}' cannot be a model's name",
                fix="Use letters, digits, hyphens, underscores and full stops",
            )
        return self._config(folders)

    def _config(self, folders: Sequence[str]) -> FitConfig:
        settings.remember("training_modality", self.modality.currentData())
        settings.remember("training_backbone", self.backbone.currentData())
        return FitConfig.of(
            folders,
            exclude=self.normals.excluded,
            modality=self.modality.currentData(),
            window=self.window.window(),
            backbone=self.backbone.currentData(),
            seed=self.seed.value(),
            **self.selection.arguments(),
            **self.method.arguments(),
            **self.recipes.others,
        )

    def recipe(self) -> FitConfig:
        """Return the settings as they stand, whether or not there is a folder yet.

        Raises
        ------
        InputError
            If the window cannot be used.
        """
        return self._config(self.normals.folders)

    def set_recipe(self, recipe: FitConfig) -> None:
        """Show a configuration in the form; without folders in it, those of the form stay.

        Raises
        ------
        InputError
            If a field cannot hold its value; the form then stays as it was.
        """
        before = self.recipe()
        if not recipe.folders:
            recipe = recipe.model_copy(update={"folders": before.folders})
        self._show_recipe(recipe)
        lost = self.recipe().differs(recipe)
        if lost:
            self._show_recipe(before)
            raise InputError(
                f"this form has no place for what the recipe says of {', '.join(lost)}",
                fix="Run it with 'napari-spatial-ar fit --recipe FILE'",
            )

    def _show_recipe(self, recipe: FitConfig) -> None:
        select_data(self.modality, recipe.modality)
        self.selection.set_values(
            Selection(recipe.plane, recipe.slice_range, recipe.min_body),
            recipe.calibration_fraction,
            recipe.calibration_folds,
        )
        self.window.set_window(recipe.window)
        select_data(self.backbone, recipe.backbone)
        self.method.set_method(recipe.method, recipe.options)
        self.seed.setValue(min(recipe.seed, self.seed.maximum()))
        defaults = FitConfig()
        self.recipes.set_others(
            {
                name: getattr(recipe, name)
                for name in recipe.differs(defaults)
                if name not in _FIELDS
            }
        )
        if recipe.folders:
            self.normals.set_folders(recipe.folders, recipe.exclude)
        else:
            self.normals.folder.clear()
