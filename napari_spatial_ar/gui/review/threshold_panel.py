"""Threshold, smallest size and what they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.notify import sentence
from napari_spatial_ar.gui.review.mask_form import MaskForm, size_box
from napari_spatial_ar.gui.review.score_histogram import ScoreHistogram
from napari_spatial_ar.gui.review.scored_layer import calibrated_thresholds
from napari_spatial_ar.gui.review.unit_box import UnitBox
from napari_spatial_ar.gui.widgets.fold import folding
from napari_spatial_ar.gui.widgets.forms import Note, button, row
from napari_spatial_ar.gui.widgets.threshold_slider import ThresholdSlider
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.review.findings import Finding
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.p_values import share_note
from napari_spatial_ar.review.score_counts import ScoreCounts

__all__ = ["ThresholdPanel", "meaning"]

_DEFAULT_FPR = 0.01
# Below the median of normal tissue and above the rarest calibrated scores the axis goes on, in
# parts of the calibrated range.
_BELOW, _ABOVE = 0.5, 1.0


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
    """Histogram, slider, what becomes of the mask, and the count of findings."""

    #: The threshold moved, by hand or with a new model; in the model's unit.
    threshold_changed = Signal(float)
    #: A MaskSettings; sent also when the region was drawn on.
    settings_changed = Signal(object)
    #: The user wants to see the slice with the highest score.
    highest_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._model: Any = None
        self._anchors: dict[float, float] = {}
        self._counts: ScoreCounts | None = None
        self.histogram = ScoreHistogram()
        self.unit_box = UnitBox()
        self.slider = ThresholdSlider()
        self.meaning = Note()
        self.refusal = Note()
        self.min_size = size_box(tooltip("threshold.smallest_region"), "Smallest region")
        self.form = MaskForm()
        self.highest = button("Show highest", tooltip("threshold.show_highest"))
        self.findings = Note("No slice is scored yet.", strong=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            self.histogram,
            ("Threshold as", self.unit_box),
            self.slider,
            self.meaning,
            self.refusal,
            ("Smallest region", self.min_size),
            self.form,
            row(self.findings, self.highest),
        ]
        self.heading = folding("Threshold", parts, key="threshold")
        layout.addWidget(self.heading)
        self._name_unit(None)
        self._saver = QTimer(self)
        self._saver.setSingleShot(True)
        self._saver.timeout.connect(self._save)
        self.set_measurable(True)
        self.min_size.setValue(settings.recall("min_size_mm3", 0.0))
        self.slider.valueChanged.connect(self._on_slider)
        self.slider.refused.connect(self.refusal.say)
        self.histogram.moved.connect(self._on_line)
        self.unit_box.chosen.connect(self._on_unit)
        self.min_size.valueChanged.connect(self._on_settings)
        self.form.changed.connect(self._on_settings)
        self.form.refused.connect(self.form.note.say)
        self.highest.clicked.connect(self.highest_wanted)
        self._enable(False)

    @property
    def threshold(self) -> float:
        """In the model's unit."""
        return self.slider.value()

    @property
    def fpr(self) -> float | None:
        """Share of normal tissue flagged, in [0, 1]; None without a calibrated model."""
        return float(self._model.fpr_for_threshold(self.threshold)) if self._anchors else None

    @property
    def settings(self) -> MaskSettings:
        """What becomes of the voxels above the threshold."""
        return self.form.settings(self.min_size.value())

    # ------------------------------------------------------------------ model and scan

    def set_model(self, model: Any) -> None:
        """Take unit, range and start from a model and its calibration."""
        self._model = model
        self._name_unit(model)
        self._anchors = calibrated_thresholds(model)
        self.histogram.set_anchors(self._anchors)
        if self._anchors:
            low, high = min(self._anchors.values()), max(self._anchors.values())
            self._set_range(low - _BELOW * (high - low), high + _ABOVE * (high - low))
            wanted = settings.recall("fpr", _DEFAULT_FPR)
            nearest = min(self._anchors, key=lambda fpr: abs(fpr - wanted))
            try:
                start = float(model.threshold_for_fpr(wanted))
            except InputError:
                start = self._anchors[nearest]
            self.slider.setValue(start)
            self.form.set_higher(high)
        self._enable(bool(self._anchors))
        self._apply_scale()
        self._tell()

    def take_scores(self, highest: float, typical_high: float) -> None:
        """Widen the range to the scan's highest score; without calibration, start from the scan."""
        if not self._anchors and not self.slider.isEnabled():
            self._set_range(0.0, highest)
            self._enable(True)
            self.slider.setValue(typical_high)
            self.form.set_higher(highest)
        elif highest > self.slider.maximum():
            self._set_range(self.slider.minimum(), highest)

    def set_counts(self, counts: ScoreCounts | None) -> None:
        """Draw the scores of a scan so far; None for none."""
        self._counts = counts if counts is not None and counts.total else None
        self.histogram.set_counts(self._counts)
        self._apply_scale()

    def set_measurable(self, measurable: bool) -> None:
        """Count sizes in mm, or in voxels where nothing can be measured in mm."""
        before = self.settings
        self._unit = "mm³" if measurable else "voxels"
        self.min_size.setSuffix(f" {self._unit}")
        self.form.set_measurable(measurable)
        if self.settings != before:
            self.settings_changed.emit(self.settings)

    def refuse_region(self, error: InputError) -> None:
        """Say why a drawn region cannot be used, and go back to the whole scan."""
        self.form.region.reset()
        self.form.note.say(sentence(error, "Restricting the mask"))

    def _name_unit(self, model: Any) -> None:
        unit = "model's unit" if model is None else model.unit
        self.heading.setText(f"Threshold ({unit})")
        self.slider.setToolTip(tooltip("threshold.slider", unit=unit))
        self.unit_box.name_unit(unit)

    def _set_range(self, low: float, high: float) -> None:
        high = max(high, low + 1e-6)
        self.slider.set_range(low, high)
        self.histogram.set_range(low, high)
        self._apply_scale()

    def _enable(self, ready: bool) -> None:
        for widget in (self.histogram, self.unit_box, self.slider):
            widget.setEnabled(ready)

    def _apply_scale(self) -> None:
        ends = self.slider.minimum(), self.slider.maximum()
        scale, suffix = self.unit_box.scale(self._model, self._anchors, ends, self._counts)
        self.slider.set_scale(scale, suffix)
        self.form.set_scale(scale, suffix)

    def _on_unit(self) -> None:
        self.refusal.say("")
        self._apply_scale()

    # ------------------------------------------------------------------ findings

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """Tell how many regions are flagged and not rejected, and of the largest."""
        if not findings:
            self.findings.say("Nothing is flagged at this threshold.")
            return
        largest = max(findings, key=lambda finding: finding.voxels)
        ml = largest.volume_ml
        size = f"{largest.voxels} voxels" if ml is None else f"{ml:.1f} ml"
        plural = "region" if len(findings) == 1 else "regions"
        self.findings.say(f"{len(findings)} flagged {plural}, largest {size}")

    def clear_findings(self) -> None:
        """Forget the findings of another scan."""
        self.findings.say("No slice is scored yet.")

    # ------------------------------------------------------------------ changes

    def _tell(self) -> None:
        self.meaning.say(meaning(self._model, self.threshold, self._anchors))
        calibration = getattr(getattr(self._model, "header", None), "calibration", None)
        if isinstance(calibration, Calibration):
            self.meaning.setToolTip(share_note(calibration, self.threshold))
        self.histogram.set_thresholds(self.threshold, self.settings.hysteresis)

    def _on_line(self, threshold: float) -> None:
        self.refusal.say("")
        self.slider.setValue(threshold)

    def _on_slider(self) -> None:
        self._tell()
        self._saver.start(500)
        self.threshold_changed.emit(self.threshold)

    def _on_settings(self, *_: object) -> None:
        self._tell()
        self.form.note.say("")
        self._saver.start(500)
        self.settings_changed.emit(self.settings)

    def _save(self) -> None:
        fpr = self.fpr
        if fpr is not None:
            settings.remember("fpr", fpr)
        if self._unit == "mm³":
            settings.remember("min_size_mm3", self.min_size.value())
