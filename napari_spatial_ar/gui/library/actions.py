"""What can be done with models: rename, copy, delete, share, import, calibrate, compare."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypedDict

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QInputDialog,
    QLineEdit,
    QMessageBox,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.errors import NameTakenError, SpatialARError
from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.jobs import Task, TaskHost, Work, report
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.widgets.choosing import choose_file, choose_folder, choose_target
from napari_spatial_ar.gui.widgets.forms import (
    Dialog,
    Note,
    combo,
    fields,
    research_line,
    select_data,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Modality
from napari_spatial_ar.steps import run_until_stopped

if TYPE_CHECKING:
    from napari_spatial_ar.normative.library import ModelEntry, Trashed
    from napari_spatial_ar.normative.reference_checkpoint import ReferenceCheckpoint
    from napari_spatial_ar.review.model_comparison import ModelComparison


__all__ = [
    "CheckpointDialog",
    "Comparison",
    "LibraryActions",
    "calibrate",
    "compare",
    "delete",
    "duplicate",
    "export",
    "find_entries",
    "import_checkpoint",
    "import_file",
    "once",
    "recheck",
    "rename",
    "restore",
    "trashed",
]

_MODALITIES = {"MRI": "mri", "CT": "ct", "OCT": "oct"}


_CHOOSE = "Choose..."


_LARGEST = 8192


# Settings: the latest entries for a checkpoint.
_MODALITY, _BACKBONE = "checkpoint/modality", "checkpoint/backbone"


_DILATIONS, _SIZE = "checkpoint/dilations", "checkpoint/size"


class Choices(TypedDict):
    """What a checkpoint does not contain, as arguments of `importing.import_reference`."""

    modality: Modality
    backbone: str
    dilation: list[int]
    size: int


class CheckpointDialog(Dialog):
    """Asks for name, modality, backbone, dilations and, if the file lacks it, the size.

    Fields are filled from the file and the name of its folder, or else with the latest entries for
    a checkpoint.

    Parameters
    ----------
    found : ReferenceCheckpoint
        Contents of the file.
    parent : QWidget
        The parent window.
    """

    def __init__(self, found: ReferenceCheckpoint, parent: QWidget):
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
        model_access.weights_news.changed.connect(self._on_weights)
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
        folder = "-".join(map(str, found.folder_dilations))
        self.dilations.setText(folder or settings.recall(_DILATIONS, ""))
        # Known from the file: shown, and not editable.
        self.context.addItem(found.context.capitalize(), found.context)
        self.context.setEnabled(False)
        self.size.setRange(0, _LARGEST)
        self.size.setSpecialValueText(_CHOOSE)
        self.size.setSuffix(" pixels")
        self.size.setValue(found.size or settings.recall(_SIZE, 0))
        self.size.setEnabled(found.size is None)

    def _fill_backbones(self) -> None:
        for name, present in model_access.backbones_with(self._found.channels):
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
        """State what is missing or does not match; the button is disabled meanwhile."""
        problem = self._problem()
        self.import_button.setEnabled(not problem)
        self.note.set_text(problem)
        backbone = self.backbone.currentData()
        self.weights.mean(backbone, missing=bool(backbone and model_access.weights_hint(backbone)))

    def _problem(self) -> str:
        if not self.name.text().strip():
            return "Give the model a name."
        if not self.modality.currentData():
            return "Choose the modality of the images that it was trained on."
        backbone = self.backbone.currentData()
        if not backbone:
            return "Choose the backbone that it was trained on."
        hint = model_access.weights_hint(backbone)
        if hint:
            return hint
        try:
            model_access.read_dilations(self.dilations.text(), self._found.layers)
        except SpatialARError as error:
            return str(error)
        patch = model_access.patch_of(backbone)
        if not self.size.value():
            return "Give the size that images were resized to."
        if self.size.value() % patch:
            return f"{self.size.value()} pixels is no multiple of the patch size of {backbone}."
        return ""

    @property
    def choices(self) -> Choices:
        """Arguments of `importing.import_reference`."""
        return {
            "modality": self.modality.currentData(),
            "backbone": self.backbone.currentData(),
            "dilation": model_access.read_dilations(self.dilations.text(), self._found.layers),
            "size": self.size.value(),
        }

    def accept(self) -> None:
        """Store the entries for the next checkpoint, and close."""
        settings.remember(_MODALITY, self.modality.currentData())
        settings.remember(_BACKBONE, self.backbone.currentData())
        settings.remember(_DILATIONS, self.dilations.text().strip())
        settings.remember(_SIZE, self.size.value())
        super().accept()


# Larger models are compared with their sha256 only on request: some would fill the memory.
_CHECKED_UNASKED = 512 << 20


#: What is being done or which model is used, slices done, slices in all.
Step = tuple[str, int, int]


def once(act: Callable[..., object], *arguments: object) -> Work:
    """Make a worker's task of a single call that cannot be stopped."""

    def work(stop: threading.Event) -> Generator[None, None, object]:
        yield
        return act(*arguments)

    return work


