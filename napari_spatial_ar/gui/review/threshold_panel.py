"""The Threshold section: histogram, slider and unit, and settings of the mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from napari.layers import Labels, Layer, Shapes
from qtpy.QtCore import QSignalBlocker, QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QVBoxLayout, QWidget

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.jobs import sentence
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.review.scored_layer import Session, calibrated_thresholds
from napari_spatial_ar.gui.widgets.forms import (
    Combo,
    Fold,
    Note,
    button,
    fields,
    folding,
    row,
    select_data,
    stack,
)
from napari_spatial_ar.gui.widgets.plots import ScoreHistogram
from napari_spatial_ar.gui.widgets.threshold_slider import ScaleField, ThresholdSlider
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.findings import Finding
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.p_values import regions_note, share_note
from napari_spatial_ar.review.regions import ellipse_outline, outlined_voxels
from napari_spatial_ar.review.threshold_scales import (
    PercentileScale,
    Scale,
    ScoreCounts,
    ShareScale,
    UnitScale,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.utils.events import Event, EventEmitter


__all__ = [
    "PERCENTILE",
    "SHARE",
    "UNIT",
    "MaskForm",
    "RegionBox",
    "ThresholdPanel",
    "UnitBox",
    "meaning",
    "size_box",
]

SHARE, UNIT, PERCENTILE = "share", "unit", "percentile"


class UnitBox(Combo):
    """Lists the available views of a threshold; the chosen one is stored."""

    #: Another unit was chosen.
    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._wanted = settings.recall("threshold_unit", SHARE)
        self.setToolTip(tooltip("threshold.unit"))
        self.setAccessibleName("Unit of the threshold")
        self.activated.connect(self._on_activated)

    def name_unit(self, unit: str) -> None:
        """List the units, with a model's own."""
        self.clear()
        self.addItem("% of normal tissue", SHARE)
        self.addItem(unit, UNIT)
        self.addItem("percentile of this scan", PERCENTILE)

    def scale(
        self,
        model: ScoringModel | None,
        anchors: Mapping[float, float],
        ends: tuple[float, float],
        counts: ScoreCounts | None,
    ) -> tuple[Scale, str]:
        """Scale in the chosen unit, or in the first available one, and its suffix.

        Shares of normal tissue need a calibrated model, percentiles need scores of the scan.
        """
        scales: dict[str, tuple[Scale, str]] = {}
        if anchors and model is not None:
            share = ShareScale(anchors, model.threshold_for_fpr, model.fpr_for_threshold)
            scales[SHARE] = share, " %"
        scales[UNIT] = UnitScale(*ends), ""
        if counts is not None:
            scales[PERCENTILE] = PercentileScale(counts.edges, counts.shares_above()), ""
        unit = self._wanted if self._wanted in scales else next(iter(scales))
        for at in range(self.count()):
            self.model().item(at).setEnabled(self.itemData(at) in scales)
        select_data(self, unit)
        return scales[unit]

    def _on_activated(self) -> None:
        self._wanted = self.currentData()
        settings.remember("threshold_unit", self._wanted)
        self.chosen.emit()


_CLOSED = {"polygon", "rectangle", "ellipse"}


