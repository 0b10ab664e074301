"""How results are drawn over the scan: mode, colours, opacity, and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from textwrap import fill
from typing import TYPE_CHECKING, Literal, get_args
from weakref import ref

import numpy as np
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QObject, QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import QButtonGroup, QListView, QPushButton, QSlider, QVBoxLayout, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.layer_visibility import LayerVisibility
from napari_spatial_ar.gui.layers import KEY, heatmap_colormap, kind_of, linked_copy, place_of
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.shortcuts import MODE_KEY, SIDE_KEY, ShortcutsDialog, bind
from napari_spatial_ar.gui.viewer import camera_of, look_at
from napari_spatial_ar.gui.widgets.forms import button, combo, folding, row, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.review.drawing import DEFAULT_COLOURS, HEAT_COLOURS

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.components.grid import GridCanvas
    from napari.components.overlays import TextOverlay
    from napari.utils.events import Event


__all__ = ["MODES", "Display", "DisplayPanel", "Mode", "SideBySide"]

Mode = Literal["both", "outline", "fill", "heatmap", "off"]


#: In the order in which the key cycles through them.
MODES: tuple[Mode, ...] = get_args(Mode)


_HEAT_IN, _MASK_IN = ("both", "heatmap"), ("both", "outline", "fill")


_OUTLINE_OPACITY, _FILL_OPACITY = 0.9, 0.45


_SAVE_MS = 500


_BAR_MS = 1500


_UNIT, _UNIT_WIDTH = "heatmap_unit", 10


# Lines of the unit's text that are as high as a letter and the colour bar below it.
_BAR_LINES = 9


def unit_overlay(viewer: ViewerModel) -> TextOverlay | None:
    """Text beside the colour bars of a viewer; None before napari 0.9, whose views share one text.

    It is created once per viewer.
    """
    canvas = getattr(viewer, "canvas", None)
    if canvas is None or not hasattr(canvas, "overlays"):
        return None
    if _UNIT not in canvas.overlays:
        from napari.components.overlays import TextOverlay

        # Not in each view of a grid: of two side by side, the right one has the results.
        canvas.overlays[_UNIT] = TextOverlay(position="top_right", box=False)
    overlay: TextOverlay = canvas.overlays[_UNIT]
    return overlay


class Display(QObject):
    """Draws heatmap and mask of the chosen scan in one of `MODES`, in the chosen colours.

    Colours and opacity are stored; the mode is not, so that no session begins with results that
    are not drawn.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    visibility : LayerVisibility
        Shows and hides the layers.
    parent : QObject
        The owner.
    """

    #: Mode, colours or opacity changed, whoever changed them.
    changed = Signal()
    #: Results are to be drawn whose layer the user has deleted.
    missed = Signal()

    def __init__(self, viewer: ViewerModel, visibility: LayerVisibility, parent: QObject):
        super().__init__(parent)
        self._without_bar: list[ref[Image]] = []
        # A timer of its own, so that it ends with the dock.
        self._bar_timer = QTimer(self)
        self._bar_timer.setSingleShot(True)
        self._bar_timer.timeout.connect(self._show_colorbars)
        self._viewer = viewer
        self._visibility = visibility
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
        visibility.drawn_by_hand.connect(self._follow)
        viewer.layers.events.removed.connect(self._name_unit)
        # Last: napari has to make the views of a grid first.
        grid_of(viewer).events.enabled.connect(self._name_unit, position="last")

    def set_session(self, session: Session | None) -> None:
        """Draw the results of another scan."""
        self._session = session
        self.changed.emit()

    # ------------------------------------------------------------------ mode

    @property
    def mode(self) -> Mode:
        """The mode of the layers, which may have been shown or hidden in napari's own list."""
        return self._mode

    def set_mode(self, mode: Mode) -> None:
        """Draw the results in another mode."""
        self._mode = mode
        heatmap, mask = self._layers()
        if self._session is not None and (
            (heatmap is None and mode in _HEAT_IN) or (mask is None and mode in _MASK_IN)
        ):
            self.missed.emit()
            heatmap, mask = self._layers()
        self._visibility.draw(heatmap=mode in _HEAT_IN, mask=mode in _MASK_IN)
        if mask is not None:
            self._fill(mask)
        self.changed.emit()

    def cycle(self) -> None:
        """Switch to the next of `MODES`."""
        self.set_mode(MODES[(MODES.index(self.mode) + 1) % len(MODES)])

    def _layers(self) -> tuple[Image | None, Labels | None]:
        session, layers = self._session, self._viewer.layers
        if session is None:
            return None, None
        heatmap, mask = session.heatmap, session.mask
        return heatmap if heatmap in layers else None, mask if mask in layers else None

    def _fill(self, mask: Labels) -> None:
        """Fill a mask, or draw its outline."""
        filled = self._mode == "fill"
        if filled != (mask.contour == 0):
            mask.contour = 0 if filled else 1
            mask.opacity = _FILL_OPACITY if filled else _OUTLINE_OPACITY

    def _on_inserted(self, event: Event) -> None:
        layer = event.value
        kind = kind_of(layer)
        if kind not in ("nll", "mask"):
            return
        if kind == "nll":
            layer.colormap = heatmap_colormap(self.colours)
            layer.opacity = self.opacity
            layer.events.opacity.connect(self._on_opacity)
            layer.events.visible.connect(self._name_unit)
            # Created separately: it takes napari as long as the layer itself.
            self._without_bar.append(ref(layer))
            self._bar_timer.start(_BAR_MS)
        else:
            self._fill(layer)
            layer.events.contour.connect(self._follow)

    def _show_colorbars(self) -> None:
        waiting, self._without_bar = self._without_bar, []
        for held in waiting:
            layer = held()
            if layer is not None and hasattr(layer, "colorbar"):  # not before napari 0.6
                layer.colorbar.visible = True
                layer.colorbar.events.visible.connect(self._name_unit)
        self._name_unit()

    def _name_unit(self, event: Event | None = None) -> None:
        """Write the unit of the drawn heatmap beside its colour bar."""
        if self._unit is None:
            return
        drawn = [
            heatmap for heatmap in self._heatmaps() if heatmap.visible and heatmap.colorbar.visible
        ]
        units = dict.fromkeys(heatmap.metadata[KEY].get("unit", "") for heatmap in drawn)
        # Narrow, since napari moves the bar aside for it.
        lines = "\n\n".join(fill(unit, _UNIT_WIDTH) for unit in filter(None, units))
        # napari keeps it clear of colour bars, but not of those in a view of a grid.
        self._unit.text = "\n" * _BAR_LINES + lines if grid_of(self._viewer).enabled else lines
        self._unit.visible = bool(self._unit.text)

    def _follow(self, event: Event | None = None) -> None:
        """Read the mode from the chosen results, as drawn in napari's own controls."""
        (heatmap, mask), (_, layer) = self._visibility.drawn, self._layers()
        if mask and layer is not None and layer.contour == 0:
            self._mode = "fill"
        elif mask:
            self._mode = "both" if heatmap else "outline"
        else:
            self._mode = "heatmap" if heatmap else "off"
        # Qt may delete the dock before its Python half.
        with suppress(RuntimeError):
            self.changed.emit()

    # ------------------------------------------------------------------ colours

    def set_colours(self, colours: str) -> None:
        """Draw heatmaps in other colours, one of `HEAT_COLOURS`."""
        self.colours = colours
        settings.remember("heatmap/colours", colours)
        for layer in self._heatmaps():
            layer.colormap = heatmap_colormap(colours)
        self.changed.emit()

    def set_opacity(self, opacity: float) -> None:
        """Draw heatmaps more or less opaque, 0..1."""
        self.opacity = opacity
        for layer in self._heatmaps():
            layer.opacity = opacity
        self._saver.start(_SAVE_MS)

    def _heatmaps(self) -> list[Image]:
        layers = self._viewer.layers
        return [x for x in layers if isinstance(x, Image) and kind_of(x) == "nll"]

    def _on_opacity(self, event: Event) -> None:
        """Follow napari's own slider."""
        heatmap, _ = self._layers()
        with suppress(RuntimeError):
            if heatmap is not None and event.source is heatmap and heatmap.opacity != self.opacity:
                self.opacity = float(heatmap.opacity)
                self.changed.emit()

    def _save(self) -> None:
        settings.remember("heatmap/opacity", self.opacity)


