"""How results are drawn: mode, colours, opacity, and side by side."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QButtonGroup, QPushButton, QSlider, QVBoxLayout, QWidget

from napari_spatial_ar.gui.review.display import MODES, Looking, Mode
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.review.side_by_side import SideBySide
from napari_spatial_ar.gui.shortcuts import MODE_KEY, SIDE_KEY, ShortcutsDialog, bind
from napari_spatial_ar.gui.stage import Stage
from napari_spatial_ar.gui.widgets.fold import folding
from napari_spatial_ar.gui.widgets.forms import button, combo, row, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.review.colormap import HEAT_COLOURS

__all__ = ["LookingPanel"]

_MODES: dict[Mode, tuple[str, str]] = {
    "both": ("Both", tooltip("results.both")),
    "outline": ("Outline", tooltip("results.outline")),
    "fill": ("Fill", tooltip("results.fill")),
    "heatmap": ("Heatmap", tooltip("results.heatmap")),
    "off": ("Off", tooltip("results.off")),
}
_STEPS = 20  # of the opacity


class LookingPanel(QWidget):
    """Buttons, colours and opacity over a `Looking`; and `SideBySide`.

    Parameters
    ----------
    viewer : napari.Viewer
        Where the layers are.
    stage : Stage
        What shows and hides them.
    scope : QWidget
        The dock: keys work anywhere in it but in text fields, and on the viewer's canvas.
    """

    def __init__(self, viewer: Any, stage: Stage, scope: QWidget):
        super().__init__()
        self.looking = Looking(viewer, stage, self)
        self.views = SideBySide(viewer, self)
        self._scan: Any = None
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
            row(self.colours, self.opacity),
            row(self.side_button, self.keys_button),
        ]
        self.fold = folding("Results over the scan", parts, key="looking")
        layout.addWidget(self.fold)
        self.colours.currentIndexChanged.connect(self._on_colours)
        self.opacity.valueChanged.connect(self._on_opacity)
        self.side_button.clicked.connect(self.toggle_views)
        self.keys_button.clicked.connect(self._on_keys)
        self.looking.changed.connect(self._show)
        self.views.changed.connect(self._show)
        bind(viewer, scope, MODE_KEY, self.looking.cycle)
        bind(viewer, scope, SIDE_KEY, self.toggle_views)
        self.set_session(None, None)

    def set_session(self, scan: Any, session: Session | None) -> None:
        """Draw the results of a scan's layer; None for no scan, and for no results."""
        self._scan, self._session = scan, session
        self.views.follow(scan)
        self.looking.set_session(session)

    def toggle_views(self) -> None:
        """Go to two views, or back to one."""
        if self.views.active:
            self.views.stop()
        elif self._scan is not None:
            self.views.start(self._scan, self._session)
        self._show()

    def _show(self, *_: Any) -> None:
        looking = self.looking
        self.buttons[looking.mode].setChecked(True)
        with QSignalBlocker(self.colours), QSignalBlocker(self.opacity):
            select_data(self.colours, looking.colours)
            self.opacity.setValue(round(_STEPS * looking.opacity))
        self.side_button.setChecked(self.views.active)
        self.side_button.setEnabled(self._scan is not None)

    def _on_mode(self, mode: Mode, *_: Any) -> None:
        self.looking.set_mode(mode)

    def _on_colours(self, *_: Any) -> None:
        self.looking.set_colours(self.colours.currentData())

    def _on_opacity(self, value: int) -> None:
        self.looking.set_opacity(value / _STEPS)

    def _on_keys(self) -> None:
        ShortcutsDialog(self).exec()
