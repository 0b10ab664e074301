"""What must hold of dock and canvas together, whatever was done before."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels, Shapes

from napari_spatial_ar.gui.layers import KEY, is_scan, kind_of, scan_behind
from napari_spatial_ar.gui.viewer import camera_of


def assert_one_patient(dock: Any) -> None:
    """Exactly the chosen scan and the results of the chosen model and plane are seen.

    At a slice inside the scan, with a part of it amid the canvas.
    """
    viewer, scan, session = dock.viewer, dock.scan.layer, dock.session
    layers = list(viewer.layers)
    scans = [layer for layer in layers if is_scan(layer)]
    results = [layer for layer in layers if kind_of(layer) in ("nll", "mask")]
    assert (scan in scans) if scans else scan is None
    assert [layer for layer in scans if layer.visible] == ([] if scan is None else [scan])
    expected = set()
    if session is not None and session.any_scored:
        made = (session.heatmap, session.mask)
        shown = dict(zip(("nll", "mask"), dock.visibility.drawn, strict=True))
        expected = {x for x in made if x is not None and x in layers and shown[kind_of(x)]}
    assert {layer for layer in results if layer.visible} == expected
    texts = [dock.scan.box.itemData(index) for index in range(dock.scan.box.count())]
    assert set(texts) == (set(scans) or {None})
    assert dock.scan.box.currentData() is scan
    if scan is not None:
        assert_inside(viewer, scan)
    scored = session is not None and session.any_scored
    assert dock.threshold.highest.isEnabled() == scored
    assert dock.export.mask_button.isEnabled() == scored
    if session is None:
        assert "are scored" not in dock.score_note.text()
    regions = {x for x in layers if isinstance(x, Labels | Shapes) and KEY not in x.metadata}
    assert not any(x.visible and not dock.visibility.belongs(x) for x in regions)


def assert_nothing_left(dock: Any) -> None:
    """No results are left of scans that are gone."""
    layers = list(dock.viewer.layers)
    made_from = {scan_behind(layer) for layer in layers if kind_of(layer) in ("nll", "mask")}
    assert made_from <= set(layers)
    assert {session.layer for session in dock.scorer.sessions} <= set(layers)


def assert_inside(viewer: Any, scan: Any) -> None:
    """The slice in view is one of the scan, and its sliders reach no farther."""
    low, high = np.asarray(scan.extent.world)
    point = np.asarray(viewer.dims.point[-scan.ndim :])
    assert ((low <= point) & (point <= high)).all(), (low, point, high)
    steps, counts = viewer.dims.current_step[-scan.ndim :], viewer.dims.nsteps[-scan.ndim :]
    assert all(0 <= at < size for at, size in zip(steps, scan.data.shape, strict=True))
    assert tuple(counts) == tuple(scan.data.shape)
    axes = [axis - viewer.dims.ndim for axis in viewer.dims.displayed]
    axes = [axis for axis in axes if axis >= -scan.ndim]
    center = np.asarray(camera_of(viewer).center[-len(axes) :])
    assert ((low[axes] <= center) & (center <= high[axes])).all(), "out of view"
