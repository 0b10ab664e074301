"""A model's card, drawn without asking the network or any file outside the model's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QImage, QImageReader, QResizeEvent, QTextDocument, QTextTable
from qtpy.QtWidgets import QTextBrowser, QWidget

from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["CardView"]

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]\n]*)\]\([^)\n]*\)")
_PICTURE = re.compile(r"!\[([^\]\n]*)\]\(([^)\n]*)\)")
# More pixels would fill the memory: the card of an imported model is not to be trusted.
_MOST_PIXELS = 32_000_000
_MARGIN = 12


class CardView(QTextBrowser):
    """Shows Markdown; pictures are PNG files that stand beside it, and links are plain text."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setOpenLinks(False)
        self.setAccessibleName("Model card")
        self.setToolTip(tooltip("models.card"))
        # Always: the width that pictures get would depend on the text's length otherwise.
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self._text = ""
        self._folder = Path()
        self._width = 0

    def show_card(self, folder: Path, text: str) -> None:
        """Show Markdown that belongs to a model's folder."""
        self._folder = folder
        text = _COMMENT.sub("", text)
        text = _PICTURE.sub(self._picture, text)
        self._text = _LINK.sub(r"\1", text)
        self._draw()

    def _picture(self, found: re.Match[str]) -> str:
        if self._file(found[2]) is not None:
            return found[0]
        return f"*{found[1]} (not shown: no picture in the model's folder)*"

    def _file(self, target: str) -> Path | None:
        """PNG of the model's folder that is meant; None for any other path or address."""
        if set(target) & set("/\\:") or not target.lower().endswith(".png"):
            return None
        file = self._folder / target
        return file if file.is_file() else None

    def _draw(self) -> None:
        self._width = self.viewport().width()
        self.document().clear()
        feature = QTextDocument.MarkdownFeature
        # PyQt5 makes a mere number of the two.
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

    def loadResource(self, kind: Any, name: QUrl) -> QImage:
        """Read a picture of the model's folder; nothing else is ever read.

        Anything else is an empty picture and not None, for which Qt would look by itself.
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
    """Draw single lines, and no headings where a table has none: Markdown must have a row."""
    form = table.format()
    form.setBorderCollapse(True)
    form.setBorder(1)
    form.setCellPadding(3)
    table.setFormat(form)
    cells = [table.cellAt(0, column) for column in range(table.columns())]
    if all(c.firstCursorPosition() == c.lastCursorPosition() for c in cells):
        table.removeRows(0, 1)
