"""Which of the scans in a folder to open."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialogButtonBox,
    QHeaderView,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE, thumbnail
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.scan_text import columns, notes, ticked_at_first
from napari_spatial_ar.gui.widgets.forms import Dialog, Note, button, row
from napari_spatial_ar.gui.widgets.icons import icon, square
from napari_spatial_ar.gui.widgets.tooltips import as_tooltip, tooltip
from napari_spatial_ar.imaging.reading import Found
from napari_spatial_ar.imaging.scan import Scan

__all__ = ["SeriesChooser", "worth_asking"]

_HEADINGS = ("Scan", "Description", "Modality", "Plane", "Size", "Spacing", "Note")


def worth_asking(found: Found) -> bool:
    """Whether there is more than one scan to choose from."""
    return len(found.scans) > 1


class SeriesChooser(Dialog):
    """Lists scans with a picture of each; `chosen` tells which are wanted.

    Parameters
    ----------
    found : Found
        What there is.
    parent : QWidget, optional
        The window it belongs to.
    worklist : bool
        Offer to go through all of them as a worklist, see `as_worklist`.
    """

    def __init__(self, found: Found, parent: QWidget | None = None, *, worklist: bool = False):
        super().__init__(parent)
        self.setWindowTitle("Choose scans to open")
        self._scans = found.scans
        self._alone: Scan | None = None
        #: Whether all scans are wanted, as a worklist.
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

    def _on_changed(self, item: Any = None, column: int = 0) -> None:
        count = len(self.chosen)
        self.open_button.setEnabled(count > 0)
        self.count.say(f"{count} of {len(self._scans)} scans")

    def _on_worklist(self) -> None:
        self.as_worklist = True
        self.accept()

    def _open_alone(self, item: QTreeWidgetItem, column: int = 0) -> None:
        self._alone = self._scans[self.table.indexOfTopLevelItem(item)]
        self.accept()

    def done(self, result: int) -> None:
        """Close, stop drawing pictures and remember the size."""
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

        def work(stop: threading.Event) -> Generator[Any, None, None]:
            for index, scan in enumerate(scans):
                if stop.is_set():
                    return
                try:
                    yield index, thumbnail(scan)
                except InputError:
                    yield index, None

        self._tasks.start(work).progressed.connect(self._take_thumbnail)

    def _take_thumbnail(self, made: Any) -> None:
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
