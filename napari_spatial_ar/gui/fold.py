"""A heading that folds away what is below it, whose height may change while it is open."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

__all__ = ["Fold"]


class Fold(QWidget):
    """Folded at first.

    Where the content stays as it is, superqt's QCollapsible does the same; that one keeps the
    height that its content had when it was opened.

    Parameters
    ----------
    title, tooltip : str
        Of the heading.
    content : QWidget
        What is folded away.
    """

    #: Whether it is open now.
    toggled = Signal(bool)

    def __init__(self, title: str, tooltip: str, content: QWidget):
        super().__init__()
        self._title, self._content = title, content
        self.heading = QPushButton()
        self.heading.setCheckable(True)
        self.heading.setToolTip(tooltip)
        self.heading.setStyleSheet("text-align: left; padding: 5px;")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self.heading)
        layout.addWidget(content)
        self.heading.toggled.connect(self._on_toggled)
        self._show(False)

    def isExpanded(self) -> bool:
        """Whether it is open."""
        return bool(self.heading.isChecked())

    def expand(self) -> None:
        """Open it."""
        self.heading.setChecked(True)

    def _on_toggled(self, on: bool) -> None:
        self._show(on)
        self.toggled.emit(on)

    def _show(self, on: bool) -> None:
        self.heading.setText(f"{'▾' if on else '▸'} {self._title}")
        self._content.setVisible(on)
