"""The settings of a fit, as a form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QSpinBox, QVBoxLayout, QWidget

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import services, settings
from napari_spatial_ar.gui.forms import Note, button, combo, row, section, select_data
from napari_spatial_ar.gui.window_form import WindowForm

__all__ = ["TrainingForm"]

_MODALITIES = (("MRI", "mri"), ("CT", "ct"), ("OCT", "oct"))
_DILATIONS = (("Wide (dilation 4)", 4), ("Close (dilation 1)", 1))
_CONTEXTS = (("Causal", "causal"), ("Bidirectional", "bidirectional"))


def _spin(low: int, high: int, value: int, tooltip: str) -> QSpinBox:
    made = QSpinBox()
    made.setRange(low, high)
    made.setValue(value)
    made.setToolTip(tooltip)
    return made


class TrainingForm(QWidget):
    """Folder of normal scans and how to learn from it."""

    #: A setting changed.
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.folder = QLineEdit(settings.recall("training_folder", ""))
        self.folder.setPlaceholderText("Folder of normal scans")
        self.folder.setToolTip("Scans or slices of healthy people; drop the folder here")
        self.choose_button = button("Choose...", "Choose the folder of normal scans")
        self.modality = self._list(_MODALITIES, "What kind of scans; chooses the grey window")
        self.window = WindowForm()
        self.backbone = combo(
            "The frozen network whose embeddings are modelled; \u2713: its weights are here"
        )
        self.backbone_note = Note()
        self.dilation = self._list(
            _DILATIONS, "How far around a patch the model looks to predict it"
        )
        self.context = self._list(
            _CONTEXTS, "Causal: from patches above and left. Bidirectional: from all around"
        )
        self.epochs = _spin(1, 10_000, 40, "Passes over the training slices")
        self.seed = _spin(0, 2**31 - 1, 0, "The same seed and settings give the same model")
        self.name = QLineEdit()
        self.name.setToolTip("The model's name: a folder of this name is made for it")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(9)
        layout.addWidget(section("Normal scans", [row(self.folder, self.choose_button)]))
        layout.addWidget(
            section(
                "Model",
                [
                    ("Modality", self.modality),
                    ("Model sees", self.window),
                    ("Backbone", self.backbone),
                    ("Neighbourhood", self.dilation),
                    ("Context", self.context),
                    ("Epochs", self.epochs),
                    ("Seed", self.seed),
                    ("Name", self.name),
                    self.backbone_note,
                ],
            )
        )
        self._named_by_hand = False
        self.fill_backbones()
        self.choose_button.clicked.connect(self._choose)
        self.backbone.currentIndexChanged.connect(self._on_backbone)
        self.modality.currentIndexChanged.connect(self._on_modality)
        self.name.textEdited.connect(self._on_name)
        self.folder.textChanged.connect(self.changed)
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
            self.backbone.setItemData(
                self.backbone.count() - 1, present, Qt.ItemDataRole.UserRole + 1
            )
        if chosen is not None:
            select_data(self.backbone, chosen)
        self.backbone.blockSignals(False)

    def _choose(self) -> None:
        start = self.folder.text() or settings.last_folder("training")
        folder = QFileDialog.getExistingDirectory(self, "Folder of normal scans", start)
        if folder:
            self.folder.setText(folder)

    def _on_modality(self) -> None:
        self.window.set_modality(self.modality.currentData())
        self._suggest_name()

    def _on_backbone(self) -> None:
        self.backbone_note.say(services.weights_hint(self.backbone.currentData() or ""))
        self._suggest_name()

    def _on_name(self) -> None:
        self._named_by_hand = bool(self.name.text())
        self.changed.emit()

    def _suggest_name(self) -> None:
        if not self._named_by_hand:
            self.name.setText(f"{self.modality.currentData()}-{self.backbone.currentData()}")
        self.changed.emit()

    @property
    def target(self) -> Path:
        """Folder of the model to be made."""
        return services.user_models_dir() / self.name.text().strip()

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """Folder and keyword arguments for ``fit_steps``.

        Raises
        ------
        InputError
            If the folder, the name or the window cannot be used.
        """
        folder = self.folder.text().strip()
        if not folder:
            raise InputError("no folder of normal scans is chosen", fix="Choose one first")
        if not Path(folder).is_dir():
            raise InputError("there is no such folder", path=folder, fix="Choose another one")
        name = self.name.text().strip()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(
                f"'{name}' cannot be a model's name",
                fix="Use letters, digits, hyphens, underscores and full stops",
            )
        window = self.window.window()
        settings.remember("training_folder", folder)
        settings.remember_folder("training", folder)
        return folder, {
            "out": self.target,
            "modality": self.modality.currentData(),
            "window": window,
            "backbone": self.backbone.currentData(),
            "dilation": self.dilation.currentData(),
            "context": self.context.currentData(),
            "epochs": self.epochs.value(),
            "seed": self.seed.value(),
        }
