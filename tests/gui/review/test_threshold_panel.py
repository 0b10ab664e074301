"""The threshold in three units, the histogram dragged with a real mouse, advanced settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels, Shapes
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.review.threshold_panel import PERCENTILE, SHARE, UNIT
from napari_spatial_ar.gui.widgets.colours import FLAGGED, MEASURED, NORMAL
from napari_spatial_ar.normative.calibration.calibration import calibrate
from napari_spatial_ar.normative.calibration.regions import NormalRegions
from napari_spatial_ar.review.masks import MaskSettings
from tests.fake_model import fake_header

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def scored(dock: Any, finish: Any, qtbot: Any) -> Any:
    """A dock with the scan scored, and a lesion of 240 voxels found."""
    made = dock()
    made.threshold.resize(330, 600)
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    return made


def choose(made: Any, unit: str) -> None:
    box = made.threshold.unit_box
    at = box.findData(unit)
    assert box.model().item(at).isEnabled()
    box.setCurrentIndex(at)
    box.activated.emit(at)


def mask_of(made: Any) -> np.ndarray:
    (layer,) = [x for x in made.viewer.layers if x.metadata.get(KEY, {}).get("kind") == "mask"]
    return np.asarray(made.session.geometry.from_display(np.asarray(layer.data)))


def test_the_unit_changes_what_is_shown_and_not_the_mask(scored: Any, finish: Any) -> None:
    panel = scored.threshold
    field, before, threshold = panel.slider.field, mask_of(scored).copy(), panel.threshold
    assert panel.unit_box.currentData() == SHARE
    assert (field.value(), field.suffix()) == (pytest.approx(1), " %")
    moved: list[float] = []
    panel.threshold_changed.connect(moved.append)
    choose(scored, UNIT)
    assert field.value() == pytest.approx(threshold)
    choose(scored, PERCENTILE)
    body = scored.session.body.whole(scored.session.score.scored)
    above = scored.session.score.nll[body] > threshold
    assert field.value() == pytest.approx(100 * (1 - above.mean()), abs=0.1)
    choose(scored, SHARE)
    finish(scored)
    assert moved == []
    assert panel.threshold == threshold
    assert np.array_equal(mask_of(scored), before)
    assert settings.recall("threshold_unit", "") == SHARE


def test_a_share_that_was_not_calibrated_is_refused_with_the_sentence(scored: Any) -> None:
    panel = scored.threshold
    before = panel.threshold
    panel.slider.field.setValue(0.01)
    assert "not calibrated for this share" in panel.refusal.text()
    assert panel.threshold == before
    assert panel.slider.field.value() == pytest.approx(1)
    panel.slider.field.setValue(10)
    assert panel.refusal.text() == ""
    assert panel.threshold == pytest.approx(1.25)
    panel.slider.bar.setValue(panel.slider.bar.maximum())
    assert panel.meaning.text() == "Flags about 0.1 % of normal tissue."


def test_regions_of_normal_scans_follow_slider_and_minimum_size(dock: Any, models: Any) -> None:
    regions = NormalRegions("scan", 12, (1.0, 2.0), "mm3", (0.0, 100.0), ((8.0, 1.0), (4.0, 0.5)))
    calibration = replace(calibrate([np.linspace(0, 4, 1000)], [1.0], ["a"]), regions=regions)
    models["fake"].header = fake_header(calibration=calibration)
    panel = dock().threshold
    panel.slider.setValue(1.0)
    assert panel.meaning.text().endswith("% of normal tissue, about 8 regions a normal scan.")
    panel.slider.setValue(1.5)
    assert panel.meaning.text().endswith(", about 4.5 regions a normal scan.")
    panel.min_size.setValue(100)
    assert panel.meaning.text().endswith(", about 2.2 regions a normal scan.")
    panel.form.fill_holes.setChecked(True)
    assert panel.meaning.text().endswith("4.5 regions a normal scan (by the threshold alone).")
    assert "It flags about 4.5 regions a normal scan" in panel.meaning.toolTip()


def test_leaving_the_field_does_not_round_the_threshold(scored: Any) -> None:
    slider = scored.threshold.slider
    choose(scored, UNIT)
    slider.setValue(1.23456789)
    slider.field.setValue(float(slider.field.cleanText()))
    assert slider.value() == 1.23456789


def test_dragging_the_line_of_the_histogram_moves_the_mask(
    scored: Any, finish: Any, qtbot: Any
) -> None:
    panel = scored.threshold
    histogram = panel.histogram
    assert mask_of(scored).sum() == 240
    y = histogram.height() // 2
    start, end = (QPoint(round(histogram.x_of(score)), y) for score in (1.5, 2.2))
    qtbot.mousePress(histogram, LEFT, pos=start)
    for at in (start + QPoint(5, 0), end):  # qtbot.mouseMove holds no button
        move = (QEvent.Type.MouseMove, QPointF(at), QPointF(histogram.mapToGlobal(at)))
        held = (Qt.MouseButton.NoButton, LEFT, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(histogram, QMouseEvent(*move, *held))
    qtbot.mouseRelease(histogram, LEFT, pos=end)
    assert panel.threshold == pytest.approx(2.2, abs=0.01)
    finish(scored)
    assert mask_of(scored).sum() == 0
    at = panel.threshold
    qtbot.keyClick(histogram, Qt.Key.Key_PageDown)
    qtbot.keyClick(histogram, Qt.Key.Key_Right)
    width = panel.slider.maximum() - panel.slider.minimum()
    assert panel.threshold == pytest.approx(at - 0.045 * width)
    assert f"{panel.threshold:.4g}" in histogram.accessibleDescription()
    qtbot.keyClick(histogram, Qt.Key.Key_Home)
    assert panel.threshold == panel.slider.minimum()


def test_the_histogram_is_of_the_body_in_scored_slices(dock: Any, finish: Any, qtbot: Any) -> None:
    made = dock()
    qtbot.mouseClick(made.slice_button, LEFT)
    finish(made)
    session = made.session
    assert session.score.scored.sum() == 1
    body = session.body.whole(session.score.scored)
    assert 0 < session.counts.total == body.sum()


def test_the_histogram_follows_the_viewers_theme(dock: Any, finish: Any) -> None:
    made = dock(show=True)
    made.score("volume")
    finish(made)
    for theme in ("light", "dark"):
        made.viewer.theme = theme  # while it is open
        image = made.threshold.histogram.grab().toImage()
        colors = {
            image.pixelColor(x, y).name()
            for x in range(image.width())
            for y in range(image.height())
        }
        assert {getattr(pair, theme) for pair in (MEASURED, FLAGGED, NORMAL)} <= colors


def test_without_calibration_no_curve_is_drawn_and_no_share_is_offered(
    dock: Any, models: Any, finish: Any, qtbot: Any
) -> None:
    models["fake"].calibrated = False
    made = dock()
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    panel = made.threshold
    assert panel.unit_box.currentData() == UNIT
    assert not panel.unit_box.model().item(panel.unit_box.findData(SHARE)).isEnabled()
    image = panel.histogram.grab().toImage()
    assert not {NORMAL.dark, NORMAL.light} & {
        image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())
    }


def test_advanced_settings_reach_the_mask_and_the_record(
    scored: Any, finish: Any, qtbot: Any, monkeypatch: Any, tmp_path: Path, notes: list[str]
) -> None:
    form = scored.threshold.form
    assert not form.fold.isExpanded()
    assert not form.hysteresis.isVisibleTo(form)
    form.hysteresis.setChecked(True)
    scored.threshold.form.higher.setValue(0.2)  # percent: below the lesion's score of 2
    finish(scored)
    assert mask_of(scored).sum() == 240
    choose(scored, UNIT)
    form.higher.setValue(2.1)
    finish(scored)
    assert mask_of(scored).sum() == 0
    form.hysteresis.setChecked(False)
    form.min_area.setValue(120)  # the lesion has 80 pixels of 1.5 mm2
    finish(scored)
    assert mask_of(scored).sum() == 240
    form.min_area.setValue(121)
    finish(scored)
    assert mask_of(scored).sum() == 0
    form.min_area.setValue(0)
    form.smoothing.setValue(1)
    form.fill_holes.setChecked(True)
    form.body_only.setChecked(True)
    finish(scored)
    expected = MaskSettings(body_only=True, smoothing_mm=1, fill_holes=True)
    assert scored.masks.settings == expected
    assert form.fold.text() == "Advanced (3 set)"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(tmp_path))
    qtbot.mouseClick(scored.export.all_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=5000)
    record = json.loads((tmp_path / "mr-series-4" / "provenance.json").read_text())["threshold"]
    assert (record["smoothing_mm"], record["fill_holes"], record["body_only"]) == (1, True, True)
    assert record["mask_edited_by_hand"] is False


def test_a_drawn_region_bounds_the_mask(scored: Any, finish: Any) -> None:
    made, box = scored, scored.threshold.form.region
    scan = made.session.layer
    half = np.zeros(scan.data.shape, int)
    half[: scan.data.shape[0] // 2] = 3
    labels = made.viewer.add_labels(half, name="half", scale=scan.scale, translate=scan.translate)
    box.setCurrentText("half")
    finish(made)
    inside = made.session.geometry.from_display(half > 0)
    assert np.array_equal(mask_of(made) > 0, (made.session.volume.data == 100) & inside)
    made.viewer.layers.remove(labels)
    finish(made)
    assert box.layer is None
    assert mask_of(made).sum() == 240
    where = np.argwhere(made.session.geometry.to_display(made.session.volume.data == 100))
    at, low, high = where[0][0], where.min(axis=0)[1:] - 0.5, where.max(axis=0)[1:] + 0.5
    corners = [[at, low[0], low[1]], [at, low[0], high[1]], [at, *high], [at, high[0], low[1]]]
    shapes = made.viewer.add_shapes(
        [np.array(corners)], shape_type="polygon", scale=scan.scale, translate=scan.translate
    )
    box.setCurrentText(shapes.name)
    finish(made)
    assert mask_of(made).sum() == 80
    shapes.add(np.add(corners, [1, 0, 0]), shape_type="rectangle")
    finish(made)
    assert mask_of(made).sum() == 160
    assert isinstance(shapes, Shapes)


def test_a_region_that_cannot_be_used_is_refused_and_the_whole_scan_stays(
    scored: Any, finish: Any
) -> None:
    form = scored.threshold.form
    scored.viewer.add_layer(Labels(np.ones((3, 4, 5), int), name="other"))
    form.region.setCurrentText("other")
    finish(scored)
    assert "are not on the scan's grid" in form.note.text()
    assert form.region.layer is None
    assert mask_of(scored).sum() == 240
