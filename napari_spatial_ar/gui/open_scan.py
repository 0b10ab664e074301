"""From a drop, a dialog or a row of the worklist to scan layers, by way of a worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Image
from napari.settings import get_settings
from napari.utils.notifications import show_info
from qtpy.QtCore import QMimeData, QObject, QSize, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialogButtonBox,
    QFileDialog,
    QHeaderView,
    QMenu,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE, thumbnail
from napari_spatial_ar.errors import InputError, printable
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.archive.find_dialog import FindDialog, has_extra
from napari_spatial_ar.gui.display_windows import Drawn, opening_window
from napari_spatial_ar.gui.jobs import Task, TaskHost, Work, report, warn
from napari_spatial_ar.gui.layers import add_scan
from napari_spatial_ar.gui.widgets.choosing import choose_folder
from napari_spatial_ar.gui.widgets.forms import Dialog, Note, button, icon, row, square
from napari_spatial_ar.gui.widgets.tooltips import as_tooltip, tooltip
from napari_spatial_ar.imaging.gather import left_out
from napari_spatial_ar.imaging.reading import Found, find_scans
from napari_spatial_ar.imaging.scan import Scan, is_large

if TYPE_CHECKING:
    from napari.components import ViewerModel


__all__ = [
    "LOOKING",
    "Loaded",
    "ScanOpener",
    "SeriesChooser",
    "Warned",
    "ask_for_scan",
    "become_default_reader",
    "columns",
    "dropped_paths",
    "find_steps",
    "has_several",
    "notes",
    "read_steps",
    "ticked_at_first",
]

_MODALITIES = {"mri": "MRI", "ct": "CT", "oct": "OCT", "other": "other", "unknown": ""}


# More scans than this are not opened by default.
_MANY = 4


def columns(scan: Scan) -> tuple[str, ...]:
    """Label, description, modality, plane, size, spacing, peculiarities."""
    geometry = scan.geometry
    return (
        scan.series.label,
        printable(scan.series.description or _file_name(scan)),
        _MODALITIES[scan.modality],
        geometry.plane if geometry.spacing_known else "",
        " x ".join(str(n) for n in _columns_rows_slices(scan, geometry.display_shape)),
        _spacing(scan),
        ", ".join(_special(scan)),
    )


def _file_name(scan: Scan) -> str:
    """Name of the file, or of the folder of images, known to the user: for the screen only."""
    if not scan.series.files:
        return ""
    first = scan.series.files[0]
    return first.name if len(scan.series.files) == 1 else first.parent.name


def _columns_rows_slices(scan: Scan, sizes: Sequence[float]) -> list[float]:
    across = scan.geometry.display_slice_axis
    rows, width = (size for axis, size in enumerate(sizes) if axis != across)
    return [width, rows, sizes[across]]


def _spacing(scan: Scan) -> str:
    geometry = scan.geometry
    if not geometry.spacing_known:
        return "unknown"
    steps = [f"{step:.3g}" for step in _columns_rows_slices(scan, geometry.display_spacing)]
    if not geometry.regular:
        return f"{steps[0]} x {steps[1]} mm in plane"
    return " x ".join(steps) + " mm"


def _special(scan: Scan) -> list[str]:
    found: list[str] = [scan.role] if scan.role != "original" else []
    if not scan.geometry.regular:
        found.append("geometry not regular")
    if scan.warnings:
        found.append("1 warning" if len(scan.warnings) == 1 else f"{len(scan.warnings)} warnings")
    return found


def notes(scan: Scan) -> tuple[str, ...]:
    """Everything the user should know before opening a scan, a sentence each."""
    found = list(scan.warnings)
    if scan.role == "localizer":
        found.insert(0, "A scout image for planning.")
    elif scan.role == "derived":
        found.insert(0, "Computed from other images, not acquired.")
    return tuple(found)


def ticked_at_first(scans: Sequence[Scan]) -> list[bool]:
    """Choose the scans that are opened if the user changes nothing.

    All originals; if there are many, the first of each run (time points, b-values), and if there
    are many runs, the first scan.
    """
    originals = [index for index, scan in enumerate(scans) if scan.role == "original"]
    wanted = originals or [0]
    if len(wanted) > _MANY:
        first_of: dict[Hashable, int] = {}
        for index in wanted:
            first_of.setdefault(_run(scans[index]), index)
        wanted = list(first_of.values())
    if len(wanted) > _MANY:
        wanted = wanted[:1]
    return [index in wanted for index in range(len(scans))]


def _run(scan: Scan) -> Hashable:
    """Return what the scans of one run have in common: their series, or their files."""
    return scan.series.uid or scan.series.files or id(scan)


#: Shown while searching.
LOOKING = "Searching for scans..."


@dataclass(frozen=True)
class Loaded:
    """A scan that can be shown.

    Parameters
    ----------
    volume : Scan
        The scan; for a large one, only what the display window needs has been read.
    drawn : Drawn
        Its display window.
    """

    volume: Scan
    drawn: Drawn


@dataclass(frozen=True)
class Warned:
    """A sentence for the user."""

    text: str


#: What `read_steps` yields.
ReadStep = str | Loaded | Warned


def find_steps(stop: threading.Event, paths: Sequence[str]) -> Generator[str, None, Found]:
    """Find scans by their headers.

    Raises
    ------
    InputError
        As for `find_scans`.
    """
    yield LOOKING
    return find_scans(list(paths))


def read_steps(
    stop: threading.Event, scans: Sequence[Scan], errors: Sequence[InputError] = ()
) -> Generator[ReadStep, None, None]:
    """Read scans: yields a line for the user before each, and `Loaded` after it.

    Unreadable scans are skipped, and a `Warned` at the end reports them; ``errors`` are those
    found earlier.

    Raises
    ------
    InputError
        The first error, if no scan could be read.
    """
    lazy = True if is_large(sum(scan.size for scan in scans)) else None
    failed: list[InputError] = []
    for number, scan in enumerate(scans, start=1):
        if stop.is_set():
            return
        yield f"Reading {number} of {len(scans)}..." if len(scans) > 1 else "Reading..."
        try:
            volume = scan.read(lazy=lazy)
            drawn = opening_window(volume)
        except InputError as error:
            failed.append(error)
            continue
        if not stop.is_set():
            yield Loaded(volume, drawn)
    if failed and len(failed) == len(scans):
        raise failed[0]
    for sentence in left_out([*errors, *failed]):
        yield Warned(sentence)


#: Row of a scan and its picture, (rows, columns) uint8; None where it cannot be read.
Thumbnail = tuple[int, npt.NDArray[np.uint8] | None]


_HEADINGS = ("Scan", "Description", "Modality", "Plane", "Size", "Spacing", "Note")


def has_several(found: Found) -> bool:
    """Whether there is more than one scan to choose from."""
    return len(found.scans) > 1


class SeriesChooser(Dialog):
    """Lists scans with a thumbnail of each; `chosen` returns the ticked ones.

    Parameters
    ----------
    found : Found
        The scans.
    parent : QWidget, optional
        The parent window.
    worklist : bool
        Offer to open all of them as a worklist, see `as_worklist`.
    """

    def __init__(self, found: Found, parent: QWidget | None = None, *, worklist: bool = False):
        super().__init__(parent)
        self.setWindowTitle("Choose scans to open")
        self._scans = found.scans
        self._alone: Scan | None = None
        #: Whether the user chose to open all scans as a worklist.
        self.as_worklist = False
        self._tasks = TaskHost(self)
        self.table = self._table()
        self.all_button = button("All", tooltip("chooser.all"))
        self.none_button = button("None", tooltip("chooser.none"))
        self.count = Note(strong=True)
        self.errors = Note(_sentence(found.errors))
        self.errors.setToolTip(as_tooltip("\n".join(str(error) for error in found.errors)))
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel
        )
        self.open_button = self.buttons.button(QDialogButtonBox.StandardButton.Open)
        self.open_button.setDefault(True)
        self.worklist_button = self.buttons.addButton(
            "Worklist of all", QDialogButtonBox.ButtonRole.ActionRole
        )
        self.worklist_button.setToolTip(tooltip("chooser.worklist_of_all"))
        self.worklist_button.setVisible(worklist)
        for other in (self.all_button, self.none_button, self.worklist_button):
            other.setAutoDefault(False)
        layout = QVBoxLayout(self)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.errors)
        below = row(self.all_button, self.none_button)
        below.addWidget(self.count, 1)
        below.addWidget(self.buttons)
        layout.addLayout(below)
        self._connect()
        self._recall_size()
        self.table.setFocus()
        self._show_thumbnails()

    def _table(self) -> QTreeWidget:
        table = QTreeWidget()
        table.setColumnCount(len(_HEADINGS))
        table.setHeaderLabels(list(_HEADINGS))
        table.setRootIsDecorated(False)
        table.setAllColumnsShowFocus(True)
        table.setUniformRowHeights(True)
        table.setIconSize(QSize(THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setAccessibleName("Scans")
        table.setToolTip(tooltip("chooser.table"))
        placeholder = icon(square())
        for scan, tick in zip(self._scans, ticked_at_first(self._scans), strict=True):
            item = QTreeWidgetItem(table, list(columns(scan)))
            item.setCheckState(0, Qt.CheckState.Checked if tick else Qt.CheckState.Unchecked)
            item.setIcon(0, placeholder)
            tip = "\n".join(notes(scan))
            for column in range(len(_HEADINGS)):
                item.setToolTip(column, tip)
        table.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        table.setCurrentItem(table.topLevelItem(0))
        return table

    def _connect(self) -> None:
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.worklist_button.clicked.connect(self._on_worklist)
        self.all_button.clicked.connect(lambda: self._tick(Qt.CheckState.Checked))
        self.none_button.clicked.connect(lambda: self._tick(Qt.CheckState.Unchecked))
        self.table.itemChanged.connect(self._on_changed)
        self.table.itemDoubleClicked.connect(self._open_alone)
        self._on_changed()

    @property
    def chosen(self) -> list[Scan]:
        """Scans that are ticked, or the one that was double-clicked."""
        if self._alone is not None:
            return [self._alone]
        return [scan for scan, item in zip(self._scans, self._items(), strict=True) if _on(item)]

    def _items(self) -> list[QTreeWidgetItem]:
        return [self.table.topLevelItem(i) for i in range(self.table.topLevelItemCount())]

    def _tick(self, state: Qt.CheckState) -> None:
        for item in self._items():
            item.setCheckState(0, state)

    def _on_changed(self, item: QTreeWidgetItem | None = None, column: int = 0) -> None:
        count = len(self.chosen)
        self.open_button.setEnabled(count > 0)
        self.count.set_text(f"{count} of {len(self._scans)} scans")

    def _on_worklist(self) -> None:
        self.as_worklist = True
        self.accept()

    def _open_alone(self, item: QTreeWidgetItem, column: int = 0) -> None:
        self._alone = self._scans[self.table.indexOfTopLevelItem(item)]
        self.accept()

    def done(self, result: int) -> None:
        """Close, stop drawing thumbnails and store the size."""
        self._tasks.stop_all()
        settings.remember("chooser_size", f"{self.width()}x{self.height()}")
        super().done(result)

    def _recall_size(self) -> None:
        width, _, height = settings.recall("chooser_size", "").partition("x")
        if width.isdecimal() and height.isdecimal():
            self.resize(int(width), int(height))
        else:
            self.resize(1120, 560)

    # ------------------------------------------------------------------ pictures

    def _show_thumbnails(self) -> None:
        scans = self._scans

        def work(stop: threading.Event) -> Generator[Thumbnail, None, None]:
            for index, scan in enumerate(scans):
                if stop.is_set():
                    return
                try:
                    yield index, thumbnail(scan)
                except InputError:
                    yield index, None

        self._tasks.start(work).progressed.connect(self._take_thumbnail)

    def _take_thumbnail(self, made: Thumbnail) -> None:
        index, picture = made
        item = self.table.topLevelItem(index)
        if item is None:
            return
        if picture is None:
            # Notes, unlike tooltips, end with a full stop.
            tip = f"{item.toolTip(0)}\n{tooltip('chooser.table.unreadable')}."
            item.setToolTip(0, tip.strip())
            return
        item.setIcon(0, icon(square(picture)))
        item.setData(0, Qt.ItemDataRole.UserRole, True)


def _on(item: QTreeWidgetItem) -> bool:
    return bool(item.checkState(0) == Qt.CheckState.Checked)


def _sentence(errors: Sequence[InputError]) -> str:
    if not errors:
        return ""
    count = "1 input" if len(errors) == 1 else f"{len(errors)} inputs"
    return f"{count} cannot be opened; the reason (of the first): {errors[0]}"


_FILTER = (
    "Scans (*.nii *.nii.gz *.dcm *.ima DICOMDIR *.nrrd *.nhdr *.mha *.mhd *.vol *.e2e *.fda *.fds "
    "*.img *.png *.jpg *.jpeg *.tif *.tiff *.bmp);;All files (*)"
)


# The types for which napari asks when such a file is dropped on its canvas.
_DEFAULT_FOR = ("*.nii", "*.nii.gz", "*.dcm")


def dropped_paths(mime: QMimeData) -> list[str]:
    """Local files and folders of a drop."""
    return [url.toLocalFile() for url in mime.urls() if url.isLocalFile()]


def ask_for_scan(parent: QWidget, folder: bool) -> list[str]:
    """Paths chosen in a dialog, for files or for one folder; empty if it was cancelled."""
    if folder:
        chosen = choose_folder(parent, "Open a folder of scans", "open")
        return [chosen] if chosen else []
    start = settings.last_folder("open")
    paths, _ = QFileDialog.getOpenFileNames(parent, "Open scans", start, _FILTER)
    return list(paths)


def become_default_reader() -> None:
    """Let napari open dropped NIfTI and DICOM files with this plugin without asking."""
    plugins = get_settings().plugins
    plugins.extension2reader = {
        **plugins.extension2reader,
        **dict.fromkeys(_DEFAULT_FOR, "napari-spatial-ar"),
    }
    show_info(
        "napari now opens NIfTI and DICOM files with Spatial AR. "
        "To undo this: Preferences > Plugins."
    )


class ScanOpener(QObject):
    """Finds scans in a worker, asks which to open if there are several, and adds layers."""

    #: A line about the current step.
    message = Signal(str)
    #: Work that can be cancelled began (True) or ended (False).
    busy = Signal(bool)
    #: The first layer was added; others may follow.
    began = Signal(object)
    #: list of the added layers; empty if nothing was opened.
    opened = Signal(object)
    #: list of paths, `Found`: the user chose to open all scans as a worklist.
    listed = Signal(object, object)
    #: `ArchiveQuery`: the user chose to open all scans that it finds as a worklist.
    queried = Signal(object)

    def __init__(self, viewer: ViewerModel, tasks: TaskHost, parent: QWidget):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks
        self._parent = parent
        self._task: Task | None = None
        self._layers: list[Image] = []
        self._paths: list[str] = []
        self._reported: set[str] = set()
        #: The open dialog, if any.
        self.chooser: SeriesChooser | None = None
        #: The open dialog of archives, if any.
        self.archive: FindDialog | None = None

    def menu(self, parent: QWidget) -> QMenu:
        """Menu with the dialogs, and the offer to always open such files with this plugin."""
        menu = QMenu(parent)
        menu.addAction("Files...", lambda: self.open(ask_for_scan(parent, folder=False)))
        menu.addAction("Folder...", lambda: self.open(ask_for_scan(parent, folder=True)))
        menu.addAction("From archive...", lambda: self.ask_archive(parent.window()))
        menu.addSeparator()
        menu.addAction("Always open NIfTI and DICOM files with this plugin", become_default_reader)
        return menu

    def ask_archive(self, parent: QWidget) -> None:
        """Open scans of an archive, after asking which."""
        if self.archive is not None or self._task is not None or not has_extra():
            return
        self.archive = FindDialog(parent)
        self.archive.retrieved.connect(partial(self.open, remember=False))
        self.archive.queried.connect(self.queried)
        self.archive.finished.connect(self._on_archive_closed)
        self.archive.open()

    def _on_archive_closed(self, *_: object) -> None:
        self.archive = None

    def open(self, paths: Sequence[str], *, remember: bool = True) -> None:
        """Open scans in files or folders, after asking which if there is more than one.

        With ``remember``, the next dialog begins in their folder.
        """
        if not paths or self._task is not None or self.chooser is not None:
            return
        first = Path(paths[0])
        if remember:
            settings.remember_folder("open", first if os.path.isdir(first) else first.parent)
        self._paths = list(paths)
        self.message.emit(LOOKING)
        task = self._run(lambda stop: find_steps(stop, paths))
        task.returned.connect(lambda found: self._ask(task, found))

    def cancel(self) -> None:
        """Stop searching or reading; scans read so far stay open."""
        if self._task is not None:
            task, self._task = self._task, None
            task.stop()
            self._end("" if self._layers else "Cancelled.")

    def _run(self, work: Work) -> Task:
        self._layers = []
        task = self._tasks.start(work)
        task.progressed.connect(lambda step: self._take(task, step))
        task.failed.connect(lambda error: self._fail(task, error))
        self._task = task
        self.busy.emit(True)
        return task

    def _fail(self, task: Task, error: Exception) -> None:
        if task is self._task:
            self._task = None
            report(error, "Opening the scan")
            self._end("Nothing was opened.")

    def _end(self, note: str) -> None:
        self.busy.emit(False)
        self.message.emit(note)
        self.opened.emit(self._layers)

    def _ask(self, task: Task, found: Found) -> None:
        if task is not self._task:
            return
        self._task = None
        if not has_several(found):
            self._read(found.scans, found.errors)
            return
        self.busy.emit(False)
        self.message.emit(f"{len(found.scans)} scans found.")
        self.chooser = SeriesChooser(found, self._parent.window(), worklist=True)
        self.chooser.finished.connect(partial(self._on_chosen, found))
        self.chooser.open()

    def _on_chosen(self, found: Found, result: int) -> None:
        chooser, self.chooser = self.chooser, None
        assert chooser is not None
        as_worklist = bool(result) and chooser.as_worklist
        chosen = chooser.chosen if result and not as_worklist else []
        chooser.deleteLater()
        self._layers = []
        if chosen:
            self._read(chosen)
        elif as_worklist:
            self._end("")
            self.listed.emit(self._paths, found)
        else:
            self._end("Nothing was opened.")

    def _read(self, scans: Sequence[Scan], errors: Sequence[InputError] = ()) -> None:
        self._reported = set()
        task = self._run(lambda stop: read_steps(stop, scans, errors))
        task.returned.connect(lambda _: self._on_read(task))

    def _on_read(self, task: Task) -> None:
        if task is self._task:
            self._task = None
            self._end("")

    def _take(self, task: Task, step: ReadStep) -> None:
        if task is not self._task:
            return
        if isinstance(step, Loaded):
            self._add(step)
        elif isinstance(step, Warned):
            warn(step.text)
        else:
            self.message.emit(step)

    def _add(self, loaded: Loaded) -> None:
        for text in loaded.volume.warnings:
            # The stacks of a series share most of their warnings.
            if text not in self._reported:
                warn(text)
            self._reported.add(text)
        layer = add_scan(self._viewer, loaded.volume, loaded.drawn, visible=False)
        self._layers.append(layer)
        if len(self._layers) == 1:
            self.began.emit(layer)
