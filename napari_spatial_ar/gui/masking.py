"""The live mask: at once in the slice in view, soon after in the whole volume."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, QTimer, Signal

from napari_spatial_ar.gui.session import Session
from napari_spatial_ar.gui.viewing import view_index
from napari_spatial_ar.gui.workers import TaskHost
from napari_spatial_ar.review.findings import find_findings
from napari_spatial_ar.review.masks import MaskSettings, make_mask

__all__ = ["MaskController"]

# The volume follows when the slider has rested this long, and now and then while scoring.
_REST_MS = 150
_SCORING_MS = 1500


class MaskController(QObject):
    """Keeps a session's mask layer in step with threshold and smallest size."""

    #: list of Finding, for the session that is shown.
    findings_changed = Signal(object)
    #: An exception met in the worker.
    failed = Signal(object)

    def __init__(self, viewer: Any, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._tasks = tasks
        self._session: Session | None = None
        self._threshold = 0.0
        self._min_size = 0.0
        self._busy = False
        self._again = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._compute)

    @property
    def settled(self) -> bool:
        """Whether the mask of the whole volume is up to date."""
        return not (self._busy or self._again or self._timer.isActive())

    def settings_for(self, session: Session) -> MaskSettings:
        """Smallest size in the unit the scan allows."""
        if session.geometry.measurable:
            return MaskSettings(min_size_mm3=self._min_size)
        return MaskSettings(min_voxels=round(self._min_size))

    def set_session(self, session: Session | None) -> None:
        """Work on another scan; None to rest."""
        self._session = session
        self._timer.stop()

    def set_threshold(self, threshold: float) -> None:
        """Move the threshold (nats per dimension)."""
        self._threshold = threshold
        session = self._ready()
        if session is not None:
            self._draw_slice_in_view(session)
            self._timer.start(_REST_MS)

    def set_min_size(self, size: float) -> None:
        """Change the smallest region kept (mm3, or voxels where spacing is unknown)."""
        self._min_size = size
        if self._ready() is not None:
            self._timer.start(_REST_MS)

    def painted(self, session: Session) -> npt.NDArray[np.uint8] | None:
        """Mask as it stands, strokes of the brush included; None while it is out of date."""
        return session.mask_array() if self.settled else None

    def computed(self, session: Session) -> npt.NDArray[np.uint8]:
        """Mask that threshold and smallest size give."""
        return make_mask(
            session.score.nll,
            self._threshold,
            self.settings_for(session),
            geometry=session.geometry,
            scored=session.score.scored,
        )

    def slices_scored(self, indices: list[int]) -> None:
        """Take newly scored slices into the mask."""
        session = self._ready()
        if session is None:
            return
        layer = session.ensure_mask()
        slices = session.geometry.to_slices(session.score.nll)
        masks = session.geometry.to_slices(session.geometry.from_display(layer.data))
        for index in indices:
            masks[index] = session.score.scored[index] & (slices[index] > self._threshold)
        layer.refresh(thumbnail=False, highlight=False, extent=False)
        if not self._timer.isActive():
            self._timer.start(_SCORING_MS)

    def finish(self) -> None:
        """Bring the whole volume up to date now."""
        if self._ready() is not None:
            self._timer.start(0)

    def _ready(self) -> Session | None:
        session = self._session
        return session if session is not None and session.alive and session.any_scored else None

    def _draw_slice_in_view(self, session: Session) -> None:
        layer = session.ensure_mask()
        view = view_index(self._viewer, layer)
        if view is None:
            return
        axis, index = view
        geometry = session.geometry
        above = geometry.to_display(session.score.nll).take(index, axis) > self._threshold
        slice_axis = geometry.display_slice_axis
        backwards = geometry.slice_position(0) != 0
        scored = session.score.scored[::-1] if backwards else session.score.scored
        if axis == slice_axis:
            above &= scored[index]
        else:
            across = [1, 1, 1]
            across[slice_axis] = -1
            above &= scored.reshape(across).take(0, axis)
        np.moveaxis(layer.data, axis, 0)[index] = above
        layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _compute(self) -> None:
        session = self._ready()
        if session is None:
            return
        if self._busy:
            self._again = True
            return
        self._busy, self._again = True, False

        def work(stop: threading.Event) -> Generator[None, None, Any]:
            yield
            mask = self.computed(session)
            return mask, find_findings(mask, session.score.nll, session.geometry)

        task = self._tasks.start(work)
        task.returned.connect(lambda result: self._show(session, result))
        task.failed.connect(self.failed)
        task.finished.connect(self._on_finished)

    def _show(self, session: Session, result: Any) -> None:
        if self._again or session is not self._session or self._ready() is None:
            return
        mask, findings = result
        layer = session.ensure_mask()
        layer.data[...] = session.geometry.to_display(mask)
        layer.refresh()
        self.findings_changed.emit(findings)

    def _on_finished(self) -> None:
        self._busy = False
        if self._again:
            self._again = False
            self._compute()
