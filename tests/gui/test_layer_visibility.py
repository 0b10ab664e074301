"""Dock and canvas show the same patient, whatever is opened, chosen, scored and deleted."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtWidgets import QApplication

from napari_spatial_ar.gui.layers import KEY, kind_of, volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.viewer import camera_of, go_to_slice, slice_in_view
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from tests.gui.one_patient import assert_inside, assert_nothing_left, assert_one_patient


def volume_at(
    label: str, start: tuple[float, float, float], shape: tuple[int, int, int], spacing: float
) -> Scan:
    """Axial slices from a place on, of a patient of its own."""
    affine = np.diag([-spacing, -spacing, 2 * spacing, 1.0])
    affine[:3, 3] = start
    data = np.random.default_rng(len(label)).random(shape, np.float32) * 20
    data[shape[0] // 2] += 100
    return Scan(data, Geometry(shape, affine), "mri", Series(label))


#: Of three patients: at one place, far from it, and of another size there.
PATIENTS = {
    "A": volume_at("A", (30, 40, 0), (12, 40, 36), 2.0),
    "BB": volume_at("BB", (800, -900, 700), (7, 20, 24), 0.5),
    "CCC": volume_at("CCC", (20, 30, 4), (5, 30, 30), 1.5),
}


class Person:
    """Somebody at the screen, who sees after each step that one patient is shown."""

    def __init__(self, dock: ReviewDock, qtbot: Any, finish: Callable[[ReviewDock], None]):
        self.dock, self.viewer = dock, dock.viewer
        self._qtbot, self._finish = qtbot, finish

    def look(self) -> None:
        ready = self.dock.models
        self._qtbot.waitUntil(lambda: ready.model is not None, timeout=10_000)
        self._finish(self.dock)
        QApplication.processEvents()
        assert_one_patient(self.dock)
        assert_nothing_left(self.dock)

    def open(self, label: str, visible: bool = False) -> Image:
        arguments = volume_layer_kwargs(PATIENTS[label])
        layer = self.viewer.add_image(**arguments, visible=visible)
        assert_one_patient(self.dock)
        self.dock.scan.list.choose(layer)
        self.look()
        return layer

    def choose(self, layer: Image) -> None:
        self.dock.scan.list.choose(layer)
        assert_one_patient(self.dock)
        self.look()

    def score(self, what: str = "volume") -> Any:
        self.dock.score(what)
        self.look()
        assert self.dock.session.any_scored
        return self.dock.session

    def pick(self, box: Any, index: int) -> None:
        """Another model or plane: what does not belong to it goes at once."""
        box.setCurrentIndex(index)
        assert_one_patient(self.dock)
        self.look()

    def delete(self, layer: Any) -> None:
        self.viewer.layers.remove(layer)
        assert_one_patient(self.dock)
        self.look()


@pytest.fixture
def person(dock: Any, models: Any, lab: Any, qtbot: Any, finish: Any) -> Person:
    models["other"] = lab.Model(name="other")
    return Person(dock(scan=False), qtbot, finish)


def shown(viewer: Any) -> set[Any]:
    return {layer for layer in viewer.layers if layer.visible}


def test_opened_in_sequence_one_patient_is_seen_at_a_time(person: Person) -> None:
    dock, viewer = person.dock, person.viewer
    a = person.open("A")
    session = person.score()
    go_to_slice(viewer, a, session.geometry, 3)
    b = person.open("BB")
    assert shown(viewer) == {b}
    assert dock.score_note.text() == ""
    assert not dock.threshold.highest.isEnabled()
    person.choose(a)
    assert shown(viewer) == {a, session.heatmap, session.mask}
    assert slice_in_view(viewer, a, session.geometry) == 3  # as it was left
    assert dock.score_note.text() == "12 of 12 slices are scored."
    dock.threshold.highest.click()
    assert slice_in_view(viewer, a, session.geometry) == 6
    person.pick(dock.plane_box, 3)
    assert shown(viewer) == {a}
    sagittal = person.score("slice")
    assert shown(viewer) == {a, sagittal.heatmap, sagittal.mask}
    person.pick(dock.model_box, 1)
    assert shown(viewer) == {a}
    other = person.score()
    assert len(viewer.layers) == 8
    person.choose(b)
    person.score()
    person.delete(b)
    assert dock.scan.layer is a
    assert dock.session is other
    person.pick(dock.model_box, 0)
    assert shown(viewer) == {a, session.heatmap, session.mask}
    person.delete(a)
    assert list(viewer.layers) == []
    assert dock.scorer.sessions == []


def test_scans_at_one_place_keep_slice_and_zoom_and_others_come_back_as_they_were_left(
    person: Person,
) -> None:
    viewer, camera = person.viewer, camera_of(person.viewer)
    first = person.open("A")
    geometry = first.metadata[KEY]["geometry"]
    second = person.open("A")
    go_to_slice(viewer, second, geometry, 9)
    camera.zoom = 3 * camera.zoom
    camera.center = (0, *(np.asarray(camera.center[-2:]) + 7))
    place = camera.zoom, tuple(camera.center)
    person.choose(first)
    assert slice_in_view(viewer, first, geometry) == 9
    assert (camera.zoom, tuple(camera.center)) == place
    person.open("BB")
    assert camera.zoom != place[0]
    person.choose(second)
    assert slice_in_view(viewer, second, geometry) == 9
    assert (camera.zoom, tuple(camera.center)) == place
    viewer.reset_view()  # napari's Home key fits what is hidden, too
    assert np.allclose(camera.center[-2:], np.asarray(second.extent.world)[:, 1:].mean(0), atol=1)
    assert camera.zoom < place[0]


def test_the_dock_follows_what_is_shown_by_hand(person: Person) -> None:
    dock, viewer = person.dock, person.viewer
    a = person.open("A")
    mine = person.score()
    b = person.open("BB")
    other = person.score()
    a.visible = True  # the eye in napari's list
    assert dock.scan.layer is a
    person.look()
    other.heatmap.visible = True
    assert dock.scan.layer is b
    person.look()
    # Of another plane, then of another model.
    person.choose(a)
    person.pick(dock.plane_box, 2)
    person.score("slice")
    mine.mask.visible = True
    assert dock.session is mine
    person.look()
    person.pick(dock.model_box, 1)
    person.pick(dock.plane_box, 1)
    coronal = person.score("slice")
    mine.heatmap.visible = True
    person.look()
    assert dock.session is mine
    coronal.heatmap.visible = True
    person.look()
    assert dock.session is coronal
    assert dock.model_box.currentText() == "other"
    # Selecting shows nothing, and contradicts nothing.
    viewer.layers.selection = {b}
    person.look()
    assert dock.scan.layer is a
    a.visible = False  # to see the results alone
    dock.score("slice")
    assert not a.visible


def test_scans_that_other_plugins_open_are_followed(person: Person) -> None:
    dock, viewer = person.dock, person.viewer
    person.open("A")
    person.score()
    plain = viewer.add_image(np.random.default_rng(0).random((6, 30, 20)), name="plain")
    assert dock.scan.layer is plain
    person.look()
    assert shown(viewer) == {plain}
    flat = viewer.add_image(np.random.default_rng(0).random((30, 20)), name="flat")
    person.look()
    assert dock.scan.layer is flat


def test_what_was_drawn_on_a_scan_is_seen_and_used_with_it_alone(
    person: Person, notes: list[str]
) -> None:
    dock, viewer = person.dock, person.viewer
    a = person.open("A")
    box = [(6, 0, 0), (6, 0, 40), (6, 40, 40), (6, 40, 0)]
    region = viewer.add_shapes([np.array(box)], shape_type="polygon", name="region")
    points = viewer.add_points(np.zeros((1, 3)), name="points")
    points.visible = False  # by hand
    person.score()
    form = dock.threshold.form
    form.region.setCurrentText("region")
    b = person.open("BB")
    assert shown(viewer) == {b}
    assert form.region.count() == 1
    assert form.region.layer is None
    person.score()
    person.choose(a)
    assert region.visible
    assert not points.visible
    assert form.region.layer is region
    points.visible = True
    person.choose(b)
    assert not points.visible
    points.visible = True  # by hand: it goes with this scan from now on
    assert dock.visibility.belongs(points)
    person.choose(a)
    assert not points.visible
    person.delete(a)
    assert region in viewer.layers
    assert not region.visible
    assert form.region.count() == 1
    assert points in viewer.layers
    assert notes == ["Drawn on the scan that was deleted, kept hidden among the layers: 'region'."]
    region.visible = True  # by hand: it goes with this scan from now on
    assert form.region.count() == 2
    person.delete(b)
    assert not region.visible
    region.visible = True
    person.look()
    assert region.visible


def test_a_scan_deleted_with_work_by_hand_comes_back_with_it(person: Person) -> None:
    dock, viewer = person.dock, person.viewer
    a = person.open("A")
    session = person.score()
    person.delete(a)
    assert dock.shelf.isHidden()  # nothing was done to it by hand
    a = person.open("A")
    session = person.score()
    region = viewer.add_shapes([np.eye(3)], shape_type="path", name="region")
    dock.masks.decide(session.listed.items[0].finding.label, status="keep", comment="seen")
    session.mask.paint((0, 1, 1), 1)
    person.look()
    assert session.strokes
    session.mask.paint((11, 1, 1), 1)  # and deleted before the dock has taken note of it
    layers = {a, session.heatmap, session.mask}
    viewer.layers.selection = layers
    viewer.layers.remove_selected()
    person.look()
    assert layers.isdisjoint(viewer.layers)
    assert not dock.shelf.isHidden()
    assert dock.shelf.note.text() == "Deleted with manual edits, decisions or comments: A."
    b = person.open("BB")
    person.score()
    assert not region.visible
    dock.shelf.back_button.click()
    person.look()
    assert dock.shelf.isHidden()
    assert dock.scan.layer is a
    assert dock.session is session
    assert region.visible
    assert layers < set(viewer.layers)
    kept = [item for item in session.listed.items if item.status == "keep"]
    assert [item.comment for item in kept] == ["seen"]
    assert {int(session.mask.data[z, 1, 1]) != 0 for z in (0, 11)} == {True}
    person.choose(b)
    person.delete(a)
    dock.shelf.discard_button.click()
    assert dock.shelf.isHidden()
    assert a not in viewer.layers


def test_a_scan_takes_its_results_along_however_it_is_deleted(person: Person) -> None:
    viewer = person.viewer
    a = person.open("A")
    person.score()
    b = person.open("BB")
    kept = person.score()
    viewer.layers.selection = set(viewer.layers) - {b, kept.heatmap, kept.mask}
    viewer.layers.remove_selected()  # the Delete key, with the results selected too
    person.look()
    assert a not in viewer.layers
    assert set(viewer.layers) == {b, kept.heatmap, kept.mask}
    assert viewer.layers.selection == {b}
    viewer.layers.selection = {b, kept.mask}
    viewer.layers.move(0, 3)  # above its results
    viewer.layers.remove_selected()
    person.look()
    assert list(viewer.layers) == []
    person.open("A")
    person.score()
    viewer.layers.clear()
    person.look()
    assert person.dock.scorer.sessions == []


def test_results_deleted_alone_are_drawn_again_when_asked_for(person: Person) -> None:
    dock, viewer = person.dock, person.viewer
    person.open("A")
    session = person.score()
    person.delete(session.heatmap)
    assert dock.session is session
    person.delete(session.mask)
    count = len(viewer.layers)
    dock.display_panel.buttons["both"].click()
    person.look()
    assert len(viewer.layers) == count + 2
    assert session.heatmap.visible
    assert session.mask.visible
    assert np.asarray(session.mask.data).any()


def test_a_scan_scored_while_another_is_chosen_stays_out_of_sight(
    person: Person, models: Any, qtbot: Any
) -> None:
    dock = person.dock
    a = person.open("A")
    b = person.open("CCC")
    person.choose(a)
    dock.score("volume")
    dock.scan.list.choose(b)
    assert_one_patient(dock)
    assert dock.score_note.text().startswith("Another scan is being scored")
    person.look()
    assert shown(person.viewer) == {b}
    assert dock.score_note.text() == ""
    person.choose(a)
    assert dock.session.score.scored.all()


def test_a_dock_that_opens_late_keeps_what_is_on_top(
    bare_viewer: Any, models: Any, qtbot: Any, finish: Any
) -> None:
    for label in ("A", "BB", "CCC"):
        bare_viewer.add_image(**volume_layer_kwargs(PATIENTS[label]))
    bare_viewer.layers[2].visible = False
    dock = ReviewDock(bare_viewer)
    assert dock.scan.layer is bare_viewer.layers[1]
    Person(dock, qtbot, finish).look()


def test_while_the_dock_is_closed_layers_are_napari_s(person: Person) -> None:
    dock, viewer = person.dock, person.viewer
    a = person.open("A")
    b = person.open("BB")
    dock.set_suspended(True)
    a.visible = True
    assert b.visible
    assert viewer.dims.range[0].stop > 700
    viewer.layers.remove(b)
    viewer.add_image(**volume_layer_kwargs(PATIENTS["CCC"]))
    assert a.visible
    dock.set_suspended(False)
    person.look()


def test_units_and_sizes_may_differ(person: Person) -> None:
    person.open("A")
    flat = Geometry.without_spacing((3, 50, 60))
    pictures = Scan(
        np.random.default_rng(0).random((3, 50, 60), np.float32), flat, "oct", Series("p")
    )
    first = person.viewer.layers[0]
    layer = person.viewer.add_image(**volume_layer_kwargs(pictures), visible=False)
    person.choose(layer)
    person.score()
    person.choose(first)
    irregular = replace(PATIENTS["CCC"], geometry=replace(PATIENTS["CCC"].geometry, regular=False))
    person.choose(person.viewer.add_image(**volume_layer_kwargs(irregular), visible=False))
    person.viewer.dims.ndisplay = 3
    person.choose(first)
    person.viewer.dims.ndisplay = 2
    assert_inside(person.viewer, first)


@pytest.mark.parametrize("seed", range(3))
def test_one_patient_is_seen_whatever_is_done_in_whatever_order(person: Person, seed: int) -> None:
    chance = random.Random(seed)
    dock, viewer = person.dock, person.viewer

    def any_of(kinds: set[str]) -> Any:
        found = [layer for layer in viewer.layers if kind_of(layer) in kinds]
        return chance.choice(found) if found else None

    def with_layer(kinds: set[str], do: Callable[[Any], Any]) -> None:
        layer = any_of(kinds)
        if layer is not None:
            do(layer)

    results = {"nll", "mask"}
    steps: list[Callable[[], Any]] = [
        lambda: person.open(chance.choice(list(PATIENTS)), visible=chance.random() < 0.5),
        lambda: with_layer({"scan"}, person.choose),
        lambda: with_layer({"scan"}, lambda layer: setattr(layer, "visible", True)),
        lambda: with_layer(results, lambda layer: setattr(layer, "visible", not layer.visible)),
        lambda: with_layer({"scan"}, person.delete) if len(viewer.layers) > 4 else None,
        lambda: with_layer(results, person.delete),
        lambda: person.pick(dock.model_box, chance.randrange(2)),
        lambda: person.pick(dock.plane_box, chance.randrange(4)),
        lambda: dock.score(chance.choice(["slice", "volume"])),
        lambda: chance.choice(list(dock.display_panel.buttons.values())).click(),
        lambda: viewer.layers.move(0, len(viewer.layers)) if viewer.layers else None,
        lambda: dock.scan.planes.buttons[chance.choice(["axial", "coronal"])].click(),
    ]
    for _ in range(40):
        chance.choice(steps)()
        person.look()