def find_entries(
    stop: threading.Event,
) -> Generator[list[ModelEntry] | ModelEntry, None, None]:
    """Yield the list of ``ModelEntry``, and then one by one those that were read completely."""
    from napari_spatial_ar.normative.library import check_entry, list_entries

    entries = list_entries()
    yield entries
    for entry in entries:
        if stop.is_set():
            return
        if entry.state in ("unchecked", "weights") and _size(entry.file) <= _CHECKED_UNASKED:
            yield check_entry(entry.folder)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # deleted in the meantime
        return 0


def recheck(folder: Path) -> ModelEntry:
    """``ModelEntry`` of a model that was read completely, with its backbone's weights."""
    from napari_spatial_ar.normative.library import check_entry

    return check_entry(folder, weights=True)


def rename(name: str, new_name: str) -> str:
    """Rename a model; see `library.rename_model`."""
    from napari_spatial_ar.normative.library import rename_model

    return rename_model(name, new_name).name


def duplicate(folder: Path, new_name: str) -> str:
    """Copy a model; see `library.duplicate_model`."""
    from napari_spatial_ar.normative.library import duplicate_model

    return duplicate_model(folder, new_name).name


def delete(name: str) -> str:
    """Move a model to the trash; see `library.delete_model`."""
    from napari_spatial_ar.normative.library import delete_model

    delete_model(name)
    return name


def restore(name: str, new_name: str) -> str:
    """Restore a model from the trash; see `library.restore_model`."""
    from napari_spatial_ar.normative.library import restore_model

    return restore_model(name, new_name).name


def trashed() -> list[Trashed]:
    """List deleted models; see `library.trashed_models`."""
    from napari_spatial_ar.normative.library import trashed_models

    return trashed_models()


def export(folder: Path, target: Path, pictures: bool) -> str:
    """Write a model as one file, replacing any of this name; see `archive.export_model`."""
    from napari_spatial_ar.normative.archive import export_model

    return str(export_model(folder, target, pictures=pictures, overwrite=True))


def import_file(source: Path, name: str) -> str | ReferenceCheckpoint:
    """Import a model, under its own name if none is given; see `importing.import_model`.

    Returns
    -------
    str or ReferenceCheckpoint
        Its name; for a checkpoint of the paper's authors its contents, to be completed by the user.
    """
    from napari_spatial_ar.normative.importing import import_model, is_reference_checkpoint
    from napari_spatial_ar.normative.reference_checkpoint import read_reference_checkpoint

    if is_reference_checkpoint(source):
        return read_reference_checkpoint(source)
    return import_model(source, name or None).parent.name


def import_checkpoint(source: Path, choices: Choices, name: str) -> str:
    """Create a model from a checkpoint; see `importing.import_reference`."""
    from napari_spatial_ar.normative.importing import import_reference

    return import_reference(source, name, **choices).parent.name


