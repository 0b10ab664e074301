"""Advanced settings of the mask."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QVBoxLayout, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.review.region_box import RegionBox
from napari_spatial_ar.gui.widgets.fold import Fold
from napari_spatial_ar.gui.widgets.forms import Note, fields
from napari_spatial_ar.gui.widgets.threshold_slider import ScaleField
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.threshold_scales import Scale

__all__ = ["MaskForm", "size_box"]


def size_box(tooltip: str, name: str, *, decimals: int = 0, step: float = 50) -> QDoubleSpinBox:
    """Make a field for a length, area or volume; 0 is none."""
    made = QDoubleSpinBox()
    made.setRange(0, 1_000_000)
    made.setDecimals(decimals)
    made.setSingleStep(step)
    made.setToolTip(tooltip)
    made.setAccessibleName(name)
    return made


class MaskForm(QWidget):
    """Hysteresis, smoothing, holes, smallest area, body and region; folded away at first."""

    #: Something changed.
    changed = Signal()
    #: One sentence on what was not taken; "" once something is.
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
        self.min_area = size_box(tooltip("mask.smallest_area"), "Smallest area")
        self.body_only = QCheckBox("Body only")
        self.body_only.setToolTip(tooltip("mask.body_only"))
        self.region = RegionBox()
        self.region.setAccessibleName("Region")
        self.note = Note()
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        pairs = [
            ("Smoothing", self.smoothing),
            ("Smallest area", self.min_area),
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
        self._higher: float | None = None
        self._in_mm = True
        self.higher.setEnabled(False)
        self.set_measurable(True)
        self._recall()
        self._tell()
        for box in (self.smoothing, self.min_area):
            box.valueChanged.connect(self._on_change)
        for tick in (self.hysteresis, self.fill_holes, self.body_only):
            tick.toggled.connect(self._on_change)
        self.region.changed.connect(self._on_region)
        self.higher.edited.connect(self._on_higher)
        self.higher.refused.connect(self.refused)

    def settings(self, smallest: float) -> MaskSettings:
        """Everything that is set, with the smallest volume (mm3, or voxels)."""
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
        )

    def set_measurable(self, measurable: bool) -> None:
        """Count in mm, or in pixels where nothing can be measured in mm."""
        self._in_mm = measurable
        self.smoothing.setSuffix(" mm" if measurable else " pixels")
        self.min_area.setSuffix(" mm²" if measurable else " pixels")

    def set_scale(self, scale: Scale, suffix: str) -> None:
        """Show the higher threshold as the slider shows its own."""
        self.higher.set_scale(scale, suffix)

    def set_higher(self, threshold: float) -> None:
        """Put the higher threshold, in the unit of a model that was just chosen."""
        self._higher = threshold
        self.higher.set_threshold(threshold)

    def _on_higher(self, threshold: float) -> None:
        self._higher = threshold
        self.changed.emit()

    def _on_change(self, *_: object) -> None:
        self._tell()
        self._remember()
        self.changed.emit()

    def _on_region(self) -> None:
        self._tell()
        self.changed.emit()

    def _tell(self) -> None:
        """Say on the fold how many settings are at work, so that none is forgotten there."""
        self.higher.setEnabled(self.hysteresis.isChecked())
        ticks = (self.hysteresis, self.fill_holes, self.body_only)
        count = sum(tick.isChecked() for tick in ticks)
        count += sum(box.value() > 0 for box in (self.smoothing, self.min_area))
        count += self.region.layer is not None
        self.fold.setText(f"Advanced ({count} set)" if count else "Advanced")

    def _recall(self) -> None:
        with QSignalBlocker(self):
            self.smoothing.setValue(settings.recall("mask/smoothing_mm", 0.0))
            self.min_area.setValue(settings.recall("mask/min_area_mm2", 0.0))
            self.fill_holes.setChecked(settings.recall("mask/fill_holes", False))
            self.body_only.setChecked(settings.recall("mask/body_only", False))

    def _remember(self) -> None:
        if self._in_mm:
            settings.remember("mask/smoothing_mm", self.smoothing.value())
            settings.remember("mask/min_area_mm2", self.min_area.value())
        settings.remember("mask/fill_holes", self.fill_holes.isChecked())
        settings.remember("mask/body_only", self.body_only.isChecked())
