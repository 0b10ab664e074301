"""The list of models, one line each."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QHeaderView, QTreeWidget, QTreeWidgetItem

from napari_spatial_ar.gui.library.model_details import STATES, calibrated_on, trained_on
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["ModelTable"]

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

    #: Another model is chosen, or what is known of it changed.
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
    def entry(self) -> Any:
        """The chosen ``ModelEntry``, or None."""
        item = self.currentItem()
        return None if item is None else item.data(0, _ROLE)

    @property
    def entries(self) -> list[Any]:
        """Every ``ModelEntry`` in its order."""
        return [self.topLevelItem(row).data(0, _ROLE) for row in range(self.topLevelItemCount())]

    def set_entries(self, entries: list[Any]) -> None:
        """List models anew; the chosen one stays so, else that in its place is."""
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

    def update_entry(self, entry: Any) -> None:
        """Show what was found of a model since it was listed."""
        for place, known in enumerate(self.entries):
            if known.folder == entry.folder:
                item = self.topLevelItem(place)
                self._fill(item, entry)
                if item is self.currentItem():
                    self.chosen.emit()

    def choose(self, name: str) -> bool:
        """Choose the first model of a name; False where there is none."""
        found = self.findItems(name, Qt.MatchFlag.MatchExactly, 0)
        if found:
            self.setCurrentItem(found[0])
        return bool(found)

    @staticmethod
    def _fill(item: QTreeWidgetItem, entry: Any) -> None:
        header = entry.header
        known = ("", "", "", "", "")
        if header is not None:
            known = (
                header.modality.upper(),
                header.method,
                header.backbone.name,
                trained_on(header) or "not known",
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


def _added(entry: Any) -> str:
    if entry.released:
        return "released"
    return "" if entry.written is None else f"{entry.written.astimezone():%Y-%m-%d}"
