"""A slider and a field for one threshold, in a unit of the user's choice."""

from __future__ import annotations

import math

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QHBoxLayout, QSlider, QWidget

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.review.threshold_scales import Scale, UnitScale

__all__ = ["ScaleField", "ThresholdSlider"]

_PLACES = 2000
_FIELD_WIDTH = 128
_DECIMALS, _DIGITS = 6, 4


class ScaleField(QDoubleSpinBox):
    """A threshold as a number of a scale; numbers refused by the scale are not accepted."""

    #: A threshold in the model's unit was typed or stepped to.
    edited = Signal(float)
    #: One sentence on a refused number; "" once a number is accepted.
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._scale: Scale = UnitScale(0, 1)
        self._threshold = 0.0
        self.setKeyboardTracking(False)
        self.setRange(-1e9, 1e9)
        self.setDecimals(_DECIMALS)
        self.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self.valueChanged.connect(self._on_value)

    def textFromValue(self, value: float) -> str:
        """Format with four significant digits."""
        before = math.floor(math.log10(abs(value))) + 1 if value else 1
        decimals = min(max(_DIGITS - before, 0), _DECIMALS)
        text: str = self.locale().toString(value, "f", decimals)
        point = str(self.locale().decimalPoint())
        return text.rstrip("0").rstrip(point) if point in text else text

    def set_scale(self, scale: Scale, suffix: str) -> None:
        """Show the same threshold in another scale."""
        self._scale = scale
        self.setSuffix(suffix)
        self.set_threshold(self._threshold)

    def set_threshold(self, threshold: float) -> None:
        """Show a threshold, in the model's unit, without emitting a signal."""
        self._threshold = threshold
        sign, number = self._scale.shown(threshold)
        with QSignalBlocker(self):
            self.setPrefix(f"{sign} " if sign else "")
            self.setValue(number)

    def _on_value(self, number: float) -> None:
        _, shown = self._scale.shown(self._threshold)
        if self.textFromValue(number) == self.textFromValue(shown) and not self.prefix():
            # Qt reads it back from its own rounded text when the field loses the focus.
            self.set_threshold(self._threshold)
            return
        try:
            threshold = self._scale.threshold(number)
        except InputError as error:
            self.set_threshold(self._threshold)
            self.refused.emit(str(error))
            return
        self.set_threshold(threshold)
        self.refused.emit("")
        self.edited.emit(threshold)


class ThresholdSlider(QWidget):
    """Slider with a field beside it.

    `value` is always the threshold in the model's unit, whatever the scale shows; changing the
    scale does not change it.
    """

    #: The threshold, in the model's unit, moved.
    valueChanged = Signal(float)
    #: As in `ScaleField`.
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._scale: Scale = UnitScale(0, 1)
        self._value = 0.0
        self._low, self._high = 0.0, 1.0
        self.bar = QSlider(Qt.Orientation.Horizontal)
        self.bar.setRange(0, _PLACES)
        self.bar.setPageStep(_PLACES // 20)
        self.bar.setAccessibleName("Threshold")
        self.field = ScaleField()
        self.field.setAccessibleName("Threshold as a number")
        self.field.setFixedWidth(_FIELD_WIDTH)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.bar, 1)
        layout.addWidget(self.field)
        self.bar.valueChanged.connect(self._on_bar)
        self.field.edited.connect(self.setValue)
        self.field.refused.connect(self.refused)

    def value(self) -> float:
        """Return the threshold, in the model's unit."""
        return self._value

    def setValue(self, threshold: float) -> None:
        """Move the threshold."""
        threshold = min(max(threshold, self._low), self._high)
        if threshold == self._value:
            return
        self._value = threshold
        self._show()
        self.valueChanged.emit(threshold)

    def minimum(self) -> float:
        """Return the lowest threshold."""
        return self._low

    def maximum(self) -> float:
        """Return the highest threshold."""
        return self._high

    def set_range(self, low: float, high: float) -> None:
        """Set the lowest and highest threshold; a value outside is clamped."""
        self._low, self._high = low, high
        self.setValue(self._value)

    def set_scale(self, scale: Scale, suffix: str) -> None:
        """Show the threshold in another scale."""
        self._scale = scale
        self.field.set_scale(scale, suffix)
        self._show()

    def setToolTip(self, text: str) -> None:
        """Set the same tooltip for slider and field."""
        super().setToolTip(text)
        self.bar.setToolTip(text)
        self.field.setToolTip(text)

    def _show(self) -> None:
        with QSignalBlocker(self.bar):
            self.bar.setValue(round(_PLACES * self._scale.place(self._value)))
        self.field.set_threshold(self._value)

    def _on_bar(self, place: int) -> None:
        self.setValue(self._scale.at(place / _PLACES))
