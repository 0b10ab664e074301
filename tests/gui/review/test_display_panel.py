"""How results are drawn: modes, colours, opacity, and two views side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListView

from napari_spatial_ar.gui.layers import is_scan, kind_of, volume_layer_kwargs
from napari_spatial_ar.gui.review.display_panel import MODES, grid_of
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.review.findings_panel import KEYS
from napari_spatial_ar.gui.shortcuts import EXPLAIN_KEY, MODE_KEY, SHORTCUTS, SIDE_KEY
from napari_spatial_ar.gui.viewer import camera_of, patient_marks
from napari_spatial_ar.review.drawing import HEAT_COLOURS

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def scored(request: pytest.FixtureRequest, dock: Any, finish: Any) -> ReviewDock:
    made = dock(show=getattr(request, "param", False))
    made.score("volume")
    finish(made)
    return made


#: The same in a window on the screen.
on_screen = pytest.mark.parametrize("scored", [True], indirect=True, ids=["on screen"])


def canvas(made: ReviewDock) -> Any:
    return made.viewer.window._qt_viewer.canvas.native


def drawn(made: ReviewDock) -> tuple[bool, bool, int]:
    session = made.session
    return session.heatmap.visible, session.mask.visible, session.mask.contour


@on_screen
def test_a_key_on_the_canvas_goes_through_the_modes(scored: ReviewDock, qtbot: Any) -> None:
    assert drawn(scored) == (True, True, 1)
    seen = []
    for _ in MODES:
        qtbot.keyClick(canvas(scored), Qt.Key.Key_H)
        (pressed,) = (m for m, b in scored.display_panel.buttons.items() if b.isChecked())
        seen.append((pressed, drawn(scored)))
    assert seen == [
        ("outline", (False, True, 1)),
        ("fill", (False, True, 0)),
        ("heatmap", (True, False, 1)),
        ("off", (False, False, 1)),
        ("both", (True, True, 1)),
    ]


@on_screen
def test_a_filled_mask_is_seen_through(scored: ReviewDock, qtbot: Any) -> None:
    outline = scored.session.mask.opacity
    qtbot.mouseClick(scored.display_panel.buttons["fill"], LEFT)
    assert scored.session.mask.opacity <= 0.5
    qtbot.mouseClick(scored.display_panel.buttons["outline"], LEFT)
    assert scored.session.mask.opacity == outline


def test_buttons_follow_the_layer_list(scored: ReviewDock) -> None:
    scored.session.mask.visible = False
    assert scored.display_panel.buttons["heatmap"].isChecked()
    scored.session.heatmap.visible = False
    assert scored.display_panel.buttons["off"].isChecked()


def test_results_that_come_later_are_drawn_so_too(dock: Any, finish: Any) -> None:
    made = dock()
    made.display_panel.display.set_mode("heatmap")
    made.score("volume")
    finish(made)
    assert drawn(made)[:2] == (True, False)


def test_colours_and_opacity_are_remembered(scored: ReviewDock, dock: Any, finish: Any) -> None:
    panel, heatmap = scored.display_panel, scored.session.heatmap
    assert np.allclose(heatmap.colormap.colors, HEAT_COLOURS["inferno"].rgba)
    panel.colours.setCurrentIndex(panel.colours.findData("viridis"))
    assert np.allclose(heatmap.colormap.colors, HEAT_COLOURS["viridis"].rgba)
    panel.opacity.setValue(8)
    assert heatmap.opacity == pytest.approx(0.4)
    panel.display._saver.timeout.emit()
    other = dock()
    assert other.display_panel.colours.currentData() == "viridis"
    assert other.display_panel.opacity.value() == 8
    other.score("volume")
    finish(other)
    assert other.session.heatmap.opacity == pytest.approx(0.4)
    other.session.heatmap.opacity = 0.9  # in napari's own controls
    assert other.display_panel.opacity.value() == 18


# ---------------------------------------------------------------------- side by side


def views(made: ReviewDock) -> dict[tuple[int, int], list[str]]:
    """Visible layers of each view of the grid."""
    layers = made.viewer.layers
    boxes = grid_of(made.viewer).iter_viewboxes(layers)
    return {at: [layers[i].name for i in inside if layers[i].visible] for at, inside in boxes}


def listed(made: ReviewDock) -> set[str]:
    """Names in napari's own list of layers."""
    layers = list(made.viewer.layers)
    return {
        row.data()
        for view in made.window().findChildren(QListView)
        for row in (view.model().index(at, 0) for at in range(view.model().rowCount()))
        if row.data(Qt.ItemDataRole.UserRole) in layers and not view.isRowHidden(row.row())
    }


def state(made: ReviewDock) -> Any:
    grid, camera = grid_of(made.viewer), camera_of(made.viewer)
    return (
        [(layer.name, layer.visible) for layer in made.viewer.layers],
        (grid.enabled, grid.stride, grid.shape, grid.spacing),
        (camera.zoom, tuple(camera.center)),
        {layer.name for layer in made.viewer.layers.selection},
    )