class RegionBox(Combo):
    """Chooses a Shapes or Labels layer, and returns its inside on a scan's grid."""

    #: Another region was chosen, or the chosen one was edited.
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._viewer: ViewerModel | None = None
        self._watched: Labels | Shapes | None = None
        self._scan: Layer | None = None
        self._belongs: Callable[[Layer], bool] = lambda layer: True
        self._chosen: WeakKeyDictionary[Layer, Layer | None] = WeakKeyDictionary()
        self.setToolTip(tooltip("mask.within"))
        self.addItem("Whole scan", None)
        self.currentIndexChanged.connect(self._on_chosen)

    def set_viewer(self, viewer: ViewerModel) -> None:
        """List the layers of a viewer, and follow changes."""
        self._viewer = viewer
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self._on_layers)
        self._on_layers()

    def set_scan(self, scan: Layer | None, belongs: Callable[[Layer], bool]) -> None:
        """List the regions for another scan, one of which may have been chosen before.

        Parameters
        ----------
        scan : napari.layers.Layer or None
            The scan.
        belongs : callable
            Returns whether a layer belongs to the chosen scan.
        """
        if self._scan is not None:
            self._chosen[self._scan] = self.layer
        self._scan, self._belongs = scan, belongs
        self._fill(wanted=None if scan is None else self._chosen.get(scan))

    @property
    def layer(self) -> Labels | Shapes | None:
        """The chosen layer; None for the whole scan."""
        chosen: Labels | Shapes | None = self.currentData()
        return chosen

    def inside(self, session: Session) -> npt.NDArray[np.bool_] | None:
        """(Z, Y, X) of the scan's grid inside the region; None for the whole scan.

        Raises
        ------
        InputError
            If the layer is not on the scan's grid, or has no outline.
        """
        layer, geometry = self.layer, session.geometry
        if layer is None:
            return None
        if isinstance(layer, Labels):
            on_grid = layer.data.shape == geometry.display_shape and all(
                np.allclose(getattr(layer, name), getattr(session.layer, name))
                for name in ("scale", "translate")
            )
            if not on_grid:
                raise InputError(
                    "the labels are not on the scan's grid",
                    fix="Draw them in a Labels layer made for this scan",
                )
            return np.asarray(geometry.from_display(np.asarray(layer.data) > 0), dtype=bool)
        outlines = [
            _on_grid(ellipse_outline(corners) if kind == "ellipse" else corners, layer, session)
            for corners, kind in zip(layer.data, layer.shape_type, strict=True)
            if kind in _CLOSED
        ]
        voxels = outlined_voxels(geometry.display_shape, outlines)
        return np.asarray(geometry.from_display(voxels), dtype=bool)

    def reset(self) -> None:
        """Choose the whole scan."""
        self.setCurrentIndex(0)

    def _on_layers(self, event: Event | None = None) -> None:
        self._fill(wanted=self.layer)

    def _fill(self, wanted: Layer | None) -> None:
        chosen = self.layer
        with QSignalBlocker(self):
            self.clear()
            self.addItem("Whole scan", None)
            for layer in () if self._viewer is None else self._viewer.layers:
                drawn = isinstance(layer, Labels | Shapes) and KEY not in layer.metadata
                if drawn and self._belongs(layer):
                    self.addItem(layer.name, layer)
                    if layer is wanted:
                        self.setCurrentIndex(self.count() - 1)
        if self.layer is not chosen:
            self._on_chosen()

    def _on_chosen(self, *_: object) -> None:
        if self._watched is not None:
            for event in _changes(self._watched):
                event.disconnect(self._on_drawn)
        self._watched = self.layer
        if self._watched is not None:
            for event in _changes(self._watched):
                event.connect(self._on_drawn)
        self.changed.emit()

    def _on_drawn(self, event: Event) -> None:
        # A shape being drawn is reported before it exists, too.
        if str(getattr(event, "action", "")).lower().rsplit(".", 1)[-1] not in _BEFORE:
            self.changed.emit()


_BEFORE = {"adding", "changing", "removing"}


def _changes(layer: Labels | Shapes) -> list[EventEmitter]:
    """Events of a layer that indicate drawing."""
    events = layer.events
    return [events.data, events.paint] if isinstance(layer, Labels) else [events.data]


def _on_grid(corners: npt.NDArray[Any], layer: Shapes, session: Session) -> npt.NDArray[np.float64]:
    """Corners in voxels of the scan as displayed; with two axes if the layer has two."""
    target = session.layer
    if layer.ndim == 2:
        offset = np.asarray(target.translate)[-2:], np.asarray(target.scale)[-2:]
        world = np.array([layer.data_to_world(tuple(corner)) for corner in corners])
        return np.asarray((world - offset[0]) / offset[1], np.float64)
    return np.array(
        [target.world_to_data(layer.data_to_world(tuple(corner))) for corner in corners]
    )


