"""The Normal scans section: folders, their contents, and which series are used."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Generator, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QGridLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QProgressBar,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.datasets.summary import DataSummary, kind_of
from napari_spatial_ar.datasets.survey import REASONS, survey
from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.jobs import Task, TaskHost, sentence
from napari_spatial_ar.gui.widgets.choosing import choose_folder
from napari_spatial_ar.gui.widgets.forms import Dialog, Note, button, icon, row, section, square
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.steps import run_until_stopped

if TYPE_CHECKING:
    from napari_spatial_ar.datasets.survey import SurveyProgress


__all__ = ["ContactSheet", "FolderPanel", "SeriesTicks", "survey_steps"]

_HEADINGS = ("Series", "Patient", "Kind", "Slices", "Excluded")


class SeriesTicks(Dialog):
    """Lists series with a thumbnail of each; those not ticked are excluded.

    Parameters
    ----------
    summary : DataSummary
        The survey, with the series excluded so far.
    parent : QWidget, optional
        The parent window.
    """

    def __init__(self, summary: DataSummary, parent: QWidget | None = None):
        super().__init__(parent)
        self.setWindowTitle("Choose series to learn from")
        self.resize(1000, 560)
        self._summary = summary
        self._items: dict[str, QTreeWidgetItem] = {}
        self.table = self._table()
        self.all_button = button("All", tooltip("series.all"))
        self.none_button = button("None", tooltip("series.none"))
        usual = summary.usual_plane
        self.plane_button = button(f"Only {usual}", tooltip("series.only_one_plane", plane=usual))
        planes = {one.plane for one in summary.survey.series if one.refs and one.plane}
        self.plane_button.setVisible(len(planes) > 1)
        self.count = Note(strong=True)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        layout = QVBoxLayout(self)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.count)
        below = row(self.all_button, self.none_button, self.plane_button)
        below.addStretch(1)
        below.addWidget(self.buttons)
        layout.addLayout(below)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.all_button.clicked.connect(lambda: self._tick(Qt.CheckState.Checked))
        self.none_button.clicked.connect(lambda: self._tick(Qt.CheckState.Unchecked))
        self.plane_button.clicked.connect(self._untick_other_planes)
        self.table.itemChanged.connect(self._on_changed)
        self._on_changed()

    def _table(self) -> QTreeWidget:
        table = QTreeWidget()
        table.setHeaderLabels(list(_HEADINGS))
        table.setRootIsDecorated(False)
        table.setUniformRowHeights(True)
        table.setIconSize(QSize(THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        table.setAccessibleName("Series")
        table.setToolTip(tooltip("series.table"))
        for series in self._summary.survey.series:
            reasons = [f"{count}: {REASONS[reason]}" for reason, count in series.left_out.items()]
            texts = (series.label, series.patient, kind_of(series), str(len(series.refs)))
            item = QTreeWidgetItem(table, [*texts, "; ".join(reasons)])
            item.setToolTip(len(texts), "\n".join(reasons))
            item.setIcon(0, icon(square(series.picture)))
            item.setDisabled(not series.refs)
            if series.refs:
                ticked = series.key not in self._summary.excluded
                item.setCheckState(0, Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
                self._items[series.key] = item
        table.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        return table

    @property
    def excluded(self) -> frozenset[str]:
        """Keys of the series that are not ticked."""
        return frozenset(
            key
            for key, item in self._items.items()
            if item.checkState(0) == Qt.CheckState.Unchecked
        )

    def _tick(self, state: Qt.CheckState) -> None:
        self.table.blockSignals(True)
        for item in self._items.values():
            item.setCheckState(0, state)
        self.table.blockSignals(False)
        self.table.viewport().update()
        self._on_changed()

    def _untick_other_planes(self) -> None:
        usual = self._summary.usual_plane
        for one in self._summary.survey.series:
            if one.key in self._items and one.plane not in ("", usual):
                self._items[one.key].setCheckState(0, Qt.CheckState.Unchecked)

    def _on_changed(self, *_: object) -> None:
        left = self._summary.without(self.excluded)
        self.count.set_text(" ".join([left.lines()[0], left.promise()]).strip())
        self.buttons.button(QDialogButtonBox.StandardButton.Ok).setEnabled(bool(left.used))


_YIELD_SECONDS = 0.1


_OF_THE_SPLIT = ("seed", "valid_fraction", "calibration_fraction")


_COLUMNS, _ROWS = 4, 2


def survey_steps(
    stop: threading.Event, folders: Sequence[str], asked: dict[str, Any]
) -> Generator[SurveyProgress, None, DataSummary | None]:
    """Survey folders, yielding at most ten times a second; None if ``stop`` was set."""
    split = {key: asked.pop(key) for key in _OF_THE_SPLIT if key in asked}
    found = yield from run_until_stopped(stop, survey(folders, **asked))
    chosen = {"selection": asked["selection"]} if "selection" in asked else {}
    return None if found is None else DataSummary(found, **chosen, **split)


class ContactSheet(QWidget):
    """Thumbnails of some of the series, as the model sees them."""

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.setColumnStretch(_COLUMNS, 1)
        self.tiles = [QLabel() for _ in range(_COLUMNS * _ROWS)]
        for number, tile in enumerate(self.tiles):
            grid.addWidget(tile, number // _COLUMNS, number % _COLUMNS)
        self.show_series(None)

    def show_series(self, summary: DataSummary | None) -> None:
        """Show as many series as fit, spread over all that are used."""
        used = summary.used if summary is not None else ()
        count = min(len(used), len(self.tiles))
        for number, tile in enumerate(self.tiles):
            tile.setVisible(number < count)
            if number < count:
                series = used[number * len(used) // count]
                tile.setPixmap(square(series.picture))
                tile.setToolTip(
                    tooltip(
                        "normals.picture",
                        label=series.label,
                        kind=kind_of(series),
                        patient=series.patient,
                        slices=len(series.refs),
                    )
                )
        self.setVisible(count > 0)


class FolderPanel(QWidget):
    """Chooses folders, surveys them in a worker and shows the result."""

    #: The folders changed.
    changed = Signal()
    #: The folders are to be surveyed: the owner of the settings calls `start_survey`.
    survey_requested = Signal()
    #: The summary changed, or there is none any more.
    summarised = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._tasks = TaskHost(self)
        self._task: Task | None = None
        self.summary: DataSummary | None = None
        #: Keys of the excluded series; they are cleared with other folders.
        self.excluded: frozenset[str] = frozenset()
        self.folder = QLineEdit(settings.recall("training_folder", ""))
        self.folder.setAccessibleName("Folder of normal scans")
        self.folder.setPlaceholderText("Folders of normal scans")
        self.folder.setToolTip(tooltip("normals.folder"))
        self.choose_button = button("Choose...", tooltip("normals.choose"))
        self.survey_button = button("Check folders", tooltip("normals.check_folders"))
        self.series_button = button("Series...", tooltip("normals.series"))
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setToolTip(tooltip("normals.progress"))
        self.note = Note()
        self.sheet = ContactSheet()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            row(self.folder, self.choose_button),
            row(self.survey_button, self.series_button),
            self.bar,
            self.note,
            self.sheet,
        ]
        layout.addWidget(section("Normal scans", parts))
        self.choose_button.clicked.connect(self._choose)
        self.survey_button.clicked.connect(self._on_survey_button)
        self.series_button.clicked.connect(self.choose_series)
        self.folder.textChanged.connect(self._on_text)
        self.folder.returnPressed.connect(self.survey_requested)
        self._show()

    @property
    def folders(self) -> list[str]:
        """The folders, as entered."""
        return settings.folders_in(self.folder.text())

    @property
    def surveying(self) -> bool:
        """Whether folders are being surveyed."""
        return self._task is not None

    def set_folders(self, folders: Sequence[str], excluded: Collection[str] = ()) -> None:
        """Set other folders and excluded series, and request a survey."""
        self.folder.setText(settings.joined_folders(folders))
        self.excluded = frozenset(excluded)
        self.survey_requested.emit()

    def checked_folders(self) -> list[str]:
        """Return the folders, at least one, and store them.

        Raises
        ------
        InputError
            If there is none, or one does not exist.
        """
        if not self.folders:
            raise InputError("no folder of normal scans is chosen", fix="Choose one first")
        for folder in self.folders:
            if not os.path.isdir(folder):
                raise InputError("there is no such folder", path=folder, fix="Choose another one")
        settings.remember("training_folder", self.folder.text().strip())
        settings.remember_folder("training", self.folders[0])
        return self.folders

    def _choose(self) -> None:
        start = next(iter(self.folders), "")
        folder = choose_folder(self, "Folder of normal scans", "training", start=start)
        if folder:
            self.set_folders([folder])

    # ------------------------------------------------------------------ surveying

    def _on_text(self) -> None:
        self.stop()
        self.summary, self.excluded = None, frozenset()
        self.note.set_text("")
        self._show()
        self.changed.emit()

    def _on_survey_button(self) -> None:
        if self.surveying:
            self.stop()
            self.note.set_text("Stopped.")
        else:
            self.survey_requested.emit()

    def start_survey(self, asked: dict[str, Any]) -> None:
        """Survey the folders with a modality, a window and a seed.

        Raises
        ------
        InputError
            As for `checked_folders`.
        """
        self.stop()
        folders = self.checked_folders()
        self.summary = None
        self.bar.setRange(0, 0)
        self.note.set_text("Reading headers...")
        task = self._tasks.start(lambda stop: survey_steps(stop, folders, asked))
        task.progressed.connect(lambda step: self._on_step(task, step))
        task.returned.connect(lambda summary: self._on_summary(task, summary))
        task.failed.connect(lambda error: self._on_failed(task, error))
        self._task = task
        self._show()

    def survey_again(self) -> None:
        """Survey again if a relevant setting has changed."""
        if self.surveying or self.summary is not None:
            self.survey_requested.emit()

    def stop(self) -> None:
        """Stop the survey."""
        if self._task is not None:
            task, self._task = self._task, None
            task.stop()
            self._show()

    def _on_step(self, task: Task, step: SurveyProgress) -> None:
        if task is self._task:
            self.bar.setRange(0, step.total)
            self.bar.setValue(step.done)
            if step.total:
                self.note.set_text(f"Reading headers: {step.done} of {step.total}")

    def _on_summary(self, task: Task, summary: DataSummary | None) -> None:
        if task is self._task:
            self._task = None
            self.summary = None if summary is None else summary.without(self.excluded)
            self._show()

    def _on_failed(self, task: Task, error: Exception) -> None:
        if task is self._task:
            self._task = None
            self._show()
            self.note.set_text(sentence(error, "Reading the folder"))

    def _show(self) -> None:
        self.survey_button.setText("Stop" if self.surveying else "Check folders")
        self.bar.setVisible(self.surveying)
        self.series_button.setEnabled(self.summary is not None)
        self.sheet.show_series(self.summary)
        if self.summary is not None:
            self.note.set_text("\n".join(self.summary.lines()))
        self.summarised.emit()

    # ------------------------------------------------------------------ slices and series

    def choose(self, selection: Selection, calibration_fraction: float) -> None:
        """Select other slices of those found; survey again if that is in progress."""
        if self.surveying:
            self.survey_again()
        elif self.summary is not None:
            self.summary = self.summary.choosing(selection, calibration_fraction)
            self._show()

    def exclude(self, keys: frozenset[str]) -> None:
        """Exclude these series, and no others."""
        self.excluded = keys
        if self.summary is None:
            self.note.set_text(f"Scans you excluded: {len(keys)}.")
        else:
            self.summary = self.summary.without(keys)
            self._show()

    def _on_chosen(self) -> None:
        self.exclude(self.dialog.excluded)

    def choose_series(self) -> None:
        """Ask which series to learn from."""
        if self.summary is None:
            return
        self.dialog = SeriesTicks(self.summary, self.window())
        self.dialog.accepted.connect(self._on_chosen)
        self.dialog.finished.connect(self.dialog.deleteLater)
        self.dialog.open()
