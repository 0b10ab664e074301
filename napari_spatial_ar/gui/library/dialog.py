"""The dialog of models: what is there, what each is, and what can be done to it."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QMenu,
    QPushButton,
    QShortcut,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.gui import services, settings
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.library import work
from napari_spatial_ar.gui.library.actions import LibraryActions
from napari_spatial_ar.gui.library.comparison_dialog import ComparisonDialog
from napari_spatial_ar.gui.library.model_details import ModelDetails
from napari_spatial_ar.gui.library.model_table import ModelTable
from napari_spatial_ar.gui.notify import report
from napari_spatial_ar.gui.review.scan_panel import ScanPanel
from napari_spatial_ar.gui.widgets.forms import Dialog, Note, button, research_line, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["LibraryDialog"]


class LibraryDialog(Dialog):
    """Lists the released models and the user's.

    Parameters
    ----------
    parent : QWidget
        The window it belongs to, in which the Review dock is looked for.
    """

    def __init__(self, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("Models")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(1320, 660)
        self.tasks = TaskHost(self)
        self.library = LibraryActions(self, self.tasks)
        self._looking: Task | None = None
        self._wanted = settings.recall("model", "")
        self.table = ModelTable()
        self.details = ModelDetails()
        self.note = Note(strong=True)
        self._make_buttons()
        self._lay_out()
        self._connect()
        self.look()
        self._enable()
        self.table.setFocus()

    # ------------------------------------------------------------------ building

    def _make_buttons(self) -> None:
        self.rename_button = button("&Rename...", tooltip("models.rename"))
        self.duplicate_button = button("D&uplicate...", tooltip("models.duplicate"))
        self.delete_button = button("&Delete", tooltip("models.delete"))
        self.undo_button = button("U&ndo", tooltip("models.undo"))
        self.trash_button = button("Res&tore", tooltip("models.restore"))
        self.trash_menu = QMenu(self)
        self.trash_button.setMenu(self.trash_menu)
        self.export_button = button("&Export...", tooltip("models.export"))
        self.import_button = button("&Import...", tooltip("models.import"))
        self.check_button = button(
            "C&heck",
            tooltip("models.check"),
        )
        self.calibrate_button = button(
            "Ca&librate...",
            tooltip("models.calibrate"),
        )
        self.stop_button = button("&Stop", tooltip("models.stop"))
        self.compare_button = button(
            "&Compare two models on the open scan...",
            tooltip("models.compare_two_models"),
        )

    def _lay_out(self) -> None:
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.table, 1)
        column.addLayout(row(self.note, self.stop_button, self.undo_button))
        column.addLayout(
            row(self.rename_button, self.duplicate_button, self.delete_button, self.trash_button)
        )
        column.addLayout(row(self.import_button, self.export_button, self.check_button))
        column.addLayout(row(self.calibrate_button, self.compare_button))
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.addWidget(left)
        splitter.addWidget(self.details)
        splitter.setChildrenCollapsible(False)
        splitter.setSizes([760, 540])
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        layout = QVBoxLayout(self)
        layout.addWidget(splitter, 1)
        layout.addWidget(self.buttons)
        layout.addWidget(research_line())
        for made in self.findChildren(QPushButton):
            # Enter in the list would press one of them.
            made.setAutoDefault(False)

    def _connect(self) -> None:
        self.table.chosen.connect(self._on_chosen)
        self.rename_button.clicked.connect(self.rename)
        self.duplicate_button.clicked.connect(self.duplicate)
        self.delete_button.clicked.connect(self.delete)
        self.undo_button.clicked.connect(self.library.undo)
        self.trash_menu.aboutToShow.connect(self._fill_trash)
        self.trash_menu.triggered.connect(self._on_trashed)
        self.export_button.clicked.connect(self.export)
        self.import_button.clicked.connect(self.library.import_file)
        self.check_button.clicked.connect(self.check)
        self.calibrate_button.clicked.connect(self.calibrate)
        self.stop_button.clicked.connect(self.library.stop)
        self.compare_button.clicked.connect(self.compare)
        self.buttons.rejected.connect(self.reject)
        self.library.said.connect(self.note.say)
        self.library.busy.connect(self._enable)
        self.library.made.connect(self._on_made)
        self.library.checked.connect(self.table.update_entry)
        services.model_news.changed.connect(self.look)
        services.weights_news.changed.connect(self.look)
        for key, slot in (("F2", self.rename), ("Del", self.delete)):
            shortcut = QShortcut(QKeySequence(key), self.table)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(slot)

    # ------------------------------------------------------------------ what is shown

    def look(self, *_: object) -> None:
        """List the models anew, and read them whole one after the other."""
        if self._looking is not None:
            # What it still finds may be of before the change.
            self._looking.stop()
            self._looking.progressed.disconnect(self._on_found)
            self._looking.failed.disconnect(self._on_failed)
            self._looking.finished.disconnect(self._on_looked)
        self._looking = self.tasks.start(work.look)
        self._looking.progressed.connect(self._on_found)
        self._looking.failed.connect(self._on_failed)
        self._looking.finished.connect(self._on_looked)

    @property
    def looking(self) -> bool:
        """Whether models are still being listed or read."""
        return self._looking is not None

    def _on_found(self, found: Any) -> None:
        if not isinstance(found, list):
            self.table.update_entry(found)
            return
        self.table.set_entries(found)
        if self._wanted:
            self.table.choose(self._wanted)
            self._wanted = ""

    def _on_failed(self, error: Exception) -> None:
        self.note.say(report(error, "Looking for models"))

    def _on_looked(self) -> None:
        self._looking = None

    def _on_chosen(self) -> None:
        self.details.show_entry(self.table.entry)
        self._enable()

    def _enable(self, *_: object) -> None:
        entry, free = self.table.entry, not self.library.running
        own = entry is not None and not entry.released
        released = tooltip("models.rename_or_delete.released")
        for made, tip in (
            (self.rename_button, tooltip("models.rename")),
            (self.delete_button, tooltip("models.delete")),
        ):
            made.setEnabled(own and free)
            made.setToolTip(tip if entry is None or own else released)
        whole = entry is not None and entry.state not in ("damaged", "version")
        for made in (self.duplicate_button, self.export_button, self.calibrate_button):
            made.setEnabled(whole and free)
        self.check_button.setEnabled(entry is not None and free)
        for made in (self.import_button, self.trash_button, self.undo_button):
            made.setEnabled(free)
        self.undo_button.setVisible(bool(self.library.undo_name))
        self.stop_button.setVisible(self.library.stoppable)
        self.compare_button.setEnabled(len(self._usable()) > 1)

    def _usable(self) -> list[Any]:
        return [entry for entry in self.table.entries if entry.state in ("ok", "unchecked")]

    def _on_made(self, name: str) -> None:
        self._wanted = name

    # ------------------------------------------------------------------ what the buttons do

    def rename(self) -> None:
        """Rename the chosen model."""
        if self.rename_button.isEnabled():
            self.library.rename(self.table.entry)

    def duplicate(self) -> None:
        """Copy the chosen model."""
        self.library.duplicate(self.table.entry)

    def delete(self) -> None:
        """Move the chosen model to the trash."""
        if self.delete_button.isEnabled():
            self.library.delete(self.table.entry)

    def export(self) -> None:
        """Write the chosen model as one file."""
        self.library.export(self.table.entry)

    def check(self) -> None:
        """Read the chosen model whole."""
        self.library.check(self.table.entry)

    def calibrate(self) -> None:
        """Measure the chosen model on other normal scans."""
        self.library.calibrate(self.table.entry)

    def compare(self) -> None:
        """Open the comparison, with the chosen model as the first."""
        scan = self.parentWidget().findChild(ScanPanel)
        dialog = ComparisonDialog(self._usable(), scan, self)
        if self.table.entry is not None:
            dialog.set_models(self.table.entry.folder)
        dialog.show()

    def _fill_trash(self) -> None:
        self.trash_menu.clear()
        deleted = list(dict.fromkeys(trashed.name for trashed in work.trashed()))
        for name in deleted:
            self.trash_menu.addAction(name).setData(name)
        if not deleted:
            self.trash_menu.addAction("The trash is empty").setEnabled(False)

    def _on_trashed(self, action: Any) -> None:
        self.library.restore(action.data())

    def reject(self) -> None:
        """Close, unless a model is being changed: nobody would be told how it ended."""
        if not self.library.running:
            super().reject()