def size_box(tooltip: str, name: str, *, decimals: int = 0, step: float = 50) -> QDoubleSpinBox:
    """Create a field for a length, area or volume; 0 is none."""
    made = QDoubleSpinBox()
    made.setRange(0, 1_000_000)
    made.setDecimals(decimals)
    made.setSingleStep(step)
    made.setToolTip(tooltip)
    made.setAccessibleName(name)
    return made


class MaskForm(QWidget):
    """Hysteresis, smoothing, holes, minimum area, body and region; collapsed at first."""

    #: Something changed.
    changed = Signal()
    #: One sentence on a refused value; "" once a value is accepted.
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.hysteresis = QCheckBox("Only around scores above")
        self.hysteresis.setToolTip(tooltip("mask.only_around_scores_above"))
        self.higher = ScaleField()
        self.higher.setToolTip(tooltip("mask.higher_threshold"))
        self.higher.setAccessibleName("Higher threshold")
        self.smoothing = size_box(
            tooltip("mask.smoothing"),
            "Radius of smoothing",
            decimals=1,
            step=0.5,
        )
        self.fill_holes = QCheckBox("Fill holes")
        self.fill_holes.setToolTip(tooltip("mask.fill_holes"))
        self.min_area = size_box(tooltip("mask.minimum_area"), "Minimum area")
        self.body_only = QCheckBox("Body only")
        self.body_only.setToolTip(tooltip("mask.body_only"))
        #: Shown with the results; it belongs to the settings of the mask.
        self.unseen = QCheckBox("Unseen slices too")
        self.unseen.setToolTip(tooltip("results.unseen_slices"))
        self.region = RegionBox()
        self.region.setAccessibleName("Region")
        self.note = Note()
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        pairs = [
            ("Smoothing", self.smoothing),
            ("Minimum area", self.min_area),
            ("Within", self.region),
        ]
        layout.addWidget(self.hysteresis)
        layout.addWidget(self.higher)
        layout.addLayout(fields(pairs))
        layout.addWidget(self.fill_holes)
        layout.addWidget(self.body_only)
        layout.addWidget(self.note)
        self.fold = Fold("Advanced", tooltip("mask.advanced"), content, key="mask")
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.fold)
        #: Number of active settings.
        self.count = 0
        self._higher: float | None = None
        self._in_mm = True
        self.higher.setEnabled(False)
        self.set_measurable(True)
        self._recall()
        self._update_text()
        for box in (self.smoothing, self.min_area):
            box.valueChanged.connect(self._on_change)
        for tick in (self.hysteresis, self.fill_holes, self.body_only, self.unseen):
            tick.toggled.connect(self._on_change)
        self.region.changed.connect(self._on_region)
        self.higher.edited.connect(self._on_higher)
        self.higher.refused.connect(self.refused)

    def settings(self, smallest: float) -> MaskSettings:
        """All settings, with the minimum volume (mm3, or voxels)."""
        in_mm = self._in_mm
        smoothing, area = self.smoothing.value(), self.min_area.value()
        return MaskSettings(
            body_only=self.body_only.isChecked(),
            hysteresis=self._higher if self.hysteresis.isChecked() else None,
            smoothing_mm=smoothing if in_mm else 0.0,
            smoothing_pixels=0.0 if in_mm else smoothing,
            fill_holes=self.fill_holes.isChecked(),
            min_area_mm2=area if in_mm else 0.0,
            min_pixels=0 if in_mm else round(area),
            min_size_mm3=smallest if in_mm else 0.0,
            min_voxels=0 if in_mm else round(smallest),
            unseen_slices=self.unseen.isChecked(),
        )

    def set_measurable(self, measurable: bool) -> None:
        """Use mm, or pixels if nothing can be measured in mm."""
        self._in_mm = measurable
        self.smoothing.setSuffix(" mm" if measurable else " pixels")
        self.min_area.setSuffix(" mm²" if measurable else " pixels")

    def set_scale(self, scale: Scale, suffix: str) -> None:
        """Show the higher threshold in the unit of the slider."""
        self.higher.set_scale(scale, suffix)

    def set_higher(self, threshold: float) -> None:
        """Set the higher threshold, in the unit of a newly chosen model."""
        self._higher = threshold
        self.higher.set_threshold(threshold)

    def _on_higher(self, threshold: float) -> None:
        self._higher = threshold
        self.changed.emit()

    def _on_change(self, *_: object) -> None:
        self._update_text()
        self._remember()
        self.changed.emit()

    def _on_region(self) -> None:
        self._update_text()
        self.changed.emit()

    def _update_text(self) -> None:
        """Show in the heading how many settings are active, so that none is overlooked."""
        self.higher.setEnabled(self.hysteresis.isChecked())
        ticks = (self.hysteresis, self.fill_holes, self.body_only)
        count = sum(tick.isChecked() for tick in ticks)
        count += sum(box.value() > 0 for box in (self.smoothing, self.min_area))
        count += self.region.layer is not None
        self.count = count
        self.fold.setText(f"Advanced ({count} set)" if count else "Advanced")

    def _recall(self) -> None:
        with QSignalBlocker(self):
            self.smoothing.setValue(settings.recall("mask/smoothing_mm", 0.0))
            self.min_area.setValue(settings.recall("mask/min_area_mm2", 0.0))
            self.fill_holes.setChecked(settings.recall("mask/fill_holes", False))
            self.body_only.setChecked(settings.recall("mask/body_only", False))
            self.unseen.setChecked(settings.recall("mask/unseen_slices", False))

    def _remember(self) -> None:
        if self._in_mm:
            settings.remember("mask/smoothing_mm", self.smoothing.value())
            settings.remember("mask/min_area_mm2", self.min_area.value())
        settings.remember("mask/fill_holes", self.fill_holes.isChecked())
        settings.remember("mask/body_only", self.body_only.isChecked())
        settings.remember("mask/unseen_slices", self.unseen.isChecked())


