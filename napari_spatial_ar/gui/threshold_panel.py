"""Threshold, smallest size and what they leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.forms import Note, button, heading, row, section
from napari_spatial_ar.gui.session import calibrated_thresholds
from napari_spatial_ar.review.findings import Finding

__all__ = ["ThresholdPanel", "meaning"]

_DEFAULT_FPR = 0.01


def meaning(model: Any, threshold: float, anchors: dict[float, float]) -> str:
    """Say in one line what a threshold means."""
    if not anchors:
        return "This model is not calibrated: what the threshold flags in normal tissue is unknown."
    try:
        fpr = float(model.fpr_for_threshold(threshold))
    except InputError as error:
        return str(error)
    if threshold > max(anchors.values()):
        return f"Flags less than {100 * min(anchors):.2g} % of normal tissue."
    if threshold < min(anchors.values()):
        return f"Flags more than {100 * max(anchors):.2g} % of normal tissue."
    return f"Flags about {100 * fpr:.2g} % of normal tissue."


class ThresholdPanel(QWidget):
    """Slider in the model's unit, smallest size, and the count of findings."""

    #: The threshold moved, by hand or with a new model.
    threshold_changed = Signal(float)
    #: Smallest region kept.
    min_size_changed = Signal(float)
    #: The user wants to see the slice with the highest score.
    highest_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._model: Any = None
        self._anchors: dict[float, float] = {}
        self._unit = "mm³"
        self.slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.slider.setDecimals(2)
        self.meaning = Note()
        self.min_size = QDoubleSpinBox()
        self.min_size.setRange(0, 1_000_000)
        self.min_size.setDecimals(0)
        self.min_size.setSingleStep(50)
        self.min_size.setToolTip("Connected regions smaller than this are left out of the mask")
        self.highest = button("Show highest", "Go to the slice with the highest score")
        self.findings = Note("No slice is scored yet.", strong=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.heading = heading()
        layout.addWidget(
            section(
                self.heading,
                [
                    self.slider,
                    self.meaning,
                    ("Smallest region", self.min_size),
                    row(self.findings, self.highest),
                ],
            )
        )
        self._name_unit(None)
        self._saver = QTimer(self)
        self._saver.setSingleShot(True)
        self._saver.timeout.connect(self._save)
        self.slider.valueChanged.connect(self._on_slider)
        self.min_size.valueChanged.connect(self._on_size)
        self.highest.clicked.connect(self.highest_wanted)
        self.set_measurable(True)
        self.min_size.setValue(settings.recall("min_size_mm3", 0.0))
        self.slider.setEnabled(False)
        self.highest.setEnabled(False)

    @property
    def threshold(self) -> float:
        """In the model's unit."""
        return float(self.slider.value())

    @property
    def fpr(self) -> float | None:
        """Share of normal tissue flagged, in [0, 1]; None without a calibrated model."""
        return float(self._model.fpr_for_threshold(self.threshold)) if self._anchors else None

    def _name_unit(self, model: Any) -> None:
        unit = getattr(model, "unit", "nats per dimension")
        self.heading.setText(f"Threshold ({unit})")
        self.slider.setToolTip(f"Tissue whose score lies above this value ({unit}) is in the mask")

    def set_model(self, model: Any) -> None:
        """Take unit, range and start from a model and its calibration."""
        self._model = model
        self._name_unit(model)
        self._anchors = calibrated_thresholds(model)
        if self._anchors:
            low, high = min(self._anchors.values()), max(self._anchors.values())
            self._set_range(low, high + (high - low))
            wanted = settings.recall("fpr", _DEFAULT_FPR)
            nearest = min(self._anchors, key=lambda fpr: abs(fpr - wanted))
            try:
                start = float(model.threshold_for_fpr(wanted))
            except InputError:
                start = self._anchors[nearest]
            self.slider.setValue(start)
        self.slider.setEnabled(bool(self._anchors))
        self._tell()

    def take_scores(self, highest: float, typical_high: float) -> None:
        """Widen the range to the scan's highest score; without calibration, start from the scan."""
        if not self._anchors and not self.slider.isEnabled():
            self._set_range(0.0, highest)
            self.slider.setEnabled(True)
            self.slider.setValue(typical_high)
        elif highest > self.slider.maximum():
            self._set_range(self.slider.minimum(), highest)
        self.highest.setEnabled(True)

    def _set_range(self, low: float, high: float) -> None:
        step = (high - low) / 200 or 0.01
        # Some units, such as a cosine distance, have small numbers.
        self.slider.setDecimals(max(2, math.ceil(-math.log10(step))))
        self.slider.setRange(low, max(high, low + 0.01))
        self.slider.setSingleStep(step)

    def set_measurable(self, measurable: bool) -> None:
        """Count the smallest region in mm3, or in voxels where nothing can be measured in mm."""
        self._unit = "mm³" if measurable else "voxels"
        self.min_size.setSuffix(f" {self._unit}")

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """Tell how many findings there are, and of the largest."""
        if not findings:
            self.findings.say("No findings above the threshold.")
            return
        largest = max(findings, key=lambda finding: finding.voxels)
        ml = largest.volume_ml
        size = f"{largest.voxels} voxels" if ml is None else f"{ml:.1f} ml"
        plural = "finding" if len(findings) == 1 else "findings"
        self.findings.say(f"{len(findings)} {plural}, largest {size}")

    def clear_findings(self) -> None:
        """Forget the findings of another scan."""
        self.findings.say("No slice is scored yet.")
        self.highest.setEnabled(False)

    def _tell(self) -> None:
        self.meaning.say(meaning(self._model, self.threshold, self._anchors))

    def _on_slider(self) -> None:
        self._tell()
        self._saver.start(500)
        self.threshold_changed.emit(self.threshold)

    def _on_size(self, value: float) -> None:
        self._saver.start(500)
        self.min_size_changed.emit(value)

    def _save(self) -> None:
        fpr = self.fpr
        if fpr is not None:
            settings.remember("fpr", fpr)
        if self._unit == "mm³":
            settings.remember("min_size_mm3", self.min_size.value())