# Layers of a view: scan, heatmap and mask.
_STRIDE = 3


_SPACING = 4  # pixels between the views


_LINKED = ("contrast_limits", "gamma", "colormap", "interpolation2d")


@dataclass(frozen=True)
class _Grid:
    """How napari's grid stood."""

    enabled: bool
    stride: int
    shape: tuple[int, int]
    spacing: float


@dataclass(frozen=True)
class _Before:
    """The state to be restored."""

    order: tuple[Layer, ...]
    hidden: tuple[Layer, ...]
    grid: _Grid
    zoom: float
    center: tuple[float, ...]
    selection: frozenset[Layer]


def grid_of(viewer: ViewerModel) -> GridCanvas:
    """Return the viewer's grid."""
    # napari 0.9 moved it into the canvas.
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid


def _spacer(scan: Image) -> Layer:
    """Layer that occupies a view and draws nothing."""
    # At the position of the scan: layers in other units would remove the mm from the scale bar.
    return Image(
        np.zeros((2,) * scan.ndim, np.float32),
        name="(place holder)",
        rgb=False,
        visible=False,
        metadata={KEY: {"kind": "spacer"}},
        **place_of(scan),
    )


def _leave_out(window: QWidget, layers: Sequence[Layer]) -> None:
    """Leave layers out of the list of layers in napari's window."""
    for view in window.findChildren(QListView):
        rows = [view.model().index(row, 0) for row in range(view.model().rowCount())]
        for index in rows:
            if any(index.data(Qt.ItemDataRole.UserRole) is layer for layer in layers):
                view.setRowHidden(index.row(), True)


