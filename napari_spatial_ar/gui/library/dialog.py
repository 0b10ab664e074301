"""The dialog of models: table, details with the card, and the button that opens it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Qt, QUrl, Signal
from qtpy.QtGui import QImage, QImageReader, QKeySequence, QResizeEvent, QTextDocument, QTextTable
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QHeaderView,
    QMainWindow,
    QMenu,
    QPushButton,
    QShortcut,
    QSplitter,
    QTextBrowser,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.jobs import Task, TaskHost, report
from napari_spatial_ar.gui.library import actions
from napari_spatial_ar.gui.library.actions import LibraryActions
from napari_spatial_ar.gui.library.comparison_dialog import ComparisonDialog
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.review.scan_panel import ScanPanel
from napari_spatial_ar.gui.widgets.forms import Dialog, Note, button, heading, research_line, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip

if TYPE_CHECKING:
    from qtpy.QtWidgets import QAction

    from napari_spatial_ar.normative.library import ModelEntry
    from napari_spatial_ar.normative.model_file import ModelHeader

__all__ = [
    "STATES",
    "CardView",
    "LibraryButton",
    "LibraryDialog",
    "ModelDetails",
    "ModelTable",
    "calibrated_on",
    "trained_on",
]

# Metadata for programs, before the text.
_METADATA = re.compile(r"\A---\r?\n.*?\r?\n---\r?\n", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


_LINK = re.compile(r"(?<!!)\[([^\]\n]*)\]\([^)\n]*\)")


_PICTURE = re.compile(r"!\[([^\]\n]*)\]\(([^)\n]*)\)")


# Larger images could fill the memory: the card of an imported model is not to be trusted.
_MOST_PIXELS = 32_000_000


_MARGIN = 12


class CardView(QTextBrowser):
    """Shows Markdown; images are PNG files beside it, and links are plain text."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setOpenLinks(False)
        self.setAccessibleName("Model card")
        self.setToolTip(tooltip("models.card"))
        # Always: otherwise the width of images would depend on the text's length.
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self._text = ""
        self._folder = Path()
        self._width = 0

    def show_card(self, folder: Path, text: str) -> None:
        """Show Markdown that belongs to a model's folder."""
        self._folder = folder
        text = _COMMENT.sub("", _METADATA.sub("", text))
        text = _PICTURE.sub(self._picture, text)
        self._text = _LINK.sub(r"\1", text)
        self._draw()

    def _picture(self, found: re.Match[str]) -> str:
        if self._file(found[2]) is not None:
            return found[0]
        return f"*{found[1]} (not shown: not an image in the model's folder)*"

    def _file(self, target: str) -> Path | None:
        """PNG in the model's folder for a link; None for any other path or address."""
        if set(target) & set("/\\:") or not target.lower().endswith(".png"):
            return None
        file = self._folder / target
        return file if file.is_file() else None

    def _draw(self) -> None:
        self._width = self.viewport().width()
        self.document().clear()
        feature = QTextDocument.MarkdownFeature
        # PyQt5 returns a plain number.
        features = feature(feature.MarkdownDialectGitHub | feature.MarkdownNoHTML)
        self.document().setMarkdown(self._text, features)
        for frame in self.document().rootFrame().childFrames():
            if isinstance(frame, QTextTable):
                _tidy(frame)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit the pictures to the new width."""
        super().resizeEvent(event)
        if self.viewport().width() != self._width:
            self._draw()

    def loadResource(self, kind: int, name: QUrl) -> QImage:
        """Read an image of the model's folder; nothing else is ever read.

        Anything else becomes an empty image, not None, for which Qt would search by itself.
        """
        file = self._file(name.toString()) if name.isRelative() else None
        if file is not None:
            reader = QImageReader(str(file), b"png")
            size = reader.size()
            if 0 < size.width() * size.height() <= _MOST_PIXELS:
                widest = max(1, self.viewport().width() - 2 * _MARGIN)
                if size.width() > widest:
                    reader.setScaledSize(size * (widest / size.width()))
                image = reader.read()
                if not image.isNull():
                    return image
        empty = QImage(1, 1, QImage.Format.Format_ARGB32)
        empty.fill(Qt.GlobalColor.transparent)
        return empty


def _tidy(table: QTextTable) -> None:
    """Draw thin lines, and no heading if a table has none: Markdown requires a heading row."""
    form = table.format()
    form.setBorderCollapse(True)
    form.setBorder(1)
    form.setCellPadding(3)
    table.setFormat(form)
    cells = [table.cellAt(0, column) for column in range(table.columns())]
    if all(c.firstCursorPosition() == c.lastCursorPosition() for c in cells):
        table.removeRows(0, 1)


#: Names of states.
STATES = {
    "unchecked": "Not checked",
    "ok": "OK",
    "weights": "Needs weights",
    "version": "Other version",
    "damaged": "Damaged",
}


_CARD = "README.md"


_LONGEST = 1 << 18


_NO_CARD = "This model has no card. Its file contains:"


_NOT_CALIBRATED = "nothing: thresholds for shares of normal tissue are unknown"


_NOTHING = "This program cannot read the model's description in its file."


class ModelDetails(QWidget):
    """Name, state and card of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.title = heading()
        self.state = Note(strong=True)
        self.weights = WeightsRow()
        self.card = CardView()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.title)
        layout.addWidget(self.state)
        layout.addWidget(self.weights)
        layout.addWidget(self.card, 1)

    def show_entry(self, entry: ModelEntry | None) -> None:
        """Show a model; None empties the page."""
        header = entry.header if entry is not None and entry.state == "weights" else None
        name = header.backbone.name if header is not None else ""
        self.weights.mean(name, missing=header is not None)
        if entry is None:
            self.title.setText("")
            self.state.set_text("")
            self.card.clear()
            return
        origin = "released with the package" if entry.released else "yours"
        self.title.setText(f"{entry.name} ({origin})")
        # The entry's own advice about weights is for the command line.
        hint = model_access.weights_hint(name, header) if header is not None else ""
        self.state.set_text(f"{STATES[entry.state]}. {hint or entry.advice}")
        self.card.show_card(entry.folder, _card(entry))


