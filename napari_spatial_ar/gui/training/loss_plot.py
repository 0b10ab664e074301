"""A small plot of training and validation loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_spatial_ar.gui.widgets.colours import FOLLOWED, NORMAL
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["LossPlot", "nice_ticks"]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within a range, about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


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
        """Return a size that shows the curve's shape."""
        return QSize(280, 170)

    def show_losses(
        self, train: Sequence[float], valid: Sequence[float], best_epoch: int, epochs: int
    ) -> None:
        """Draw losses of finished epochs; ``best_epoch`` counts from 0, -1 for none."""
        self.train, self.valid = list(train), list(valid)
        self.best_epoch, self.epochs = best_epoch, max(1, epochs)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw axes, both lines and the mark."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
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