@on_screen
def test_views_that_become_narrow_side_by_side_make_room(
    scored: ReviewDock, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = scored.viewer.canvas
    monkeypatch.setattr("napari_spatial_ar.gui.viewer._NARROW", 0.75 * canvas.size[1])
    place, unit = canvas.overlays["patient_slice"], canvas.overlays["heatmap_unit"]
    scored.display_panel.display._show_colorbars()
    for _ in range(2):
        patient_marks(scored.viewer).refresh()
        assert place.position == "top_left"
        assert unit.text == unit.text.lstrip()
        scored.display_panel.toggle_views()
        scored.viewer.screenshot(flash=False)
        assert place.position == "bottom_center"
        assert unit.text.startswith("\n")  # below the colour bar of its view
        scored.display_panel.toggle_views()
        scored.viewer.screenshot(flash=False)


@on_screen
@pytest.mark.parametrize("others", [0, 3])
def test_side_by_side_and_back(scored: ReviewDock, others: int, qtbot: Any) -> None:
    viewer = scored.viewer
    for number in range(others):
        viewer.add_points(np.zeros((1, 3)), name=f"other {number}")
        viewer.layers.move(len(viewer.layers) - 1, number)
    camera_of(viewer).zoom *= 1.3
    before = state(scored)
    qtbot.keyClick(canvas(scored), Qt.Key.Key_G)
    assert views(scored) == {
        (0, 0): ["MR series 4"],
        (0, 1): ["MR series 4 (beside)", "departure: fake", "mask: fake"],
    }
    assert scored.display_panel.side_button.isChecked()
    assert listed(scored) == {layer.name for layer in viewer.layers if kind_of(layer) != "spacer"}
    assert not viewer.canvas.overlays["heatmap_unit"].gridded  # beside its colour bar alone
    qtbot.mouseClick(scored.display_panel.side_button, LEFT)
    assert state(scored) == before
    assert not scored.display_panel.side_button.isChecked()


@on_screen
def test_both_views_have_one_window_and_the_second_is_no_scan(scored: ReviewDock) -> None:
    scored.display_panel.toggle_views()
    (twin,) = (layer for layer in scored.viewer.layers if kind_of(layer) == "twin")
    scored.scan.layer.contrast_limits = (5, 60)
    assert tuple(twin.contrast_limits) == (5, 60)
    assert np.shares_memory(twin.data, scored.scan.layer.data)
    assert not is_scan(twin)
    assert scored.scan.list.layer is scored.session.layer


def test_side_by_side_before_anything_is_scored(dock: Any, finish: Any) -> None:
    made = dock(show=True)
    made.display_panel.toggle_views()
    assert [len(names) for names in views(made).values()] == [1, 1]
    made.score("volume")
    finish(made)
    assert [len(names) for names in views(made).values()] == [1, 3]


@on_screen
def test_another_scan_or_its_removal_ends_side_by_side(scored: ReviewDock, lab: Any) -> None:
    scored.display_panel.toggle_views()
    scan = scored.scan.layer
    other = scored.viewer.add_image(**volume_layer_kwargs(lab.make_volume("RAS")))
    scored.scan.list.choose(other)
    assert not scored.display_panel.views.active
    assert not grid_of(scored.viewer).enabled
    scored.scan.list.choose(scan)
    scored.display_panel.toggle_views()
    scored.viewer.layers.remove(scan)
    assert not scored.display_panel.views.active
    assert not any(kind_of(layer) in ("twin", "spacer") for layer in scored.viewer.layers)


# ---------------------------------------------------------------------- keys


def test_new_keys_are_none_of_naparis() -> None:
    taken = {str(key) for keys in default_shortcuts.values() for key in keys}
    assert "P" in taken  # how they are spelt
    mine = [MODE_KEY, SIDE_KEY, EXPLAIN_KEY]
    assert not taken & set(mine)
    assert not set(KEYS) & set(mine)


@on_screen
def test_the_table_has_every_key(scored: ReviewDock) -> None:
    listed = {word for key, _ in SHORTCUTS for word in key.replace(",", "").split()}
    assert {MODE_KEY, SIDE_KEY, EXPLAIN_KEY, *KEYS} <= listed
    assert f"({MODE_KEY} " in scored.display_panel.buttons["fill"].toolTip()
    assert f"({SIDE_KEY})" in scored.display_panel.side_button.toolTip()
    assert f"({EXPLAIN_KEY})" in scored.explain.freeze.toolTip()
    assert f"({EXPLAIN_KEY})" in scored.explain.fold.heading.toolTip()


def test_the_colour_bar_has_its_models_unit(
    dock: Any, lab: Any, models: Any, finish: Any, qtbot: Any
) -> None:
    models["fake"].unit = "SD of normal tissue"
    made = dock()
    made.score("slice")
    finish(made)
    unit = made.viewer.canvas.overlays["heatmap_unit"]
    qtbot.waitUntil(lambda: unit.visible, timeout=5000)
    assert unit.text.split() == ["SD", "of", "normal", "tissue"]
    made.display_panel.display.set_mode("outline")
    assert not unit.visible
    made.display_panel.display.set_mode("both")
    assert unit.visible
    made.viewer.layers.remove(made.session.heatmap)
    assert not unit.visible
