"""What can be done to the models, each in a worker, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox, QWidget

from napari_spatial_ar.errors import NameTakenError
from napari_spatial_ar.gui import services, settings
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.library import work as library_work
from napari_spatial_ar.gui.library.checkpoint_dialog import CheckpointDialog
from napari_spatial_ar.gui.notify import report

__all__ = ["LibraryActions"]

_ARCHIVES = "One file per model (*.zip)"
_SOURCES = "Models (*.zip *.safetensors *.pth *.pt);;All files (*)"
_FOLDER = "models"
_PICTURES = (
    "Take the pictures of the card along? They show slices of the normal scans of the fit, which "
    "are slices of patients."
)


@dataclass(frozen=True)
class _Action:
    """One change: ``act(*arguments, name)`` gives a name, which ``said`` tells the user."""

    doing: str
    said: str
    act: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    name: str | None = None
    #: What can be undone when it is done; None where it stays as before.
    undo: str | None = None
    changes: bool = True
    #: Whether ``act`` gives a task that tells its steps and can be stopped.
    steps: bool = False


class LibraryActions(QObject):
    """Asks what needs asking, works, and tells the docks.

    Parameters
    ----------
    parent : QWidget
        The dialog, which questions belong to.
    tasks : TaskHost
        Where the work is done.
    """

    #: A line for the user.
    said = Signal(str)
    #: Work began or ended.
    busy = Signal(bool)
    #: Name of the model that was changed or made; before the list is read anew.
    made = Signal(str)
    #: ``ModelEntry`` that was checked.
    checked = Signal(object)

    def __init__(self, parent: QWidget, tasks: TaskHost):
        super().__init__(parent)
        self._tasks = tasks
        self._action: _Action | None = None
        self._task: Task | None = None
        self._taken = ""
        self._checkpoint: Any = None
        #: Name of the model that was deleted last and can be brought back; "" for none.
        self.undo_name = ""

    @property
    def running(self) -> bool:
        """Whether something is being done."""
        return self._action is not None

    @property
    def stoppable(self) -> bool:
        """Whether what is being done can be stopped."""
        return self._action is not None and self._action.steps

    def stop(self) -> None:
        """Stop what can be; the models stay as they were."""
        if self.stoppable and self._task is not None:
            self._task.stop()
            self.said.emit("Stopping...")

    # ------------------------------------------------------------------ what can be done

    def rename(self, entry: Any) -> None:
        """Ask for a new name and give it."""
        name = self._ask("Rename", f"New name of {entry.name}:", entry.name)
        if name and name != entry.name:
            said = f"{entry.name} is called {{}} now."
            self._run(_Action("Renaming", said, library_work.rename, (entry.name,), name))

    def duplicate(self, entry: Any) -> None:
        """Ask for a name and make a copy of it."""
        name = self._ask("Duplicate", f"Name of the copy of {entry.name}:", f"{entry.name}-copy")
        if name:
            act = library_work.duplicate
            self._run(_Action("Duplicating", "Copied as {}.", act, (entry.folder,), name))

    def delete(self, entry: Any) -> None:
        """Move a model to the trash; not asked first, as it can be undone."""
        said = "{} is in the trash."
        self._run(_Action("Deleting", said, library_work.delete, name=entry.name, undo=entry.name))

    def undo(self) -> None:
        """Bring the model back that was deleted last."""
        if self.undo_name:
            self.restore(self.undo_name)

    def restore(self, name: str) -> None:
        """Bring a deleted model back."""
        undo = "" if name == self.undo_name else None
        act = library_work.restore
        self._run(_Action("Restoring", "{} is back.", act, (name,), name, undo=undo))

    def export(self, entry: Any) -> None:
        """Ask for a file and write the model to it."""
        start = Path(settings.last_folder(_FOLDER)) / f"{entry.name}.zip"
        chosen, _ = QFileDialog.getSaveFileName(
            self.parent(), "Export the model as one file", str(start), _ARCHIVES
        )
        pictures = self._pictures(entry) if chosen else None
        if pictures is None:
            return
        settings.remember_folder(_FOLDER, Path(chosen).parent)
        arguments = (entry.folder, Path(chosen), pictures)
        said = "Exported as {}."
        self._run(_Action("Exporting", said, library_work.export, arguments, changes=False))

    def import_file(self) -> None:
        """Ask for a file and take the model in."""
        chosen, _ = QFileDialog.getOpenFileName(
            self.parent(), "Import a model", settings.last_folder(_FOLDER), _SOURCES
        )
        if chosen:
            settings.remember_folder(_FOLDER, Path(chosen).parent)
            act = library_work.import_file
            self._run(_Action("Importing", "Imported as {}.", act, (Path(chosen),), ""))

    def _import_checkpoint(self, found: Any) -> None:
        """Ask for what a checkpoint does not say, and take it in."""
        dialog = CheckpointDialog(found, self.parent())

        def take_in() -> None:
            act, arguments = library_work.import_checkpoint, (found.path, dialog.choices)
            name = dialog.name.text().strip()
            self._run(_Action("Importing", "Imported as {}.", act, arguments, name))

        dialog.accepted.connect(take_in)
        dialog.open()

    def check(self, entry: Any) -> None:
        """Read a model whole, its backbone too."""
        act = library_work.recheck
        self._run(_Action("Checking", "", act, (entry.folder,), changes=False))

    def calibrate(self, entry: Any) -> None:
        """Ask for a folder of normal scans and measure the model on them."""
        start = settings.last_folder("training")
        title = "Normal scans that the model was not trained on"
        normals = QFileDialog.getExistingDirectory(self.parent(), title, start)
        name = entry.name if normals else ""
        if name and entry.released:
            name = self._ask("Calibrate", "Name of the copy that is calibrated:", f"{name}-here")
        if name:
            act, arguments = library_work.calibrate, (entry.folder, Path(normals))
            said = "{} is calibrated on these scans."
            self._run(_Action("Calibrating", said, act, arguments, name=name, steps=True))

    # ------------------------------------------------------------------ how it is done

    def _ask(self, title: str, label: str, proposed: str) -> str:
        name, accepted = QInputDialog.getText(self.parent(), title, label, text=proposed)
        return name.strip() if accepted else ""

    def _pictures(self, entry: Any) -> bool | None:
        """Ask whether to hand on pictures of patients, where there are any; None to cancel."""
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
        work = action.act(*given) if action.steps else library_work.once(action.act, *given)
        self._task = task = self._tasks.start(work)
        task.progressed.connect(self._on_step)
        task.returned.connect(self._on_returned)
        task.failed.connect(self._on_failed)
        task.finished.connect(self._on_finished)
        self.said.emit(f"{action.doing}...")
        self.busy.emit(True)

    def _on_step(self, step: tuple[str, int, int] | None) -> None:
        if step is not None and self._task is not None and not self._task.stopped:
            self.said.emit("{}: {} of {}".format(*step))

    def _on_returned(self, result: Any) -> None:
        action = self._action
        assert action is not None
        if action.steps and result is None:
            self.said.emit("Stopped; nothing was changed.")
            return
        if action.act is library_work.import_file and not isinstance(result, str):
            self._checkpoint = result
            self.said.emit("")
            return
        if action.act is library_work.recheck:
            self.said.emit(f"{result.name} was checked.")
            self.checked.emit(result)
            return
        self.said.emit(action.said.format(result))
        if not action.changes:
            return
        if action.undo is not None:
            self.undo_name = action.undo
        if action.act is library_work.rename:
            services.model_news.renamed.emit(action.arguments[0], result)
        self.made.emit(result)
        services.model_news.changed.emit()

    def _on_failed(self, error: Exception) -> None:
        assert self._action is not None
        if isinstance(error, NameTakenError) and error.path is not None:
            self._taken = error.path.name
            self.said.emit("")
        else:
            self.said.emit(report(error, f"{self._action.doing} the model"))

    def _on_finished(self) -> None:
        action, taken = self._action, self._taken
        checkpoint, self._checkpoint = self._checkpoint, None
        self._action = self._task = None
        self.busy.emit(False)
        if checkpoint is not None:
            self._import_checkpoint(checkpoint)
        if action is not None and taken:
            label = f"There is a model {taken} already. Another name:"
            name = self._ask(action.doing, label, f"{taken}-2")
            if name:
                self._run(replace(action, name=name))
