"""Finding studies and series in an archive, to open them or to make a worklist of a query.

What an archive answers is shown and forgotten with the dialog: only the archive chosen last and the
size of the window are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from qtpy.QtCore import QSize, Qt, QTimer, Signal
from qtpy.QtGui import QPainter, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDialogButtonBox,
    QGridLayout,
    QLabel,
    QLineEdit,
    QSplitter,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.archive.entries import SeriesEntry, StudyEntry
from napari_spatial_ar.archive.interface import Found
from napari_spatial_ar.archive.opening import check_extra
from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE
from napari_spatial_ar.errors import Cancelled, InputError, printable
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.archive.asking import (
    ArchiveQuery,
    emptying_steps,
    find_steps,
    get_steps,
    picture_steps,
    series_steps,
)
from napari_spatial_ar.gui.archive.choice import ArchiveChoice
from napari_spatial_ar.gui.jobs import Task, TaskHost, Work, log, report, sentence
from napari_spatial_ar.gui.widgets.choosing import confirmed
from napari_spatial_ar.gui.widgets.forms import (
    Dialog,
    Note,
    button,
    coloured,
    combo,
    icon,
    research_line,
    row,
    square,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["FindDialog", "QueryForm", "has_extra"]

_SIZE = "archive_size"
_DATES = ("Any date", "Today", "Yesterday", "Last 7 days", "Last 30 days")
_MODALITIES = ("Any", "MR", "CT", "OPT", "PT", "US")
_STUDY_COLUMNS = (
    *("Date", "Patient", "ID", "Accession", "Description"),
    *("Modalities", "Series", "Images"),
)
_SERIES_COLUMNS = ("Series", "Modality", "Description", "Body part", "Images")
# A study is asked about once the keys that go through the list rest for so long.
_REST_MS = 200
_DATA = Qt.ItemDataRole.UserRole


def has_extra() -> bool:
    """Whether archives can be asked; if not, say what to install."""
    try:
        check_extra()
    except InputError as error:
        report(error, "Opening archives")
        return False
    return True


class QueryForm(QWidget):
    """Fields of a query."""

    #: Enter was pressed in a field.
    submitted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.patient_id = self._text_field(tooltip("archive.patient_id"))
        self.patient_name = self._text_field(tooltip("archive.patient_name"))
        self.accession = self._text_field(tooltip("archive.accession"))
        self.date = self._pick_or_type(tooltip("archive.date"), _DATES)
        self.modality = self._pick_or_type(tooltip("archive.modality"), _MODALITIES)
        self.find_button = button("Find", tooltip("archive.find"))
        self.find_button.setDefault(True)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        named = [
            ("Patient ID", self.patient_id),
            ("Patient name", self.patient_name),
            ("Accession", self.accession),
            ("Study date", self.date),
            ("Modality", self.modality),
        ]
        for at, (text, field) in enumerate(named):
            label = QLabel(text)
            label.setToolTip(field.toolTip())
            field.setAccessibleName(text)
            grid.addWidget(label, 0, at)
            grid.addWidget(field, 1, at)
            grid.setColumnStretch(at, 1)
        grid.addWidget(self.find_button, 1, len(named))
        self.find_button.clicked.connect(self.submitted)

    @staticmethod
    def _text_field(tip: str) -> QLineEdit:
        made = QLineEdit()
        made.setToolTip(tip)
        made.setMaxLength(64)
        return made

    @staticmethod
    def _pick_or_type(tip: str, items: Sequence[str]) -> QComboBox:
        made = combo(tip)
        made.addItems(list(items))
        made.setEditable(True)
        made.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        return made

    def texts(self) -> dict[str, str]:
        """Return what was typed, as arguments of `StudyQuery.of`."""
        name = self.patient_name.text().strip()
        if name and not any(wild in name for wild in "*?"):
            # Nobody types a whole name as DICOM writes it.
            name = "^".join(part.strip() for part in name.split(",")) + "*"
        date, modality = self.date.currentText().strip(), self.modality.currentText().strip()
        return {
            "patient_id": self.patient_id.text(),
            "name": name,
            "accession": self.accession.text(),
            "date": "" if date == _DATES[0] else date,
            "modality": "" if modality == _MODALITIES[0] else modality,
        }


class FindDialog(Dialog):
    """Finds studies and series in an archive, and retrieves those chosen."""

    #: list of str: folders of series that were retrieved.
    retrieved = Signal(object)
    #: `ArchiveQuery`: the user chose a worklist of all that it finds.
    queried = Signal(object)

    def __init__(self, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("Open from archive")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.tasks = TaskHost(self)
        self.choice = ArchiveChoice(self.tasks)
        self.form = QueryForm()
        self.studies = self._table(_STUDY_COLUMNS, "Studies", tooltip("archive.studies"))
        self.series = self._table(_SERIES_COLUMNS, "Series", tooltip("archive.series"))
        self.series.setIconSize(QSize(THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        self.series.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.note = Note(strong=True)
        self.cancel_button = button("Cancel", tooltip("archive.cancel"))
        self.empty_button = button("Empty cache...", tooltip("archive.empty_cache"))
        self.worklist_button = button("Worklist of all", tooltip("archive.worklist_of_all"))
        self._query: ArchiveQuery | None = None
        self._search: Task | None = None
        self._listing: Task | None = None
        self._pictures: Task | None = None
        self._retrieval: Task | None = None
        self._known: dict[tuple[str, str], QPixmap] = {}
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_REST_MS)
        self._lay_out()
        self._connect()
        self._recall_size()
        self.form.patient_id.setFocus()
        self._enable()

    @staticmethod
    def _table(headings: Sequence[str], name: str, tip: str) -> QTreeWidget:
        table = QTreeWidget()
        table.setColumnCount(len(headings))
        table.setHeaderLabels(list(headings))
        table.setRootIsDecorated(False)
        table.setAllColumnsShowFocus(True)
        table.setUniformRowHeights(True)
        table.setAccessibleName(name)
        table.setToolTip(tip)
        return table

    def _lay_out(self) -> None:
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Close
        )
        self.open_button = self.buttons.button(QDialogButtonBox.StandardButton.Open)
        self.open_button.setToolTip(tooltip("archive.open"))
        self.buttons.addButton(self.worklist_button, QDialogButtonBox.ButtonRole.ActionRole)
        self.cancel_button.hide()
        for one in (self.cancel_button, self.empty_button, *self.buttons.buttons()):
            one.setAutoDefault(False)
        split = QSplitter(Qt.Orientation.Vertical)
        split.addWidget(self.studies)
        split.addWidget(self.series)
        split.setChildrenCollapsible(False)
        layout = QVBoxLayout(self)
        layout.addWidget(self.choice)
        layout.addWidget(self.form)
        layout.addWidget(split, 1)
        line = row(self.note, self.cancel_button)
        line.setStretch(0, 1)
        layout.addLayout(line)
        below = row(self.empty_button)
        below.addStretch(1)
        below.addWidget(self.buttons)
        layout.addLayout(below)
        layout.addWidget(research_line())

    def _connect(self) -> None:
        self.choice.message.connect(self.note.set_text)
        self.choice.changed.connect(self._on_archive)
        self.form.submitted.connect(self.find)
        self.studies.currentItemChanged.connect(self._on_study)
        self.studies.itemActivated.connect(lambda *_: self.series.setFocus())
        self.series.itemSelectionChanged.connect(self._enable)
        self.series.itemActivated.connect(self.open_chosen)
        self._later.timeout.connect(self._list_series)
        self.cancel_button.clicked.connect(self.cancel)
        self.empty_button.clicked.connect(self.empty_cache)
        self.worklist_button.clicked.connect(self.make_worklist)
        self.buttons.accepted.connect(self.open_chosen)
        self.buttons.rejected.connect(self.reject)

    def _recall_size(self) -> None:
        width, _, height = settings.recall(_SIZE, "").partition("x")
        if width.isdecimal() and height.isdecimal():
            self.resize(int(width), int(height))
        else:
            self.resize(1080, 640)

    def done(self, result: int) -> None:
        """Close, stop all requests and store the size."""
        self._later.stop()
        self.tasks.stop_all()
        settings.remember(_SIZE, f"{self.width()}x{self.height()}")
        super().done(result)

    # ------------------------------------------------------------------ state

    @property
    def busy(self) -> bool:
        """Whether studies are searched or series retrieved."""
        return self._search is not None or self._retrieval is not None

    @property
    def chosen(self) -> list[SeriesEntry]:
        """Series that are selected."""
        items = [self.series.topLevelItem(n) for n in range(self.series.topLevelItemCount())]
        return [item.data(0, _DATA) for item in items if item.isSelected()]

    def _enable(self, *_: object) -> None:
        known = bool(self.choice.name)
        self.form.find_button.setEnabled(known and not self.busy)
        self.choice.setEnabled(not self.busy)
        self.studies.setEnabled(self._retrieval is None)
        self.series.setEnabled(self._retrieval is None)
        self.open_button.setEnabled(bool(self.chosen) and not self.busy)
        self.worklist_button.setEnabled(known and not self.busy)
        self.empty_button.setEnabled(not self.busy)
        self.cancel_button.setVisible(self.busy)

    def _on_archive(self) -> None:
        self._clear()
        self._enable()
        if not self.choice.name:
            self.note.set_text("Add an archive first: its address is known to its administrator.")
        else:
            self.note.set_text("")

    def _clear(self) -> None:
        self._query = None
        self.studies.clear()
        self._clear_series()

    def _clear_series(self) -> None:
        self._later.stop()
        for task in (self._listing, self._pictures):
            if task is not None:
                task.stop()
        self._listing = self._pictures = None
        self.series.clear()

    def _start(self, work: Work, doing: str) -> Task:
        task = self.tasks.start(work)
        task.failed.connect(partial(self._on_failed, task, doing))
        return task

    def _on_failed(self, task: Task, doing: str, error: Exception) -> None:
        log(error, doing)
        if not task.stopped and not isinstance(error, Cancelled):
            self.note.set_text(sentence(error, doing))

    # ------------------------------------------------------------------ studies

    def find(self) -> None:
        """Ask for studies."""
        if self.busy or not self.choice.name:
            return
        query = self._asked()
        if query is None:
            return
        self._clear()
        self._query = query
        self.note.set_text(f"Asking {query.archive}...")
        task = self._start(partial(find_steps, query=query), "Asking the archive")
        task.returned.connect(partial(self._on_found, task))
        task.finished.connect(partial(self._on_searched, task))
        self._search = task
        self._enable()

    def _asked(self) -> ArchiveQuery | None:
        """Return the query, or state what is wrong with it."""
        query = ArchiveQuery(self.choice.name, self.form.texts())
        try:
            query.asked()
        except InputError as error:
            self.note.set_text(str(error))
            return None
        return query

    def _on_searched(self, task: Task) -> None:
        if task is self._search:
            self._search = None
            self._enable()

    def _on_found(self, task: Task, found: Found) -> None:
        if task is not self._search:
            return
        for study in found.studies:
            item = QTreeWidgetItem(self.studies, _study_texts(study))
            item.setData(0, _DATA, study)
            _set_counts(item, {6: study.series, 7: study.instances})
        self.studies.sortItems(0, Qt.SortOrder.DescendingOrder)
        self.studies.setSortingEnabled(True)
        _fit(self.studies)
        count = len(found.studies)
        if found.more:
            self.note.set_text(f"More than {count} studies match: only these are shown.")
        elif count:
            self.note.set_text("1 study" if count == 1 else f"{count} studies")
        else:
            self.note.set_text("No study matches.")
        if count:
            self.studies.setCurrentItem(self.studies.topLevelItem(0))
            self.studies.setFocus()

    # ------------------------------------------------------------------ series

    def _on_study(self, *_: object) -> None:
        self._clear_series()
        self._enable()
        self._later.start()

    def _list_series(self) -> None:
        item = self.studies.currentItem()
        if item is None or self._query is None:
            return
        study: StudyEntry = item.data(0, _DATA)
        work = partial(series_steps, place=self._query.archive, study_uid=study.study_uid)
        task = self._start(work, "Asking the archive")
        task.returned.connect(partial(self._on_series, task))
        self._listing = task

    def _on_series(self, task: Task, found: tuple[SeriesEntry, ...]) -> None:
        if task is not self._listing or self._query is None:
            return
        self._listing = None
        blank = icon(square())
        for one in sorted(found, key=lambda entry: (entry.number is None, entry.number or 0)):
            item = QTreeWidgetItem(self.series, _series_texts(one))
            item.setData(0, _DATA, one)
            item.setIcon(0, blank)
            _set_counts(item, {4: one.instances})
            known = self._known.get(_key(one))
            if known is not None:
                item.setIcon(0, icon(known))
        _fit(self.series)
        if not found:
            self.note.set_text("The archive lists no series of this study. Find it again.")
            return
        self.series.setCurrentItem(self.series.topLevelItem(0))
        unknown = [one for one in found if _key(one) not in self._known]
        work = partial(picture_steps, place=self._query.archive, series=unknown)
        self._pictures = self.tasks.start(work)
        self._pictures.progressed.connect(self._take_picture)

    def _take_picture(self, made: tuple[SeriesEntry, Image.Image]) -> None:
        series, picture = made
        drawn = self._known[_key(series)] = _in_square(coloured(picture))
        for at in range(self.series.topLevelItemCount()):
            item = self.series.topLevelItem(at)
            if _key(item.data(0, _DATA)) == _key(series):
                item.setIcon(0, icon(drawn))

    # ------------------------------------------------------------------ what becomes of them

    def open_chosen(self, *_: object) -> None:
        """Retrieve the selected series, and open them."""
        chosen = self.chosen
        if self.busy or not chosen or self._query is None:
            return
        work = partial(get_steps, place=self._query.archive, series=chosen)
        task = self._start(work, "Retrieving the series")
        task.progressed.connect(partial(self._on_line, task))
        task.returned.connect(partial(self._on_retrieved, task))
        task.finished.connect(partial(self._on_retrieval_over, task))
        self._retrieval = task
        self._enable()

    def _on_line(self, task: Task, line: str) -> None:
        if task is self._retrieval and not task.stopped:
            self.note.set_text(line)

    def _on_retrieved(self, task: Task, folders: list[Path]) -> None:
        if task is self._retrieval and not task.stopped:
            self.retrieved.emit([str(folder) for folder in folders])
            self.accept()

    def _on_retrieval_over(self, task: Task) -> None:
        if task is self._retrieval:
            self._retrieval = None
            self._enable()

    def cancel(self) -> None:
        """Give up the search or the retrieval; what arrived is kept for the next time."""
        for task in (self._search, self._retrieval):
            if task is not None:
                task.stop()
        retrieving = self._retrieval is not None
        self._search = self._retrieval = None
        self.note.set_text(
            "Cancelled. What arrived is kept, and the rest is retrieved next time."
            if retrieving
            else "Cancelled."
        )
        self._enable()

    def make_worklist(self) -> None:
        """Score all series that the query finds in the background, as a worklist."""
        query = self._asked()
        if query is None:
            return
        if query.asked().is_empty:
            self.note.set_text(
                "A worklist needs a query, such as a date: the whole archive is not retrieved."
            )
            return
        self.queried.emit(query)
        self.accept()

    def empty_cache(self) -> None:
        """Remove retrieved series from this machine, after asking."""
        text = (
            "Series retrieved from archives are kept on this machine, to open at once when they "
            "are wanted again. Remove them all, except for those opened since napari was started?"
        )
        if not confirmed(self, "Empty cache", text):
            return
        task = self._start(emptying_steps, "Emptying the cache")
        task.returned.connect(lambda freed: self.note.set_text(f"{freed / 1e6:.1f} MB were freed."))


def _key(series: SeriesEntry) -> tuple[str, str]:
    return series.study_uid, series.series_uid


def _in_square(picture: QPixmap) -> QPixmap:
    made = square()
    painter = QPainter(made)
    painter.drawPixmap(
        (made.width() - picture.width()) // 2, (made.height() - picture.height()) // 2, picture
    )
    painter.end()
    return made


def _study_texts(study: StudyEntry) -> list[str]:
    return [
        _day(study.date),
        *(
            printable(text)
            for text in (
                _person(study.patient_name),
                study.patient_id,
                study.accession,
                study.description,
                ", ".join(study.modalities),
            )
        ),
    ]


def _person(name: str) -> str:
    """Write a person's name (PS3.5, VR PN) as it is read: family name first, all its scripts."""
    groups = (
        ", ".join(part.strip() for part in group.split("^") if part.strip())
        for group in name.split("=")
    )
    return " / ".join(filter(None, groups))


def _day(date: str) -> str:
    """Write YYYYMMDD with hyphens."""
    known = len(date) == 8 and date.isdecimal()
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if known else printable(date)


def _series_texts(series: SeriesEntry) -> list[str]:
    number = "" if series.number is None else str(series.number)
    texts = (series.modality, series.description, series.body_part)
    return [number, *(printable(text) for text in texts)]


def _set_counts(item: QTreeWidgetItem, counts: dict[int, int | None]) -> None:
    """Set numbers, which sort as such."""
    for column, count in counts.items():
        if count is not None:
            item.setData(column, Qt.ItemDataRole.DisplayRole, count)


def _fit(table: QTreeWidget) -> None:
    for column in range(table.columnCount()):
        table.resizeColumnToContents(column)
        table.setColumnWidth(column, min(table.columnWidth(column) + 12, 320))
