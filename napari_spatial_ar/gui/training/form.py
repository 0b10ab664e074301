"""The settings of a fit: model, window, recipe."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.errors import InputError, SpatialARError
from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.display_windows import describe
from napari_spatial_ar.gui.jobs import report
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.training.data_panel import FolderPanel
from napari_spatial_ar.gui.training.method_form import MethodForm
from napari_spatial_ar.gui.training.slice_selection import SelectionForm
from napari_spatial_ar.gui.widgets.choosing import choose_file, choose_target
from napari_spatial_ar.gui.widgets.colours import MISSING
from napari_spatial_ar.gui.widgets.forms import Note, button, combo, row, section, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.series import Modality
from napari_spatial_ar.imaging.windows import CT_PRESETS, Window, WindowKind, default_window
from napari_spatial_ar.normative.fitting.config import FitConfig
from napari_spatial_ar.paths import check_name_length

__all__ = ["RecipeRow", "TrainingForm", "WindowForm"]

_FILTER = "Recipe (*.toml)"


class RecipeRow(QWidget):
    """Two buttons, and the settings of a recipe that have no field in the form.

    Parameters
    ----------
    form : TrainingForm
        Sets and returns recipes: ``recipe()``, ``set_recipe()``.
    """

    def __init__(self, form: TrainingForm):
        super().__init__()
        # A reference cycle would leave the widgets to the garbage collector, which may run in a
        # worker's thread, where deleting widgets ends the process.
        self._form = weakref.proxy(form)
        #: Settings of a recipe for which the form has no field.
        self.others: dict[str, object] = {}
        self.save_button = button(
            "Save recipe...",
            tooltip("training.save_recipe"),
        )
        self.load_button = button("Load recipe...", tooltip("training.load_recipe"))
        self.note = Note()
        self.drop_button = button("Reset", tooltip("training.reset"))
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

    def set_others(self, others: dict[str, object]) -> None:
        """Keep settings for which the form has no field, and show them."""
        self.others = others
        settings_text = ", ".join(
            f"{name.replace('_', ' ')} {_text(v)}" for name, v in others.items()
        )
        self.note.set_text(f"From the recipe: {settings_text}" if settings_text else "")
        self.drop_button.setVisible(bool(others))

    def drop(self) -> None:
        """Forget the settings for which the form has no field."""
        self.set_others({})

    def save(self) -> None:
        """Ask for a file and write the current settings."""
        try:
            config = self._form.recipe()
            chosen, _ = choose_target(self, "Save recipe", "recipe", "recipe.toml", _FILTER)
            if chosen:
                path = Path(chosen)
                model_access.write_recipe(path, config)
                settings.remember_folder("recipe", path.parent)
        except SpatialARError as error:
            report(error, "Saving the recipe")

    def load(self) -> None:
        """Ask for a file and set the form accordingly."""
        chosen = choose_file(self, "Load recipe", "recipe", _FILTER)
        if chosen is None:
            return
        try:
            self._form.set_recipe(model_access.read_recipe(chosen))
        except SpatialARError as error:
            report(error, "Loading the recipe")


def _text(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)


_DEFAULT, _PERCENTILE, _FIXED = "default", "percentile", "fixed"


_CUSTOM: dict[WindowKind, tuple[float, float]] = {"percentile": (0.5, 99.5), "fixed": (0.0, 1000.0)}


_LARGEST = 1_000_000.0


class WindowForm(QWidget):
    """The modality's own window, a CT preset, or the user's own limits; stored."""

    def __init__(self) -> None:
        super().__init__()
        tip = tooltip("training.model_window")
        self.setToolTip(tip)
        self._modality: Modality = "mri"
        self.box = combo(tip, "Model window")
        self.low, self.high = QDoubleSpinBox(), QDoubleSpinBox()
        self.low.setToolTip(tooltip("training.model_window.lower"))
        self.high.setToolTip(tooltip("training.model_window.upper"))
        for spin, name in ((self.low, "Lower"), (self.high, "Upper")):
            spin.setAccessibleName(f"{name} end of the window")
            spin.setRange(-_LARGEST, _LARGEST)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self.box)
        # Below each other: side by side there is no room for a long value and its unit.
        layout.addWidget(self.low)
        layout.addWidget(self.high)
        self.box.currentIndexChanged.connect(self._on_choice)
        self.set_modality("mri")

    def set_modality(self, modality: Modality) -> None:
        """List the windows of a modality."""
        self._modality = modality
        unit = "HU" if modality == "ct" else ""
        self.box.blockSignals(True)
        self.box.clear()
        usual = default_window(modality)
        self.box.addItem(f"Usual ({describe(usual, unit, short=True)})", _DEFAULT)
        tip = tooltip("training.model_window.usual", window=describe(usual, unit))
        self.box.setItemData(0, tip, Qt.ItemDataRole.ToolTipRole)
        if modality == "ct":
            for name, window in CT_PRESETS.items():
                self.box.addItem(f"CT {name} ({describe(window, unit)})", name)
        self.box.addItem("Percentiles of each scan...", _PERCENTILE)
        self.box.addItem("Hounsfield units..." if unit else "Values...", _FIXED)
        select_data(self.box, settings.recall(f"training_window/{modality}", _DEFAULT))
        self.box.blockSignals(False)
        self._on_choice()

    def _on_choice(self, index: int = 0) -> None:
        choice = self.box.currentData()
        custom = choice in _CUSTOM
        for spin in (self.low, self.high):
            spin.setVisible(custom)
        if not custom:
            return
        percent = choice == _PERCENTILE
        for spin, name, usual in zip(
            (self.low, self.high), ("low", "high"), _CUSTOM[choice], strict=True
        ):
            spin.setSuffix(" %" if percent else " HU" if self._modality == "ct" else "")
            spin.setDecimals(1)
            spin.setRange(0.0 if percent else -_LARGEST, 100.0 if percent else _LARGEST)
            spin.setValue(settings.recall(self._key(name), usual))

    def set_window(self, window: Window) -> None:
        """Show a window, or the closest choice."""
        named = [name for name, preset in CT_PRESETS.items() if preset == window]
        usual = window == default_window(self._modality)
        for choice in (_DEFAULT,) if usual else (*named, window.kind):
            if select_data(self.box, choice):
                break
        if self.box.currentData() in _CUSTOM:
            self.low.setValue(window.low)
            self.high.setValue(window.high)

    def _key(self, name: str) -> str:
        return f"training_window/{self._modality}/{self.box.currentData()}_{name}"

    def window(self) -> Window | None:
        """Return the window for the fit, None for the modality's own, and store the choice.

        Raises
        ------
        InputError
            If the limits do not form a window.
        """
        choice: str = self.box.currentData()
        made = CT_PRESETS.get(choice)
        kind = next((kind for kind in _CUSTOM if kind == choice), None)
        if kind is not None:
            made = Window(kind, self.low.value(), self.high.value())
            settings.remember(self._key("low"), made.low)
            settings.remember(self._key("high"), made.high)
        settings.remember(f"training_window/{self._modality}", choice)
        return made


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
    "skip_air",
    "backbone",
    "method",
    "options",
    "seed",
)


# Settings without a field that affect which slices of the folders are used.
_OF_THE_LOOK = ("patient_pattern", "valid_fraction")


_MODALITIES = (("MRI", "mri"), ("CT", "ct"), ("OCT", "oct"))


class TrainingForm(QWidget):
    """Folder of normal scans and the settings of the fit."""

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
        self.skip_air = QCheckBox("Skip air")
        self.skip_air.setToolTip(tooltip("training.skip_air"))
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
                    ("Model window", self.window),
                    self.skip_air,
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
        model_access.weights_news.changed.connect(self._on_weights)
        self.weights.got.connect(self._on_got)
        self.modality.currentIndexChanged.connect(self._on_modality)
        self.method.changed.connect(self._suggest_name)
        self.method.changed.connect(self._show_skip_air)
        self.skip_air.clicked.connect(self._on_skip_air)
        self.name.textEdited.connect(self._on_name)
        self.normals.changed.connect(self.changed)
        self.normals.survey_requested.connect(self._start_survey)
        self.normals.summarised.connect(self._on_summary)
        self.selection.plane_changed.connect(self.normals.survey_again)
        self.selection.changed.connect(self._on_selection)
        self.window.box.currentIndexChanged.connect(self.normals.survey_again)
        for spin in (self.window.low, self.window.high, self.seed):
            spin.editingFinished.connect(self.normals.survey_again)
        self.recipes.drop_button.clicked.connect(self.normals.survey_again)
        self._on_backbone()
        self._show_skip_air()

    @staticmethod
    def _list(items: tuple[tuple[str, str], ...], tooltip: str) -> QComboBox:
        box = combo(tooltip)
        for text, value in items:
            box.addItem(text, value)
        return box

    def showEvent(self, event: QShowEvent) -> None:
        """List what is currently available, in the colours of the theme."""
        super().showEvent(event)
        self.ensurePolished()
        self.fill_backbones()

    def fill_backbones(self) -> None:
        """List backbones, marking those whose weights are installed."""
        chosen = self.backbone.currentData()
        self.backbone.blockSignals(True)
        self.backbone.clear()
        for name, present in model_access.backbone_names():
            self.backbone.addItem(f"{name}  \u2713" if present else name, name)
            if not present:
                at = self.backbone.count() - 1
                self.backbone.setItemData(at, MISSING.on(self), Qt.ItemDataRole.ForegroundRole)
                missing = model_access.weights_missing(name)
                self.backbone.setItemData(at, missing, Qt.ItemDataRole.ToolTipRole)
        if chosen is not None:
            select_data(self.backbone, chosen)
        self.backbone.blockSignals(False)

    def _start_survey(self) -> None:
        """Survey the folders with the settings that affect which slices are used."""
        try:
            self.normals.start_survey(
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
            self.normals.note.set_text(str(error))

    def _on_selection(self) -> None:
        chosen = self.selection
        self.normals.choose(chosen.selection(), chosen.calibration_fraction)

    def _on_summary(self) -> None:
        try:
            window = self.window.window()
        except InputError:  # which the survey reports
            window = None
        usual = default_window(self.modality.currentData())
        self.selection.show_summary(self.normals.summary, window or usual)

    def _on_modality(self) -> None:
        self.window.set_modality(self.modality.currentData())
        self._show_skip_air()
        self.normals.survey_again()
        self._suggest_name()

    def _show_skip_air(self) -> None:
        """Show what was chosen for this modality and method, or their default."""
        usual = FitConfig.skips_air_by_default(self.modality.currentData(), self.method.method.name)
        self.skip_air.setChecked(settings.recall(self._skip_air_key, usual))

    def _on_skip_air(self, checked: bool) -> None:
        settings.remember(self._skip_air_key, checked)

    @property
    def _skip_air_key(self) -> str:
        return f"training_skip_air/{self.modality.currentData()}/{self.method.method.name}"

    def _on_weights(self, *_: object) -> None:
        self.fill_backbones()
        self._on_backbone()

    def _on_got(self, name: str) -> None:
        select_data(self.backbone, name)

    def _on_backbone(self) -> None:
        name = self.backbone.currentData() or ""
        hint = model_access.weights_hint(name)
        self.backbone_note.set_text(hint or model_access.default_note(name))
        # Others can be downloaded if this one is installed.
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
        """Folder of the new model."""
        return model_access.user_models_dir() / str(self.name.text()).strip()

    def config(self) -> FitConfig:
        """Return the fit described by the form, if it can be run; stores its settings.

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
            skip_air=self.skip_air.isChecked(),
            **self.selection.arguments(),
            **self.method.arguments(),
            **self.recipes.others,
        )

    def recipe(self) -> FitConfig:
        """Return the current settings, with or without a folder.

        Raises
        ------
        InputError
            If the window cannot be used.
        """
        return self._config(self.normals.folders)

    def set_recipe(self, recipe: FitConfig) -> None:
        """Show a configuration in the form; without folders in it, those of the form are kept.

        Raises
        ------
        InputError
            If a field cannot hold its value; the form is then unchanged.
        """
        before = self.recipe()
        if not recipe.folders:
            recipe = recipe.model_copy(update={"folders": before.folders})
        self._show_recipe(recipe)
        lost = self.recipe().differs(recipe)
        if lost:
            self._show_recipe(before)
            raise InputError(
                f"this form has no field for the recipe's {', '.join(lost)}",
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
        self.skip_air.setChecked(bool(recipe.skip_air))
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
