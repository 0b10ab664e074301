"""Which grey values a model to be trained will see."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDoubleSpinBox, QVBoxLayout, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.display_windows import describe
from napari_spatial_ar.gui.widgets.forms import combo, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.volume import Modality
from napari_spatial_ar.imaging.windows import CT_PRESETS, Window, default_window

__all__ = ["WindowForm"]

_DEFAULT, _PERCENTILE, _FIXED = "default", "percentile", "fixed"
_CUSTOM = {_PERCENTILE: (0.5, 99.5), _FIXED: (0.0, 1000.0)}
_LARGEST = 1_000_000.0


class WindowForm(QWidget):
    """The modality's own window, a CT preset, or ends of the user's own; remembered."""

    def __init__(self) -> None:
        super().__init__()
        tip = tooltip("training.model_sees")
        self.setToolTip(tip)
        self._modality: Modality = "mri"
        self.box = combo(tip, "Window that the model sees")
        self.low, self.high = QDoubleSpinBox(), QDoubleSpinBox()
        self.low.setToolTip(tooltip("training.model_sees.lower"))
        self.high.setToolTip(tooltip("training.model_sees.upper"))
        for spin, name in ((self.low, "Lower"), (self.high, "Upper")):
            spin.setAccessibleName(f"{name} end of the window")
            spin.setRange(-_LARGEST, _LARGEST)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self.box)
        # Under each other: beside each other they have no room for a long value and its unit.
        layout.addWidget(self.low)
        layout.addWidget(self.high)
        self.box.currentIndexChanged.connect(self._on_choice)
        self.set_modality("mri")

    def set_modality(self, modality: Modality) -> None:
        """Offer the windows of a modality."""
        self._modality = modality
        unit = "HU" if modality == "ct" else ""
        self.box.blockSignals(True)
        self.box.clear()
        usual = default_window(modality)
        self.box.addItem(f"Usual ({describe(usual, unit, short=True)})", _DEFAULT)
        tip = tooltip("training.model_sees.usual", window=describe(usual, unit))
        self.box.setItemData(0, tip, Qt.ItemDataRole.ToolTipRole)
        if modality == "ct":
            for name, window in CT_PRESETS.items():
                self.box.addItem(f"CT {name} ({describe(window, unit)})", name)
        self.box.addItem("Percentiles of each scan...", _PERCENTILE)
        self.box.addItem("Hounsfield units..." if unit else "Values...", _FIXED)
        select_data(self.box, settings.recall(f"training_window/{modality}", _DEFAULT))
        self.box.blockSignals(False)
        self._on_choice()

    def _on_choice(self, index: int = 0) -> None:
        choice = self.box.currentData()
        custom = choice in _CUSTOM
        for spin in (self.low, self.high):
            spin.setVisible(custom)
        if not custom:
            return
        percent = choice == _PERCENTILE
        for spin, name, usual in zip(
            (self.low, self.high), ("low", "high"), _CUSTOM[choice], strict=True
        ):
            spin.setSuffix(" %" if percent else " HU" if self._modality == "ct" else "")
            spin.setDecimals(1)
            spin.setRange(0.0 if percent else -_LARGEST, 100.0 if percent else _LARGEST)
            spin.setValue(settings.recall(self._key(name), usual))

    def set_window(self, window: Window) -> None:
        """Show a window, or what comes nearest to it."""
        named = [name for name, preset in CT_PRESETS.items() if preset == window]
        usual = window == default_window(self._modality)
        for choice in (_DEFAULT,) if usual else (*named, window.kind):
            if select_data(self.box, choice):
                break
        if self.box.currentData() in _CUSTOM:
            self.low.setValue(window.low)
            self.high.setValue(window.high)

    def _key(self, name: str) -> str:
        return f"training_window/{self._modality}/{self.box.currentData()}_{name}"

    def window(self) -> Window | None:
        """Return the window for the fit, None for the modality's own, and remember the choice.

        Raises
        ------
        InputError
            If the ends do not make a window.
        """
        choice = self.box.currentData()
        made = None
        if choice in CT_PRESETS:
            made = CT_PRESETS[choice]
        elif choice in _CUSTOM:
            kind: Any = choice
            made = Window(kind, self.low.value(), self.high.value())
            settings.remember(self._key("low"), made.low)
            settings.remember(self._key("high"), made.high)
        settings.remember(f"training_window/{self._modality}", choice)
        return made
