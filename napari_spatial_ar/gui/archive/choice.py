"""The choice among saved archives, in the dialogs that ask one or send to one."""

from __future__ import annotations

from functools import partial

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_spatial_ar.archive.saved import SavedArchive
from napari_spatial_ar.errors import InputError, SpatialARError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.archive.asking import echo_steps, removing_steps, saved_steps
from napari_spatial_ar.gui.archive.edit_dialog import EditArchiveDialog
from napari_spatial_ar.gui.jobs import TaskHost, log, sentence
from napari_spatial_ar.gui.widgets.choosing import confirmed
from napari_spatial_ar.gui.widgets.forms import button, combo, row, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["ArchiveChoice", "destination"]

_SETTING = "archive"


def destination(archive: SavedArchive) -> str:
    """Say where an archive is: host and port, with the AE title for DIMSE."""
    try:
        address = archive.address
    except InputError:
        return archive.url
    if address.web:
        return f"DICOMweb at {address.url}"
    secure = ", TLS" if address.tls else ""
    return f"AE title {address.aet} at {address.host}:{address.port}{secure}"


class ArchiveChoice(QWidget):
    """List of saved archives, with buttons to add, change, remove and test one.

    The archive chosen last is remembered.

    Parameters
    ----------
    tasks : TaskHost
        Asks the archive.
    """

    #: Another archive was chosen, or the list was read.
    changed = Signal()
    #: A line for the user.
    message = Signal(str)

    def __init__(self, tasks: TaskHost):
        super().__init__()
        self._tasks = tasks
        #: Saved archives by name.
        self.archives: dict[str, SavedArchive] = {}
        #: The open dialog of one archive, if any.
        self.dialog: EditArchiveDialog | None = None
        self.box = combo(tooltip("archive.archive"), "Archive")
        self.add_button = button("Add...", tooltip("archive.add"))
        self.edit_button = button("Change...", tooltip("archive.change"))
        self.remove_button = button("Remove", tooltip("archive.remove"))
        self.test_button = button("Test", tooltip("archive.test"))
        buttons = (self.add_button, self.edit_button, self.remove_button, self.test_button)
        for one in buttons:
            one.setAutoDefault(False)
        line = row(self.box, *buttons)
        line.setStretch(0, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(line)
        self.add_button.clicked.connect(lambda: self.edit(""))
        self.edit_button.clicked.connect(lambda: self.edit(self.name))
        self.remove_button.clicked.connect(self.remove)
        self.test_button.clicked.connect(self.test)
        self.box.currentIndexChanged.connect(self._on_index)
        self._fill({}, "")
        self.refresh(settings.recall(_SETTING, ""))

    @property
    def name(self) -> str:
        """Name of the chosen archive; "" without one."""
        return str(self.box.currentData() or "")

    @property
    def archive(self) -> SavedArchive | None:
        """The chosen archive."""
        return self.archives.get(self.name)

    def refresh(self, chosen: str = "") -> None:
        """Read the saved archives, and choose one."""
        task = self._tasks.start(saved_steps)
        task.returned.connect(partial(self._fill, chosen=chosen))
        task.failed.connect(partial(self._on_failed, doing="Reading the list of archives"))

    def _fill(self, archives: dict[str, SavedArchive], chosen: str) -> None:
        self.archives = archives
        self.box.blockSignals(True)
        self.box.clear()
        for name in archives:
            self.box.addItem(name, name)
        if not archives:
            self.box.addItem("No archive is saved", "")
        select_data(self.box, chosen)
        self.box.blockSignals(False)
        self._on_index()

    def _on_index(self, *_: object) -> None:
        known = self.archive
        if known is not None:
            settings.remember(_SETTING, self.name)
        where = "" if known is None else f"\n{destination(known)}"
        self.box.setToolTip(f"{tooltip('archive.archive')}{where}")
        self.box.setEnabled(known is not None)
        for one in (self.edit_button, self.remove_button, self.test_button):
            one.setEnabled(known is not None)
        self.changed.emit()

    # ------------------------------------------------------------------ actions

    def edit(self, name: str) -> None:
        """Open the dialog of an archive; "" for a new one."""
        self.dialog = EditArchiveDialog(self.window(), name, self.archives.get(name))
        self.dialog.saved.connect(self.refresh)
        self.dialog.finished.connect(self._on_closed)
        self.dialog.open()

    def _on_closed(self, *_: object) -> None:
        self.dialog = None

    def remove(self) -> None:
        """Forget the chosen archive, after asking."""
        name = self.name
        text = f"Forget the archive '{name}' and its password or token? Nothing in it is changed."
        if name and confirmed(self, "Remove archive", text):
            task = self._tasks.start(partial(removing_steps, name=name))
            task.returned.connect(lambda _: self.refresh())
            task.failed.connect(partial(self._on_failed, doing="Removing the archive"))

    def test(self) -> None:
        """Check that the chosen archive answers."""
        name = self.name
        if not name:
            return
        self.test_button.setEnabled(False)
        self.message.emit(f"Asking {name}...")
        task = self._tasks.start(partial(echo_steps, place=name))
        task.returned.connect(lambda _: self.message.emit(f"{name} answers."))
        task.failed.connect(partial(self._on_failed, doing="Asking the archive"))
        task.finished.connect(lambda: self.test_button.setEnabled(self.archive is not None))

    def _on_failed(self, error: SpatialARError, doing: str) -> None:
        log(error, doing)
        self.message.emit(sentence(error, doing))
