"""Slices that the model has not seen, in the viewer and the dock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.review.dock import ReviewDock

Make = Callable[..., ReviewDock]
Finish = Callable[[ReviewDock], None]


def layers(dock: ReviewDock, kind: str) -> list[Any]:
    return [x for x in dock.viewer.layers if x.metadata.get(KEY, {}).get("kind") == kind]


def touched(dock: ReviewDock, kind: str, axis: int = 0) -> list[int]:
    """Acquired slices in which a layer has anything."""
    session = dock.session
    assert session is not None
    (layer,) = layers(dock, kind)
    data = session.geometry.from_display(np.asarray(layer.data))
    assert session.geometry.slice_axis == axis
    return np.flatnonzero(data.any(axis=(1, 2))).tolist()


@pytest.fixture
def scored(dock: Make, qtbot: Any, finish: Finish, models: Any, lab: Any) -> ReviewDock:
    """A scan of which the model knows all slices but the first two and the last."""
    count = lab.shape[0]
    models["fake"].strange = [1.5, 1.2, *[0.5] * (count - 3), 3.0]
    made = dock()
    qtbot.mouseClick(made.volume_button, Qt.MouseButton.LeftButton)
    finish(made)
    return made


def test_they_are_grey_without_heatmap_or_mask(scored: ReviewDock, lab: Any) -> None:
    count = lab.shape[0]
    assert touched(scored, "unseen") == [0, 1, count - 1]
    assert touched(scored, "nll") == list(range(2, count - 1))
    assert not set(touched(scored, "mask")) & {0, 1, count - 1}
    assert scored.unseen_note.text() == f"The model knows slices 3 to {count - 1} of this scan."
    (shade,) = layers(scored, "unseen")
    assert shade.visible
    assert shade.name == "not seen: fake"


def test_a_box_includes_them_and_is_remembered(
    scored: ReviewDock, lab: Any, finish: Finish
) -> None:
    count, box = lab.shape[0], scored.threshold.form.unseen
    scored.display_panel.fold.expand()
    assert box.isVisibleTo(scored.display_panel)
    assert not box.isChecked()
    known = int(scored.session.score.scored.sum())
    box.click()
    finish(scored)
    assert touched(scored, "unseen") == []
    assert touched(scored, "nll") == list(range(count))
    assert int(scored.session.score.scored.sum()) == known + 3
    assert scored.unseen_note.text().endswith("; the others count too.")
    assert settings.recall("mask/unseen_slices", False) is True
    box.click()
    finish(scored)
    assert touched(scored, "unseen") == [0, 1, count - 1]
    assert touched(scored, "nll") == list(range(2, count - 1))
    assert not set(touched(scored, "mask")) & {0, 1, count - 1}


def test_the_shade_comes_and_goes_with_the_results(scored: ReviewDock) -> None:
    (shade,) = layers(scored, "unseen")
    scored.display_panel.buttons["off"].click()
    assert not shade.visible
    scored.display_panel.buttons["outline"].click()
    assert shade.visible
    scan = scored.scan.layer
    scored.viewer.layers.remove(scan)
    assert shade not in scored.viewer.layers or not shade.visible


def test_a_scan_without_a_known_slice_says_so(
    dock: Make, qtbot: Any, finish: Finish, models: Any, lab: Any
) -> None:
    models["fake"].strange = [2.0] * lab.shape[0]
    made = dock()
    qtbot.mouseClick(made.volume_button, Qt.MouseButton.LeftButton)
    finish(made)
    text = made.unseen_note.text()
    assert text.startswith(f"None of the {lab.shape[0]} slices scored is like those")
    assert touched(made, "unseen") == list(range(lab.shape[0]))
    assert touched(made, "nll") == []
    made.threshold.form.unseen.click()
    finish(made)
    assert touched(made, "nll") == list(range(lab.shape[0]))
    assert touched(made, "mask")
    made.threshold.form.unseen.click()
    finish(made)
    assert touched(made, "mask") == []


def test_models_without_a_basis_leave_nothing_out(
    dock: Make, qtbot: Any, finish: Finish, lab: Any
) -> None:
    made = dock()
    qtbot.mouseClick(made.volume_button, Qt.MouseButton.LeftButton)
    finish(made)
    assert made.unseen_note.text() == ""
    assert layers(made, "unseen") == []
    assert touched(made, "nll") == list(range(lab.shape[0]))