def _card(entry: ModelEntry) -> str:
    try:
        with (entry.folder / _CARD).open(encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST)
    except OSError:
        return _facts(entry.header)


def _facts(header: ModelHeader | None) -> str:
    if header is None:
        return _NOTHING
    rows = {
        "Modality": header.modality.upper(),
        "Method": header.method,
        "Backbone": header.backbone.name,
        "Slices / patients": trained_on(header) or "unknown",
        "Calibrated on": calibrated_on(header) or _NOT_CALIBRATED,
        "File": f"format {header.format_version}",
    }
    lines = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    return f"{_NO_CARD}\n\n| | |\n| --- | --- |\n{lines}\n"


def trained_on(header: ModelHeader) -> str:
    """Format the slices / patients of a fit; "" if the file does not state them."""
    training = header.training
    if "images" not in training or "subjects" not in training:
        return ""
    return f"{training['images']} / {training['subjects']}"


def calibrated_on(header: ModelHeader) -> str:
    """Format the number of patients of a calibration; "" without one."""
    calibration = header.calibration
    if calibration is None:
        return ""
    return "1 patient" if calibration.patients == 1 else f"{calibration.patients} patients"


_ROLE = Qt.ItemDataRole.UserRole


_HEADINGS = (
    "Name",
    "State",
    "Modality",
    "Method",
    "Backbone",
    "Slices / patients",
    "Calibrated",
    "Added",
)


_WIDEST_NAME = 180


