"""The patch under the cursor, explained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.review.explain_panel import Place, place_under_cursor
from napari_spatial_ar.normative.detectors.explanation import Explanation, Quantity
from napari_spatial_ar.normative.explaining import PatchPicture, patch_at
from napari_spatial_ar.normative.fitting.neighbours import Neighbour

LEFT = Qt.MouseButton.LeftButton
PICTURE = PatchPicture(np.full((7, 7), 0.5, np.float32), (3, 3, 4, 4))


class FakeEmbedded:
    def __init__(self, index: int):
        self.index = index

    def patch_at(self, pixel: tuple[int, int]) -> tuple[int, int]:
        return patch_at(pixel, (40, 36), (4, 4))

    def explain(self, model: Any, patch: tuple[int, int]) -> Explanation:
        part = Quantity("Distance", 0.25 + patch[0], "cosine distance")
        return Explanation(f"Slice {self.index} means this.", (part,))

    def embedding(self, patch: tuple[int, int]) -> Any:
        return patch

    def picture(self, patch: tuple[int, int]) -> PatchPicture:
        return PICTURE


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slices that were embedded."""
    asked: list[int] = []

    def embed(model: Any, volume: Any, index: int) -> FakeEmbedded:
        asked.append(index)
        return FakeEmbedded(index)

    monkeypatch.setattr(model_access, "embed_plane", embed)
    return asked


@pytest.fixture
def scored(dock: Any, finish: Any, embedded: list[int], lab: Any) -> ReviewDock:
    made = dock(lab.make_volume("RPI"))
    made.score("volume")
    finish(made)
    return made


def point(made: ReviewDock, voxel: tuple[int, int, int]) -> None:
    """Move the mouse to a voxel of the scan's own grid."""
    session, viewer = made.session, made.viewer
    at = session.layer.data_to_world(session.geometry.display_index(voxel))
    viewer.cursor.position = tuple(at)
    for callback in viewer.mouse_move_callbacks:
        callback(viewer, None)


def test_nothing_is_done_while_it_is_folded(scored: ReviewDock, embedded: list[int]) -> None:
    assert not scored.explain.fold.isExpanded()
    point(scored, (6, 10, 25))
    assert scored.explain.explainer.place is None
    assert not embedded


def test_it_follows_the_mouse_until_it_is_frozen(
    scored: ReviewDock, qtbot: Any, embedded: list[int]
) -> None:
    panel = scored.explain
    panel.toggle()
    assert panel.fold.isExpanded()
    point(scored, (6, 10, 25))  # in the lesion
    qtbot.waitUntil(lambda: "Distance" in panel.parts.text(), timeout=5000)
    index, row, column = 6, 10, 25
    place = panel.explainer.place
    assert place.index == index
    planes = scored.session.geometry.to_slices(scored.session.score.nll)
    assert planes[place.index, place.row, place.column] == scored.session.score.nll[6, row, column]
    assert panel.score.text() == "Score here: 2 nats per dimension"
    assert panel.share.text() == "Of normal tissue, less than 0.1 % scores as high."
    assert panel.meaning.text() == "Slice 6 means this."
    qtbot.mouseClick(panel.freeze, LEFT)
    point(scored, (2, 3, 3))
    qtbot.wait(60)
    assert panel.explainer.place == place
    panel.toggle()
    point(scored, (2, 3, 3))
    qtbot.waitUntil(lambda: "Slice 2 " in panel.meaning.text(), timeout=5000)
    assert panel.score.text() == "Score here: 1.2 nats per dimension"
    point(scored, (2, 3, 4))
    qtbot.waitUntil(lambda: panel.explainer.place.index == 2 and panel.explainer._task is None)
    assert embedded == [6, 2]  # a slice once


def test_a_place_is_found_in_any_orientation(dock: Any, finish: Any, lab: Any) -> None:
    made = dock(lab.make_volume("PSR"))
    made.score("volume")
    finish(made)
    session = made.session
    marked = np.zeros(lab.shape)
    marked[3, 30, 7] = 1
    at = session.layer.data_to_world(session.geometry.display_index((3, 30, 7)))
    made.viewer.cursor.position = tuple(at)
    place = place_under_cursor(made.viewer, session)
    assert isinstance(place, Place)
    assert session.geometry.to_slices(marked)[place.index, place.row, place.column] == 1
    made.viewer.cursor.position = (9999.0, 0.0, 0.0)
    assert place_under_cursor(made.viewer, session) is None


def explained(made: ReviewDock, qtbot: Any) -> Any:
    panel = made.explain
    panel.toggle()
    point(made, (6, 10, 25))
    qtbot.waitUntil(lambda: panel.explainer.last is not None, timeout=5000)
    return panel


def test_similar_patches_come_from_a_folder_that_is_remembered(
    scored: ReviewDock, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def steps(model: Any, folders: Any, query: Any) -> Any:
        asked.append((folders, query))
        for done in (1, 2):
            yield SimpleNamespace(stage="features", epoch=0, done=done, total=2, message="Looking")
        return (Neighbour(0.125, PICTURE), Neighbour(0.5, PICTURE))

    monkeypatch.setattr(model_access, "similar_steps", steps)
    panel = explained(scored, qtbot)
    assert not panel.similar.isEnabled()
    assert "choose their folder" in " ".join(panel.similar.toolTip().split())
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(tmp_path))
    qtbot.mouseClick(panel.folder, LEFT)
    qtbot.waitUntil(lambda: "0.12, 0.50" in panel.note.text(), timeout=5000)
    assert asked == [([str(tmp_path)], panel.explainer.last.patch)]
    assert panel.picture.pixmap().width() == 3 * 72 + 2 * 4
    assert panel.explainer.frozen
    qtbot.waitUntil(panel.similar.isEnabled)
    assert not panel.bar.isVisibleTo(panel)


def test_a_search_can_be_cancelled_and_errors_are_sentences(
    scored: ReviewDock, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    def endless(model: Any, folders: Any, query: Any) -> Any:
        try:
            while True:
                yield SimpleNamespace(stage="a", epoch=0, done=1, total=2, message="Looking")
        finally:
            ended.append(True)

    def failing(model: Any, folders: Any, query: Any) -> Any:
        yield SimpleNamespace(stage="a", epoch=0, done=1, total=2, message="Looking")
        raise InputError("'fake' was trained on none of its slices")

    monkeypatch.setattr(model_access, "similar_steps", endless)
    panel = explained(scored, qtbot)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(tmp_path))
    qtbot.mouseClick(panel.folder, LEFT)
    qtbot.waitUntil(lambda: panel.note.text().startswith("Looking: 1 of 2"), timeout=5000)
    panel.stop.click()
    qtbot.waitUntil(lambda: bool(ended) and panel.similar.isEnabled(), timeout=5000)
    assert not panel.picture.isVisibleTo(panel)
    monkeypatch.setattr(model_access, "similar_steps", failing)
    panel.similar.click()
    qtbot.waitUntil(lambda: "was trained on none" in panel.note.text(), timeout=5000)