class SideBySide(QObject):
    """Two views with one camera and one slice: the bare scan left, scan and results right.

    napari's grid puts each run of ``stride`` layers of the list into a view, including hidden ones.
    So the scan is made the last of its run, with placeholder layers if there are not enough others;
    a second drawing of it, heatmap and mask are the next run. Everything is restored at the end.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    parent : QWidget
        The owner, in napari's window.
    """

    #: Whether the views are side by side.
    changed = Signal(bool)

    def __init__(self, viewer: ViewerModel, parent: QWidget):
        super().__init__(parent)
        self._viewer = viewer
        self._before: _Before | None = None
        self._scan: Image | None = None
        self._made: tuple[Layer, ...] = ()
        self._stopping = False
        # napari holds this by weak reference.
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def active(self) -> bool:
        """Whether the views are side by side."""
        return self._before is not None

    @property
    def scan(self) -> Image | None:
        """The scan shown side by side."""
        return self._scan

    def start(self, scan: Image, session: Session | None) -> None:
        """Show a scan beside itself with the results of its session."""
        viewer, layers = self._viewer, self._viewer.layers
        if self.active or scan not in layers:
            return
        grid, camera = grid_of(viewer), camera_of(viewer)
        made = () if session is None else (session.heatmap, session.mask)
        results = [layer for layer in made if layer is not None and layer in layers]
        others = [layer for layer in layers if layer is not scan and layer not in results]
        self._before = _Before(
            tuple(layers),
            tuple(layer for layer in others if layer.visible),
            _Grid(grid.enabled, grid.stride, grid.shape, grid.spacing),
            float(camera.zoom),
            tuple(camera.center),
            frozenset(layers.selection),
        )
        self._scan = scan
        for layer in others:
            layer.visible = False
        scan.visible = True
        twin = linked_copy(scan)
        # Before 0.9, a view of hidden layers alone took its place in the grid.
        run = _STRIDE if hasattr(viewer, "canvas") else 2 * _STRIDE
        spacers = [_spacer(scan) for _ in range((_STRIDE - len(others) - 1) % run)]
        self._made = (twin, *spacers)
        for layer in self._made:
            viewer.add_layer(layer)
        self._arrange([*others, *spacers, scan, twin, *results])
        _leave_out(self.parent().window(), spacers)
        layers.link_layers([scan, twin], _LINKED)
        layers.selection = set(self._before.selection)
        before = self._fit()
        grid.stride, grid.shape, grid.spacing = _STRIDE, (1, 2), _SPACING
        grid.enabled = True
        # The same centre, with the zoom scaled.
        camera.zoom = self._before.zoom * self._fit() / before
        look_at(viewer, self._before.center)
        self.changed.emit(True)

    def stop(self) -> None:
        """Restore layers, grid and view, but keep the current slice."""
        before, self._before = self._before, None
        if before is None:
            return
        layers, grid, camera = self._viewer.layers, grid_of(self._viewer), camera_of(self._viewer)
        grid.enabled, grid.stride = before.grid.enabled, before.grid.stride
        grid.shape, grid.spacing = before.grid.shape, before.grid.spacing
        twin = self._made[0]
        if twin in layers and self._scan is not None and self._scan in layers:
            layers.unlink_layers([self._scan, twin], _LINKED)
        made, self._made, self._scan = self._made, (), None
        for layer in made:
            if layer in layers:
                layers.remove(layer)
        kept = [layer for layer in before.order if layer in layers]
        self._arrange([*kept, *(layer for layer in layers if layer not in kept)])
        for layer in before.hidden:
            layer.visible = True
        layers.selection = {layer for layer in before.selection if layer in layers}
        camera.zoom = before.zoom
        look_at(self._viewer, before.center)
        with suppress(RuntimeError):  # Qt may delete the dock before its Python half
            self.changed.emit(False)

    def follow(self, scan: Layer | None) -> None:
        """Leave the mode when another scan is chosen."""
        if self.active and scan is not self._scan:
            self.stop()

    def _fit(self) -> float:
        """Fit the view to the window, and return its zoom."""
        self._viewer.reset_view()
        return float(camera_of(self._viewer).zoom)

    def _arrange(self, wanted: Sequence[Layer]) -> None:
        layers = self._viewer.layers
        for at, layer in enumerate(wanted):
            now = layers.index(layer)
            if now != at:
                layers.move(now, at)

    def _on_removed(self, event: Event) -> None:
        if self.active and (event.value is self._scan or kind_of(event.value) == "twin"):
            self.stop()


