"""Adding weights from this machine, for a known backbone or as one of the user's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QLayout,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.errors import InputError, NameTakenError, UnsaidError
from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.jobs import Task, TaskHost, log, sentence
from napari_spatial_ar.gui.library import weights_work
from napari_spatial_ar.gui.open_scan import dropped_paths
from napari_spatial_ar.gui.widgets.choosing import choose_file, choose_folder, confirmed
from napari_spatial_ar.gui.widgets.forms import (
    Dialog,
    Note,
    button,
    combo,
    fields,
    research_line,
    row,
    select_data,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["AddWeightsDialog"]

_FOLDER = "weights"
_FILES = (
    "Weights (*.safetensors *.pth *.pt *.bin *.safetensors.index.json *.bin.index.json "
    "config.json);;All files (*)"
)
_OWN = "Another, under a name of its own"
_ASKED = "Its files do not state everything needed. Fill in the fields above and add it again."
_INVITATION = "Choose a file or folder, or drop one here. Its type is detected from its content."


class AddWeightsDialog(Dialog):
    """Adds a file or folder of weights; asks for what its files do not state.

    Parameters
    ----------
    backbone : str
        The expected backbone; "" if unknown.
    parent : QWidget
        The parent window.
    """

    #: Name of the backbone whose weights were added.
    got = Signal(str)

    def __init__(self, backbone: str, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("Add weights")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(520)
        self.setAcceptDrops(True)
        self.tasks = TaskHost(self)
        self._task: Task | None = None
        self._taken = False
        self.path = QLineEdit()
        self.path.setToolTip(tooltip("weights.path"))
        self.path.setPlaceholderText("File or folder of weights")
        self.file_button = button("File...", tooltip("weights.choose_file"))
        self.folder_button = button("Folder...", tooltip("weights.choose_folder"))
        self.backbone = combo(tooltip("weights.kind"))
        self.backbone.addItem(_OWN, "")
        for name in model_access.known_backbones():
            self.backbone.addItem(name, name)
        known = select_data(self.backbone, backbone)
        self._wanted = "" if known else backbone
        self.name = QLineEdit(self._wanted)
        self.name.setToolTip(tooltip("weights.name"))
        self.licence = QLineEdit()
        self.licence.setToolTip(tooltip("weights.licence"))
        self.heads = QSpinBox()
        self.heads.setRange(0, 256)
        self.heads.setSpecialValueText("Choose...")
        self.heads.setToolTip(tooltip("weights.heads"))
        self.activation = combo(tooltip("weights.activation"))
        for title, kind in (("Choose...", ""), ("gelu", "gelu"), ("quick_gelu", "quick_gelu")):
            self.activation.addItem(title, kind)
        usual = model_access.usual_normalisation()
        self.mean, self.std = QLineEdit(), QLineEdit()
        self.mean.setToolTip(tooltip("weights.mean", usual=usual[0]))
        self.std.setToolTip(tooltip("weights.std", usual=usual[1]))
        self.note = Note(_INVITATION, strong=True)
        self._asked: dict[str, QWidget] = {}
        self._lay_out()
        self.path.textChanged.connect(self._on_path)
        self.backbone.currentIndexChanged.connect(self._enable)
        self.name.textChanged.connect(self._enable)
        self._enable()

    def _lay_out(self) -> None:
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        self.add_button = button("&Add", tooltip("weights.add"))
        buttons.addButton(self.add_button, QDialogButtonBox.ButtonRole.ActionRole)
        buttons.rejected.connect(self.reject)
        self.add_button.clicked.connect(self.add)
        self.file_button.clicked.connect(lambda: self._choose(folder=False))
        self.folder_button.clicked.connect(lambda: self._choose(folder=True))
        self._own = _stacked(fields([("Name", self.name), ("Licence", self.licence)]))
        layout = QVBoxLayout(self)
        layout.addLayout(row(self.path, self.file_button, self.folder_button))
        layout.addLayout(fields([("Backbone", self.backbone)]))
        layout.addWidget(self._own)
        for key, title, widget in (
            ("heads", "Heads", self.heads),
            ("activation", "Activation", self.activation),
            ("mean", "Mean", self.mean),
            ("std", "Std. dev.", self.std),
        ):
            self._asked[key] = _stacked(fields([(title, widget)]))
            self._asked[key].hide()
            layout.addWidget(self._asked[key])
        layout.addWidget(self.note)
        layout.addStretch(1)
        layout.addWidget(buttons)
        layout.addWidget(research_line())
        for made in (self.file_button, self.folder_button):
            made.setAutoDefault(False)
        self.add_button.setDefault(True)

    # ------------------------------------------------------------------ file or folder

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept a file or folder."""
        if dropped_paths(event.mimeData()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Accept what was dropped."""
        event.acceptProposedAction()
        self.path.setText(dropped_paths(event.mimeData())[0])

    def _choose(self, *, folder: bool) -> None:
        if folder:
            chosen = choose_folder(self, "Folder of weights", _FOLDER)
            if chosen:
                settings.remember_folder(_FOLDER, Path(chosen).parent)
        else:
            chosen = str(choose_file(self, "File of weights", _FOLDER, _FILES) or "")
        if chosen:
            self.path.setText(chosen)

    def _on_path(self) -> None:
        """Guess the backbone from the name; hide fields shown for another file."""
        path = Path(self.path.text().strip())
        named = model_access.named_by(path)
        if named:
            select_data(self.backbone, named)
        self.name.setText(self._wanted or _proposed(path))
        for one in self._asked.values():
            one.hide()
        self.note.set_text(_INVITATION)
        self._enable()

    def _enable(self, *_: object) -> None:
        own = not self.backbone.currentData()
        self._own.setVisible(own)
        named = bool(self.name.text().strip()) or not own
        self.add_button.setEnabled(bool(self.path.text().strip()) and named and self._task is None)

    # ------------------------------------------------------------------ adding

    def overrides(self) -> dict[str, Any]:
        """Return the contents of the visible fields, as arguments of `BackboneOverrides`.

        Raises
        ------
        InputError
            If a field of numbers has none.
        """
        overrides: dict[str, Any] = {}
        if not self.backbone.currentData():
            overrides["licence"] = self.licence.text().strip()
        if not self._asked["heads"].isHidden():
            overrides["heads"] = self.heads.value() or None
        if not self._asked["activation"].isHidden():
            overrides["activation"] = self.activation.currentData() or None
        for key, field in (("mean", self.mean), ("std", self.std)):
            if not self._asked[key].isHidden():
                overrides[key] = _numbers(field.text())
        return overrides

    def add(self, *_: object, overwrite: bool = False) -> None:
        """Add the chosen file or folder."""
        if self._task is not None:
            return
        try:
            overrides = self.overrides()
        except InputError as error:
            self.note.set_text(str(error))
            return
        path = Path(self.path.text().strip())
        name = self.backbone.currentData() or self.name.text().strip()
        self.note.set_text("Reading...")
        self._taken = False
        self._task = task = self.tasks.start(weights_work.add(path, name, overrides, overwrite))
        task.returned.connect(self._on_added)
        task.failed.connect(self._on_failed)
        task.finished.connect(self._on_finished)
        self._enable()

    def _on_added(self, name: str) -> None:
        text = f"The backbone {name} is ready."
        self.note.set_text(text)
        show_info(text)
        model_access.weights_news.changed.emit(name)
        self.got.emit(name)
        if self.isVisible():
            self.accept()

    def _on_failed(self, error: Exception) -> None:
        if isinstance(error, UnsaidError):
            for key in error.unsaid:
                self._asked[key].show()
            self.note.set_text(_ASKED)
            return
        self._taken = isinstance(error, NameTakenError)
        log(error, "Adding weights")
        self.note.set_text(sentence(error, "Adding weights"))

    def _on_finished(self) -> None:
        self._task = None
        self._enable()
        if self._taken:
            self._taken = False
            name = self.name.text().strip()
            text = f"Another backbone named {name} already exists. Replace it? Models fitted "
            if confirmed(self, "Add weights", f"{text}with it will not score."):
                self.add(overwrite=True)


def _stacked(layout: QLayout) -> QWidget:
    made = QWidget()
    layout.setContentsMargins(0, 0, 0, 0)
    made.setLayout(layout)
    return made


def _proposed(path: Path) -> str:
    """Suggest a name for a backbone of the user's own, from the location of its weights."""
    # The layout of the hub client's cache: models--owner--name/snapshots/revision/file.
    cached = [part for part in path.parts if part.startswith("models--")]
    plain = path.parent.name if path.stem.split(".")[0] in _PLAIN else path.stem
    name = cached[-1].split("--")[-1] if cached else plain
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._").lower()


#: File names that are not informative.
_PLAIN = ("model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model", "config")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError as error:
        raise InputError(
            f"'{text}' is not one number, or three with commas",
            fix="Write them as 0.5 or 0.5, 0.5, 0.5",
        ) from error
