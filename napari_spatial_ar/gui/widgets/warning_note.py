"""A warning of one short sentence that unfolds into full ones."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QToolButton, QVBoxLayout

from napari_spatial_ar.gui.widgets.forms import Note

__all__ = ["WarningNote"]

_STYLE = """
#warningNote { border-left: 4px solid #f5a623; background: rgba(245, 166, 35, 60); }
#warningNote QLabel { background: transparent; font-size: 12px; }
#warningNote QToolButton {
    background: transparent; padding: 1px 2px; font-size: 12px; text-decoration: underline;
    border: 2px solid transparent;
}
#warningNote QToolButton:focus { border: 2px solid #2f8fe0; }
"""


class WarningNote(QFrame):
    """A warning that stands out: on amber, with a bar at its side; *Why?* unfolds it.

    The text keeps the theme's own colour, as no amber is read on dark and light alike.

    Parameters
    ----------
    tooltip : str
        Of *Why?*.
    """

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self.setObjectName("warningNote")
        self.setStyleSheet(_STYLE)
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
        self.say("", "")

    def text(self) -> str:
        """Return the short sentence; "" for none."""
        return str(self.line.text())

    def say(self, text: str, reasons: str) -> None:
        """Show a warning; hide on "".

        Parameters
        ----------
        text : str
            One short sentence.
        reasons : str
            The full ones, folded away when they are new.
        """
        if reasons != self.reasons.text():
            self.why.setChecked(False)
        self.line.say(f"\u26a0 {text}" if text else "")
        self.reasons.setText(reasons)
        self._on_toggled(self.why.isChecked())
        self.setVisible(bool(text))

    def _on_toggled(self, on: bool) -> None:
        self.why.setText("Why? \u25be" if on else "Why? \u25b8")
        self.why.setVisible(bool(self.reasons.text()))
        self.reasons.setVisible(on and bool(self.reasons.text()))
