"""What a checkpoint of the paper's authors does not say, asked before it is taken in."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialogButtonBox, QLineEdit, QSpinBox, QVBoxLayout, QWidget

from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.gui import services, settings
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.widgets.forms import (
    Dialog,
    Note,
    combo,
    fields,
    research_line,
    select_data,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["CheckpointDialog"]

_MODALITIES = {"MRI": "mri", "CT": "ct", "OCT": "oct"}
_CHOOSE = "Choose..."
_LARGEST = 8192
# Settings: what was said of the last checkpoint.
_MODALITY, _BACKBONE = "checkpoint/modality", "checkpoint/backbone"
_DILATIONS, _SIZE = "checkpoint/dilations", "checkpoint/size"


class CheckpointDialog(Dialog):
    """Asks for name, modality, backbone, dilations and, where the file lacks it, the size.

    Fields hold what the file and the name of its folder say, or else what was said of the last
    checkpoint.

    Parameters
    ----------
    found : ReferenceCheckpoint
        What the file says.
    parent : QWidget
        The window it belongs to.
    """

    def __init__(self, found: Any, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("Import a checkpoint of the paper's authors")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(520)
        self._found = found
        self.name = QLineEdit(found.path.stem)
        self.name.setToolTip(tooltip("checkpoint.name"))
        self.modality = combo(tooltip("checkpoint.modality"))
        self.backbone = combo(tooltip("checkpoint.backbone"))
        self.dilations = QLineEdit()
        self.dilations.setToolTip(tooltip("checkpoint.dilations"))
        self.dilations.setPlaceholderText("4, or 1-2-4-8")
        self.context = combo(tooltip("checkpoint.context"))
        self.size = QSpinBox()
        self.size.setToolTip(tooltip("checkpoint.size"))
        self.note = Note(strong=True)
        self.weights = WeightsRow()
        self._fill()
        self._lay_out()
        self.name.textChanged.connect(self._check)
        self.dilations.textChanged.connect(self._check)
        for box in (self.modality, self.backbone):
            box.currentIndexChanged.connect(self._check)
        self.size.valueChanged.connect(self._check)
        services.weights_news.changed.connect(self._on_weights)
        self._check()

    def _fill(self) -> None:
        found = self._found
        self.modality.addItem(_CHOOSE, "")
        for title, modality in _MODALITIES.items():
            self.modality.addItem(title, modality)
        select_data(self.modality, settings.recall(_MODALITY, ""))
        self.backbone.addItem(_CHOOSE, "")
        self._fill_backbones()
        select_data(self.backbone, found.folder_backbone or settings.recall(_BACKBONE, ""))
        said = "-".join(map(str, found.folder_dilations))
        self.dilations.setText(said or settings.recall(_DILATIONS, ""))
        # The file says it: shown, and not to be changed.
        self.context.addItem(found.context.capitalize(), found.context)
        self.context.setEnabled(False)
        self.size.setRange(0, _LARGEST)
        self.size.setSpecialValueText(_CHOOSE)
        self.size.setSuffix(" pixels")
        self.size.setValue(found.size or settings.recall(_SIZE, 0))
        self.size.setEnabled(found.size is None)

    def _fill_backbones(self) -> None:
        for name, present in services.backbones_with(self._found.channels):
            text = f"{name}  \u2713" if present else name
            index = self.backbone.findData(name)
            if index < 0:
                self.backbone.addItem(text, name)
            else:
                self.backbone.setItemText(index, text)

    def _on_weights(self, *_: object) -> None:
        self._fill_backbones()
        self._check()

    def _lay_out(self) -> None:
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.import_button = buttons.addButton("&Import", QDialogButtonBox.ButtonRole.AcceptRole)
        self.import_button.setToolTip(tooltip("checkpoint.import"))
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        found = self._found
        about = Note(
            f"{found.layers} convolutions of {found.kernel} x {found.kernel}, {found.channels} "
            f"channels. Modality, backbone and dilations are not in the file.",
            strong=True,
        )
        layout = QVBoxLayout(self)
        layout.addWidget(about)
        layout.addLayout(
            fields(
                [
                    ("Name", self.name),
                    ("Modality", self.modality),
                    ("Backbone", self.backbone),
                    ("Dilations", self.dilations),
                    ("Context", self.context),
                    ("Size", self.size),
                ]
            )
        )
        layout.addWidget(self.note)
        layout.addWidget(self.weights)
        layout.addWidget(buttons)
        layout.addWidget(research_line())

    def _check(self, *_: object) -> None:
        """Say what is missing or does not fit; the button waits for it."""
        problem = self._problem()
        self.import_button.setEnabled(not problem)
        self.note.say(problem)
        backbone = self.backbone.currentData()
        self.weights.mean(backbone, missing=bool(backbone and services.weights_hint(backbone)))

    def _problem(self) -> str:
        if not self.name.text().strip():
            return "Give the model a name."
        if not self.modality.currentData():
            return "Choose the modality of the images that it was trained on."
        backbone = self.backbone.currentData()
        if not backbone:
            return "Choose the backbone that it was trained on."
        hint = services.weights_hint(backbone)
        if hint:
            return hint
        try:
            services.read_dilations(self.dilations.text(), self._found.layers)
        except SpatialARError as error:
            return str(error)
        patch = services.patch_of(backbone)
        if not self.size.value():
            return "Give the size that images were resized to."
        if self.size.value() % patch:
            return f"{self.size.value()} pixels are no whole patches of {patch}, as {backbone} has."
        return ""

    @property
    def choices(self) -> dict[str, Any]:
        """What `importing.import_reference` is to be told."""
        return {
            "modality": self.modality.currentData(),
            "backbone": self.backbone.currentData(),
            "dilation": services.read_dilations(self.dilations.text(), self._found.layers),
            "size": self.size.value(),
        }

    def accept(self) -> None:
        """Keep what was said for the next checkpoint, and close."""
        settings.remember(_MODALITY, self.modality.currentData())
        settings.remember(_BACKBONE, self.backbone.currentData())
        settings.remember(_DILATIONS, self.dilations.text().strip())
        settings.remember(_SIZE, self.size.value())
        super().accept()
