"""What is drawn on a session's mask layer, and what a person changed of it since."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.mask_labels import (
    IN_MASK,
    NUMBERED,
    label_colormap,
    label_features,
    label_values,
)
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.viewer import shows_slices

__all__ = ["MaskDrawing"]


class MaskDrawing(QObject):
    """Draws masks, and tells strokes of the brush from what it drew itself."""

    #: A person painted, erased, or undid that.
    touched = Signal()

    def __init__(self, viewer: Any, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Any = None
        self._point: Any = None
        self._drawing = self._brush = self._pending = False
        self._coloured: tuple[Any, ...] = ()

    def layer(self, session: Session) -> Any:
        """Return the session's mask layer, and attend to what is painted on it."""
        layer = session.ensure_mask()
        if layer is not self._layer:
            if self._layer is not None:
                self._layer.events.paint.disconnect(self._on_paint)
                self._layer.events.set_data.disconnect(self._on_view)
            # napari holds these by weak reference.
            layer.events.paint.connect(self._on_paint)
            layer.events.set_data.connect(self._on_view)
            self._layer, self._point = layer, self._viewer.dims.point
        return layer

    def _on_paint(self, event: Any = None) -> None:
        self._brush = True
        self._tell()

    def _on_view(self, event: Any = None) -> None:
        """Take note of an undo, which has no event of its own: the same slice drawn again."""
        point, self._point = self._point, self._viewer.dims.point
        if not self._drawing and point == self._point:
            self._tell()

    def _tell(self) -> None:
        self._pending = True
        # The dock may be gone before its Python half is.
        with suppress(RuntimeError):
            self.touched.emit()

    def take_strokes(self, session: Session, threshold: float, *, look: bool = False) -> bool:
        """Add to the session's strokes what a person changed; False where nothing was.

        Parameters
        ----------
        session : Session
            Whose layer is looked at.
        threshold : float
            The one that the layer was drawn with, in the model's unit.
        look : bool
            Compare the layer even where no event told of a change.
        """
        if not (self._pending or look) or session.mask not in self._viewer.layers:
            return False
        undone, self._brush, self._pending = not self._brush, False, False
        data = np.asarray(self.layer(session).data)
        if np.array_equal(data, session.drawn):
            return False
        now, before = (session.geometry.from_display(array) for array in (data, session.drawn))
        changed = np.flatnonzero((now != 0) != (before != 0))
        where = np.unravel_index(changed, now.shape)
        session.strokes = session.strokes.with_stroke(
            changed, now[where] != 0, session.score.nll[where] > threshold, undone=undone
        )
        session.drawn[...] = data
        return True

    def draw(self, session: Session, mask: npt.NDArray[np.uint8]) -> None:
        """Draw a mask (Z, Y, X) of the whole volume, strokes included."""
        self.layer(session).data[...] = session.geometry.to_display(mask) * np.uint8(IN_MASK)
        self.overlay(session, thumbnail=True)

    def overlay(
        self, session: Session, indices: Collection[int] | None = None, *, thumbnail: bool = False
    ) -> None:
        """Lay strokes over a mask just drawn, number its findings and give each its colour.

        ``indices`` are the acquired slices that were drawn; None for all of them.
        """
        layer = self.layer(session)
        for index in (None,) if indices is None else indices:
            self._lay(session, layer, index)
        self._colour(session, layer)
        if indices is None or shows_slices(self._viewer, layer, session.geometry, indices):
            self.refresh(layer, thumbnail=thumbnail)

    def _lay(self, session: Session, layer: Any, index: int | None) -> None:
        geometry, listed = session.geometry, session.listed
        data, drawn = (geometry.from_display(array) for array in (layer.data, session.drawn))
        axis = geometry.slice_axis
        part = (slice(None),) * axis + (slice(None) if index is None else index,)

        def voxels(flat: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
            found = np.unravel_index(flat, geometry.shape)
            return found if index is None else tuple(at[found[axis] == index] for at in found)

        painted = voxels(session.strokes.painted)
        data[painted] = np.where(data[painted] == 0, IN_MASK, data[painted])
        data[voxels(session.strokes.erased)] = 0
        if index is None:
            # Of a slice alone, which follows each step of the threshold, voxels keep their number.
            values = label_values(listed.items, session.chosen)[listed.labels]
            found = voxels(listed.voxels)
            data[found] = np.where(data[found] != 0, values, 0)
        drawn[part] = data[part]

    def _colour(self, session: Session, layer: Any) -> None:
        """Give findings their colours and names, where these are not those that they have."""
        items, chosen = session.listed.items, session.chosen
        said = tuple((i.finding.rank, i.finding.label, i.status) for i in items[:NUMBERED])
        coloured = (layer, said, None if chosen is None else chosen.label)
        if coloured == self._coloured:
            return
        self._coloured = coloured
        rejected = [item for item in items if item.status == "reject"]
        values = label_values(items, chosen)[[item.finding.label for item in rejected]]
        layer.metadata[KEY]["rejected"] = sorted(set(values.tolist()))
        self._drawing = True
        try:
            layer.colormap = label_colormap(items, chosen)
            layer.features = label_features(items)
        finally:
            self._drawing = False

    def refresh(self, layer: Any, *, thumbnail: bool = False) -> None:
        """Show what was drawn."""
        self._drawing = True
        try:
            layer.refresh(thumbnail=thumbnail, highlight=False, extent=False)
        finally:
            self._drawing = False