_MODES: dict[Mode, tuple[str, str]] = {
    "both": ("Both", tooltip("results.both")),
    "outline": ("Outline", tooltip("results.outline")),
    "fill": ("Fill", tooltip("results.fill")),
    "heatmap": ("Heatmap", tooltip("results.heatmap")),
    "off": ("Off", tooltip("results.off")),
}


_STEPS = 20  # of the opacity slider


class DisplayPanel(QWidget):
    """Buttons, colours and opacity over a `Display`; and `SideBySide`.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    visibility : LayerVisibility
        Shows and hides the layers.
    scope : QWidget
        The dock: keys work anywhere in it except in text fields, and on the viewer's canvas.
    more : sequence of QWidget
        Other controls of what is drawn.
    """

    #: Results are to be drawn whose layer the user has deleted.
    missed = Signal()

    def __init__(
        self,
        viewer: ViewerModel,
        visibility: LayerVisibility,
        scope: QWidget,
        more: Sequence[QWidget] = (),
    ):
        super().__init__()
        self.display = Display(viewer, visibility, self)
        self.views = SideBySide(viewer, self)
        self._scan: Image | None = None
        self._session: Session | None = None
        self.buttons: dict[Mode, QPushButton] = {}
        group = QButtonGroup(self)
        for mode in MODES:
            made = button(*_MODES[mode])
            made.setCheckable(True)
            made.setMinimumWidth(30)
            made.clicked.connect(partial(self._on_mode, mode))
            group.addButton(made)
            self.buttons[mode] = made
        self.part_box = combo(tooltip("results.part"), "What the heatmap shows")
        self.colours = combo(
            tooltip("results.colours"),
            "Colours of the heatmap",
        )
        for name, choice in HEAT_COLOURS.items():
            self.colours.addItem(choice.title, name)
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(1, _STEPS)
        self.opacity.setToolTip(tooltip("results.opacity"))
        self.opacity.setAccessibleName("Opacity of the heatmap")
        self.side_button = button(
            "Side by side",
            tooltip("results.side_by_side"),
        )
        self.side_button.setCheckable(True)
        self.keys_button = button("Keys...", tooltip("results.keys"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            row(*self.buttons.values()),
            self.part_box,
            row(self.colours, self.opacity),
            row(self.side_button, self.keys_button),
            *more,
        ]
        self.fold = folding("Results over the scan", parts, key="looking", expanded=False)
        layout.addWidget(self.fold)
        self.colours.currentIndexChanged.connect(self._on_colours)
        self.opacity.valueChanged.connect(self._on_opacity)
        self.side_button.clicked.connect(self.toggle_views)
        self.keys_button.clicked.connect(self._on_keys)
        self.display.changed.connect(self._show)
        self.display.missed.connect(self.missed)
        self.views.changed.connect(self._show)
        bind(viewer, [scope], MODE_KEY, self.display.cycle)
        bind(viewer, [scope], SIDE_KEY, self.toggle_views)
        self.set_session(None, None)

    def set_session(self, scan: Image | None, session: Session | None) -> None:
        """Draw the results of a scan's layer; None for no scan, and for no results."""
        self._scan, self._session = scan, session
        self.views.follow(scan)
        self.display.set_session(session)

    def toggle_views(self) -> None:
        """Switch to two views, or back to one."""
        if self.views.active:
            self.views.stop()
        elif self._scan is not None:
            self.views.start(self._scan, self._session)
        self._show()

    def _show(self, *_: object) -> None:
        display = self.display
        self.buttons[display.mode].setChecked(True)
        with QSignalBlocker(self.colours), QSignalBlocker(self.opacity):
            select_data(self.colours, display.colours)
            self.opacity.setValue(round(_STEPS * display.opacity))
        self.side_button.setChecked(self.views.active)
        self.side_button.setEnabled(self._scan is not None)

    def _on_mode(self, mode: Mode, *_: object) -> None:
        self.display.set_mode(mode)

    def _on_colours(self, *_: object) -> None:
        self.display.set_colours(self.colours.currentData())

    def _on_opacity(self, value: int) -> None:
        self.display.set_opacity(value / _STEPS)

    def _on_keys(self) -> None:
        ShortcutsDialog(self).exec()
