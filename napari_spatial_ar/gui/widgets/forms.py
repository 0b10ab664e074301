"""Basic widgets of every dock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from qtpy.QtCore import QEvent, QModelIndex, QObject, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QIcon, QImage, QPainter, QPaintEvent, QPixmap, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QDial,
    QDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionComboBox,
    QStyleOptionViewItem,
    QStylePainter,
    QTabBar,
    QToolButton,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.widgets.tooltips import as_tooltip, tooltip
from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = [
    "SHARED_ROW",
    "Combo",
    "Dialog",
    "Fold",
    "NoWheel",
    "Note",
    "Part",
    "WarningNote",
    "button",
    "coloured",
    "combo",
    "fields",
    "folding",
    "heading",
    "icon",
    "research_line",
    "row",
    "section",
    "select_data",
    "square",
    "stack",
]

#: Widgets that Qt would change with the wheel: a value, a choice, or the current page.
_CHANGED_BY_WHEEL = (QComboBox, QAbstractSpinBox, QSlider, QDial, QTabBar)


_NEW = (QEvent.Type.ChildAdded, QEvent.Type.ChildPolished)


class NoWheel(QObject):
    """Forwards the wheel over a combo box, spin box or slider to the scroll area behind it.

    Otherwise a reader who scrolls a dock would change the model, the plane or the threshold under
    the cursor without noticing. Keys and the mouse button work as usual; the list of an open combo
    box scrolls. Widgets added later, including those of other libraries, are guarded too.

    Parameters
    ----------
    root : QWidget
        The dock or dialog whose widgets are guarded; the guard lives as long as it does.
    """

    def __init__(self, root: QWidget):
        super().__init__(root)
        self._root = root
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self.look)
        self.look()

    def look(self) -> None:
        """Guard all current widgets."""
        for widget in (self._root, *self._root.findChildren(QWidget)):
            # Installed once, however often it is requested.
            widget.installEventFilter(self)
            takes = widget.focusPolicy() == Qt.FocusPolicy.WheelFocus
            if takes and isinstance(widget, _CHANGED_BY_WHEEL):
                widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Ignore the wheel if it would change something, so that the parent receives it."""
        kind = event.type()
        if kind == QEvent.Type.Wheel and isinstance(watched, _CHANGED_BY_WHEEL):
            event.ignore()
            return True
        if kind in _NEW:
            # Deferred: a child being added is not complete yet.
            self._later.start()
        elif kind == QEvent.Type.Show and watched is self._root:
            self.look()
        return False


_LABEL_WIDTH = 96
# Margins of a button beside its text, in pixels.
_PADDING = 14


# Maximum width of a list in a row of its own, and in a row that it shares, in average letters
# including frame and arrow.
_LETTERS, SHARED_ROW = 30, 15
# Above and below an item of a list together, in pixels.
_ROOM = 6


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

    def set_text(self, text: str) -> None:
        """Show a text; hide on ""."""
        self.setText(text)
        self.setVisible(bool(text))


class _Narrow(QPushButton):
    """A button as narrow as its text requires; styles add up to twice that to a short one."""

    def sizeHint(self) -> QSize:
        """Shorten the style's width."""
        hint = super().sizeHint()
        narrow = self.fontMetrics().horizontalAdvance(self.text()) + _PADDING
        return QSize(min(hint.width(), narrow), hint.height())

    def minimumSizeHint(self) -> QSize:
        """Require as much."""
        return self.sizeHint()


def button(text: str, tooltip: str, name: str = "", *, narrow: bool = False) -> QPushButton:
    """Create a push button; if its text has no words it needs a name for screen readers."""
    made = _Narrow(text) if narrow else QPushButton(text)
    made.setToolTip(tooltip)
    made.setAccessibleName(name)
    return made


