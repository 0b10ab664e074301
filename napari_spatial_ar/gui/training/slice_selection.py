"""Which slices of the folders are used, and the share of patients for calibration."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QLabel, QSpinBox, QVBoxLayout, QWidget
from superqt import QRangeSlider

from napari_spatial_ar.datasets.selection import AS_ACQUIRED, Selection
from napari_spatial_ar.datasets.slices import SliceRef, iter_slices
from napari_spatial_ar.datasets.summary import DataSummary
from napari_spatial_ar.datasets.thumbnails import downscale
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.jobs import Task, TaskHost
from napari_spatial_ar.gui.widgets.forms import Note, combo, fields, row, select_data, square
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.windows import Window, apply_window

__all__ = ["SelectionForm"]

_PLANES = (
    ("As acquired", AS_ACQUIRED),
    ("Axial", "axial"),
    ("Coronal", "coronal"),
    ("Sagittal", "sagittal"),
)
_DEFAULT = Selection()
_MOST_FOLDS = 20
_REST_MS = 250


def _ends(summary: DataSummary) -> tuple[tuple[SliceRef, ...], tuple[float, float]]:
    """First and last slice used of a volume in the middle of the list, with pixel sizes."""
    volumes = [one for one in summary.used if one.refs[0].index is not None]
    if not volumes:
        return (), (1.0, 1.0)
    series = volumes[len(volumes) // 2]
    used = set(series.refs)
    placed = sorted(
        (one for one in series.slices if one.ref in used), key=lambda one: one.place or 0.0
    )
    size = series.spacing[1:] if series.spacing else (1.0, 1.0)
    return (placed[0].ref, placed[-1].ref), size


Picture = npt.NDArray[np.uint8]
#: What was read, and pictures of it.
Drawn = tuple[tuple[SliceRef, ...], list[Picture]]


def _draw(
    stop: threading.Event, refs: tuple[SliceRef, ...], size: tuple[float, float], window: Window
) -> Generator[None, None, Drawn]:
    """Read slices as thumbnails, as the model sees them."""
    drawn = []
    for _, image, ends in iter_slices(refs, window):
        if stop.is_set():
            break
        drawn.append(downscale(apply_window(image, *ends), size))
        yield
    return refs, drawn


class SelectionForm(QWidget):
    """Plane, part of the stack, minimum body area and calibration share; stored."""

    #: Another plane was chosen: the folders have to be surveyed again.
    plane_changed = Signal()
    #: Other slices of those found were chosen, or another share for calibration.
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._tasks = TaskHost(self)
        self._task: Task | None = None
        self._asked: tuple[tuple[SliceRef, ...], tuple[float, float], Window] | None = None
        self._folds = 0
        # Thumbnails are read once the slider stops moving.
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REST_MS)
        self._timer.timeout.connect(self._draw_ends)
        self.plane = combo(tooltip("slices.plane"))
        for text, value in _PLANES:
            self.plane.addItem(text, value)
        self.range = QRangeSlider(Qt.Orientation.Horizontal)
        self.range.setRange(0, 100)
        self.range.setToolTip(tooltip("slices.part_of_stack"))
        self.range.setAccessibleName("Part of the stack")
        self.range_text = QLabel()
        self.range_text.setMinimumWidth(72)
        self.range_text.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.body = self._percent(tooltip("slices.minimum_body_area"), 99)
        self.calibration = self._percent(tooltip("slices.calibration"), 79)
        self.folds = QSpinBox()
        self.folds.setRange(0, _MOST_FOLDS)
        self.folds.setSpecialValueText("none")
        self.folds.setToolTip(tooltip("slices.folds"))
        self.count = Note()
        self.ends = (QLabel(), QLabel())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        part = QWidget()
        inner = row(self.range, self.range_text)
        part.setLayout(inner)
        part.setToolTip(self.range.toolTip())
        layout.addLayout(
            fields(
                [
                    ("Plane", self.plane),
                    ("Part of stack", part),
                    ("Minimum body area", self.body),
                    ("Calibration", self.calibration),
                    ("Folds", self.folds),
                ]
            )
        )
        layout.addWidget(self.count)
        pictures = row(*self.ends)
        pictures.addStretch(1)
        layout.addLayout(pictures)
        tips = tooltip("slices.first"), tooltip("slices.last")
        for label, tip in zip(self.ends, tips, strict=True):
            label.setToolTip(tip)
            label.hide()
        self.set_values(*_recalled())
        self.plane.currentIndexChanged.connect(self.plane_changed)
        self.range.valueChanged.connect(self._on_range)
        self.body.valueChanged.connect(self.changed)
        self.calibration.valueChanged.connect(self.changed)
        self.folds.valueChanged.connect(self._on_folds)
        self._on_range()

    @staticmethod
    def _percent(tooltip: str, most: int) -> QSpinBox:
        made = QSpinBox()
        made.setRange(0, most)
        made.setSuffix(" %")
        made.setToolTip(tooltip)
        return made

    def _on_range(self, *_: object) -> None:
        low, high = self.range.value()
        if low == high:  # an empty range contains nothing
            self.range.setValue((low, high + 1) if high < 100 else (low - 1, high))
            return
        self.range_text.setText(f"{low} to {high} %")
        self.changed.emit()

    def _on_folds(self, folds: int) -> None:
        if folds == 1:  # a single fold would leave no patients for training
            self.folds.setValue(0 if self._folds > 1 else 2)
        self._folds = self.folds.value()

    # ------------------------------------------------------------------ values

    def selection(self) -> Selection:
        """Return the selection."""
        low, high = self.range.value()
        return Selection(self.plane.currentData(), (low / 100, high / 100), self.body.value() / 100)

    def arguments(self) -> dict[str, Any]:
        """Return settings of a `FitConfig`; store them."""
        chosen = self.selection()
        settings.remember("training_plane", chosen.plane)
        for name, value in zip(("low", "high"), self.range.value(), strict=True):
            settings.remember(f"training_{name}", value)
        settings.remember("training_body", self.body.value())
        settings.remember("training_calibration", self.calibration.value())
        return {
            "plane": chosen.plane,
            "slice_range": chosen.slice_range,
            "min_body": chosen.min_body,
            "calibration_fraction": self.calibration_fraction,
            "calibration_folds": self._folds,
        }

    @property
    def calibration_fraction(self) -> float:
        """Share of the slices used only for calibration."""
        return float(self.calibration.value() / 100)

    def set_values(
        self, selection: Selection, calibration_fraction: float, calibration_folds: int = 0
    ) -> None:
        """Show a selection, in whole percents."""
        select_data(self.plane, selection.plane)
        low, high = selection.slice_range
        self.range.setValue((round(100 * low), round(100 * high)))
        self.body.setValue(round(100 * selection.min_body))
        self.calibration.setValue(round(100 * calibration_fraction))
        self.folds.setValue(calibration_folds)

    # ------------------------------------------------------------------ result

    def show_summary(self, summary: DataSummary | None, window: Window) -> None:
        """Show how many slices are used, and soon the first and last of a volume."""
        if self._task is not None:
            self._task.stop()
        refs, size = ((), (1.0, 1.0)) if summary is None else _ends(summary)
        self._asked = refs, size, window
        if summary is None:
            self.count.set_text("")
        else:
            out = summary.left_out
            self.count.set_text(
                f"{summary.total.slices} slices used; excluded: {out.get('range', 0)} outside the "
                f"range, {out.get('empty', 0)} with little body"
            )
        if refs:
            self._timer.start()
        else:
            self._timer.stop()
            self._show_ends([])

    def _draw_ends(self) -> None:
        if self._asked is None:
            return
        refs, size, window = self._asked
        self._task = self._tasks.start(partial(_draw, refs=refs, size=size, window=window))
        self._task.returned.connect(self._on_drawn)
        self._task.failed.connect(self._on_failed)

    def _on_drawn(self, made: Drawn) -> None:
        refs, drawn = made
        if self._asked is not None and refs == self._asked[0] and len(drawn) == len(set(refs)):
            self._show_ends([drawn[0], drawn[-1]])

    def _on_failed(self, error: Exception) -> None:
        self._show_ends([])

    def _show_ends(self, pictures: Sequence[Picture]) -> None:
        for label, picture in zip_longest(self.ends, pictures):
            label.setVisible(picture is not None)
            if picture is not None:
                label.setPixmap(square(picture))


def _recalled() -> tuple[Selection, float]:
    """Return the selection used last."""
    low, high, body, calibration = (
        settings.recall(f"training_{name}", usual) / 100
        for name, usual in (("low", 0), ("high", 100), ("body", 10), ("calibration", 0))
    )
    try:
        chosen = Selection(settings.recall("training_plane", _DEFAULT.plane), (low, high), body)
    except InputError:  # written by another version, or by hand
        return _DEFAULT, 0.0
    return chosen, calibration
