"""How a session's results are drawn over the scan: as outline, filled, as heatmap, or not."""

from __future__ import annotations

from contextlib import suppress
from textwrap import fill
from typing import Any, Literal, get_args
from weakref import ref

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.layers import KEY, heat_colormap, kind_of
from napari_spatial_ar.gui.review.scored_layer import Session
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
_UNIT, _UNIT_WIDTH = "heatmap_unit", 10


def unit_overlay(viewer: Any) -> Any:
    """Text beside the colour bars of a viewer; None before napari 0.9, whose views have one text.

    It is made once for a viewer.
    """
    canvas = getattr(viewer, "canvas", None)
    if canvas is None or not hasattr(canvas, "overlays"):
        return None
    if _UNIT not in canvas.overlays:
        from napari.components.overlays import TextOverlay

        canvas.overlays[_UNIT] = TextOverlay(position="top_right", gridded=True)
    return canvas.overlays[_UNIT]


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
        self._without_bar: list[ref[Layer]] = []
        # Its own, so that it ends with the dock.
        self._bar_timer = QTimer(self)
        self._bar_timer.setSingleShot(True)
        self._bar_timer.timeout.connect(self._show_colorbars)
        self._viewer = viewer
        self._stage = stage
        self._unit = unit_overlay(viewer)
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
        viewer.layers.events.removed.connect(self._name_unit)

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
            layer.events.visible.connect(self._name_unit)
            # Made in a turn of its own: it takes napari as long as the layer itself.
            self._without_bar.append(ref(layer))
            self._bar_timer.start(_BAR_MS)
        else:
            self._fill(layer)
            layer.events.contour.connect(self._follow)

    def _show_colorbars(self) -> None:
        waiting, self._without_bar = self._without_bar, []
        for held in waiting:
            layer = held()
            if layer is not None and hasattr(layer, "colorbar"):  # napari before 0.6 has none
                layer.colorbar.visible = True
                layer.colorbar.events.visible.connect(self._name_unit)
        self._name_unit()

    def _name_unit(self, event: Any = None) -> None:
        """Write the unit of the heatmap that is drawn beside its colour bar."""
        if self._unit is None:
            return
        drawn = [heat for heat in self._heatmaps() if heat.visible and heat.colorbar.visible]
        units = dict.fromkeys(heat.metadata[KEY].get("unit", "") for heat in drawn)
        # Narrow, since napari moves the bar aside for it.
        self._unit.text = "\n\n".join(fill(unit, _UNIT_WIDTH) for unit in filter(None, units))
        self._unit.visible = bool(self._unit.text)

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