class _Item(QStyledItemDelegate):
    """An item of a list, with some space above and below its text."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        """Add the space."""
        return QSize(super().sizeHint(option, index)) + QSize(0, _ROOM)


class Combo(QComboBox):
    """A list as wide as its items, up to a limit.

    A longer name, as users may give, is elided in the middle; its tooltip, and that of its item,
    show it in full.

    Parameters
    ----------
    letters : int
        The limit: average letters, including frame and arrow.
    """

    def __init__(self, letters: int = _LETTERS) -> None:
        super().__init__()
        self._letters = letters
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # Some styles draw the items like those of a menu, without colours of their own.
        self.setItemDelegate(_Item(self))

    def minimumSizeHint(self) -> QSize:
        """Make room for every item, up to the limit; in a shared row always as much as that."""
        hint = super().minimumSizeHint()
        most = self._letters * self.fontMetrics().averageCharWidth()
        return QSize(most if self.compact else min(hint.width(), most), hint.height())

    @property
    def compact(self) -> bool:
        """Whether usual texts are elided, since it shares its row."""
        return self._letters < _LETTERS

    def room(self) -> int:
        """Available width for the text, in pixels."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        kind, part = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        return int(self.style().subControlRect(kind, option, part, self).width())

    @property
    def shortened(self) -> bool:
        """Whether the text is elided."""
        return bool(self.fontMetrics().horizontalAdvance(self.currentText()) > self.room() - 4)

    def event(self, event: QEvent) -> bool:
        """Show an elided text in the tooltip."""
        if event.type() == QEvent.Type.ToolTip and self.shortened:
            text = as_tooltip(f"{self.currentText()}\n{self.toolTip()}")
            QToolTip.showText(event.globalPos(), text, self)
            return True
        return bool(super().event(event))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the text, elided if it is too long."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        text, middle = option.currentText, Qt.TextElideMode.ElideMiddle
        # Two pixels on either side, which styles leave.
        option.currentText = self.fontMetrics().elidedText(text, middle, self.room() - 4)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def showPopup(self) -> None:
        """Make the popup as wide as its widest item, if the screen is wide enough."""
        view = self.view()
        wide = view.sizeHintForColumn(0) + view.verticalScrollBar().sizeHint().width()
        screen = self.screen().availableGeometry().width()
        view.setMinimumWidth(min(max(wide, self.width()), screen // 2))
        view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        super().showPopup()


def combo(tooltip: str, name: str = "", *, letters: int = _LETTERS) -> Combo:
    """Create a list; `fields` sets its accessible name."""
    made = Combo(letters)
    made.setToolTip(tooltip)
    made.setAccessibleName(name)
    return made


def select_data(box: QComboBox, value: object) -> bool:
    """Select the item with a value, compared by identity first; False if there is none."""
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
    """Create the title of a section."""
    made = QLabel(title)
    made.setStyleSheet("font-weight: bold;")
    return made


#: What a section is made of: a (label, widget) pair, a widget or a layout.
Part: TypeAlias = tuple[str, QWidget] | QWidget | QLayout


def section(title: str, parts: Sequence[Part]) -> QWidget:
    """Heading, and below it widgets, layouts or (label, widget) pairs."""
    return stack([heading(title), *parts])


def stack(parts: Sequence[Part]) -> QWidget:
    """Widgets, layouts or (label, widget) pairs, stacked vertically."""
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
    """Widgets stacked vertically, each with a label before it."""
    grid = QGridLayout()
    # The same width in every grid, so that they line up.
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
    """Create the research-use line at the foot of every dock."""
    line = QLabel(RESEARCH_USE)
    line.setAlignment(Qt.AlignmentFlag.AlignHCenter)
    line.setStyleSheet("font-weight: bold; padding: 3px;")
    line.setToolTip(tooltip("docks.research_use"))
    return line


class Dialog(QDialog):
    """Common parts of this plugin's dialogs: the wheel changes no value in them."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        NoWheel(self)


def square(picture: npt.NDArray[np.uint8] | None = None) -> QPixmap:
    """Centre an image, (rows, columns) uint8, in a black square."""
    made = QPixmap(THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    made.fill(Qt.GlobalColor.black)
    if picture is not None:
        rows, width = picture.shape
        image = QImage(picture.tobytes(), width, rows, width, QImage.Format.Format_Grayscale8)
        painter = QPainter(made)
        painter.drawImage((made.width() - width) // 2, (made.height() - rows) // 2, image)
        painter.end()
    return made


def coloured(picture: Image.Image) -> QPixmap:
    """Convert an RGB image to Qt's."""
    width, rows = picture.size
    image = QImage(picture.tobytes(), width, rows, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image)


def icon(picture: QPixmap) -> QIcon:
    """Create an icon that Qt does not tint in a selected row."""
    made = QIcon(picture)
    made.addPixmap(picture, QIcon.Mode.Selected)
    return made


_FOLD_STYLE = "QPushButton {{ text-align: left; padding: 1px 4px; background: transparent; {} }}"


_BOLD = "font-weight: bold;"


# Minimum width of a heading, in pixels.
_LEAST = 60


class _Heading(QPushButton):
    """A button that can be as narrow as necessary: its text is elided at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._text = ""

    def set_text(self, text: str) -> None:
        """Set a text, in which an ampersand is shown as such."""
        self._text = text
        self._shorten()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as much of the text as fits."""
        super().resizeEvent(event)
        self._shorten()

    def minimumSizeHint(self) -> QSize:
        """Require only the width of the first letters."""
        return QSize(_LEAST, super().minimumSizeHint().height())

    def _shorten(self) -> None:
        room = self.width() - _PADDING
        shown = self.fontMetrics().elidedText(self._text, Qt.TextElideMode.ElideRight, room)
        # Qt would turn an ampersand into a shortcut.
        self.setText(shown.replace("&", "&&"))
        whole = shown == self._text
        self.setAccessibleName("" if whole else self._text)


class Fold(QWidget):
    """A heading, pressed to show or hide its content.

    superqt's QCollapsible does the same for content of constant height: it keeps the height that
    the content had when it was opened.

    Parameters
    ----------
    title, tooltip : str
        Title and tooltip of the heading.
    content : QWidget
        The content.
    key : str
        If given, the setting in which its state is stored.
    expanded : bool
        Whether it is initially open.
    strong : bool
        Draw the title like that of a section.
    beside : sequence of QWidget
        Widgets to the right of the heading, visible in both states.
    """

    #: Whether it is open now.
    toggled = Signal(bool)

    def __init__(
        self,
        title: str,
        tooltip: str,
        content: QWidget,
        *,
        key: str = "",
        expanded: bool = False,
        strong: bool = False,
        beside: Sequence[QWidget] = (),
    ):
        super().__init__()
        self._title, self._content, self._key = title, content, key and f"fold/{key}"
        self._summary: Callable[[], str] | None = None
        self.heading = _Heading()
        self.heading.setCheckable(True)
        self.heading.setToolTip(tooltip)
        self.heading.setStyleSheet(_FOLD_STYLE.format(_BOLD if strong else ""))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        line = row(self.heading, *beside)
        line.setStretch(0, 1)
        layout.addLayout(line)
        layout.addWidget(content)
        self.heading.setChecked(settings.recall(self._key, expanded) if self._key else expanded)
        self.heading.toggled.connect(self._on_toggled)
        self._show()

    def text(self) -> str:
        """Return the title."""
        return self._title

    def setText(self, title: str) -> None:
        """Change the title."""
        self._title = title
        self._show()

    def set_summary(self, summary: Callable[[], str]) -> None:
        """Set a summary of the content, shown in the heading while it is collapsed."""
        self._summary = summary
        self.update_summary()

    def update_summary(self) -> None:
        """Update the heading."""
        self._show()

    def isExpanded(self) -> bool:
        """Whether it is open."""
        return bool(self.heading.isChecked())

    def expand(self) -> None:
        """Open it."""
        self.heading.setChecked(True)

    def _on_toggled(self, on: bool) -> None:
        if self._key:
            settings.remember(self._key, on)
        self._show()
        self.toggled.emit(on)

    def _show(self) -> None:
        on = self.isExpanded()
        summary = self._summary() if self._summary is not None and not on else ""
        title = f"{self._title}: {summary}" if summary else self._title
        self.heading.set_text(f"{'▾' if on else '▸'} {title}")
        self._content.setVisible(on)


def folding(
    title: str,
    parts: Sequence[Part],
    *,
    key: str,
    expanded: bool = True,
    beside: Sequence[QWidget] = (),
) -> Fold:
    """Create a section like `section` that can be collapsed; its state is stored."""
    tip = tooltip("docks.heading", title=title)
    return Fold(title, tip, stack(parts), key=key, expanded=expanded, strong=True, beside=beside)


_NOTE_STYLE = """
#warningNote { border-left: 4px solid #f5a623; background: rgba(245, 166, 35, 60); }
#warningNote QLabel { background: transparent; font-size: 12px; }
#warningNote QToolButton {
    background: transparent; padding: 1px 2px; font-size: 12px; text-decoration: underline;
    border: 2px solid transparent;
}
#warningNote QToolButton:focus { border: 2px solid #2f8fe0; }
"""


class WarningNote(QFrame):
    """A conspicuous warning: on amber, with a bar at its side; *Why?* shows the reasons.

    The text keeps the theme's own colour, since no amber text is legible on both dark and light.

    Parameters
    ----------
    tooltip : str
        Tooltip of *Why?*.
    """

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self.setObjectName("warningNote")
        self.setStyleSheet(_NOTE_STYLE)
        self.line = Note(strong=True)
        self.why = QToolButton()
        self.why.setCheckable(True)
        self.why.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.why.setAccessibleName("Why?")
        self.why.setToolTip(tooltip)
        self.reasons = Note(strong=True)
        top = QHBoxLayout()
        top.setContentsMargins(0, 0, 0, 0)
        top.addWidget(self.line, 1)
        top.addWidget(self.why, 0, Qt.AlignmentFlag.AlignBottom)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 3, 3, 3)
        layout.setSpacing(4)
        layout.addLayout(top)
        layout.addWidget(self.reasons)
        self.why.toggled.connect(self._on_toggled)
        self.set_text("", "")

    def text(self) -> str:
        """Return the short sentence; "" without one."""
        return str(self.line.text())

    def set_text(self, text: str, reasons: str) -> None:
        """Show a warning; hide on "".

        Parameters
        ----------
        text : str
            One short sentence.
        reasons : str
            The full sentences, collapsed again when they change.
        """
        if reasons != self.reasons.text():
            self.why.setChecked(False)
        self.line.set_text(f"\u26a0 {text}" if text else "")
        self.reasons.setText(reasons)
        self._on_toggled(self.why.isChecked())
        self.setVisible(bool(text))

    def _on_toggled(self, on: bool) -> None:
        self.why.setText("Why? \u25be" if on else "Why? \u25b8")
        self.why.setVisible(bool(self.reasons.text()))
        self.reasons.setVisible(on and bool(self.reasons.text()))