class ModelTable(QTreeWidget):
    """Lists ``ModelEntry`` values and keeps the chosen one chosen."""

    #: Another model was chosen, or information about the chosen one changed.
    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setHeaderLabels(list(_HEADINGS))
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setAllColumnsShowFocus(True)
        self.setAccessibleName("Models")
        self.setToolTip(tooltip("models.table"))
        self.currentItemChanged.connect(self._on_current)

    @property
    def entry(self) -> ModelEntry | None:
        """The chosen ``ModelEntry``, or None."""
        item = self.currentItem()
        return None if item is None else item.data(0, _ROLE)

    @property
    def entries(self) -> list[ModelEntry]:
        """Every ``ModelEntry`` in its order."""
        return [self.topLevelItem(row).data(0, _ROLE) for row in range(self.topLevelItemCount())]

    def set_entries(self, entries: list[ModelEntry]) -> None:
        """List models again; the chosen one stays chosen, else the one in its row."""
        before, row = self.entry, self.indexOfTopLevelItem(self.currentItem())
        with QSignalBlocker(self):
            self.clear()
            for entry in entries:
                self._fill(QTreeWidgetItem(self), entry)
            if not (before is not None and self.choose(before.name)) and entries:
                self.setCurrentItem(self.topLevelItem(min(max(row, 0), len(entries) - 1)))
        header = self.header()
        for column in range(len(_HEADINGS)):
            self.resizeColumnToContents(column)
        header.resizeSection(0, min(header.sectionSize(0), _WIDEST_NAME))
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.chosen.emit()

    def update_entry(self, entry: ModelEntry) -> None:
        """Update a model with what was found since it was listed."""
        for place, known in enumerate(self.entries):
            if known.folder == entry.folder:
                item = self.topLevelItem(place)
                self._fill(item, entry)
                if item is self.currentItem():
                    self.chosen.emit()

    def choose(self, name: str) -> bool:
        """Choose the first model with a name; False if there is none."""
        found = self.findItems(name, Qt.MatchFlag.MatchExactly, 0)
        if found:
            self.setCurrentItem(found[0])
        return bool(found)

    @staticmethod
    def _fill(item: QTreeWidgetItem, entry: ModelEntry) -> None:
        header = entry.header
        known = ("", "", "", "", "")
        if header is not None:
            known = (
                header.modality.upper(),
                header.method,
                header.backbone.name,
                trained_on(header) or "unknown",
                calibrated_on(header) or "no",
            )
        texts = (entry.name, STATES[entry.state], *known, _added(entry))
        for column, text in enumerate(texts):
            item.setText(column, text)
            item.setToolTip(column, text)
        item.setToolTip(1, entry.advice)
        item.setData(0, _ROLE, entry)

    def _on_current(self, *_: object) -> None:
        self.chosen.emit()


def _added(entry: ModelEntry) -> str:
    if entry.released:
        return "released"
    return "" if entry.written is None else f"{entry.written.astimezone():%Y-%m-%d}"


