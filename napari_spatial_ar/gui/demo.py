"""napari with a scored scan, ready for review."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import napari
from qtpy.QtCore import QTimer

from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.display_windows import opening_window
from napari_spatial_ar.gui.layers import add_scan
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.viewer import show_acquired_plane
from napari_spatial_ar.imaging.samples import sample_volume
from napari_spatial_ar.imaging.scan import Scan

if TYPE_CHECKING:
    from napari import Viewer


__all__ = ["open_review", "show_demo"]

# Interval of the check whether the mask of the whole scan is drawn.
_LOOK_MS = 50


def open_review(viewer: Viewer) -> ReviewDock:
    """Open the Review dock in a viewer, or bring the open one to the front."""
    dock: ReviewDock
    _, dock = viewer.window.add_plugin_dock_widget("napari-spatial-ar", "Review")
    dock.bring_to_front()
    return dock


def show_demo(
    *,
    model: str,
    volume: Scan | None = None,
    viewer: Viewer | None = None,
    block: bool = True,
    ready: Callable[[ReviewDock], None] | None = None,
) -> ReviewDock:
    """Open napari with a scan that is scored immediately, at its most unusual slice.

    Parameters
    ----------
    model : str
        Name of the model.
    volume : Scan, optional
        The scan; the sample that comes with the plugin by default.
    viewer : napari.Viewer, optional
        A viewer to use; a new one by default.
    block : bool
        Return when the window is closed. Otherwise the caller runs the event loop.
    ready : callable, optional
        Called with the dock once every slice is scored and the mask is drawn.

    Raises
    ------
    SpatialARError
        If the model, its backbone's weights or the sample is missing: before a window opens.
    """
    volume = sample_volume() if volume is None else volume
    loaded = model_access.load_model(model)
    hint = model_access.weights_hint(loaded.header.backbone.name)
    if hint:
        from napari_spatial_ar.errors import WeightsError

        name = loaded.header.backbone.name
        raise WeightsError(hint.rstrip("."), fix=model_access.weights_advice(name))
    viewer = viewer if viewer is not None else napari.Viewer(title="napari-spatial-ar")
    layer = add_scan(viewer, volume, opening_window(volume))
    show_acquired_plane(viewer, volume.geometry)
    dock = open_review(viewer)
    dock.scan.list.choose(layer)

    def finished(session: Session) -> None:
        dock.scorer.finished.disconnect(finished)
        dock.show_highest()
        announce()

    def announce() -> None:
        if not dock.masks.settled:
            QTimer.singleShot(_LOOK_MS, announce)
        elif ready is not None:
            ready(dock)

    dock.scorer.finished.connect(finished)
    if dock.models.choose(model):
        dock.score("volume")
    if block:
        napari.run()
    return dock
