"""Colours of what the docks draw and write, each for dark themes and for light ones."""

from __future__ import annotations

from dataclasses import dataclass

from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QWidget

__all__ = [
    "FLAGGED",
    "FOLLOWED",
    "MEASURED",
    "MISSING",
    "NORMAL",
    "QUIET",
    "TROUBLE",
    "Pair",
    "is_light",
]


@dataclass(frozen=True)
class Pair:
    """A colour for dark themes, and one for light ones.

    Parameters
    ----------
    dark, light : str
        As ``#rrggbb``, by the theme's background.
    """

    dark: str
    light: str

    def on(self, widget: object) -> QColor:
        """Return the colour for the theme that a widget has now; the dark one without a widget."""
        light = isinstance(widget, QWidget) and is_light(widget)
        return QColor(self.light if light else self.dark)


def is_light(widget: QWidget) -> bool:
    """Whether a widget writes dark on light, as it is drawn now."""
    return bool(widget.palette().color(QPalette.ColorRole.WindowText).lightness() < 128)


#: Scores of the scan, those above the threshold, and those of normal tissue.
MEASURED = Pair("#8a8f98", "#7d828b")
FLAGGED = Pair("#00a5b8", "#007d8c")
NORMAL = Pair("#e08a2e", "#a34f00")


#: The loss of training, which the validation's (`NORMAL`) follows; and links.
FOLLOWED = Pair("#8ab4f8", "#2459b3")


#: Text of items that must be downloaded first, on the background of lists.
MISSING = Pair("#a9aeb8", "#5f5f5f")
#: Text of rows that are done with, and of rows with trouble.
QUIET = Pair("#8c8c8c", "#6b6b6b")
TROUBLE = Pair("#f07864", "#b3261e")