class LibraryDialog(Dialog):
    """Lists the released models and the user's.

    Parameters
    ----------
    parent : QWidget
        The parent window, in which the Review dock is searched.
    """

    def __init__(self, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("Models")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(1320, 660)
        self.tasks = TaskHost(self)
        self.library = LibraryActions(self, self.tasks)
        self._listing: Task | None = None
        self._wanted = settings.recall("model", "")
        self.table = ModelTable()
        self.details = ModelDetails()
        self.note = Note(strong=True)
        self._make_buttons()
        self._lay_out()
        self._connect()
        self.refresh()
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
        splitter.setSizes([810, 490])
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        layout = QVBoxLayout(self)
        layout.addWidget(splitter, 1)
        layout.addWidget(self.buttons)
        layout.addWidget(research_line())
        for made in self.findChildren(QPushButton):
            # Otherwise Enter in the list would press one of them.
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
        self.library.message.connect(self.note.set_text)
        self.library.busy.connect(self._enable)
        self.library.made.connect(self._on_made)
        self.library.checked.connect(self.table.update_entry)
        model_access.model_events.changed.connect(self.refresh)
        model_access.weights_news.changed.connect(self.refresh)
        for key, slot in (("F2", self.rename), ("Del", self.delete)):
            shortcut = QShortcut(QKeySequence(key), self.table)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(slot)

    # ------------------------------------------------------------------ what is shown

    def refresh(self, *_: object) -> None:
        """List the models again, and then read them completely one by one."""
        if self._listing is not None:
            # Its remaining results may be outdated by the change.
            self._listing.stop()
            self._listing.progressed.disconnect(self._on_found)
            self._listing.failed.disconnect(self._on_failed)
            self._listing.finished.disconnect(self._on_listed)
        self._listing = self.tasks.start(actions.find_entries)
        self._listing.progressed.connect(self._on_found)
        self._listing.failed.connect(self._on_failed)
        self._listing.finished.connect(self._on_listed)

    @property
    def listing(self) -> bool:
        """Whether models are still being listed or read."""
        return self._listing is not None

    def _on_found(self, found: list[ModelEntry] | ModelEntry) -> None:
        if not isinstance(found, list):
            self.table.update_entry(found)
            return
        self.table.set_entries(found)
        if self._wanted:
            self.table.choose(self._wanted)
            self._wanted = ""

    def _on_failed(self, error: Exception) -> None:
        self.note.set_text(report(error, "Listing models"))

    def _on_listed(self) -> None:
        self._listing = None

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

    def _usable(self) -> list[ModelEntry]:
        return [entry for entry in self.table.entries if entry.state in ("ok", "unchecked")]

    def _on_made(self, name: str) -> None:
        self._wanted = name

    # ------------------------------------------------------------------ actions of the buttons

    def _on_entry(self, act: Callable[[ModelEntry], None]) -> None:
        if self.table.entry is not None:
            act(self.table.entry)

    def rename(self) -> None:
        """Rename the chosen model."""
        if self.rename_button.isEnabled():
            self._on_entry(self.library.rename)

    def duplicate(self) -> None:
        """Copy the chosen model."""
        self._on_entry(self.library.duplicate)

    def delete(self) -> None:
        """Move the chosen model to the trash."""
        if self.delete_button.isEnabled():
            self._on_entry(self.library.delete)

    def export(self) -> None:
        """Write the chosen model as one file."""
        self._on_entry(self.library.export)

    def check(self) -> None:
        """Read the chosen model completely."""
        self._on_entry(self.library.check)

    def calibrate(self) -> None:
        """Calibrate the chosen model on other normal scans."""
        self._on_entry(self.library.calibrate)

    def compare(self) -> None:
        """Open the comparison, with the chosen model as the first."""
        scan = self.parentWidget().findChild(ScanPanel)
        dialog = ComparisonDialog(self._usable(), scan, self)
        if self.table.entry is not None:
            dialog.set_models(self.table.entry.folder)
        dialog.show()

    def _fill_trash(self) -> None:
        self.trash_menu.clear()
        deleted = list(dict.fromkeys(trashed.name for trashed in actions.trashed()))
        for name in deleted:
            self.trash_menu.addAction(name).setData(name)
        if not deleted:
            self.trash_menu.addAction("The trash is empty").setEnabled(False)

    def _on_trashed(self, action: QAction) -> None:
        self.library.restore(action.data())

    def reject(self) -> None:
        """Close, unless a model is being changed, whose result would go unreported."""
        if not self.library.running:
            super().reject()


class LibraryButton(QPushButton):
    """Opens the dialog of models, one for each window."""

    def __init__(self, text: str = "Manage..."):
        super().__init__(text)
        self.setToolTip(tooltip("docks.models"))
        self.clicked.connect(self.open)

    def open(self) -> None:
        """Show the dialog, or bring the open one to the front."""
        window = _main_window(self)
        dialog = window.findChild(LibraryDialog) or LibraryDialog(window)
        dialog.show()
        dialog.raise_()
        dialog.activateWindow()


def _main_window(widget: QWidget) -> QWidget:
    """Window of a dock, even if it floats; without one the widget's own."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QMainWindow):
        parent = parent.parentWidget()
    return parent or widget.window()