def calibrate(folder: Path, normals: Path, name: str) -> Work:
    """Make a task that calibrates the user's model ``name``, or a new copy with that name.

    It yields (what is done, slices done, slices in all) at intervals, and returns the name; None
    if it was stopped. See `calibrate.recalibrate_steps`.
    """

    def work(
        stop: threading.Event,
    ) -> Generator[Step | None, None, str | None]:
        from napari_spatial_ar.normative.calibration.calibrate import recalibrate_steps
        from napari_spatial_ar.normative.library import free_folder
        from napari_spatial_ar.review.model_card import write_model_card

        yield None
        out = None if name == folder.name else free_folder(name)
        steps = recalibrate_steps(folder, normals, out=out)
        calibrated = yield from run_until_stopped(stop, steps, news=itemgetter(0))
        if calibrated is None:
            return None
        write_model_card(calibrated)
        return calibrated.name

    return work


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Parameters
    ----------
    result : ModelComparison
        Figures; its files are deleted.
    png : bytes
        The image.
    """

    result: ModelComparison
    png: bytes


def compare(
    stop: threading.Event, first: Path, second: Path, volume: Scan
) -> Generator[object, None, Comparison | None]:
    """Score a scan with two models, yielding (model, slices done, slices in all) at intervals.

    Returns
    -------
    Comparison or None
        None if it was stopped.
    """
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.review.model_comparison import comparison_steps

    yield None
    one, other = load_model(first), load_model(second)
    if one.header.backbone == other.header.backbone:
        # One model at a time: a large one takes much of a small workstation's memory.
        other.backbone = one.backbone
    with TemporaryDirectory() as folder:
        steps = comparison_steps(one, other, volume, folder)
        result = yield from run_until_stopped(stop, steps, news=itemgetter(0))
        if result is None:
            return None
        return Comparison(result, result.files["png"].read_bytes())


_ARCHIVES = "One file per model (*.zip)"


_SOURCES = "Models (*.zip *.safetensors *.pth *.pt);;All files (*)"


_FOLDER = "models"


_PICTURES = (
    "Include the images of the model card? They show slices of the normal scans of the fit, that "
    "is, of patients."
)


@dataclass(frozen=True)
class _Action:
    """One change: ``act(*arguments, name)`` returns the name to insert into ``message``."""

    doing: str
    message: str
    act: Callable[..., Any]
    arguments: tuple[object, ...] = ()
    name: str | None = None
    #: Model whose deletion can be undone afterwards; None if that does not change.
    undo: str | None = None
    changes: bool = True
    #: Whether ``act`` returns a task that reports its steps and can be stopped.
    steps: bool = False


class LibraryActions(QObject):
    """Asks the necessary questions, does the work, and notifies the docks.

    Parameters
    ----------
    parent : QWidget
        The dialog, parent of the questions.
    tasks : TaskHost
        Runs the work.
    """

    #: A line for the user.
    message = Signal(str)
    #: Work started or ended.
    busy = Signal(bool)
    #: Name of a changed or new model; emitted before the list is read again.
    made = Signal(str)
    #: ``ModelEntry`` that was checked.
    checked = Signal(object)

    def __init__(self, parent: QWidget, tasks: TaskHost):
        super().__init__(parent)
        self._tasks = tasks
        self._action: _Action | None = None
        self._task: Task | None = None
        self._taken = ""
        self._checkpoint: ReferenceCheckpoint | None = None
        #: Name of the model that was deleted last and can be restored; "" for none.
        self.undo_name = ""

    @property
    def running(self) -> bool:
        """Whether work is in progress."""
        return self._action is not None

    @property
    def stoppable(self) -> bool:
        """Whether the current work can be stopped."""
        return self._action is not None and self._action.steps

    def stop(self) -> None:
        """Stop the current work if possible; the models do not change."""
        if self.stoppable and self._task is not None:
            self._task.stop()
            self.message.emit("Stopping...")

    # ------------------------------------------------------------------ actions

    def rename(self, entry: ModelEntry) -> None:
        """Ask for a new name and rename a model."""
        name = self._ask("Rename", f"New name of {entry.name}:", entry.name)
        if name and name != entry.name:
            message = f"{entry.name} is now named {{}}."
            self._run(_Action("Renaming", message, rename, (entry.name,), name))

    def duplicate(self, entry: ModelEntry) -> None:
        """Ask for a name and make a copy of it."""
        name = self._ask("Duplicate", f"Name of the copy of {entry.name}:", f"{entry.name}-copy")
        if name:
            act = duplicate
            self._run(_Action("Duplicating", "Copied as {}.", act, (entry.folder,), name))

    def delete(self, entry: ModelEntry) -> None:
        """Move a model to the trash, without confirmation since it can be undone."""
        message = "{} is in the trash."
        self._run(_Action("Deleting", message, delete, name=entry.name, undo=entry.name))

    def undo(self) -> None:
        """Restore the model that was deleted last."""
        if self.undo_name:
            self.restore(self.undo_name)

    def restore(self, name: str) -> None:
        """Restore a deleted model."""
        undo = "" if name == self.undo_name else None
        act = restore
        self._run(_Action("Restoring", "{} is restored.", act, (name,), name, undo=undo))

    def export(self, entry: ModelEntry) -> None:
        """Ask for a file and write the model to it."""
        title = "Export the model as one file"
        chosen, _ = choose_target(self.parent(), title, _FOLDER, f"{entry.name}.zip", _ARCHIVES)
        pictures = self._pictures(entry) if chosen else None
        if pictures is None:
            return
        settings.remember_folder(_FOLDER, Path(chosen).parent)
        arguments = (entry.folder, Path(chosen), pictures)
        message = "Exported as {}."
        self._run(_Action("Exporting", message, export, arguments, changes=False))

    def import_file(self) -> None:
        """Ask for a file and import the model."""
        chosen = choose_file(self.parent(), "Import a model", _FOLDER, _SOURCES)
        if chosen is not None:
            act = import_file
            self._run(_Action("Importing", "Imported as {}.", act, (chosen,), ""))

    def _import_checkpoint(self, found: ReferenceCheckpoint) -> None:
        """Ask for what a checkpoint does not contain, and import it."""
        dialog = CheckpointDialog(found, self.parent())

        def take_in() -> None:
            act, arguments = import_checkpoint, (found.path, dialog.choices)
            name = dialog.name.text().strip()
            self._run(_Action("Importing", "Imported as {}.", act, arguments, name))

        dialog.accepted.connect(take_in)
        dialog.open()

    def check(self, entry: ModelEntry) -> None:
        """Read a model completely, with its backbone."""
        act = recheck
        self._run(_Action("Checking", "", act, (entry.folder,), changes=False))

    def calibrate(self, entry: ModelEntry) -> None:
        """Ask for a folder of normal scans and calibrate the model on them."""
        title = "Normal scans that the model was not trained on"
        normals = choose_folder(self.parent(), title, "training")
        name = entry.name if normals else ""
        if name and entry.released:
            name = self._ask("Calibrate", "Name of the copy that is calibrated:", f"{name}-here")
        if name:
            act, arguments = calibrate, (entry.folder, Path(normals))
            message = "{} is calibrated on these scans."
            self._run(_Action("Calibrating", message, act, arguments, name=name, steps=True))

    # ------------------------------------------------------------------ execution

    def _ask(self, title: str, label: str, proposed: str) -> str:
        name, accepted = QInputDialog.getText(self.parent(), title, label, text=proposed)
        return name.strip() if accepted else ""

    def _pictures(self, entry: ModelEntry) -> bool | None:
        """Ask whether to include images of patients, if there are any; None to cancel."""
        if not any(entry.folder.glob("*.png")):
            return False
        buttons = QMessageBox.StandardButton
        answer = QMessageBox.question(
            self.parent(), "Export", _PICTURES, buttons.Yes | buttons.No | buttons.Cancel
        )
        return None if answer == buttons.Cancel else answer == buttons.Yes

    def _run(self, action: _Action) -> None:
        if self.running:
            return
        self._action, self._taken = action, ""
        given = action.arguments if action.name is None else (*action.arguments, action.name)
        work = action.act(*given) if action.steps else once(action.act, *given)
        self._task = task = self._tasks.start(work)
        task.progressed.connect(self._on_step)
        task.returned.connect(self._on_returned)
        task.failed.connect(self._on_failed)
        task.finished.connect(self._on_finished)
        self.message.emit(f"{action.doing}...")
        self.busy.emit(True)

    def _on_step(self, step: Step | None) -> None:
        if step is not None and self._task is not None and not self._task.stopped:
            self.message.emit("{}: {} of {}".format(*step))

    def _on_returned(self, result: Any) -> None:
        action = self._action
        assert action is not None
        if action.steps and result is None:
            self.message.emit("Stopped; nothing was changed.")
            return
        if action.act is import_file and not isinstance(result, str):
            self._checkpoint = result
            self.message.emit("")
            return
        if action.act is recheck:
            self.message.emit(f"{result.name} was checked.")
            self.checked.emit(result)
            return
        self.message.emit(action.message.format(result))
        if not action.changes:
            return
        if action.undo is not None:
            self.undo_name = action.undo
        if action.act is rename:
            model_access.model_events.renamed.emit(action.arguments[0], result)
        self.made.emit(result)
        model_access.model_events.changed.emit()

    def _on_failed(self, error: Exception) -> None:
        assert self._action is not None
        if isinstance(error, NameTakenError) and error.path is not None:
            self._taken = error.path.name
            self.message.emit("")
        else:
            self.message.emit(report(error, f"{self._action.doing} the model"))

    def _on_finished(self) -> None:
        action, taken = self._action, self._taken
        checkpoint, self._checkpoint = self._checkpoint, None
        self._action = self._task = None
        self.busy.emit(False)
        if checkpoint is not None:
            self._import_checkpoint(checkpoint)
        if action is not None and taken:
            label = f"A model named {taken} already exists. Another name:"
            name = self._ask(action.doing, label, f"{taken}-2")
            if name:
                self._run(replace(action, name=name))
