"""The Training dock: start, pause and resume a fit, and its progress."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import napari.viewer
from napari.utils.notifications import show_info
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_spatial_ar.errors import Cancelled, SpatialARError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.jobs import Task, TaskHost, report, warn
from napari_spatial_ar.gui.library.dialog import LibraryButton
from napari_spatial_ar.gui.open_scan import dropped_paths
from napari_spatial_ar.gui.training.form import TrainingForm
from napari_spatial_ar.gui.widgets.choosing import confirmed
from napari_spatial_ar.gui.widgets.dock_page import DockPage
from napari_spatial_ar.gui.widgets.forms import Note, button, row, section
from napari_spatial_ar.gui.widgets.plots import LossPlot
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.normative.fitting.config import FitConfig
from napari_spatial_ar.steps import run_until_stopped

if TYPE_CHECKING:
    from napari_spatial_ar.normative.fitting.outliers import Outliers
    from napari_spatial_ar.normative.fitting.plan import FitProgress


__all__ = ["StepText", "TrainingDock", "UnfinishedFit", "stage_and_epoch"]

_STAGES = {
    "features": "Embedding slices",
    "training": "Training",
    "calibration": "Calibrating on held-out normal slices",
    "saving": "Saving",
}


Result = TypeVar("Result")


def stage_and_epoch(step: FitProgress) -> tuple[str, int]:
    """Distinguish steps that the user should see immediately; for `run_until_stopped`."""
    return step.stage, step.epoch


class StepText:
    """Describes the progress of a fit."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = (0.0, 0)

    def restart(self) -> None:
        """Restart the measurement of speed: time was spent on something else."""
        self._stage = ""

    def __call__(self, step: FitProgress) -> str:
        """Describe what is done, how far, the remaining time, speed and quality."""
        if step.stage != self._stage:
            self._stage = step.stage
            self._began = (time.monotonic(), step.done)
        parts = [step.message or _STAGES.get(step.stage, step.stage)]
        if step.total:
            parts.append(", ".join([f"{step.done} of {step.total}", *self._more(step)]))
        return ": ".join(parts)

    def _more(self, step: FitProgress) -> list[str]:
        # Imported only here: it imports torch.
        from napari_spatial_ar.normative.fitting.plan import format_duration

        more = []
        if step.seconds_left is not None:
            more.append(f"about {format_duration(step.seconds_left)} left in total")
        else:
            began, first = self._began
            done, seconds = step.done - first, time.monotonic() - began
            if done >= 1 and seconds >= 1:
                left = seconds / done * (step.total - step.done)
                more.append(f"about {format_duration(left)} left for this step")
        if step.images_per_second:
            more.append(f"{step.images_per_second:.3g} images a second")
        if step.best_epoch >= 0:
            more.append(f"best epoch {step.best_epoch + 1} of {step.epoch}")
        return more


class UnfinishedFit(QWidget):
    """Offers to resume a fit of an earlier session; hidden if there is none.

    The fit's recipe is stored in the user's folder, in a file with the name of the model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.note = Note()
        self.resume_button = button(
            "Resume the unfinished fit",
            tooltip("fit.resume_the_unfinished_fit"),
        )
        self.discard_button = button("Discard", tooltip("fit.discard"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self.note)
        layout.addLayout(row(self.resume_button, self.discard_button))
        self.discard_button.clicked.connect(self.forget)
        self._show([path.stem for path in self._files()])

    @staticmethod
    def _files() -> list[Path]:
        return sorted(model_access.unfinished_dir().glob("*.toml"))

    def _show(self, names: list[str]) -> None:
        #: Name of the model to be created; "" if no fit is offered.
        self.name = next(iter(names), "")
        self.note.set_text(f"The fit of {self.name} was not finished." if names else "")
        self.setVisible(bool(names))

    def take_up(self, form: TrainingForm) -> bool:
        """Set a `TrainingForm` to the fit's settings; False, with a message, if that fails."""
        try:
            form.set_recipe(
                model_access.read_recipe(model_access.unfinished_dir() / f"{self.name}.toml")
            )
        except SpatialARError as error:
            self.note.set_text(report(error, "Resuming"))
            return False
        form.name.setText(self.name)
        return True

    def keep(self, name: str, config: FitConfig) -> None:
        """Store a new fit in place of the previous one, and hide the offer meanwhile."""
        self.forget()
        try:
            model_access.write_recipe(model_access.unfinished_dir() / f"{name}.toml", config)
        except SpatialARError as error:
            warn(f"This fit will not be offered again after a restart of napari: {error}")

    def forget(self) -> None:
        """Forget the stored fit."""
        for path in self._files():
            with suppress(OSError):  # then it is offered once more, and can be discarded
                path.unlink()
        self._show([])


