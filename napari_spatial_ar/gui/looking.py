"""How a session's results are drawn over the scan: as outline, filled, as heatmap, or not."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Literal, get_args

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.layers import heat_colormap, kind_of
from napari_spatial_ar.gui.session import Session
from napari_spatial_ar.gui.stage import Stage
from napari_spatial_ar.review.colormap import DEFAULT_COLOURS, HEAT_COLOURS

__all__ = ["MODES", "Looking", "Mode"]

Mode = Literal["both", "outline", "fill", "heatmap", "off"]
#: In the order in which the key goes through them.
MODES: tuple[Mode, ...] = get_args(Mode)
_HEAT_IN, _MASK_IN = ("both", "heatmap"), ("both", "outline", "fill")
_OUTLINE_OPACITY, _FILL_OPACITY = 0.9, 0.45
_SAVE_MS = 500
_BAR_MS = 1500


def _show_colorbar(layer: Layer) -> None:
    if hasattr(layer, "colorbar"):  # napari before 0.6 has none
        layer.colorbar.visible = True


class Looking(QObject):
    """Draws heatmap and mask of the chosen scan in one of `MODES`, in the colours that were chosen.

    Colours and opacity are remembered; the mode is not, so that no session begins with results
    that are not drawn.

    Parameters
    ----------
    viewer : napari.Viewer
        Where the layers are.
    stage : Stage
        What shows and hides them.
    parent : QObject
        The owner.
    """

    #: Mode, colours or opacity are others, whoever changed them.
    changed = Signal()
    #: Results are to be drawn whose layer the user has deleted.
    missed = Signal()

    def __init__(self, viewer: Any, stage: Stage, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._stage = stage
        self._session: Session | None = None
        self._mode: Mode = "both"
        colours = settings.recall("heatmap/colours", DEFAULT_COLOURS)
        self.colours = colours if colours in HEAT_COLOURS else DEFAULT_COLOURS
        self.opacity = min(max(settings.recall("heatmap/opacity", 1.0), 0.05), 1.0)
        self._saver = QTimer(self)
        self._saver.setSingleShot(True)
        self._saver.timeout.connect(self._save)
        # napari holds these by weak reference.
        viewer.layers.events.inserted.connect(self._on_inserted)
        stage.drawn_by_hand.connect(self._follow)

    def set_session(self, session: Session | None) -> None:
        """Draw the results of another scan."""
        self._session = session
        self.changed.emit()

    # ------------------------------------------------------------------ mode

    @property
    def mode(self) -> Mode:
        """As the layers stand, which may have been shown or hidden in napari's own list."""
        return self._mode

    def set_mode(self, mode: Mode) -> None:
        """Draw the results in another way."""
        self._mode = mode
        heat, mask = self._layers()
        if self._session is not None and (
            (heat is None and mode in _HEAT_IN) or (mask is None and mode in _MASK_IN)
        ):
            self.missed.emit()
            heat, mask = self._layers()
        self._stage.draw(heatmap=mode in _HEAT_IN, mask=mode in _MASK_IN)
        if mask is not None:
            self._fill(mask)
        self.changed.emit()

    def cycle(self) -> None:
        """Go on to the next of `MODES`."""
        self.set_mode(MODES[(MODES.index(self.mode) + 1) % len(MODES)])

    def _layers(self) -> tuple[Layer | None, Layer | None]:
        session = self._session
        made = (None, None) if session is None else (session.heat, session.mask)
        heat, mask = (layer if layer in self._viewer.layers else None for layer in made)
        return heat, mask

    def _fill(self, mask: Layer) -> None:
        """Fill a mask, or draw its outline."""
        filled = self._mode == "fill"
        if filled != (mask.contour == 0):
            mask.contour = 0 if filled else 1
            mask.opacity = _FILL_OPACITY if filled else _OUTLINE_OPACITY

    def _on_inserted(self, event: Any) -> None:
        layer = event.value
        kind = kind_of(layer)
        if kind not in ("nll", "mask"):
            return
        if kind == "nll":
            layer.colormap = heat_colormap(self.colours)
            layer.opacity = self.opacity
            layer.events.opacity.connect(self._on_opacity)
            # Made in a turn of its own: it takes napari as long as the layer itself.
            QTimer.singleShot(_BAR_MS, partial(_show_colorbar, layer))
        else:
            self._fill(layer)
            layer.events.contour.connect(self._follow)

    def _follow(self, event: Any = None) -> None:
        """Take the mode from the chosen results, as they are drawn in napari's own controls."""
        (heat, mask), (_, layer) = self._stage.drawn, self._layers()
        if mask and layer is not None and layer.contour == 0:
            self._mode = "fill"
        elif mask:
            self._mode = "both" if heat else "outline"
        else:
            self._mode = "heatmap" if heat else "off"
        # The dock may be gone before its Python half is.
        with suppress(RuntimeError):
            self.changed.emit()

    # ------------------------------------------------------------------ colours

    def set_colours(self, colours: str) -> None:
        """Draw heatmaps in other colours, one of `HEAT_COLOURS`."""
        self.colours = colours
        settings.remember("heatmap/colours", colours)
        for layer in self._heatmaps():
            layer.colormap = heat_colormap(colours)
        self.changed.emit()

    def set_opacity(self, opacity: float) -> None:
        """Draw heatmaps more or less opaque, 0..1."""
        self.opacity = opacity
        for layer in self._heatmaps():
            layer.opacity = opacity
        self._saver.start(_SAVE_MS)

    def _heatmaps(self) -> list[Layer]:
        return [layer for layer in self._viewer.layers if kind_of(layer) == "nll"]

    def _on_opacity(self, event: Any) -> None:
        """Follow napari's own slider."""
        heat, _ = self._layers()
        with suppress(RuntimeError):
            if heat is not None and event.source is heat and heat.opacity != self.opacity:
                self.opacity = float(heat.opacity)
                self.changed.emit()

    def _save(self) -> None:
        settings.remember("heatmap/opacity", self.opacity)
