"""Which slices are in view."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_spatial_ar.gui.layers import KEY, volume_layer_kwargs
from napari_spatial_ar.gui.viewer import (
    camera_of,
    fit_view,
    go_to_slice,
    show_plane,
    shows_slices,
)


@pytest.mark.parametrize("codes", ["LPS", "RPI", "PSR", "ILA"])
def test_slices_in_view_are_told_in_any_orientation(codes: str, lab: Any) -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(**volume_layer_kwargs(lab.make_volume(codes)))
    geometry = layer.metadata[KEY]["geometry"]
    show_plane(viewer, geometry.plane)
    go_to_slice(viewer, layer, geometry, 7)
    seen = [i for i in range(lab.shape[0]) if shows_slices(viewer, layer, geometry, [i])]
    assert seen == [7]
    assert shows_slices(viewer, layer, geometry, [3, 7])
    assert not shows_slices(viewer, layer, geometry, [])


def test_across_the_slices_and_in_3d_all_of_them_are_in_view(lab: Any) -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    geometry = layer.metadata[KEY]["geometry"]
    show_plane(viewer, "sagittal")
    assert shows_slices(viewer, layer, geometry, [0])
    viewer.dims.ndisplay = 3
    assert shows_slices(viewer, layer, geometry, [0])


def test_a_slice_out_of_view_is_not_drawn_again(dock: Any, finish: Any, models: Any) -> None:
    made = dock()
    made.score("slice")
    finish(made)
    session = made.session
    drawn: list[int] = []

    def count(event: Any) -> None:
        drawn.append(1)

    session.heatmap.events.set_data.connect(count)
    session.mask.events.set_data.connect(count)
    before = tuple(session.heatmap.contrast_limits)
    score = next(models["fake"].iter_volume(session.volume, [2]))[1]
    session.put([(2, score)])
    made.masks.slices_scored([2])
    assert drawn == []
    assert np.array_equal(session.nll_planes[2], score.nll)
    assert tuple(session.heatmap.contrast_limits) == before
    go_to_slice(made.viewer, session.layer, session.geometry, 2)
    assert len(drawn) >= 2  # both, as they are now


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("shape", [(5, 30, 20), (30, 20)])
def test_a_layer_is_fitted_whatever_lies_elsewhere(
    shape: tuple[int, ...], older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, beside = ViewerModel(), ViewerModel()
    beside.add_image(np.zeros((4, 500, 400)), translate=(900, -700, 3000))
    if older:
        whole = ViewerModel.reset_view
        monkeypatch.setattr(ViewerModel, "reset_view", lambda self: whole(self))
    for viewer in (alone, beside):
        layer = viewer.add_image(np.zeros(shape), translate=(7.0,) * len(shape))
        fit_view(viewer, layer)
    one, other = camera_of(alone), camera_of(beside)
    assert np.allclose(one.center[-2:], other.center[-2:])
    assert one.zoom == pytest.approx(other.zoom, rel=0.1)
