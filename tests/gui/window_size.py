"""What of a window cannot be seen whole, and no scrolling brings into view."""

from __future__ import annotations

from collections.abc import Iterator

from qtpy.QtCore import QPoint, QRect, Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractScrollArea,
    QAbstractSpinBox,
    QComboBox,
    QHeaderView,
    QLabel,
    QLineEdit,
    QScrollArea,
    QScrollBar,
    QWidget,
)

from napari_spatial_ar.gui.widgets.forms import Combo


def misfits(root: QWidget) -> list[str]:
    """Widgets that are cut by their surroundings, or whose own text is, as sentences."""
    found = []
    for widget in _shown(root):
        name = f"{type(widget).__name__} {_text(widget)!r}"
        if not _within_reach(widget, root):
            found.append(f"{name} is cut off at {_place(widget, root)}")
        if _text_is_cut(widget):
            found.append(f"the text of {name} has no room in {widget.width()} pixels")
    return found


def _shown(root: QWidget) -> Iterator[QWidget]:
    for widget in root.findChildren(QWidget):
        if not widget.isVisible() or QWidget.window(widget) is not QWidget.window(root):
            continue
        if isinstance(widget, QScrollBar):
            continue
        # Qt's own parts of lists, numbers and scroll areas, which it lays out itself.
        # What is folded away by superqt is visible to Qt, in a widget without any height.
        inside = widget.parentWidget()
        while inside is not None and inside is not root:
            kept = isinstance(inside, QAbstractItemView | QComboBox | QAbstractSpinBox)
            if kept or inside.height() == 0:
                break
            inside = inside.parentWidget()
        if inside is root or isinstance(widget, QHeaderView):
            yield widget


def _text(widget: QWidget) -> str:
    if isinstance(widget, QLabel | QAbstractButton | QLineEdit):
        return str(widget.text())[:60]
    if isinstance(widget, QComboBox):
        return str(widget.currentText())
    if isinstance(widget, QHeaderView):
        return ", ".join(_narrow(widget))
    return str(widget.accessibleName())


def _place(widget: QWidget, root: QWidget) -> QRect:
    return QRect(widget.mapTo(root, QPoint()), widget.size())


def _within_reach(widget: QWidget, root: QWidget) -> bool:
    """Whether a widget lies within all that it lies in, or can be scrolled into it."""
    inside = widget.parentWidget()
    rect = QRect(widget.pos(), widget.size())
    while inside is not None:
        area = inside.parentWidget()
        scrolls = isinstance(area, QAbstractScrollArea) and inside is area.viewport()
        if scrolls and isinstance(area, QScrollArea):
            off = Qt.ScrollBarPolicy.ScrollBarAlwaysOff
            across = area.horizontalScrollBarPolicy() != off
            if not across and (rect.left() < 0 or rect.right() >= inside.width()):
                return False
            rect = inside.rect()  # the rest is a matter of scrolling
        elif not scrolls and not inside.rect().contains(rect):
            return False
        if inside is root:
            return True
        rect = QRect(inside.mapToParent(rect.topLeft()), rect.size())
        inside = area
    return True


def _text_is_cut(widget: QWidget) -> bool:
    metrics = widget.fontMetrics()
    if isinstance(widget, QLabel) and widget.text():
        if widget.wordWrap():
            return widget.heightForWidth(widget.width()) > widget.height()
        return widget.sizeHint().width() > widget.width()
    if isinstance(widget, QAbstractButton) and widget.text():
        if widget.text().endswith("…"):
            return True
        return widget.sizeHint().width() > widget.width()
    if isinstance(widget, Combo):
        if widget.compact:  # elided, with the whole text in its tooltip
            return False
        return metrics.horizontalAdvance(widget.currentText()) > widget.room()
    if isinstance(widget, QAbstractSpinBox):
        field = widget.findChild(QLineEdit)
        return field is not None and metrics.horizontalAdvance(field.text()) > field.width()
    if isinstance(widget, QLineEdit):
        return metrics.horizontalAdvance(widget.placeholderText()) > widget.width()
    if isinstance(widget, QHeaderView) and widget.orientation() == Qt.Orientation.Horizontal:
        return bool(_narrow(widget))
    return False


def _narrow(header: QHeaderView) -> list[str]:
    """Titles of columns that are wider than the columns."""
    if header.orientation() != Qt.Orientation.Horizontal:
        return []
    sections = [n for n in range(header.count()) if not header.isSectionHidden(n)]
    titles = {n: str(header.model().headerData(n, Qt.Orientation.Horizontal)) for n in sections}
    wide = header.fontMetrics().horizontalAdvance
    return [titles[n] for n in sections if wide(titles[n]) + 2 > header.sectionSize(n)]
