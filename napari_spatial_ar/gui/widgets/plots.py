"""Plots of the docks: training loss, and scores compared with those of normal tissue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
)
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_spatial_ar.gui.widgets.colours import (
    FLAGGED,
    FOLLOWED,
    MEASURED,
    NORMAL,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.review.threshold_scales import ScoreCounts, normal_shares

__all__ = [
    "LossPlot",
    "ScoreHistogram",
    "nice_ticks",
]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within a range, about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _painter(widget: QWidget) -> QPainter:
    """Begin to draw on a widget: smooth lines, small letters."""
    painter = QPainter(widget)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    font = painter.font()
    font.setPixelSize(11)
    painter.setFont(font)
    return painter


class LossPlot(QWidget):
    """Draws NLL by epoch: training, validation, and the best epoch marked."""

    def __init__(self) -> None:
        super().__init__()
        self.train: list[float] = []
        self.valid: list[float] = []
        self.best_epoch = -1
        self.epochs = 1
        self.setMinimumHeight(120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setToolTip(tooltip("fit.loss"))

    def sizeHint(self) -> QSize:
        """Return a size that shows the shape of the curve."""
        return QSize(280, 170)

    def show_losses(
        self, train: Sequence[float], valid: Sequence[float], best_epoch: int, epochs: int
    ) -> None:
        """Draw losses of finished epochs; ``best_epoch`` counts from 0, -1 for none."""
        self.train, self.valid = list(train), list(valid)
        self.best_epoch, self.epochs = best_epoch, max(1, epochs)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw axes, both lines and the marker."""
        painter = _painter(self)
        text = self.palette().color(self.foregroundRole())
        area = QRectF(self.rect()).adjusted(46, 20, -10, -22)
        values = [v for v in (*self.train, *self.valid) if math.isfinite(v)]
        faint = QColor(text)
        faint.setAlpha(70)
        painter.setPen(QPen(faint, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.drawLine(area.bottomLeft(), area.topLeft())
        if not values:
            painter.setPen(text)
            painter.drawText(
                area, Qt.AlignmentFlag.AlignCenter, "The loss appears after the first epoch"
            )
            return
        low, high = min(values), max(values)
        pad = 0.06 * (high - low) or 0.05
        low, high = low - pad, high + pad

        def at(epoch: float, value: float) -> QPointF:
            x = area.left() + area.width() * (epoch + 1) / self.epochs
            return QPointF(x, area.bottom() - area.height() * (value - low) / (high - low))

        self._draw_ticks(painter, area, low, high, text, faint)
        trained, validated = FOLLOWED.on(self), NORMAL.on(self)
        for line, color in ((self.train, trained), (self.valid, validated)):
            painter.setPen(QPen(color, 2))
            points = [at(i, v) for i, v in enumerate(line) if math.isfinite(v)]
            painter.drawPolyline(QPolygonF(points))
            if len(points) == 1:
                painter.drawEllipse(points[0], 2, 2)
        if 0 <= self.best_epoch < len(self.valid):
            painter.setPen(QPen(validated, 2))
            painter.setBrush(self.palette().color(self.backgroundRole()))
            painter.drawEllipse(at(self.best_epoch, self.valid[self.best_epoch]), 4, 4)
        self._draw_key(painter, area)

    def _draw_ticks(
        self,
        painter: QPainter,
        area: QRectF,
        low: float,
        high: float,
        text: QColor,
        faint: QColor,
    ) -> None:
        ticks = nice_ticks(low, high, 4)
        digits = 2 if len(ticks) > 1 and ticks[1] - ticks[0] >= 0.01 else 3
        for tick in ticks:
            y = area.bottom() - area.height() * (tick - low) / (high - low)
            painter.setPen(QPen(faint, 1, Qt.PenStyle.DotLine))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(text)
            box = QRectF(0, y - 8, area.left() - 5, 16)
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(box, right, f"{tick:.{digits}f}")
        painter.setPen(text)
        below = QRectF(area.left(), area.bottom() + 3, area.width(), 16)
        for tick in nice_ticks(0, self.epochs, 5):
            x = area.left() + area.width() * tick / self.epochs
            if tick == int(tick) and x < area.right() - 50:
                box = QRectF(x - 20, below.top(), 40, 16)
                painter.drawText(box, Qt.AlignmentFlag.AlignCenter, f"{int(tick)}")
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(below, right, f"{self.epochs} epochs")

    def _draw_key(self, painter: QPainter, area: QRectF) -> None:
        x = area.left() + 4
        best = ""
        if 0 <= self.best_epoch < len(self.valid):
            best = f", best {self.valid[self.best_epoch]:.3f} in epoch {self.best_epoch + 1}"
        keys = (("training", FOLLOWED), (f"validation{best}", NORMAL))
        for name, color in keys:
            painter.setPen(color.on(self))
            painter.drawText(QPointF(x, 13), name)
            x += painter.fontMetrics().horizontalAdvance(name) + 14


_BAR = 3  # logical pixels


_STEPS = {  # as a share of the axis
    Qt.Key.Key_Left: -0.005,
    Qt.Key.Key_Down: -0.005,
    Qt.Key.Key_Right: 0.005,
    Qt.Key.Key_Up: 0.005,
    Qt.Key.Key_PageDown: -0.05,
    Qt.Key.Key_PageUp: 0.05,
}


_LEAST = 1e-5  # lowest share on the axis


class ScoreHistogram(QWidget):
    """Shares of tissue by score, on a logarithmic axis.

    The line is moved with the mouse, or with the arrow and page keys.
    """

    #: The user moved the line: a threshold in the model's unit.
    moved = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self._counts: ScoreCounts | None = None
        self._anchors: Mapping[float, float] = {}
        self._threshold = 0.0
        self._higher: float | None = None
        self._low, self._high = 0.0, 1.0
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.SplitHCursor)
        self.setAccessibleName("Histogram of scores with the threshold")
        self.setToolTip(tooltip("threshold.histogram"))

    def sizeHint(self) -> QSize:
        """Return a size that leaves space for the rest of the dock."""
        return QSize(280, 118)

    def set_anchors(self, anchors: Mapping[float, float]) -> None:
        """Draw normal tissue, given thresholds by the share that they flag; none: not drawn."""
        self._anchors = anchors
        self.update()

    def set_counts(self, counts: ScoreCounts | None) -> None:
        """Draw a scan's scores; call again when there are more."""
        self._counts = counts
        self.update()

    def set_range(self, low: float, high: float) -> None:
        """Set the ends of the axis."""
        self._low, self._high = low, high
        self.update()

    def set_thresholds(self, threshold: float, higher: float | None = None) -> None:
        """Set the line, and a dashed one at the higher threshold of hysteresis."""
        self._threshold, self._higher = threshold, higher
        self.setAccessibleDescription(f"Threshold {threshold:.4g}")
        self.update()

    # ------------------------------------------------------------------ moving the line

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Move the line to the mouse."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._move_to(self._score_at(_x(event)))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag the line."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._move_to(self._score_at(_x(event)))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move the line by a step; Home and End go to the ends of the axis."""
        key = event.key()
        if key in _STEPS:
            self._move_to(self._threshold + _STEPS[key] * (self._high - self._low))
        elif key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            self._move_to(self._low if key == Qt.Key.Key_Home else self._high)
        else:
            super().keyPressEvent(event)

    def _move_to(self, score: float) -> None:
        score = min(max(score, self._low), self._high)
        if score != self._threshold:
            self.set_thresholds(score, self._higher)
            self.moved.emit(score)

    # ------------------------------------------------------------------ drawing

    @property
    def _area(self) -> QRectF:
        return QRectF(self.rect()).adjusted(50, 17, -8, -17)

    def _score_at(self, x: float) -> float:
        area = self._area
        share = float((x - area.left()) / area.width())
        return self._low + share * (self._high - self._low)

    def x_of(self, score: float) -> float:
        """Place of a score along the widget, in logical pixels."""
        area = self._area
        share = (score - self._low) / ((self._high - self._low) or 1)
        return float(area.left() + area.width() * share)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw axes, the scan's bars, the line of normal tissue and the thresholds."""
        painter = _painter(self)
        text = self.palette().color(self.foregroundRole())
        if not self.isEnabled():
            text.setAlpha(110)
        area = self._area
        bars = max(1, int(area.width() / _BAR))
        edges = np.linspace(self._low, self._high, bars + 1)
        scan = np.zeros(bars) if self._counts is None else self._counts.shares(edges)
        normal = normal_shares(self._anchors, edges)
        drawn = np.append(scan, normal[np.isfinite(normal)])
        drawn = drawn[drawn >= _LEAST]
        # Whole decades, so that the axis does not move with every new slice.
        top = math.ceil(math.log10(drawn.max())) if drawn.size else 0
        bottom = math.floor(math.log10(drawn.min())) if drawn.size else -3
        bottom = min(bottom, top - 1)
        self._draw_axes(painter, area, text, bottom, top)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)  # no seams between bars
        for index in np.flatnonzero(scan >= _LEAST):
            self._draw_bar(painter, area, edges, int(index), _height(scan[index], bottom, top))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._draw_normal(painter, area, edges, normal, bottom, top)
        self._draw_thresholds(painter, area, text)
        self._draw_key(painter, area, text, bool(scan.any()), bool(np.isfinite(normal).any()))
        if self.hasFocus():
            painter.setPen(QPen(text, 1, Qt.PenStyle.DotLine))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5))

    def _draw_axes(
        self, painter: QPainter, area: QRectF, text: QColor, bottom: int, top: int
    ) -> None:
        faint = QColor(text)
        faint.setAlpha(60)
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for decade in range(bottom, top + 1, 1 + (top - bottom) // 3):
            y = area.bottom() - area.height() * (decade - bottom) / (top - bottom)
            painter.setPen(QPen(faint, 1, Qt.PenStyle.DotLine))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(text)
            label = QRectF(0, y - 8, area.left() - 4, 16)
            painter.drawText(label, right, f"{100 * 10.0**decade:g} %")
        painter.setPen(QPen(faint, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.setPen(text)
        for tick in nice_ticks(self._low, self._high, 5):
            label = QRectF(self.x_of(tick) - 25, area.bottom() + 2, 50, 14)
            painter.drawText(label, Qt.AlignmentFlag.AlignCenter, f"{tick:.6g}")

    def _draw_bar(
        self, painter: QPainter, area: QRectF, edges: np.ndarray, index: int, height: float
    ) -> None:
        left, right = self.x_of(edges[index]), self.x_of(edges[index + 1])
        top = area.bottom() - height * area.height()
        cut = min(max(self.x_of(self._threshold), left), right)
        for start, end, color in ((left, cut, MEASURED), (cut, right, FLAGGED)):
            if end > start:
                bar = QRectF(start, top, end - start, area.bottom() - top)
                painter.fillRect(bar, color.on(self))

    def _draw_normal(
        self,
        painter: QPainter,
        area: QRectF,
        edges: np.ndarray,
        normal: np.ndarray,
        bottom: int,
        top: int,
    ) -> None:
        points = [
            QPointF(
                self.x_of((edges[i] + edges[i + 1]) / 2),
                area.bottom() - area.height() * _height(normal[i], bottom, top),
            )
            for i in np.flatnonzero(normal >= _LEAST)
        ]
        painter.setPen(QPen(NORMAL.on(self), 2))
        painter.drawPolyline(QPolygonF(points))

    def _draw_thresholds(self, painter: QPainter, area: QRectF, text: QColor) -> None:
        for score, style in (
            (self._threshold, Qt.PenStyle.SolidLine),
            (self._higher, Qt.PenStyle.DashLine),
        ):
            if score is not None and self._low <= score <= self._high:
                x = self.x_of(score)
                painter.setPen(QPen(text, 2, style))
                painter.drawLine(QPointF(x, area.top() - 2), QPointF(x, area.bottom()))

    def _draw_key(
        self, painter: QPainter, area: QRectF, text: QColor, scan: bool, normal: bool
    ) -> None:
        x = area.left()
        names = [("this scan", MEASURED)] if scan else []
        names += [("flagged", FLAGGED)] if scan else []
        names += [("normal tissue", NORMAL)] if normal else []
        for name, color in names:
            painter.fillRect(QRectF(x, 5, 8, 8), color.on(self))
            painter.setPen(text)
            painter.drawText(QPointF(x + 12, 13), name)
            x += painter.fontMetrics().horizontalAdvance(name) + 24


def _x(event: QMouseEvent) -> float:
    # Qt 5 has no position().
    return float(event.position().x() if hasattr(event, "position") else event.x())


def _height(share: float, bottom: int, top: int) -> float:
    """Height of a share, 0 to 1."""
    return min(max((math.log10(share) - bottom) / (top - bottom), 0.0), 1.0)
