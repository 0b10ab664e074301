"""The demonstration: scored, and stopped at the most unusual slice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.errors import WeightsError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.demo import show_demo
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.normative.model_file import BackboneRef
from tests.fake_model import fake_header


def test_the_demo_ends_at_the_highest_slice(
    make_napari_viewer: Any, models: Any, lab: Any, qtbot: Any
) -> None:
    models["fake"].header = fake_header()
    volume = lab.make_volume()
    volume.data[9, 0, 0] = 150
    ready: list[ReviewDock] = []
    viewer = make_napari_viewer()
    show_demo(model="fake", volume=volume, viewer=viewer, block=False, ready=ready.append)
    qtbot.waitUntil(lambda: len(ready) == 1, timeout=10_000)
    (dock,) = ready
    assert dock.session.score.scored.all()
    names = [layer.name for layer in viewer.layers]
    assert names == ["MR series 4", "departure: fake", "mask: fake"]
    assert viewer.dims.current_step[0] == volume.geometry.slice_position(9)
    assert np.asarray(viewer.layers[0].data)[viewer.dims.current_step[0]].max() == 150


def test_missing_weights_are_told_before_a_window_opens(
    models: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    models["fake"].header = fake_header(backbone=BackboneRef("gone", (), ""))
    monkeypatch.setattr(model_access, "weights_hint", lambda name: f"No {name}.")
    monkeypatch.setattr(model_access, "weights_advice", lambda name: f"Run weights pull {name}")
    with pytest.raises(WeightsError, match="weights pull gone"):
        show_demo(model="fake", volume=lab.make_volume(), viewer=None, block=False)