_STOPPED = "Stopped. Start resumes from here with the same settings."


_PAUSED = "Paused. Resume continues from here; Cancel still works."


class TrainingDock(DockPage):
    """Dock for fitting a normative model.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer the dock belongs to.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__(napari_viewer)
        self.tasks = TaskHost(self)
        self._task: Task | None = None
        self._text = StepText()
        self._go = threading.Event()
        #: Folder of the last model fitted here, and the folders of scans it was fitted on.
        self._fitted: tuple[Path, list[str]] | None = None
        self._fitting: tuple[Path, list[str]] | None = None
        self.form = TrainingForm()
        self.start_button = button("Start", tooltip("fit.start"))
        self.estimate_button = button("Estimate time", tooltip("fit.estimate_time"))
        self.pause_button = button("Pause", tooltip("fit.pause"))
        self.cancel_button = button("Cancel", tooltip("fit.cancel"))
        self.outliers_button = button(
            "Training outliers...",
            tooltip("fit.training_outliers"),
        )
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setToolTip(tooltip("fit.progress"))
        self.note = Note()
        self.plot = LossPlot()
        self.unfinished = UnfinishedFit()
        buttons = row(
            self.start_button, self.estimate_button, self.pause_button, self.cancel_button
        )
        self.library_button = LibraryButton("Models...")
        after = row(self.outliers_button, self.library_button)
        fit = [self.unfinished, buttons, self.progress, self.note, after]
        self.loss = section("Loss (nats per dimension)", [self.plot])
        self.lay_out([self.form, self.loss], stretch=1, foot=section("Fit", fit))
        self.setAcceptDrops(True)
        self.start_button.clicked.connect(self.start)
        self.estimate_button.clicked.connect(self.estimate)
        self.pause_button.clicked.connect(self.pause_or_resume)
        self.cancel_button.clicked.connect(self.cancel)
        self.unfinished.resume_button.clicked.connect(self.resume_unfinished)
        self.outliers_button.clicked.connect(self.show_outliers)
        self.form.method.changed.connect(self._on_method)
        self.form.normals.changed.connect(self._enable)
        self._on_method()
        self._enable()

    @property
    def running(self) -> bool:
        """Whether a model is being fitted."""
        return self._task is not None

    @property
    def paused(self) -> bool:
        """Whether the worker is paused."""
        return self.running and not self._go.is_set()

    def _on_method(self) -> None:
        self.loss.setVisible(self.form.method.method.reports_losses)

    def _enable(self) -> None:
        self.form.setEnabled(not self.running)
        for idle in (self.start_button, self.estimate_button, self.unfinished):
            idle.setEnabled(not self.running)
        self.pause_button.setEnabled(self.running)
        self.pause_button.setText("Resume" if self.paused else "Pause")
        self.cancel_button.setEnabled(self.running)
        fitted = self._fitted is not None and self._fitted[1] == self.form.normals.folders
        self.outliers_button.setEnabled(fitted and not self.running)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept a folder."""
        if dropped_paths(event.mimeData()) and not self.running:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Use dropped folders as normal scans."""
        event.acceptProposedAction()
        self.form.normals.set_folders(dropped_paths(event.mimeData()))

    def start(self) -> None:
        """Fit with the settings of the form."""
        if self.running:
            return
        try:
            config = self.form.config()
        except SpatialARError as error:
            self.note.set_text(report(error, "Training"))
            return
        target = self.form.target
        overwrite = os.path.exists(target / "model.safetensors")
        if overwrite and not self._may_overwrite(target.name):
            return
        self.unfinished.keep(target.name, config)
        self.form.normals.stop()
        self.plot.show_losses([], [], -1, 1)
        self.scroll.ensureWidgetVisible(self.plot)
        self._fitting = target, list(config.folders)
        self._run(model_access.fit_steps(config, out=target, overwrite=overwrite), self._on_model)

    def _run(
        self, steps: Generator[FitProgress, None, Result], then: Callable[[Result | None], None]
    ) -> None:
        """Run steps in a worker; ``then`` receives their result, None if they were stopped."""
        self._text.restart()
        self._go = go = threading.Event()
        go.set()
        self.progress.setRange(0, 0)
        self.note.set_text("Starting...")
        task = self.tasks.start(
            partial(run_until_stopped, steps=steps, go=go, news=stage_and_epoch)
        )
        task.progressed.connect(self._on_step)
        task.returned.connect(then)
        task.failed.connect(self._on_failed)
        task.finished.connect(self._on_finished)
        self._task = task
        self._enable()

    def estimate(self) -> None:
        """Estimate how long the fit will take."""
        if self.running:
            return
        try:
            config = self.form.config()
        except SpatialARError as error:
            self.note.set_text(report(error, "The estimate"))
            return
        self._run(model_access.estimate_steps(config, out=self.form.target), self._on_estimate)

    def _on_estimate(self, found: str | None) -> None:
        self.note.set_text(found or "Stopped.")

    def resume_unfinished(self) -> None:
        """Resume the fit that an earlier session did not finish."""
        if self.unfinished.take_up(self.form):
            self.start()

    def pause_or_resume(self) -> None:
        """Pause the worker after the current step, or resume."""
        if self.paused:
            self._text.restart()
            self._go.set()
            self.note.set_text("Resuming...")
        elif self.running:
            self._go.clear()
            self.note.set_text(_PAUSED)
        self._enable()

    def _may_overwrite(self, name: str) -> bool:
        return confirmed(self, "Training", f"A model named {name} already exists. Replace it?")

    def cancel(self) -> None:
        """Stop after the current step."""
        if self._task is not None:
            self._task.stop()
            self.note.set_text("Stopping...")

    def _on_step(self, step: FitProgress) -> None:
        self.progress.setRange(0, step.total)
        self.progress.setValue(min(step.done, step.total))
        if step.epochs:
            self.plot.show_losses(step.train_nll, step.valid_nll, step.best_epoch, step.epochs)
        if self._task is None or self._task.stopped or self.paused:
            return
        self.note.set_text(self._text(step))

    def _on_model(self, model: Path | None) -> None:
        if model is None:
            self.note.set_text(_STOPPED)
            return
        self.unfinished.forget()
        self._fitted = self._fitting
        self.note.set_text(f"The model {model.name} is ready in the Review dock.")
        show_info(f"The model {model.name} is ready.")
        model_access.model_events.changed.emit()

    def show_outliers(self) -> None:
        """Find the training outliers of the last fit, and show them."""
        if self._fitted is not None and not self.running:
            self._run(model_access.outlier_steps(*self._fitted), self._on_outliers)

    def _on_outliers(self, outliers: Outliers | None) -> None:
        self.note.set_text("" if outliers else "Stopped.")
        if outliers is None:
            return
        # Imported only here: it imports torch.
        from napari_spatial_ar.gui.training.outliers_dialog import OutliersDialog

        self.dialog = OutliersDialog(outliers, self.window())
        self.dialog.accepted.connect(self._fit_without)
        self.dialog.finished.connect(self.dialog.deleteLater)
        self.dialog.open()

    def _fit_without(self) -> None:
        normals = self.form.normals
        normals.exclude(normals.excluded | self.dialog.excluded)
        self.start()

    def _on_failed(self, error: Exception) -> None:
        if isinstance(error, Cancelled):
            self.note.set_text(_STOPPED)
        else:
            self.note.set_text(report(error, "Training"))

    def _on_finished(self) -> None:
        self._task = None
        self.progress.setRange(0, max(1, self.progress.maximum()))
        self._enable()
