"""Small pieces both docks are built from."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = ["Note", "button", "combo", "page", "research_line", "row", "section", "select_data"]

_MIN_WIDTH = 330


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


def button(text: str, tooltip: str) -> QPushButton:
    """Make a push button."""
    made = QPushButton(text)
    made.setToolTip(tooltip)
    return made


def combo(tooltip: str) -> QComboBox:
    """Make a list that shrinks with the dock instead of widening it."""
    made = QComboBox()
    made.setToolTip(tooltip)
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


def section(title: str, parts: Sequence[object]) -> QWidget:
    """Heading, and below it widgets, layouts or (label, widget) pairs."""
    made = QWidget()
    outer = QVBoxLayout(made)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.setSpacing(5)
    heading = QLabel(title)
    heading.setStyleSheet("font-weight: bold;")
    outer.addWidget(heading)
    grid: QGridLayout | None = None
    for part in parts:
        if isinstance(part, tuple):
            label, widget = part
            if grid is None:
                grid = QGridLayout()
                grid.setColumnStretch(1, 1)
                grid.setVerticalSpacing(5)
                outer.addLayout(grid)
            at = grid.rowCount()
            name = QLabel(label)
            name.setToolTip(widget.toolTip())
            grid.addWidget(name, at, 0)
            grid.addWidget(widget, at, 1)
            continue
        grid = None
        if isinstance(part, QWidget):
            outer.addWidget(part)
        else:
            outer.addLayout(part)
    return made


def research_line() -> QLabel:
    """Make the line that stands at the foot of every dock."""
    line = QLabel(RESEARCH_USE)
    line.setAlignment(Qt.AlignmentFlag.AlignHCenter)
    line.setStyleSheet("font-weight: bold; padding: 3px;")
    line.setToolTip("This software is no medical device. Do not base decisions on it.")
    return line


def page(dock: QWidget, sections: Sequence[QWidget], *, stretch: int | None = None) -> None:
    """Lay sections out from the top of a dock; the research-use line always stands below.

    The sections scroll where the window is too low for them, so that two docks fit above each
    other.
    """
    content = QWidget()
    layout = QVBoxLayout(content)
    layout.setContentsMargins(8, 6, 8, 4)
    layout.setSpacing(9)
    for index, part in enumerate(sections):
        layout.addWidget(part, 1 if index == stretch else 0)
    if stretch is None:
        layout.addStretch(1)
    scroll = QScrollArea()
    scroll.setFrameShape(QFrame.Shape.NoFrame)
    scroll.setWidgetResizable(True)
    scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    scroll.setWidget(content)
    dock.setMinimumWidth(_MIN_WIDTH)
    outer = QVBoxLayout(dock)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.setSpacing(0)
    outer.addWidget(scroll, 1)
    outer.addWidget(research_line())
