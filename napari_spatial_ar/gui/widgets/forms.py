"""Small pieces both docks are built from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.gui.widgets.tooltips import as_tooltip, tooltip
from napari_spatial_ar.gui.widgets.wheel import WheelGuard
from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = [
    "Combo",
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
# The widest of what is listed, of average letters, its frame and arrow included.
_LETTERS = 30


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


class Combo(QComboBox):
    """A list that is as wide as its choices, up to what a dock has room for.

    A name that is longer, as people give them, is shortened in its middle; its tooltip, and that
    of its item, has all of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def minimumSizeHint(self) -> QSize:
        """Give room for every choice, or for as many letters as fit into a dock."""
        hint = super().minimumSizeHint()
        most = _LETTERS * self.fontMetrics().averageCharWidth()
        return QSize(min(hint.width(), most), hint.height())

    def room(self) -> int:
        """Width that there is for the text, in pixels."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        kind, part = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        return int(self.style().subControlRect(kind, option, part, self).width())

    @property
    def shortened(self) -> bool:
        """Whether the text has no room, so that a part of it is seen."""
        return self.fontMetrics().horizontalAdvance(self.currentText()) > self.room() - 4

    def event(self, event: QEvent) -> bool:
        """Say in the tooltip what is not seen."""
        if event.type() == QEvent.Type.ToolTip and self.shortened:
            said = as_tooltip(f"{self.currentText()}\n{self.toolTip()}")
            QToolTip.showText(event.globalPos(), said, self)
            return True
        return bool(super().event(event))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the text shortened where it has no room."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        text, middle = option.currentText, Qt.TextElideMode.ElideMiddle
        # Two pixels at either side, which styles leave.
        option.currentText = self.fontMetrics().elidedText(text, middle, self.room() - 4)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def showPopup(self) -> None:
        """Make the list as wide as its widest item, where the screen has room for it."""
        view = self.view()
        wide = view.sizeHintForColumn(0) + view.verticalScrollBar().sizeHint().width()
        screen = self.screen().availableGeometry().width()
        view.setMinimumWidth(min(max(wide, self.width()), screen // 2))
        view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        super().showPopup()


def combo(tooltip: str, name: str = "") -> Combo:
    """Make a list; `fields` gives it a name."""
    made = Combo()
    made.setToolTip(tooltip)
    made.setAccessibleName(name)
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
