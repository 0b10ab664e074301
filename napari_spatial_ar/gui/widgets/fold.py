"""A heading that folds away what is below it, whose height may change while it is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.widgets.forms import row, stack
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["Fold", "folding"]

_STYLE = "QPushButton {{ text-align: left; padding: 1px 4px; background: transparent; {} }}"
_BOLD = "font-weight: bold;"
# In pixels: what a heading has at least, and what of it is no text.
_LEAST, _PADDING = 60, 14


class _Heading(QPushButton):
    """A button that is as narrow as it has to be: its text is shortened at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._text = ""

    def say(self, text: str) -> None:
        """Show a text, in which an ampersand is one."""
        self._text = text
        self._shorten()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as much of the text as there is room for."""
        super().resizeEvent(event)
        self._shorten()

    def minimumSizeHint(self) -> QSize:
        """Ask for no more than the first letters."""
        return QSize(_LEAST, super().minimumSizeHint().height())

    def _shorten(self) -> None:
        room = self.width() - _PADDING
        shown = self.fontMetrics().elidedText(self._text, Qt.TextElideMode.ElideRight, room)
        # Of an ampersand, Qt would make a key.
        self.setText(shown.replace("&", "&&"))
        whole = shown == self._text
        self.setAccessibleName("" if whole else self._text)


class Fold(QWidget):
    """A heading, pressed to show or hide its content.

    Where the content stays as it is, superqt's QCollapsible does the same; that one keeps the
    height that its content had when it was opened.

    Parameters
    ----------
    title, tooltip : str
        Of the heading.
    content : QWidget
        What is folded away.
    key : str
        Where given, whether it is open is remembered under this name.
    expanded : bool
        Whether it is open at first.
    strong : bool
        Draw the title as that of a section.
    beside : sequence of QWidget
        What stands at the right of the heading, folded or not.
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
        self.heading.setStyleSheet(_STYLE.format(_BOLD if strong else ""))
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
        """Say in the heading, while it is folded, what there is to know of the content."""
        self._summary = summary
        self.tell()

    def tell(self) -> None:
        """Say it anew."""
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
        told = f"{self._title}: {summary}" if summary else self._title
        self.heading.say(f"{'▾' if on else '▸'} {told}")
        self._content.setVisible(on)


def folding(title: str, parts: Sequence[Any], *, key: str, beside: Sequence[QWidget] = ()) -> Fold:
    """Make a section as `forms.section` does, open at first, that can be folded away."""
    tip = tooltip("docks.heading", title=title)
    return Fold(title, tip, stack(parts), key=key, expanded=True, strong=True, beside=beside)
