"""What we draw is read on napari's dark and light themes, and follows a change of theme."""

from __future__ import annotations

from typing import Any

import pytest
from napari.utils.theme import get_theme
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QWidget

from napari_spatial_ar.gui.widgets.colours import (
    FLAGGED,
    FOLLOWED,
    MEASURED,
    NORMAL,
    QUIET,
    TROUBLE,
    Pair,
    is_light,
)
from napari_spatial_ar.gui.widgets.plots import ScoreHistogram

TEXT, GRAPHIC = 4.5, 3.0  # least contrast by WCAG 2.1


def luminance(color: QColor) -> float:
    parts = [color.redF(), color.greenF(), color.blueF()]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: QColor, b: QColor) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def themed(theme: str, qtbot: Any) -> QWidget:
    made = QWidget()
    qtbot.addWidget(made)
    made.setStyleSheet(f"QWidget {{ color: {get_theme(theme).text.as_hex(format='long')}; }}")
    made.ensurePolished()
    return made


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize(
    ("pair", "least"),
    [
        (MEASURED, GRAPHIC),
        (FLAGGED, GRAPHIC),
        (NORMAL, TEXT),
        (FOLLOWED, TEXT),
        (QUIET, GRAPHIC),
        (TROUBLE, TEXT),
    ],
)
def test_a_colour_stands_out_on_the_theme(pair: Pair, least: float, theme: str, qtbot: Any) -> None:
    back = QColor(get_theme(theme).background.as_hex(format="long"))
    assert contrast(pair.on(themed(theme, qtbot)), back) >= least


def test_without_a_widget_it_is_the_dark_themes() -> None:
    assert NORMAL.on(None).name() == NORMAL.dark


def test_the_histogram_follows_the_theme(qtbot: Any) -> None:
    drawn = []
    plot = ScoreHistogram()
    qtbot.addWidget(plot)
    plot.resize(300, 118)
    plot.set_range(0, 1)
    plot.set_anchors({0.5: 0.1, 0.1: 0.5, 0.01: 0.9})
    for theme in ("dark", "light"):
        found = get_theme(theme)
        text, back = found.text.as_hex(format="long"), found.background.as_hex(format="long")
        plot.setStyleSheet(f"QWidget {{ color: {text}; background: {back}; }}")
        image = plot.grab().toImage()
        drawn.append(
            {image.pixelColor(x, y).name() for x in range(300) for y in range(image.height())}
        )
        assert is_light(plot) == (theme == "light")
    assert NORMAL.dark in drawn[0]
    assert NORMAL.light in drawn[1]
    assert NORMAL.dark not in drawn[1]