_DEFAULT_FPR = 0.01


# Below the median of normal tissue and above the rarest calibrated scores the axis continues, by
# these parts of the calibrated range.
_BELOW, _ABOVE = 0.5, 1.0


def meaning(
    model: ScoringModel | None,
    threshold: float,
    anchors: dict[float, float],
    settings: MaskSettings | None = None,
) -> str:
    """State in one line what a threshold, with the mask's settings, flags in normal scans."""
    if model is None or not anchors:
        return "This model is not calibrated: what the threshold flags in normal tissue is unknown."
    try:
        fpr = model.fpr_for_threshold(threshold)
    except InputError as error:
        return str(error)
    share = f"about {100 * fpr:.2g} %"
    if threshold > max(anchors.values()):
        share = f"less than {100 * min(anchors):.2g} %"
    if threshold < min(anchors.values()):
        share = f"more than {100 * max(anchors):.2g} %"
    calibration = model.header.calibration
    regions = regions_note(calibration, threshold, settings) if calibration else ""
    return ", ".join(filter(None, (f"Flags {share} of normal tissue", regions))) + "."


class ThresholdPanel(QWidget):
    """Histogram, slider, mask settings, and the count of findings."""

    #: The threshold moved, by hand or with a new model; in the model's unit.
    threshold_changed = Signal(float)
    #: A MaskSettings; emitted also when the region was edited.
    settings_changed = Signal(object)
    #: The user requests the slice with the highest score.
    highest_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._model: ScoringModel | None = None
        self._anchors: dict[float, float] = {}
        self._counts: ScoreCounts | None = None
        self.histogram = ScoreHistogram()
        self.unit_box = UnitBox()
        self.slider = ThresholdSlider()
        self.meaning = Note()
        self.refusal = Note()
        self.min_size = size_box(tooltip("threshold.minimum_size"), "Minimum size")
        self.form = MaskForm()
        self.region = self.form.region
        self.highest = button("Show highest", tooltip("threshold.show_highest"))
        self.findings = Note("No slice is scored yet.", strong=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        more = [
            self.histogram,
            ("Threshold as", self.unit_box),
            ("Minimum size", self.min_size),
            self.form,
        ]
        tip = tooltip("threshold.more")
        self.more = Fold("Histogram and mask settings", tip, stack(more), key="histogram")
        self.more.set_summary(self._set)
        count = row(self.findings, self.highest)
        count.setStretch(0, 1)
        parts = [
            self.slider,
            self.meaning,
            self.refusal,
            count,
            self.more,
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
        self.slider.refused.connect(self.refusal.set_text)
        self.histogram.moved.connect(self._on_line)
        self.unit_box.chosen.connect(self._on_unit)
        self.min_size.valueChanged.connect(self._on_settings)
        self.form.changed.connect(self._on_settings)
        self.form.refused.connect(self.form.note.set_text)
        self.highest.clicked.connect(self.highest_wanted)
        self._enable(False)

    def _set(self) -> str:
        """Count the active settings, so that none is overlooked."""
        count = self.form.count + (self.min_size.value() > 0)
        return f"{count} set" if count else ""

    @property
    def threshold(self) -> float:
        """In the model's unit."""
        return self.slider.value()

    @property
    def fpr(self) -> float | None:
        """Share of normal tissue flagged, in [0, 1]; None without a calibrated model."""
        if self._model is None or not self._anchors:
            return None
        return self._model.fpr_for_threshold(self.threshold)

    @property
    def settings(self) -> MaskSettings:
        """How the voxels above the threshold become the mask."""
        return self.form.settings(self.min_size.value())

    # ------------------------------------------------------------------ model and scan

    def set_model(self, model: ScoringModel) -> None:
        """Set unit, range and start from a model and its calibration."""
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
                start = model.threshold_for_fpr(wanted)
            except InputError:
                start = self._anchors[nearest]
            self.slider.setValue(start)
            self.form.set_higher(high)
        self._enable(bool(self._anchors))
        self._apply_scale()
        self._update_text()

    def set_scores(self, highest: float, typical_high: float) -> None:
        """Extend the range to the scan's highest score; if not calibrated, start from the scan."""
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
        """Use mm for sizes, or voxels if nothing can be measured in mm."""
        before = self.settings
        self._unit = "mm³" if measurable else "voxels"
        self.min_size.setSuffix(f" {self._unit}")
        self.form.set_measurable(measurable)
        if self.settings != before:
            self.settings_changed.emit(self.settings)

    def refuse_region(self, error: InputError) -> None:
        """Report why a drawn region cannot be used, and go back to the whole scan."""
        self.form.region.reset()
        self.form.note.set_text(sentence(error, "Restricting the mask"))

    def _name_unit(self, model: ScoringModel | None) -> None:
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
        self.refusal.set_text("")
        self._apply_scale()

    # ------------------------------------------------------------------ findings

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """Show how many regions are flagged and not rejected, and the largest."""
        if not findings:
            self.findings.set_text("Nothing is flagged at this threshold.")
            return
        largest = max(findings, key=lambda finding: finding.voxels)
        ml = largest.volume_ml
        size = f"{largest.voxels} voxels" if ml is None else f"{ml:.1f} ml"
        plural = "region" if len(findings) == 1 else "regions"
        self.findings.set_text(f"{len(findings)} flagged {plural}, largest {size}")

    def clear_findings(self) -> None:
        """Clear the findings of another scan."""
        self.findings.set_text("No slice is scored yet.")

    # ------------------------------------------------------------------ changes

    def _update_text(self) -> None:
        self.meaning.set_text(meaning(self._model, self.threshold, self._anchors, self.settings))
        calibration = None if self._model is None else self._model.header.calibration
        if calibration is not None:
            self.meaning.setToolTip(share_note(calibration, self.threshold, self.settings))
        self.histogram.set_thresholds(self.threshold, self.settings.hysteresis)
        self.more.update_summary()

    def _on_line(self, threshold: float) -> None:
        self.refusal.set_text("")
        self.slider.setValue(threshold)

    def _on_slider(self) -> None:
        self._update_text()
        self._saver.start(500)
        self.threshold_changed.emit(self.threshold)

    def _on_settings(self, *_: object) -> None:
        self._update_text()
        self.form.note.set_text("")
        self._saver.start(500)
        self.settings_changed.emit(self.settings)

    def _save(self) -> None:
        fpr = self.fpr
        if fpr is not None:
            settings.remember("fpr", fpr)
        if self._unit == "mm³":
            settings.remember("min_size_mm3", self.min_size.value())
