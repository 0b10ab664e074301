"""Small pieces both docks are built from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.gui.tooltips import tooltip
from napari_spatial_ar.gui.wheel import WheelGuard
from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = [
    "Dialog",
    "Note",
    "button",
    "combo",
    "fields",
    "heading",
    "research_line",
    "row",
    "section",
    "select_data",
    "stack",
]

_LABEL_WIDTH = 96


class Note(QLabel):
    """Quiet text that wraps, hides while empty, and can be selected to copy a command."""

    def __init__(self, text: str = "", *, strong: bool = False):
        super().__init__(text)
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        if not strong:
            self.setStyleSheet("color: palette(mid-light); font-size: 11px;")
        self.setVisible(bool(text))

    def say(self, text: str) -> None:
        """Show a text; hide on ""."""
        self.setText(text)
        self.setVisible(bool(text))


def button(text: str, tooltip: str, name: str = "") -> QPushButton:
    """Make a push button; what has no words for its text needs a name to be read aloud."""
    made = QPushButton(text)
    made.setToolTip(tooltip)
    made.setAccessibleName(name)
    return made


def combo(tooltip: str, name: str = "") -> QComboBox:
    """Make a list that shrinks with the dock instead of widening it; `fields` gives it a name."""
    made = QComboBox()
    made.setToolTip(tooltip)
    made.setAccessibleName(name)
    made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    made.setMinimumContentsLength(8)
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return made


def select_data(box: QComboBox, value: object) -> bool:
    """Select the item that holds a value, compared by identity first; False where none does."""
    for index in range(box.count()):
        data = box.itemData(index)
        if data is value or (isinstance(value, str | int) and data == value):
            box.setCurrentIndex(index)
            return True
    return False


def row(*widgets: QWidget) -> QHBoxLayout:
    """Widgets side by side."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    for widget in widgets:
        layout.addWidget(widget)
    return layout


def heading(title: str = "") -> QLabel:
    """Make the title of a section."""
    made = QLabel(title)
    made.setStyleSheet("font-weight: bold;")
    return made


def section(title: str, parts: Sequence[Any]) -> QWidget:
    """Heading, and below it widgets, layouts or (label, widget) pairs."""
    return stack([heading(title), *parts])


def stack(parts: Sequence[Any]) -> QWidget:
    """Widgets, layouts or (label, widget) pairs under each other."""
    made = QWidget()
    outer = QVBoxLayout(made)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.setSpacing(5)
    for labelled, run in groupby(parts, lambda part: isinstance(part, tuple)):
        for part in [fields(list(run))] if labelled else run:
            if isinstance(part, QWidget):
                outer.addWidget(part)
            else:
                outer.addLayout(part)
    return made


def fields(pairs: Sequence[tuple[str, QWidget]]) -> QGridLayout:
    """Widgets under each other, each with its label before it."""
    grid = QGridLayout()
    # The same in every grid, so that they line up.
    grid.setColumnMinimumWidth(0, _LABEL_WIDTH)
    grid.setColumnStretch(1, 1)
    grid.setVerticalSpacing(5)
    for at, (label, widget) in enumerate(pairs):
        name = QLabel(label)
        name.setToolTip(widget.toolTip())
        if not widget.accessibleName():
            widget.setAccessibleName(label)
        grid.addWidget(name, at, 0)
        grid.addWidget(widget, at, 1)
    return grid


def research_line() -> QLabel:
    """Make the line that stands at the foot of every dock."""
    line = QLabel(RESEARCH_USE)
    line.setAlignment(Qt.AlignmentFlag.AlignHCenter)
    line.setStyleSheet("font-weight: bold; padding: 3px;")
    line.setToolTip(tooltip("docks.research_use"))
    return line


class Dialog(QDialog):
    """What this plugin's dialogs have in common: the wheel changes no value in them."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        WheelGuard(self)
